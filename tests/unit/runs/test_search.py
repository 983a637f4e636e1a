"""Queries: what they mean, and where one that cannot be read is to blame."""

from __future__ import annotations

import base64
import math
import pickle
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.core.errors import QueryError, UsageError
from mlbench.core.queries import And, Column, Comparison, Name, Not, Or, Place, Sort
from mlbench.core.records import Run
from mlbench.runs.search import (
    comparable,
    completions,
    fits,
    parse,
    parse_sort,
    read_place,
    searched,
    sort_value,
    write_place,
)

RUN: dict[str, Any] = {
    "id": "a" * 26,
    "state": "succeeded",
    "name": "flights",
    "started": 1_000_000_000,
    "duration": 90.0,
    "params": {"origin": "JFK", "trees": 200, "rate": 0.5, "on": True, "none": None, "list": [1]},
    "metrics": {"rmse": 11.5, "lost": math.nan, "far": math.inf},
    "tags": {"team": "ops"},
}

STATE = Comparison(Column("state"), "=", "failed")
RMSE = Comparison(Name("metrics", "rmse"), "<", 12.0)
JFK = Comparison(Name("params", "origin"), "=", "JFK")


def test_and_binds_closer_than_or_and_parentheses_closer_than_both() -> None:
    assert parse("state = 'failed' or metrics.rmse < 12 and params.origin = 'JFK'") == Or((STATE, And((RMSE, JFK))))
    assert parse("(state = 'failed' or metrics.rmse < 12) and params.origin = 'JFK'") == And((Or((STATE, RMSE)), JFK))
    assert parse("not state = 'failed' AND NOT (metrics.rmse < 12)") == And((Not(STATE), Not(RMSE)))
    assert parse("  ") is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("params.learning-rate = 1", "learning-rate"),
        ("parameters.a.b = 1", "a.b"),
        ("params.`a b` = 1", "a b"),
        ('params."a.b" = 1', "a.b"),
        ("params.`it's` = 1", "it's"),
        ("params.größe = 1", "größe"),
        ("params.in = 1", "in"),
    ],
)
def test_a_name_that_is_no_word_goes_into_quotation_marks(text: str, name: str) -> None:
    assert parse(text) == Comparison(Name("params", name), "=", 1.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'JFK'", "JFK"),
        ('"JFK"', "JFK"),
        ("'it''s'", "it's"),
        (r"'it\'s'", "it's"),
        (r"'a\\b'", "a\\b"),
        (r"'100\%'", r"100\%"),
        ("'two\nlines'", "two\nlines"),
        ("'; drop table runs; --'", "; drop table runs; --"),
        ("''", ""),
        ("-1.5e3", -1500.0),
        (".5", 0.5),
        ("TRUE", True),
        ("none", None),
        ("90m", 5400.0),
        ("'2026-11-09'", "2026-11-09"),
    ],
)
def test_a_value_is_read_as_it_is_written(text: str, value: object) -> None:
    found = parse(f"params.x = {text}")
    assert isinstance(found, Comparison)
    assert found.value == value
    assert type(found.value) is type(value)


def test_a_time_is_read_in_its_zone_and_a_duration_with_its_units() -> None:
    nine = int(datetime(2026, 11, 9, 9, tzinfo=UTC).timestamp()) * 10**9
    for text in ("2026-11-09T10:00+01:00", "'2026-11-09 09:00Z'", "2026-11-09T09:00:00.000000Z"):
        assert parse(f"started >= {text}") == Comparison(Column("started"), ">=", nine)
    midnight = int(datetime(2026, 11, 9).astimezone().timestamp()) * 10**9
    assert parse("ended < 2026-11-09") == Comparison(Column("ended"), "<", midnight)
    assert parse("duration > 1h30m") == parse("duration > 5400") == parse("duration > '90m'")
    assert parse("duration > 250ms") == Comparison(Column("duration"), ">", 0.25)


@pytest.mark.parametrize(
    "text",
    [
        "metrics.rmse < 12 and params.origin = 'JFK' and state = 'succeeded'",
        "params.origin in ('LGA', 'JFK') and params.origin not in ('EWR')",
        "params.trees = 200 and params.trees >= 200 and params.rate != 1",
        "params.on = true and params.on != false and params.on != 1",
        "params.none = none and params.nowhere = none and params.trees != none",
        "not params.nowhere = 'x' and not params.nowhere != 'x' and not params.nowhere < 1",
        "params.list != none and params.list != 'x' and not params.list = 1",
        "params.trees != 'x' and not params.trees > '1' and not params.origin > 1",
        "metrics.lost = none and not metrics.lost != 3 and metrics.far > 1e300",
        "tags.team like 'o%' and name like 'fl_ghts' and not name like 'FL%' and name ilike 'FL%'",
        r"not name like 'fl\_ghts' and name like '%' and name like '%s' and not name like '%t'",
        "duration > 1m and duration < 2m",
    ],
)
def test_what_is_true_of_a_run(text: str) -> None:
    query = parse(text)
    assert isinstance(query, And)
    assert [part for part in query.parts if not fits(part, RUN)] == []


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("stat = 'failed'", 0, "did you mean state?"),
        ("state = 'failed' and metric.rmse < 1", 21, "did you mean metrics?"),
        ("metrics < 1", 8, "metrics.NAME"),
        ("metrics. < 1", 9, "name of a parameter"),
        ("state", 5, "comparison is missing"),
        ("state = ", 7, "value is missing"),
        ("state = failed", 8, "quotation marks: 'failed'"),
        ("state = 'failed", 8, "left open"),
        (
            "state = 'finished'",
            8,
            "There is no state 'finished': there are queued, running, succeeded, failed, cancelled,",
        ),
        ("not kind in ('job', 'batch')", 20, "There is no kind 'batch': there are interactive, papermill, job."),
        ("state = 3", 8, "state is compared with a text"),
        ("metrics.rmse < 'low'", 15, "metrics.rmse is compared with a number"),
        ("metrics.rmse < 90m", 15, "metrics.rmse is compared with a number"),
        ("metrics.rmse = true", 15, "compared with a number"),
        ("tags.team = 3", 12, "compared with a text"),
        ("started > 'yesterday'", 10, "compared with a time"),
        ("started > 9999-01-01", 10, "compared with a time"),
        ("started > 2026-13-01", 10, "compared with a time"),
        ("started > 12", 10, "compared with a time"),
        ("duration > 'long'", 11, "such as 90s"),
        ("params.x < none", 11, "only be compared by = and !="),
        ("params.x in ('a', none)", 18, "only be compared by = and !="),
        ("params.x like 5", 14, "compares a text"),
        ("started like '2026%'", 13, "compared with a time"),
        ("metrics.rmse like '1%'", 18, "compared with a number"),
        ("(state = 'failed'", 17, "`)` is missing"),
        ("state = 'failed')", 16, "`and` or an `or`"),
        ("name = 'a' state = 'failed'", 11, "`and` or an `or`"),
        ("user = 'a' and", 14, "name is missing"),
        ("params.x not like 'a'", 13, "only be `in"),
        ("params.x in 'a'", 12, "`(` is missing"),
        ("params.x = 1e999", 11, "too large"),
        ("params.x = 12abc", 11, "no number"),
        ("state = 'a'; drop table runs", 11, "no meaning"),
        ("__class__ = 'a'", 0, "nothing that a run has"),
        ("name = 'a\0b'", 9, "cannot be looked for"),
        ("name = '\ud800'", 8, "cannot be looked for"),
        ("(" * 60 + "name = 'a'" + ")" * 60, 50, "at most 50 deep"),
        ("not " * 60 + "name = 'a'", 200, "at most 50 deep"),
        ("x" * 10_001, 10_000, "at most 10,000 characters"),
        (" or ".join(["id = 'a'"] * 201), 2400, "at most 200 comparisons"),
        ("params.x in (" + ",".join("1" * 201) + ")", 413, "at most 200 values"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_character(text: str, place: int, why: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert why in caught.value.message
    assert (caught.value.place, caught.value.query) == (place, text)


def test_the_mark_stands_under_the_character_that_is_to_blame() -> None:
    with pytest.raises(QueryError) as caught:
        parse("user = 'a' and " * 10 + "stat = 'b'")
    error = pickle.loads(pickle.dumps(caught.value))
    _, shown, mark = str(error).split("\n")
    assert shown[mark.index("^") :].startswith("stat = 'b'")
    assert len(shown) < 110


@given(st.text(st.sampled_from("abmetricsparans.=<>!'\"`()%_,- \\09\0\n\ud800é٣+∞"), max_size=60) | st.text())
def test_whatever_is_written_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        fits(parse(text), RUN)
        parse_sort(text)
    except UsageError as error:
        assert str(error)  # noqa: PT017  (that it may be raised is all that is known)


_WORDS = ["metrics.rmse", "params.x", "state", "started", "duration", "=", "<", "like", "in", "(", ")", ",", "not"]


@given(st.lists(st.sampled_from([*_WORDS, "and", "or", "'a%'", "1", "1h", "2026-11-09", "none", "true"]), max_size=12))
def test_words_in_any_order_are_read_or_refused(words: list[str]) -> None:
    try:
        fits(parse(" ".join(words)), RUN)
    except QueryError as error:
        assert 0 <= error.place <= len(error.query)  # noqa: PT017


@given(st.text("ab%_\\", max_size=8), st.text("abAB%_\\", max_size=8))
def test_a_pattern_means_what_its_regular_expression_means(pattern: str, text: str) -> None:
    expression = ""
    for part in re.findall(r"\\.|.", pattern):
        expression += {"%": ".*", "_": "."}.get(part) or re.escape(part[1:] if len(part) == 2 else part)
    expected = re.fullmatch(expression, text, re.DOTALL) is not None
    assert fits(Comparison(Column("name"), "like", pattern), {"name": text}) is expected


def test_no_pattern_takes_long() -> None:
    began = time.process_time()
    assert not fits(Comparison(Column("name"), "like", "%a" * 200 + "b"), {"name": "a" * 5_000})
    assert time.process_time() - began < 5


def test_what_to_sort_by_is_a_name_with_a_minus_for_the_greatest_first() -> None:
    assert parse_sort(" -metrics.rmse") == Sort(Name("metrics", "rmse"), descending=True)
    assert parse_sort("started") == Sort(Column("started"))
    for text in ("", "-", "__class__", "state state", "metrics.rmse desc", "1"):
        with pytest.raises(QueryError):
            parse_sort(text)


def test_what_a_run_is_sorted_by_is_a_number_or_a_text() -> None:
    found = [sort_value(parse_sort(f"params.{name}"), RUN) for name in ("trees", "origin", "on", "none", "list", "no")]
    assert found == [200.0, "JFK", None, None, None, None]
    assert sort_value(parse_sort("metrics.lost"), RUN) is None
    assert comparable(10**400) == ()


def test_what_is_completed_can_be_read() -> None:
    strange = ["a b", "it`s", 'both ` and "', "back\\slash`", "learning-rate", "été", "a.b", "2x", "in"]
    for name, completed in zip(strange, completions("params.", lambda *_: strange), strict=True):
        assert parse(f"{completed} = 1") == Comparison(Name("params", name), "=", 1.0)
    assert completions("", lambda *_: strange)[-3:] == ["params.", "metrics.", "tags."]
    assert completions("params.`a", lambda _, prefix: [f"{prefix} b"]) == ["params.`a b`"]
    for nothing in ("nowhere.x", "params.\0", "params.\ud800", "params." + "x" * 20_000):
        assert completions(nothing, lambda *_: strange) == []


def test_a_runs_columns_are_there_to_be_searched() -> None:
    run = Run(id="a" * 26, kind="job", state="failed", name="x", started=5, ended=2_000_000_005, tags={"a": "b"})  # type: ignore[arg-type]
    assert fits(parse("duration = 2s and kind = 'job' and tags.a = 'b' and metrics.m = 1"), searched(run, {"m": 1.0}))


@pytest.mark.parametrize("value", [None, 0.1, math.inf, -3.0, 7, "", "it's é", "n"])
def test_a_place_comes_back_as_it_was(value: str | float | None) -> None:
    place = Place(value, -5, "a" * 26)  # type: ignore[arg-type]
    read = read_place(write_place(place))
    assert read == place
    assert type(read.value) is type(value)


@given(st.text() | st.binary().map(lambda some: base64.urlsafe_b64encode(some).decode()))
def test_a_forged_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_place(text)


@pytest.mark.parametrize(
    "forged",
    [
        '["f","nan",1,"{id}"]',
        '["i","99999999999999999999",1,"{id}"]',
        '["t","\\u0000",1,"{id}"]',
        '["t","\\ud800",1,"{id}"]',
        '["t",5,1,"{id}"]',
        '["f","1",1e5,"{id}"]',
        '["f","1",true,"{id}"]',
        '["f","1",99999999999999999999,"{id}"]',
        '["f","1",1,"\' or 1=1 --"]',
        '["x","1",1,"{id}"]',
        '[["f"],"1",1,"{id}"]',
        "[" * 100_000,
    ],
)
def test_a_place_of_the_right_form_with_wrong_parts_is_refused(forged: str) -> None:
    with pytest.raises(UsageError):
        read_place(base64.urlsafe_b64encode(forged.replace("{id}", "a" * 26).encode()).decode())
