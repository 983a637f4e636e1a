"""The service's door, its end, and what is left when it is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlbench.backends.service_socket import Door, ServiceClient, connect, end_by_force, installed_version, start
from mlbench.backends.service_socket.frames import Decoder, encode
from mlbench.core.errors import ServiceError, StoreError
from mlbench.core.messages import PROTOCOL
from tests.integration.house import PATIENCE, House, catalog, eventually

CONNECT = "from mlbench.backends.service_socket import connect; print(connect().service.pid)"


def test_eight_clients_that_need_it_at_once_get_one(service: House) -> None:
    clients = [subprocess.Popen([sys.executable, "-c", CONNECT], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    pids = {client.communicate(timeout=100)[0].strip() for client in clients}
    assert pids == {str(service.pid)}


def test_a_second_connection_takes_milliseconds(quick: House) -> None:
    quick.connect()
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        quick.connect().request("status")
        times.append(time.perf_counter() - begun)
    assert sorted(times)[5] < 0.05


def test_a_client_imports_neither_dask_nor_sqlalchemy(quick: House) -> None:
    quick.connect()
    heavy = ("distributed", "dask", "sqlalchemy")
    code = f"{CONNECT}; import sys; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.splitlines()[1] == "[]"


def test_the_service_runs_in_a_session_of_its_own_with_an_environment_of_its_own(
    service: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MLBENCH_RUN", "abc")
    pid = service.connect().service.pid
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert not [one for one in variables if one.startswith((b"JPY_", b"MLBENCH_RUN=", b"MLBENCH_STORE"))]


def test_its_files_are_closed_to_others(quick: House) -> None:
    quick.connect()
    for path in (Door.find().socket, Door.find().lock, Door.find().log, quick.runtime):
        assert not path.stat().st_mode & 0o077 or path == Door.find().log


def test_another_user_is_refused(alone: House) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    alone.connect()
    alone.runtime.chmod(0o711)
    Door(alone.runtime, installed_version()).socket.chmod(0o777)
    path = str(Door(alone.runtime, installed_version()).socket)
    code = (
        f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect({path!r});"
        "s.settimeout(10); print(s.recv(4096))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    alone.runtime.chmod(0o700)
    assert "refused" in said
    assert len(alone.connect().request("status")["clients"]) == 2


def test_a_service_of_another_user_is_not_spoken_to(runtime: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    runtime.chmod(0o777)
    path = Door(runtime, installed_version()).socket
    code = (
        f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen();"
        "print('ready', flush=True); s.accept()[0].recv(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        runtime.chmod(0o700)
        path.chmod(0o777)
        with pytest.raises(ServiceError, match="runs as user 65534"):
            connect(start=False)
        other.kill()


def test_a_runtime_folder_that_others_can_enter_is_refused(runtime: Path) -> None:
    runtime.chmod(0o755)
    with pytest.raises(ServiceError, match="chmod 700"):
        connect()


def test_a_runtime_folder_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(runtime)
    with pytest.raises(ServiceError, match="is not a folder"):
        connect(runtime=link)


def test_a_path_that_is_too_long_for_a_socket_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="Set MLBENCH_RUNTIME to a folder with a shorter path"):
        connect(runtime=tmp_path / ("x" * 100))


def test_without_a_service_the_sentence_says_how_to_start_one(runtime: Path) -> None:
    with pytest.raises(ServiceError, match="Run: mlbench service start"):
        connect(start=False)


def test_a_service_that_dies_as_it_starts_shows_its_last_words(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBENCH_LOG_LEVEL", "NONSENSE")
    with pytest.raises(ServiceError, match=r"MLBENCH_LOG_LEVEL is .NONSENSE.. Write one of DEBUG"):
        connect()


def test_a_socket_without_a_service_behind_it_is_replaced(quick: House) -> None:
    first = quick.connect().service
    quick.kill()
    assert Door.find().socket.exists()
    assert quick.connect().service.life != first.life


def test_a_service_that_does_not_answer_is_said_so(quick: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.backends.service_socket import start

    monkeypatch.setattr(start, "GREETING_TIMEOUT", 0.3)
    quick.connect()
    os.kill(quick.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServiceError, match="mlbench service stop --force"):
            connect(start=False)
    finally:
        os.kill(quick.pid, signal.SIGCONT)


def test_what_does_not_speak_the_protocol_is_shown_out(quick: House) -> None:
    quick.connect()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(Door.find().socket))
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stranger.settimeout(20)
        assert stranger.recv(4096) == b""
    assert quick.connect().request("status")["pid"] == quick.pid


def test_an_unknown_operation_is_an_error_not_an_end(quick: House) -> None:
    client = quick.connect()
    with pytest.raises(ServiceError, match="does not know the operation 'dance'"):
        client.request("dance")
    assert client.request("status")["version"] == installed_version()


# --- versions --------------------------------------------------------------------------------------------------------


def _greet(path: Path, **body: object) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(encode({"n": 0, "op": "hello", "body": {"role": "kernel", "pid": 1, **body}}))
        decoder = Decoder()
        while True:
            for message in decoder.feed(client.recv(65536)):
                return message


def test_a_newer_client_retires_an_older_service_and_gets_its_own(alone: House) -> None:
    old = alone.start(version="0.0.1")
    ours = alone.connect()
    assert ours.service.pid != old
    assert ours.service.version == installed_version()
    alone.started[0].wait(timeout=PATIENCE)


def test_a_retired_service_ends_with_its_steps_and_takes_no_new_ones(alone: House, tmp_path: Path) -> None:
    alone.start(version="0.0.1")
    kernel = alone.kernel(client=connect(role="kernel", version="0.0.1"))
    step = kernel.submit("load", f"wait {tmp_path / 'go'}")
    newer = alone.connect()
    eventually(lambda: kernel.client.request("status")["retired"])
    with pytest.raises(ServiceError, match="takes no new ones"):
        kernel.submit("other")
    (tmp_path / "go").touch()
    assert kernel.state(step).state == "succeeded"
    alone.started[0].wait(timeout=PATIENCE)
    with pytest.raises(ServiceError, match="has taken over"):
        kernel.client.request("status")
    assert newer.request("status")["pid"] == newer.service.pid


def test_a_service_whose_folder_was_deleted_ends_with_its_steps_and_leaves_the_next_one_alone(
    alone: House, tmp_path: Path
) -> None:
    kernel = alone.kernel()
    step = kernel.submit("load", f"wait {tmp_path / 'go'}")
    assert kernel.state(step, "running").state == "running"
    shutil.rmtree(alone.runtime)
    eventually(lambda: kernel.client.request("status")["retired"])
    newer = alone.connect()
    assert newer.service.pid != kernel.client.service.pid
    (tmp_path / "go").touch()
    assert kernel.state(step).state == "succeeded"
    alone.started[0].wait(timeout=PATIENCE)
    with pytest.raises(ServiceError, match="were deleted"):
        kernel.client.request("status")
    assert connect(start=False).request("status")["pid"] == newer.service.pid


def test_a_door_that_cannot_be_looked_at_is_not_taken_for_one_that_is_gone(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door.find()
    assert not door.leads_to(os.getpid())
    door.socket.touch()
    assert not door.leads_to(os.getpid())

    def too_many(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", too_many)
    assert door.leads_to(os.getpid())


def test_an_older_client_speaks_to_a_newer_service(alone: House) -> None:
    newer = alone.start(version="99.0")
    with connect() as client:
        assert client.service.pid == newer


def test_a_newer_service_that_no_longer_speaks_our_protocol_is_said_so(
    alone: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlbench.backends.service_socket import start

    alone.start(version="99.0")
    monkeypatch.setattr(start, "PROTOCOL", PROTOCOL - 2)
    with pytest.raises(ServiceError, match="Update mlbench in this kernel's environment"):
        connect()


def test_a_client_of_a_later_protocol_learns_whom_it_speaks_to(quick: House) -> None:
    quick.connect()
    answer = _greet(Door.find().socket, protocol=PROTOCOL + 5, version="99.0")
    assert answer["ok"]["version"] == installed_version()  # type: ignore[index]


def test_a_client_of_a_protocol_that_is_too_old_is_told_to_update(quick: House) -> None:
    quick.connect()
    answer = _greet(Door.find().socket, protocol=-3, version="0.0.0")
    assert "Update mlbench" in answer["error"]["args"][1]  # type: ignore[index]


# --- ends ------------------------------------------------------------------------------------------------------------


def test_a_service_that_is_stopped_says_goodbye_and_is_gone(quick: House) -> None:
    client = quick.connect()
    client.request("stop", {"force": False})
    quick.started[-1].wait(timeout=PATIENCE)
    assert not Door.find().socket.exists()
    with pytest.raises(ServiceError, match="was stopped"):
        client.request("status")


def test_a_service_with_steps_under_way_is_stopped_only_by_force(quick: House) -> None:
    kernel = quick.kernel()
    step = kernel.submit("load", "sleep 60")
    kernel.state(step, "running")
    with pytest.raises(ServiceError, match="Add --force"):
        kernel.client.request("stop", {"force": False})
    kernel.client.request("stop", {"force": True})
    quick.started[-1].wait(timeout=PATIENCE)
    record = catalog(quick.store).execution(step)
    assert (record.state, record.reason) == ("failed", "service-lost")


def test_a_signal_ends_it_in_order(quick: House) -> None:
    kernel = quick.kernel()
    step = kernel.submit("load", "sleep 60")
    later = kernel.submit("train", "", f"load={step}")
    os.kill(quick.pid, signal.SIGTERM)
    quick.started[-1].wait(timeout=PATIENCE)
    found = catalog(quick.store)
    assert {found.execution(one).reason for one in (step, later)} == {"service-lost"}
    assert found.runs()[0].state == "failed"


def test_a_client_that_comes_while_the_old_one_ends_gets_the_next(service: House) -> None:
    first = service.connect()
    os.kill(first.service.pid, signal.SIGTERM)
    eventually(lambda: not Door.find().socket.exists())
    assert service.connect().service.life != first.service.life


def test_until_idle_it_ends_when_its_last_client_is_gone(alone: House) -> None:
    alone.start(until_idle=True)
    one, two = alone.connect(start=False), alone.connect(start=False)
    one.close()
    assert two.request("status")["clients"]
    two.close()
    alone.started[0].wait(timeout=PATIENCE)


def test_until_idle_it_ends_its_steps_first(alone: House, tmp_path: Path) -> None:
    alone.start(until_idle=True)
    kernel = alone.kernel()
    step = kernel.submit("load", f"wait {tmp_path / 'go'}")
    kernel.client.close()
    with pytest.raises(subprocess.TimeoutExpired):
        alone.started[0].wait(timeout=1)
    (tmp_path / "go").touch()
    alone.started[0].wait(timeout=PATIENCE)
    assert catalog(alone.store).execution(step).state == "succeeded"


def test_in_ci_a_client_starts_one_that_ends_with_it(service: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    service.connect(role="engine").close()
    assert service.wait_until_gone() == {}


def test_force_ends_one_that_does_not_answer(quick: House) -> None:
    quick.connect()
    pid = quick.pid
    os.kill(pid, signal.SIGSTOP)
    assert end_by_force() == pid
    assert Door.find().alive() is None


# --- losses ----------------------------------------------------------------------------------------------------------


def test_what_a_killed_service_had_under_way_gets_its_true_end(quick: House, tmp_path: Path) -> None:
    kernel = quick.kernel()
    done = kernel.submit("done")
    kernel.state(done)
    running = kernel.submit("running", "sleep 60")
    waiting = kernel.submit("waiting", "", f"running={running}")
    kernel.state(running, "running")
    quick.kill()
    quick.kernel("another")
    found = catalog(quick.store)
    assert found.execution(done).state == "succeeded"
    for lost in (running, waiting):
        record = found.execution(lost)
        assert (record.state, record.reason) == ("failed", "service-lost")
    run = found.run(found.execution(done).run)
    assert (run.state, run.reason) == ("failed", "service-lost")


def test_an_end_that_only_the_records_know_is_found_by_the_next_service(quick: House) -> None:
    from dataclasses import replace

    import msgspec

    from mlbench.backends.blobs_local import LocalBlobs
    from mlbench.project.signing import signer
    from mlbench.runs.signing import proven

    kernel = quick.kernel()
    step = kernel.submit("load", "sleep 60")
    record = kernel.state(step, "running")
    quick.kill()
    ended = replace(record, state="succeeded", ended=time.time_ns())
    told = proven(signer(step), "execution", step, msgspec.to_builtins(ended))
    LocalBlobs(quick.store).append("execution", step, told)
    quick.kernel("another")
    assert catalog(quick.store).execution(step).state == "succeeded"


def test_a_kernel_comes_back_by_itself_and_asks_for_its_steps(quick: House) -> None:
    kernel = quick.kernel(reconnect=True)
    lost: list[str] = []
    back = threading.Event()
    kernel.client.on_lost(lost.append)
    kernel.client.on_connected(lambda _: back.set())
    step = kernel.submit("load", "sleep 60")
    kernel.state(step, "running")
    life = kernel.client.service.life
    quick.kill()
    assert back.wait(60)
    assert lost
    assert kernel.client.service.life != life
    record = kernel.client.request("execution", {"id": step})["execution"]
    assert (record["state"], record["reason"]) == ("failed", "service-lost")


def test_a_kernel_that_the_next_service_cannot_take_in_says_why_and_is_taken_in_when_it_can(alone: House) -> None:
    kernel = alone.kernel(reconnect=True)
    assert kernel.state(kernel.submit("first")).state == "succeeded"
    marker = alone.store / "format"
    kept = marker.read_bytes()
    marker.write_text('{"format": 99}')
    alone.kill()
    for _ in range(3):
        with pytest.raises(StoreError, match="has format 99"):
            kernel.submit("second")
    alone.kill()
    with pytest.raises(StoreError, match="has format 99"):
        kernel.submit("second")
    marker.write_bytes(kept)
    assert kernel.state(kernel.submit("second")).state == "succeeded"
    alone.kill()
    assert kernel.state(kernel.submit("third")).state == "succeeded"


@pytest.mark.parametrize("another", [True, False], ids=["another one comes", "none can be had at once"])
def test_a_service_that_is_killed_while_a_client_greets_it_is_followed_by_another(alone: House, another: bool) -> None:
    kill, refuses, greeted = True, False, threading.Event()

    def redial() -> start.Connection:
        if refuses:
            greeted.wait(1.0)  # whoever else is at it has left by then
            raise ServiceError("None can be started just now.")
        return start.dial("kernel")

    def greet(client: ServiceClient) -> None:
        nonlocal kill, refuses
        client.request("status")
        if kill:
            kill, refuses = False, not another
            lost = client._connection.socket
            alone.kill()
            eventually(lambda: lost.fileno() == -1)

    client = ServiceClient(start.dial("kernel"), redial)
    alone.clients.append(client)
    client.on_connected(greet)
    first = client._reader
    alone.kill()
    first.join(PATIENCE)
    greeted.set()
    if refuses:
        for _ in range(2):
            with pytest.raises(ServiceError, match="None can be started"):
                client.request("status")
        refuses = False
    assert client.request("status")["pid"] == alone.pid


def test_a_request_on_its_way_fails_with_a_sentence_when_the_service_is_killed(quick: House) -> None:
    client = quick.connect()
    os.kill(quick.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.request, "status")
        time.sleep(0.2)
        quick.kill()
        with pytest.raises(ServiceError, match="ended before it answered"):
            asked.result(timeout=PATIENCE)


def test_a_service_that_has_ended_leaves_no_remains_in_who_started_it(service: House) -> None:
    pid = service.connect().service.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_service_opens_the_stores_that_have_schedules_when_it_starts(alone: House) -> None:
    from mlbench.entrypoints.service import remembered

    alone.kernel()
    alone.kill()
    remembered.note(str(alone.store), scheduled=True)
    client = alone.connect()
    eventually(lambda: client.request("status")["stores"])
    # there are no schedules in it after all, so that it need not be opened the next time
    eventually(lambda: remembered.stores() == [])


def test_a_store_with_a_schedule_is_remembered(alone: House) -> None:
    from mlbench.core.ids import JobId, new_id
    from mlbench.core.records import Job, JobVersion
    from mlbench.entrypoints.service import remembered

    client = alone.kernel().client
    version = JobVersion(number=1, snapshot="blake3:" + "0" * 64)  # type: ignore[arg-type]
    job = Job(
        id=JobId(new_id()),
        name="nightly",
        notebook="/n.ipynb",
        version=version,
        cron="0 6 * * *",
        timezone="UTC",
        next_due=4_000_000_000,
    )
    catalog(alone.store).put_job(job)
    client.request("jobs_changed", {"store": str(alone.store)})
    assert remembered.stores() == [str(alone.store)]
    assert client.request("status")["stores"] == [{"path": str(alone.store), "schedules": 1, "problem": None}]


def test_what_a_client_gets_from_status(quick: House) -> None:
    kernel = quick.kernel()
    step = kernel.submit("load", "sleep 60")
    kernel.state(step, "running")
    status = kernel.client.request("status")
    assert status["pid"] == quick.pid
    assert status["version"] == installed_version()
    assert str(quick.store) in [one["path"] for one in status["stores"]]
    (one,) = status["executions"]
    assert (one["execution"], one["step"], one["state"]) == (step, "load", "running")
    assert ("kernel", "kernel") in [(one["role"], one["kernel"]) for one in status["clients"]]
    assert status["since"] < time.time_ns()


def test_a_client_that_is_closed_says_so(quick: House) -> None:
    client: ServiceClient = quick.connect()
    client.close()
    with pytest.raises(ServiceError, match="is closed"):
        client.request("status")
