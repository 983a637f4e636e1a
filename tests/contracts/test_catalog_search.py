"""What every `Catalog` promises of a search: what a query means, in which order runs come, page by page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbench.core.errors import UsageError
from mlbench.core.ids import JobId, NotebookId, RunId, new_id
from mlbench.core.ports import Catalog
from mlbench.core.queries import And, Column, Comparison, Name, Not, Or, Place, Query, Sort
from mlbench.core.records import Execution, Metric, Run
from mlbench.runs.search import fits, parse, parse_sort, searched, sort_value


def a_run(**more: Any) -> Run:
    given: dict[str, Any] = {
        "id": new_id(),
        "kind": "papermill",
        "state": "succeeded",
        "name": "flights",
        "started": 10,
    }
    return Run(**(given | more))


def a_step(run: Run, *metrics: Metric, **more: Any) -> Execution:
    given: dict[str, Any] = {"id": new_id(), "run": run.id, "step": "train", "state": "succeeded", "started": 11}
    return Execution(**(given | {"metrics": metrics} | more))


def names(catalog: Catalog, query: str = "", sort: str | None = None, **more: Any) -> str:
    page = catalog.search(parse(query), sort=parse_sort(sort) if sort is not None else None, **more)
    return " ".join(run.name for run in page.runs)


def put(catalog: Catalog, *runs: Run) -> None:
    catalog.put_runs(runs)


# --- what is found ----------------------------------------------------------------------------------------------------


def test_runs_are_found_by_parameters_metrics_tags_and_columns_newest_first(catalog: Catalog) -> None:
    put(
        catalog,
        a_run(name="a", started=1, parameters={"origin": "JFK", "n": 1}, metrics=(Metric(name="rmse", value=11),)),
        a_run(name="b", started=2, parameters={"origin": "LGA", "n": 2.5}, metrics=(Metric(name="rmse", value=13),)),
        a_run(name="c", started=3, parameters={"origin": "JFK", "n": "x"}, state="failed", ended=5 * 10**9 + 3),
        a_run(name="d", started=4, tags={"team": "ops"}, user="me", job=JobId(new_id()), job_version=3, reason="error"),
    )
    assert names(catalog) == "d c b a"
    assert names(catalog, "metrics.rmse < 12 and params.origin = 'JFK' and state = 'succeeded'") == "a"
    assert names(catalog, "params.origin = 'JFK' or tags.team = 'ops'") == "d c a"
    assert names(catalog, "params.n >= 1 and not params.n = 2.5") == "a"
    assert names(catalog, "not params.n > 1") == "d c a"
    assert names(catalog, "params.n != 1") == "c b"
    assert names(catalog, "params.n = none") == "d"
    assert names(catalog, "job_version > 2.5 and user = 'me' and reason in ('error', 'memory')") == "d"
    assert names(catalog, "duration = 5s") == "c"
    assert names(catalog, "ended = none and params.origin not in ('LGA')") == "d a"
    assert catalog.count_runs(parse("params.origin = 'JFK'")) == 2


def test_the_last_value_of_a_metric_of_a_run_and_its_steps_counts_and_those_of_items_do_not(catalog: Catalog) -> None:
    run = a_run(name="a", metrics=(Metric(name="rmse", value=1, time=5),))
    step = a_step(run, Metric(name="rmse", value=2, time=6), Metric(name="loss", value=3, time=1))
    catalog.put_execution(step)  # before its run, as when records are indexed anew
    put(catalog, run, a_run(name="b", metrics=(Metric(name="rmse", value=1.5),)))
    item = a_step(run, Metric(name="rmse", value=0, time=9), Metric(name="of_item", value=1), part_of=step.id, item=0)
    catalog.put_executions([item])
    assert names(catalog, "metrics.rmse = 2 and metrics.loss = 3 and metrics.of_item = none") == "a"
    assert names(catalog, sort="metrics.rmse") == "b a"
    catalog.put_execution(replace(step, metrics=(Metric(name="loss", value=4, time=7),)))
    assert names(catalog, sort="metrics.rmse") == "a b"
    assert names(catalog, "metrics.loss = 4") == "a"
    catalog.put_execution(replace(step, metrics=()))
    put(catalog, replace(run, metrics=()))
    assert names(catalog, "metrics.rmse = none and metrics.loss = none") == "a"


def test_a_truth_value_is_no_number_and_a_text_is_none_either(catalog: Catalog) -> None:
    values = {"true": True, "one": 1, "text": "1", "none": None, "list": [1], "huge": 10**400}
    put(
        catalog, *(a_run(name=name, started=at, parameters={"x": one}) for at, (name, one) in enumerate(values.items()))
    )
    assert names(catalog, "params.x = true") == "true"
    assert names(catalog, "params.x = 1") == "one"
    assert names(catalog, "params.x = '1'") == "text"
    assert names(catalog, "params.x in (1, true, '1')") == "text one true"
    assert names(catalog, "params.x = none") == "none"
    assert names(catalog, "params.x != none and params.x != 1") == "huge list text true"
    assert names(catalog, "params.x > 0") == "one"
    assert names(catalog, "params.x > ''") == "text"


def test_what_is_no_number_counts_as_not_there_and_infinity_as_the_greatest(catalog: Catalog) -> None:
    for name, value in (("nan", math.nan), ("inf", math.inf), ("low", -math.inf), ("one", 1.0)):
        put(catalog, a_run(name=name, metrics=(Metric(name="loss", value=value),)))
    assert names(catalog, sort="metrics.loss") == "low one inf nan"
    assert names(catalog, sort="-metrics.loss") == "inf one low nan"
    assert names(catalog, "metrics.loss = none") == "nan"
    assert names(catalog, "metrics.loss > 5") == "inf"


def test_a_pattern_is_taken_by_its_letters_and_by_nothing_else(catalog: Catalog) -> None:
    them = ["100%", "100x", "a_b", "aXb", "A_B", "[ab]", "a*b", "a?b", "'; drop table runs; --", "back\\slash", "", "É"]
    put(catalog, *(a_run(name=one, started=at, tags={"t": one}) for at, one in enumerate(them)))

    def found(query: str) -> list[str]:
        return [run.name for run in reversed(catalog.search(parse(query)).runs)]

    assert found(r"tags.t like '100\%'") == ["100%"]
    assert found("tags.t like '100_'") == ["100%", "100x"]
    assert found(r"name like 'a\_b'") == ["a_b"]
    assert found("tags.t like 'a_b'") == ["a_b", "aXb", "a*b", "a?b"]
    assert found("name ilike 'A_B'") == ["a_b", "aXb", "A_B", "a*b", "a?b"]
    assert found("tags.t like '[ab]'") == ["[ab]"]
    assert found("tags.t like 'a*b'") == ["a*b"]
    assert found("tags.t = '''; drop table runs; --'") == ["'; drop table runs; --"]
    assert found(r"tags.t like '%\\\\%'") == ["back\\slash"]
    assert found("tags.t = ''") == [""]
    assert len(found("tags.t like '%'")) == len(them)
    assert catalog.count_runs() == len(them)


def test_hostile_names_are_names(catalog: Catalog) -> None:
    strange = "x' OR '1'='1"
    put(
        catalog, a_run(name="a", parameters={strange: 1}, tags={strange: "t"}, metrics=(Metric(name=strange, value=1),))
    )
    put(catalog, a_run(name="b"))
    for space in ("params", "metrics", "tags"):
        assert names(catalog, f"{space}.`{strange}` != none") == "a"
        assert names(catalog, sort=f"{space}.`{strange}`") == "a b"
        assert catalog.names_in_use(space, "x'") == [strange]


# --- order and pages --------------------------------------------------------------------------------------------------


def test_what_a_run_does_not_have_comes_last_and_of_equals_the_newest_first(catalog: Catalog) -> None:
    for at, (name, value) in enumerate((("none", None), ("low", 1), ("old", 2), ("new", 2), ("nothing", None))):
        metrics = () if value is None else (Metric(name="rmse", value=value),)
        put(catalog, a_run(name=name, started=at, metrics=metrics))
    assert names(catalog, sort="metrics.rmse") == "low new old nothing none"
    assert names(catalog, sort="-metrics.rmse") == "new old low nothing none"
    assert names(catalog, sort="started") == "none low old new nothing"
    assert names(catalog, sort="-started") == "nothing new old low none"


def test_numbers_come_before_texts(catalog: Catalog) -> None:
    values: dict[str, Any] = {"b": "b", "two": 2, "B": "B", "ten": 10, "list": [1], "é": "é"}
    put(
        catalog, *(a_run(name=name, started=at, parameters={"x": one}) for at, (name, one) in enumerate(values.items()))
    )
    put(catalog, a_run(name="without", started=-1))
    assert names(catalog, sort="params.x") == "two ten B b é list without"
    assert names(catalog, sort="-params.x") == "é b B ten two list without"


def test_a_run_that_begins_anew_keeps_its_place_among_equals(catalog: Catalog) -> None:
    metric = (Metric(name="rmse", value=1),)
    first, second = (a_run(name=name, started=at, metrics=metric) for at, name in enumerate("ab"))
    step = a_step(first, Metric(name="auc", value=1))
    put(catalog, first, second)
    catalog.put_execution(step)
    catalog.put_execution(a_step(second, Metric(name="auc", value=1)))
    put(catalog, replace(first, started=5))
    assert names(catalog, sort="metrics.rmse") == names(catalog, sort="metrics.auc") == "a b"


def test_runs_of_a_notebook_a_job_and_under_way_are_searched(catalog: Catalog) -> None:
    identity, job = NotebookId(new_id()), JobId(new_id())
    put(catalog, a_run(name="a", started=1, notebook="/n.ipynb", notebook_id=identity))
    put(catalog, a_run(name="b", started=2, notebook="/n.ipynb", state="running"))
    put(catalog, a_run(name="c", started=3, notebook="/o.ipynb", job=job, state="running"))
    of: dict[str, Any] = {"notebook": "/n.ipynb", "notebook_id": identity}
    for sort in (None, "-started", "name", "metrics.x"):
        assert sorted(names(catalog, sort=sort, **of)) == [" ", "a", "b"]
        assert names(catalog, "state = 'running'", sort, **of) == "b"
        assert names(catalog, sort=sort, job=job) == "c"
        assert sorted(names(catalog, sort=sort, under_way=True)) == [" ", "b", "c"]
    assert catalog.count_runs(parse("state = 'running'"), **of) == 1


def test_a_place_of_another_list_is_refused(catalog: Catalog) -> None:
    put(catalog, a_run(metrics=(Metric(name="rmse", value=1),), tags={"t": "x"}))
    there = RunId("a" * 26)
    for sort, value in (("metrics.rmse", "x"), ("tags.t", 1.0), ("started", "x"), ("state", 2), (None, 1.0)):
        with pytest.raises(UsageError, match="no place"):
            catalog.search(sort=parse_sort(sort) if sort else None, after=Place(value, 1, there))
    forged = Place("'; drop table runs; --", 1, RunId("' or '1'='1"))
    catalog.search(sort=parse_sort("-params.x"), after=forged)
    assert catalog.count_runs() == 1


def test_names_in_use_are_completed_in_order(catalog: Catalog) -> None:
    put(catalog, a_run(parameters={"rate": 1, "Rate": 2, "ra%e": 3, "trees": 4, "ra": 5}, tags={"team": "a"}))
    run = a_run(metrics=(Metric(name="rmse", value=1),), parameters={"rate": 7, "été": 1})
    put(catalog, run)
    catalog.put_executions([a_step(run, Metric(name="rate_mse", value=1))])
    catalog.put_executions([a_step(run, Metric(name="of_item", value=1), part_of=new_id(), item=0)])
    assert catalog.names_in_use("params") == ["Rate", "ra", "ra%e", "rate", "trees", "été"]
    assert catalog.names_in_use("params", "ra") == ["ra", "ra%e", "rate"]
    assert catalog.names_in_use("params", "ra", limit=1) == ["ra"]
    assert catalog.names_in_use("params", "ra%") == ["ra%e"]
    assert catalog.names_in_use("metrics", "r") == ["rate_mse", "rmse"]
    assert catalog.names_in_use("tags", "x") == []


# --- the same as `fits` -----------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", "a", "b", "ab", "B", "a_b", "%", "é", "10"])
NUMBERS = st.sampled_from([-1.5, 0.0, 1.0, 2.0, 10.0, 1e300])
VALUES = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none(), st.just([1]), st.integers(-2, 2))
NAMES = st.sampled_from(["x", "y"])
FIELDS = st.one_of(
    st.builds(Column, st.sampled_from(["state", "name", "user", "started", "ended", "duration", "job_version"])),
    st.builds(Name, st.sampled_from(["params", "metrics", "tags"]), NAMES),
)
SORTS = st.none() | st.builds(Sort, FIELDS, descending=st.booleans())


@st.composite
def comparisons(draw: st.DrawFn) -> Query:
    field = draw(FIELDS)
    of_text = field in {Column("state"), Column("name"), Column("user")} or getattr(field, "space", "") == "tags"
    of_number = not of_text and getattr(field, "space", "") != "params"
    values = TEXTS if of_text else NUMBERS if of_number else st.one_of(TEXTS, NUMBERS)
    operator: Any = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "like", "ilike"]))
    value: Any = draw(values)
    if operator == "in":
        value = tuple(draw(st.lists(st.booleans() | values if not (of_text or of_number) else values, min_size=1)))
    elif operator in {"like", "ilike"}:
        operator, value = (operator, draw(TEXTS)) if not of_number else ("=", value)
    elif operator in {"=", "!="}:
        value = draw(st.none() | st.just(value) | (st.nothing() if of_text or of_number else st.booleans()))
    return Comparison(field, operator, value)


QUERIES = st.none() | st.recursive(
    comparisons(),
    lambda below: st.one_of(
        st.builds(And, st.lists(below, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(below, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, below),
    ),
    max_leaves=4,
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    started = draw(st.integers(0, 3))
    return a_run(
        state=draw(st.sampled_from(["succeeded", "failed"])),
        name=draw(TEXTS),
        user=draw(st.none() | TEXTS),
        started=started,
        ended=draw(st.none() | st.sampled_from([started + 10**9, started + 2 * 10**9])),
        job_version=draw(st.none() | st.integers(0, 2)),
        parameters=draw(st.dictionaries(NAMES, VALUES)),
        tags=draw(st.dictionaries(NAMES, TEXTS)),
        metrics=tuple(
            Metric(name=name, value=value, time=time)
            for time, (name, value) in enumerate(
                draw(st.lists(st.tuples(NAMES, NUMBERS | st.just(math.nan)), max_size=3))
            )
        ),
    )


@pytest.fixture
def fresh(catalog: Catalog, request: pytest.FixtureRequest) -> Callable[[], Catalog]:
    """Return a function that returns the catalog without what the example before has put into it."""
    from sqlalchemy import delete

    from mlbench.backends.catalog_sql import tables
    from mlbench.backends.memory import MemoryCatalog

    def empty() -> Catalog:
        if isinstance(catalog, MemoryCatalog):
            return MemoryCatalog()
        with catalog._writing() as connection:  # type: ignore[attr-defined]
            for table in (
                tables.runs,
                tables.params,
                tables.tags,
                tables.metrics,
                tables.run_metrics,
                tables.executions,
            ):
                connection.execute(delete(table))
        return catalog

    return empty


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(them=st.lists(runs(), max_size=8), query=QUERIES, sort=SORTS, limit=st.integers(1, 3))
def test_all_pages_together_are_what_fits_in_its_order(
    fresh: Callable[[], Catalog], them: list[Run], query: Query | None, sort: Sort | None, limit: int
) -> None:
    catalog = fresh()
    put(catalog, *them)
    about = {run.id: searched(run, {metric.name: metric.value for metric in run.metrics}) for run in them}
    wanted = [run for run in them if fits(query, about[run.id])]
    wanted.sort(key=lambda run: (run.started, run.id), reverse=True)
    if sort is not None:
        values = {run.id: sort_value(sort, about[run.id]) for run in wanted}
        having = [run for run in wanted if values[run.id] is not None]
        having.sort(key=lambda run: (isinstance(values[run.id], str), values[run.id]), reverse=sort.descending)
        wanted = having + [run for run in wanted if values[run.id] is None]
    found: list[Run] = []
    after: Place | None = None
    while True:
        page = catalog.search(query, sort=sort, limit=limit, after=after)
        found += page.runs
        assert len(page.runs) <= limit
        if page.next is None:
            break
        assert len(page.runs) == limit
        after = page.next
    assert [run.id for run in found] == [run.id for run in wanted]
    assert catalog.count_runs(query) == len(wanted)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        st.tuples(
            st.sampled_from(["run", "train", "test", "item"]),
            st.lists(st.tuples(NAMES, st.integers(0, 9)), max_size=2),
            st.sampled_from(["running", "succeeded"]),
        ),
        max_size=8,
    )
)
def test_the_last_value_of_each_metric_follows_whatever_is_put(
    fresh: Callable[[], Catalog], words: list[tuple[str, list[tuple[str, int]], str]]
) -> None:
    catalog = fresh()
    run = a_run(kind="interactive", started=0)
    ids = {one: new_id() for one in ("train", "test", "item")}
    for at, (who, logged, state) in enumerate(words):
        metrics = tuple(
            Metric(name=name, value=value, time=10 * at + place) for place, (name, value) in enumerate(logged)
        )
        if who == "run":
            catalog.put_run(replace(run, state=state, started=at, metrics=metrics))  # type: ignore[arg-type]
        else:
            part_of = {"part_of": ids["train"], "item": 0} if who == "item" else {}
            catalog.put_execution(a_step(run, *metrics, id=ids[who], state=state, **part_of))
    catalog.put_run(replace(run, started=99))
    last = {metric.name: metric.value for metric in catalog.metrics([run.id]).get(run.id, ())}
    for name in ("x", "y"):
        assert catalog.count_runs(Comparison(Name("metrics", name), "=", last.get(name))) == 1
        assert catalog.search(sort=Sort(Name("metrics", name))).runs[0].started == 99
    assert catalog.names_in_use("metrics") == sorted(last)
