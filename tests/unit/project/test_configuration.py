"""The store is found, and it is said why it is that one."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from mlbench.core.errors import StoreError, UsageError
from mlbench.project import configuration
from mlbench.project.configuration import describe, find_store, low_space


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLBENCH_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_anything_said_it_is_in_the_data_directory(tmp_path: Path) -> None:
    found = find_store()
    assert found.path == tmp_path / "home" / "mlbench"
    assert "data directory" in found.source
    assert found.catalog_url == f"sqlite:///{found.path}/catalog.sqlite"
    assert not found.path.exists()  # asking makes nothing


def test_what_is_named_outright_wins_over_the_variable_and_that_over_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "work" / "mlbench.toml", 'store = "from-file"')
    notebook = str(file.parent / "n.ipynb")
    assert find_store(notebook).path == tmp_path / "work" / "from-file"
    assert str(file) in find_store(notebook).source
    monkeypatch.setenv("MLBENCH_STORE", "~/from-variable")
    assert find_store(notebook).path == Path.home() / "from-variable"
    assert "MLBENCH_STORE" in find_store(notebook).source
    assert find_store(notebook, store="outright").path == tmp_path / "outright"


def test_the_nearest_file_that_names_a_store_above_the_notebook_wins(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[tool.mlbench]\nstore = "top"')
    write(tmp_path / "a" / "pyproject.toml", "[tool.black]\nline-length = 99")
    write(tmp_path / "a" / "b" / "pyproject.toml", '[tool.mlbench]\nstore = "/absolute"')
    assert find_store(str(tmp_path / "a" / "n.ipynb")).path == tmp_path / "top"
    assert find_store(str(tmp_path / "a" / "b" / "c" / "n.ipynb")).path == Path("/absolute")
    write(tmp_path / "a" / "b" / "mlbench.toml", 'store = "beside"')
    assert find_store("a/b/n.ipynb").path == tmp_path / "a" / "b" / "beside"


def test_a_file_may_name_the_catalog(tmp_path: Path) -> None:
    write(tmp_path / "mlbench.toml", 'store = "s"\ncatalog = "sqlite:////local/catalog.sqlite"')
    assert find_store().catalog_url == "sqlite:////local/catalog.sqlite"
    write(tmp_path / "mlbench.toml", 'store = "s"\ncatalog = "postgresql+psycopg://ada:s3cret@db:5432/mlbench"')
    found = find_store()
    assert found.catalog_url == "postgresql://ada:s3cret@db:5432/mlbench"
    assert describe(found)["catalog"] == "postgresql://db:5432/mlbench"
    assert "s3cret" not in repr(found)
    for wrong in ('"mysql://ada:s3cret@db/x"', '"s3cret"', "7", '"postgresql://"'):
        write(tmp_path / "mlbench.toml", f'store = "s"\ncatalog = {wrong}')
        with pytest.raises(UsageError, match="Write postgresql://HOST/DATABASE") as caught:
            find_store()
        assert "s3cret" not in str(caught.value)


def test_the_environment_names_the_catalog_of_the_store_that_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_CATALOG", "postgres://db/team")
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "team"))
    assert find_store().catalog_url == "postgresql://db/team"
    assert find_store(store=str(tmp_path / "other")).catalog_url.startswith("sqlite:///"), "another one is meant"
    configuration.remember_catalog(str(tmp_path / "other"), "postgresql://db/other")
    assert find_store(store=str(tmp_path / "other")).catalog_url == "postgresql://db/other"


def test_a_store_whose_catalog_is_on_a_server_says_so_and_gets_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path))
    monkeypatch.setenv("MLBENCH_CATALOG", "postgresql://ada:s3cret@db/team")
    configuration.note_catalog(find_store())
    configuration.note_catalog(find_store())
    assert "s3cret" not in (tmp_path / "catalog.json").read_text()
    monkeypatch.setenv("MLBENCH_CATALOG", "postgresql://bob:other@db/team")
    assert find_store().catalog_url == "postgresql://bob:other@db/team"
    monkeypatch.delenv("MLBENCH_CATALOG")
    assert find_store().catalog_url == "postgresql://db/team"
    assert find_store(store=str(tmp_path)).catalog_url == "postgresql://db/team"
    monkeypatch.setenv("MLBENCH_CATALOG", "postgresql://db/mine")
    with pytest.raises(StoreError, match=r"is postgresql://db/team, as its file catalog\.json says, and not"):
        find_store()
    write(tmp_path / "catalog.json", "{")
    with pytest.raises(StoreError, match="cannot be read"):
        find_store()


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("store = ", StoreError, r"mlbench\.toml cannot be read"),
        ("store = 3", StoreError, r"mlbench\.toml: a store is named .* not by 3"),
        ('store = "s3:/bucket/x"', StoreError, r"neither a path nor a URL\. Write s3://bucket/x"),
        ('catalog = "postgresql://db/team"', UsageError, "names a catalog, and not the store that it is of"),
        ('store = ""', StoreError, "not by ''"),
        ('store = "s3://"', StoreError, "names no store"),
        ('store = "s3://key:secret@bucket"', StoreError, "s3://bucket has credentials"),
        ('store = "s3://bucket?secret=abc"', StoreError, "s3://bucket has credentials"),
        ('store = "s3://bucket"\ncatalog = "mysql://host/db"', UsageError, "Write postgresql://HOST"),
        ('sotre = "x"', UsageError, r"has the setting 'sotre', which does not exist\. Did you mean store\?"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_never_silently_the_default(
    tmp_path: Path, text: str, error: type[Exception], sentence: str
) -> None:
    write(tmp_path / "mlbench.toml", text)
    with pytest.raises(error, match=sentence):
        find_store()


def test_a_file_of_others_settings_that_has_no_tools_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "tool = 3")
    assert find_store().path == tmp_path / "home" / "mlbench"


def test_a_variable_that_is_empty_names_no_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_CATALOG", "")
    assert find_store().catalog_url.startswith("sqlite:///")


def test_a_url_is_a_store_and_its_own_catalog_is_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mlbench.toml", 'store = "s3://bucket/team/"')
    found = find_store()
    assert (found.url, found.place) == ("s3://bucket/team", "s3://bucket/team")
    assert found.path.parent == tmp_path / "home" / "mlbench" / "catalogs"
    assert found.catalog_url == f"sqlite:///{found.path}/catalog.sqlite"
    assert found.notice is not None
    assert str(found.path) in found.notice
    assert "postgresql://" in found.notice
    assert not found.path.exists()
    assert describe(found)["store"] == "s3://bucket/team"
    monkeypatch.setenv("MLBENCH_STORE", "gs://bucket/other")
    assert find_store().url == "gs://bucket/other"
    assert find_store().path != found.path
    assert find_store(store="S3://bucket/team").path == found.path


def test_the_catalog_of_a_url_may_be_shared(tmp_path: Path) -> None:
    write(tmp_path / "mlbench.toml", 'store = "s3://bucket"\ncatalog = "postgresql://host/db"')
    assert find_store().catalog_url == "postgresql://host/db"
    assert find_store().notice is None


def test_the_url_of_a_file_is_a_directory(tmp_path: Path) -> None:
    found = find_store(store=f"file://{tmp_path}/my%20store")
    assert (found.path, found.url, found.place) == (tmp_path / "my store", None, str(tmp_path / "my store"))


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "file", "x")
    with pytest.raises(StoreError, match="is not a directory"):
        find_store(store="file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_a_strangers_file_in_a_folder_that_all_can_write_to_says_nothing(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    file = write(shared / "mlbench.toml", 'store = "/theirs"')
    shared.chmod(0o1777)
    os.chown(file, 12345, 12345)
    assert find_store(str(shared / "n.ipynb")).path == tmp_path / "home" / "mlbench"


def test_the_catalog_of_a_store_on_a_network_is_on_a_local_disk_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "file_system", lambda path: "nfs4" if "net" in str(path) else "ext4")
    found = find_store(store=str(tmp_path / "net" / "store"))
    assert found.notice is not None
    assert "nfs4" in found.notice
    assert "\n" not in found.notice
    assert "/var/tmp/mlbench-" in found.catalog_url
    assert found == find_store(store=str(tmp_path / "net" / "store"))
    assert found.catalog_url != find_store(store=str(tmp_path / "net" / "other")).catalog_url
    assert find_store(store=str(tmp_path / "here")).notice is None
    assert describe(found)["catalog"] == found.catalog_url


def test_the_kind_of_file_system_is_known_for_paths_that_are_not_there_yet() -> None:
    assert configuration.file_system("/proc/self/nothing") == "proc"


Disk = namedtuple("Disk", "f_blocks f_bavail f_frsize")


def test_a_nearly_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(1000, 99, 1_000_000_000))
    assert low_space(tmp_path / "not" / "there") == (
        f"The disk of the store {tmp_path / 'not' / 'there'} is nearly full: 99.0 GB are left, 10 %. "
        "Free some, or name another directory in MLBENCH_STORE."
    )
    monkeypatch.setattr(os, "statvfs", lambda path: Disk(1000, 100, 1_000_000_000))
    assert low_space(tmp_path) is None
