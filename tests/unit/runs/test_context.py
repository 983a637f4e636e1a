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


def test_outside_of_a_notebook_nothing_happens() -> None:
    context.log(a=1)
    context.tag(a=1)
    assert context.current().run is None
