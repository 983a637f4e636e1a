"""What cells set in modules, and how another process comes to have it."""

from __future__ import annotations

import ast
import importlib
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlbench.notebook.assigned import assigned, taken
from mlbench.runs import modulesettings, onimport, surroundings

SOURCE = """
RATE = 1
TABLE = {"a": 1}
NAMES = ["a"]
class Model:
    depth = 3
def loss():
    return 0
"""


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Return a module that can be imported, and forget it and what was noted of it afterwards."""
    (tmp_path / "settings_of_mine.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(modulesettings, "_noted", {})
    monkeypatch.setattr(onimport, "_awaited", {})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield importlib.import_module("settings_of_mine")
    sys.modules.pop("settings_of_mine", None)


def ran(source: str, **namespace: Any) -> None:
    """Run a cell and note what it has set."""
    exec(source, namespace)
    modulesettings.note(assigned(ast.parse(source)), namespace, taken(ast.parse(source)))


def test_what_was_set_in_a_module_is_set_where_it_is_imported_anew(cfg: types.ModuleType) -> None:
    ran(
        "cfg.RATE = 5; cfg.Model.depth += 1; cfg.TABLE['b'] = 2; cfg.NAMES.append('b'); setattr(cfg, 'NEW', 7)", cfg=cfg
    )
    read = surroundings.read()
    assert "modules" in surroundings.settings_that_differ(read)
    del sys.modules["settings_of_mine"]
    assert surroundings.apply(read) == []
    assert "settings_of_mine" not in sys.modules  # a step that does not need it does not pay for it
    from settings_of_mine import NAMES, TABLE  # type: ignore[import-not-found]

    anew = sys.modules["settings_of_mine"]
    assert anew is not cfg
    assert (anew.RATE, anew.Model.depth, TABLE, NAMES, anew.NEW) == (5, 4, {"a": 1, "b": 2}, ["a", "b"], 7)


def test_what_was_set_is_set_in_a_module_that_is_here_and_keeps_its_objects(cfg: types.ModuleType) -> None:
    ran("cfg.TABLE['b'] = 2", cfg=cfg)
    read = surroundings.read()
    kept = cfg.TABLE
    cfg.TABLE.clear()
    assert surroundings.apply(read) == []
    assert cfg.TABLE is kept
    assert kept == {"a": 1, "b": 2}


def test_what_was_taken_out_of_a_module_and_changed_is_changed_there(cfg: types.ModuleType) -> None:
    cell = "from settings_of_mine import TABLE as t, NAMES, Model, RATE\nt['b'] = 2\nNAMES.append('b')\n"
    ran(f"{cell}Model.depth = 4\nRATE = 9")
    read = surroundings.read()
    del sys.modules["settings_of_mine"]
    surroundings.apply(read)
    anew = importlib.import_module("settings_of_mine")
    assert (anew.TABLE, anew.NAMES, anew.Model.depth, anew.RATE) == ({"a": 1, "b": 2}, ["a", "b"], 4, 1)


def test_another_value_in_a_module_is_another_setting(cfg: types.ModuleType) -> None:
    ran("cfg.RATE = 5", cfg=cfg)
    before = surroundings.read()
    cfg.RATE = 6
    assert surroundings.changed(before, surroundings.read(), frozenset(sys.modules)) == ["modules"]


def test_functions_are_not_sent_and_are_named(cfg: types.ModuleType) -> None:
    ran("cfg.loss = lambda: 1; cfg.RATE = 5", cfg=cfg)
    assert list(modulesettings.read()["settings_of_mine"]) == [("RATE",)]
    assert modulesettings.unsent() == (("settings_of_mine", ("loss",)),)


def test_the_arguments_of_the_command_line_are_as_a_cell_has_set_them(
    cfg: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
    ran("cfg.RATE = 1", cfg=cfg)
    assert list(modulesettings.read()) == ["settings_of_mine"]
    ran("sys.argv = ['train', '--rate', '3']; sys.ps1 = '> '", sys=sys)
    read = surroundings.read()
    sys.argv[:] = ["-c"]
    surroundings.apply(read)
    assert sys.argv == ["train", "--rate", "3"]


def test_what_is_large_is_not_sent_and_is_named(cfg: types.ModuleType) -> None:
    ran("cfg.RATE = bytes(2 << 20); cfg.NAMES.extend(map(str, range(500_000)))", cfg=cfg)
    assert modulesettings.read() == {}
    assert sorted(path for _, path in modulesettings.unsent()) == [("NAMES",), ("RATE",)]


def test_a_module_that_has_not_what_was_set_is_imported_all_the_same(
    cfg: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ran("cfg.Model.depth = 4; cfg.RATE = 5", cfg=cfg)
    read = surroundings.read()
    file = Path(str(cfg.__file__))
    file.write_text("RATE = 1  # and no class any more\n" * 9)
    del sys.modules["settings_of_mine"]
    surroundings.apply(read)
    assert importlib.import_module("settings_of_mine").RATE == 5
    assert "settings_of_mine.Model.depth is not as it is in the kernel: AttributeError" in capsys.readouterr().err


def test_only_what_is_in_a_module_counts(cfg: types.ModuleType) -> None:
    import os

    ran(
        "o.x = 1; d = {}; d['a'] = 1; os.environ['MLBENCH_TEST_X'] = '1'; del cfg.NAMES",
        o=types.SimpleNamespace(),
        os=os,
        cfg=cfg,
    )
    del os.environ["MLBENCH_TEST_X"]
    assert modulesettings.read() == {}
    assert modulesettings.unsent() == ()


TORCH = """
float32, float64 = "torch.float32", "torch.float64"
_is = {"dtype": float32, "grad": True, "deterministic": False, "precision": "highest"}
def get_default_dtype(): return _is["dtype"]
def set_default_dtype(value): _is["dtype"] = value
def is_grad_enabled(): return _is["grad"]
def set_grad_enabled(value): _is["grad"] = value
def are_deterministic_algorithms_enabled(): return _is["deterministic"]
def use_deterministic_algorithms(value): _is["deterministic"] = value
def get_float32_matmul_precision(): return _is["precision"]
def set_float32_matmul_precision(value): _is["precision"] = value
"""


@pytest.fixture
def _torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a module of our own stand for PyTorch, with those functions of its documentation that are used."""
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(onimport, "_awaited", {})
    own = sys.modules.pop("torch", None)
    yield
    sys.modules.pop("torch", None)
    if own is not None:
        sys.modules["torch"] = own


@pytest.mark.usefixtures("_torch")
def test_what_is_set_in_pytorch_holds_once_it_is_imported() -> None:
    torch: Any = importlib.import_module("torch")
    plain = surroundings.read()
    assert "torch" not in surroundings.settings_that_differ(plain)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    read = surroundings.read()
    assert surroundings.changed(plain, read, frozenset(sys.modules)) == ["torch"]
    del sys.modules["torch"]
    assert surroundings.apply(read) == []
    assert "torch" not in sys.modules
    anew: Any = importlib.import_module("torch")
    assert anew is not torch
    assert (anew.get_default_dtype(), anew.is_grad_enabled()) == ("torch.float64", False)
    del sys.modules["torch"]
    surroundings.apply(plain)
    assert importlib.import_module("torch").get_default_dtype() == "torch.float32"
