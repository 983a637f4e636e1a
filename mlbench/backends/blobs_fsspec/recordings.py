"""The records of a store under a URL.

Their names begin with their time, so that the new ones are found without listing all; and many are read at once, since
each is a request of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from mlbench.backends.blobs_fsspec.remote import Entry, Remote
from mlbench.backends.blobs_local.recording import (
    RECORD,
    decode,
    encode,
    identifier_in_names,
    is_record_name,
    month_of,
    record_name,
)
from mlbench.core.errors import NotFound
from mlbench.core.ports import Piece
from mlbench.core.records import Json

__all__ = ["Recordings"]

_TOGETHER: Final = 256
"""Records that are read at once where one after the other is asked for."""

_DIGITS: Final = 6
_SPAN: Final = 10 ** (19 - _DIGITS)
"""The first digits of a record's time by which it is listed, and the nanoseconds (2.8 hours) that have the same."""

_SPANS: Final = 40
"""Records of more spans are listed by the month."""

_RECENT: Final = 3600 * 10**9
_LISTED: Final = 600.0
"""Nanoseconds for which the records are listed anew whenever one is looked for, and seconds for which a list of the
older ones is taken for true: a clock may be wrong by the difference."""


class Recordings:
    """The records under a URL. Calls may come from several threads."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._lock = threading.Lock()
        self._ahead = _Ahead(remote, ())
        self._older: dict[tuple[str, str], str] = {}
        self._listed = float("-inf")

    def append(self, kind: str, identifier: str, record: Json | bytes) -> None:
        """Add a record, or one that is JSON already (see `encode`)."""
        now = time.time_ns()
        name = f"records/{record_name(kind, identifier, now)}.json"
        data = encode(kind, identifier, record, now)
        self._remote.create(name, len(data), [(0, data)])

    def pieces(self, since: int | None = None, wanted: Callable[[str], bool] | None = None) -> Iterator[Piece]:
        """Yield the records, all or those since a time, whose names are wanted, the oldest first."""
        entries = self._remote.entries("records") if since is None else self._since(since)
        sizes = ((entry.name, entry.size) for entry in entries if wanted is None or wanted(entry.name))
        while batch := list(islice(sizes, _TOGETHER)):
            with self._lock:
                self._ahead = _Ahead(self._remote, tuple(name for name, _ in batch))
            for path, size in batch:
                name = path.removeprefix("records/").removesuffix(".json")
                if is_record_name(name):
                    yield Piece("record", name, size, int(name.rpartition("/")[2][:19]))

    def records(self, kind: str | None) -> Iterator[Json]:
        """Yield the records, oldest first."""
        names = (one.name for one in self.pieces() if kind is None or _kind_and_id(one.name)[0] == kind)
        while batch := [f"records/{name}.json" for name in islice(names, _TOGETHER)]:
            yield from self._remote.each(self.read, batch)

    def bytes(self, name: str) -> bytes:
        """Return a record's bytes. Raise `FileNotFoundError`."""
        with self._lock:
            ahead = self._ahead
        return found if (found := ahead.get(name)) is not None else self._remote.read(name)

    def forget(self, name: str) -> None:
        """Know nothing of a record any more."""
        with self._lock:
            self._ahead.forget(name)
            kind_and_id = _kind_and_id(name)
            if self._older.get(kind_and_id) == name:
                del self._older[kind_and_id]

    def read(self, name: str) -> Json:
        """Return the record under a name. Raise `NotFound`, or `StoreError` if it cannot be read."""
        try:
            return decode(self.bytes(name), f"{self._remote.url}/{name}")
        except FileNotFoundError as error:
            raise NotFound(f"The store {self._remote.url} has no record {name}.") from error

    def find(self, kind: str, identifier: str) -> Json | None:
        """Return the latest record of a kind and id written in this month or the one before, if there is one."""
        wanted = (kind, identifier_in_names(identifier))
        now = time.time_ns()
        recent = [one.name for one in self._since(now - _RECENT) if _kind_and_id(one.name) == wanted]
        name = max(recent, default=None) or self._find_older(wanted, now)
        if name is None:
            return None
        try:
            return self.read(name)
        except NotFound:
            return None

    def _find_older(self, wanted: tuple[str, str], now: int) -> str | None:
        with self._lock:
            if time.monotonic() - self._listed > _LISTED:
                began = time.monotonic()
                this = month_of(now)
                months = (_month_before(this), this)
                entries = [entry for month in months for entry in self._remote.entries(f"records/{month}")]
                self._older = {_kind_and_id(entry.name): entry.name for entry in entries}
                self._listed = began
            return self._older.get(wanted)

    def _since(self, since: int) -> Iterator[Entry]:
        """Yield what was written since a time, by its name, and perhaps some that is older; the oldest first."""
        now = time.time_ns()
        spans = range(since // _SPAN, now // _SPAN + 2)  # a clock may be ahead of ours
        if len(spans) <= _SPANS:
            folders = dict.fromkeys(
                (month_of(moment), span) for span in spans for moment in (span * _SPAN, (span + 1) * _SPAN - 1)
            )
            for month, span in folders:
                yield from self._remote.entries(f"records/{month}", f"{span:0{_DIGITS}}")
            return
        first = month_of(since)
        for year in self._remote.folders("records"):
            for month in self._remote.folders(f"records/{year}") if year >= first[:4] else ():
                if f"{year}/{month}" >= first:
                    yield from self._remote.entries(f"records/{year}/{month}")


class _Ahead:
    """Records that are about to be read: the first that is asked for brings the others."""

    def __init__(self, remote: Remote, names: tuple[str, ...]) -> None:
        self._remote = remote
        self._names = names
        self._lock = threading.Lock()
        self._found: dict[str, bytes | None] | None = None

    def get(self, name: str) -> bytes | None:
        """Return a record's bytes; None if it is not among these, or gone."""
        if name not in self._names:
            return None
        with self._lock:
            if self._found is None:
                names = self._names
                self._found = dict(zip(names, self._remote.each(self._read, names), strict=True))
            return self._found.get(name)

    def forget(self, name: str) -> None:
        """Have a record read anew if it is asked for."""
        self._names = tuple(one for one in self._names if one != name)

    def _read(self, name: str) -> bytes | None:
        try:
            return self._remote.read(name)
        except FileNotFoundError:
            return None


def _kind_and_id(name: str) -> tuple[str, str]:
    found = RECORD.fullmatch(f"{name.rpartition('/')[2].removesuffix('.json')}.json")
    return (found[2], found[3]) if found is not None else ("", "")


def _month_before(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year - (number == 1):04}/{(number - 2) % 12 + 1:02}"
