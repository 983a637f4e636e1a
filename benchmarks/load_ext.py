"""What `%load_ext mlbench` costs a notebook's start, beside `import pandas`."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Figure, Kernel, alternate, ratio, surroundings

BENCH = "load_ext"

# The threads that attach the kernel go on after the line has returned: their work counts, so the clock stops later. An
# idle kernel costs both sides the same.
TIMED = """
import time
started = time.process_time()
get_ipython().run_cell({cell!r}).raise_error()
time.sleep(1.5)
print(time.process_time() - started)
"""


def processor_seconds(cell: str) -> float:
    """Return the processor time that a cell costs a fresh kernel, all threads included."""
    with Kernel() as kernel:
        return float(kernel.run(TIMED.format(cell=cell)))


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure in a fresh kernel each time."""
    with surroundings():
        processor_seconds("%load_ext mlbench")  # compiles what is not compiled yet, and starts the service
        ours, pandas = alternate(
            3 if quick else 7,
            lambda: processor_seconds("%load_ext mlbench"),
            lambda: processor_seconds("import pandas"),
        )
    yield Figure(BENCH, "%load_ext mlbench", "processor time", round(ours, 4), "s")
    yield Figure(BENCH, "import pandas", "processor time", round(pandas, 4), "s")
    yield ratio(BENCH, "processor time", ours, pandas, goal=0.2)
