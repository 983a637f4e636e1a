"""`mlbench run`: a notebook through papermill and our engine, with a live table of its steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import click

from mlbench.core.errors import UsageError
from mlbench.core.ids import short
from mlbench.core.records import ENDED, Execution, Json, Run
from mlbench.entrypoints.cli import output
from mlbench.entrypoints.cli.output import console, errors, json_option, plain, print_json
from mlbench.entrypoints.cli.pairs import parameters_option, read_pairs

__all__ = ["run", "run_notebook"]


@click.command(epilog="Example: mlbench run flights.ipynb -p origin=LGA -p trees=50")
@click.argument("notebook")
@parameters_option
@click.option("-o", "--output", "target", type=click.Path(dir_okay=False), help="Write the executed notebook here.")
@click.option("-k", "--kernel", help="The kernel to use instead of the notebook's own.")
@click.option("--name", help="What the run is called; the notebook's name otherwise.")
@click.option("--cwd", help="The folder to run in; the notebook's own otherwise.")
@click.option("--cell-timeout", type=click.IntRange(min=1), metavar="SECONDS", help="The most that one cell may take.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="A tag of the run.")
@click.option("--resume", metavar="RUN", help="Reuse the steps of this run that succeeded and are unchanged.")
@json_option
def run(
    notebook: str,
    given: dict[str, str],
    target: str | None,
    kernel: str | None,
    name: str | None,
    cwd: str | None,
    cell_timeout: int | None,
    tags: tuple[str, ...],
    resume: str | None,
    as_json: bool,
) -> int:
    """Run NOTEBOOK, its steps side by side, and record it.

    The notebook itself is not changed, but for an id in its metadata, by which a renamed notebook keeps its history.
    The exit status is 0 if it succeeded, 1 if it failed, 2 if it cannot be run.
    """
    return run_notebook(
        notebook,
        given=given,
        labels=read_pairs(tags, what="tag"),
        target=target,
        kernel=kernel,
        name=name,
        cwd=cwd,
        cell_timeout=cell_timeout,
        resume=resume,
        as_json=as_json,
    )


def run_notebook(
    notebook: str,
    *,
    given: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    target: str | None = None,
    kernel: str | None = None,
    name: str | None = None,
    cwd: str | None = None,
    cell_timeout: int | None = None,
    resume: str | None = None,
    as_json: bool = False,
) -> int:
    """Run a notebook, show how far it is and what came of it, and return the exit status.

    Parameters
    ----------
    given
        Values of its parameters, as texts or as what they are.
    resume
        The run whose steps are reused where they succeeded and are unchanged.
    """
    from mlbench.backends import runner_papermill
    from mlbench.backends.owners import scratch_folder
    from mlbench.project.preparation import prepare

    prepared = prepare(notebook, given=given, kernel=kernel)
    prepared.require()
    folder = _folder(cwd, prepared.path)
    _check_target(target)
    for finding in prepared.findings:
        if finding.level == "warning" and not as_json:
            errors().print(plain(f"{prepared.name}: {finding.text}"), style="yellow")
    view = _view(prepared.steps, as_json=as_json)
    request = runner_papermill.RunRequest(
        notebook=prepared.path,
        name=name,
        tags=dict(labels or {}),
        marks=True,
        resume=_known(resume, prepared.path),
        watch=view.take,
    )
    try:
        with _terminated_as_interrupted(), scratch_folder("run") as scratch, view:
            outcome = runner_papermill.execute(
                prepared.nb,
                request,
                parameters=prepared.values,
                folder=folder,
                output=target,
                kernel=kernel,
                cell_timeout=cell_timeout,
                scratch=scratch,
            )
    except KeyboardInterrupt:
        if view.run is None:
            raise
        raise Cancelled(view.run, tuple(view.cancelled)) from None
    try:
        return _conclude(outcome, target, as_json=as_json)
    except BrokenPipeError:
        output.leave_unread()  # whoever read has gone; how the run ended they are told all the same
        return _status(outcome)


class Cancelled(click.Abort):
    """A run that was interrupted: which, and the names of the steps that were cancelled with it."""

    def __init__(self, run: Run, steps: tuple[str, ...]) -> None:
        super().__init__(run, steps)
        self.run = run
        self.steps = steps

    def __str__(self) -> str:
        names = ", ".join(self.steps)
        steps = f" with step {names}" if len(self.steps) == 1 else f" with the steps {names}" if names else ""
        return f"Interrupted: {self.run.name} was cancelled{steps}. See more: mlbench show {short(self.run.id)}"


def _known(resume: str | None, notebook: str) -> str | None:
    """Return the whole id of a run that is resumed, before anything is started."""
    if resume is None:
        return None
    from mlbench.project import Project

    return Project.open(notebook=notebook).catalog.run(resume).id


def _folder(cwd: str | None, path: str) -> str:
    folder = os.path.abspath(cwd) if cwd is not None else str(Path(path).parent)
    if not Path(folder).is_dir():
        raise UsageError(f"There is no folder {folder} to run in.")
    return folder


def _check_target(target: str | None) -> None:
    """Refuse a place for the executed notebook that cannot be written, before an hour's work is done for it."""
    if target is None:
        return
    parent = Path(target).absolute().parent
    if not parent.is_dir():
        raise UsageError(f"There is no folder {parent} for the executed notebook.", "Make it, or choose another.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"The folder {parent} cannot be written.", "Choose another place with --output.")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, and the end of a terminal, as Ctrl-C: the run is recorded as cancelled, nothing of it goes on."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]  # as by nohup
    before = {one: signal.signal(one, interrupt) for one in heard}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _conclude(outcome: Any, target: str | None, *, as_json: bool) -> int:
    from mlbench.entrypoints.cli.history import print_run
    from mlbench.project import Project

    run: Run | None = outcome.run
    if run is None:
        raise UsageError("papermill ended before the run began.")
    project = Project.open(notebook=run.notebook)
    executions = project.steps(run.id)
    if as_json:
        print_json({"run": run, "executions": executions})
    else:
        print_run(project, run, executions)
        if run.resumed_from is not None:
            names = ", ".join(one.step for one in executions if one.state == "reused") or "nothing"
            console().print(plain(f"\nReused from run {short(run.resumed_from)}: {names}."))
        if run.state not in ENDED and outcome.error is not None:
            errors().print(plain(str(outcome.error)), style="red")
        if target is not None:
            console().print(plain(f"\nThe executed notebook is in {target}."))
        console().print(f"\nSee more: mlbench show {short(run.id)}   mlbench logs {short(run.id)}")
    return _status(outcome)


def _status(outcome: Any) -> int:
    return 0 if outcome.run is not None and outcome.run.state == "succeeded" and outcome.error is None else 1


# --- what is shown while it runs ---------------------------------------------------------------------------------


def _view(steps: tuple[str, ...], *, as_json: bool) -> _Lines:
    if as_json:
        return _Silence(steps)
    return _Table(steps) if console().is_terminal else _Lines(steps)


class _Lines:
    """One line for each step that changes, for logs and pipes."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        self.steps: dict[str, Execution | None] = dict.fromkeys(steps)
        self.cell = (0, 0)
        self.run: Run | None = None
        self.cancelled: list[str] = []
        self._lock = threading.Lock()
        self._heard = True

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def take(self, news: Json) -> None:
        """Take one piece of news; called from the threads of the engine."""
        from mlbench.runs.wire import msgspec

        with self._lock:
            if news["type"] == "execution":
                execution = news["execution"]
                if not isinstance(execution, Execution):
                    execution = msgspec.convert(execution, Execution)
                before = self.steps.get(execution.step)
                self.steps[execution.step] = execution
                if before is None or before.state != execution.state or before.id != execution.id:
                    self.step_changed(execution)
            elif news["type"] == "cell" and news["state"] == "running":
                self.cell = (news["index"] + 1, news["count"])
                self.cell_changed()
            elif news["type"] == "cancelled":
                self.cancelled += [step for step in news["steps"] if step is not None]
            elif news["type"] == "run":
                self.run = news["run"]
                if self.run.state == "running":
                    self.run_began(self.run)

    def run_began(self, run: Run) -> None:
        """Say which run it is."""
        self._say(f"{run.name}: run {short(run.id)}")

    def step_changed(self, execution: Execution) -> None:
        """Say what a step does now."""
        took = output.duration(execution.started, execution.ended) if execution.state in ENDED else ""
        self._say(f"{execution.step} {execution.state} {took}".rstrip())

    def _say(self, line: str) -> None:
        """Print a line. Where it cannot be written (a pipe that is closed, a full disk) the run goes on unheard."""
        if self._heard:
            try:
                console().print(plain(line))
            except OSError:
                self._heard = False

    def cell_changed(self) -> None:
        """Say which cell runs: only where nothing else is said."""


class _Silence(_Lines):
    """Nothing, for who reads JSON."""

    def run_began(self, run: Run) -> None:
        """Say nothing."""

    def step_changed(self, execution: Execution) -> None:
        """Say nothing."""


class _Table(_Lines):
    """A table of the steps that is drawn again as they change."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        from rich.live import Live

        super().__init__(steps)
        self._name = ""
        self._live = Live(get_renderable=self._draw, console=console(), refresh_per_second=8, transient=True)

    def __enter__(self) -> _Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the terminal has gone; what was done in it has not
            self._live.stop()

    def run_began(self, run: Run) -> None:
        self._name = f"{run.name}  run {short(run.id)}"

    def step_changed(self, _: Execution) -> None:
        """Nothing: the table is drawn from all of them."""

    def _draw(self) -> Any:
        from rich.console import Group

        shown = output.table("step", "state", "time", right=("time",))
        for name, execution in self.steps.items():
            if execution is None:
                shown.add_row(plain(name), output.state_text("queued"), "")
            else:
                took = output.duration(execution.started, execution.ended)
                shown.add_row(plain(name), output.state_text(execution.state), took)
        place, count = self.cell
        where = f"cell {place} of {count}" if count else "starting the kernel"
        head = plain(f"{self._name or 'starting'}  {where}")
        return Group(head, shown) if self.steps else head
