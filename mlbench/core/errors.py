"""What can go wrong that a user can fix.

::

    MlbenchError
    ├── UsageError              a wrong word: option, name, parameter, cron line, path       (exit code 2)
    │   ├── NotebookError       a notebook that cannot be run as it is
    │   ├── ParameterError      a parameter that the notebook does not have, or of another type
    │   ├── QueryError          a search of runs that cannot be read, and where
    │   ├── ScheduleError       a cron line or time zone
    │   └── NotFound            no such run, step, artifact, job (or more than one)
    ├── CaptureError            a name that cannot be sent to a step
    ├── ResultError             a name of a step that has no value, and why
    ├── StepFailed              a step that did not succeed, raised where its names are read
    ├── StoreError              the store cannot be read or written
    │   └── ArtifactCorrupt     bytes that are not what their digest says
    ├── NotTrusted              a value that would run code of somebody else if it were loaded
    └── ServiceError            the service cannot be reached, or refuses

Each carries its facts as attributes, says them in one sentence that ends in the next move, and survives pickling.
"""

from __future__ import annotations

from typing import Literal

from mlbench.core.ids import digest_shown

__all__ = [
    "ArtifactCorrupt",
    "CaptureError",
    "MlbenchError",
    "NotFound",
    "NotTrusted",
    "NotebookError",
    "ParameterError",
    "QueryError",
    "ResultError",
    "ScheduleError",
    "ServiceError",
    "StepFailed",
    "StoreError",
    "UsageError",
]


class MlbenchError(Exception):
    """Something that the user can fix; `str()` is the whole sentence.

    Parameters
    ----------
    message
        What happened and where.
    remedy
        What to do next, a sentence of its own.
    """

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message

    def _render_traceback_(self) -> list[str]:
        """Show the sentence alone in a notebook: our frames help nobody (IPython's protocol)."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(MlbenchError):
    """A wrong word: an option, a name, a parameter, a path."""


class NotebookError(UsageError):
    """A notebook that cannot be run as it is."""


class ParameterError(UsageError):
    """A parameter that the notebook does not have, or a value of another type."""


class QueryError(UsageError):
    """A search of runs that cannot be read.

    Parameters
    ----------
    why
        What is wrong, one sentence.
    query
        All of the text.
    place
        Where it cannot be read on, in characters from 0.
    """

    def __init__(self, why: str, query: str, place: int) -> None:
        super().__init__(why)
        self.args = (why, query, place)
        self.query = query
        self.place = place

    def __str__(self) -> str:
        begin = max(0, self.place - 60)
        shown = self.query[begin : begin + 100]
        shown = "".join(character if character.isprintable() else " " for character in shown)
        return f"{self.message}\n  {shown}\n  {' ' * (self.place - begin)}^"


class ScheduleError(UsageError):
    """A cron line or a time zone that cannot be used."""


class NotFound(UsageError):
    """No such run, step, artifact or job, or a prefix that fits several."""


class CaptureError(MlbenchError):
    """A name that cannot be sent to a step."""


class ResultError(MlbenchError):
    """A name of a step that has no value."""


class StoreError(MlbenchError):
    """The store cannot be read or written."""


class ArtifactCorrupt(StoreError):
    """Bytes that are not what their digest says.

    Parameters
    ----------
    message, remedy
        As of every error; see `at` and `of` for how they are made.
    expected
        The digest.
    got
        What was found in its place, a few words.
    name, step, run
        What it was bound to, and where, as far as that is known.
    """

    def __init__(
        self,
        message: str,
        remedy: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        name: str | None = None,
        step: str | None = None,
        run: str | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, expected, got, name, step, run)
        self.expected = expected
        self.got = got
        self.name = name
        self.step = step
        self.run = run

    @classmethod
    def at(cls, digest: str, got: str) -> ArtifactCorrupt:
        """Return the error that says what was found in the place of a digest.

        Examples
        --------
        >>> error = ArtifactCorrupt.at("blake3:" + "0" * 64, "no artifact")
        >>> print(error.message)
        An object of the store is damaged: expected blake3:00000000, got no artifact.
        >>> print(error.of("model", "train", "mq2a").message)
        `model` of step train in run mq2a is damaged in the store: expected blake3:00000000, got no artifact.
        """
        said = f"expected {digest_shown(digest)}, got {got}"
        return cls(f"An object of the store is damaged: {said}.", _MADE_AGAIN.format("what made it"), digest, got)

    def of(self, name: str | None = None, step: str | None = None, run: str | None = None) -> ArtifactCorrupt:
        """Return the error that says what is damaged and where it was made; what is known already stays."""
        name, step, run = self.name or name, self.step or step, self.run or run
        named = f"`{name}`" if name else "A value"
        what = "".join((named, f" of step {step}" if step else "", f" in run {run}" if run else ""))
        if self.expected is None:  # it is whole, and cannot be used
            return ArtifactCorrupt(self.message, self.remedy, None, self.got, name, step, run)
        message = f"{what} is damaged in the store: expected {digest_shown(self.expected)}, got {self.got}."
        remedy = _MADE_AGAIN.format(f"step {step}" if step else "what made it")
        return ArtifactCorrupt(message, remedy, self.expected, self.got, name, step, run)


_MADE_AGAIN = "Run {} again, or fetch it from a copy of the store: `mlbench store verify --repair-from COPY`."


class ServiceError(MlbenchError):
    """The service cannot be reached, or refuses."""


class NotTrusted(MlbenchError):
    """A value that is not signed by this user, and would run code if it were loaded.

    Parameters
    ----------
    name
        What it was bound to.
    run, step
        Where, as far as that is known.
    user
        Who stored it, as its run says.
    why
        `foreign`, or `unsigned` if it has no signature, or none of this user's although it has this user's name.
    kind
        Whether it was bound to a name, or logged by `mlbench.log_artifact`.
    """

    def __init__(
        self,
        name: str,
        run: str | None = None,
        step: str | None = None,
        user: str | None = None,
        why: Literal["foreign", "unsigned"] = "foreign",
        kind: Literal["name", "artifact"] = "name",
    ) -> None:
        of = "".join((f" of step {step}" if step else "", f" in run {run}" if run else ""))
        load = None
        if run and (step or kind == "artifact"):
            whose = f"mlbench.run({run!r})" + (f"[{step!r}]" if step else "")
            load = f"{whose}{'.artifacts' if kind == 'artifact' else ''}.load({name!r}, trust=True)"
        remedy: str | None
        if why == "unsigned" and user is None:
            message = f"`{name}`{of} is not signed, so that nobody can tell who stored it, and to load it runs code."
            remedy = "Run its cell again, or, if all that is unsigned here is yours: `mlbench trust --unsigned`."
        elif why == "unsigned":
            message = f"`{name}`{of} has your name on it, but it is not signed with your key, and to load it runs code."
            remedy = f"If it is yours: {load}." if load else "Run its step again."
        else:
            message = f"`{name}`{of} was stored by {user or 'somebody else'}, and to load it runs code of theirs."
            ways = [load, f"`mlbench trust {user}` for all that {user} stores" if user else None]
            remedy = f"If you trust that: {', or '.join(way for way in ways if way)}." if any(ways) else None
        super().__init__(message, remedy)
        self.args = (name, run, step, user, why, kind)
        self.name = name
        self.run = run
        self.step = step
        self.user = user
        self.why = why


class StepFailed(MlbenchError):
    """A step that did not succeed, raised where its names are read.

    Parameters
    ----------
    step
        The step's name.
    state
        How it ended: `failed`, `cancelled` or `skipped`.
    reason
        One sentence: the error's name and text, or what was cancelled.
    remedy
        What to do next.
    """

    def __init__(self, step: str, state: str, reason: str, remedy: str | None = None) -> None:
        super().__init__(f"Step {step} {_VERBS.get(state, state)}: {reason}", remedy)
        self.args = (step, state, reason, remedy)
        self.step = step
        self.state = state
        self.reason = reason


_VERBS = {"failed": "failed", "cancelled": "was cancelled", "skipped": "was skipped"}
