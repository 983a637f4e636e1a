"""Which files beside the notebook a step depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbench.entrypoints.kernel.sources import environment, modules_of, user_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "near_a.py").write_text("import json\nfrom near_b import f\n")
    (tmp_path / "near_b.py").write_text("from near_pack.inner import g\ndef f(): return g()\n")
    package = tmp_path / "near_pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("from . import other\ndef g(): return 1\n")
    (package / "other.py").write_text("")
    return tmp_path


def test_modules_beside_the_notebook_count_with_what_they_import(folder: Path) -> None:
    found = modules_of({"near_a", "json"}, [str(folder)]).local
    assert set(found) == {"near_a", "near_b", "near_pack", "near_pack.inner", "near_pack.other"}


def test_an_edit_changes_the_digest_of_its_module_alone(folder: Path) -> None:
    before = modules_of({"near_a"}, [str(folder)]).local
    (folder / "near_pack" / "inner.py").write_text("from . import other\ndef g(): return 2\n")
    after = modules_of({"near_a"}, [str(folder)]).local
    assert {name for name in before if before[name] != after[name]} == {"near_pack.inner"}


def test_the_environment_is_whole_but_for_what_is_the_kernels_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("DB_URL", "postgres://x")
    found = environment(("pandas",))
    assert found.variables["DB_URL"] == "postgres://x"
    assert not any(name.startswith("JPY_") for name in found.variables)
    assert found.preload == ("pandas",)
    assert found.stamp == environment(()).stamp


@pytest.mark.parametrize("torn", [None, b"", b"short"])
def test_a_stores_secret_is_whole_and_stays_the_same(torn: bytes | None, tmp_path: Path) -> None:
    if torn is not None:
        (tmp_path / "key").write_bytes(torn)
    secret = user_key(tmp_path)
    assert len(secret) == 32
    assert user_key(tmp_path) == secret
    assert [one.name for one in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
