"""The parts of a step's process by themselves: frames, fingerprints, files opened, libraries used ahead."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import random
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.backends.cluster_dask.channel import ACK, Channel, Frames, frame
from mlbench.backends.cluster_dask.process.fingerprints import Values
from mlbench.backends.cluster_dask.process.opened import Opened
from mlbench.backends.cluster_dask.process.rehearsal import use_libraries
from mlbench.backends.cluster_dask.worker import orphans
from mlbench.backends.cluster_dask.worker.servers import StepServer, StepServers
from mlbench.core.errors import ServiceError
from mlbench.core.messages import Environment


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers(0, 9)), max_size=8), st.integers(1, 7))
def test_frames_come_out_as_they_went_in_however_they_are_cut(messages: list[dict[str, int]], size: int) -> None:
    data = b"".join(frame(one) for one in messages)
    frames = Frames()
    assert [one for place in range(0, len(data), size) for one in frames.feed(data[place : place + size])] == messages


def test_half_of_a_surrogate_pair_does_not_stop_a_frame() -> None:
    assert Frames().feed(frame({"text": "a\ud800", "more": ["\udfff"]})) == [{"text": "a?", "more": ["?"]}]


def test_a_channel_waits_until_the_text_before_a_message_was_read() -> None:
    ours, theirs = socket.socketpair()
    channel, seen, frames = Channel(theirs), [], Frames()
    sender = threading.Thread(target=channel.send, args=({"op": "output"},))
    sender.start()
    seen += frames.feed(ours.recv(4096))
    assert [one["op"] for one in seen] == ["sync"]
    ours.send(ACK)
    seen += frames.feed(ours.recv(4096))
    assert [one["op"] for one in seen] == ["sync", "output"]
    sender.join(30)
    process = os.fork()
    if process == 0:
        os._exit(0 if not channel.open else 1)
    assert os.waitpid(process, 0)[1] == 0
    ours.close()


class Moody:
    """Its pickle settles only after one round trip."""

    def __init__(self) -> None:
        self.looked = 0

    def __getstate__(self) -> dict[str, int]:
        self.looked += 1
        return {"looked": min(self.looked, 2)}


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: [1, [2]], lambda value: value[1].append(3)),
        (lambda: {"a": 1}, lambda value: value.update(a=2)),
        (lambda: np.zeros(3), lambda value: value.__setitem__(0, 1)),
        (lambda: np.random.default_rng(0), lambda value: value.random()),
        (lambda: bytearray(b"ab"), lambda value: value.append(1)),
    ],
)
def test_a_change_in_place_is_seen_and_reading_is_none(make: Any, change: Any, tmp_path: Path) -> None:
    value = make()
    space = {"value": value, "other": make()}
    before = Values(space, store=str(tmp_path))
    repr(value)
    assert before.changed() == ()
    change(value)
    assert before.changed() == ("value",)


def test_a_pickle_that_settles_is_no_change(tmp_path: Path) -> None:
    space = {"value": Moody()}
    before = Values(space, store=str(tmp_path))
    assert before.changed() == ()


class Restless:
    """Never pickles twice the same."""

    def __init__(self) -> None:
        self.looked = 0

    def __getstate__(self) -> dict[str, int]:
        self.looked += 1
        return {"looked": self.looked}


def test_a_pickle_that_never_settles_is_not_watched(tmp_path: Path) -> None:
    space = {"value": Restless()}
    assert Values(space, store=str(tmp_path)).changed() == ()


def test_what_cannot_be_pickled_is_not_watched(tmp_path: Path) -> None:
    space: dict[str, Any] = {"lock": threading.Lock(), "generator": (one for one in [])}
    assert Values(space, store=str(tmp_path)).changed() == ()


def test_what_the_shell_binds_by_itself_is_no_change(tmp_path: Path) -> None:
    given = {"_": 1, "__": 1, "_3": 1, "_i": "1", "_i3": "1", "_exit_code": 0, "_ih": [""], "mine": 1, "_mine": 1}
    space: dict[str, Any] = dict(given)
    before = Values(space, store=str(tmp_path))
    space.update(dict.fromkeys(given, 2))
    assert before.changed() == ("mine", "_mine")


def test_a_name_bound_again_is_a_change_unless_the_cell_shows_it(tmp_path: Path) -> None:
    space: dict[str, Any] = {"a": 1, "b": 1, "c": [1], "gone": 1}
    before = Values(space, store=str(tmp_path))
    space.update(a=2, b=1, c=[1])
    del space["gone"]
    assert before.changed() == ("a", "c")
    assert before.changed(bound={"a", "c"}) == ()


def test_files_of_the_user_are_seen_and_those_of_python_and_the_store_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "object").write_text("x")
    (tmp_path / "read.txt").write_text("abc")
    opened = Opened(without=(str(store),))
    opened.start()
    (tmp_path / "read.txt").read_text()
    (tmp_path / "written.txt").write_text("12")
    (store / "object").read_text()
    Path(os.__file__).read_text()
    with pytest.raises(FileNotFoundError):
        (tmp_path / "missing.txt").read_text()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        open("<step train>", encoding="utf-8")
    os.close(os.open(tmp_path / "low.txt", os.O_CREAT | os.O_WRONLY))
    left, right = socket.socketpair()
    left.close()
    right.close()
    seen = opened.stop()
    (tmp_path / "later.txt").write_text("")
    assert [(Path(one.path).name, one.mode, one.size) for one in seen if one.path.startswith(str(tmp_path))] == [
        ("read.txt", "r", 3),
        ("written.txt", "w", 2),
        ("missing.txt", "r", None),
        ("low.txt", "w", 0),
    ]
    assert not opened.network


def test_what_is_on_the_path_and_only_looked_at_for_a_packages_version_is_no_file_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.suppress(ImportError):
        import importlib_metadata  # noqa: F401  the package: where it is imported, it looks into the path as well
    monkeypatch.syspath_prepend(str(tmp_path))
    opened = Opened()
    opened.start()
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("there-is-no-such-package")
    seen = {one.path for one in opened.stop()}
    assert not [path for path in seen if path.endswith(".zip") or path == str(tmp_path)]


def test_libraries_that_are_used_ahead_keep_no_trace_of_it() -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import pandas as pd

    def state() -> Any:
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            plt.get_fignums(),
            dict(mpl.rcParams),
            list(warnings.filters),
            np.geterr(),
            pd.get_option("display.max_rows"),
        )

    before = state()
    use_libraries()
    assert state() == before


def test_a_step_finds_loaded_what_its_libraries_load_when_they_are_first_used() -> None:
    code = """
        import sys
        import matplotlib.pyplot as plt, pandas as pd
        from sklearn.linear_model import LinearRegression
        from mlbench.backends.cluster_dask.process.rehearsal import use_libraries
        use_libraries()
        before = set(sys.modules)
        table = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.5]})
        LinearRegression().fit(table[["a"]], table["b"])
        assert set(sys.modules) == before, set(sys.modules) - before
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=60, env={**os.environ, "MPLBACKEND": "agg"})


def test_a_library_that_cannot_be_used_ahead_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    monkeypatch.setitem(sys.modules, "pandas", object())
    monkeypatch.setattr(Figure, "subplots", lambda figure: drawn.append(figure))
    use_libraries()
    assert drawn


def a_server() -> StepServer:
    return StepServer(Environment(interpreter="/no/python", variables={}, stamp=""), ())


def test_what_goes_wrong_with_one_step_server_does_not_end_the_thread_that_all_of_them_need() -> None:
    def fail() -> None:
        raise RuntimeError

    servers, done = StepServers(), threading.Event()
    servers._jobs.put(fail)
    servers._jobs.put(done.set)
    assert done.wait(30)


def test_a_step_server_that_cannot_be_begun_says_so_whatever_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", full)
    server = a_server()
    server.begin()
    assert not server.alive
    with pytest.raises(ServiceError, match="Too many open files"):
        server.await_ready(lambda: False)
    server.close()


def test_a_step_server_that_is_closed_before_it_is_warm_is_not_waited_for() -> None:
    server = a_server()
    closing = threading.Timer(0.2, server.close)
    closing.start()
    server.await_ready(lambda: False)
    closing.join()
    assert not server.alive
    server.begin()
    assert server.process is None


def test_a_step_server_that_is_waited_for_is_not_idle() -> None:
    server, idle = a_server(), list[float]()

    def stop() -> bool:
        idle.append(server.idle)
        return True

    server.await_ready(stop)
    assert idle == [0.0]
    assert server.idle > 0.0


def test_processes_of_a_container_whose_numbers_are_its_own_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()
    assert own in orphans._own_processes()
    monkeypatch.setattr(orphans, "_space", lambda process: "pid:[2]" if process == own else "pid:[1]")
    assert own not in orphans._own_processes()
