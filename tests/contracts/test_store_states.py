"""A store against a model of it: writers, readers, gc, damage, repair and copies in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import ArtifactCorrupt, NotFound
from mlbench.core.ids import Digest, new_id
from mlbench.core.records import Artifact, Binding, Execution
from mlbench.project import Project, care, find_store
from mlbench.project.copying import copy
from mlbench.runs.retention import DAY, Rule
from mlbench.runs.values import Packed, pack, unpack

VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
PACKED: list[Packed] = [pack(f"value {number} " * 20) for number in range(10)]
OLD = 10 * DAY


@dataclass
class Known:
    """What the model knows of a run."""

    values: list[int]
    old: bool
    kept: bool = False
    numbers: list[Digest] = field(default_factory=list)


class StoreStates(RuleBasedStateMachine):
    """Whatever happens, a run that is kept has its values, and what is damaged is known and never returned."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mlb"))
        self.project = self.open("store")
        self.backup = self.open("backup")
        self.runs: dict[str, Known] = {}
        self.broken: set[int] = set()
        self.saved: set[int] = set()

    def open(self, name: str) -> Project:
        return Project(find_store(store=str(self.folder / name)), catalog=MemoryCatalog())

    def teardown(self) -> None:
        """Remove the stores."""
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        """Have a run to begin with."""
        self.record([0, 1], old=True, packed=False)

    @rule(values=VALUES, old=st.booleans(), packed=st.booleans())
    def record(self, values: list[int], old: bool, packed: bool) -> None:
        """Record a run that binds some values; keeping a value heals what was broken of it only as a whole object."""
        ended = time.time_ns() - (OLD if old else 0)
        run = self.project.begin_run(kind="papermill", notebook="/n/n.ipynb", started=ended)
        them = [PACKED[value] for value in values]
        artifacts = [(one.digest, one.parts) for one in them]
        if packed:
            self.project.blobs.put_pack(artifacts, durable=False)
        else:
            for digest, _ in artifacts:
                if PACKED.index(next(one for one in them if one.digest == digest)) in self.broken:
                    self.project.blobs.set_aside(digest)
            self.project.blobs.put_all(artifacts, durable=False)
        self.broken -= {value for value in values if self.reads(value)}
        binds = tuple(
            Binding(
                name=f"v{value}",
                artifact=Artifact(digest=one.digest, size=one.size, type=one.type, codec=one.codec),
            )
            for value, one in zip(values, them, strict=True)
        )
        step: Any = Execution(id=new_id(), run=run.id, step="s", state="succeeded", binds=binds)  # type: ignore[arg-type]
        self.project.put_execution(step)
        self.project.end_run(run, "succeeded", ended=ended)
        self.runs[run.id] = Known(values, old)

    def reads(self, value: int) -> bool:
        try:
            parts = self.project.blobs.get_parts(PACKED[value].digest)
        except (NotFound, ArtifactCorrupt):
            return False
        assert unpack("scalar", parts) == f"value {value} " * 20
        return True

    def let_days_pass(self) -> None:
        """Have everything been stored five days ago."""
        moment = time.time() - 5 * 86_400
        for path in (*self.files("objects"), *self.files("packs")):
            os.utime(path, (moment, moment))

    def files(self, kind: str) -> list[Path]:
        return sorted(path for path in (self.folder / "store" / kind).rglob("*") if path.is_file())

    @rule(choice=st.integers(0, 20), kept=st.booleans())
    def keep(self, choice: int, kept: bool) -> None:
        """Say of a run that it is kept, or no longer."""
        if self.runs:
            run = sorted(self.runs)[choice % len(self.runs)]
            care.keep(self.project, run, kept=kept)
            self.runs[run].kept = kept

    @rule(later=st.booleans())
    def gc(self, later: bool) -> None:
        """Free what nobody needs, perhaps days after it was stored."""
        if later:
            self.let_days_pass()
        care.free(self.project, care.plan(self.project, [Rule(age=3 * 86_400)], alive=lambda _: False))
        self.runs = {run: known for run, known in self.runs.items() if not known.old or known.kept}
        assert {run.id for run in self.project.catalog.runs(limit=1000)} == set(self.runs)

    @rule(choice=st.integers(0, 20), gone=st.booleans())
    def damage(self, choice: int, gone: bool) -> None:
        """Flip a bit of an object, or delete it."""
        objects = self.files("objects")
        if not objects:
            return
        path = objects[choice % len(objects)]
        if gone:
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        value = next(number for number, one in enumerate(PACKED) if one.digest.endswith(path.name))
        if not self.reads(value):
            self.broken.add(value)

    @rule()
    def copy(self) -> None:
        """Copy all that is whole to the backup."""
        copy(self.project, self.backup)
        self.saved |= {value for known in self.runs.values() for value in known.values if self.reads(value)}

    @rule()
    def repair(self) -> None:
        """Fetch from the backup what is broken here."""
        care.verify(self.project, repair_from=self.backup)
        self.broken -= self.saved

    @invariant()
    def what_is_needed_is_there_or_named(self) -> None:
        """Load every value of every run; what cannot be is known to be broken, and `verify` names the run."""
        for known in self.runs.values():
            for value in known.values:
                assert self.reads(value) or value in self.broken
        needed = {value for known in self.runs.values() for value in known.values if not self.reads(value)}
        found = care.verify(self.project)
        named = {one.name for one in found.damage if one.needed_by}
        assert {PACKED[value].digest for value in needed} <= named


TestStoreStates = StoreStates.TestCase
TestStoreStates.settings = settings(
    max_examples=40, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
