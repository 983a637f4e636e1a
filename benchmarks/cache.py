"""What it costs to run an unchanged notebook again, beside running it without steps at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, alternate, ratio, surroundings, wall

BENCH = "cache"
STEPS = 10
WORK = "value{place} = {before} + sum(number * number for number in range(20_000))\nprint(value{place})"
"""A few milliseconds: what is measured is what reuse costs, not what it saves."""


def notebook(*, steps: bool) -> bytes:
    """Return a notebook of ten cells, each of which needs the one above, and one that reads the last."""
    import nbformat

    written: Any = nbformat  # it has types for half of what it offers
    new = written.v4
    sources = ["%load_ext mlbench" if steps else "import mlbench", "value0 = 0"]
    for place in range(1, STEPS + 1):
        line = f"%%step work{place} --cache\n" if steps else ""
        sources.append(line + WORK.format(place=place, before=f"value{place - 1}"))
    sources.append(f"value{STEPS}")
    document = new.new_notebook(
        cells=[new.new_code_cell(source, id=f"cell{place}") for place, source in enumerate(sources)],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
    )
    written.validate(document)
    return str(written.writes(document)).encode()


def measure(*, quick: bool) -> Iterator[Figure]:
    """Run papermill's command in alternating pairs, as a user or a CI would; the service is there."""
    with surroundings() as folder:
        with_steps, without = Path(folder, "steps.ipynb"), Path(folder, "plain.ipynb")
        with_steps.write_bytes(notebook(steps=True))
        without.write_bytes(notebook(steps=False))

        def papermill(source: Path, *options: str) -> float:
            command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(source), str(folder / "out.ipynb")]
            return wall([*command, *options])

        def cached() -> float:
            return papermill(with_steps, "--engine", "mlbench")

        def plain() -> float:
            return papermill(without)

        alternate(1, cached, plain)
        again, bare = alternate(3 if quick else 9, cached, plain)
        ran = _steps_run()
    yield Figure(BENCH, "run again with --cache", f"{STEPS} steps", round(again, 4), "s")
    yield Figure(BENCH, "without steps", f"{STEPS} cells", round(bare, 4), "s")
    yield Figure(BENCH, "steps that ran", "in all runs but the first", ran, "steps", goal=0)
    yield ratio(BENCH, "wall", again, bare, goal=1.3)


def _steps_run() -> int:
    """Return how many steps were run in all runs but the first."""
    from mlbench.project import Project

    catalog = Project.open().catalog
    runs = catalog.runs(limit=1000)[:-1]
    found = [one for run in runs for one in catalog.executions(run.id) if one.state != "reused"]
    catalog.close()
    return len(found)
