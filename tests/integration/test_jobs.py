"""A notebook that is promoted runs as a job: in its snapshot, by the service, also when things die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mlbench.backends.service_socket import Door, connect, end_by_force
from mlbench.core.errors import NotebookError, ParameterError, ScheduleError, UsageError
from mlbench.core.records import Firing, Job, Run
from mlbench.project import Project, promotion

CELLS = (
    'origin: str = "JFK"  # airport\ntrees: int = 2',
    "import os, sys, helpers\nprint(helpers.VERSION, origin, os.getcwd(), sys.executable)",
)


def write(path: Path, *sources: str, kernel: str = "python3") -> Path:
    cells = [
        new_code_cell(source, metadata={"tags": ["parameters"]} if not n else {}) for n, source in enumerate(sources)
    ]
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    """Return the runtime folder of one service for all of these tests: those that kill it leave the next a new one."""
    path = Path(tempfile.mkdtemp(prefix="mlb"))
    yield path
    end_by_force(runtime=path)
    subprocess.run(["rm", "-rf", str(path)], check=True)


@pytest.fixture
def folder(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a module, beside a store of the test's own."""
    monkeypatch.setenv("MLBENCH_RUNTIME", str(runtime))
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "helpers.py").write_text("VERSION = 'as promoted'\n")
    write(work / "flights.ipynb", *CELLS)
    return work


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    project = Project.open()
    yield project
    project.catalog.close()


def wake(project: Project) -> None:
    with connect(role="cli", start=True) as client:
        client.request("jobs_changed", {"store": str(project.location.path)})


def until(project: Project, found: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what is found, looking again whenever somebody has written to the catalog."""
    deadline, seen = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        version = project.catalog.version()
        if version != seen:
            seen = version
            if answer := found():
                return answer
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("It did not happen.")


def last(project: Project, job: Job) -> Firing | None:
    firings = project.catalog.firings(job.id)
    return firings[0] if firings and firings[0].state not in ("queued", "running") else None


def run_of(project: Project, firing: Firing) -> Run:
    assert firing.run is not None
    return project.catalog.run(firing.run)


def texts(project: Project, run: Run) -> str:
    assert run.output is not None
    notebook = nbformat.reads(project.blobs.get(run.output).decode(), as_version=4)
    nbformat.validate(notebook)
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream")


def due_since(project: Project, job: Job, seconds: int) -> None:
    """Pretend that a job's time came a while ago."""
    project.catalog.put_job(replace(job, next_due=int(time.time()) - seconds))


def test_a_job_runs_as_it_was_promoted_in_its_folder_and_interpreter(folder: Path, project: Project) -> None:
    job = promotion.promote(project, str(folder / "flights.ipynb"), parameters={"origin": "LGA"})
    write(folder / "flights.ipynb", CELLS[0], "raise SystemExit(1)")
    (folder / "helpers.py").write_text("VERSION = 'edited'\n")
    promotion.run_now(project, job.name)
    wake(project)
    firing = until(project, lambda: last(project, job))
    run = run_of(project, firing)
    assert firing.state == "succeeded", firing.reason
    assert texts(project, run) == f"as promoted LGA {folder} {Path(sys.executable)}\n"
    assert (run.kind, run.name, run.job, run.job_version) == ("job", "flights", job.id, 1)
    assert run.due == firing.due
    assert run.notebook == str(folder / "flights.ipynb")
    assert run.snapshot == job.version.snapshot
    assert run.parameters == {"origin": "LGA", "trees": 2}


def test_a_job_gets_the_numbers_that_json_has_none_for(folder: Path, project: Project) -> None:
    write(folder / "odd.ipynb", "rate: float = 0.5\nseed = 1", "print(rate, type(rate).__name__, seed + 1)")
    job = promotion.promote(project, str(folder / "odd.ipynb"), parameters={"rate": "nan", "seed": str(10**30)})
    promotion.run_now(project, job.id)
    wake(project)
    run = run_of(project, until(project, lambda: last(project, job)))
    assert texts(project, run) == f"nan float {10**30 + 1}\n"
    assert run.parameters == {"rate": "nan", "seed": str(10**30)}


def test_a_due_time_that_was_missed_is_made_up_for_once_by_the_service(folder: Path, project: Project) -> None:
    job = promotion.promote(project, str(folder / "flights.ipynb"), cron="0 * * * *", timezone="UTC")
    due_since(project, job, 3 * 3600)
    wake(project)
    firing = until(project, lambda: last(project, job))
    assert (firing.state, firing.manual) == ("succeeded", False)
    assert firing.skipped >= 2
    assert len(project.catalog.firings(job.id)) == 1
    now = project.catalog.job(job.id)
    assert now.next_due is not None
    assert now.next_due > time.time()


def test_a_job_that_fails_says_so_in_its_firing_and_its_run(folder: Path, project: Project) -> None:
    write(folder / "bad.ipynb", "a = 1", "1/0")
    job = promotion.promote(project, str(folder / "bad.ipynb"))
    promotion.run_now(project, job.id)
    wake(project)
    firing = until(project, lambda: last(project, job))
    run = run_of(project, firing)
    assert (firing.state, run.state) == ("failed", "failed")
    assert "division by zero" in (firing.reason or "")
    assert run.failure is not None
    assert run.failure.ename == "ZeroDivisionError"
    assert run.output is not None


def begun(port_of: socket.socket) -> str:
    port = port_of.getsockname()[1]
    return (
        f"import os, socket, time\nline = socket.create_connection(('127.0.0.1', {port}))\n"
        "line.sendall(f'{os.getpid()}\\n'.encode())\ntime.sleep(120)"
    )


def process_of_the_cell(listening: socket.socket) -> int:
    listening.settimeout(60)
    connection, _ = listening.accept()
    with connection, connection.makefile() as lines:
        return int(lines.readline())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_gone(pid: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still alive"
        subprocess.run(["sleep", "0.05"], check=True)


def test_a_service_that_is_killed_loses_its_run_once_and_says_so(folder: Path, project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        write(folder / "long.ipynb", "a = 1", begun(listening))
        job = promotion.promote(project, str(folder / "long.ipynb"), cron="0 * * * *", timezone="UTC")
        due_since(project, job, 60)
        wake(project)
        kernel = process_of_the_cell(listening)
        service = Door.find().alive()
        assert service
        os.kill(service, signal.SIGKILL)
        wait_gone(kernel)
        wake(project)
        firing = until(project, lambda: last(project, job))
    run = run_of(project, firing)
    assert (firing.state, run.state) == ("failed", "failed")
    assert run.reason == "worker-lost"
    assert run.failure is not None
    assert firing.reason == run.failure.evalue
    assert len(project.catalog.firings(job.id)) == 1


def marked(mark: str) -> dict[int, str]:
    """Return the processes that have a variable `ORPHAN_TEST` of this value."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"ORPHAN_TEST={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.mark.parametrize("killed", ["job", "service"])
def test_nothing_of_a_killed_job_is_left_not_even_what_its_notebook_had_detached(
    killed: str, folder: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"{killed}-{time.time_ns()}"
    temporary = Path(tempfile.mkdtemp(prefix="mlb"))
    monkeypatch.setenv("TMPDIR", str(temporary))
    end_by_force()  # the next service has this temporary folder
    with socket.create_server(("127.0.0.1", 0)) as listening:
        detached = (
            "import os, subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'],"
            f" start_new_session=True, env={{**os.environ, 'ORPHAN_TEST': {mark!r}}})"
        )
        write(folder / "long.ipynb", "a = 1", detached, begun(listening))
        job = promotion.promote(project, str(folder / "long.ipynb"))
        promotion.run_now(project, job.id)
        wake(project)
        kernel = process_of_the_cell(listening)
        deadline = time.monotonic() + 60
        while not marked(mark):  # its variables are to be seen a moment after it has been started
            assert time.monotonic() < deadline
            subprocess.run(["sleep", "0.05"], check=True)
        (scratch,) = temporary.glob("mlb-job-*")
        victim = int(scratch.name.split("-")[2]) if killed == "job" else Door.find().alive()
        assert victim
        os.kill(victim, signal.SIGKILL)
        if killed == "service":
            wait_gone(victim)
            wake(project)
        deadline = time.monotonic() + 10
        while marked(mark) or not gone(kernel):
            assert time.monotonic() < deadline, marked(mark)
            subprocess.run(["sleep", "0.1"], check=True)
        firing = until(project, lambda: last(project, job))
    assert (firing.state, run_of(project, firing).reason) == ("failed", "worker-lost")
    deadline = time.monotonic() + 60
    while list(temporary.glob("mlb-*")):
        assert time.monotonic() < deadline, "the scratch folders of the killed job are still there"
        subprocess.run(["sleep", "0.1"], check=True)
    end_by_force()
    subprocess.run(["rm", "-rf", str(temporary)], check=True)


def test_a_run_of_a_job_that_is_cancelled_is_gone_and_recorded_as_cancelled(folder: Path, project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        write(folder / "long.ipynb", "a = 1", begun(listening))
        job = promotion.promote(project, str(folder / "long.ipynb"))
        promotion.run_now(project, job.id)
        wake(project)
        kernel = process_of_the_cell(listening)
        run = next(run for run in project.catalog.runs() if run.job == job.id)
        with connect(role="cli", start=False) as client:
            client.request("cancel", {"run": run.id})
        firing = until(project, lambda: last(project, job))
        wait_gone(kernel)
    assert firing.state == "cancelled"
    assert (project.catalog.run(run.id).state, project.catalog.run(run.id).reason) == ("cancelled", "user")


def test_promoting_again_makes_the_next_version_and_keeps_the_job(folder: Path, project: Project) -> None:
    path = str(folder / "flights.ipynb")
    first = promotion.promote(project, path, cron="0 6 * * *", timezone="Europe/Berlin")
    write(folder / "flights.ipynb", *CELLS, "'more'")
    second = promotion.promote(project, path, cron="0 7 * * *", timezone="Europe/Berlin", parameters={"trees": "5"})
    assert second.id == first.id
    assert (first.version.number, second.version.number) == (1, 2)
    assert second.version.snapshot != first.version.snapshot
    assert second.version.parameters == {"trees": 5}
    assert sorted(version.number for version in project.catalog.job_versions(first.id)) == [1, 2]
    assert project.catalog.job("flights").cron == "0 7 * * *"
    assert promotion.promote(project, path, name="another").id != first.id


def test_what_is_promoted_is_the_notebook_as_its_user_sees_it(folder: Path, project: Project) -> None:
    path = folder / "flights.ipynb"
    seen = json.loads(path.read_text())
    seen["cells"].append(json.loads(json.dumps(new_code_cell("'not saved yet'"))))
    job = promotion.promote(project, str(path), content=seen)
    kept = json.loads(project.blobs.get(project.catalog.snapshot(job.version.snapshot).notebook))
    assert "".join(kept["cells"][-1]["source"]) == "'not saved yet'"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"cron": "0 0 30 2 *", "timezone": "UTC"}, ScheduleError),
        ({"cron": "@daily", "timezone": "Mars/Phobos"}, ScheduleError),
        ({"cron": "@daily"}, ScheduleError),
        ({"parameters": {"orign": "LGA"}}, ParameterError),
        ({"parameters": {"trees": "many"}}, ParameterError),
        ({"parameters": {"import os;x": "1"}}, ParameterError),
        ({"name": "a\nb"}, UsageError),
        ({"timeout": 0.0}, UsageError),
    ],
)
def test_nothing_is_stored_of_what_cannot_be_promoted(
    folder: Path, project: Project, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        promotion.promote(project, str(folder / "flights.ipynb"), **options)
    assert project.catalog.jobs() == []
    assert list(project.blobs.records()) == []


@pytest.mark.parametrize(
    ("sources", "kernel"),
    [
        (("%load_ext mlbench", "%%step s\nx = 1", "%%step s\ny = 1"), "python3"),
        (("%load_ext mlbench", "%%step s --retires 3\nx = 1"), "python3"),
        (("a = 1",), "no-such-kernel"),
        (("a = 1",), "../../etc"),
    ],
)
def test_a_notebook_that_cannot_run_is_not_promoted(
    folder: Path, project: Project, sources: tuple[str, ...], kernel: str
) -> None:
    write(folder / "bad.ipynb", *sources, kernel=kernel)
    with pytest.raises(NotebookError):
        promotion.promote(project, str(folder / "bad.ipynb"))
    assert project.catalog.jobs() == []


def test_a_check_finds_everything_at_once_and_stores_nothing(folder: Path, project: Project) -> None:
    check = promotion.check_promotion(
        project, str(folder / "flights.ipynb"), parameters={"trees": "2OO"}, cron="x", timezone="UTC"
    )
    assert not check.ok
    assert {finding.parameter for finding in check.findings if finding.level == "error"} == {"trees", None}
    assert [form["name"] for form in check.parameters] == ["origin", "trees"]
    assert check.parameters[0]["help"] == "airport"
    assert "helpers.py goes along" in [finding.text for finding in check.findings]
    assert project.catalog.jobs() == []


def test_a_check_says_when_it_would_run_and_whether_it_survives_a_restart(folder: Path, project: Project) -> None:
    check = promotion.check_promotion(
        project, str(folder / "flights.ipynb"), cron="0 6 * * 1-5", timezone="Europe/Berlin"
    )
    assert check.ok
    assert check.sentence == "At 06:00, Monday to Friday, Berlin time"
    assert len(check.next) == 5
    assert "service" in check.service
    assert (check.name, check.version) == ("flights", 1)


def test_a_resumed_job_is_due_at_its_next_time_and_a_deleted_one_is_gone(folder: Path, project: Project) -> None:
    job = promotion.promote(project, str(folder / "flights.ipynb"), cron="0 * * * *", timezone="UTC")
    assert promotion.pause(project, "flights").paused
    due_since(project, promotion.pause(project, "flights"), 5 * 3600)
    resumed = promotion.pause(project, job.id, paused=False)
    assert not resumed.paused
    assert resumed.next_due is not None
    assert resumed.next_due > time.time()
    promotion.delete(project, "flights")
    assert project.catalog.jobs() == []
    with pytest.raises(UsageError):
        promotion.run_now(project, job.id)
