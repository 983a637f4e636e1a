"""Records as bytes, and the names that they lie under, in whatever kind of store."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import Final

from mlbench.core.errors import NotFound, StoreError
from mlbench.core.records import SCHEMA, Execution, Job, JobVersion, Json, Run, Snapshot
from mlbench.runs.values import digest_of

__all__ = [
    "RECORD",
    "UNSYNCED",
    "claimed_name",
    "decode",
    "encode",
    "identifier_in_names",
    "is_of",
    "is_record_name",
    "is_torn",
    "month_of",
    "problems_of_record",
    "record_name",
]

RECORD: Final = re.compile(r"(\d{19})-([a-z]+(?:-[a-z]+)*)-([A-Za-z0-9._]{1,120})\.json")
"""A record's file: its time in nanoseconds, its kind and its id."""

UNSYNCED: Final = ".unsynced"
"""How the name of a record ends that need not be durable."""

_REMEDY: Final = "Restore it from a backup, or remove it."
_KIND = re.compile(r"[a-z]+(-[a-z]+)*")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,120}")
_CLAIM = re.compile(r"[A-Za-z0-9-]{1,120}")
_NOT_IN_FILE_NAMES = str.maketrans(":-", "..")


def identifier_in_names(identifier: str) -> str:
    """Return an id as it stands in a record's name."""
    return identifier.translate(_NOT_IN_FILE_NAMES)


def record_name(kind: str, identifier: str, now: int, *, durable: bool = True) -> str:
    """Return the name `<year>/<month>/<time>-<kind>-<id>` of a record written now (UTC nanoseconds).

    One that need not be durable is named so: what a power cut has left of it is no record, nor damage.

    Examples
    --------
    >>> record_name("snapshot", "blake3:00", 1_700_000_000_000_000_000)
    '2023/11/1700000000000000000-snapshot-blake3.00'
    >>> is_torn(record_name("run", "abcd", 1_700_000_000_000_000_000, durable=False), b"")
    True
    """
    if not _KIND.fullmatch(kind) or not _NAME.fullmatch(identifier):
        raise ValueError(f"not a record's kind and id: {kind!r}, {identifier!r}")
    end = "" if durable else UNSYNCED
    return f"{month_of(now)}/{now:019}-{kind}-{identifier_in_names(identifier)}{end}"


def month_of(moment: int) -> str:
    """Return the folder of the records of a time (UTC nanoseconds): `<year>/<month>`."""
    then = time.gmtime(moment // 1_000_000_000)
    return f"{then.tm_year:04}/{then.tm_mon:02}"


def is_of(name: str, kind: str, owners: Collection[str]) -> bool:
    """Say whether a record's name is that of one of a kind whose id is one of these, a hyphen and more.

    Examples
    --------
    >>> name = record_name("executions", "x3k7-12", 1_700_000_000_000_000_000)
    >>> [is_of(name, "executions", owners) for owners in (["x3k7"], ["x3k"])]
    [True, False]
    """
    found = RECORD.fullmatch(f"{name.rpartition('/')[2].removesuffix('.json')}.json")
    if found is None or found[2] != kind:
        return False
    owner, _, rest = found[3].removesuffix(UNSYNCED).partition(".")
    return bool(rest) and owner in owners


def is_torn(name: str, text: bytes) -> bool:
    """Say whether the bytes of a record are what a power cut may have left of one that nobody had synced."""
    return name.removesuffix(".json").endswith(UNSYNCED) and (b"\0" in text or not text.endswith(b'"\n'))


def is_record_name(name: str) -> bool:
    """Say whether a text is the name of a record, and so a path that leads nowhere else."""
    year, _, rest = name.partition("/")
    month, _, file = rest.partition("/")
    return year.isdigit() and month.isdigit() and RECORD.fullmatch(f"{file}.json") is not None


def claimed_name(name: str) -> str:
    """Return the file, among what is being written, that says that somebody has taken a name."""
    if not _CLAIM.fullmatch(name):
        raise ValueError(f"not a name that can be taken: {name!r}")
    return f"claim-{name}"


def encode(kind: str, identifier: str, record: Json | bytes, now: int) -> bytes:
    """Return a record as it is written: `schema`, `record`, `id` and `time` are added where it has no such field.

    One that is JSON already has none of these, and at least one other. Its digest follows, as a line of its own, so
    that whatever changes in the file is noticed: also what leaves it a record.
    """
    from mlbench.runs.wire import msgspec, numbers_as_text

    head = {"schema": SCHEMA, "record": kind, "id": identifier, "time": now}
    if isinstance(record, bytes):
        written: bytes = msgspec.json.encode(head)[:-1] + b"," + record[1:]
    else:
        written = msgspec.json.encode(head | numbers_as_text(msgspec.to_builtins(record)))
    return b"%b\n%b\n" % (written, _digest_line(written))


def _digest_line(written: bytes) -> bytes:
    """Return the digest of a record as the second line of its file: JSON, as the first one is."""
    return b'"blake3:%b"' % digest_of(written).encode()


def decode(text: bytes, place: str) -> Json:
    """Return the record that bytes are.

    Raise `StoreError`, naming the place, if they are none; `NotFound` if they are what a power cut has left of one.
    """
    if is_torn(place, text):
        raise NotFound(f"A power cut has left nothing of the record {place}.")
    try:
        return _decoded(text)
    except ValueError as error:
        raise StoreError(f"The record {place} cannot be read: {error}.", _REMEDY) from error


def _decoded(text: bytes) -> Json:
    """Return the record that bytes are, its line of JSON, whose digest may follow.

    Raise `ValueError`, which says what is wrong with them, if they are none.
    """
    import msgspec

    try:
        written, _, digest = text.partition(b"\n")
        record: Json = msgspec.json.decode(written, type=dict)
        if digest and digest != _digest_line(written) + b"\n":  # records had none at first
            raise ValueError("its content is not what its digest says")
        if not isinstance(record["record"], str):
            raise TypeError("its kind is no text")
        for one in (record, *(record.get("executions") or ())):
            for metric in (isinstance(one, dict) and one.get("metrics")) or ():
                if isinstance(metric, dict) and isinstance(metric.get("value"), str):
                    metric["value"] = float(metric["value"])
    except UnicodeDecodeError as error:  # which is no `DecodeError`: texts are made when all else has been read
        raise ValueError("it is no UTF-8") from error
    except KeyError as error:
        raise ValueError(f"it has no {error}") from error
    except (msgspec.DecodeError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return record


_TYPES: Final[dict[str, type]] = {
    "run": Run,
    "execution": Execution,
    "snapshot": Snapshot,
    "job": Job,
    "job-version": JobVersion,
}


def problems_of_record(name: str, text: bytes) -> dict[str, str]:
    """Return what is wrong in the bytes of a record, by its name."""
    from mlbench.runs.wire import msgspec

    if is_torn(name, text):
        return {}
    try:
        record = _decoded(text)
        for one in record["executions"] if record["record"] == "executions" else ():
            msgspec.convert(one, Execution)
        if record["record"] in _TYPES:
            msgspec.convert(record, _TYPES[record["record"]])
    except ValueError as error:
        return {name: f"The record {name} cannot be read: {error}."}
    except (KeyError, TypeError) as error:
        return {name: f"The record {name} cannot be used: {error!r}."}
    if record["record"] != RECORD.fullmatch(f"{name.rpartition('/')[2]}.json")[2]:  # type: ignore[index]
        return {name: f"The record {name} is of another kind than its name says."}
    return {}
