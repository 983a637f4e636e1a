"""What an artifact may be called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_local.logged import keep
from mlbench.backends.memory import MemoryBlobs
from mlbench.core.errors import UsageError
from mlbench.runs.files import check_name


@pytest.mark.parametrize(
    "name", [5, None, b"a", "", " a", "a ", "a\u202egnp.exe", "\ud800", "a\u2066b", "../a", "a\x85b"]
)
def test_a_name_that_is_none_or_shows_as_another_is_refused(name: Any) -> None:
    with pytest.raises(UsageError):
        check_name(name)


@pytest.mark.parametrize("name", ["plots/loss.png", "Größe 1", "\u0645\u0644\u0641", "a b"])
def test_names_in_any_language_are_well(name: str) -> None:
    assert check_name(name) == name


def test_an_empty_text_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="empty"):
        keep("", None, MemoryBlobs())
