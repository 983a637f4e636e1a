from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.runs import surroundings


@pytest.fixture
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what these tests set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    root = logging.getLogger()
    level, handlers, disabled = root.level, root.handlers[:], root.manager.disable
    with warnings.catch_warnings():
        yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.disable(disabled)


def test_reading_imports_nothing(root: Path) -> None:
    code = (
        "import sys\nfrom mlbench.runs import surroundings\nbefore = set(sys.modules)\nsurroundings.read()\n"
        "heavy = {'numpy', 'pandas', 'matplotlib', 'sklearn', 'cloudpickle', 'IPython'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_the_same_settings_are_the_same_bytes() -> None:
    assert surroundings.read() == surroundings.read()


@pytest.mark.usefixtures("_own")
def test_warning_filters_folder_and_path_hold_again() -> None:
    warnings.resetwarnings()
    warnings.filterwarnings("ignore", message="hush", category=UserWarning)
    sys.path.append("/somewhere")
    read = surroundings.read()
    filters = list(warnings.filters)
    warnings.resetwarnings()
    sys.path.remove("/somewhere")
    os.chdir("/")
    assert surroundings.apply(read) == []
    assert list(warnings.filters) == filters
    assert sys.path[-1] == "/somewhere"
    assert os.getcwd() == read.folder


@pytest.mark.usefixtures("_own")
def test_a_logging_set_up_holds_again(tmp_path: Path) -> None:
    root = logging.getLogger()
    root.handlers[:] = []
    logging.basicConfig(level=logging.INFO, format="{message}!", style="{", stream=sys.stdout)
    to_file = logging.FileHandler(tmp_path / "log.txt", delay=True)
    to_file.setLevel(logging.ERROR)
    root.addHandler(to_file)
    read = surroundings.read()
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    assert surroundings.apply(read) == []
    assert root.level == logging.INFO
    console, file = root.handlers
    assert isinstance(console, logging.StreamHandler)
    assert console.stream is sys.stdout
    assert console.format(logging.makeLogRecord({"msg": "hello"})) == "hello!"
    assert isinstance(file, logging.FileHandler)
    assert file.baseFilename == str(tmp_path / "log.txt")
    assert file.level == logging.ERROR


@pytest.mark.usefixtures("_own")
def test_a_setting_that_cannot_be_made_to_hold_is_said_and_the_others_hold() -> None:
    read = surroundings.read()
    broken = replace(read, libraries={**read.libraries, "numpy": pickle.dumps({"print": {}})})
    (problem,) = surroundings.apply(broken)
    assert "numpy" in problem


@pytest.mark.usefixtures("_own")
def test_settings_of_a_library_that_is_not_there_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    read = surroundings.read()
    assert "numpy" in read.libraries
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert surroundings.apply(read) == []


@pytest.mark.usefixtures("_own")
def test_only_what_differs_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"lines.linewidth": 7.0}):
        read = surroundings.read()
    names: list[str] = []
    known: Any = mpl.RcParams
    put = known.__setitem__
    monkeypatch.setattr(known, "__setitem__", lambda self, name, value: (names.append(name), put(self, name, value)))
    with mpl.rc_context():
        names.clear()
        assert surroundings.apply(read) == []
        assert names == ["lines.linewidth"]
        assert mpl.rcParams["lines.linewidth"] == 7.0


@pytest.mark.usefixtures("_own")
def test_a_folder_that_is_gone_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        surroundings.apply(replace(surroundings.read(), folder="/no/such/folder"))


def test_only_what_is_safe_to_fork_is_preloaded() -> None:
    names = ["torch", "polars", "mlbench", "pandas", "sklearn.svm", "sklearn._config", "numpy.linalg.linalg", "helpers"]
    assert surroundings.preloadable(names) == ("pandas", "sklearn.svm")


@pytest.mark.usefixtures("_own")
def test_what_has_changed_is_said_and_what_a_library_sets_as_it_is_imported_is_not() -> None:
    modules, before = frozenset(sys.modules) - {"shelve"}, surroundings.read()
    assert surroundings.changed(before, surroundings.read(), modules) == []
    for name in ("shelve", "shelve.own"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        import shelve  # noqa: F401  imported meanwhile

        assert surroundings.changed(before, surroundings.read(), modules) == []
        assert surroundings.changed(before, surroundings.read(), {*modules, "shelve"}) == ["logging"]
        logging.getLogger().addHandler(logging.StreamHandler())
        assert surroundings.changed(before, surroundings.read(), modules) == ["logging"]
    finally:
        for name in ("shelve", "shelve.own"):
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_own")
def test_what_is_set_in_python_itself_holds_again() -> None:
    import decimal
    import locale
    import socket

    plain = surroundings.read()
    assert not {"python", "decimal"} & set(surroundings.settings_that_differ(plain))
    decimal.getcontext().prec = 50
    decimal.getcontext().traps[decimal.Inexact] = True
    sys.setrecursionlimit(5000)
    sys.set_int_max_str_digits(9000)
    socket.setdefaulttimeout(3.5)
    locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
    read = surroundings.read()
    try:
        assert {"python", "decimal"} <= set(surroundings.settings_that_differ(read))
        assert surroundings.changed(plain, read, frozenset(sys.modules)) == ["python", "decimal"]
    finally:
        assert surroundings.apply(plain) == []
    assert (decimal.getcontext().prec, sys.getrecursionlimit(), socket.getdefaulttimeout()) == (28, 1000, None)
    try:
        assert surroundings.apply(read) == []
        assert (decimal.getcontext().prec, decimal.getcontext().traps[decimal.Inexact]) == (50, True)
        assert (sys.getrecursionlimit(), sys.get_int_max_str_digits()) == (5000, 9000)
        assert (socket.getdefaulttimeout(), locale.setlocale(locale.LC_NUMERIC)) == (3.5, "C.UTF-8")
    finally:
        assert surroundings.apply(plain) == []
