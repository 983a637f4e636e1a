"""A step's names are kept so that they come back as the notebook had them."""

from __future__ import annotations

import importlib
import io
import json
import queue
import socket
import sqlite3
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlbench.backends.memory import MemoryBlobs
from mlbench.core.errors import ArtifactCorrupt, NotFound, ResultError
from mlbench.core.failed import Failed
from mlbench.core.records import Artifact, Binding
from mlbench.runs.artifacts import Loader, remedy, save_lists, save_names
from mlbench.runs.values import pack, read_items


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


class Nothing:
    """What a library holds once, and puts into what it makes."""

    def __init__(self) -> None:
        self.parts = [[1], [2]]


def test_models_do_not_share_what_belongs_to_their_library(blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble, tree = pytest.importorskip("sklearn.ensemble"), pytest.importorskip("sklearn.tree")
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    forest, single = ensemble.RandomForestRegressor(2).fit(X, y), tree.DecisionTreeClassifier(max_depth=3).fit(X, y)
    kind = np.dtype([("a", "i4"), ("b", "f8")])
    one, two = [np.zeros(3, kind), 1], [np.ones(3, kind), {}]
    library = types.ModuleType("some_library")
    library.NOTHING = Nothing()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_library", library)
    first, second = ({"lacks": library.NOTHING, "of": library.NOTHING.parts} for _ in range(2))  # type: ignore[attr-defined]
    names = {"forest": forest, "single": single, "one": one, "two": two, "first": first, "second": second}
    kept = saved(names, blobs)
    assert {name: kept[name].member for name in kept} == dict.fromkeys(names)


def test_names_that_share_a_list_of_the_users_own_module_come_back_together(
    blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = types.ModuleType("helpers")
    own.__file__ = "/home/ada/helpers.py"
    own.ROWS = [1, 2]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "helpers", own)
    kept = saved({"one": [own.ROWS], "two": [own.ROWS]}, blobs)  # type: ignore[attr-defined]
    assert [binding.member for binding in kept.values()] == ["one", "two"]


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


def test_a_module_comes_back_with_those_below_it_that_were_imported(
    blobs: MemoryBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("inner", "other", "third"):
        (tmp_path / "lowpackage" / name).mkdir(parents=True)
        (tmp_path / "lowpackage" / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    package = importlib.import_module("lowpackage")
    importlib.import_module("lowpackage.inner")
    importlib.import_module("lowpackage.third")
    imported = {"lowpackage.inner", "lowpackage.other", "lowpackage.inner.NAME", "json"}
    (one,) = save_names({"p": package}, ["p"], blobs, imported=imported)
    assert (one.module, one.submodules) == ("lowpackage", ("lowpackage.inner",))
    (several,) = save_lists({"p": [one, one]}, blobs)
    for binding, depth in ((one, 0), (several, 1)):
        for name in [name for name in sys.modules if name.startswith("lowpackage")]:
            monkeypatch.delitem(sys.modules, name)
        loaded = Loader(blobs).load(binding)
        assert sorted(vars(loaded[-1] if depth else loaded).keys() & {"inner", "other", "third"}) == ["inner"]
    with pytest.raises(ResultError, match=r"`p` is the module lowpackage\.fourth, which cannot be imported here"):
        Loader(blobs).load(replace(one, submodules=("lowpackage.fourth",)))


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


_FUTURE = type("Future", (), {"__module__": "distributed.client"})()

with socket.socket() as _SOCKET:
    UNSTORABLE = [
        (rows(), "is a generator", "list"),
        (io.TextIOWrapper(io.BytesIO()), "is an open file", "path"),
        (threading.Lock(), "is a lock", "in the cell that uses it"),
        (Holds(threading.RLock()), "Holds) holds a lock", "in the cell that uses it"),
        (queue.Queue(), "is a lock, thread or queue", "in the cell that uses it"),
        (sqlite3.connect(":memory:"), "is a database connection", "rows"),
        (_SOCKET, "is a network connection", "Connect"),
        (_FUTURE, "is a task of Dask's", "Keep its result"),
        (Holds([_FUTURE]), "Holds) holds a task of Dask's", "Keep its result"),
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


# --- lists ------------------------------------------------------------------------------------------------------------


def of_items(blobs: MemoryBlobs, name: str, namespaces: list[dict[str, Any]]) -> list[Binding]:
    """Return the bindings of one name in the items of a fan-out."""
    found = [{one.name: one for one in save_names(space, space, blobs)} for space in namespaces]
    return [bindings[name] for bindings in found]


def a_list(blobs: MemoryBlobs, *values: Any) -> Binding:
    places = [one if isinstance(one, Failed) else save_names({"model": one}, ["model"], blobs)[0] for one in values]
    (binding,) = save_lists({"model": places}, blobs)
    return binding


def test_a_fan_outs_name_is_a_list_of_its_items_values(blobs: MemoryBlobs) -> None:
    values = [1, 0.5, "text", None, b"", [1, 2], {"a": 1}, np.arange(5), True, 1, [1, 2]]
    binding = a_list(blobs, *values)
    assert (binding.name, binding.member, binding.problem) == ("model", None, None)
    assert binding.artifact is not None
    assert (binding.artifact.codec, binding.artifact.type) == ("items", "list")
    found = Loader(blobs).load(msgspec.json.decode(msgspec.json.encode(binding)))
    assert type(found) is list
    np.testing.assert_array_equal(found.pop(7), values.pop(7))
    assert found == values
    assert found[5] is not found[-1]


def test_of_a_list_the_item_that_is_damaged_is_named(blobs: MemoryBlobs) -> None:
    binding = a_list(blobs, *([number] for number in range(30)))
    damaged = save_names({"model": [17]}, ["model"], blobs)[0].artifact
    assert damaged is not None
    blobs._packs.pop(damaged.digest, None)
    blobs._objects[damaged.digest] = b"x"
    with pytest.raises(ArtifactCorrupt) as caught:
        Loader(blobs).load(binding)
    assert (caught.value.name, caught.value.expected) == ("model[17]", damaged.digest)
    assert str(caught.value).startswith("`model[17]` is damaged in the store: expected ")


def test_what_is_damaged_is_named_by_what_it_was_bound_to(blobs: MemoryBlobs) -> None:
    (binding,) = save_names({"rows": [1]}, ["rows"], blobs)
    assert binding.artifact is not None
    blobs._objects[binding.artifact.digest] = b"x"
    with pytest.raises(ArtifactCorrupt, match=r"^`rows` is damaged in the store: expected blake3:"):
        Loader(blobs).load(binding)


@pytest.mark.parametrize("values", [[], [1]], ids=["none", "one"])
def test_a_fan_out_of_none_or_one_has_a_list_too(blobs: MemoryBlobs, values: list[int]) -> None:
    assert Loader(blobs).load(a_list(blobs, *values)) == values


def test_a_lists_digest_depends_on_the_digests_of_its_items_and_on_nothing_else(blobs: MemoryBlobs) -> None:
    one = a_list(blobs, 1, "two", np.zeros(3))
    elsewhere = MemoryBlobs()
    packed = [pack(value) for value in (1, "two", np.zeros(3))]
    elsewhere.put_pack([(value.digest, value.parts) for value in packed])
    other = a_list(elsewhere, 1, "two", np.zeros(3))
    assert one.artifact is not None
    assert other.artifact is not None
    assert one.artifact.digest == other.artifact.digest
    assert read_items(elsewhere.get_parts(other.artifact.digest))[1] == elsewhere.packs_of([packed[0].digest])
    assert Loader(elsewhere).load(other)[:2] == [1, "two"]
    assert one.artifact.digest != a_list(blobs, "two", 1, np.zeros(3)).artifact.digest  # type: ignore[union-attr]


def test_a_lists_size_counts_each_of_its_items_values_once(blobs: MemoryBlobs) -> None:
    array = np.zeros(10_000)
    one, two = a_list(blobs, array).artifact, a_list(blobs, array, array, array + 1).artifact
    assert one is not None
    assert two is not None
    assert 80_000 < one.size < 81_000
    assert 160_000 < two.size < 162_000


def test_a_failed_item_keeps_its_place_and_says_why(blobs: MemoryBlobs) -> None:
    failed = Failed(item=1, label={"x": "2"}, ename="ValueError", evalue="no", reason="error")
    binding = a_list(blobs, "a", failed, "c")
    assert Loader(blobs).load(binding) == ["a", failed, "c"]
    assert binding.artifact is not None
    assert binding.artifact.digest != a_list(blobs, "a", "c").artifact.digest  # type: ignore[union-attr]


def test_what_an_items_names_share_they_share_in_its_place(blobs: MemoryBlobs) -> None:
    spaces = []
    for number in range(3):
        models = [{"score": number}, {"score": -number}]
        spaces.append({"models": models, "best": models[0]})
    bindings = save_lists({name: of_items(blobs, name, spaces) for name in ("models", "best")}, blobs)
    assert bindings[0].artifact is not None
    assert [one[1] for one in read_items(blobs.get_parts(bindings[0].artifact.digest))[0]] == ["models"] * 3
    loader = Loader(blobs)
    all_models, best = loader.load(bindings[0]), loader.load(bindings[1])
    assert [one["score"] for one in best] == [0, 1, 2]
    assert all(one is models[0] for one, models in zip(best, all_models, strict=True))
    again = loader.load(bindings[1])
    assert again == best
    assert again[0] is not best[0]


def test_items_whose_names_share_equal_objects_have_them_each_for_themselves(blobs: MemoryBlobs) -> None:
    spaces = []
    for _ in range(3):
        rows = [1, 2]
        spaces.append({"rows": rows, "best": rows})
    bindings = save_lists({name: of_items(blobs, name, spaces) for name in ("rows", "best")}, blobs)
    loader = Loader(blobs)
    rows_of_all, best = loader.load(bindings[0]), loader.load(bindings[1])
    assert rows_of_all == best == [[1, 2]] * 3
    assert all(one is other for one, other in zip(best, rows_of_all, strict=True))
    assert len({id(one) for one in best}) == 3


def test_a_list_is_loaded_anew_each_time(blobs: MemoryBlobs) -> None:
    binding = a_list(blobs, np.zeros(3), np.zeros(3))
    loader = Loader(blobs)
    first = loader.load(binding)
    first[0][:] = 7
    assert [array.sum() for array in loader.load(binding)] == [0, 0]
    assert first[1].sum() == 0


def test_a_list_of_modules_and_of_notebook_classes_comes_back(blobs: MemoryBlobs) -> None:
    import math

    assert Loader(blobs).load(a_list(blobs, math, json)) == [math, json]


def test_a_name_that_some_items_lack_has_no_list_but_a_reason(blobs: MemoryBlobs) -> None:
    places = of_items(blobs, "rows", [{"rows": 1}, {"rows": (i for i in range(3))}, {"rows": (i for i in range(3))}])
    binding, other = save_lists({"rows": places, "n": of_items(blobs, "n", [{"n": 1}])}, blobs)
    assert binding.artifact is None
    assert binding.problem is not None
    assert binding.problem.startswith("`rows` has no list: 2 of 3 items lack it. Item 1: `rows` is a generator")
    assert "run the cell with --cache --catch" in binding.problem
    with pytest.raises(ResultError, match="2 of 3 items lack it"):
        Loader(blobs).load(binding)
    assert Loader(blobs).load(other) == [1]


def test_a_list_whose_items_are_gone_says_which(blobs: MemoryBlobs) -> None:
    binding = a_list(blobs, 1, 2)
    elsewhere = MemoryBlobs()
    assert binding.artifact is not None
    elsewhere.put_parts(binding.artifact.digest, [bytes(part) for part in blobs.get_parts(binding.artifact.digest)])
    with pytest.raises(NotFound, match="blake3:"):
        Loader(elsewhere).load(binding)
