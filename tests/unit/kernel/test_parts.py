"""The named parts that a step depends on, as its kernel tells them."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mlbench.core.messages import Foreach, StepOptions, Surroundings
from mlbench.entrypoints.kernel import parts as kernel_parts
from mlbench.entrypoints.kernel.parts import Parts, cell_key, parts_of
from mlbench.notebook.foreach import names_of
from mlbench.runs.key import key_of
from mlbench.runs.reach import reach


class Told:
    """Says what a cell depends on in a notebook with some names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main = types.ModuleType("__main__")

    def run(self, source: str) -> None:
        exec(compile(source, "cell", "exec"), self.main.__dict__)  # it plays the kernel

    def parts(self, body: str, options: StepOptions | None = None, **more: Any) -> Parts:
        options = options or StepOptions()
        names = names_of(body, options)
        wanted = reach(names.reads | names.late, vars(self.main))
        given: dict[str, Any] = {
            "step": "train",
            "source": body,
            "options": options,
            "requirements": (),
            "names": names,
            "values": {name: vars(self.main)[name] for name in wanted if name in vars(self.main)},
            "edges": (),
            "behind": {},
            "namespace": vars(self.main),
            "defs": names.binds,
            "surroundings": Surroundings(folder=str(self.folder)),
            "store": self.folder / "store",
            "data": lambda value: repr(value),
        }
        return parts_of(**{**given, **more})


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def changed(before: Parts, after: Parts) -> set[str]:
    names = {*before.parts, *after.parts}
    return {name for name in names if before.parts.get(name) != after.parts.get(name)}


def test_each_thing_changes_its_own_part(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.run("trees = 1\nother = 2")
    body = "import numpy\nmodel = [trees, other]"
    first = told.parts(body)
    told.run("trees = 2")
    assert changed(first, told.parts(body)) == {"value trees"}
    told.run("trees = 1")
    assert changed(first, told.parts("import numpy\n# a comment\nmodel = [trees,\n  other]")) == set()
    assert changed(first, told.parts("import numpy\nmodel = [other, trees]")) == {"code"}
    assert changed(first, told.parts(body, StepOptions(env="old"))) == {"options"}
    assert changed(first, told.parts(body, step="fit")) == {"step"}
    monkeypatch.setattr(kernel_parts, "version_of", lambda package: f"new {package}")
    assert changed(first, told.parts(body)) == {"package numpy"}
    monkeypatch.setattr(kernel_parts.platform, "python_version", lambda: "3.99.0")
    assert "python" in changed(first, told.parts(body))


def test_packages_that_captured_code_imports_count(told: Told) -> None:
    told.run("def load():\n    import numpy.linalg\n    return 1")
    assert "package numpy" in told.parts("x = load()").parts


def test_variables_count_that_the_code_names(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE_OF_DATA", "here")
    told.run("import os\ndef place(): return os.environ['PLACE_OF_DATA']")
    first = told.parts("x = place()")
    assert "here" not in "".join(first.parts.values())
    monkeypatch.setenv("PLACE_OF_DATA", "there")
    assert changed(first, told.parts("x = place()")) == {"variable PLACE_OF_DATA"}


def test_paths_are_found_in_the_cell_and_in_what_it_reaches(told: Told) -> None:
    for name in ("a.csv", "b.csv", "c d.csv", "e.csv"):
        (told.folder / name).write_text("")
    told.run("place = 'a.csv'\ndef load(): return open('b.csv')")
    body = "x = [place, load(), open('c d.csv'), 'cat e.csv', open('missing.csv'), 'some text.']"
    assert set(told.parts(body).paths) == {"a.csv", "b.csv", "c d.csv", "e.csv", "missing.csv"}


def test_what_cannot_be_compared_has_no_key(told: Told) -> None:
    told.run("import threading\nlock = threading.Lock()\ntext = '1'")
    for body in ("x = lock", "x = eval(text)"):
        found = told.parts(body).parts
        assert key_of(found) is None
        assert found["unknown"]


def test_names_that_only_say_which_items_there_are_are_told_apart(told: Told) -> None:
    told.run("groups = [1, 2]\nbase = 3\ndef fit(v): return v + base")
    options = StepOptions(foreach=(Foreach(name="group", expression="groups + [base]"),))
    found = told.parts("model = fit(group)", options)
    assert found.items_from == ("groups",)
    more = StepOptions(foreach=(Foreach(name="group", expression="groups"),))
    assert changed(found, told.parts("model = fit(group)", more)) == {"items"}


def test_the_key_of_a_cell_has_those_of_its_parents() -> None:
    parts = {"code": "1"}
    assert cell_key(parts, {"x": "a"}, []) != cell_key(parts, {"x": "b"}, [])
    assert cell_key(parts, {"x": "a"}, ["w"]) != cell_key(parts, {"x": "a"}, [])
    assert cell_key(parts, {"x": None}, []) is None


def test_modules_below_a_package_count_that_the_cell_or_a_helper_names(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = told.folder / "ownpackage"
    package.mkdir()
    for name in ("__init__", "direct", "helped", "unused"):
        (package / f"{name}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(told.folder))
    told.run("import ownpackage.direct, ownpackage.helped, ownpackage.unused\ndef helper(): return ownpackage.helped.x")
    try:
        found = told.parts("made = ownpackage.direct.x + helper()").parts
        again = told.parts("import ownpackage\nmade = ownpackage.helped.x").parts
    finally:
        for name in [name for name in sys.modules if name.startswith("ownpackage")]:
            del sys.modules[name]
    local = {name for name in found if name.startswith("module ")}
    assert local == {"module ownpackage", "module ownpackage.direct", "module ownpackage.helped"}
    assert {name for name in again if name.startswith("module ")} == {"module ownpackage", "module ownpackage.helped"}
