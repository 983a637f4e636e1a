"""The engine `mlbench` of papermill: `papermill in.ipynb out.ipynb --engine mlbench`.

It runs a notebook as papermill's own engine does, records the run, and, where cells are steps, lets them overlap: see
`mlbench.backends.notebook_client`. papermill loads this module while it is itself being imported, so nothing of
papermill is imported here before a notebook is run.

A notebook without steps starts no service: the run is then written by this process. With steps the service writes
it, so that whoever watches sees it at once.
"""

from __future__ import annotations

import keyword
import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlbench.backends.runner_papermill import (
    Kernel,
    RunRequest,
    find_kernel,
    installed_packages,
    python_version,
)
from mlbench.core.errors import MlbenchError, NotebookError, ParameterError, ServiceError
from mlbench.core.ids import NotebookId, RunId, new_id
from mlbench.core.records import Binding, Failure, Json, Metric, Reason, Run, State, with_artifacts
from mlbench.notebook import diagnostics, document
from mlbench.notebook import step as step_line
from mlbench.notebook.parameters import recorded
from mlbench.runs.context import bindings_of

if TYPE_CHECKING:
    from mlbench.backends.service_socket import ServiceClient
    from mlbench.core.messages import Event
    from mlbench.project import Project

__all__ = ["MlbenchEngine"]

logger = logging.getLogger(__name__)

SCRAP: Final = "application/scrapbook.scrap.json+json"


class MlbenchEngine:
    """What papermill asks of an engine; it is registered under the entry point `papermill.engine`."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: Any = True,  # noqa: FBT002  papermill's signature
        log_output: bool = False,  # noqa: FBT001, FBT002  papermill's signature
        autosave_cell_every: int = 30,
        **options: Any,
    ) -> Any:
        """Run a notebook and return it with its outputs; see papermill's own engine for the parameters.

        `resume`, or else the variable `MLBENCH_RESUME`, names a run whose steps are reused where they succeeded and
        are unchanged.
        """
        from papermill.engines import NotebookExecutionManager

        request = options.pop("mlbench_request", None) or RunRequest()
        given = request.notebook or _local_path(options.pop("input_path", None))
        options.pop("input_path", None)
        resume = options.pop("resume", None) or request.resume or os.environ.get("MLBENCH_RESUME") or None
        request = replace(request, notebook=given, resume=resume)
        if request.notebook is not None and "papermill" in nb.metadata:
            nb.metadata.papermill["input_path"] = nb.metadata.papermill["input_path"] and request.notebook
        has_steps = document.has_steps(nb)
        _check_parameters(nb)
        if given_values := (nb.metadata.get("papermill") or {}).get("parameters"):
            nb.metadata.papermill["parameters"] = recorded(given_values)  # NaN, as a number, is no JSON
        if "km" not in options and request.interpreter is None:
            _check_kernel(kernel_name, request)
        if has_steps:
            _check_steps(nb, request)
        manager = NotebookExecutionManager(
            nb,
            output_path=output_path,
            progress_bar=progress_bar,
            log_output=log_output,
            autosave_cell_every=autosave_cell_every,
        )
        with _Recording(nb, request, kernel_name, has_steps=has_steps) as recording:
            manager.notebook_start()
            try:
                _run(manager, kernel_name, recording, has_steps=has_steps, log_output=log_output, **options)
            finally:
                manager.cleanup_pbar()
                manager.notebook_complete()
            recording.nb = manager.nb
        return manager.nb

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> str:
        """Return the name of a notebook's kernel, as papermill finds it."""
        from papermill.utils import nb_kernel_name

        found: str = nb_kernel_name(nb, name)
        return found

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> str:
        """Return a notebook's language, as papermill finds it."""
        from papermill.utils import nb_language

        found: str = nb_language(nb, language)
        return found


def _run(
    manager: Any,
    kernel_name: str,
    recording: _Recording,
    *,
    has_steps: bool,
    log_output: bool,
    stdout_file: Any = None,
    stderr_file: Any = None,
    start_timeout: int = 60,
    execution_timeout: int | None = None,
    **options: Any,
) -> None:
    """Run the cells, with the options of papermill's own engine."""
    from papermill.log import logger as papermill_log
    from papermill.utils import merge_kwargs, remove_args

    from mlbench.backends.notebook_client import NotebookRunner
    from mlbench.backends.owners import scratch_folder

    request = recording.request
    traits = merge_kwargs(
        remove_args(["timeout", "startup_timeout"], **options),
        timeout=execution_timeout or options.get("timeout"),
        startup_timeout=start_timeout,
        kernel_name=kernel_name,
        log=papermill_log,
        log_output=log_output,
        stdout_file=stdout_file,
        stderr_file=stderr_file,
    )
    with scratch_folder("k") as sockets:
        if request.private:
            traits["km"] = _private_kernel(kernel_name, request.interpreter, sockets)
        runner = NotebookRunner(
            manager,
            environment=recording.environment(),
            set_up=_path_code(request.path),
            has_steps=has_steps,
            started=recording.begin,
            ready=recording.ready,
            computed=recording.computed,
            watch=recording.take,
            **traits,
        )
        runner.owns_km = True  # whoever made its manager, the kernel ends with the run
        runner.execute()
    for problem in runner.problems:
        logger.warning("The kernel could not be asked whether steps are under way: %s", problem)


class _Recording:
    """The record of one run, from its begin to its end, written while the kernel starts and after it has ended.

    A store on this machine that cannot be used is refused when it is entered, before there is a kernel.
    """

    def __init__(self, nb: Any, request: RunRequest, kernel_name: str, *, has_steps: bool) -> None:
        self.nb = nb
        self.request = request
        self.run_id: RunId = request.run or RunId(new_id())
        self._kernel_name = kernel_name
        self._has_steps = has_steps
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = dict(request.tags)
        self._artifacts: tuple[Binding, ...] = ()
        self._parameters: Json = {}
        self.computed: tuple[str, ...] = ()
        self._project: Project | None = None
        self._client: ServiceClient | None = None
        self._run: Run | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlbench-record")
        self._begun: Future[None] | None = None
        self._waited = False

    def __enter__(self) -> _Recording:
        from mlbench.notebook import parameters as form
        from mlbench.project import Project
        from mlbench.project.configuration import find_store
        from mlbench.project.preparation import declared

        request = self.request
        self._location = find_store(request.notebook, store=request.store)
        if self._location.url is None:  # one that is elsewhere is asked while the kernel starts
            self._project = Project(self._location)
        self._source = _plain(self.nb)
        parameters, given = declared(self._source), self._given()
        self._parameters = recorded(form.defaults(parameters)) | given
        self.computed = tuple(one.name for one in parameters if one.default_source and one.name not in given)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            self.ready()
            self._thread.submit(self._end, error).result()
        except MlbenchError as problem:
            if error is None:
                raise
            if str(error) != str(problem):
                logger.warning("The run's end could not be recorded: %s", problem)
        finally:
            self._thread.shutdown()
            if self._client is not None:
                self._client.close()

    def environment(self) -> dict[str, str]:
        """Return what a kernel is told: who runs it, for which run, with which store and notebook."""
        told = {
            "MLBENCH_ENGINE": str(os.getpid()),
            "MLBENCH_RUN": self.run_id,
            "MLBENCH_RUN_KIND": self.request.kind,
            "MLBENCH_RESUME": "",  # it was meant for this run, and not for what the notebook may run in turn
        }
        if self.request.notebook is not None:
            told["MLBENCH_NOTEBOOK"] = self.request.notebook
        return told | self._location.variables()

    def begin(self) -> None:
        """Record the begin, unless that is done or under way.

        Called when the kernel's process has started: while it gets ready, another core may import the stores'
        libraries and write, which then costs no time. Earlier, that would be in the way of the start itself.
        """
        if self._begun is None:
            self._begun = self._thread.submit(self._begin)

    def ready(self) -> None:
        """Wait until the begin is recorded, and raise what stood in its way, once."""
        self.begin()
        if self._begun is not None and not self._waited:
            self._waited = True
            self._begun.result()

    def take(self, news: Json) -> None:
        """Keep what the kernel told of the run, and hand the rest on."""
        if news["type"] == "kernel":
            self._metrics.extend(Metric(**metric) for metric in news.get("metrics", ()))
            self._tags.update(news.get("tags", {}))
            self._artifacts = with_artifacts(self._artifacts, bindings_of(news.get("artifacts", ())))
            self._parameters |= recorded(news.get("parameters", {}))
        elif self.request.watch is not None:
            self.request.watch(news)

    # --- on the recording thread ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        from mlbench.backends.owners import owner_of_this_process
        from mlbench.project import Project

        request = self.request
        project = self._project = self._project or Project(self._location)
        kernel = self._kernel()
        identity = self._identify(project)
        snapshot = request.snapshot or project.snapshot(
            self._source,
            request.notebook,
            kernel.interpreter if kernel else None,
            self._given(),  # the defaults are in the notebook, which is kept with them
            kernel_name=self._kernel_name,
            python=python_version(kernel.interpreter) if kernel else None,
            packages=installed_packages(kernel.interpreter) if kernel else None,
        )
        name = request.name or (Path(request.notebook).stem if request.notebook else "notebook")
        more: dict[str, Any] = {"job": request.job, "job_version": request.job_version, "due": request.due}
        if request.resume is not None:
            more["resumed_from"] = project.catalog.run(request.resume).id
        if self._has_steps:
            from mlbench.backends.service_socket import connect

            self._client = connect(role="engine", reconnect=True)
        elif request.kind == "job":
            self._client = _service_that_runs()
        self._run = project.begin_run(
            kind=request.kind,
            id=self.run_id,
            notebook=request.notebook,
            name=name,
            notebook_id=identity,
            snapshot=snapshot,
            parameters=self._parameters,
            owner=owner_of_this_process(),
            **{key: value for key, value in more.items() if value is not None},
        )
        if self._client is not None:
            self._client.on_event(self._pass_on)
            self._client.on_connected(self._greet)
            self._greet(self._client)
        self._tell()

    def _given(self) -> Json:
        """Return the parameters that papermill was given; it has put them into the notebook's metadata."""
        return dict(self.nb.metadata.get("papermill", {}).get("parameters") or {})

    def _identify(self, project: Project) -> NotebookId | None:
        """Return which notebook it is; `mlbench run` writes that into a notebook with steps, papermill never does."""
        from mlbench.project import identity

        request, path = self.request, self.request.notebook
        if request.notebook_id is not None:
            return request.notebook_id
        if path is None:
            carried = document.notebook_id(self._source)
            return NotebookId(carried) if carried is not None else None
        own = identity.own_id(project.catalog, path, self._source)
        if own is not None or not (request.marks and self._has_steps):
            return own
        fresh = NotebookId(new_id())
        try:
            identity.write_id(path, fresh)
        except (OSError, NotebookError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            logger.warning("%s keeps its history only under this name, for its id cannot be written: %s.", path, said)
            return None
        self._source = document.with_notebook_id(self._source, fresh)
        return fresh

    def _greet(self, client: ServiceClient) -> None:
        """Tell the service of the run, also the one that has taken the place of a service that was lost."""
        assert self._project is not None
        client.request("open_run", {**self._project.location.named(), "run": self._run})
        if self.request.watch is not None:
            client.request("subscribe", {"from": None, "life": None, "messages": False})

    def _kernel(self) -> Kernel | None:
        if self.request.interpreter is not None:
            return Kernel(name=self._kernel_name, interpreter=self.request.interpreter)
        try:
            return find_kernel(self._kernel_name)
        except NotebookError:
            return None  # papermill says so itself, when it starts the kernel

    def _pass_on(self, event: Event) -> None:
        if self.request.watch is not None and event.run == self.run_id and event.type in ("execution", "messages"):
            self.request.watch({"type": event.type, **event.body})

    def _end(self, error: BaseException | None) -> None:
        import nbformat

        if self._project is None or self._run is None:
            return
        text = str(nbformat.writes(self.nb))  # type: ignore[no-untyped-call]
        output = self._project.blobs.put(text.encode("utf-8", "surrogatepass"))
        state, reason, failure, failed_step = _judge(self.nb, error)
        self._run = self._project.end_run(
            self._run,
            state,
            reason=reason,
            failure=failure,
            failed_step=failed_step,
            output=output,
            metrics=[*self._metrics, *_scraps(self.nb)],
            tags=self._tags,
            artifacts=self._artifacts,
            parameters=self._parameters,
        )
        if self._client is not None:
            try:
                if reason in ("user", "kernel-lost", "timeout"):
                    answer = self._client.request("cancel", {"run": self.run_id, "reason": reason})
                    self._say({"type": "cancelled", "steps": [one["step"] for one in answer["cancelled"]]})
                self._client.request("close_run", {**self._project.location.named(), "run": self._run})
            except ServiceError as lost:
                logger.warning("The service was not told of the run's end: %s", lost)
        self._tell()

    def _tell(self) -> None:
        if self._run is not None:
            self._say({"type": "run", "run": self._run})

    def _say(self, news: Json) -> None:
        if self.request.watch is not None:
            self.request.watch(news)


# --- reading a notebook ------------------------------------------------------------------------------------------


def _check_steps(nb: Any, request: RunRequest) -> None:
    """Refuse a notebook whose steps cannot be run, before a kernel starts."""
    name = Path(request.notebook).name if request.notebook else "The notebook"
    wrong = [problem for problem in diagnostics.check(_plain(nb)) if problem.severity == "error"]
    if wrong:
        first = wrong[0]
        more = f" ({len(wrong) - 1} more like it.)" if len(wrong) > 1 else ""
        raise NotebookError(f"{diagnostics.told(first, name)}{more}")


def _check_parameters(nb: Any) -> None:
    """Refuse a parameter's name that is none: papermill writes it into a cell as it is, be it code."""
    if document.language(nb) not in (None, "python"):
        return
    for name in (nb.metadata.get("papermill") or {}).get("parameters") or {}:
        if not str(name).isidentifier() or keyword.iskeyword(str(name)):
            shown = repr(name if len(name) <= 40 else f"{name[:36]} ...")
            raise ParameterError(f"{shown} cannot be a parameter's name: it must be a name of Python's.")


def _check_kernel(kernel_name: str, request: RunRequest) -> None:
    """Refuse a kernel that is not there, before a run is said to have begun."""
    from jupyter_client.kernelspec import NoSuchKernel

    try:
        find_kernel(kernel_name, Path(request.notebook).name if request.notebook else "The notebook")
    except NotebookError as error:
        if isinstance(error.__cause__, NoSuchKernel):
            raise


def _plain(nb: Any) -> Json:
    """Return a notebook as plain data, without the cell of parameters that papermill has put in."""
    import json

    plain: Json = json.loads(json.dumps(nb))
    plain["cells"] = [
        cell for cell in plain["cells"] if "injected-parameters" not in cell.get("metadata", {}).get("tags", [])
    ]
    return plain


_LOAD: Final = "Put `%load_ext mlbench` into a cell above it."


def _judge(nb: Any, error: BaseException | None) -> tuple[State, Reason | None, Failure | None, str | None]:
    """Return how a run ended: its state, the reason, and what failed where."""
    cell, output = _first_error(nb)
    if error is not None and not isinstance(error, Exception):
        return "cancelled", "user", None, None
    if error is not None and output is None:
        dead = type(error).__name__ == "DeadKernelError"
        late = type(error).__name__ == "CellTimeoutError"
        reason: Reason = "kernel-lost" if dead else "timeout" if late else "error"
        running = _running_cell(nb)
        place = running.get("id") if running is not None else None
        remedy = "Run the cell by itself to see what ends its kernel; memory is the usual cause." if dead else None
        said = "The kernel died while this cell was running." if dead else str(error) or type(error).__name__
        failure = Failure(ename=type(error).__name__, evalue=said, cell=place, remedy=remedy)
        return "failed", reason, failure, _step_name(running)
    if output is not None:
        failure = Failure(
            ename=str(output.get("ename", "")),
            evalue=str(output.get("evalue", "")),
            traceback=tuple(str(line) for line in output.get("traceback", ())),
            cell=cell.get("id"),
            remedy=_LOAD if "`%%step` not found" in str(output.get("evalue", "")) else None,
        )
        return "failed", "error", failure, _step_name(cell)
    return "succeeded", None, None, None


def _first_error(nb: Any) -> tuple[Any, Any]:
    """Return the first cell that failed and its error, as papermill judges it; `(None, None)` if none did."""
    for cell in nb.cells:
        if (cell.get("metadata", {}).get("papermill") or {}).get("exception") is not True:
            continue
        errors = [output for output in cell.get("outputs", ()) if output.output_type == "error"]
        clean = [e for e in errors if e.ename == "SystemExit" and e.evalue in ("", "0")]
        if clean and len(clean) == len(errors):
            continue
        return cell, errors[0] if errors else _said_in_words(cell)
    return None, None


def _said_in_words(cell: Any) -> Json:
    """Return the error of a cell that shows none: IPython says on standard error that there is no such magic."""
    streams = (output for output in cell.get("outputs", ()) if output.get("name") == "stderr")
    lines = [line for output in streams for line in output.text.splitlines() if line.strip()]
    ename, _, evalue = (lines[-1] if lines else "").partition(": ")
    return {"ename": ename, "evalue": evalue} if ename.isidentifier() else {"ename": "CellExecutionError", "evalue": ""}


def _running_cell(nb: Any) -> Any:
    for cell in reversed(nb.cells):
        told = cell.get("metadata", {}).get("papermill") or {}
        if cell.get("cell_type") == "code" and told.get("start_time"):
            return cell
    return None


def _step_name(cell: Any) -> str | None:
    if cell is None:
        return None
    try:
        found = step_line.parse(str(cell.get("source", "")))
    except MlbenchError:
        return None
    return found.name if found is not None else None


def _scraps(nb: Any) -> list[Metric]:
    """Return the numbers that scrapbook left in a notebook's outputs."""
    found = []
    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            scrap = (output.get("data") or {}).get(SCRAP)
            if isinstance(scrap, dict):
                name, value = scrap.get("name"), scrap.get("data")
                if isinstance(name, str) and isinstance(value, int | float) and not isinstance(value, bool):
                    found.append(Metric(name=name, value=float(value)))
    return found


def _service_that_runs() -> ServiceClient | None:
    """Return a client of the service if there is one: it fired this job, and shows its run at once."""
    from mlbench.backends.service_socket import connect

    try:
        return connect(role="job", start=False)
    except ServiceError:
        return None


def _local_path(path: Any) -> str | None:
    """Return the absolute path of a notebook that is a file here; papermill also reads URLs and standard input."""
    if not isinstance(path, str) or not path or path == "-" or "://" in path:
        return None
    return os.path.abspath(path)


# --- kernels -----------------------------------------------------------------------------------------------------


def _path_code(folders: tuple[str, ...]) -> str:
    return f"__import__('sys').path[:0] = {list(folders)!r}" if folders else ""


def _private_kernel(name: str, interpreter: str | None, folder: Path) -> Any:
    """Return a manager for a kernel whose sockets lie in a folder that only this user can enter.

    With a recorded interpreter the kernel is that one, whatever the kernel specs say today. The spec of that name is
    used as it is while it still means this interpreter: it may set variables and options.
    """
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    options: dict[str, Any] = {"kernel_name": name, "transport": "ipc", "ip": str(folder / "k")}
    if interpreter is None:
        return AsyncKernelManager(**options)
    try:
        kernel = find_kernel(name)
    except NotebookError:
        kernel = Kernel(name=name, interpreter="")
    same = kernel.interpreter == interpreter
    spec = KernelSpec(
        argv=[interpreter, *kernel.command[1:]]
        if same
        else [interpreter, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        env=dict(kernel.variables) if same else {},
        display_name=name,
        language="python",
    )

    class OneKernel(KernelSpecManager):
        def get_kernel_spec(self, _: str) -> KernelSpec:
            return spec

    return AsyncKernelManager(kernel_spec_manager=OneKernel(), **options)
