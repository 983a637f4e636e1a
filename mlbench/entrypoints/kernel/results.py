"""What steps give: the value of a name once its execution has ended, and what turned out to be different meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mlbench.core.errors import MlbenchError, ResultError, StepFailed
from mlbench.core.ids import ExecutionId, short
from mlbench.core.naming import naming
from mlbench.core.records import Json
from mlbench.entrypoints.kernel.display import let_figures_show
from mlbench.entrypoints.kernel.generators import Generators
from mlbench.entrypoints.kernel.names import ABSENT, Held, Names, Provided, Source
from mlbench.entrypoints.kernel.news import News, as_execution
from mlbench.entrypoints.kernel.pending import Placeholder
from mlbench.entrypoints.kernel.storage import Storage
from mlbench.entrypoints.kernel.submission import Track
from mlbench.entrypoints.kernel.waiting import Waiting
from mlbench.runs.endings import why

__all__ = ["Results"]

_LOG = logging.getLogger(__name__)


class _Waiter:
    """What a placeholder asks: the value that one execution gives a name, now or when it ends."""

    __slots__ = ("_results", "_track")

    def __init__(self, results: Results, track: Track) -> None:
        self._results = results
        self._track = track

    def may_wait(self) -> bool:
        return self._results.may_wait()

    def value(self, name: str, /) -> Any:
        value = self._results.value_of(self._track, name)
        self._results.names.settle(name, value)
        return value


class Results:
    """The values that the steps of one kernel give to names.

    Parameters
    ----------
    ask
        Asks the service.
    may_wait
        Whether code is running that may wait for a value.
    show
        Shows what a step has printed, where its own cell waits for it.
    say
        Called with a line for the user.
    """

    def __init__(
        self,
        news: News,
        names: Names,
        storage: Storage,
        generators: Generators,
        waiting: Waiting,
        *,
        ask: Callable[[str, Json], Any],
        may_wait: Callable[[], bool],
        show: Callable[[Track], None],
        say: Callable[[str], None],
    ) -> None:
        self.names = names
        self.may_wait = may_wait
        self._news = news
        self._storage = storage
        self._generators = generators
        self._waiting = waiting
        self._ask = ask
        self._show = show
        self._say = say

    def known(self, execution: ExecutionId) -> Track:
        """Return what is known of an execution of this kernel: only these provide names."""
        track = self._news.track(execution)
        assert track is not None, execution
        return track

    def promise(self, name: str, track: Track) -> None:
        """Put a placeholder in a name's place, which waits for what an execution gives it."""
        self.names.provide(name, track.execution, Placeholder(name, _Waiter(self, track)))

    def put_back(self, name: str, source: Source, namespace: dict[str, Any]) -> None:
        """Let a name be what it was where it came from."""
        if isinstance(source, Provided):
            if source != self.names.source(name):
                track = self.known(source.execution)
                track.values.pop(name, None)  # the object could have been changed in place since it was loaded
                self.promise(name, track)
        elif isinstance(source, Held):
            namespace[name] = source.value
        elif name in namespace:
            self.names.withdraw(name)

    def value_of(self, track: Track, name: str) -> Any:
        """Return the value that an execution gives a name, when it has ended.

        Raises
        ------
        StepFailed
            For an execution that did not succeed.
        ResultError
            For a name that has no value.
        """
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
            with naming(name, record.step, short(record.run)):
                value = self._storage.load(binding)
            let_figures_show(value)
        track.values[name] = value
        return value

    def _value_before(self, track: Track, name: str) -> Any:
        if name in track.unstored:
            raise ResultError(track.unstored[name], "Run the step without that option to have its value here.")
        source = track.before.get(name)
        if isinstance(source, Held):
            return source.value
        if isinstance(source, Provided) and self._news.now(source.execution) != track.execution:
            return self.value_of(self.known(source.execution), name)
        if name in track.quiet:
            raise ResultError(
                f"{name} of step {track.step} was not stored, since its name begins with _.",
                f"Give it another name, or run the step with --outputs {name}.",
            )
        raise ResultError(f"Step {track.step} ended without binding {name}.")

    def wait_for(self, track: Track) -> None:
        """Return when an execution has succeeded. Raise `StepFailed` if it ends in another way."""
        show = None if track.late else lambda: self._show(track)
        self._waiting.until_ended(track, show)
        while not self._final(track):
            self._waiting.until_ended(track, show)
        self.apply_news()
        record = track.record
        assert record is not None
        if record.state in ("succeeded", "reused"):
            return
        raise StepFailed(track.step, record.state, why(record), "Its own cell shows what happened.")

    def _final(self, track: Track) -> bool:
        """Return True if an execution stands; False if it runs again.

        One that drew random numbers stands only when the steps above it have ended: if one of them drew too, the
        service starts it again from there.
        """
        record = track.record
        if record is None or not record.draws or track.start is None or track.final == track.execution:
            return track.ended
        above = self._news.track(track.start.after)
        while above is not None and above is not track:
            self._waiting.until_ended(above)
            above = self._news.track(above.start.after) if above.start is not None else None
        execution = track.execution
        try:
            answer = self._ask("execution", {"id": execution})
            self._news.answered(execution, as_execution(answer["execution"]))
        except MlbenchError as error:
            _LOG.info("The service cannot be asked about step %s: %s", track.step, error)
        with self._news.changed:
            if track.execution == execution and track.ended:
                track.final = execution
        return track.final == track.execution

    def apply_news(self) -> None:
        """Move names to executions that turned out to have changed them, and generators to where steps left them."""
        hidden, drawn = self._news.take()
        for track, binding in hidden:
            name, given = binding.name, track.before.get(binding.name, ABSENT)
            for later in self._news.tracks_after(track):  # they run again with the new version
                if later.step != track.step and self._same(later.before.get(name, ABSENT), given):
                    later.before[name] = Provided(track.execution)
            if (binding.artifact or binding.module) and self._same(given, self.names.source(name)):
                self.promise(name, track)
                self.names.settle(name, self.value_of(track, name))
        for track, record in drawn:
            from mlbench.runs.randomness import from_bytes

            if track.start is not None and record.random is not None and record.id == track.execution:
                states = from_bytes(self._storage.get(record.random))
                warning = self._generators.go_on(track.start, states, record)
                if warning:
                    self._say(warning)

    def _same(self, one: Source | None, other: Source) -> bool:
        """Say whether a name still comes from where a step had it from."""
        if isinstance(one, Held) and isinstance(other, Held):
            return one.value is other.value
        return (
            isinstance(one, Provided)
            and isinstance(other, Provided)
            and self._news.now(one.execution) == self._news.now(other.execution)
        )

    def differs(self, name: str, execution: ExecutionId, value: Any) -> bool:
        """Say whether a value of the kernel is no longer what an execution made."""
        track = self._news.track(execution)
        record = track.record if track is not None else None
        binding = next((one for one in record.binds if one.name == name), None) if record is not None else None
        return self._storage.differs(binding, value)
