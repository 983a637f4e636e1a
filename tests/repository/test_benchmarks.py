"""The benchmarks say what they measured in the form that was promised."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as door
from benchmarks.measure import Figure, alternate, ratio


def test_a_ratio_has_its_goal_and_says_whether_it_is_reached() -> None:
    assert ratio("b", "wall", 1.0, 10.0, goal=0.2).reached is True
    assert ratio("b", "wall", 3.0, 10.0, goal=0.2).reached is False
    assert Figure("b", "metaflow", "a step", None, "not installed").reached is None


def test_subjects_are_measured_in_turn_and_their_medians_kept() -> None:
    order: list[str] = []

    def subject(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    assert alternate(3, lambda: subject("a", 1.0), lambda: subject("b", 2.0)) == [1.0, 2.0]
    assert "".join(order) == "abbaab"


def test_figures_are_printed_as_json_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures = [Figure("load_ext", "import pandas", "wall", 1.0, "s"), ratio("load_ext", "wall", 0.5, 1.0, goal=0.2)]
    monkeypatch.setattr(door, "_figures", lambda names, *, quick: iter(figures))
    assert door.main(["load_ext"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == ["bench", "subject", "metric", "value", "unit"]
    assert second == {"bench": "load_ext", "subject": "ratio", "metric": "wall", "value": 0.5, "unit": "x", "goal": 0.2}


def test_an_unknown_benchmark_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        door.main(["lod_ext"])
    assert "lod_ext" in capsys.readouterr().err
