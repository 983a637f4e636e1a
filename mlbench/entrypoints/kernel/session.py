"""What a kernel knows of its steps: it hands them over, hears of them, waits for them and shows what they print.

Two threads meet here: the kernel's own, which runs cells, and the client's, which brings news. All that both use is
guarded by one condition. News is only noted on its thread; values are loaded, and names moved, where cells run.
"""

from __future__ import annotations

import ast
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from mlbench.core.errors import MlbenchError, NotFound, ResultError, ServiceError, StepFailed, UsageError
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Event, KernelHello, StepOptions, Submission
from mlbench.core.records import ENDED, Binding, Execution, Failure, Json, Read
from mlbench.entrypoints.kernel.display import Delivery, show_here
from mlbench.entrypoints.kernel.errors import CellNotRun, shown_failure
from mlbench.entrypoints.kernel.front import Front
from mlbench.entrypoints.kernel.generators import Generators, Start
from mlbench.entrypoints.kernel.names import Held, Names, Provided, Settled
from mlbench.entrypoints.kernel.pending import WAIT, Placeholder, Waits, is_placeholder, runs_a_step
from mlbench.entrypoints.kernel.sources import environment
from mlbench.entrypoints.kernel.submission import Track, defs_of, find_inputs, key_for
from mlbench.runs.reach import reach

__all__ = ["Service", "Session"]

_LOG = logging.getLogger(__name__)
_ASK_EVERY: Final = 5.0
"""Seconds without news of a step after which its waiter asks the service."""
_LOST_AFTER: Final = 60.0
"""Seconds after which a step is given up of which no service can be asked."""
_LARGE: Final = 1 << 20


class Service(Protocol):
    """The service's client, as the kernel uses it."""

    def request(self, op: str, body: Any = None, *, timeout: float | None = 60.0) -> Any: ...
    def on_event(self, callback: Callable[[Event], None]) -> None: ...
    def on_connected(self, callback: Callable[[Any], None]) -> None: ...
    def close(self) -> None: ...


Connect = Callable[[], Service]


class _Waiter:
    """What a placeholder asks: the value that one execution gives a name, now or when it ends."""

    __slots__ = ("_session", "_track")

    def __init__(self, session: Session, track: Track) -> None:
        self._session = session
        self._track = track

    def may_wait(self) -> bool:
        return self._session.front.may_wait()

    def value(self, name: str, /) -> Any:
        value = self._session.value_of(self._track, name)
        self._session.names.settle(name, value)
        return value


class Session:
    """The steps of one kernel.

    Parameters
    ----------
    shell
        IPython's, with a kernel or without.
    connect
        Finds or starts the service; called at the first step.
    """

    def __init__(self, shell: Any, connect: Connect | None = None) -> None:
        self.shell = shell
        self.front = Front(shell)
        self.namespace: dict[str, Any] = shell.user_ns
        self.names = Names(self.namespace, self._differs)
        self._connect = connect or _connect
        self._news = threading.Condition(threading.RLock())
        self._tracks: dict[ExecutionId, Track] = {}
        self._moved: dict[ExecutionId, ExecutionId] = {}
        self._by_step: dict[str, Track] = {}
        self._by_cell: dict[str, Track] = {}
        self._places: dict[str, int] = {}
        self._writers: dict[str, Track] = {}
        self._hidden: list[tuple[Track, Binding]] = []
        self._drawn: list[tuple[Track, Execution]] = []
        self.generators = Generators()
        self._new_run = False
        self._service: Service | None = None
        self._closed = False
        self._hello: KernelHello | None = None
        self._blobs: Any = None
        self._loader: Any = None
        self._store: Path | None = None
        self.run: RunId | None = None
        self._sources: dict[str, str] = {}  # each cell as it was run last, in the order of these runs
        self._last_failure: float | None = None
        self._parameter_names: tuple[str, ...] = ()
        self.before_context: Any = None
        self._delivery = Delivery(self.front.kernel) if self.front.kernel is not None else None
        self.waits = Waits(self._begin, _statement_reads, self._needs)

    # --- cells of the notebook --------------------------------------------------------------------------------------

    def before_cell(self, info: Any) -> None:
        """Note that a cell starts (IPython's `pre_run_cell`)."""
        self.front.cell_starts(info)
        if info is None or not getattr(info, "raw_cell", "").strip():
            return
        cell = self.front.cell_id() or info.raw_cell
        self._sources.pop(cell, None)
        self._sources[cell] = info.raw_cell
        self.names.sync()
        self._apply_news()
        if "parameters" in self.front.tags():
            self._new_run = bool(self._tracks)
            self._read_parameters(info.raw_cell)

    def after_cell(self, result: Any) -> None:
        """Note that a cell has ended (IPython's `post_run_cell`)."""
        del result
        self.names.sync()
        self.generators.note_source(self.front.source)
        self.front.cell_ends()
        request = self.front.last_request
        with self._news:
            tracks = [track for track in self._tracks.values() if track.running and track.parent == request]
        if tracks and self._delivery is not None:
            self._delivery.after_idle(lambda: self._flush(tracks))
        else:
            self._flush(tracks)

    def _begin(self, tree: ast.Module) -> list[str] | None:
        """Look at a cell's tree before it runs; return which executions it waits for, None if it waits for nothing."""
        if not self.front.runs_cell():
            return None
        failed = self._last_failure
        if failed is not None and not self.front.under_engine() and self.front.sent_before(failed):
            raise CellNotRun("Not run: a step failed after this cell had been asked for. Run it again to run it.")
        self.names.sync()
        self.names.touch(self._touched(tree))
        files = self._files_awaited(tree)
        return files if files or self.names.pending() else None

    def _files_awaited(self, tree: ast.Module) -> list[str]:
        """Return the steps under way that write files which a plain cell names."""
        if not any(not track.ended for track in self._writers.values()) or all(map(runs_a_step, tree.body)):
            return []
        from mlbench.notebook.cell import analyse

        try:
            named = analyse(self.front.source).names_paths
        except SyntaxError:
            return []
        return sorted({_EXECUTION + track.execution for _, track in self._writers_of(named) if not track.ended})

    def _touched(self, tree: ast.Module) -> frozenset[str]:
        reads: set[str] = set()
        for names in _statement_reads(tree):
            reads |= names
        return reach(reads, self.namespace, inert=is_placeholder)

    def _needs(self, reads: Collection[str]) -> list[str]:
        pending = self.names.pending()
        reached = sorted(pending & reach(reads, self.namespace, inert=is_placeholder))
        if _DYNAMIC & set(reads):
            return [*reached, *(_PERHAPS + name for name in sorted(pending) if name not in reached)]
        return reached

    def _read_parameters(self, source: str) -> None:
        from mlbench.notebook import parameters

        try:
            self._parameter_names = tuple(one.name for one in parameters.read(source))
        except (MlbenchError, SyntaxError):
            self._parameter_names = ()

    # --- steps ------------------------------------------------------------------------------------------------------

    def submit(self, line: str, body: str) -> None:
        """Hand a step's cell over (`%%step`), and wait for it where late output would not arrive."""
        from mlbench.notebook.cell import analyse
        from mlbench.notebook.step import read_line

        step, options = read_line(line)
        try:
            names = analyse(body)
        except SyntaxError as error:
            raise _placed(error, step) from None
        if names.stars:
            raise UsageError(f"Step {step} has `from {names.stars[0]} import *`, so its names can't be known.",
                             "Put that line into a plain cell, or import the names that the step uses.")
        if options.here:
            from mlbench.entrypoints.kernel.here import run_here

            self.service()
            run_here(self, step, body, names, options, store=defs_of(step, names, options)[0])
            return
        track = self._hand_over(step, line, body, names, options)
        if self._waits(options):
            self._follow(track)

    def _waits(self, options: StepOptions) -> bool:
        if options.wait is not None:
            return options.wait
        return not self.front.takes_late_output() or not self.front.starts_with_step()

    def _hand_over(self, step: str, line: str, body: str, names: Any, options: StepOptions) -> Track:
        from mlbench.runs import surroundings as surroundings_of

        self.names.sync()
        self._apply_news()
        service = self.service()
        cell = self.front.cell_id()
        former = self._former(step, cell)
        defs, quiet, unstored = defs_of(step, names, options)
        inputs = find_inputs(
            names, self.namespace, self.names, former,
            resume_own=options.resume_own, defs=defs | quiet, keep=self._keep,
        )
        surroundings = surroundings_of.read(self.shell)
        waits_for = self._order(step, names, options, set(inputs.edges.values()))
        key = key_for(
            step=step, source=self._python(body), inputs=inputs, namespace=self.namespace, names=names,
            parents={name: self._tracks[one].key for name, one in inputs.edges.items() if one in self._tracks},
            waits=[self._tracks[one].key for one in waits_for if one in self._tracks],
            defs=defs, surroundings=surroundings, store=self._found_store(), data=self._digest,
        )
        digest = self._blobs.put(inputs.data, durable=False) if len(inputs.data) > _LARGE else None
        execution = ExecutionId(new_id())
        supersedes = former.execution if former is not None and not former.ended and former.key != key else None
        late = self.front.takes_late_output()
        track = Track(
            step=step, cell=cell, place=self._places.setdefault(step, len(self._places)), execution=execution,
            body=body, names=names, defs=defs, unstored=unstored, quiet=quiet, before=inputs.before, late=late,
            parent=self.front.request(), key=key, start=self._start(execution, names, former),
        )
        with self._news:
            self._tracks[execution] = track  # before the service can have news of it
        submission = Submission(
            execution=execution, step=step, source=body, line=line, cell=cell, options=options, edges=inputs.edges,
            waits_for=waits_for, capture=b"" if digest else inputs.data, capture_digest=digest,
            captured=inputs.described, defs=tuple(sorted(defs)), quiet_defs=tuple(sorted(quiet)),
            deletes=tuple(sorted(names.deletes)), changes=tuple(sorted(names.changes)), surroundings=surroundings,
            random=track.start.states if track.start else None, random_from=track.start.after if track.start else None,
            seeded=self.generators.seeded, parameters=self._parameter_values(),
            new_run=self._new_run, supersedes=supersedes, key=key, cells=tuple(self._sources.values()),
        )
        try:
            answer = service.request("submit", submission)
        except BaseException:
            with self._news:
                self._tracks.pop(execution, None)
            raise
        self._new_run = False
        self._accept(track, answer)
        self._place(track, former)
        return track

    def _python(self, body: str) -> str:
        """Return a cell as Python. IPython's prefilter is left out: it looks at values."""
        return str(self.shell.input_transformer_manager.transform_cell(body))

    def _accept(self, track: Track, answer: Json) -> None:
        """Take the service's answer: a new execution, or one that was under way or had ended."""
        record = _execution(answer["execution"])
        with self._news:
            if record.id != track.execution:
                self._tracks.pop(track.execution, None)
                known = self._tracks.get(record.id)
                self._tracks[record.id] = track
                self.generators.rename(track.execution, record.id)
                track.execution = record.id
                if known is not None:  # the same cell again while it is on: what it printed goes under this one
                    known.queue.clear()
                track.queue.extend(dict(one) for one in record.messages if one["output_type"] != "error")
            self.run = record.run
            self._take_record(track, record)
        note = answer.get("note") or record.note
        if answer.get("attached") and note:
            self._say(note)

    def _place(self, track: Track, former: Track | None) -> None:
        """Put placeholders for what the step binds, and note which cell it came from."""
        replaced = self._by_step.get(track.step)
        if replaced is not None and replaced.cell and track.cell and replaced.cell != track.cell:
            self._say(f"Step {track.step} was another cell's; this cell takes its place.")
        self._by_step[track.step] = track
        if track.cell:
            self._by_cell[track.cell] = track
        for path in self._resolved(track.names.writes_paths):
            self._writers[path] = track
        for name in track.names.deletes:
            self.names.withdraw(name)
        for name in (*track.defs, *track.quiet, *track.unstored):
            self.names.provide(name, track.execution, Placeholder(name, _Waiter(self, track)))
        del former

    def _former(self, step: str, cell: str | None) -> Track | None:
        if cell is not None and cell in self._by_cell:
            return self._by_cell[cell]
        return self._by_step.get(step)

    def _order(
        self, step: str, names: Any, options: StepOptions, parents: set[ExecutionId]
    ) -> dict[ExecutionId, str]:
        """Return the parents that no name shows, each with why."""
        waits: dict[ExecutionId, str] = {}
        place = self._places.get(step, len(self._places))
        above = [one for one in self._by_step.values() if one.place < place and one.step != step]
        if options.after is not None:
            for after in options.after:
                found = self._by_step.get(after)
                if found is None:
                    raise UsageError(f"--after names {after}, and no step of that name has been run.",
                                     f"Steps so far: {', '.join(self._by_step) or 'none'}.")
                waits[found.execution] = "--after names it"
        elif names.for_effects:
            for one in above:
                waits[one.execution] = "the step is run for its effects, so it waits for the steps above it"
        for path, writer in self._writers_of(names.names_paths):
            if writer.step != step:
                waits.setdefault(writer.execution, f"it names {path}, which {writer.step} writes")
        return {one: why for one, why in waits.items() if one not in parents}

    def _writers_of(self, paths: Iterable[str]) -> list[tuple[str, Track]]:
        """Return the steps that write paths that a cell names."""
        from mlbench.notebook.evidence import paths_meet

        named = self._resolved(paths) if self._writers else set()
        return [(written, track) for written, track in self._writers.items()
                if any(paths_meet(written, one) for one in named)]

    def _resolved(self, paths: Iterable[str]) -> set[str]:
        """Return paths with what the kernel knows filled in; those that stay unknown are left out."""
        from mlbench.notebook.evidence import resolve_text

        texts = {name: os.fspath(value) for name, value in self.namespace.items()
                 if type(value) is str or isinstance(value, os.PathLike)} if any("{" in path for path in paths) else {}
        resolved = (resolve_text(path, texts) for path in paths)
        return {path for path in resolved if path is not None}

    def _start(self, execution: ExecutionId, names: Any, former: Track | None) -> Start | None:
        if names.seeds:
            self.generators.seeded = True
        again = former is not None and self.generators.is_last(former.execution)
        return self.generators.start(execution, former.start if former is not None else None, again)

    def _parameter_values(self) -> Json:
        plain = (str, int, float, bool, type(None), list, dict, tuple)
        return {name: value for name in self._parameter_names
                if isinstance(value := self.namespace.get(name), plain)}

    # --- waiting ----------------------------------------------------------------------------------------------------

    def wait(self, *names: str) -> None:
        """Put the values of names in their place: what the statements call that are inserted before a cell's own."""
        for name in names:
            if name.startswith(_EXECUTION):
                self.wait_for(self._tracks[self._now(ExecutionId(name.removeprefix(_EXECUTION)))])
                continue
            perhaps, name = name.startswith(_PERHAPS), name.removeprefix(_PERHAPS)  # noqa: PLW2901
            execution = self.names.provider(name)
            if execution is None or not is_placeholder(self.namespace.get(name)):
                continue
            track = self._tracks[self._now(execution)]
            try:
                self.names.settle(name, self.value_of(track, name))
            except (StepFailed, ResultError):
                if not perhaps:
                    raise

    def value_of(self, track: Track, name: str) -> Any:
        """Return the value that an execution gives a name, when it has ended.

        Raises
        ------
        StepFailed
            For an execution that did not succeed.
        ResultError
            For a name that has no value.
        """
        track = self._tracks.get(self._now(track.execution), track)
        if name in track.values:
            return track.values[name]
        self.wait_for(track)
        record = track.record
        assert record is not None
        binding = next((one for one in record.binds if one.name == name), None)
        if binding is None or (binding.artifact is None and binding.module is None):
            if binding is not None and binding.problem:
                raise ResultError(binding.problem)
            value = self._value_before(track, name)
        else:
            value = self._load(binding)
        track.values[name] = value
        return value

    def _value_before(self, track: Track, name: str) -> Any:
        if name in track.unstored:
            raise ResultError(track.unstored[name], "Run the step without that option to have its value here.")
        source = track.before.get(name)
        if isinstance(source, Held):
            return source.value
        if isinstance(source, Provided) and source.execution in self._tracks and source.execution != track.execution:
            return self.value_of(self._tracks[source.execution], name)
        if name in track.quiet:
            raise ResultError(f"{name} of step {track.step} was not stored, since its name begins with _.",
                              f"Give it another name, or run the step with --outputs {name}.")
        raise ResultError(f"Step {track.step} ended without binding {name}.")

    def _load(self, binding: Binding) -> Any:
        if binding.module is not None:
            return importlib.import_module(binding.module)
        from mlbench.entrypoints.kernel.adopt import adopt

        return adopt(self._loader.load(binding), self.namespace)

    def wait_for(self, track: Track) -> None:
        """Return when an execution has succeeded. Raise `StepFailed` if it ends in another way."""
        self._until_ended(track)
        self._apply_news()
        record = track.record
        assert record is not None
        if record.state in ("succeeded", "reused"):
            return
        raise StepFailed(track.step, record.state, _why(record), "Its own cell shows what happened.")

    def _until_ended(self, track: Track, show: Callable[[], None] | None = None) -> None:
        asked = lost = time.monotonic()
        try:
            while True:
                with self._news:
                    if not track.ended and not track.queue:
                        self._news.wait(0.5)
                    ended = track.ended
                if show is not None:
                    show()
                elif not track.late:
                    self._drain(track)
                if ended:
                    return
                now = time.monotonic()
                if now - asked > _ASK_EVERY:
                    asked = now
                    if self._ask(track):
                        lost = now
                    elif now - lost > _LOST_AFTER:
                        self._give_up(track)
        except KeyboardInterrupt:
            self._interrupted([track.execution])
            raise

    def _ask(self, track: Track) -> bool:
        """Ask the service what became of an execution; False if it cannot be asked."""
        try:
            answer = self.service().request("execution", {"id": track.execution}, timeout=10)
        except NotFound:
            self._give_up(track)
            return True
        except ServiceError as error:
            _LOG.info("The service cannot be asked about step %s: %s", track.step, error)
            return False
        record = _execution(answer.get("execution", answer))
        with self._news:
            if record.state in ENDED:
                self._take_record(track, record)
        return True

    def _give_up(self, track: Track) -> None:
        failure = Failure(
            ename="ServiceError", evalue="The service that ran this step is gone, and no other knows of it.",
            remedy="Run the cell again.",
        )
        record = Execution(id=track.execution, run=self.run or RunId(""), step=track.step, state="failed",
                           reason="service-lost", failure=failure, ended=time.time_ns())
        with self._news:
            self._take_record(track, record)

    def _interrupted(self, executions: Collection[ExecutionId]) -> None:
        """Tell the service that the stop button was pressed while a cell waited, and say what that cancels."""
        try:
            answer = self.service().request("interrupt", {"executions": list(executions)}, timeout=10)
        except ServiceError as error:
            self._say(f"The stop could not be passed on: {error}")
            return
        names = _names_in(answer)
        if names:
            self._say(f"Stopped: {', '.join(names)} {'is' if len(names) == 1 else 'are'} cancelled.")

    def barrier(self) -> None:
        """Return when no step is under way any more and all that they printed has been sent."""
        with self._news:
            tracks = list(self._tracks.values())
        for track in tracks:
            self._until_ended(track)
        self._flush(tracks)

    def emit(self, news: Json) -> None:
        """Take what a plain cell says of itself: metrics and tags are the run's."""
        if news["type"] not in ("metrics", "tags"):
            return
        what = {news["type"]: news[news["type"]]}
        if self.front.under_engine() and self._delivery is not None:
            self._delivery.tell(what)
        elif news["type"] == "metrics":
            self.service().request("metrics", {"run": self.run, **what})
        else:
            self.service().request("tag", {"run": self.run, **what})

    def cancel(self, step: str | None) -> None:
        """Cancel a step, or all of this run's that are under way (`%cancel`)."""
        if step is None:
            if self.run is None:
                self._say("No step has been run.")
                return
            body: Json = {"run": self.run}
        else:
            track = self._by_step.get(step)
            if track is None:
                raise UsageError(f"No step {step} has been run here.",
                                 f"Steps: {', '.join(self._by_step) or 'none'}.")
            body = {"execution": track.execution}
        names = _names_in(self.service().request("cancel", body))
        self._say(f"Cancelled {', '.join(names)}." if names else "Nothing was under way.")

    def _follow(self, track: Track) -> None:
        """Wait for a step in its own cell: what it prints is the cell's output, and its error is the cell's."""
        track.late = False
        self._until_ended(track, lambda: self._drain(track))
        self._drain(track)
        self._apply_news()
        record = track.record
        assert record is not None
        if record.state in ("succeeded", "reused"):
            return
        if record.state == "failed" and record.failure is not None:
            raise shown_failure(record.failure, track.step, self._hint(record.failure))
        raise StepFailed(track.step, record.state, _why(record))

    def _drain(self, track: Track) -> None:
        with self._news:
            messages, track.queue = track.queue, []
        for message in messages:
            if message["output_type"] != "error":
                show_here(self.shell, message)

    # --- news -------------------------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """Take one piece of news, on the client's thread."""
        if event.type == "messages":
            self._take_messages(event.body)
        elif event.type == "execution":
            record = _execution(event.body["execution"])
            with self._news:
                if record.replaces is not None and record.replaces in self._tracks:
                    self._move(record)
                track = self._tracks.get(record.id)
                if track is not None:
                    self._take_record(track, record)

    def _take_messages(self, body: Json) -> None:
        with self._news:
            track = self._tracks.get(self._now(body["execution"]))
            if track is None:
                return
            # A step's error is shown when its end is known, with what to do next.
            track.queue.extend(one for one in body["messages"] if one["output_type"] != "error")
            self._news.notify_all()
            send = track.late and not track.running
        if send:
            self._flush([track])

    def _move(self, record: Execution) -> None:
        """Follow an execution that the service has started in place of another one."""
        before = record.replaces
        assert before is not None
        track = self._tracks[before]
        self._moved[before] = record.id
        self._tracks[record.id] = track
        track.execution = record.id
        track.ended = False
        track.record = None
        track.values.clear()
        self.names.replace(before, record.id)
        self.generators.rename(before, record.id)
        if record.note:
            track.queue.append({"output_type": "stream", "name": "stderr", "text": f"mlbench: {record.note}\n"})

    def _now(self, execution: ExecutionId) -> ExecutionId:
        while execution in self._moved:
            execution = self._moved[execution]
        return execution

    def _take_record(self, track: Track, record: Execution) -> None:
        """Note what an execution has come to; with the lock held."""
        if track.ended:
            return
        track.record = record
        if record.state in ENDED:
            track.ended = True
            known = track.defs | track.quiet
            self._hidden.extend((track, one) for one in record.binds if one.name not in known)
            if record.draws and record.random is not None and track.start is not None:
                self._drawn.append((track, record))
            if record.state == "failed":
                if track.late:
                    self._last_failure = (record.ended or time.time_ns()) / 1e9
                if record.failure is None:
                    track.queue.append({"output_type": "stream", "name": "stderr",
                                        "text": f"Step {track.step} failed: {_why(record)}\n"})
                else:
                    failure = shown_failure(record.failure, track.step, self._hint(record.failure))
                    track.queue.append({"output_type": "error", "ename": record.failure.ename,
                                        "evalue": record.failure.evalue,
                                        "traceback": failure._render_traceback_()})
            elif record.state in ("cancelled", "skipped") and track.late and record.reason != "superseded":
                text = f"Step {track.step} {'was cancelled' if record.state == 'cancelled' else 'was not run'}: "
                track.queue.append({"output_type": "stream", "name": "stderr", "text": f"{text}{_why(record)}\n"})
            if track.late and not track.running:
                self._flush([track])
        self._news.notify_all()

    def _hint(self, failure: Failure) -> str | None:
        """Say what a NameError in a step is about, where the kernel has the name."""
        if failure.ename != "NameError" or "'" not in failure.evalue:
            return None
        name = failure.evalue.split("'")[1]
        if name not in self.namespace:
            return None
        return (f"The kernel has {name}, but the step's source does not show that it reads it. "
                f"Write a line `{name}` in the step.")

    def _flush(self, tracks: Iterable[Track]) -> None:
        """Send what late output there is of steps."""
        for track in tracks:
            with self._news:
                track.running = False
                if not track.late or self._delivery is None:
                    continue
                messages, track.queue = track.queue, []
                about = {"execution": track.execution, "step": track.step, "cell": track.cell}
                parent = track.parent if self.front.under_engine() else None
                for message in messages:
                    self._delivery.send(message, parent=parent, about=about)

    def _apply_news(self) -> None:
        """Move names to executions that turned out to have changed them, and generators to where steps left them."""
        with self._news:
            hidden, self._hidden = self._hidden, []
            drawn, self._drawn = self._drawn, []
        for track, binding in hidden:
            name = binding.name
            saw, now = track.before.get(name), self.names.source(name)
            same = (isinstance(saw, Held) and isinstance(now, Held) and saw.value is now.value) or (
                isinstance(saw, Provided) and isinstance(now, Provided)
                and self._now(saw.execution) == self._now(now.execution))
            if same and (binding.artifact is not None or binding.module is not None):
                self.names.provide(name, track.execution, Placeholder(name, _Waiter(self, track)))
                self.names.settle(name, self.value_of(track, name))
        for track, record in drawn:
            from mlbench.runs.randomness import from_bytes

            if track.start is not None and record.random is not None:
                warning = self.generators.go_on(track.start, from_bytes(self._blobs.get(record.random)), record)
                if warning:
                    self._say(warning)

    # --- the service and the store ----------------------------------------------------------------------------------

    def service(self) -> Service:
        """Return the service, found or started at the first step."""
        if self._closed:
            raise ServiceError("This kernel is ending.")
        from mlbench.runs.surroundings import preloadable

        hello = self._make_hello(environment(preloadable()))
        if self._service is None:
            self._service = self._connect()
            self._service.on_event(self.on_event)
            self._service.on_connected(self._attach_again)
            self._service.request("attach", hello)
        elif hello != self._hello:
            self._service.request("attach", hello)
        self._hello = hello
        return self._service

    def _attach_again(self, client: Service) -> None:
        client.request("attach", self._hello)

    def _make_hello(self, found: Any) -> KernelHello:
        return KernelHello(
            kernel=self.front.kernel_id, store=str(self._found_store()), environment=found,
            notebook=self.front.notebook, run=self.front.engine_run(), kind=self.front.kind(),
        )

    def _found_store(self) -> Path:
        if self._store is None:
            from mlbench.backends.blobs_local import LocalBlobs
            from mlbench.project.configuration import find_store
            from mlbench.runs.artifacts import Loader

            location = find_store(self.front.notebook)
            self._store = location.path
            self._blobs = LocalBlobs(location.path)
            self._loader = Loader(self._blobs, Settled(self.namespace))
            if location.notice:
                self._say(location.notice)
        return self._store

    def _keep(self, value: Any) -> Json:
        """Keep a large value in the store; once, for as long as no cell can have changed it."""
        import msgspec

        from mlbench.runs.artifacts import save_names

        binding = self.names.kept(value)
        if binding is None:
            binding = save_names({"value": value}, ["value"], self._blobs, durable=False)[0]
            if binding.artifact is None:
                raise TypeError(binding.problem or "it cannot be stored")
            self.names.keep(value, binding)
        built: Json = msgspec.to_builtins(binding)
        return built

    def _digest(self, value: Any) -> str:
        from mlbench.runs.values import pack

        binding = self.names.kept(value)
        return str(binding.artifact.digest) if binding is not None else str(pack(value).digest)

    def _differs(self, name: str, execution: ExecutionId, value: Any) -> bool:
        """Say whether a value of the kernel is no longer what an execution made."""
        from mlbench.runs.artifacts import Loader
        from mlbench.runs.capture import is_data
        from mlbench.runs.key import Fingerprint

        track = self._tracks.get(self._now(execution))
        record = track.record if track is not None else None
        binding = next((one for one in record.binds if one.name == name), None) if record is not None else None
        if binding is None or binding.artifact is None:
            return binding is None or binding.module is None
        if is_data(value) and binding.member is None:
            return self._digest(value) != binding.artifact.digest
        prints = Fingerprint(self.namespace)
        try:
            return prints.of(value) != prints.of(Loader(self._blobs, Settled(self.namespace)).load(binding))
        except Exception:  # noqa: BLE001  a value that cannot be compared counts as changed
            return True

    def read_of(self, name: str) -> Read:
        """Say what a step that runs in the kernel is given."""
        from mlbench.runs.capture import size_of, type_name

        provider = self.names.provider(name)
        track = self._tracks.get(self._now(provider)) if provider is not None else None
        value = self.namespace[name]
        return Read(name=name, type=type_name(value), size=size_of(value), execution=provider,
                    step=track.step if track is not None else None)

    def save(self, names: Collection[str]) -> tuple[Binding, ...]:
        """Store values of the namespace."""
        from mlbench.runs.artifacts import save_names

        return tuple(save_names(self.namespace, [name for name in names if name in self.namespace], self._blobs))

    def _say(self, text: str) -> None:
        sys.stderr.write(f"mlbench: {text}\n")
        sys.stderr.flush()

    # --- life -------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take part in the shell: cells wait, steps run."""
        self.namespace[WAIT] = self.wait
        self.shell.user_ns_hidden[WAIT] = self.wait
        self.shell.ast_transformers.append(self.waits)
        self.shell.events.register("pre_run_cell", self.before_cell)
        self.shell.events.register("post_run_cell", self.after_cell)
        self.front.on_shutdown(self.close)

    def unload(self) -> None:
        """Take no part any more; steps under way go on."""
        self.shell.ast_transformers.remove(self.waits)
        self.shell.events.unregister("pre_run_cell", self.before_cell)
        self.shell.events.unregister("post_run_cell", self.after_cell)
        self.shell.user_ns_hidden.pop(WAIT, None)
        self.namespace.pop(WAIT, None)
        self.front.restore()
        self.close()

    def close(self) -> None:
        """Leave the service: what runs goes on, and whoever waits here is woken."""
        self._closed = True
        service, self._service = self._service, None
        if service is not None:
            service.close()


_EXECUTION: Final = "execution:"
"""Before an execution's id where a wait is for it as a whole; no name has a colon."""
_PERHAPS: Final = "?"
"""Before a name that a cell may read, for all that can be told: it is waited for, and may have no value."""
_DYNAMIC: Final = frozenset({"eval", "exec", "globals", "locals"})


def _statement_reads(tree: ast.Module) -> list[set[str]]:
    from mlbench.notebook.cell import statement_reads

    return statement_reads(tree)


def _connect() -> Service:
    from mlbench.backends.service_socket import connect

    return connect(role="kernel", reconnect=True)


def _execution(found: Any) -> Execution:
    import msgspec

    return found if isinstance(found, Execution) else msgspec.convert(found, Execution)


def _names_in(answer: Any) -> list[str]:
    """Return the steps' names in an answer that names what was cancelled."""
    if isinstance(answer, dict):
        answer = answer.get("cancelled") or answer.get("steps") or []
    return [str(one.get("step")) if isinstance(one, dict) else str(one) for one in answer or []]


def _why(record: Execution) -> str:
    """Say in a few words why an execution did not succeed."""
    if record.failure is not None:
        text = f"{record.failure.ename}: {record.failure.evalue}".rstrip()
        return text if text.endswith((".", "!", "?")) else f"{text}."
    if record.note:
        return record.note
    return {
        "timeout": "it took longer than its --timeout.", "memory": "it ran out of memory.",
        "worker-lost": "its process was killed.", "service-lost": "the service that ran it was lost.",
        "kernel-lost": "its kernel is gone.", "user": "somebody cancelled it.",
        "superseded": "its cell was changed and run again.",
    }.get(record.reason or "", "a step that it needs did not succeed.")


def _placed(error: SyntaxError, step: str) -> SyntaxError:
    """Return a syntax error that counts lines in the cell as it is written, its %%step line included."""
    line = (error.lineno or 0) + 1
    return SyntaxError(error.msg, (f"step {step}", line, error.offset, error.text))
