"""A value that can run code when it is loaded is loaded only if its user has signed it, or trusts whoever stored it."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.backends.blobs_local import recording
from mlbench.backends.memory import MemoryBlobs
from mlbench.core.errors import ArtifactCorrupt, NotFound, NotTrusted
from mlbench.core.failed import Failed
from mlbench.core.ids import Digest
from mlbench.core.records import Artifact, Binding
from mlbench.runs.artifacts import Loader, save_lists, save_names
from mlbench.runs.signing import is_proven, is_signed, key_name, proven, sign, signer_of

MINE, THEIRS = b"mine", b"theirs"


def accepts(key: bytes = MINE) -> Callable[[Artifact], bool]:
    return lambda one: one.signature is not None and is_signed(key, one.signature, one.digest, one.codec)


def saved(value: Any, blobs: MemoryBlobs, key: bytes | None = MINE) -> Binding:
    (binding,) = save_names({"x": value}, ["x"], blobs, signer=signer_of(key, "e1") if key else None)
    return binding


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats()
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["state", "messages", "note"]), PLAIN, min_size=1), st.lists(st.floats()))
def test_a_record_is_known_again_as_what_its_execution_wrote_however_it_was_kept(
    said: dict[str, Any], logged: list[float]
) -> None:
    said["metrics"] = [{"name": "loss", "value": value} for value in logged]
    blobs, mine = MemoryBlobs(), signer_of(MINE, "e1")
    blobs.append("execution", "e1", recording.encode("execution", "e1", proven(mine, "execution", "e1", said), 5))
    (piece,) = blobs.pieces("record")
    found = recording.decode(bytes(blobs.read_piece(piece)), "here")
    assert is_proven([signer_of(THEIRS, "e1"), mine], "execution", "e1", found)
    for signers, kind, identifier in (
        ([signer_of(THEIRS, "e1")], "execution", "e1"),
        ([signer_of(MINE, "e2")], "execution", "e1"),
        ([mine], "executions", "e1"),
        ([mine], "execution", "e2"),
        ([], "execution", "e1"),
    ):
        assert not is_proven(signers, kind, identifier, found)
    without = {name: value for name, value in found.items() if name != "metrics"}
    for changed in ({**found, "more": 1}, {**found, "proof": "é"}, {**found, "proof": None}, without):
        assert not is_proven([mine], "execution", "e1", changed)


def test_a_value_that_is_not_in_the_store_any_more_is_said_to_be_gone_and_what_to_do() -> None:
    blobs = MemoryBlobs()
    binding = saved([1, {2}], blobs)
    (listed,) = save_lists({"xs": [binding, binding]}, blobs, signer=signer_of(MINE, "e1"))
    assert binding.artifact is not None
    blobs.set_aside(binding.artifact.digest)
    for gone in (binding, listed):
        with pytest.raises(NotFound, match=f"The value of `{gone.name}` is not in the store any more") as raised:
            Loader(blobs, accepts=accepts()).load(gone)
        assert str(raised.value).endswith("Run the step that makes it again.")


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_a_trap_that_somebody_else_stored_is_not_sprung(tmp_path: Path) -> None:
    blobs, trap = MemoryBlobs(), tmp_path / "sprung"
    for key, said in ((THEIRS, "`x` was stored by somebody else"), (None, "`x` is not signed")):
        binding = saved(Trap(trap), blobs, key)
        with pytest.raises(NotTrusted, match=said):
            Loader(blobs, accepts=accepts()).load(binding)
        assert not trap.exists()
    Loader(blobs, accepts=accepts()).load(saved(Trap(trap), blobs))
    assert trap.exists()


@pytest.mark.parametrize("value", [3, "a", None, np.arange(3), pd.DataFrame({"a": [1, 2]})])
def test_data_is_loaded_whoever_stored_it_and_carries_no_signature(value: Any) -> None:
    blobs = MemoryBlobs()
    binding = saved(value, blobs)
    assert binding.artifact is not None
    assert binding.artifact.signature is None
    assert str(Loader(blobs, accepts=lambda _: False).load(binding)) == str(value)


def test_a_pickle_that_a_record_calls_data_is_not_loaded() -> None:
    blobs = MemoryBlobs()
    binding = saved([object], blobs, THEIRS)
    assert binding.artifact is not None
    for codec in ("scalar", "ndarray", "items"):
        lie = dataclasses.replace(binding, artifact=dataclasses.replace(binding.artifact, codec=codec))
        with pytest.raises((NotTrusted, ArtifactCorrupt, KeyError, ValueError)):
            Loader(blobs, accepts=lambda _: False).load(lie)


def test_a_signature_holds_for_one_digest_and_codec_and_by_one_key_alone() -> None:
    one, other = Digest(f"blake3:{'1' * 64}"), Digest(f"blake3:{'2' * 64}")
    made = sign(signer_of(MINE, "e1"), one, "pickle")
    assert made is not None
    assert is_signed(MINE, made, one, "pickle")
    assert not is_signed(THEIRS, made, one, "pickle")
    assert not is_signed(MINE, made, other, "pickle")
    assert not is_signed(MINE, made, one, "items")
    assert not is_signed(MINE, made.replace(".e1.", ".e2."), one, "pickle"), (
        "an execution's secret is good for it alone"
    )


@given(st.text())
def test_no_other_text_is_a_signature(text: str) -> None:
    digest = Digest(f"blake3:{'1' * 64}")
    assert not is_signed(MINE, text, digest, "pickle")
    assert not is_signed(MINE, f"{key_name(MINE)}.e1.{text}", digest, "pickle")


def test_what_signs_one_execution_does_not_show_its_secret() -> None:
    assert "secret" not in repr(signer_of(MINE, "e1"))
    assert MINE not in pickle.dumps(signer_of(MINE, "e1"))


def test_a_list_that_is_signed_vouches_for_what_it_names_and_one_that_is_not_gives_data_alone() -> None:
    blobs = MemoryBlobs()
    objects = [saved([number, {1}], blobs, THEIRS) for number in range(3)]
    numbers = [saved(number, blobs, THEIRS) for number in range(3)]
    failed = Failed(item=3, label={}, ename="E", evalue="", reason="error")
    (own,) = save_lists({"x": [*objects, failed]}, blobs, signer=signer_of(MINE, "e1"))
    assert Loader(blobs, accepts=accepts()).load(own)[0] == [0, {1}]
    foreign, plain = save_lists({"x": objects, "n": numbers}, blobs, signer=signer_of(THEIRS, "e1"))
    with pytest.raises(NotTrusted):
        Loader(blobs, accepts=accepts()).load(foreign)
    assert Loader(blobs, accepts=accepts()).load(plain) == [0, 1, 2]
    assert Loader(blobs, accepts=accepts()).load(foreign, trusted=True)[2] == [2, {1}]


def test_names_that_share_objects_are_signed_as_one() -> None:
    blobs = MemoryBlobs()
    rows = [[1], {2}]
    bindings = save_names({"a": rows, "b": rows[1]}, ["a", "b"], blobs, signer=signer_of(MINE, "e1"))
    loader = Loader(blobs, accepts=accepts())
    a, b = (loader.load(one) for one in bindings)
    assert a[1] is b
    with pytest.raises(NotTrusted):
        Loader(blobs, accepts=accepts(THEIRS)).load(bindings[1])


class Swapping:
    """A store whose large objects are swapped for others after they were signed, and are not hashed when read."""

    def __init__(self, blobs: MemoryBlobs, parts: list[memoryview]) -> None:
        self._blobs, self._parts = blobs, parts

    def get_parts(self, _: Digest) -> list[memoryview]:
        return self._parts


def test_bytes_that_were_exchanged_under_a_signed_digest_are_not_executed(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    signed, trap = saved([{1}] * 3, blobs), saved(Trap(tmp_path / "sprung"), blobs, None)
    assert signed.artifact is not None
    assert trap.artifact is not None
    whole, other = blobs.get_parts(signed.artifact.digest), blobs.get_parts(trap.artifact.digest)
    for parts in (other, [whole[0], *other[1:]]):
        with pytest.raises(ArtifactCorrupt, match="got other bytes"):
            Loader(Swapping(blobs, parts), accepts=accepts()).load(signed)  # type: ignore[arg-type]
    assert not (tmp_path / "sprung").exists()
