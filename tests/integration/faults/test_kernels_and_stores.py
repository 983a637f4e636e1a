"""Kernels that are killed, kernels that do the same at once, a service that is killed, a store that is full."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.owners import owner_of_this_process
from mlbench.core.records import UNDER_WAY
from mlbench.project import Project
from tests.integration.house import ROOT, House, catalog, eventually
from tests.integration.kernel.conftest import Place

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Return a folder with a store and a service of its own, in which notebooks can be opened."""
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    found = Place(tmp_path, runtime)
    yield found
    found.close()
    left = House(runtime=runtime, store=found.store).wait_until_gone()
    shutil.rmtree(runtime, ignore_errors=True)
    assert not left


def gated(name: str, begun: Path, go: Path) -> str:
    return (
        f"%%step {name}\nimport os, time\nwith open({str(begun)!r}, 'a') as file: print(os.getpid(), file=file)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nx = 1\n"
    )


def test_a_kernel_that_is_killed_loses_nothing_and_the_next_one_finds_it(place: Place, tmp_path: Path) -> None:
    book = place.notebook()
    begun, go = tmp_path / "begun", tmp_path / "go"
    assert book.run("%%step first\nfirst = 20\n", "first").status == "ok"
    assert book.value("first") == "20"
    source = gated("second", begun, go)
    book.run(source, "second")
    eventually(begun.exists)
    os.kill(book.manager.provisioner.pid, signal.SIGKILL)
    book.restart()
    answer = book.run(source, "second")
    assert "under way since" in answer.text, answer.text
    os.kill(book.manager.provisioner.pid, signal.SIGKILL)  # and again, while nobody has its result yet
    go.touch()
    eventually(lambda: not place.service().request("status")["executions"])
    book.restart()
    book.run(source, "second")
    assert book.value("x", timeout=30) == "1"
    assert len(begun.read_text().split()) == 1
    with place.service() as client:
        assert not client.request("status")["executions"]
    states = [one.state for run in catalog(place.store).runs() for one in catalog(place.store).executions(run.id)]
    assert not set(states) & UNDER_WAY


def test_a_kernel_that_is_killed_as_it_hands_a_step_over_leaves_no_step_that_never_ends(place: Place) -> None:
    book = place.notebook()
    assert book.run("%%step warm\nw = 1\n", "warm").status == "ok"
    assert book.value("w") == "1"
    for number in range(4):
        book.send(f"%%step step{number}\ny = {number}\n", f"step{number}")
        subprocess.run(["sleep", f"{0.02 * number}"], check=True)
        os.kill(book.manager.provisioner.pid, signal.SIGKILL)
        book.restart()

    def states() -> set[str]:
        runs = catalog(place.store).runs()
        return {one.state for run in runs for one in (run, *catalog(place.store).executions(run.id))}

    eventually(lambda: not states() & UNDER_WAY)
    for run in catalog(place.store).runs():
        for one in catalog(place.store).executions(run.id):
            assert one.state in ("succeeded", "reused"), one


KERNELS = 20

CLIENT = """
import sys
from pathlib import Path
from mlbench.core.errors import ServiceError
from tests.integration.house import House
runtime, store, name, run, source = sys.argv[1:]
house = House(runtime=Path(runtime), store=Path(store))
kernel = house.kernel(name, run=run or None, kind="papermill" if run else "interactive")
print("attached", flush=True)
for _ in sys.stdin:
    try:
        answer = kernel.ask("load", source, defs=("x",), key="the-same")
        record = answer["execution"]
        print(record["id"], record["state"], answer["attached"], flush=True)
    except ServiceError as error:
        print(error, flush=True)
"""


@contextlib.contextmanager
def processes(house: House, source: str, run: str = "") -> Iterator[list[subprocess.Popen[str]]]:
    """Start kernels, each in a process of its own, that hand the same step over with each line that they are sent."""
    started = []
    try:
        for number in range(KERNELS):
            words = [str(house.runtime), str(house.store), f"kernel{number}", run, source]
            command = [sys.executable, "-c", CLIENT, *words]
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT))
        for one in started:
            assert one.stdout is not None
            assert one.stdout.readline() == "attached\n"
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def ask_all(started: list[subprocess.Popen[str]]) -> list[str]:
    """Let all kernels hand the step over at once; return what they are answered."""
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return [one.stdout.readline().strip() for one in started if one.stdout is not None]


def test_of_kernels_that_start_the_same_step_of_one_run_at_once_one_does_and_the_others_say_who(
    service: House, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    run = Project.open(store=str(service.store)).begin_run(kind="papermill", name="r", owner=owner_of_this_process())
    service.connect(role="engine").request("open_run", {"store": str(service.store), "run": run})
    with processes(service, gated("load", begun, go).partition("\n")[2], run.id) as started:
        answers = ask_all(started)
        (winner,) = [one for one, answer in zip(started, answers, strict=True) if "queued" in answer]
        words = rf"Step load of this run is already running \(kernel process {winner.pid}, since \S+\)\. Run .*"
        others = [one for one in started if one is not winner]
        assert len([answer for answer in answers if re.fullmatch(words, answer)]) == len(others)
        eventually(begun.exists)
        go.touch()
        eventually(lambda: catalog(service.store).executions(run.id)[0].state == "succeeded")
        (execution,) = [one.id for one in catalog(service.store).executions(run.id)]
        assert set(ask_all(others)) == {f"{execution} succeeded True"}
    assert [one.id for one in catalog(service.store).executions(run.id)] == [execution]
    assert [one["id"] for one in LocalBlobs(service.store).records("execution")] == [execution]
    assert len(begun.read_text().split()) == 1


def test_kernels_with_the_same_code_and_inputs_at_the_same_time_do_no_harm(service: House, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    source = f"{gated('load', begun, go).partition(chr(10))[2]}x = list(range(100_000))"
    with processes(service, source) as started:
        steps = [answer.split()[0] for answer in ask_all(started)]
        assert len(set(steps)) == KERNELS
        eventually(lambda: begun.exists() and len(begun.read_text().split()) > 1)
        go.touch()
        eventually(lambda: {catalog(service.store).execution(step).state for step in steps} == {"succeeded"})
    kept = [catalog(service.store).execution(step) for step in steps]
    digests = {one.binds[0].artifact.digest for one in kept if one.binds[0].artifact is not None}
    assert len(digests) == 1
    blobs = LocalBlobs(service.store)
    assert blobs.get_parts(digests.pop())
    found = [one for one in blobs.records("execution") if one["step"] == "load"]
    assert sorted(one["id"] for one in found) == sorted(steps)
    assert len(begun.read_text().split()) == KERNELS
    assert all(not one.note or "took" not in one.note for one in kept)


def test_what_had_ended_when_the_service_was_killed_is_not_run_again(service: House, tmp_path: Path) -> None:
    kernel = service.kernel(reconnect=True)
    log = tmp_path / "begun"
    note = f"with open({str(log)!r}, 'a') as file: print({{0!r}}, file=file)\n"
    first = kernel.submit("first", note.format("first") + "x = 1", defs=("x",))
    assert kernel.state(first).state == "succeeded"
    second = kernel.submit("second", note.format("second") + "import time\ntime.sleep(60)", f"x={first}", defs=("y",))
    eventually(lambda: log.read_text().split() == ["first", "second"])
    service.kill()
    eventually(lambda: catalog(service.store).execution(second).state == "failed")
    assert catalog(service.store).execution(second).reason == "service-lost"
    third = kernel.submit("third", note.format("third") + "z = x + 1", f"x={first}", defs=("z",))
    assert kernel.state(third).state == "succeeded"
    assert log.read_text().split() == ["first", "second", "third"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_loses_nothing_and_work_goes_on_when_there_is_room(
    service: House, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small_disk / "store"
    monkeypatch.setenv("MLBENCH_STORE", str(store))
    service.store = store
    kernel = service.kernel()
    kept = kernel.submit("kept", "x = b'x' * 2_000_000", defs=("x",))
    assert kernel.state(kept).state == "succeeded"
    large = kernel.submit("large", "import os\ny = os.urandom(40_000_000)", defs=("y",))
    record = kernel.state(large)
    assert (record.state, record.reason) == ("failed", "error")
    assert record.failure is not None
    assert "no space left" in record.failure.evalue
    # Now not even a record fits.
    filler = small_disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"x" * 4096):
            pass
    os.close(descriptor)
    tiny = kernel.submit("tiny", "z = 1", defs=("z",))
    eventually(
        lambda: kernel.client.request("execution", {"id": tiny})["execution"]["state"] in ("failed", "succeeded")
    )
    filler.unlink()
    assert kernel.state(tiny).state in ("failed", "succeeded")
    after = kernel.submit("after", "print(len(x))", f"x={kept}")
    assert kernel.state(after).state == "succeeded"
    eventually(lambda: not kernel.client.request("status")["executions"])
    eventually(lambda: not {one.state for one in catalog(store).executions(record.run)} & UNDER_WAY)
    assert catalog(store).execution(large).state == "failed"
    artifact = catalog(store).execution(kept).binds[0].artifact
    assert artifact is not None
    assert LocalBlobs(store).get_parts(artifact.digest)


def test_a_store_that_is_taken_away_is_missed_and_comes_back_or_is_begun_anew(place: Place) -> None:
    book = place.notebook()
    assert book.run("%%step kept --wait\nkept = 1", "kept").status == "ok"
    away = place.folder / "away"
    shutil.move(place.store, away)
    for source in ("%%step lost --wait\nlost = kept + 1", "%%step lost --wait --foreach i in [1, 2]\nlost = i"):
        assert f"The store {place.store} is not there any more" in book.run(source, "lost").error
    assert not place.store.exists()  # or nobody could move it back
    shutil.move(away, place.store)
    assert book.run("%%step more --wait\nmore = kept + 1", "more").status == "ok"
    assert [one.step for one in catalog(place.store).executions(catalog(place.store).runs()[0].id)] == ["kept", "more"]

    eventually(lambda: catalog(place.store).runs()[0].state == "succeeded")
    shutil.move(place.store, away)  # a store in which somebody still writes is not deleted in one stroke
    assert "is not there any more" in book.run("%%step lost --wait\nlost = 1", "lost").error
    other = place.notebook()
    assert other.run("%%step anew --wait\nanew = 5", "anew").status == "ok"
    assert other.value("anew") == "5"
    (run,) = catalog(place.store).runs()
    assert [(one.step, one.state) for one in catalog(place.store).executions(run.id)] == [("anew", "succeeded")]
    book.restart()
    assert book.run("%%step anew --wait\nanew = 6", "anew").status == "ok"
    assert book.value("anew") == "6"


def test_a_store_that_is_taken_away_while_steps_run_ends_them_and_is_not_begun_anew(
    place: Place, tmp_path: Path
) -> None:
    book = place.notebook()
    begun, go = tmp_path / "begun", tmp_path / "go"
    book.run("%%step first --wait\nfirst = 1", "first")
    request = book.send(gated("second --wait", begun, go), "second")
    eventually(begun.exists)
    shutil.move(place.store, place.folder / "away")
    go.touch()
    assert "is not there any more" in book.receive(request).error
    assert not place.store.exists()
    shutil.move(place.folder / "away", place.store)
    eventually(lambda: not place.service().request("status")["executions"])
    run = catalog(place.store).runs()[0]
    eventually(lambda: not {one.state for one in catalog(place.store).executions(run.id)} & UNDER_WAY)
    assert book.run(gated("second --wait", begun, go), "second").status == "ok"
    assert book.value("x") == "1"
