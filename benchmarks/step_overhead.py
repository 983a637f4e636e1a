"""What it costs to make a cell a step: a trivial one, one that uses the usual libraries, a matrix product."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, Kernel, alternate, installed, ratio, surroundings, wall

BENCH = "step_overhead"

LIBRARIES = """
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
"""

USUAL_WORK = """
table = pd.DataFrame(np.random.default_rng(0).normal(size=(5000, 6)), columns=list("abcdef"))
model = RandomForestRegressor(20, random_state=0).fit(table[list("abcde")], table["f"])
table.assign(guess=model.predict(table[list("abcde")])).plot.scatter("f", "guess")
plt.show()
print("done")
"""

PRODUCT = """
import time
square = np.random.default_rng(0).random(({size}, {size}))
square @ square
started = time.perf_counter()
square @ square
print(time.perf_counter() - started)
"""

FLOW = """
from metaflow import FlowSpec, step

class Trivial(FlowSpec):
{steps}

if __name__ == "__main__":
    Trivial()
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure in one warm kernel and beside one warm cluster."""
    with surroundings(), Kernel() as kernel:
        kernel.run("%load_ext mlbench")
        kernel.run(LIBRARIES)
        yield from _trivial(kernel, rounds=10 if quick else 40)
        yield from _usual(kernel, rounds=3 if quick else 7)
        yield from _product(kernel, rounds=3 if quick else 7, size=1500 if quick else 3000)


def _trivial(kernel: Kernel, rounds: int) -> Iterator[Figure]:
    from distributed import Client, LocalCluster

    numbers = itertools.count()
    kernel.run("%%step trivial\nprint('warm')")
    with (
        LocalCluster(n_workers=1, processes=True, dashboard_address=None) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):

        def bare() -> float:
            number = next(numbers)
            began = time.perf_counter()
            client.submit(_answer, number, pure=False).result()
            return time.perf_counter() - began

        def step() -> float:
            text = f"answer {next(numbers)}"
            return kernel.seconds(f"%%step trivial\nprint({text!r})", shown=text)

        def cell() -> float:
            text = f"answer {next(numbers)}"
            return kernel.seconds(f"print({text!r})", shown=text)

        alternate(3, step, bare, cell)
        ours, peer, plain = alternate(rounds, step, bare, cell)
    yield Figure(BENCH, "trivial step", "run to shown", round(ours, 4), "s")
    yield Figure(BENCH, "plain cell", "run to shown", round(plain, 4), "s")
    yield Figure(BENCH, "client.submit().result()", "wall", round(peer, 4), "s")
    yield ratio(BENCH, "trivial step / client.submit().result()", ours, peer, goal=5)
    if not installed("metaflow"):
        yield Figure(BENCH, "metaflow", "run to shown", None, "not measured: metaflow is not installed")
        return
    flow, more = _metaflow()
    yield Figure(BENCH, "metaflow", "smallest flow, run to shown", round(flow, 4), "s")
    yield Figure(BENCH, "metaflow", "one step more in a flow", round(more, 4), "s")
    yield ratio(BENCH, "trivial step / metaflow's, run to shown", ours, flow, goal=1 / 20)


def _answer(number: int) -> int:
    return number


def _metaflow() -> tuple[float, float]:
    """Return what the smallest flow of Metaflow takes, and what one more step costs a flow."""
    few, many = 2, 6
    with tempfile.TemporaryDirectory() as folder:
        own = {**os.environ, "METAFLOW_USER": "benchmark", "METAFLOW_HOME": folder}

        def flow(count: int) -> float:
            names = ["start", *(f"step{number}" for number in range(count - 2)), "end"]
            following = [f"self.next(self.{name})" for name in names[1:]] + ["print('answer')"]
            steps = [f"    @step\n    def {name}(self): {then}" for name, then in zip(names, following, strict=True)]
            file = Path(folder, f"flow{count}.py")
            file.write_text(FLOW.format(steps="\n".join(steps)), "utf-8")
            return wall([sys.executable, str(file), "run"], cwd=folder, env=own)

        short, long = alternate(3, lambda: flow(few), lambda: flow(many))
    return short, (long - short) / (many - few)


def _usual(kernel: Kernel, rounds: int) -> Iterator[Figure]:
    def step() -> float:
        return kernel.seconds("%%step usual" + USUAL_WORK, shown="done")

    def cell() -> float:
        return kernel.seconds(USUAL_WORK, shown="done")

    alternate(1, step, cell)
    ours, plain = alternate(rounds, step, cell)
    yield Figure(BENCH, "step with pandas, scikit-learn, matplotlib", "second run", round(ours, 4), "s")
    yield Figure(BENCH, "the same plain cell", "second run", round(plain, 4), "s")
    yield Figure(BENCH, "ratio", "seconds more than the plain cell", round(ours - plain, 4), "s", goal=0.3)


def _product(kernel: Kernel, rounds: int, size: int) -> Iterator[Figure]:
    code = PRODUCT.format(size=size)

    def step() -> float:
        return float(kernel.run("%%step product" + code))

    def cell() -> float:
        return float(kernel.run(code))

    ours, plain = alternate(rounds, step, cell)
    yield Figure(BENCH, f"matrix product of {size} x {size} in a step", "wall", round(ours, 4), "s")
    yield Figure(BENCH, "the same in the kernel", "wall", round(plain, 4), "s")
    yield ratio(BENCH, "matrix product, step / kernel", ours, plain, goal=1.1)
