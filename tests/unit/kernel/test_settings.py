"""`%config MLBench`."""

from __future__ import annotations

from typing import Any

import pytest

from mlbench.core.messages import MAX_ITEMS
from mlbench.entrypoints import kernel


def test_a_step_is_handed_over_with_the_settings_of_its_kernel(book: Any) -> None:
    book.run("%%step a\nx = 1\n")
    book.run("%config MLBench.cache = True\n%config MLBench.max_items = 500")
    book.run("%%step b\ny = 1\n")
    settings = [(one.cache_default, one.max_items) for one in book.service.submissions]
    assert settings == [(False, MAX_ITEMS), (True, 500)]


def test_the_settings_say_what_they_are_for(book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    book.run("%config MLBench")
    shown = capsys.readouterr().out
    assert "MLBench.cache=<Bool>" in shown
    assert "instead of running it" in shown
    assert "MLBench.max_items=<Int>" in shown


def test_a_setting_that_makes_no_sense_is_refused(book: Any) -> None:
    book.run("%config MLBench.max_items = 0")
    assert book.session.settings.max_items == MAX_ITEMS


def test_a_setting_that_does_not_exist_is_refused(book: Any, caplog: pytest.LogCaptureFixture) -> None:
    book.run("%config MLBench.nosuch = 3")
    assert "There is no setting MLBench.nosuch. There are cache and max_items: see `%config MLBench`." in caplog.text
    book.run("%config MLBench.max_item = 3")
    assert "There is no setting MLBench.max_item. Did you mean max_items?" in caplog.text
    assert book.session.settings.max_items == MAX_ITEMS


def test_the_settings_are_gone_with_the_extension(book: Any) -> None:
    kernel.unload(book.shell)
    assert not [one for one in book.shell.configurables if type(one).__name__ == "MLBench"]
    kernel.load(book.shell)
    assert [type(one).__name__ for one in book.shell.configurables].count("MLBench") == 1
