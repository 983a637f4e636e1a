"""A value that is damaged in the store is told by its name, wherever it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlbench.core.ids import short
from mlbench.core.records import Execution
from mlbench.project import Project
from mlbench.runs.series import last_of_each_step


def ended(place: Any, step: str) -> Execution:
    """Return the last execution of a step."""
    project = Project.open(store=str(place.store))
    steps = (
        one for run in project.catalog.runs(limit=20) for one in last_of_each_step(project.catalog.executions(run.id))
    )
    found = next(one for one in steps if one.step == step)
    project.close()
    return found


def test_a_damaged_value_is_named_in_the_kernel_and_in_a_step_that_reads_it(page: Any, place: Any) -> None:
    answer = page.run("%%step damaged_load --wait\nrows = list(range(3000))")
    assert answer.status == "ok", answer.error
    step = ended(place, "damaged_load")
    (bound,) = step.binds
    assert bound.artifact is not None
    name = bound.artifact.digest[7:]
    path: Path = place.store / "objects" / name[:2] / name
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    said = f"is damaged in the store: expected blake3:{name[:8]}, got a part blake3:"
    do = "Run step damaged_load again, or fetch it from a copy of the store: `mlbench store verify --repair-from COPY`."
    child = page.run("%%step damaged_child --wait\nlength = len(rows)")
    assert child.status == "error"
    assert f"`rows` of step damaged_load {said}" in child.error
    failure = ended(place, "damaged_child").failure
    assert failure is not None
    assert failure.remedy == do
    here = page.run("rows[0]")
    assert here.status == "error"
    assert here.error.startswith(f"ArtifactCorrupt: `rows` of step damaged_load in run {short(step.run)} {said}")
    assert here.error.endswith(do)
