"""After `import a.b` a name holds `a`: whoever is given it finds `a.b` in it, as in a plain notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.project import Project

FILES = {
    "__init__.py": "", "inner.py": "x = 1", "other.py": "y = 2", "lower/__init__.py": "", "lower/most.py": "z = 3",
}  # fmt: skip


@pytest.fixture
def book(place: Any) -> Iterator[Any]:
    """Return a notebook beside a package of which nobody has imported anything."""
    for name, source in FILES.items():
        file = Path(place.folder, "deeppackage", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    book = place.notebook()
    yield book
    book.close()


def test_what_a_step_imports_below_a_package_is_there_for_all_that_read_the_package(
    place: Any, book: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.run("%%step imports\nimport deeppackage.inner\nfrom deeppackage.lower import most")
    book.run("%%step reads\nread = deeppackage.inner.x, deeppackage.lower.most.z")
    book.run("%%step items --foreach n in [1, 2]\nvalues = deeppackage.inner.x * n")
    book.run("%%step changes\ndeeppackage.mark = 4")
    book.run("%%step after\nchanged = deeppackage.inner.x")
    assert book.value("read, values, changed") == "((1, 3), [1, 2], 1)"
    assert book.value("deeppackage.inner.x, deeppackage.lower.most.z") == "(1, 3)"

    monkeypatch.syspath_prepend(str(place.folder))
    project = Project.open(str(place.store))
    (run,) = [run for run in (project.run(one.id) for one in project.catalog.runs()) if "imports" in run]
    project.close()
    assert run["imports"].deeppackage.inner.x == 1


def test_what_items_import_below_a_package_is_there_in_the_package_that_they_bind(book: Any) -> None:
    book.run("%%step each --foreach n in [1, 2]\nimport deeppackage.inner\nfound = deeppackage")
    assert book.value("[one.inner.x for one in found]") == "[1, 1]"


def test_what_a_step_imports_in_the_kernel_below_a_package_is_there_in_later_steps(book: Any) -> None:
    book.run("%%step own --here\nimport deeppackage.other")
    book.run("%%step reads\nread = deeppackage.other.y")
    assert book.value("read") == "2"


def test_a_step_that_imports_a_package_again_finds_what_the_kernel_has_imported_of_it(book: Any) -> None:
    book.run("import deeppackage.inner")
    book.run("%%step more\nimport deeppackage.other\nmore = deeppackage.other.y, deeppackage.inner.x")
    assert book.value("more") == "(2, 1)"
    book.run("%%step both\nboth = deeppackage.other.y, deeppackage.inner.x")
    assert book.value("both") == "(2, 1)"


def test_what_plain_cells_set_in_modules_holds_in_steps_and_items_and_counts_for_reuse(place: Any, book: Any) -> None:
    Path(place.folder, "mycfg.py").write_text("RATE = 1\nTABLE = {'a': 1}\ndef loss():\n    return 0\n")
    Path(place.folder, "myhelp.py").write_text("import mycfg\ndef look():\n    return mycfg.RATE, mycfg.TABLE\n")
    book.run("import decimal, mycfg, myhelp")
    other = "%%step other --cache --wait\nother = 1"
    book.run(other)
    step = "%%step look --cache --wait\nseen = myhelp.look()\nprecision = decimal.getcontext().prec"
    book.run(step)
    assert book.value("seen, precision") == "((1, {'a': 1}), 28)"
    book.run("mycfg.RATE = 5\nmycfg.TABLE['b'] = 2")
    assert "reused" in book.run(other).text  # it does not use the module
    book.run("decimal.getcontext().prec = 50")
    assert "reused" not in book.run(step).text
    assert "reused" in book.run(step).text
    book.run("%%step each --foreach n in [1, 2]\nvalues = myhelp.look()[0] * n")
    assert book.value("seen == myhelp.look(), precision, values") == "(True, 50, [5, 10])"
    book.run("%%step own --here\nmycfg.RATE = 7")
    book.run(step)
    assert book.value("seen[0]") == "7"


def test_what_is_set_in_a_module_above_and_beside_load_ext_holds_in_steps(place: Any) -> None:
    Path(place.folder, "early.py").write_text("A = B = C = 1\n")
    book = place.notebook(loads=False)
    book.run("import early\nearly.A = 2")
    book.run("%load_ext mlbench\nearly.B = 3\nfor early.C in [4]:\n    pass")
    book.run("%%step look --wait\nseen = early.A, early.B, early.C")
    assert book.value("seen") == "(2, 3, 4)"
    book.close()


def test_what_is_set_in_a_module_and_does_not_travel_is_said(place: Any, book: Any) -> None:
    Path(place.folder, "yourcfg.py").write_text("RATE = 1\ndef loss():\n    return 0\n")
    book.run("import yourcfg\nyourcfg.loss = lambda: 1")
    said = book.run("%%step look\nseen = yourcfg.loss()").text
    assert "yourcfg.loss was changed in the kernel, and steps do not see that" in said
    said = book.run("%%step sets\nyourcfg.RATE = 9\nrate = yourcfg.RATE").text
    assert "yourcfg.RATE is set in this step alone" in said
    assert "yourcfg.loss" not in said
    assert book.value("rate, yourcfg.RATE") == "(9, 1)"


def test_what_was_hung_onto_pandas_is_there_in_steps_and_counts_for_reuse(place: Any, book: Any) -> None:
    source = "import pandas\n@pandas.api.extensions.register_dataframe_accessor('mine')\nclass Mine:\n"
    source += "    def __init__(self, frame):\n        self.n = {} * len(frame)\n"
    Path(place.folder, "accessors.py").write_text(source.format(1))
    book.run(
        "import pandas as pd, accessors\nfrom tqdm import tqdm\ntqdm.pandas()\nframe = pd.DataFrame({'a': [1, 2]})"
    )
    step = (
        "%%step uses --cache --wait\nsize = frame.mine.n\nmore = frame.a.progress_apply(lambda one: one + 1).tolist()"
    )
    book.run(step)
    assert book.value("size, more") == "(2, [2, 3])"
    assert "reused" in book.run(step).text
    Path(place.folder, "accessors.py").write_text(source.format(10))
    assert "reused" not in book.run(step).text
    assert book.value("size") == "20"
