"""What a cell reads, binds, changes and deletes."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from mlbench.notebook import evidence
from mlbench.notebook.cell import analyse, code_globals, statement_reads


@dataclass(frozen=True)
class Case:
    """A cell's source, and space-separated names; `binds` are sure, `maybe` on some paths only."""

    title: str
    source: str
    reads: str = ""
    binds: str = ""
    maybe: str = ""
    changes: str | None = None
    deletes: str | None = None
    late: str | None = None


CASES = [
    Case("an assignment", "total = price * amount", "price amount", "total"),
    Case("a name that is read and bound again", "total = total + 1", "total", "total"),
    Case("an augmented assignment", "total += 1", "total", "total", changes="total"),
    Case("a name bound before it is read", "a = 1\nb = a", "", "a b", changes=""),
    Case("a name read before it is bound", "b = a\na = 1", "a", "a b"),
    Case("an empty cell", ""),
    Case("a cell of comments", "# nothing here"),
    # branches
    Case("a bind in one branch", "if big:\n    size = 9\nshow(size)", "big size show", "", "size"),
    Case("a bind in both branches", "if big:\n    size = 9\nelse:\n    size = 1\nshow(size)", "big show", "size"),
    Case("elif without else", "if a:\n    v = 1\nelif b:\n    v = 2\nw = v", "a b v", "w", "v"),
    Case("elif with else", "if a:\n    v = 1\nelif b:\n    v = 2\nelse:\n    v = 3\nw = v", "a b", "w v"),
    Case("a branch that raises", "if bad:\n    raise Wrong\nelse:\n    v = 1\nw = v", "bad Wrong", "v w"),
    Case("a branch that is always taken", "if True:\n    v = 1\nw = v", "", "v w"),
    Case("a branch that is never taken", "if 0:\n    v = hidden\nw = 1", "", "w"),
    Case("an assertion that binds", "assert (n := size(rows)), f'no {n}'\nm = n", "size rows", "n m"),
    Case("a conditional expression", "v = one if test else two", "test one two", "v"),
    Case(
        "a function defined in both branches",
        "if quick:\n    def f(): return 1\nelse:\n    def f(): return slow\nv = f()",
        "quick slow",
        "f v",
    ),
    # loops
    Case("a loop that may not run", "for i in rows:\n    last = i\nshow(last)", "rows last show", "", "i last"),
    Case("a loop that reads what the round before bound", "for i in rows:\n    acc = acc + i", "rows acc", "", "i acc"),
    Case("a loop over a literal", "for i in [1, 2]:\n    last = i\nw = last", "", "i last w"),
    Case("a loop over a range", "for i in range(3):\n    pass\nw = i", "", "i w"),
    Case("a loop over an empty range", "for i in range(0):\n    pass\nw = i", "i", "w", "i"),
    Case("a while loop", "while left > 0:\n    left -= 1", "left", "", "left"),
    Case(
        "a while loop whose condition binds",
        "while (line := read()):\n    use(line)\nlast = line",
        "read use",
        "line last",
    ),
    Case("a loop that ends by break only", "while True:\n    v = ask()\n    if v:\n        break\nw = v", "ask", "v w"),
    Case(
        "a for loop with else",
        "for i in rows:\n    if i == want:\n        hit = i\n        break\nelse:\n    hit = None\nw = hit",
        "rows want",
        "hit w",
        "i",
    ),
    Case("a while loop with else", "while more():\n    v = 1\n    break\nelse:\n    v = 2\nw = v", "more", "v w"),
    Case(
        "a continue before a bind",
        "for i in rows:\n    if i:\n        continue\n    v = i\nw = v",
        "rows v",
        "w",
        "i v",
    ),
    Case(
        "a break through finally",
        "while True:\n    try:\n        break\n    finally:\n        done = 1\nw = done",
        "",
        "done w",
    ),
    Case(
        "a function called above its definition in a loop",
        "for i in rows:\n    if i:\n        v = f()\n    def f():\n        return deep",
        "rows f deep",
        "",
        "i v f",
    ),
    # comprehensions
    Case("a list comprehension", "ys = [x * k for x in xs if x > low]", "xs k low", "ys"),
    Case("a comprehension over its own name", "x = [x for x in x]", "x", "x"),
    Case("a comprehension's variable is its own", "ys = [x for x in [1, 2]]\nz = x", "x", "ys z"),
    Case("nested comprehensions", "m = [[a * b for b in row] for a, row in zip(left, rows)]", "left rows", "m"),
    Case("two loops in a comprehension", "m = [c for row in rows for c in row.cells(k)]", "rows k", "m"),
    Case("a dict comprehension", "d = {k: v + w for k, v in pairs.items()}", "pairs w", "d"),
    Case("a set comprehension", "s = {f(x) for x in xs}", "f xs", "s"),
    Case("a generator expression", "s = sum(w * x for x in xs)", "w xs", "s"),
    Case("lambdas in a comprehension", "fs = [lambda: i + k for i in xs]", "xs k", "fs"),
    Case("a walrus in a comprehension", "ys = [last := v for v in xs]\nw = last", "xs last", "ys w", "last"),
    Case("a walrus in a comprehension's condition", "ys = [y for x in xs if (y := f(x))]", "xs f", "ys", "y"),
    Case("an async comprehension", "r = [x async for x in s]", "s", "r"),
    # functions
    Case("a lambda", "f = lambda a, b=start: a + b + rate", "start", "f", late="rate"),
    Case("a lambda that is called", "f = lambda a: a + rate\nv = f(1)", "rate", "f v"),
    Case("a lambda given away", "v = sorted(rows, key=lambda r: r[column])", "rows column", "v"),
    Case("a function that is not called", "def f(a):\n    return a * rate", "", "f", late="rate"),
    Case("a function that is called", "def f(a):\n    return a * rate\nv = f(2)", "rate", "f v"),
    Case(
        "a function called after its global is bound",
        "def f(a):\n    return a * rate\nrate = 3\nv = f(2)",
        "",
        "f v rate",
        late="",
    ),
    Case(
        "a function called before its global is bound",
        "def f(a):\n    return a * rate\nv = f(2)\nrate = 3",
        "rate",
        "f v rate",
    ),
    Case(
        "functions that call each other",
        "def a(n):\n    return b(n)\ndef b(n):\n    return a(n) + c\nv = a(3)",
        "c",
        "a b v",
    ),
    Case(
        "a function that calls a function",
        "def g():\n    return deep\ndef f():\n    return g()\nv = f()",
        "deep",
        "g f v",
    ),
    Case("a function under another name", "def f():\n    return deep\ng = f", "deep", "f g"),
    Case(
        "a closure",
        "def f():\n    y = up\n    def h():\n        return y + other\n    return h\nv = f()()",
        "up other",
        "f v",
    ),
    Case(
        "an argument hides a global",
        "def f(rows, *more, flag=1, **rest):\n    return rows, more, flag, rest\nv = f(1)",
        "",
        "f v",
    ),
    Case("a default value is read at once", "def f(a=start, *, b=stop):\n    return a", "start stop", "f"),
    Case("a decorator is read, and may call", "@cached(size)\ndef f():\n    return deep", "cached size deep", "f"),
    Case("annotations are read", "def f(a: Kind) -> Result:\n    pass\nn: Number = 1", "Kind Result Number", "f n"),
    Case(
        "annotations that are not evaluated",
        "from __future__ import annotations\ndef f(a: Kind) -> Result:\n    b: Other = a\nf(1)",
        "",
        "annotations f",
    ),
    Case("a global that a function binds", "def f():\n    global count\n    count = 1\nf()", "", "f", "count"),
    Case(
        "a global that a function counts up", "def f():\n    global count\n    count += 1\nf()", "count", "f", "count"
    ),
    Case("a global bound only when called", "def f():\n    global count\n    count = 1", "", "f"),
    Case(
        "a nonlocal variable",
        "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += k\n    g()\nf()",
        "k",
        "f",
    ),
    Case("a function's own import", "def f():\n    import json\n    return json.dumps(rows)\nv = f()", "rows", "f v"),
    Case("a function's comprehension", "def f():\n    return [x for x in xs if x in seen]\nv = f()", "xs seen", "f v"),
    Case(
        "a function's own except name",
        "def f():\n    try:\n        g()\n    except Wrong as e:\n        return e\nf()",
        "g Wrong",
        "f",
    ),
    Case(
        "a function's own match names",
        "def f(c):\n    match c:\n        case {'a': x, **rest}: return x, rest\n"
        "        case [y, *more]: return y, more\nf(1)",
        "",
        "f",
    ),
    Case(
        "an async function",
        "async def f():\n    async with pool as p:\n        return await p.get(key)\nv = await f()",
        "pool key",
        "f v",
    ),
    Case("a function that uses magics", "def f():\n    !ls {folder}\n    %time g(x)\nf()", "folder g x", "f"),
    # classes
    Case("a class body is run at once", "class M(Base, metaclass=Meta):\n    lr = rate", "Base Meta rate", "M"),
    Case("methods are late", "class M:\n    def step(self):\n        return helper(self)", "", "M", late="helper"),
    Case(
        "a class that is used", "class M:\n    def step(self):\n        return helper(self)\nm = M()", "helper", "M m"
    ),
    Case(
        "methods do not see class variables",
        "class M:\n    n = 1\n    def f(self):\n        return n\nv = M().f()",
        "n",
        "M v",
    ),
    Case("a class variable of an outer name", "class M:\n    x = x\nv = M.x", "x", "M v"),
    Case("a class variable that hides a name", "class M:\n    x = 1\n    y = x", "", "M"),
    Case("a class variable bound in one branch", "class M:\n    if test:\n        x = 1\n    y = x", "test x", "M"),
    Case("a comprehension in a class body", "class M:\n    a = [1]\n    b = [a for _ in a]", "a", "M"),
    Case("a class in a class", "class M:\n    k = 1\n    class N:\n        v = k", "k", "M"),
    Case(
        "a base class that is used",
        "class A:\n    def f(self):\n        return deep\nclass B(A):\n    pass\nv = B().f()",
        "deep",
        "A B v",
    ),
    Case(
        "a subclass that is not used",
        "class A:\n    def f(self):\n        return deep\nclass B(A): pass",
        "",
        "A B",
        late="deep",
    ),
    Case("a property of its own class", "class A:\n    @property\n    def f(self):\n        return A", "", "A"),
    Case(
        "a class that watches its subclasses",
        "class A:\n    def __init_subclass__(cls):\n        log(cls)\nclass B(A): pass",
        "log",
        "A B",
    ),
    Case("a cached function", "@lru_cache(maxsize=None)\ndef f():\n    return deep", "lru_cache", "f", late="deep"),
    Case("a class body that binds a global", "class M:\n    global g\n    g = 1\nw = g", "", "M g w"),
    # deletes
    Case("a name of its own deleted", "x = 1\ndel x", "", "", deletes="x"),
    Case("a name of outside deleted", "del x", "x", "", deletes="x"),
    Case("a name deleted and bound again", "del x\nx = 2", "x", "x", deletes=""),
    Case("a name deleted on one path", "if done:\n    del x\nw = 1", "done x", "w", deletes=""),
    Case("a deleted name is not read from outside", "x = 1\ndel x\ntry:\n    x\nexcept NameError:\n    pass"),
    Case("an item deleted", "del d['k']", "d", changes="d", deletes=""),
    # exceptions
    Case(
        "both ways of a try bind",
        "try:\n    v = f()\nexcept (ValueError, Wrong) as e:\n    v = None\nw = v",
        "f Wrong",
        "v w",
    ),
    Case("one way of a try binds", "try:\n    v = f()\nexcept Exception:\n    pass\nw = v", "f v", "w", "v"),
    Case("finally binds", "try:\n    a = f()\nfinally:\n    done = 1\nw = a, done", "f", "a done w"),
    Case(
        "the exception's name is gone afterwards",
        "try:\n    f()\nexcept Exception as e:\n    g(e)\nw = e",
        "f g e",
        "w",
    ),
    Case(
        "what was bound before the exception",
        "try:\n    a = 1\n    f()\n    b = 2\nexcept Exception:\n    w = a\n    v = b",
        "f a b",
        "",
        "a b w v",
    ),
    Case("else after try", "try:\n    a = f()\nexcept Wrong:\n    raise\nelse:\n    b = a\nw = b", "f Wrong", "a b w"),
    Case("an exception group", "try:\n    v = f()\nexcept* Wrong as e:\n    v = 0\nw = v", "f Wrong", "v w"),
    # with, match
    Case("with", "with open(path) as fh:\n    text = fh.read()\nw = text", "path", "fh text w"),
    Case(
        "with that swallows exceptions",
        "from contextlib import suppress\nwith suppress(Wrong):\n    v = f()\nw = v",
        "Wrong f v",
        "suppress w",
        "v",
    ),
    Case("with several items", "with a() as (x, y), b(x) as z:\n    w = z", "a b", "x y z w"),
    Case("async with", "async with a() as x:\n    w = x", "a", "x w"),
    Case(
        "match",
        "match cmd:\n    case {'k': v, **rest}:\n        r = v\n    case [a, *more]:\n        r = a\n"
        "    case Point(x=px):\n        r = px\n    case _:\n        r = 0\nw = r",
        "cmd Point",
        "r w",
        "v rest a more px",
    ),
    Case(
        "match by value with a guard",
        "match cmd:\n    case Color.RED if warm:\n        y = 1\nw = y",
        "cmd Color warm y",
        "w",
        "y",
    ),
    Case(
        "match as",
        "match cmd:\n    case (1 | 2) as n:\n        m = n\n    case other:\n        m = other\nw = m",
        "cmd",
        "m w",
        "n other",
    ),
    # expressions
    Case("a walrus", "if (n := len(rows)) > 3:\n    print(n)", "rows", "n"),
    Case("a walrus behind and", "if a and (m := b):\n    w = m\nelse:\n    w = m", "a b m", "w", "m"),
    Case("a walrus that must have run", "if a and (m := b):\n    w = m", "a b", "", "m w"),
    Case("a walrus behind not and or", "if not (a or (m := b)):\n    w = m", "a b", "", "m w"),
    Case("a walrus in a chained comparison", "b = 1 < (q := x) < (r := y)\nw = q, r", "x y r", "b q w", "r"),
    Case("an f-string", "s = f'{name!r:>{width}} {d[\"a\"]}'", "name width d", "s"),
    Case("starred", "a, *b = [*xs, f(*args, **options)]", "xs f args options", "a b"),
    Case("targets in objects", "obj.a, z, d[key] = t", "obj t d key", "z", changes="obj d"),
    Case("slices", "v = xs[low:high, ::step]", "xs low high step", "v"),
    Case("a builtin's name", "list = [1]\nw = list", "", "list w"),
    Case("private names", "_tmp = 1\nv = _tmp", "", "_tmp v"),
    Case("an annotation alone binds nothing", "x: int\nw = x", "x", "w"),
    Case("await", "r = await fetch(url)", "fetch url", "r"),
    Case("async for", "async for t in stream(q):\n    last = t", "stream q", "", "t last"),
    Case("a long sum", "v = " + " + ".join(f"x{i % 3}" for i in range(800)), "x0 x1 x2", "v"),
    Case(
        "a long chain of elif",
        "\n".join([*(f"{'el' if i else ''}if a == {i}:\n    v = {i}" for i in range(90)), "else:\n    v = 0\nw = v"]),
        "a",
        "v w",
    ),
    # names that imports bind
    Case("imports", "import numpy as np, os.path\nfrom a.b import c as d", "", "np os d"),
    Case("a star import", "from math import *\nw = pi * r", "pi r", "w"),
    # changes in place
    Case("a column is set", "df['x'] = 1", "df", changes="df"),
    Case("a method changes its object", "rows.append(v)", "rows v", changes="rows"),
    Case("a model is fitted", "model.fit(X, y)", "model X y", changes="model"),
    Case("inplace=True", "df.fillna(0, inplace=True)", "df", changes="df"),
    Case("inplace=False", "w = df.fillna(0, inplace=False)", "df", "w", changes=""),
    Case("out=", "np.add(a, b, out=c)", "np a b c", changes="c"),
    Case("a trailing underscore", "t.zero_()", "t", changes="t"),
    Case("an estimator's fitted attribute is no change", "w = model.coef_", "model", "w", changes=""),
    Case(
        "heapq, setattr, shuffle",
        "heapq.heappush(q, 1)\nsetattr(o, 'a', 1)\nrandom.shuffle(xs)",
        "heapq q o random xs",
        changes="q o xs",
    ),
    Case(
        "a module is not changed",
        "import matplotlib.pyplot as plt\nplt.rcParams.update(a)\nplt.rcParams['b'] = 1",
        "a",
        "plt",
        changes="",
    ),
    Case("pandas' pure namesakes", "w = df.add(1)\nv = df.eval('a + b')", "df", "w v", changes=""),
    Case("what the cell itself made is not changed", "rows = []\nrows.append(1)", "", "rows", changes=""),
    Case("elements of a loop are changed", "for m in models:\n    m.fit(X)", "models X", "", "m", changes="models"),
    Case("an element under another name is changed", "m = models[0]\nm.fit(X)", "models X", "m", changes="models"),
    Case("a copy under another name is not", "part = df[df.a > 0]\npart['b'] = 1", "df", "part", changes=""),
    Case("a function that changes a global", "def add(v):\n    rows.append(v)\nadd(1)", "rows", "add", changes="rows"),
    Case(
        "a function that changes its own list",
        "def f():\n    rows = []\n    rows.append(1)\n    return rows\nv = f()",
        "",
        "f v",
        changes="",
    ),
    # syntax of IPython
    Case("%time", "%time y = slow(x)", "slow x", "y"),
    Case("%timeit binds nothing", "%timeit -n 10 -r3 y = slow(x)", "slow x", ""),
    Case("%%time", "%%time\ny = slow(x)", "slow x", "y"),
    Case("%%capture", "%%capture --no-stderr out\nprint(a)", "a", "out"),
    Case("%%timeit with a set-up line", "%%timeit -n 5 z = make(k)\nslow(z)", "make k slow", ""),
    Case("magics in one another", "%%capture\n%time y = slow(x)", "slow x", "y"),
    Case("%lprun -f", "%lprun -f fit fit(x)", "fit x", ""),
    Case("a magic as a value", "y = %time slow(x)", "slow x", "y"),
    Case("a shell line", "!cp {source.name} $target {{literal}}", "source target", ""),
    Case("a shell line as a value", "files = !ls {root}", "root", "files"),
    Case("help", "df?", "df"),
    Case("help on an attribute", "df.groupby??", "df"),
    Case("%pip", "%pip install foo"),
    Case("%matplotlib", "%matplotlib inline\nshow()", "show"),
    Case("%env with a value from Python", "%env FOO={bar}", "bar"),
    Case("%store", "%store df", "df"),
    Case("%%bash with its output", "%%bash --out text\necho $HOME", "", "text"),
    Case("%%R", "%%R -i df -o fit\nfit <- lm(df)", "df", "fit"),
    Case("%%html", "%%html\n<b>$x</b> {y}"),
    Case("an indented cell", "    a = 1\n    b = a + c", "c", "a b"),
    Case("pasted prompts", ">>> a = 1\n>>> b = a + c", "c", "a b"),
    # source in texts
    Case("query and eval with @", "w = df.query('a > @low and b < @high')", "df low high", "w"),
    Case("eval of a constant", "w = eval('a + b')", "a b", "w"),
    Case("exec of a constant", "exec('c = a')\nw = c", "a", "c w"),
    Case("globals()", "globals()['g'] = globals()['h']", "h", "g"),
]


def names(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_names_of(case: Case) -> None:
    found = analyse(case.source)
    assert set(found.reads) == names(case.reads)
    assert set(found.binds) == names(case.binds)
    assert set(found.maybe) == names(case.maybe)
    for field in ("changes", "deletes", "late"):
        expected = getattr(case, field)
        if expected is not None:
            assert set(getattr(found, field)) == names(expected), field


def test_a_name_that_an_except_clause_removes_on_one_path_is_only_perhaps_gone() -> None:
    found = analyse("try:\n    f()\nexcept Exception as e:\n    pass")
    assert found.maybe_deletes == {"e"}
    assert not found.deletes


def test_builtins_that_are_read_are_told_apart_so_that_a_notebooks_own_can_be_found() -> None:
    found = analyse("w = max(rows)")
    assert found.builtins == {"max"}
    assert "max" not in found.reads


def test_the_kernels_history_is_told_apart() -> None:
    found = analyse("w = _ + Out[3] + _7\nv = In[-1]\nok = _exit_code\nfor _ in rows: pass")
    assert found.history == {"_", "_3", "_7", "In", "_exit_code"}
    assert found.reads == {"rows"}


def test_a_loop_variable_an_import_and_a_private_name_are_no_results() -> None:
    found = analyse("import os\nfor i in rows:\n    publish(i)\n_x = 1\nwith a() as f:\n    f.send()")
    assert found.results == frozenset()
    assert found.for_effects


@pytest.mark.parametrize("source", ["x = 1", "def f(): pass", "rows.append(1)", "del x", "files = !ls"])
def test_a_cell_that_binds_or_changes_something_is_not_for_its_effects(source: str) -> None:
    assert not analyse(source).for_effects


def test_a_function_says_what_using_it_does() -> None:
    found = analyse(
        "def f(p):\n    global n\n    n = scale\n    rows.append(1)\n    np.random.seed(1)\n"
        "    p.to_csv('a.csv')\n    return random.random()"
    )
    does = found.functions["f"]
    assert does.reads == {"scale", "rows", "np", "random"}
    assert (does.binds, does.changes, does.writes_paths) == ({"n"}, {"rows"}, {"a.csv"})
    assert does.seeds
    assert does.draws == {"random"}
    assert not found.seeds
    assert not found.draws
    assert not found.writes_paths


def test_imports_stars_magics_and_await_are_listed() -> None:
    found = analyse(
        "import pandas as pd, os.path\nfrom .a import b as c\nfrom math import *\n%matplotlib inline\n!ls\nawait x"
    )
    assert found.imports == {"pd": "pandas", "os": "os", "c": ".a:b"}
    assert found.stars == ("math",)
    assert found.magics == ("%matplotlib", "!")
    assert found.is_async


def test_an_import_that_is_bound_again_is_no_import() -> None:
    assert analyse("import a\na = 1").imports == {}


@pytest.mark.parametrize(
    "source",
    [
        "np.random.seed(0)",
        "numpy.random.seed(0)",
        "import random as r\nr.seed(0)",
        "from random import seed\nseed(1)",
        "torch.manual_seed(3)",
        "seed_everything(1)",
        "def s():\n    random.seed(1)\ns()",
        "%time np.random.seed(1)",
    ],
)
def test_seeding_a_global_generator_is_seen(source: str) -> None:
    assert analyse(source).seeds


@pytest.mark.parametrize(
    "source", ["rng = np.random.default_rng(0)", "rng.seed(1)", "x = random.random()", "f(seed=1)"]
)
def test_what_does_not_seed_a_global_generator(source: str) -> None:
    assert not analyse(source).seeds


@pytest.mark.parametrize(
    ("source", "libraries"),
    [
        ("x = random.random()", "random"),
        ("from random import choice\nx = choice(xs)", "random"),
        ("x = np.random.normal()", "numpy"),
        ("from numpy.random import rand\nx = rand(3)", "numpy"),
        ("x = torch.randn(3)", "torch"),
        ("part = df.sample(10)", "numpy"),
        ("part = df.sample(10, random_state=1)", ""),
        ("a, b = train_test_split(X, y)", "numpy"),
        ("a, b = train_test_split(X, y, random_state=0)", ""),
        ("rng = np.random.default_rng()", ""),
        ("np.random.seed(0)", ""),
    ],
)
def test_drawing_from_a_global_generator_is_seen(source: str, libraries: str) -> None:
    assert analyse(source).draws == names(libraries)


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("df.to_parquet('clean.parquet')", {"clean.parquet"}),
        ("df.to_csv(path_or_buf='a.csv', sep=';')", {"a.csv"}),
        ("np.save('a.npy', a)", {"a.npy", "{a}"}),
        ("joblib.dump(model, 'm.joblib')", {"{model}", "m.joblib"}),
        ("plt.savefig('fig.png', format='png')", {"fig.png"}),
        ("json.dump(d, open('d.json', 'w'))", {"d.json", "{d}"}),
        ("with open('log.txt', mode='a') as f:\n    f.write('hello')", {"log.txt"}),
        ("open('in.txt')\nopen('in.txt', 'rb')", set()),
        ("Path('a.txt').write_text(s)", {"a.txt"}),
        ("Path('a.txt').open('w')", {"a.txt"}),
        ("gzip.open('a.gz', 'wb')", {"a.gz"}),
        ("out = 'o.csv'\ndf.to_csv(out)", {"o.csv"}),
        ("df.to_csv(Path('out') / 'o.csv')", {"out/o.csv"}),
        ("df.to_csv(os.path.join('out', 'o.csv'))", {"out/o.csv"}),
        ("df.to_csv(f'{folder}/o.csv')", {"{folder}/o.csv"}),
        ("shutil.copy('a', 'b')", {"b"}),
        ("%%writefile helpers.py\nx = 1", {"helpers.py"}),
        ("def save(df):\n    df.to_csv('s.csv')\nsave(x)", {"s.csv", "{x}"}),
        ("df.to_dict('records')\npd.to_datetime('2020')\ns.to_frame('x')\nf.write('text')", set()),
    ],
)
def test_paths_given_to_calls_that_write(source: str, paths: set[str]) -> None:
    assert analyse(source).writes_paths == paths


def test_texts_that_may_be_paths_are_named() -> None:
    found = analyse("a = pd.read_csv('in.csv')\nb = read(Path('x') / 'y.csv')\n!head z.csv")
    assert found.names_paths >= {"in.csv", "x/y.csv", "z.csv"}
    assert "y.csv" not in found.names_paths


def test_constants_are_those_that_hold_to_the_end() -> None:
    assert analyse("OUT = 'a.csv'\nx = 'b'\nx = f()").constants == {"OUT": "a.csv"}


@pytest.mark.parametrize(
    ("written", "named", "meet"),
    [
        ("a.csv", "./a.csv", True),
        ("out/a.csv", "out", True),
        ("out/a.csv", "out/*.csv", True),
        ("out/a.csv", "{root}/a.csv", True),
        ("a.csv", "b.csv", False),
        ("out/a.csv", "in/a.csv", False),
        ("a.csv", ".", False),
    ],
)
def test_which_paths_meet(written: str, named: str, meet: bool) -> None:
    assert evidence.paths_meet(written, named) is meet


@pytest.mark.parametrize(
    "source", ["exec(text)", "globals().update(d)", "%run other.ipynb", "get_ipython().user_ns['a']"]
)
def test_names_reached_in_hidden_ways_are_admitted(source: str) -> None:
    assert analyse(source).dynamic


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("a = 1\nb = (", 2),
        ("%%time\na = 1\nb = )", 3),
        ("x = '\x00'", None),
        ("x = '\ud800'", None),
        ("(" * 5000, None),
    ],
)
def test_a_source_that_python_cannot_read_is_a_syntax_error(source: str, line: int | None) -> None:
    with pytest.raises(SyntaxError) as caught:
        analyse(source)
    if line is not None:
        assert caught.value.lineno == line


def test_a_cell_nested_too_deeply_to_follow_gives_every_name_it_mentions() -> None:
    found = analyse("x = a" + ".f(b)" * 900)
    assert {"a", "b"} <= found.reads
    assert "x" in found.binds | found.maybe


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
def test_type_parameters_are_not_read_from_outside() -> None:
    found = analyse(
        "type Pair[T] = tuple[T, Other]\ndef f[T: Bound](x: T) -> T:\n    return T\n"
        "class A[T](Base[T]):\n    x: T\n    def m(self) -> T:\n        return T"
    )
    assert found.reads == {"Bound", "Base"}
    assert found.late == {"Bound", "Other"}


def test_plain_python_does_not_import_ipython() -> None:
    code = (
        "import sys; from mlbench.notebook import cell, step, graph, parameters, document, diagnostics;"
        "cell.analyse('x = [y for y in z]\\nf(x)');"
        "print([m for m in ('IPython', 'nbformat', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_an_ordinary_cell_takes_about_a_millisecond() -> None:
    source = "import pandas as pd\n" + "\n".join(
        f"frame{i} = pd.read_csv(path).groupby('carrier').agg(n=('delay', 'mean'))\n"
        f"if frame{i}.n.max() > limit:\n    frame{i} = frame{i}[frame{i}.n < limit]"
        for i in range(10)
    )
    analyse(source)
    best = min(_timed(source) for _ in range(20))
    assert best < 0.005


def _timed(source: str) -> float:
    start = time.perf_counter()
    analyse(source)
    return time.perf_counter() - start


def test_each_statement_gives_the_names_that_it_may_read_itself() -> None:
    module = ast.parse("x = a + len(b)\ny = x\ndef f(p=q):\n    return r\nfor i in y:\n    z = i + s\nf()")
    assert statement_reads(module) == [{"a", "b", "len"}, {"x"}, {"q"}, {"y", "s"}, {"f"}]


def test_the_globals_of_a_function_include_those_of_functions_nested_in_it() -> None:
    def outer(rows: list[int]) -> object:
        own = rows

        class Inner:
            def method(self) -> object:
                return own, missing.attribute  # type: ignore[name-defined]  # noqa: F821

        return [other(row) for row in rows], Inner  # type: ignore[name-defined]  # noqa: F821

    found = code_globals(outer.__code__)
    assert {"missing", "other"} <= found
    assert not {"own", "rows", "attribute", "method"} & found
