"""The law of the analysis: what running a cell reads, binds or deletes, the analysis has foreseen."""

from __future__ import annotations

import builtins
import contextlib
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbench.notebook.cell import analyse

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
expressions = st.recursive(
    names | st.sampled_from(["0", "1", "f()", "g()", "K().m()"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "and", "or", "<"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(names, inner).map(lambda t: f"({t[0]} := {t[1]})"),
        st.tuples(names, inner, inner).map(lambda t: f"sum([{t[1]} for {t[0]} in range(2) if {t[2]}])"),
        st.tuples(names, inner).map(lambda t: f"(lambda {t[0]}=0: {t[1]})()"),
        inner.map(lambda e: f"not {e}"),
    ),
    max_leaves=4,
)
simple = st.one_of(
    st.tuples(names, expressions).map(lambda t: [f"{t[0]} = {t[1]}"]),
    st.tuples(names, expressions).map(lambda t: [f"{t[0]} += {t[1]}"]),
    names.map(lambda n: [f"del {n}"]),
    expressions.map(lambda e: [e]),
    expressions.map(lambda e: [f"assert {e}"]),
    st.just(["raise ValueError"]),
    st.sampled_from([["if tick(): break"], ["if tick(): continue"]]),
)


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def compound(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    block = st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: indented([line for part in parts for line in part])
    )
    return st.one_of(
        st.tuples(expressions, block, block).map(lambda t: [f"if {t[0]}:", *t[1], "else:", *t[2]]),
        st.tuples(expressions, block).map(lambda t: [f"if {t[0]}:", *t[1]]),
        st.tuples(names, st.sampled_from(["range(2)", "range(a)", "[1]"]), block, block).map(
            lambda t: [f"for {t[0]} in {t[1]}:", *t[2], "else:", *t[3]]
        ),
        st.tuples(block, block).map(lambda t: ["while tick():", *t[0], "else:", *t[1]]),
        st.tuples(names, block, block, block).map(
            lambda t: ["try:", *t[1], f"except Exception as {t[0]}:", *t[2], "else:", *t[3]]
        ),
        st.tuples(block, block).map(lambda t: ["try:", *t[0], "finally:", *t[1]]),
        block.map(lambda b: ["with suppress(Exception):", *b]),
        st.tuples(st.sampled_from("fg"), names, expressions, block).map(
            lambda t: [f"def {t[0]}({t[1]}={t[2]}):", *t[3], "    return 1"]
        ),
        st.tuples(block, block).map(
            lambda t: ["class K:", *t[0], "    def m(self):", *indented(t[1]), "        return 1"]
        ),
        st.tuples(expressions, names, block, block).map(
            lambda t: [f"match {t[0]}:", "    case 0 | 1:", *indented(t[2]), f"    case {t[1]}:", *indented(t[3])]
        ),
    )


programs = st.lists(st.recursive(simple, compound, max_leaves=8), min_size=1, max_size=4).map(
    lambda parts: "\n".join(line for part in parts for line in part)
)


class Enough(BaseException):
    """Ends a program that has run long enough."""


class Outside:
    """A kernel's namespace around a cell, which notes what the cell takes from it."""

    def __init__(self, number: int) -> None:
        kind = type("K", (), {"m": lambda _self: 1})
        self.values: dict[str, Any] = {name: number * (place % 2) for place, name in enumerate(NAMES)}
        self.values |= {"f": lambda: 1, "g": lambda: 0, "K": kind}
        self.taken: set[str] = set()
        self.gone: set[str] = set()
        self.ticks = number

    def tick(self) -> int:
        self.ticks += 1
        if self.ticks > 30:
            raise Enough
        return self.ticks % 3

    def take(self, name: str) -> Any:
        if name in self.gone or name not in self.values:
            raise KeyError(name)
        self.taken.add(name)
        return self.values[name]

    def run(self, program: Any) -> tuple[dict[str, Any], bool]:
        """Run a program; return what it bound, and whether it came to its end."""
        outside = self

        class Builtins(dict[str, Any]):
            def __missing__(self, name: str) -> Any:
                return outside.take(name)

        class Cell(dict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                return bound[name]

            def __setitem__(self, name: str, value: Any) -> None:
                bound[name] = value
                outside.gone.discard(name)

            def __delitem__(self, name: str) -> None:
                if name in bound:
                    del bound[name]
                else:
                    outside.take(name)
                outside.gone.add(name)

        known = {**vars(builtins), "tick": self.tick, "suppress": contextlib.suppress}
        bound: dict[str, Any] = {"__builtins__": Builtins(known), "__name__": "cell"}
        own = set(bound)
        try:
            exec(program, bound, Cell())
        except (Enough, ArithmeticError, AssertionError, LookupError, NameError, RecursionError, TypeError, ValueError):
            return bound, False
        return {name: value for name, value in bound.items() if name not in own}, True


@given(programs)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_what_running_a_cell_reads_binds_and_deletes_was_foreseen(source: str) -> None:
    try:
        program = compile(source, "cell", "exec", dont_inherit=True)
    except SyntaxError:
        return
    found = analyse(source)
    for number in (0, 1):
        outside = Outside(number)
        bound, ended = outside.run(program)
        assert outside.taken <= found.reads
        if ended:
            assert found.binds <= set(bound) <= found.binds | found.maybe
            assert found.deletes <= outside.gone - set(bound) <= found.deletes | found.maybe_deletes
