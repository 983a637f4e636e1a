"""One kernel's steps: a cell is handed over, its names become pending, and whoever reads one waits.

It puts together who knows what: `front` the request, `names` who provides each name, `order` the steps so far, `news`
what became of them, `results` the values that they gave, `waiting` the waits, `generators` the random state, `storage`
the store.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from mlbench.core.errors import MlbenchError, ResultError, StepFailed, UsageError
from mlbench.core.ids import ExecutionId, new_id
from mlbench.core.messages import StepOptions, Submission
from mlbench.core.records import Failure, Json, Read
from mlbench.entrypoints.kernel.attachment import Attachment, Connect, Service
from mlbench.entrypoints.kernel.clusters import Clusters
from mlbench.entrypoints.kernel.display import Delivery, show_here
from mlbench.entrypoints.kernel.errors import CellNotRun, shown_failure, shown_syntax_error
from mlbench.entrypoints.kernel.front import Front
from mlbench.entrypoints.kernel.generators import Generators, Start
from mlbench.entrypoints.kernel.modules import ModuleWatch
from mlbench.entrypoints.kernel.names import Names
from mlbench.entrypoints.kernel.news import News, as_execution
from mlbench.entrypoints.kernel.order import Order
from mlbench.entrypoints.kernel.parts import cell_key, parts_of
from mlbench.entrypoints.kernel.pending import WAIT, Waits, is_placeholder, runs_a_step
from mlbench.entrypoints.kernel.results import Results
from mlbench.entrypoints.kernel.settings import MLBench
from mlbench.entrypoints.kernel.sources import imports_of
from mlbench.entrypoints.kernel.storage import Storage
from mlbench.entrypoints.kernel.submission import (
    Track,
    defs_of,
    find_inputs,
    is_plain,
    modules_behind,
    requirements_of,
    without_modules,
)
from mlbench.entrypoints.kernel.waiting import Waiting, listed, names_in
from mlbench.runs.endings import why
from mlbench.runs.reach import reach

if TYPE_CHECKING:
    from mlbench.entrypoints.kernel.overview import Overview

__all__ = ["Session"]


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
        self.storage = Storage(self.namespace, self.front.notebook, self._say)
        self.names = Names(self.namespace, self._differs, self.storage.forget)
        self.generators = Generators()
        self.order = Order(self.namespace)
        self.modules = ModuleWatch(self.namespace, self._say)
        self._delivery = Delivery(self.front.kernel) if self.front.kernel is not None else None
        self.news = News(self._delivery, moved=self._on_moved, hint=self._hint, answers=self.front.under_engine)
        self.waiting = Waiting(self.news, self._ask, tell=self._tell_page, say=self._say)
        self.results = Results(
            self.news,
            self.names,
            self.storage,
            self.generators,
            self.waiting,
            ask=self._ask,
            may_wait=self.front.may_wait,
            show=self._show,
            say=self._say,
        )
        self.waits = Waits(self._begin, _statement_reads, self._needs)
        self.before_context: Any = None
        self.settings = MLBench(parent=shell)
        self.clusters = Clusters(self.front.notebook, self.service, self.storage.put)
        self.attachment = Attachment(self.front, self.storage.named, self.news, connect, self._say)
        self._sources: dict[str, str] = {}  # each cell as it was run last, in the order of these runs
        self._parameter_names: tuple[str, ...] | None = None  # none: no parameters cell has run since
        self._new_run = False
        self._running: tuple[Any, Any] | None = None  # the cell that runs, as IPython knows it, and its request

    # --- cells of the notebook --------------------------------------------------------------------------------------

    def before_cell(self, info: Any) -> None:
        """Note that a cell starts (IPython's `pre_run_cell`)."""
        request = self.front.request().get("header", {}).get("msg_id")
        if self._running is not None and self._running[1] == request:  # `%%capture` and others run cells inside theirs
            return
        self._running = (info, request)
        self.front.cell_starts(info)
        if info is None or not getattr(info, "raw_cell", "").strip():
            return
        cell = self.front.cell_id() or info.raw_cell
        self._sources.pop(cell, None)
        self._sources[cell] = info.raw_cell
        self.names.sync()
        self.results.apply_news()
        if "parameters" in self.front.tags():
            self._new_run = bool(self.order.steps)
            self._read_parameters(info.raw_cell)

    def after_cell(self, result: Any) -> None:
        """Note that a cell has ended (IPython's `post_run_cell`)."""
        info = getattr(result, "info", None)
        if self._running is not None and info is not None and info is not self._running[0]:
            return
        self._running = None
        self.names.sync()
        self.modules.settle()
        self.generators.note_source(self.front.source)
        self.front.cell_ends()
        request = self.front.last_request
        tracks = [track for track in self.news.tracks() if track.running and track.parent == request]
        if tracks and self._delivery is not None:
            self._delivery.after_idle(lambda: self.news.flush(tracks))
        else:
            self.news.flush(tracks)

    def _begin(self, tree: ast.Module) -> list[str] | None:
        """Look at a cell's tree before it runs; return which executions it waits for, None if it waits for nothing."""
        if not self.front.runs_cell():
            return None
        failed = self.news.last_failure
        if failed is not None and not self.front.under_engine() and self.front.sent_before(failed):
            raise CellNotRun("Not run: a step failed after this cell had been asked for. Run the cell again.")
        self.names.sync()
        self.names.touch(self._touched(tree))
        self.modules.see(tree)
        self._introduce()
        files = self._files_awaited(tree)
        return files if files or self.names.pending() else None

    def _files_awaited(self, tree: ast.Module) -> list[str]:
        """Return the steps under way that write files which a plain cell names."""
        if not self.order.writes_under_way() or all(map(runs_a_step, tree.body)):
            return []
        from mlbench.notebook.cell import analyse

        try:
            named = analyse(self.front.source).names_paths
        except SyntaxError:
            return []
        return sorted({_EXECUTION + track.execution for _, track in self.order.writers_of(named) if not track.ended})

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
        """Note the names that the parameters cell binds."""
        from mlbench.notebook import parameters

        try:
            self._parameter_names = tuple(one.name for one in parameters.read(source))
        except (MlbenchError, SyntaxError):
            self._parameter_names = ()

    # --- steps ------------------------------------------------------------------------------------------------------

    def submit(self, line: str, body: str) -> None:
        """Hand a step's cell over (`%%step`), and wait for it where late output would not arrive."""
        from mlbench.notebook.foreach import names_of
        from mlbench.notebook.step import not_first, read_line

        step, options = read_line(line)
        try:
            names = without_modules(names_of(body, options), self.namespace)
        except SyntaxError as error:
            raise shown_syntax_error(error, step) from None
        if "%%step" in names.magics:
            raise not_first(next(one.partition("%%step")[2] for one in body.splitlines() if one.startswith("%%step")))
        if names.stars:
            raise UsageError(
                f"Step {step} has `from {names.stars[0]} import *`, so its names can't be known.",
                "Put that line into a plain cell, or import the names that the step uses.",
            )
        self.order.vacate(self.front.cell_id(), step, self.front.request())
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
        self.results.apply_news()
        service = self.service()
        cell = self.front.cell_id()
        former = self.order.former(step, cell)
        requirements = requirements_of(options, self.front.notebook)
        defs, quiet, unstored = defs_of(step, names, options)
        inputs = find_inputs(
            names,
            self.namespace,
            self.names,
            former,
            resume_own=options.resume_own,
            defs=defs | quiet,
            keep=self.storage.keep,
        )
        surroundings = surroundings_of.read(self.shell)
        self.modules.warn(body, [surroundings.folder, *surroundings.path])
        waits_for = {
            one: why
            for one, why in self.order.parents(step, names, options).items()
            if one not in set(inputs.edges.values())
        }
        python = self._python(body)
        behind = modules_behind(inputs.edges, self.news.track)
        known = parts_of(
            step=step,
            source=python,
            options=options,
            requirements=requirements,
            names=names,
            values=inputs.held,
            edges=inputs.edges,
            behind=behind,
            namespace=self.namespace,
            defs=defs,
            surroundings=surroundings,
            store=self.storage.path(),
            data=self.storage.digest,
        )
        key = cell_key(
            known.parts,
            {name: self._key(one) for name, one in inputs.edges.items()},
            [self._key(one) for one in waits_for],
        )
        digest = self.storage.put_large(inputs.data)
        execution = ExecutionId(new_id())
        supersedes = former.execution if former is not None and not former.ended and former.key != key else None
        late = self.front.takes_late_output()
        track = Track(
            step=step,
            cell=cell,
            execution=execution,
            body=body,
            names=names,
            defs=defs,
            unstored=unstored,
            quiet=quiet,
            before=inputs.before,
            late=late,
            parent=self.front.request(),
            key=key,
            start=self._start(execution, names, former),
            modules=behind | known.modules,
        )
        self.news.expect(track)  # before the service can have news of it
        submission = Submission(
            execution=execution,
            step=step,
            source=body,
            line=line,
            cell=cell,
            options=options,
            edges=inputs.edges,
            position=self.order.place(step),
            waits_for=waits_for,
            capture=b"" if digest else inputs.data,
            capture_digest=digest,
            captured=inputs.described,
            defs=tuple(sorted(defs)),
            quiet_defs=tuple(sorted(quiet)),
            deletes=tuple(sorted(names.deletes)),
            changes=tuple(sorted(names.changes)),
            surroundings=surroundings,
            random=track.start.states if track.start else None,
            random_from=track.start.after if track.start else None,
            seeded=self.generators.seeded,
            parameters=self._parameter_values(),
            new_run=self._new_run,
            supersedes=supersedes,
            key=key,
            key_parts=known.parts,
            paths=known.paths,
            items_from=known.items_from,
            cells=tuple(self._sources.values()),
            cache_default=self.settings.cache,
            max_items=self.settings.max_items,
            requirements=requirements,
            **self.clusters.given(imports_of(python), surroundings),
        )
        try:
            answer = service.request("submit", submission)
        except BaseException as error:
            self.news.forget(track)
            if track.start is not None:
                self.generators.take_back()
            if isinstance(error, KeyboardInterrupt):  # the service may have taken it all the same
                self._ask("cancel", {"execution": execution})
            raise
        self._new_run = False
        self.news.accept(track, as_execution(answer["execution"]))
        if answer.get("note"):
            self._say(answer["note"])
        self._place(track, {**_reasons(inputs.edges), **waits_for})
        return track

    def _place(self, track: Track, reasons: Mapping[ExecutionId, str]) -> None:
        """Put placeholders for what the step binds."""
        former = self.order.steps.get(track.step)
        if former is not None and former is not track:
            former.values.clear()  # whoever still asks for one has it from the store
        if self.order.add(track, reasons) is not None:
            self._say(f"Step {track.step} was another cell's; this cell takes its place.")
        for name in track.names.deletes:
            self.names.withdraw(name)
        for name in (*track.defs, *track.quiet, *track.unstored):
            self.results.promise(name, track)

    def take_over(self, track: Track) -> None:
        """Let a step that has run in the kernel provide what it bound there."""
        assert track.record is not None
        self.news.run = track.record.run
        self.news.expect(track)
        given = {one.name: one.execution for one in track.record.reads if one.execution is not None}
        self._place(track, _reasons(given))
        for name, value in track.values.items():
            self.names.settle(name, value)

    def _python(self, body: str) -> str:
        """Return a cell as Python. IPython's prefilter is left out: it looks at values."""
        return str(self.shell.input_transformer_manager.transform_cell(body))

    def _key(self, execution: ExecutionId) -> str | None:
        track = self.news.track(execution)
        return track.key if track is not None else None

    def _start(self, execution: ExecutionId, names: Any, former: Track | None) -> Start | None:
        if names.seeds:
            self.generators.seeded = True
        again = former is not None and self.generators.is_last(former.execution)
        return self.generators.start(execution, former.start if former is not None else None, again)

    def _parameter_values(self) -> Json:
        from mlbench.notebook.parameters import recorded

        if self._parameter_names is None:
            self._read_parameters(self.front.parameters_in_file() or "")
        names = self._parameter_names or ()
        return recorded({name: value for name in names if is_plain(value := self.namespace.get(name))})

    # --- waiting ----------------------------------------------------------------------------------------------------

    def wait(self, *names: str) -> None:
        """Put the values of names in their place: what the statements call that are inserted before a cell's own."""
        for name in names:
            if name.startswith(_EXECUTION):
                self.results.wait_for(self.results.known(ExecutionId(name.removeprefix(_EXECUTION))))
                continue
            perhaps, name = name.startswith(_PERHAPS), name.removeprefix(_PERHAPS)  # noqa: PLW2901
            execution = self.names.provider(name)
            if execution is None or not is_placeholder(self.namespace.get(name)):
                continue
            try:
                self.names.settle(name, self.results.value_of(self.results.known(execution), name))
            except (StepFailed, ResultError):
                if not perhaps:
                    raise

    def barrier(self) -> None:
        """Return when no step is under way any more and all that they printed has been sent."""
        tracks = self.news.tracks()
        for track in tracks:
            self.waiting.until_ended(track)
        self.news.flush(tracks)

    def emit(self, news: Json) -> None:
        """Take what a plain cell says of itself: metrics, tags and artifacts are the run's."""
        if news["type"] not in ("metrics", "tags", "artifacts"):
            return
        what = {news["type"]: news[news["type"]]}
        if self.front.under_engine() and self._delivery is not None:
            self._delivery.tell(what)
        elif news["type"] == "metrics":
            self.service().request("metrics", {"run": self.news.run, **what})
        elif news["type"] == "artifacts":
            self.service().request("artifacts", {"run": self.news.run, **what})
        else:
            self.service().request("tag", {"run": self.news.run, **what})

    def cancel(self, step: str | None) -> None:
        """Cancel a step, or all of this run's that are under way (`%cancel`)."""
        if step is None:
            if self.news.run is None:
                self._say("No step has been run.")
                return
            body: Json = {"run": self.news.run}
        else:
            track = self.order.steps.get(step)
            if track is None:
                raise UsageError(
                    f"No step {step} has been run here.", f"Steps: {', '.join(self.order.steps) or 'none'}."
                )
            body = {"execution": track.execution}
        names = names_in(self.service().request("cancel", body))
        self._say(f"Cancelled {listed(names)}." if names else "Nothing was under way.")

    def steps(self) -> Overview:
        """Return the steps of this kernel and how far they are (`%steps`)."""
        from mlbench.entrypoints.kernel.overview import overview

        records = {}
        for track in self.order.steps.values():
            if not track.ended:  # how far its items are is not told with each of them
                try:
                    answer = self._ask("execution", {"id": track.execution})
                except MlbenchError:  # what is known here is shown all the same
                    continue
                records[track.execution] = as_execution(answer["execution"])
        return overview(self.order, self.news, self._sources, records=records)

    def _follow(self, track: Track) -> None:
        """Wait for a step in its own cell: what it prints is the cell's output, and its error is the cell's."""
        track.late = False
        self.waiting.until_ended(track, lambda: self._show(track))
        self._show(track)
        self.results.apply_news()
        record = track.record
        assert record is not None
        if record.state in ("succeeded", "reused"):
            return
        if record.state == "failed" and record.failure is not None:
            raise shown_failure(record.failure, track.step, self._hint(record.failure))
        raise StepFailed(track.step, record.state, why(record))

    def _show(self, track: Track) -> None:
        """Show what a step has printed as output of the running cell; its error is raised instead."""
        for message in self.news.drain(track):
            if message["output_type"] != "error":
                show_here(self.shell, message)

    # --- news -------------------------------------------------------------------------------------------------------

    def _on_moved(self, before: ExecutionId, now: ExecutionId) -> None:
        self.names.replace(before, now)
        self.generators.rename(before, now)

    def _hint(self, failure: Failure) -> str | None:
        """Say what a NameError in a step is about, where the kernel has the name."""
        if failure.ename != "NameError" or "'" not in failure.evalue:
            return None
        name = failure.evalue.split("'")[1]
        if name in ("exit", "quit"):
            return f"A step ends where its cell ends: leave {name}() out, or raise an error that says what is wrong."
        if name not in self.namespace:
            return None
        return (
            f"The kernel has {name}, but the step's source does not show that it reads it. "
            f"Write a line `{name}` in the step."
        )

    def _differs(self, name: str, execution: ExecutionId, value: Any) -> bool:
        return self.results.differs(name, execution, value)

    def _tell_page(self, execution: ExecutionId | None) -> None:
        """Tell a page what the running cell waits for, so that it can offer to end the wait; None when it is over."""
        if self._delivery is not None and not self.front.under_engine():
            self._delivery.tell({"waits_for": execution})

    def _ask(self, op: str, body: Any) -> Any:
        return self.service().request(op, body, timeout=10)

    # --- the service and the store ----------------------------------------------------------------------------------

    def service(self) -> Service:
        """Return the service, found or started at the first step."""
        return self.attachment.service()

    def read_of(self, name: str) -> Read:
        """Say what a step that runs in the kernel is given."""
        from mlbench.runs.capture import size_of, type_name

        provider = self.names.provider(name)
        track = self.news.track(provider)
        value = self.namespace[name]
        return Read(
            name=name,
            type=type_name(value),
            size=size_of(value),
            execution=provider,
            step=track.step if track is not None else None,
        )

    def _say(self, text: str) -> None:
        sys.stderr.write(f"mlbench: {text}\n")
        sys.stderr.flush()

    # --- life -------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take part in the shell: cells wait, steps run."""
        self._introduce()
        self.modules.look_back(self.namespace.get("In") or ())
        self.shell.ast_transformers.append(self.waits)
        self.shell.configurables.append(self.settings)  # what `%config` knows
        self.shell.events.register("pre_run_cell", self.before_cell)
        self.shell.events.register("post_run_cell", self.after_cell)
        self.front.on_shutdown(self.close)

    def _introduce(self) -> None:
        """Put into the namespace what cells call, at first and after `%reset`; `mlbench` only if the name is free."""
        if WAIT in self.namespace:
            return
        self.namespace[WAIT] = self.shell.user_ns_hidden[WAIT] = self.wait
        package = sys.modules["mlbench"]
        if self.namespace.setdefault("mlbench", package) is package:
            self.shell.user_ns_hidden["mlbench"] = package

    def unload(self) -> None:
        """Take no part any more; steps under way go on."""
        self.shell.ast_transformers.remove(self.waits)
        self.shell.configurables.remove(self.settings)
        self.shell.events.unregister("pre_run_cell", self.before_cell)
        self.shell.events.unregister("post_run_cell", self.after_cell)
        for name in (WAIT, "mlbench"):
            hidden = self.shell.user_ns_hidden.pop(name, None)
            if hidden is not None and self.namespace.get(name) is hidden:
                del self.namespace[name]
        self.front.restore()
        self.close()

    def close(self) -> None:
        """Leave the service: what runs goes on, and whoever waits here is woken."""
        self.attachment.close()


_EXECUTION: Final = "execution:"
"""Before an execution's id where a wait is for it as a whole; no name has a colon."""
_PERHAPS: Final = "?"
"""Before a name that a cell may read, for all that can be told: it is waited for, and may have no value."""
_DYNAMIC: Final = frozenset({"eval", "exec", "globals", "locals"})


def _reasons(edges: Mapping[str, ExecutionId]) -> dict[ExecutionId, str]:
    """Say why a step waits for those that bind what it reads."""
    names: dict[ExecutionId, list[str]] = {}
    for name, execution in sorted(edges.items()):
        names.setdefault(execution, []).append(name)
    return {execution: f"reads {listed(read)}" for execution, read in names.items()}


def _statement_reads(tree: ast.Module) -> list[set[str]]:
    from mlbench.notebook.cell import statement_reads

    return statement_reads(tree)
