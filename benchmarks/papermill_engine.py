"""What our engine costs a notebook without steps, beside papermill's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, alternate, ratio, surroundings, wall

BENCH = "papermill_engine"
CELLS = 50


def notebook(cells: int) -> bytes:
    """Return a notebook of plain cells, each with a little work and an output."""
    import nbformat

    written: Any = nbformat  # it has types for half of what it offers
    new = written.v4
    sources = ["total = 0", *(f"total += sum(range({number}))\ntotal" for number in range(cells - 1))]
    document = new.new_notebook(
        cells=[new.new_code_cell(source, id=f"cell{place}") for place, source in enumerate(sources)],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}},
    )
    written.validate(document)
    return str(written.writes(document)).encode()


def measure(*, quick: bool) -> Iterator[Figure]:
    """Run papermill's command in alternating pairs, as a user or a CI would."""
    with surroundings() as folder:
        source = Path(folder, "plain.ipynb")
        source.write_bytes(notebook(CELLS))

        def papermill(*options: str) -> float:
            command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(source), str(folder / "out.ipynb")]
            return wall([*command, *options])

        def ours() -> float:
            return papermill("--engine", "mlbench")

        alternate(1, ours, papermill)
        engine, stock = alternate(3 if quick else 9, ours, papermill)
    yield Figure(BENCH, "--engine mlbench", f"{CELLS} plain cells", round(engine, 4), "s")
    yield Figure(BENCH, "stock papermill", f"{CELLS} plain cells", round(stock, 4), "s")
    yield ratio(BENCH, "wall", engine, stock, goal=1.05)
