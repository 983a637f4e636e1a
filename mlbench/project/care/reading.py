"""The records of a store, read once each."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, RunId
from mlbench.core.ports import BlobStore, Catalog, Piece
from mlbench.core.records import ENDED
from mlbench.project.history import runs_under_way
from mlbench.runs.reachable import Survey, uses
from mlbench.runs.saying import InOrder, Saying, said_in

__all__ = ["Reading", "contents"]

_ENDING: Final = ("run", "execution", "executions")
"""The kinds of records that say how something ended."""


class Reading:
    """The records of a store, read once each; what cannot be read is told by name."""

    def __init__(self, blobs: BlobStore, catalog: Catalog | None = None, *, with_said: bool = False) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self.met: set[RunId] = set()
        self.survey = Survey(with_uses=catalog is None, with_said=with_said)
        self.damaged: dict[str, str] = {}
        self.pieces: dict[str, Piece] = {}
        self._lists: dict[Digest, tuple[Digest, ...]] = {}
        self.objects: list[Piece] = []
        self.go_on()

    def go_on(self) -> None:
        """Read what has come since, and what the catalog alone knows: what is queued and running."""
        from mlbench.runs.wire import check_numbers, msgspec

        for piece in self._blobs.pieces("record"):
            if piece.name in self.pieces:
                continue
            self.pieces[piece.name] = piece
            try:
                record = self._blobs.read_record(piece)
                check_numbers(record)
                self.survey.add(record, piece.name)
            except NotFound:
                continue
            except StoreError as error:
                self.damaged[piece.name] = error.message
            except KeyError as error:
                self.damaged[piece.name] = f"It has no {error}."
            except (TypeError, AttributeError, ValueError) as error:
                self.damaged[piece.name] = f"It is not what a record of its kind is: {error}."
        self.survey.chunked = dict(self._blobs.chunked())
        if self._catalog is None:
            return
        self.objects = list(self._blobs.pieces("object"))
        for run in runs_under_way(self._catalog):
            self.survey.add({"record": "run", **msgspec.to_builtins(run)})
        for execution in self._catalog.under_way():
            self.survey.add({"record": "execution", **msgspec.to_builtins(execution)})

    def met_since(self, moment: int) -> set[Digest]:
        """Return what names other objects and was met since a time: what it names may not go before it does."""
        named = self.survey.lists | self.survey.snapshots.keys() | self.survey.chunked.keys()
        return {Digest(one.name) for one in self.objects if one.time >= moment and one.name in named}

    def inside(self, digest: Digest) -> tuple[Digest, ...]:
        """Return what a list names. Raise `ArtifactCorrupt` if it is damaged, `NotFound` if it is gone."""
        from mlbench.runs.values import named_by

        if digest not in self._lists:
            self._lists[digest], _ = named_by(self._blobs.get_parts(digest))
        return self._lists[digest]

    def inside_or_nothing(self, digest: Digest) -> tuple[Digest, ...]:
        """Return what a list names as far as it can be read."""
        try:
            return self.inside(digest)
        except (NotFound, StoreError):
            return ()

    def users_of(self, digest: Digest) -> set[str]:
        """Return in words who needs an object: the records are read once more."""
        found: set[str] = set()
        for piece in self.pieces.values():
            with suppress(NotFound, StoreError, KeyError, TypeError, AttributeError):
                found.update(str(use) for one, use in uses(self._blobs.read_record(piece)) if one == digest)
        return found

    def is_there(self, run: RunId) -> bool:
        """Say whether the records of a run are still there: they go when it is freed."""
        try:
            return all(self._blobs.read_record(self.pieces[name]) for name in self.survey.records.get(run, ())[-1:])
        except NotFound:
            return False

    def saying_of(self, run: RunId) -> dict[str, Saying]:
        """Return what the records of a run say of it and of its executions that have ended, by their ids: read anew."""
        order, found = InOrder(), dict[str, Saying]()
        for name in self.survey.records.get(run, ()):
            try:
                record = self._blobs.read_record(self.pieces[name])
            except (NotFound, StoreError):
                continue
            them = record["executions"] if record["record"] == "executions" else [record]
            for one in them if record["record"] in _ENDING else ():
                if one["state"] in ENDED and (record["record"] == "run" or order.counts(one)):
                    found[one["id"]] = said_in(one)
        return found


def contents(blobs: BlobStore, pack: Piece) -> set[str]:
    """Return what lies in a pack; nothing if that cannot be told."""
    try:
        return set(blobs.contents(Digest(pack.name)))
    except (NotFound, ArtifactCorrupt):
        return set()
