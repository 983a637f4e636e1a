from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mlbench.core.errors import UsageError
from mlbench.core.records import Json
from mlbench.runs import context


@pytest.fixture
def news() -> Iterator[list[Json]]:
    heard: list[Json] = []
    before = context.enter(context.Context(run="r", step="train", attempt=2, emit=heard.append))
    yield heard
    context.enter(before)


def test_numbers_of_all_kinds_are_logged(news: list[Json]) -> None:
    context.log(a=1, b=np.float32(0.5), c=np.int64(3), d=np.array([4.0])[0], step=7)
    (one,) = news
    assert [(point["name"], point["value"], point["step"]) for point in one["metrics"]] == [
        ("a", 1.0, 7),
        ("b", 0.5, 7),
        ("c", 3.0, 7),
        ("d", 4.0, 7),
    ]


@pytest.mark.parametrize("value", ["0.5", b"1", True, None, [1, 2], object(), 10**400])
def test_what_is_no_number_is_refused_by_name(news: list[Json], value: object) -> None:
    with pytest.raises(UsageError, match="rmse must be a number"):
        context.log(rmse=value)
    assert news == []


def test_how_far_the_work_is_is_refused_by_its_own_name_too(news: list[Json]) -> None:
    with pytest.raises(UsageError, match=r"mlbench\.progress: done must be a number, not range"):
        context.progress(range(3))  # type: ignore[arg-type]
    assert not news


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_said_and_not_recorded(news: list[Json], value: float) -> None:
    with pytest.warns(UserWarning, match="rmse is"):
        context.log(rmse=value, other=1)
    assert [point["name"] for point in news[0]["metrics"]] == ["other"]


def test_a_metrics_name_has_at_most_200_characters(news: list[Json]) -> None:
    with pytest.raises(UsageError, match="1,000 characters"):
        context.log(**{"x" * 1000: 1})
    context.log(**{"x" * 200: 1})
    assert len(news) == 1


@pytest.mark.parametrize("step", [1.5, "1", True])
def test_a_step_is_a_whole_number(news: list[Json], step: object) -> None:
    with pytest.raises(UsageError, match="whole number"):
        context.log(a=1, step=step)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 2**70])
def test_a_step_that_no_catalog_can_hold_is_refused(news: list[Json], step: int) -> None:
    """It was told to the service, whose catalog took nothing of the run from then on."""
    with pytest.raises(UsageError, match="64 bits"):
        context.log(a=1, step=step)
    assert news == []


def test_metrics_and_tags_may_be_dictionaries(news: list[Json]) -> None:
    context.log({"val/rmse": 0.5}, mae=1, step=2)
    context.tag({"data set": "march"})
    assert [(point["name"], point["step"]) for point in news[0]["metrics"]] == [("val/rmse", 2), ("mae", 2)]
    assert news[1] == {"type": "tags", "tags": {"data set": "march"}}
    with pytest.raises(UsageError, match=r"by their names, not float '0.5'. Write mlbench.log\(rmse=0.3\)"):
        context.log(0.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"mlbench\.tag takes"):
        context.tag("march")  # type: ignore[arg-type]


def test_half_of_a_character_in_a_name_stops_nothing(news: list[Json]) -> None:
    context.log(**{"a\ud800": 1})
    context.tag(team="\ud800")
    assert (news[0]["metrics"][0]["name"], news[1]["tags"]) == ("a?", {"team": "?"})


def test_what_cannot_be_shown_as_progress_is_refused_in_its_words(news: list[Json]) -> None:
    with pytest.raises(UsageError, match=r"mlbench\.progress: done must be a number"):
        context.progress("half")  # type: ignore[arg-type]


def test_a_notebook_without_the_extension_is_told_that_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    with pytest.warns(UserWarning, match="has not run `%load_ext mlbench`"):
        context.log(a=1)
    with pytest.warns(UserWarning, match="has not run `%load_ext mlbench`"):
        context.log_artifact("report.html")


def test_tags_and_progress_are_told(news: list[Json]) -> None:
    context.tag(team="ops", year=2026)
    context.progress(1, 4)
    context.progress(2)
    assert news == [
        {"type": "tags", "tags": {"team": "ops", "year": "2026"}},
        {"type": "progress", "done": 1.0, "total": 4.0},
        {"type": "progress", "done": 2.0, "total": None},
    ]


def test_where_code_runs_is_known(news: list[Json]) -> None:
    assert (context.context().step, context.context().attempt, context.context().item) == ("train", 2, None)


def test_outside_of_a_notebook_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    context.log(a=1)
    context.tag(a=1)
    assert context.current().run is None
