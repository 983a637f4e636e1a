"""A user's key and list of trusted people: made with the first use, this user's alone, outside every store."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlbench.core.errors import StoreError, UsageError
from mlbench.core.ids import Digest
from mlbench.core.records import Artifact
from mlbench.project import signing
from mlbench.runs.signing import sign

DIGEST = Digest(f"blake3:{'1' * 64}")


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLBENCH_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def artifact(signature: str | None) -> Artifact:
    return Artifact(digest=DIGEST, size=1, type="list", codec="pickle", signature=signature)


def test_a_key_is_made_once_whoever_comes_first_and_nobody_else_can_read_it(keys: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        signers = list(pool.map(lambda _: signing.signer("e1"), range(16)))
    assert len(set(signers)) == 1
    assert stat.S_IMODE((keys / "signing.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert [file.name for file in keys.iterdir()] == ["signing.key"]


def test_what_is_signed_here_is_accepted_in_every_store_and_by_the_key_on_another_machine(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = artifact(sign(signing.signer("e1"), DIGEST, "pickle"))
    assert signing.judge(tmp_path / "one")(own)
    assert signing.judge(tmp_path / "two")(own)
    monkeypatch.setenv("MLBENCH_KEYS", str(tmp_path / "elsewhere"))
    assert not signing.judge(tmp_path / "one")(own)
    other = artifact(sign(signing.signer("e1"), DIGEST, "pickle"))
    (tmp_path / "elsewhere" / "laptop.key").write_bytes((keys / "signing.key").read_bytes())
    (tmp_path / "elsewhere" / "laptop.key").chmod(0o600)
    assert signing.judge(tmp_path / "one")(own), "a key that was carried over is found at once"
    assert signing.judge(tmp_path / "one")(other)


def test_a_key_that_others_can_read_signs_and_vouches_for_nothing(
    keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys.mkdir()
    (keys / "signing.key").write_text("ab" * 32)
    (keys / "signing.key").chmod(0o644)
    assert signing.signer("e1") is None
    assert f"Close it: `chmod 600 {keys / 'signing.key'}`." in caplog.text
    assert not signing.judge(tmp_path)(artifact(None))
    assert signing.judge(tmp_path, own_session=True)(artifact(None)), "or nothing would run"
    assert not signing.judge(tmp_path, own_session=True)(artifact("x.y.z"))


def test_a_key_that_is_closed_as_the_sentence_says_counts_at_once(keys: Path, tmp_path: Path) -> None:
    own = artifact(sign(signing.signer("e1"), DIGEST, "pickle"))
    (keys / "signing.key").chmod(0o640)
    assert signing.signer("e1") is None
    assert not signing.judge(tmp_path)(own)
    (keys / "signing.key").chmod(0o600)
    assert signing.signer("e1") is not None
    assert signing.judge(tmp_path)(own)


def test_a_key_that_is_none_is_refused(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys.mkdir()
    (keys / "signing.key").write_text("short")
    (keys / "signing.key").chmod(0o600)
    assert signing.signer("e1") is None
    assert "is no key" in caplog.text


def test_people_are_trusted_until_they_are_not(keys: Path) -> None:
    assert signing.trust().users == frozenset()
    signing.set_trust(user="ada")
    signing.set_trust(user="bob")
    assert signing.trust().users == {"ada", "bob"}
    assert stat.S_IMODE((keys / "trusted.json").stat().st_mode) == 0o600
    signing.set_trust(user="ada", remove=True)
    assert signing.trust().users == {"bob"}
    with pytest.raises(UsageError, match="no user's name"):
        signing.set_trust(user="a b")


def test_a_list_of_people_that_others_can_change_counts_for_nothing(keys: Path) -> None:
    signing.set_trust(user="ada")
    (keys / "trusted.json").chmod(0o666)
    assert signing.trust().users == frozenset()
    with pytest.raises(StoreError, match="can be changed by others"):
        signing.set_trust(user="bob")
    (keys / "trusted.json").chmod(0o600)
    assert signing.trust().users == {"ada"}, "and nobody was forgotten over it"
    (keys / "trusted.json").write_text(json.dumps(["ada"]))
    assert signing.trust().users == frozenset()


def test_unsigned_values_of_a_store_count_as_ones_own_if_nobody_else_can_write_to_it(
    keys: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    assert not signing.judge(store)(artifact(None))
    signing.set_trust(unsigned=store)
    assert signing.judge(store)(artifact(None))
    assert not signing.judge(tmp_path / "other")(artifact(None))
    assert not signing.judge(store)(artifact("0" * 16 + ".e1." + "0" * 32)), "somebody else's is not unsigned"
    os.chmod(store, 0o2770)
    with pytest.raises(UsageError, match="Others can write to the store"):
        signing.set_trust(unsigned=store)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLBENCH_KEYS", str(tmp_path / "file" / "keys"))
    assert signing.signer("e1") is None
    with pytest.raises(StoreError, match="Name a folder of yours in MLBENCH_KEYS"):
        signing.set_trust(user="ada")
