"""What runs in a step's own process: become the kernel's likeness, run the cell, store what it bound, say so.

The process was forked from a step server, or started by one where forking is not safe. It reads and writes the store
by itself; its supervisor only passes on what it says.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import os
import resource
import select
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlbench.backends.blobs import keep_logged, local_folder, open_blobs, own_folders
from mlbench.backends.cluster_dask import processors
from mlbench.backends.cluster_dask.channel import Channel
from mlbench.backends.cluster_dask.process.fingerprints import Values
from mlbench.backends.cluster_dask.process.opened import Opened
from mlbench.backends.cluster_dask.process.pools import end_pools
from mlbench.backends.cluster_dask.process.rehearsal import use_libraries
from mlbench.backends.cluster_dask.process.stepserver import INLINE_BACKEND, PRIVATE_VARIABLES
from mlbench.backends.cluster_dask.process.stepshell import ZMQInteractiveShell, make_shell, open_stream
from mlbench.core.errors import ArtifactCorrupt, MlbenchError, StoreError
from mlbench.core.messages import RandomState, StepTask
from mlbench.core.naming import naming
from mlbench.core.records import Binding, Failure, Json
from mlbench.runs import artifacts, capture, context, faithful, previews, randomness, surroundings, values
from mlbench.runs.transcript import text_of
from mlbench.runs.wire import msgspec

__all__ = ["Step", "main", "serve", "warm"]

_UNUSED: Final = 0.3
"""Seconds without a step after which a spare process has time for more than every step needs."""


def warm() -> None:
    """Do once, before processes are forked, what every one of them needs."""
    importlib.import_module("mlbench.backends.cluster_dask.process.stepitems")
    shell = make_shell()
    shell.rehearse("[1]", "%time 1\n1 / 0")
    values.pack([1])
    previews.preview([1])
    Opened(without=own_folders(os.devnull))
    if "matplotlib.pyplot" in sys.modules:
        _load_figures(shell)
    use_libraries()
    surroundings.apply(surroundings.read(shell), shell)  # for what this loads: nothing changes
    processors.find()


def _load_figures(shell: ZMQInteractiveShell) -> None:
    """Let figures appear under cells, and load how they become pictures."""
    show_inline: Any = shell.enable_matplotlib
    show_inline("inline")
    importlib.import_module("matplotlib.backends.backend_agg")
    if "pandas" in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module("pandas.plotting._matplotlib")


def _rehearse() -> None:
    """Do for nothing what every step does before its first line, so that the memory for it is this process's own."""
    shell = ZMQInteractiveShell.instance()
    processors.share(None, dict(os.environ))
    randomness.refresh()
    surroundings.apply(surroundings.read(shell), shell)
    randomness.drew(randomness.read_states(), randomness.read_states())
    shell.rehearse("print(1)")
    values.pack([1])


def _is_asked(handover: socket.socket, seconds: float) -> bool:
    return bool(select.select([handover], [], [], seconds)[0])


def serve(handover: socket.socket) -> None:
    """Be a spare process: wait to be given a step's pipes and channel, run it, and end. Never returns."""
    os.environ["MLBENCH_STEP_PROCESS"] = str(os.getpid())
    try:
        if not _is_asked(handover, 0):
            _rehearse()
        if not _is_asked(handover, _UNUSED):
            use_libraries()
        _, descriptors, _, _ = socket.recv_fds(handover, 1, 3)
        if len(descriptors) != 3:
            os._exit(0)  # the server has ended, or needs no spare any more
        handover.close()
        output, errors, spoken = descriptors
        silent = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((silent, 0), (output, 1), (errors, 2)):
            os.dup2(source, target)
            os.close(source)
        main(Channel(socket.socket(fileno=spoken)))
    except ConnectionError:
        os._exit(0)  # the supervisor has ended, and with it the wish for this step
    except BaseException:  # noqa: BLE001  the last stop: say it where the step's output goes
        traceback.print_exc(file=sys.__stderr__)
        os._exit(70)
    os._exit(0)


def main(channel: Channel) -> None:
    """Run the one step that comes over a channel."""
    task = channel.receive(StepTask)
    channel.begin()
    _take_environment(task.environment.variables)
    if task.chunk is not None:
        from mlbench.backends.cluster_dask.process import stepitems

        stepitems.main(task, channel)
        return
    sys.stdout, sys.stderr = open_stream(1, channel), open_stream(2, channel)
    faulthandler.enable(file=2)
    step = Step(task, channel)
    done = step.run()
    sys.stdout.flush()
    sys.stderr.flush()
    used = resource.getrusage(resource.RUSAGE_SELF)
    channel.send({"op": "done", "cpu": used.ru_utime + used.ru_stime, **done})
    end_pools()
    atexit._run_exitfuncs()


def _take_environment(variables: Mapping[str, str]) -> None:
    wanted = {"MPLBACKEND": INLINE_BACKEND}
    wanted |= {name: value for name, value in variables.items() if not PRIVATE_VARIABLES.match(name)}
    wanted |= {name: os.environ[name] for name in ("MLBENCH_STEP_PROCESS",) if name in os.environ}
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


class Step:
    """One step, from its task to what it has to say at the end."""

    def __init__(self, task: StepTask, channel: Channel) -> None:
        self._task = task
        self._channel = channel
        self._shell: ZMQInteractiveShell = ZMQInteractiveShell.instance()
        self._blobs = open_blobs(task.store, make=False)
        self._opened = Opened(without=own_folders(task.store))
        self._namespace: dict[str, Any] = {}

    def run(self) -> Json:
        """Run the step; return what it bound, drew and opened, or why it failed."""
        try:
            given, before = self._prepare()
        except Exception as refusal:  # noqa: BLE001  whatever stops a step before its first line is its failure
            return {"ok": False, "failure": msgspec.to_builtins(self.refused(refusal))}
        error, shown = self._execute()
        files = self._opened.stop()
        done: Json = {
            "ok": error is None and shown is None,
            "network": self._opened.network,
            "files": msgspec.to_builtins(files),
        }
        if not done["ok"]:
            done["failure"] = msgspec.to_builtins(self.failure(error, shown))
        try:
            done |= self._drew(before)
            if done["ok"]:
                done["binds"] = msgspec.to_builtins(self._bind(given.changed(bound=self._shell.compile.bound)))
        except StoreError as refusal:  # what it made cannot be kept: there is no space left, say
            if done["ok"]:
                done |= {"ok": False, "failure": msgspec.to_builtins(self.refused(refusal))}
        return done

    def _prepare(self) -> tuple[Values, RandomState]:
        """Make everything as it was in the kernel."""
        task = self._task
        processors.share(task.threads, os.environ)
        self.enter()
        shown = (*task.defs, *task.quiet_defs, *task.changes)
        given = Values(self._namespace, store=local_folder(task.store), without=shown)
        if task.random:
            randomness.restore(task.random)
        return given, randomness.read_states()

    def enter(self) -> dict[str, Any]:
        """Make the names and surroundings as they were in the kernel; return the names."""
        task = self._task
        randomness.refresh()
        context.enter(
            context.Context(
                run=task.run,
                step=task.step,
                execution=task.execution,
                item=task.base.get("item"),
                attempt=task.attempt,
                emit=self.emit,
                keep=self.keep,
                reach=self.reach,
            )
        )
        if task.surroundings is not None:
            for problem in surroundings.apply(task.surroundings, self._shell):
                print(f"mlbench: {problem}", file=sys.stderr)  # noqa: T201  the step's own output
        packed = self._blobs.get(task.capture_digest) if task.capture_digest is not None else task.capture
        with self._naming():
            namespace = capture.install(packed, self._blobs) if packed else {}
        loader = artifacts.Loader(self._blobs, namespace)
        self._namespace = namespace
        self._shell.enter(task.step, task.source, namespace, self._say)
        makers = {read["name"]: read["step"] for read in task.base.get("reads", ())}
        for name, binding in task.inputs.items():
            with naming(name, makers.get(name)):
                namespace[name] = loader.load(binding)
            self._shell.compile.imported.update(binding.get("submodules", ()))  # whoever loads a module after it
        return namespace

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Have an error of the store say which captured name is damaged: in the capture none of them has one."""
        try:
            yield
        except ArtifactCorrupt as error:
            reads = self._task.base.get("reads", ())
            name = next((read["name"] for read in reads if read["digest"] == error.expected), None)
            damaged = ArtifactCorrupt.at(error.expected, error.got or "") if error.expected else error
            raise damaged.of(name) from error

    def keep(self, value: Any, name: str | None) -> Binding:
        """Keep what the cell logs."""
        return keep_logged(value, name, self._blobs, signer=self._task.signer)

    def _execute(self) -> tuple[BaseException | None, Failure | None]:
        """Run the cell; return what it raised, and the traceback that was shown.

        Some magics, such as `%%time`, show what their cell raised and go on: that cell failed all the same.
        """
        self._opened.name(self._task.paths)
        self._opened.start()
        error = self._shell.run(self._task.source)
        return error, self._shell.failure

    def _drew(self, before: RandomState) -> Json:
        after = randomness.read_states()
        draws = randomness.drew(before, after)
        kept = start = None
        if draws and self._task.seeded:
            kept = self._blobs.put(randomness.to_bytes(after))
            start = randomness.start_of(self._task.random or {}, draws)
        return {"draws": draws, "random": kept, "random_start": start}

    def _bind(self, hidden: tuple[str, ...]) -> list[Binding]:
        """Store the names that the cell binds, and those that it changed without showing it."""
        task, namespace = self._task, self._namespace
        quiet = frozenset(task.quiet_defs)
        names = [name for name in dict.fromkeys((*task.defs, *task.quiet_defs, *hidden)) if name in namespace]
        binds = artifacts.save_names(
            namespace, names, self._blobs, imported=self._shell.compile.imported, signer=task.signer
        )
        for binding in binds:
            value = namespace[binding.name]
            sentence = binding.problem or faithful.loss(value, binding, self._blobs, namespace)
            if sentence and binding.name not in quiet and getattr(value, "closed", False) is not True:
                print(f"mlbench: {sentence}", file=sys.stderr)  # noqa: T201  the step's own output
        return [binding for binding in binds if binding.problem is None or binding.name not in quiet]

    def failure(self, error: BaseException | None, shown: Failure | None) -> Failure:
        """Say why the cell failed: which line of it, and what to do."""
        ename = type(error).__name__ if error is not None else shown.ename if shown is not None else "Error"
        evalue = text_of(error) if error is not None else shown.evalue if shown is not None else ""
        lines = shown.traceback if shown is not None else (f"{ename}: {evalue}",)
        if shown is None:
            self._say({"output_type": "error", "ename": ename, "evalue": evalue, "traceback": list(lines)})
        return Failure(
            ename=ename, evalue=evalue, traceback=lines, line=self._line_of(error), remedy=self._remedy(error)
        )

    def _line_of(self, error: BaseException | None) -> int | None:
        if isinstance(error, SyntaxError) and error.filename in (self._shell.compile.code_name(), "<tokenize>"):
            return error.lineno
        own = self._shell.compile.code_name()
        line = None
        step = error.__traceback__ if error is not None else None
        while step is not None:
            name = step.tb_frame.f_code.co_filename
            if name == own:
                line = step.tb_lineno
            elif name == "<timed exec>":  # below the lines of `%%step` and `%%time`
                line = step.tb_lineno + 2
            step = step.tb_next
        return line

    def _remedy(self, error: BaseException | None) -> str:
        if isinstance(error, MlbenchError) and error.remedy:
            return error.remedy
        if type(error) is NameError and error.name:
            from mlbench.notebook.cell import analyse

            shown = analyse(self._task.source)
            if error.name in shown.reads | shown.late:
                return f"The notebook has no {error.name}: bind it in a cell above, or correct the name."
            return (
                f"If the notebook has {error.name}, nothing in the text of the cell showed that it is read: write "
                f"{error.name} on a line of its own in the step, so that it is sent along."
            )
        if isinstance(error, SystemExit):
            return "A step ends where its cell ends: leave sys.exit() out, or raise an error that says what is wrong."
        if isinstance(error, ModuleNotFoundError):
            return self._missing(error)
        if self._task.foreach:  # `--here` has no items
            names = ", ".join(one.name for one in self._task.foreach)
            return f"Bind {names} in a plain cell as this item has it and run the body there, then `%debug`."
        return f"Run the cell with `%%step {self._task.step} --here`, then `%debug`."

    def _missing(self, error: ModuleNotFoundError) -> str:
        if self._task.env is not None:
            return f"Add {error.name} to the requirements of environment {self._task.env}, or leave --env out."
        return f"Install {error.name} in the kernel's environment, or put its folder on sys.path in a plain cell."

    def refused(self, error: Exception) -> Failure:
        """Say why a step could not even begin."""
        if (
            isinstance(error, FileNotFoundError)
            and self._task.surroundings is not None
            and (error.filename == self._task.surroundings.folder)
        ):
            said = Failure(
                ename="FileNotFoundError",
                evalue=f"The kernel's folder {error.filename} is not there.",
                remedy="Make it again, or restart the kernel in another folder.",
            )
        elif isinstance(error, MlbenchError):
            said = Failure(ename=type(error).__name__, evalue=error.message, remedy=error.remedy)
        else:
            said = Failure(
                ename=type(error).__name__,
                evalue=f"What the step reads could not be made here: {text_of(error)}",
                traceback=tuple(traceback.format_exception(error)),
                remedy=self._missing(error)
                if isinstance(error, ModuleNotFoundError)
                else "Make what it reads inside the step."
                if self._task.foreach
                else f"Run the cell with `%%step {self._task.step} --here`, or make what it reads inside the step.",
            )
        lines = list(said.traceback) or [f"{said.ename}: {said.evalue}"]
        self._say({"output_type": "error", "ename": said.ename, "evalue": said.evalue, "traceback": lines})
        return said

    def _say(self, message: Json) -> None:
        self._channel.send({"op": "output", "message": message})

    def reach(self) -> Json:
        """Say how a Dask client reaches the cluster; on one that runs this step too, its tasks get its place."""
        facts = self._task.client or {}
        if "address" in facts:
            self._channel.send({"op": "waits"})
        return facts

    def emit(self, news: Json) -> None:
        self._channel.send({"op": "news", "news": news})
