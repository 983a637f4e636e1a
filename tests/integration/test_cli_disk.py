"""A disk that is full or may not be written gives one sentence, loses nothing, and all goes on when there is space."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.project import Project
from tests.integration.house import House
from tests.integration.test_papermill_steps import write


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a disk of 8 MB of the test's own, on which the store is to lie."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode
    if mounted != 0:
        pytest.skip("mounting is not allowed here")
    monkeypatch.setenv("MLBENCH_STORE", str(disk / "store"))
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def mlbench(*arguments: str) -> tuple[int, str, str]:
    code = "from mlbench.entrypoints.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte, and return the file to be removed."""
    file = disk / "filling"
    with file.open("wb") as filling:
        try:
            while True:
                filling.write(b"\0" * 65536)
                filling.flush()
        except OSError:
            pass  # that was the aim
    assert shutil.disk_usage(disk).free == 0
    return file


def runs() -> dict[str, str]:
    return {run["name"]: run["state"] for run in json.loads(mlbench("runs", "--json")[1])}


def test_on_a_full_disk_every_command_says_so_and_all_goes_on_afterwards(tmp_path: Path, small: Path) -> None:
    first = write(tmp_path / "first.ipynb", "n: int = 1")
    second = write(tmp_path / "second.ipynb", "n: int = 1", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    assert mlbench("run", str(first))[0] == 0
    filling = fill(small)
    for command in (("run", str(second)), ("schedule", str(second), "--cron", "@daily", "--tz", "UTC"), ("runs",)):
        status, _, said = mlbench(*command)
        assert status == 2, command
        assert said.startswith("Error: There is no space left on ")
        assert said.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    filling.unlink()
    assert runs() == {"first": "succeeded"}
    assert mlbench("run", str(second))[0] == 0
    assert runs() == {"first": "succeeded", "second": "succeeded"}


def test_a_step_whose_result_does_not_fit_on_the_disk_says_that_there_is_no_space(
    tmp_path: Path, service: House, small: Path
) -> None:
    large = write(
        tmp_path / "large.ipynb",
        "n: int = 1",
        "%load_ext mlbench",
        "%%step a\nimport random\na = random.randbytes(24_000_000)",
    )
    status, out, _ = mlbench("run", str(large))
    assert status == 1
    assert f"There is no space left on {small / 'store'}." in out
    (run,) = Project.open().catalog.runs()
    assert (run.state, run.failed_step) == ("failed", "a")
    (execution,) = Project.open().catalog.executions(run.id)
    assert execution.failure is not None
    assert (execution.reason, execution.failure.ename) == ("error", "StoreError")


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that begins to be when a kernel is started, and in which it says that it ended by itself."""
    file = tmp_path / "kernels"
    code = f"import atexit; f = open({str(file)!r}, 'ab', buffering=0); atexit.register(f.write, b'ended'); "
    code += "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
    spec = tmp_path / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", code, "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "noted", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    return file


def test_a_store_that_cannot_be_used_is_refused_before_a_kernel_is_started(
    tmp_path: Path, ends: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = write(tmp_path / "n.ipynb", "n: int = 1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "file" / "store"))
    status, out, said = mlbench("run", str(notebook))
    assert (status, out) == (2, "")
    assert said.startswith(f"Error: The store {tmp_path / 'file' / 'store'} cannot be written: Not a directory.")
    assert said.count("\n") == 1
    assert not ends.exists()
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    assert mlbench("run", str(notebook))[0] == 0
    assert ends.exists()


def test_a_kernel_of_a_run_that_cannot_begin_is_ended_outright_and_says_nothing(
    tmp_path: Path, ends: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = write(tmp_path / "n.ipynb", "n: int = 1", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLBENCH_CATALOG", f"sqlite:///{tmp_path / 'file' / 'catalog.sqlite'}")
    status, _, said = mlbench("run", str(notebook))
    assert status == 2
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert ends.read_text() == ""


def test_a_store_on_a_disk_that_may_not_be_written_is_refused(tmp_path: Path, small: Path) -> None:
    notebook = write(tmp_path / "n.ipynb", "n: int = 1", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    for command in (("run", str(notebook)), ("schedule", str(notebook), "--cron", "@daily", "--tz", "UTC"), ("runs",)):
        status, _, said = mlbench(*command)
        assert status == 2
        assert said == (
            f"Error: The store {small / 'store'} cannot be written: Read-only file system. "
            "Make the directory writable, or name another in MLBENCH_STORE.\n"
        )
    assert not (tmp_path / "ran").exists()
    assert os.listdir(small) == []
