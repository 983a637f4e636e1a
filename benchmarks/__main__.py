"""`python -m benchmarks [NAME…] [--quick] [--table]`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks.measure import Figure

NAMES = ("load_ext", "step_overhead", "papermill_engine", "fanout", "cache", "catalog", "faults", "snapshot")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; end with 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the headline figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: shows that it works, not how well")
    parser.add_argument("--table", action="store_true", help="a table for people instead of JSON lines")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in NAMES]:
        parser.error(f"no benchmark {', '.join(unknown)}: choose of {', '.join(NAMES)}")
    missed = False
    for figure in _figures(chosen.names or NAMES, quick=chosen.quick):
        print(_row(figure) if chosen.table else _line(figure), flush=True)
        missed |= figure.reached is False
    return int(missed and not chosen.quick)


def _figures(names: Sequence[str], *, quick: bool) -> Iterator[Figure]:
    for name in names:
        yield from importlib.import_module(f"benchmarks.{name}").measure(quick=quick)


def _line(figure: Figure) -> str:
    entries = asdict(figure)
    if figure.goal is None:
        del entries["goal"]
    return json.dumps(entries)


def _row(figure: Figure) -> str:
    value = figure.unit if figure.value is None else f"{figure.value:.3f} {figure.unit}"
    verdict = {True: f"reached (at most {figure.goal})", False: f"MISSED (at most {figure.goal})", None: ""}[
        figure.reached
    ]
    return f"{figure.bench:<17} {figure.subject:<43} {figure.metric:<40} {value:>10}  {verdict}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
