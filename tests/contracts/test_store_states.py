"""A store against a model of it: writers, readers, gc, damage, repair, copies and power cuts in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlbench.backends.blobs_local import store
from mlbench.backends.blobs_local.packs import packs_in
from mlbench.backends.blobs_local.recording import is_torn
from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import ArtifactCorrupt, NotFound, StoreError
from mlbench.core.ids import Digest, ExecutionId, RunId, new_id
from mlbench.core.records import UNDER_WAY, Artifact, Binding, Execution
from mlbench.project import Project, care, find_store
from mlbench.project.copying import copy
from mlbench.project.indexing import fill_catalog
from mlbench.runs.artifacts import save_lists
from mlbench.runs.retention import DAY, Rule
from mlbench.runs.values import Packed, named_by, pack, unpack
from tests.powercut import Disk

CONTENT: list[Any] = [f"value {number} " * 20 for number in range(8)]
CONTENT += [bytes(range(256)) * 400 + bytes([number]) * 66_000 for number in range(3)]  # in chunks
PACKED: list[Packed] = [pack(content) for content in CONTENT]
NUMBERS = {one.digest: number for number, one in enumerate(PACKED)}
VALUES = st.lists(st.integers(0, len(CONTENT) - 1), min_size=1, max_size=4, unique=True)
HOW = st.sampled_from(["objects", "pack", "list"])
OLD = 10 * DAY


@dataclass
class Known:
    """What the model knows of a run: the values that it binds, or the list."""

    old: bool
    values: list[int] = field(default_factory=list)
    listed: Digest | None = None
    kept: bool = False


class StoreStates(RuleBasedStateMachine):
    """Whatever happens, a run that is kept has its values, and what is damaged is known and never returned."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(store, "LARGE", 1 << 16)
        self.patch.setattr(store, "_RESERVE", 1 << 10)
        self.patch.setattr("mlbench.project.care.agreement.PAUSE", 0.0)
        self.folder = Path(tempfile.mkdtemp(prefix="mlb"))
        self.project = self.open("store")
        self.backup = self.open("backup")
        self.runs: dict[RunId, Known] = {}
        self.lists: dict[Digest, list[int]] = {}
        self.broken: set[Digest] = set()
        self.spoiled: set[str] = set()
        self.saved: set[str] = set()

    def open(self, name: str) -> Project:
        return Project(find_store(store=str(self.folder / name)), catalog=MemoryCatalog())

    def teardown(self) -> None:
        """Remove the stores."""
        shutil.rmtree(self.folder)
        self.patch.undo()

    @initialize()
    def begin(self) -> None:
        """Have a run to begin with."""
        self.record([0, 1], old=True, how="objects")

    # --- what is done -------------------------------------------------------------------------------------------------

    @rule(values=VALUES, old=st.booleans(), how=HOW)
    def record(self, values: list[int], old: bool, how: str, durable: bool = False) -> None:
        """Record a run that binds some values, or the list of them; what was broken is kept again by that."""
        ended = time.time_ns() - (OLD if old else 0)
        run = self.project.begin_run(kind="papermill", notebook="/n/n.ipynb", started=ended)
        together = [PACKED[value] for value in values if how != "objects" and PACKED[value].size < store.LARGE]
        alone = [PACKED[value] for value in values if PACKED[value] not in together]
        self.project.blobs.put_pack([(one.digest, one.parts) for one in together], durable=durable)
        self.project.blobs.put_all([(one.digest, one.parts) for one in alone], durable=durable)
        binds = [self.bound(value) for value in values]
        known = Known(old, values)
        if how == "list":
            binds = save_lists({"items": binds}, self.project.blobs, durable=durable)
            assert binds[0].artifact is not None
            known = Known(old, listed=binds[0].artifact.digest)
            self.lists[binds[0].artifact.digest] = values
        step = Execution(id=ExecutionId(new_id()), run=run.id, step="s", state="succeeded", binds=tuple(binds))
        self.project.put_execution(step)
        self.project.end_run(run, "succeeded", ended=ended)
        self.runs[run.id] = known
        assert all(self.reads(digest) for digest in self.needs(known))
        self.look_again()

    def bound(self, value: int) -> Binding:
        one = PACKED[value]
        artifact = Artifact(digest=one.digest, size=one.size, type=one.type, codec=one.codec)
        return Binding(name=f"v{value}", artifact=artifact)

    @rule(choice=st.integers(0, 20), kept=st.booleans())
    def keep(self, choice: int, kept: bool) -> None:
        """Say of a run that it is kept, or no longer."""
        if self.runs:
            run = list(self.runs)[choice % len(self.runs)]
            care.keep(self.project, run, kept=kept)
            self.runs[run].kept = kept

    @rule(later=st.booleans())
    def gc(self, later: bool) -> None:
        """Free what nobody needs, perhaps days after it was stored; nothing while that is not known."""
        if later:
            self.let_days_pass()
        try:
            care.free(self.project, care.plan(self.project, [Rule(age=3 * 86_400)], alive=lambda _: False))
        except StoreError:
            assert self.spoiled or self.broken & self.lists.keys()
            return
        assert not self.spoiled
        self.runs = {run: known for run, known in self.runs.items() if not known.old or known.kept}
        assert {run.id for run in self.project.catalog.runs(limit=1000)} == set(self.runs)

    def let_days_pass(self) -> None:
        """Have everything been stored five days ago."""
        moment = time.time() - 5 * 86_400
        for kind in ("objects", "packs", "large", "chunks"):
            for path in self.files(kind):
                os.utime(path, (moment, moment))

    def files(self, kind: str) -> list[Path]:
        return sorted(path for path in (self.folder / "store" / kind).rglob("*") if path.is_file())

    @rule(choice=st.integers(0, 20), kind=st.sampled_from(["objects", "packs", "large", "chunks"]), end=st.booleans())
    def damage(self, choice: int, kind: str, end: bool) -> None:
        """Flip a bit in the middle or at the end of a file."""
        if files := self.files(kind):
            flip(files[choice % len(files)], end=end)
            self.look_again()

    @rule(choice=st.integers(0, 20), kind=st.sampled_from(["objects", "packs", "large", "chunks"]))
    def lose(self, choice: int, kind: str) -> None:
        """Delete a file."""
        if files := self.files(kind):
            files[choice % len(files)].unlink()
            self.look_again()

    @rule(choice=st.integers(0, 20))
    def spoil(self, choice: int) -> None:
        """Flip a bit of a record."""
        records = [path for path in self.files("records") if self.name_of(path) not in self.spoiled]
        records = [path for path in records if not is_torn(path.name, path.read_bytes())]
        if records:
            path = records[choice % len(records)]
            flip(path, end=False)
            self.spoiled.add(self.name_of(path))

    def name_of(self, path: Path) -> str:
        return path.relative_to(self.folder / "store" / "records").as_posix().removesuffix(".json")

    @rule()
    def copy(self) -> None:
        """Copy all that is whole to the backup."""
        copy(self.project, self.backup)
        self.saved = {piece.name for piece in self.backup.blobs.pieces("record")}
        self.saved |= {digest for digest in self.digests() if self.reads(digest, self.backup)}

    @rule()
    def repair(self) -> None:
        """Fetch from the backup what is broken here."""
        known = not self.spoiled  # what a record needs that cannot be read is mended the next time
        care.verify(self.project, repair_from=self.backup)
        self.spoiled -= self.saved
        mended = {digest for known in self.runs.values() for digest in self.needs(known)} & self.saved
        assert all(self.reads(digest) for digest in mended if known and not self.hidden(digest))
        self.look_again()

    def hidden(self, digest: Digest) -> bool:
        """Say whether only a list that was itself damaged says that something is needed."""
        direct = {PACKED[value].digest for known in self.runs.values() for value in known.values}
        return digest not in direct and digest in NUMBERS and bool(self.broken & self.lists.keys())

    @precondition(lambda self: not self.spoiled)
    @rule(
        what=st.sampled_from(["record", "gc", "repair"]),
        values=VALUES,
        how=HOW,
        cut=st.integers(0, 10_000),
    )
    def cut_the_power(self, what: str, values: list[int], how: str, cut: int) -> None:
        """Do something, lose power at some moment of it, and begin anew with what the disk has left."""
        before, broken = dict(self.runs), set(self.broken)
        if what == "gc":
            self.let_days_pass()
        disk = Disk(self.folder / "store")
        with disk.recording():
            if what == "record":
                self.record(values, old=False, how=how, durable=True)
            else:
                self.gc(later=False) if what == "gc" else self.repair()
            disk.say(what)
        cuts = disk.cuts(seed=cut)
        left = cuts[cut % len(cuts)]
        left.lay(self.folder / "store")
        disk.close()
        after, self.runs = self.runs, before | self.runs
        self.begin_anew()
        must = {run for run, known in before.items() if run in after or known.kept or not known.old}
        assert must <= self.runs.keys()
        if left.said:
            assert after.keys() <= self.runs.keys()
        self.broken |= broken
        self.look_again()

    def begin_anew(self) -> None:
        """Have another process make the catalog from the records, and find there what was going on."""
        packs_in.cache_clear()
        self.project = self.open("store")
        assert fill_catalog(self.project.catalog, self.project.blobs) == {}
        found: dict[RunId, Known] = {}
        for run in self.project.catalog.runs(limit=1000):
            bound = [one for step in self.project.catalog.executions(run.id) for one in step.binds]
            known = found[run.id] = self.runs.get(run.id) or Known(old=False)
            known.values = [int(one.name[1:]) for one in bound if one.name != "items"]
            known.listed = next((one.artifact.digest for one in bound if one.name == "items" and one.artifact), None)
            if run.state in UNDER_WAY:
                known.old = False
                self.project.end_run(run, "failed", reason="worker-lost")
        self.runs = found

    # --- what must hold -----------------------------------------------------------------------------------------------

    def digests(self) -> Iterator[Digest]:
        yield from NUMBERS
        yield from self.lists

    def needs(self, known: Known) -> list[Digest]:
        """Return what a run needs: its list's items too."""
        values = [PACKED[value].digest for value in known.values]
        if known.listed is not None:
            values += [known.listed, *(PACKED[value].digest for value in self.lists[known.listed])]
        return values

    def reads(self, digest: Digest, project: Project | None = None) -> bool:
        try:
            parts = (project or self.project).blobs.get_parts(digest)
        except (NotFound, ArtifactCorrupt):
            return False
        if digest in self.lists:
            assert [NUMBERS[one] for one in named_by(parts)[0]] == self.lists[digest]
        else:
            number = NUMBERS[digest]
            assert unpack(PACKED[number].codec, parts) == CONTENT[number]
        return True

    def look_again(self) -> None:
        """Note what is broken now, of what may be: what was whole is broken by damage alone."""
        self.broken = {digest for digest in self.digests() if not self.reads(digest)}

    @invariant()
    def what_is_needed_is_there_or_named(self) -> None:
        """Load every value of every run; what cannot be is known to be broken, and `verify` names the run."""
        lost: set[RunId] = set()
        for run, known in self.runs.items():
            for digest in self.needs(known):
                if not self.reads(digest):
                    assert digest in self.broken
                    if known.listed is None or digest == known.listed or self.reads(known.listed):
                        lost.add(run)
        found = care.verify(self.project)
        assert self.spoiled or lost <= {use.run for one in found.damage for use in one.needed_by}
        assert self.spoiled == {one.name for one in found.damage if one.kind == "record"}


def flip(path: Path, *, end: bool) -> None:
    data = bytearray(path.read_bytes())
    data[-1 if end else len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(time.time_ns(),) * 2)  # the system's clock ticks more slowly than all of this is done


TestStoreStates = StoreStates.TestCase
TestStoreStates.settings = settings(
    max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
