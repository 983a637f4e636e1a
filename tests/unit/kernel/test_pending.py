"""Every way in which code reaches a name whose step is still under way: it waits, and then has the real object."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from mlbench.entrypoints.kernel.pending import PendingError, is_placeholder

SETUP = """
import threading
from functools import lru_cache, partial, wraps
import __main__
def use(): return len(x)
def deep(): return use() + 1
functions = [use]
table = {"k": lambda: len(x)}
class A:
    def m(self): return len(x)
    @property
    def p(self): return len(x)
a = A()
part = partial(use)
@lru_cache
def cached(): return len(x)
def deco(f):
    @wraps(f)
    def inner(*args): return f(*args)
    return inner
@deco
def wrapped(): return len(x)
def make():
    def inner(): return len(x)
    return inner
inner = make()
box = []
def callback(change=None): box.append(len(x))
def by_name(n): return globals()[n]
"""


@dataclass(frozen=True)
class Way:
    """`cell` reads `x`, which will be `[1, 2, 3]`; afterwards `r` is `result`, or the last of `box` is."""

    title: str
    cell: str
    result: Any = 3
    boxed: bool = False


WAYS = (
    Way("directly", "r = len(x)"),
    Way("an f-string", "r = f'{len(x)}'", "3"),
    Way("%time", "%time r = len(x)"),
    Way("%%time", "%%time\nr = len(x)"),
    Way("%%capture", "%%capture out\nr = len(x)"),
    Way("%%timeit", "%%timeit -n1 -r1\nbox.append(len(x))", boxed=True),
    Way("%%prun", "%%prun -q\nr = len(x)"),
    Way("a function", "r = use()"),
    Way("a function of a function", "r = deep()", 4),
    Way("a list of functions", "r = functions[0]()"),
    Way("a dictionary of lambdas", "r = table['k']()"),
    Way("a method", "r = a.m()"),
    Way("a property", "r = a.p"),
    Way("a new instance", "r = A().m()"),
    Way("a partial", "r = part()"),
    Way("a cached function", "r = cached()"),
    Way("a decorated function", "r = wrapped()"),
    Way("a closure", "r = inner()"),
    Way("map over functions", "r = list(map(lambda f: f(), [use]))[0]"),
    Way("eval", "r = eval('len(x)')"),
    Way("globals()", "r = len(globals()['x'])"),
    Way("globals() in a function", "r = len(by_name('x'))"),
    Way("a shell line", "r = !echo {len(x)}", ["3"]),
    Way("type", "r = type(x).__name__", "list"),
    Way("isinstance", "r = isinstance(x, list)", True),
    Way("is None", "r = x is None", False),
    Way("bool", "r = bool(x)", True),
    Way("json", "import json; r = json.dumps(x)", "[1, 2, 3]"),
    Way("adding a list", "r = [0] + x", [0, 1, 2, 3]),
    Way("unpacking", "p, q, r = x"),
    Way("pandas", "import pandas as pd; r = int(pd.Series(x).sum())", 6),
    Way("join", "r = ''.join(map(str, x))", "123"),
    Way("a thread", "t = threading.Thread(target=callback); t.start(); t.join()", boxed=True),
    Way("await", "import asyncio\nawait asyncio.sleep(0)\nr = len(x)"),
    Way("a callback in a list", "for f in [callback]: f()", boxed=True),
    Way("exec", "exec('r = len(x)')"),
    Way("the main module", "r = len(__main__.x)"),
    Way("pickle", "import pickle; r = pickle.loads(pickle.dumps(x))", [1, 2, 3]),
    Way("a change in place", "x.append(9); r = x", [1, 2, 3, 9]),
    Way("rebinding before reading", "x = 5\nr = x", 5),
    Way("deleting", "del x\nr = 'x' in globals()", False),
    Way("a loop variable", "r = 0\nfor x in range(4): r = x", 3),
)


@pytest.mark.parametrize("way", WAYS, ids=[way.title for way in WAYS])
def test_a_cell_has_the_value_however_it_reaches_the_name(book: Any, way: Way) -> None:
    book.run(SETUP)
    gate = book.service.shut("make")
    book.run("%%step make\nx = [1, 2, 3]\n")
    assert is_placeholder(book.names["x"])
    threading.Timer(0.05, gate.set).start()
    book.run(way.cell)
    result = book.names["box"][-1] if way.boxed else book.names["r"]
    assert result == way.result
    assert not is_placeholder(book.names.get("r"))


def test_a_callback_of_a_thread_waits_outside_of_any_cell(book: Any) -> None:
    book.run(SETUP)
    gate = book.service.shut("make")
    book.run("%%step make\nx = [1, 2, 3]\n")
    thread = threading.Thread(target=book.names["callback"])
    thread.start()
    gate.set()
    thread.join(20)
    assert book.names["box"] == [3]


def test_what_only_looks_does_not_wait(book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    book.run("y = 1")
    book.service.shut("make")
    book.run("%%step make\nx = [1, 2, 3]\n")
    assert repr(book.names["x"]) == "<pending: x>"
    assert book.shell.complete("x")[1]
    assert book.shell.complete("x.")[1] == []
    assert book.shell.object_inspect("x")["found"]
    for listing in ("%who", "%whos", "%who_ls"):
        book.run(listing)
    assert "<pending: x>" in capsys.readouterr().out
    with pytest.raises(PendingError, match="still being computed"):
        len(book.names["x"])


def test_binding_a_pending_name_wins(book: Any) -> None:
    gate = book.service.shut("make")
    book.run("%%step make\nx = [1, 2, 3]\n")
    book.run("x = 5")
    gate.set()
    book.service.ended[book.service.submissions[0].execution].wait(20)
    book.run("y = x")
    assert (book.names["x"], book.names["y"]) == (5, 5)


def test_deleting_a_pending_name_wins(book: Any) -> None:
    book.run("%%step make\nx = [1, 2, 3]\n")
    book.run("del x")
    assert isinstance(book.fail("x"), NameError)


def test_only_the_name_that_is_read_is_waited_for(book: Any) -> None:
    book.service.shut("slow")
    book.run("%%step slow\nslow = 1\n")
    book.run("%%step fast\nfast = 2\n")
    assert book.run("fast") == 2
    assert is_placeholder(book.names["slow"])


def test_functions_and_classes_of_a_step_become_the_notebooks_own(book: Any) -> None:
    book.run("base = 10")
    book.run(
        "%%step define\ndef plus(v): return v + base\nclass Box:\n    def total(self): return plus(1)\nbox = Box()\n"
    )
    assert book.run("plus(1)") == 11
    book.run("base = 20")
    assert book.run("plus(1)") == 21
    assert book.names["plus"].__globals__ is book.names
    assert book.run("isinstance(box, Box), box.total(), Box().total()") == (True, 21, 21)


def test_an_instance_made_in_a_step_is_of_the_notebooks_class(book: Any) -> None:
    book.run("class Shape:\n    def __init__(self, n): self.n = n")
    book.run("%%step make\nshape = Shape(3)\n")
    assert book.run("type(shape) is Shape, shape.n") == (True, 3)


def test_modules_come_back_as_modules(book: Any) -> None:
    book.run("%%step load\nimport json as j\n")
    assert book.run("j") is __import__("json")


def test_two_names_for_one_object_stay_one_object(book: Any) -> None:
    book.run("%%step fit\nmodels = [[1], [2]]\nbest = models[0]\n")
    assert book.run("best is models[0]") is True
