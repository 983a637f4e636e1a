"""Files and folders that are kept: what of them is, and that they come back as they were."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs, keep_logged
from mlbench.core.errors import ArtifactCorrupt, UsageError
from mlbench.core.ids import Digest
from mlbench.core.ports import BlobStore
from mlbench.core.records import Artifact
from mlbench.runs.artifacts import Loader
from mlbench.runs.files import StoredFile, StoredFolder, folder_header, read_folder
from mlbench.runs.reachable import Survey
from mlbench.runs.values import named_by


def kept(path: Path, blobs: BlobStore, name: str | None = None) -> tuple[Artifact, StoredFile | StoredFolder]:
    binding = keep_logged(path, name, blobs)
    assert binding.artifact is not None
    return binding.artifact, Loader(blobs).load(binding)


@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_000])
def test_a_file_comes_back_and_is_kept_once_under_whichever_name(blobs: BlobStore, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a.bin").write_bytes(content)
    artifact, file = kept(tmp_path / "a.bin", blobs)
    assert isinstance(file, StoredFile)
    assert (file.name, file.size, file.read_bytes()) == ("a.bin", size, content)
    assert artifact.preview["size"] == size
    with file.open() as opened:
        assert opened.read(10) + opened.read() == content
    assert file.save(tmp_path / "again.bin").read_bytes() == content
    assert kept(tmp_path / "again.bin", blobs, "other.txt")[0].digest == artifact.digest


def test_a_folder_comes_back_with_its_files_links_and_empty_folders(blobs: BlobStore, tmp_path: Path) -> None:
    root = tmp_path / "out"
    (root / "plots").mkdir(parents=True)
    (root / "empty").mkdir()
    for number in range(300):
        (root / "plots" / f"{number}.txt").write_text(str(number % 7))
    (root / "large.bin").write_bytes(b"x" * 5_000_000)
    (root / "last.txt").symlink_to("plots/299.txt")
    (root / "plots" / "up").symlink_to("../large.bin")
    (root / "all").symlink_to("plots")
    artifact, folder = kept(root, blobs)
    assert isinstance(folder, StoredFolder)
    assert len(folder) == 301
    assert artifact.preview["text"] == "out, 301 files, 5.0 MB"
    made = folder.save(tmp_path / "again")
    compared = subprocess.run(["diff", "-r", str(root), str(made)], capture_output=True, text=True, check=False)
    assert compared.stdout == ""
    assert (made / "last.txt").is_symlink()
    assert (made / "empty").is_dir()
    assert kept(made, blobs)[0].digest == artifact.digest
    with pytest.raises(UsageError, match="not empty"):
        folder.save(tmp_path / "again")
    if isinstance(blobs, LocalBlobs):
        assert len(list(blobs.pieces("object"))) + len(list(blobs.pieces("pack"))) < 8


def test_what_is_not_in_the_folder_is_not_kept_with_it(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("elsewhere")
    (tmp_path / "beside").mkdir()
    root = tmp_path / "out"
    root.mkdir()
    (root / "a").symlink_to("../secret")
    (root / "b").symlink_to(tmp_path / "beside")
    (root / "c").symlink_to("/etc/passwd")
    (root / "gone").symlink_to("nowhere")
    (root / "round").symlink_to("round")
    os.mkfifo(root / "pipe")
    (root / "inside").symlink_to(root / "here")
    (root / "here").write_text("x")
    artifact, folder = kept(root, blobs)
    assert isinstance(folder, StoredFolder)
    assert list(folder) == ["here"]
    assert sorted(artifact.preview["left_out"]) == ["a", "b", "c", "gone", "pipe", "round"]
    assert (folder.save(tmp_path / "again") / "inside").readlink() == Path("here")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b"])
def test_a_stored_folder_never_writes_outside_of_itself(path: str) -> None:
    digest = Digest("blake3:" + "0" * 64)
    for header in (
        folder_header({path: (digest, 1)}),
        folder_header({}, [path]),
        folder_header({}, [], {path: "x"}),
    ):
        with pytest.raises(ArtifactCorrupt):
            read_folder(header)
    if path not in {"", "a//b"}:
        with pytest.raises(ArtifactCorrupt):
            read_folder(folder_header({}, [], {"link": path}))


def test_what_a_folder_is_made_of_is_kept_as_long_as_it(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("a")
    binding = keep_logged(tmp_path / "out", None, blobs)
    assert binding.artifact is not None
    survey = Survey()
    artifact = {"digest": binding.artifact.digest, "codec": "folder"}
    binds = [{"name": "out", "artifact": artifact}]
    survey.add({"record": "execution", "id": "e", "run": "r", "artifacts": binds})
    survey.add({"record": "run", "id": "r", "artifacts": []})
    (inside,), _ = named_by(blobs.get_parts(binding.artifact.digest))
    needed = survey.needed((), lambda digest: named_by(blobs.get_parts(digest))[0])
    assert needed >= {inside, binding.artifact.digest}


def test_a_path_that_is_none_and_a_value_without_a_name_are_refused(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        keep_logged(tmp_path / "nothing", None, blobs)
    with pytest.raises(UsageError, match="has no name"):
        keep_logged([1], None, blobs)
    with pytest.raises(UsageError, match="can't be stored"):
        keep_logged(threading.Lock(), "lock", blobs)
    for name in ("", "../x", "/x", "a\nb", "x" * 300):
        with pytest.raises(UsageError, match="cannot be the name"):
            keep_logged([1], name, blobs)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        keep_logged(tmp_path / "pipe", None, blobs)


LARGE_FILE = """
import resource, sys
from mlbench.backends.blobs_local import LocalBlobs, keep_logged
def peak():
    try:  # the system's count of a process goes on from that of whoever started it
        with open("/proc/self/status") as file:
            return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
blobs = LocalBlobs(sys.argv[1])
keep_logged(sys.argv[2] + ".small", None, blobs)
before = peak()
keep_logged(sys.argv[2], None, blobs)
print(peak() - before)
"""


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "large.small").write_bytes(os.urandom(6_000_000))
    with (tmp_path / "large").open("wb") as file:
        for _ in range(30):
            file.write(os.urandom(10_000_000))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LARGE_FILE, str(tmp_path / "store"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert int(done.stdout) < 60 << 20  # of 300 MB
