"""A capture carries what a cell reads, by value, into another namespace."""

from __future__ import annotations

import functools
import socket
import sqlite3
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbench.core.errors import CaptureError
from mlbench.runs.capture import install, make


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Return a function that runs source as a notebook's, and returns its namespace."""

    def run(source: str) -> dict[str, Any]:
        main = types.ModuleType("__main__")
        monkeypatch.setitem(__import__("sys").modules, "__main__", main)
        exec(source, main.__dict__)
        return main.__dict__

    return run


Notebook = Callable[[str], dict[str, Any]]


def test_functions_share_one_namespace_with_the_cell(notebook: Notebook) -> None:
    space = notebook("factor = 2\ndef inner(v): return v * factor\ndef outer(v): return inner(v) + 1")
    there = install(make({"outer"}, space).data)
    assert there["outer"](3) == 7
    there["factor"] = 10
    assert there["outer"](3) == 31
    assert there["outer"].__globals__ is there


def test_a_name_that_comes_from_another_step_is_left_out_of_what_helpers_carry(notebook: Notebook) -> None:
    space = notebook("table = [1]\ndef size(): return len(table)")
    there = install(make({"size"}, space, without={"table"}).data)
    assert "table" not in there
    there["table"] = [1, 2, 3]
    assert there["size"]() == 3


def test_a_value_given_takes_the_place_of_the_present_one_in_helpers_too(notebook: Notebook) -> None:
    space = notebook("c = 99\ndef twice(): return 2 * c")
    there = install(make({"c", "twice"}, space, values={"c": 10}).data)
    assert there["c"] == 10
    assert there["twice"]() == 20


def test_modules_travel_by_name(notebook: Notebook) -> None:
    there = install(make({"m"}, notebook("import json as m")).data)
    assert there["m"] is __import__("json")


def test_names_that_hold_one_object_still_do(notebook: Notebook) -> None:
    there = install(make({"a", "b"}, notebook("a = [1]\nb = {'x': a}")).data)
    assert there["b"]["x"] is there["a"]


def test_what_pickles_by_name_only_is_sent_by_value(notebook: Notebook) -> None:
    space = notebook(
        "import functools\nfrom toolz import curry\nbase = 1\n"
        "@functools.lru_cache(maxsize=7)\ndef cached(v): return v + base\n"
        "@curry\ndef add(a, b): return a + b + base\n"
        "part = functools.partial(lambda a, b: a + b + base, 1)\n"
        "@functools.singledispatch\ndef one(v): return 'any'\n"
        "@one.register\ndef _(v: int): return 'int'\n"
    )
    there = install(make({"cached", "add", "part", "one"}, space).data)
    assert there["cached"](1) == 2
    assert there["cached"].cache_parameters()["maxsize"] == 7
    assert there["add"](1)(2) == 4
    assert there["part"](2) == 4
    assert (there["one"](1), there["one"]("")) == ("int", "any")
    there["base"] = 10
    assert there["cached"](5) == 15


def test_an_instance_and_its_class_go_together(notebook: Notebook) -> None:
    space = notebook(
        "class Shape:\n    def __init__(self, n): self.n = n\n    def area(self): return self.n * side\n"
        "side = 2\ns = Shape(4)"
    )
    there = install(make({"s", "Shape"}, space).data)
    assert isinstance(there["s"], there["Shape"])
    there["side"] = 5
    assert there["s"].area() == 20


@pytest.mark.parametrize(
    ("make_value", "remedy"),
    [
        (lambda path: (path / "f.txt").open("w"), "Open it inside the step"),
        (lambda path: Path(__file__).open(), "Open it inside the step"),
        (lambda path: threading.Lock(), "Make it inside the step"),
        (lambda path: (i for i in range(3)), "list"),
        (lambda path: sqlite3.connect(":memory:"), "Connect inside the step"),
        (lambda path: socket.socket(), "Connect inside the step"),
        (lambda path: threading.Thread(target=print), "Start it inside the step"),
    ],
    ids=["written file", "read file", "lock", "generator", "database", "socket", "thread"],
)
def test_what_cannot_be_sent_is_named_with_its_type_and_a_remedy(
    notebook: Notebook, tmp_path: Path, make_value: Callable[[Path], Any], remedy: str
) -> None:
    space = notebook("")
    space["thing"] = value = make_value(tmp_path)
    with pytest.raises(CaptureError) as caught:
        make({"thing"}, space)
    assert "thing (" in str(caught.value)
    assert type(value).__qualname__ in str(caught.value)
    assert remedy in str(caught.value)


def test_the_place_of_what_cannot_be_sent_is_said(notebook: Notebook) -> None:
    space = notebook(
        "import threading\nlock = threading.Lock()\ncfg = {'a': [1, lock]}\n"
        "class Box:\n    def __init__(self): self.guard = lock\nbox = Box()\n"
        "def use(): return lock"
    )
    for name, place in {"cfg": 'cfg["a"][1]', "box": "box.guard", "use": "lock (which use reads)"}.items():
        with pytest.raises(CaptureError) as caught:
            make({name}, space)
        assert place in str(caught.value), name


def test_all_that_cannot_be_sent_is_said_at_once(notebook: Notebook) -> None:
    space = notebook("import threading\na = threading.Lock()\nb = (i for i in ())")
    with pytest.raises(CaptureError, match=r"a \(_thread.lock\), b \(generator\)"):
        make({"a", "b"}, space)


def test_large_data_is_kept_once_and_fetched(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from mlbench.runs import artifacts

    space = notebook("")
    space["big"] = big = np.arange(200_000)
    space["both"] = [big, big]
    kept: list[Any] = []

    def keep(value: Any) -> dict[str, Any]:
        kept.append(value)
        return {"name": "value", "artifact": {"digest": "blake3:0", "size": 1, "type": "ndarray", "codec": "ndarray"}}

    captured = make({"big", "both"}, space, keep=keep)
    assert len(kept) == 1
    assert len(captured.data) < 10_000
    described = {one["name"]: one for one in captured.described}
    assert described["big"]["digest"] == "blake3:0"

    class Loader:
        def __init__(self, blobs: Any) -> None: ...
        def load(self, binding: Any) -> Any:
            return big

    monkeypatch.setattr(artifacts, "Loader", Loader)
    there = install(captured.data, blobs=object())  # type: ignore[arg-type]
    assert there["both"][0] is there["big"]


def test_the_shell_of_the_kernel_does_not_travel(notebook: Notebook) -> None:
    space = notebook("def show(): return get_ipython()")
    space["get_ipython"] = threading.Lock().acquire
    there = install(make({"show"}, space).data)
    assert "get_ipython" not in there


def test_a_helpers_source_goes_along_for_tracebacks(notebook: Notebook) -> None:
    import linecache

    source = "def helper(v):\n    return v / 0\n"
    name = "/tmp/ipykernel_1/2.py"
    space = notebook("")
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), space)
    data = make({"helper"}, space).data
    del linecache.cache[name]
    there = install(data)
    assert there["helper"].__code__.co_filename == name
    assert linecache.getline(name, 2) == "    return v / 0\n"


def test_functools_partial_of_a_method_goes(notebook: Notebook) -> None:
    space = notebook("class A:\n    def m(self, v): return v + 1\na = A()")
    space["f"] = functools.partial(space["a"].m, 1)
    assert install(make({"f"}, space).data)["f"]() == 2


def test_a_decorators_object_that_pickles_as_a_name_is_sent_with_what_it_wraps(notebook: Notebook) -> None:
    space = notebook(
        "import functools\nbase = 1\n"
        "class Curry:\n"
        "    def __init__(self, function): self.function = function; functools.update_wrapper(self, function)\n"
        "    def __call__(self, *args): return self.function(*args)\n"
        "    def __reduce__(self): return self.__qualname__\n"
        "@Curry\ndef add(a, b): return a + b + base\n"
    )
    there = install(make({"add"}, space).data)
    there["base"] = 10
    assert there["add"](1, 2) == 13


def test_modules_that_no_name_holds_are_imported_there(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "capturedpackage").mkdir()
    (tmp_path / "capturedpackage" / "__init__.py").touch()
    (tmp_path / "capturedpackage" / "part.py").write_text("x = 1")
    space = notebook("")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        for name in ("capturedpackage", "capturedpackage.part"):
            patch.delitem(__import__("sys").modules, name, raising=False)
        exec("import capturedpackage.part", space)
        captured = make({"capturedpackage"}, space, modules={"capturedpackage.part"})
        for name in ("capturedpackage", "capturedpackage.part"):
            del __import__("sys").modules[name]
        there = install(captured.data)
        assert there["capturedpackage"].part.x == 1
        assert set(there) - {"__builtins__"} >= {"capturedpackage"}
        assert not [name for name in there if "mlbench" in name]
        for name in ("capturedpackage", "capturedpackage.part"):
            del __import__("sys").modules[name]
