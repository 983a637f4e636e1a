"""What a dead process has left in the temporary folder is removed, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlbench.backends import owners


def test_only_the_scratch_folders_of_dead_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os; from mlbench.backends import owners\n"
        "folder = owners.scratch_folder('job'); folder.__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"TMPDIR": str(tmp_path)}, timeout=60)
    (left,) = tmp_path.iterdir()
    elsewhere = tmp_path / left.name.replace(left.name.split("-")[3][:6], "0" * 6)
    for other in (elsewhere, tmp_path / "mlb-job-x", tmp_path / "mlbench-0", tmp_path / "mlb0ak2ic69"):
        other.mkdir()
    with owners.scratch_folder("job") as mine:
        (tmp_path / f"{left.name}link").symlink_to(mine)
        assert owners.sweep() == [left]
        assert mine.is_dir()
    assert not mine.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        elsewhere.name, "mlb-job-x", "mlbench-0", "mlb0ak2ic69", f"{left.name}link",
    }  # fmt: skip
    assert owners.sweep() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process's variables")
def test_the_processes_of_a_run_are_ended_whatever_their_session_and_no_others() -> None:
    def sleeper(run: str) -> subprocess.Popen[bytes]:
        code = "print(flush=True); input()"
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={"MLBENCH_RUN": run}, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with sleeper("a" * 26) as ours, sleeper("a" * 25) as other:
        assert owners.end_processes_of("a" * 26) == [ours.pid]
        assert ours.wait(10) == -9
        assert other.poll() is None
        other.communicate()
