"""A step's names are kept so that they come back as the notebook had them."""

from __future__ import annotations

import io
import queue
import socket
import sqlite3
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlbench.backends.memory import MemoryBlobs
from mlbench.core.errors import NotFound, ResultError
from mlbench.core.records import Artifact, Binding
from mlbench.runs.artifacts import Loader, remedy, save_names


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


def saved(namespace: dict[str, Any], blobs: MemoryBlobs) -> dict[str, Binding]:
    return {binding.name: binding for binding in save_names(namespace, namespace, blobs)}


def test_each_name_is_an_artifact_with_a_preview(blobs: MemoryBlobs) -> None:
    bindings = save_names({"n": 3, "x": np.zeros(3), "unasked": 1}, ["x", "n", "x"], blobs)
    assert [binding.name for binding in bindings] == ["x", "n"]
    artifact = bindings[0].artifact
    assert artifact is not None
    assert (artifact.type, artifact.codec) == ("numpy.ndarray", "ndarray")
    assert artifact.preview["shape"] == [3]
    assert Loader(blobs).load(bindings[1]) == 3


def test_a_binding_can_be_loaded_from_its_json(blobs: MemoryBlobs) -> None:
    (binding,) = save_names({"n": [3]}, ["n"], blobs)
    assert Loader(blobs).load(msgspec.json.decode(msgspec.json.encode(binding))) == [3]


def test_names_that_hold_one_object_still_do(blobs: MemoryBlobs) -> None:
    models = [{"score": 1}, {"score": 2}]
    bindings = saved({"models": models, "best": models[1], "other": [1]}, blobs)
    assert bindings["best"].member == "best"
    assert bindings["other"].member is None
    loader = Loader(blobs)
    loaded, best = loader.load(bindings["models"]), loader.load(bindings["best"])
    assert best is loaded[1]


def test_names_that_share_through_a_third_come_back_together(blobs: MemoryBlobs) -> None:
    a, b = [1], [2]
    bindings = saved({"one": [a], "two": [a, b], "three": {"b": b}}, blobs)
    loader = Loader(blobs)
    one, two, three = (loader.load(bindings[name]) for name in ("one", "two", "three"))
    assert one[0] is two[0]
    assert two[1] is three["b"]


def test_one_frame_under_two_names_is_one_frame(blobs: MemoryBlobs) -> None:
    frame = pd.DataFrame({"x": [1.5, 2.5]})
    bindings = saved({"frame": frame, "alias": frame, "copy": frame.copy()}, blobs)
    loader = Loader(blobs)
    assert loader.load(bindings["alias"]) is loader.load(bindings["frame"])
    assert bindings["copy"].member is None


def test_atoms_functions_classes_and_parts_of_frames_are_not_taken_for_shared(blobs: MemoryBlobs) -> None:
    frame = pd.DataFrame({"x": [1.5, 2.5], "y": list("ab")})
    text, function, day = "a long text " * 9, test_each_name_is_an_artifact_with_a_preview, np.datetime64("2024-01-01")
    shared = (text, 10**30, function, Binding, day, frame.index, np.dtype("f8"), (1, 2))
    bindings = saved(
        {"one": list(shared), "two": list(shared), "X": frame[["x"]], "y": frame["y"], "frame": frame}, blobs
    )
    assert [binding.member for binding in bindings.values()] == [None] * 5


def test_loading_a_name_twice_gives_it_as_it_was_stored(blobs: MemoryBlobs) -> None:
    rows: list[int] = []
    bindings = saved({"rows": rows, "alias": rows}, blobs)
    loader = Loader(blobs)
    first = loader.load(bindings["rows"])
    first.append(1)
    assert loader.load(bindings["rows"]) == []
    assert loader.load(bindings["alias"]) is not first


def test_a_module_comes_back_as_the_module(blobs: MemoryBlobs) -> None:
    import os.path

    (binding,) = save_names({"p": os.path}, ["p"], blobs)
    assert binding.artifact is None
    assert Loader(blobs).load(binding) is os.path


def test_a_module_that_is_not_here_is_a_clear_error(blobs: MemoryBlobs) -> None:
    with pytest.raises(ResultError, match="`zz` is the module no_such_module, which cannot be imported here"):
        Loader(blobs).load(Binding(name="zz", module="no_such_module"))


def test_a_name_that_was_not_bound_says_so(blobs: MemoryBlobs) -> None:
    (binding,) = save_names({}, ["model"], blobs)
    with pytest.raises(ResultError, match="`model` was not bound"):
        Loader(blobs).load(binding)


class Raises:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")

    def __repr__(self) -> str:
        raise RuntimeError("nor so")


class Holds:
    def __init__(self, part: Any) -> None:
        self.part = part


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def rows() -> Iterator[int]:
    yield 1


with socket.socket() as _SOCKET:
    UNSTORABLE = [
        (rows(), "is a generator", "list"),
        (io.TextIOWrapper(io.BytesIO()), "is an open file", "path"),
        (threading.Lock(), "is a lock", "in the cell that uses it"),
        (Holds(threading.RLock()), "Holds) holds a lock", "in the cell that uses it"),
        (queue.Queue(), "is a lock, thread or queue", "in the cell that uses it"),
        (sqlite3.connect(":memory:"), "is a database connection", "rows"),
        (_SOCKET, "is a network connection", "Connect"),
        (types.ModuleType("made"), "cannot be imported by name", "file"),
        (Holds(sys._getframe()), "holds a traceback", "text"),
        (nested(5000), "is nested too deeply", "flat"),
        (Raises(), "RuntimeError: not me", "--no-store"),
    ]


@pytest.mark.parametrize(("value", "why", "instead"), UNSTORABLE, ids=lambda part: type(part).__name__)
def test_what_cannot_be_stored_says_why_and_what_to_do_and_spoils_nothing(
    value: Any, why: str, instead: str, blobs: MemoryBlobs
) -> None:
    bindings = saved({"good": [1], "bad": value, "also": [2]}, blobs)
    assert bindings["good"].artifact is not None
    assert bindings["also"].artifact is not None
    problem = bindings["bad"].problem or ""
    assert problem.startswith("`bad` ")
    assert why in problem
    assert instead in problem
    with pytest.raises(ResultError) as caught:
        Loader(blobs).load(bindings["bad"])
    assert str(caught.value) == problem


def test_the_remedy_of_something_unknown_is_general() -> None:
    assert remedy(Holds(1), TypeError("cannot pickle 'lib.Handle' object")) == (
        "(tests.unit.runs.test_artifacts.Holds) can't be stored since it holds a lib.Handle. "
        "Keep what it was made from, begin its name with an underscore, or leave it out with `--no-store`."
    ).replace("tests.unit.runs.test_artifacts.", f"{Holds.__module__}.")


def test_a_value_whose_library_is_not_here_says_which(blobs: MemoryBlobs) -> None:
    script = (
        "import sys, types\n"
        "module = types.ModuleType('far_away'); sys.modules['far_away'] = module\n"
        "exec('class Thing: pass', module.__dict__); module.Thing.__module__ = 'far_away'\n"
        "from mlbench.runs.values import join, pack\n"
        "sys.stdout.buffer.write(join(pack(module.Thing()).parts))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    from mlbench.core.ids import Digest
    from mlbench.runs.values import digest_of, split

    parts = split(done.stdout)
    digest = Digest(f"blake3:{digest_of(parts[0])}")
    blobs.put_parts(digest, parts)
    artifact = Artifact(digest=digest, size=1, type="far_away.Thing", codec="pickle")
    with pytest.raises(ResultError, match=r"far_away\.Thing needs the module far_away, which is not installed here"):
        Loader(blobs).load(Binding(name="thing", artifact=artifact))


def test_an_artifact_that_the_store_does_not_have_is_not_found(blobs: MemoryBlobs) -> None:
    (binding,) = save_names({"n": [3]}, ["n"], blobs)
    with pytest.raises(NotFound):
        Loader(MemoryBlobs()).load(binding)


def test_a_figure_is_loaded_without_being_shown_again(blobs: MemoryBlobs) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    plt.close("all")
    figure, axes = plt.subplots()
    axes.plot([1, 3, 2])
    other, _ = plt.subplots()
    bindings = saved({"fig": figure, "ax": axes, "other": other}, blobs)
    plt.close("all")
    loader = Loader(blobs)
    back, its_axes = loader.load(bindings["fig"]), loader.load(bindings["ax"])
    assert its_axes.figure is back
    assert list(its_axes.lines[0].get_ydata()) == [1, 3, 2]
    assert plt.get_fignums() == []
    assert bindings["other"].member is None
    back.savefig(io.BytesIO())
