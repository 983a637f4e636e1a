"""What every `Catalog` promises."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, ExecutionId, JobId, NotebookId, RunId, new_id
from mlbench.core.ports import Catalog
from mlbench.core.queries import Name, Signers, Sort
from mlbench.core.records import (
    Artifact,
    Binding,
    Execution,
    Failure,
    FanOut,
    Firing,
    Job,
    JobVersion,
    Metric,
    Read,
    Run,
    Snapshot,
)
from mlbench.runs.itemrecords import EndedItem

SOME = Digest("blake3:" + "a" * 64)


def a_run(**more: Any) -> Run:
    given: dict[str, Any] = {"id": new_id(), "kind": "papermill", "state": "running", "name": "flights", "started": 10}
    return Run(**(given | more))


def an_execution(run: Run, **more: Any) -> Execution:
    given: dict[str, Any] = {"id": new_id(), "run": run.id, "step": "train", "state": "succeeded", "started": 11}
    return Execution(**(given | more))


def a_job(**more: Any) -> Job:
    version = JobVersion(number=1, snapshot=SOME)
    given: dict[str, Any] = {"id": new_id(), "name": "nightly", "notebook": "/n.ipynb", "version": version}
    return Job(**(given | {"next_due": 100} | more))


# --- what is forgotten ------------------------------------------------------------------------------------------------


def test_runs_that_have_ended_are_forgotten_with_all_that_they_did(catalog: Catalog) -> None:
    gone = a_run(state="succeeded", parameters={"a": 1}, tags={"team": "ops"})
    kept, open_run = a_run(state="succeeded"), a_run()
    metric = Metric(name="rmse", value=0.5)
    for run in (gone, kept, open_run):
        catalog.put_run(run)
        catalog.put_execution(an_execution(run, metrics=(metric,), key="k"))
    step = an_execution(gone, binds=(a_binding("flights", "a"),))
    catalog.put_executions([step, an_execution(gone, part_of=step.id, item=0)])
    before = catalog.version()
    catalog.delete_runs([gone.id, open_run.id, RunId(new_id())])
    catalog.delete_runs([])
    assert catalog.version() != before
    assert {run.id for run in catalog.runs()} == {kept.id, open_run.id}
    assert catalog.executions(gone.id) == []
    assert catalog.count_items(step.id) == {}
    assert len(catalog.candidates("k")) == 2
    assert list(catalog.metrics([gone.id, kept.id])) == [kept.id]
    assert {run.id for run in catalog.search(sort=Sort(Name("metrics", "rmse"))).runs} == {kept.id, open_run.id}
    assert catalog.names_in_use("params") == catalog.names_in_use("tags") == []
    assert catalog.makers([a_digest("a")]) == []
    with pytest.raises(NotFound):
        catalog.run(gone.id)


def test_a_run_that_was_met_is_not_forgotten_by_who_asks_for_those_met_before(catalog: Catalog) -> None:
    met, old, open_run, unknown = a_run(state="succeeded"), a_run(state="succeeded"), a_run(), RunId(new_id())
    for run in (met, old, open_run):
        catalog.put_run(run)
    assert catalog.meet_runs([old.id], 10**18) == {old.id}
    assert catalog.meet_runs([met.id, open_run.id, unknown], 2 * 10**18) == {met.id, open_run.id}
    catalog.put_run(replace(met, tags={"team": "ops"}, name="renamed"))
    them = [met.id, old.id, open_run.id, unknown]
    assert catalog.delete_runs(them, met_before=15 * 10**17) == {met.id, open_run.id}
    assert catalog.meet_runs([old.id], 3 * 10**18) == set()
    assert catalog.met_since(2 * 10**18) == {met.id, open_run.id}
    assert catalog.met_since(2 * 10**18 + 1) == set()
    assert catalog.meet_runs([], 3 * 10**18) == set()
    assert catalog.delete_runs(them) == {open_run.id}
    assert [run.id for run in catalog.runs()] == [open_run.id]


def test_snapshots_are_forgotten(catalog: Catalog) -> None:
    catalog.put_snapshot(SOME, Snapshot(notebook=SOME))
    catalog.delete_snapshots([SOME])
    with pytest.raises(NotFound):
        catalog.snapshot(SOME)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_put(catalog: Catalog) -> None:
    run = a_run(
        parameters={"origin": "JFK", "trees": 200, "rate": 0.5, "on": True, "none": None, "list": [1, {"a": "é"}]},
        metrics=(Metric(name="rmse", value=0.25, step=3, time=9), Metric(name="loss", value=math.inf)),
        failure=Failure(ename="ValueError", evalue="no", traceback=("a", "b"), line=3),
        tags={"team": "ops"},
        snapshot=SOME,
        notebook_id=NotebookId(new_id()),
        due=2**40,
    )
    catalog.put_run(run)
    assert catalog.run(run.id) == run


def test_a_metric_that_is_no_number_comes_back_as_such(catalog: Catalog) -> None:
    run = a_run(metrics=(Metric(name="loss", value=math.nan, time=1), Metric(name="loss", value=-math.inf, time=2)))
    catalog.put_run(run)
    assert str(catalog.run(run.id).metrics) == str(run.metrics)
    assert [str(metric.value) for metric in catalog.metrics([run.id])[run.id]] == ["nan", "-inf"]


def test_a_unique_prefix_is_enough_and_another_one_names_what_fits(catalog: Catalog) -> None:
    one, other = a_run(id="abcd2" + "a" * 21), a_run(id="abcd3" + "a" * 21)
    catalog.put_run(one)
    catalog.put_run(other)
    assert catalog.run("abcd2") == one
    with pytest.raises(NotFound, match="abcd2aaa, abcd3aaa"):
        catalog.run("abcd")
    with pytest.raises(NotFound, match="no run abcd4"):
        catalog.run("abcd4")


@pytest.mark.parametrize("prefix", ["", "abc", "ABCD", "ab%d", "abc_", "../x", "abcd'; drop table runs; --", "a" * 27])
def test_what_is_no_prefix_of_an_id_finds_nothing(catalog: Catalog, prefix: str) -> None:
    catalog.put_run(a_run(id="abcd2" + "a" * 21))
    with pytest.raises(NotFound):
        catalog.run(prefix)
    with pytest.raises(NotFound):
        catalog.execution(prefix)
    with pytest.raises(NotFound):
        catalog.job(prefix)


def test_an_end_is_never_replaced_by_something_under_way(catalog: Catalog) -> None:
    for state in ("succeeded", "failed", "cancelled"):
        run = a_run(state=state, ended=12)
        execution = an_execution(run, state=state, ended=12)
        catalog.put_run(run)
        catalog.put_execution(execution)
        for late in ("queued", "running"):
            catalog.put_run(replace(run, state="running", ended=None, metrics=(Metric(name="a", value=1),)))
            catalog.put_execution(replace(execution, state=late, ended=None))
        assert catalog.run(run.id) == run
        assert catalog.execution(execution.id) == execution
        assert catalog.metrics([run.id]) == {}
        catalog.put_execution(replace(execution, note="a word more"))
        assert catalog.execution(execution.id).note == "a word more"


def test_an_interactive_run_goes_on_with_its_next_step(catalog: Catalog) -> None:
    run = a_run(kind="interactive", state="succeeded", ended=12)
    catalog.put_run(run)
    catalog.put_run(replace(run, state="running", ended=None))
    assert catalog.run(run.id).state == "running"


def test_runs_that_are_put_at_once_are_taken_one_after_the_other(catalog: Catalog) -> None:
    run, other = a_run(parameters={"n": 1}), a_run(started=9)
    ended = replace(run, state="succeeded", ended=12, parameters={"n": 2})
    catalog.put_runs([run, other, ended, replace(run, parameters={"n": 3})])
    assert catalog.runs() == [ended, other]
    catalog.put_runs([])


def test_runs_are_listed_newest_first_page_by_page(catalog: Catalog) -> None:
    runs = [a_run(started=10 + number // 3) for number in range(10)]
    for run in runs:
        catalog.put_run(run)
    expected = sorted(runs, key=lambda run: (run.started, run.id), reverse=True)
    listed: list[Run] = []
    before = None
    while page := catalog.runs(limit=4, before=before):
        assert len(page) <= 4
        listed += page
        before = (page[-1].started, page[-1].id)
    assert listed == expected
    assert catalog.count_runs() == 10


def test_runs_are_chosen_by_notebook_job_kernel_and_state(catalog: Catalog) -> None:
    identity, job = NotebookId(new_id()), JobId(new_id())
    one = a_run(notebook="/a.ipynb", notebook_id=identity, kernel="k", state="succeeded")
    other = a_run(notebook="/b.ipynb", job=job)
    for run in (one, other):
        catalog.put_run(run)
    assert catalog.runs(notebook="/a.ipynb") == catalog.runs(notebook_id=identity) == catalog.runs(kernel="k") == [one]
    assert catalog.runs(job=job) == catalog.runs(under_way=True) == [other]
    assert catalog.runs(notebook="/a.ipynb", under_way=True) == []
    assert catalog.count_runs(notebook="/a.ipynb") == catalog.count_runs(notebook_id=identity) == 1


# --- executions -------------------------------------------------------------------------------------------------------


def test_an_execution_comes_back_as_it_was_put_and_lists_do_without_messages(catalog: Catalog) -> None:
    run = a_run()
    artifact = Artifact(digest=SOME, size=3, type="list", codec="pickle", preview={"kind": "text", "text": "[1]"})
    execution = an_execution(
        run,
        cell="c1",
        position=3,
        binds=(Binding(name="model", artifact=artifact), Binding(name="np", module="numpy")),
        metrics=(Metric(name="rmse", value=0.5, time=3),),
        messages=({"output_type": "stream", "name": "stdout", "text": "é\n"},),
        parents=(ExecutionId(new_id()),),
    )
    catalog.put_execution(execution)
    assert catalog.execution(execution.id) == execution
    assert catalog.executions(run.id) == [replace(execution, messages=())]
    catalog.put_execution(replace(execution, messages=(), note="from a list"))
    assert catalog.execution(execution.id).messages == execution.messages


def test_executions_are_listed_in_the_order_of_their_cells(catalog: Catalog) -> None:
    run = a_run()
    them = [
        an_execution(run, step="late", position=9),
        an_execution(run, step="early", position=2, started=50),
        an_execution(run, step="again", position=5, started=99),
        an_execution(run, step="first", position=5),
        an_execution(run, step="nowhere", position=None),
    ]
    catalog.put_executions(them)
    catalog.put_execution(an_execution(a_run()))
    found = [one.step for one in catalog.executions(run.id)]
    assert found == ["early", "first", "again", "late", "nowhere"]


def test_metrics_of_a_run_are_its_own_and_those_of_its_executions_in_order(catalog: Catalog) -> None:
    run, other = a_run(metrics=(Metric(name="total", value=9, time=5),)), a_run()
    execution = an_execution(run, metrics=(Metric(name="loss", value=2, time=1), Metric(name="loss", value=1, time=7)))
    catalog.put_run(run)
    catalog.put_run(other)
    catalog.put_execution(execution)
    catalog.put_execution(execution)
    catalog.put_run(run)
    assert [metric.value for metric in catalog.metrics([run.id, other.id])[run.id]] == [2, 9, 1]
    assert other.id not in catalog.metrics([run.id, other.id])
    assert catalog.metrics([]) == {}


def test_what_is_under_way_is_found(catalog: Catalog) -> None:
    run = a_run()
    states = ("queued", "running", "succeeded", "reused", "skipped")
    them = [an_execution(run, state=state) for state in states]
    catalog.put_executions(them)
    assert {one.id for one in catalog.under_way()} == {them[0].id, them[1].id}
    catalog.put_execution(replace(them[1], state="failed", ended=3))
    assert [one.id for one in catalog.under_way()] == [them[0].id]


def test_of_executions_with_one_key_the_newest_that_succeeded_are_candidates(catalog: Catalog) -> None:
    run = a_run()
    said = ({"output_type": "stream", "name": "stdout", "text": "x"},)
    old = an_execution(run, key="k", started=5, messages=said)
    new = an_execution(run, key="k", started=None, queued=9)
    failed = an_execution(run, key="k", state="failed", started=20)
    reused = an_execution(run, key="k", state="reused", started=30, reused_from=new.id)
    other = an_execution(run, key="k2", started=20)
    catalog.put_executions([new, old, failed, reused, other, an_execution(run, started=50)])
    assert catalog.candidates("k") == [new, replace(old, messages=())]
    assert catalog.candidates("k", limit=1) == [new]
    assert catalog.candidates("nobody's") == []
    assert catalog.by_keys(["k", "k2", "nobody's", "k"]) == {"k": [reused], "k2": [other]}
    assert catalog.by_keys(["k", "k2"], limit=2) == {"k": [reused, new], "k2": [other]}
    assert catalog.by_keys([]) == {}


def test_thousands_of_keys_are_looked_for_at_once(catalog: Catalog) -> None:
    run = a_run()
    them = [an_execution(run, key=f"k{number}", started=number) for number in range(1200)]
    catalog.put_executions(them)
    assert catalog.by_keys([f"k{number}" for number in range(2400)]) == {one.key: [one] for one in them}


def signed(name: str, key: str | None) -> Binding:
    signature = f"{key}.{new_id()}.{'0' * 32}" if key is not None else None
    return Binding(name=name, artifact=Artifact(digest=SOME, size=1, type="C", codec="pickle", signature=signature))


def test_what_others_have_signed_does_not_stand_before_what_one_is_looking_for(catalog: Catalog) -> None:
    mine, bobs, eves = ((user, a_run(user=user, state="succeeded")) for user in ("ada", "bob", "eve"))
    for _, run in (mine, bobs, eves):
        catalog.put_run(run)
    own = an_execution(mine[1], key="k", started=1, binds=(signed("x", "aa"),))
    theirs = an_execution(bobs[1], key="k", started=2, binds=(signed("x", "bb"), signed("y", None)))
    later = [an_execution(eves[1], key="k", started=3 + n, binds=(signed("x", "ee"),)) for n in range(20)]
    item = an_execution(eves[1], key="k2", started=99, part_of=later[0].id, item=0, binds=(signed("x", "ee"),))
    unsigned = an_execution(bobs[1], key="k3", binds=(signed("x", None),))
    catalog.put_executions([own, theirs, unsigned])
    catalog.put_items([EndedItem.of(one) for one in (*(replace(one, part_of=own.id, item=0) for one in later), item)])
    keys = ["k", "k2", "k3"]
    assert catalog.by_keys(keys, signers=Signers(keys=frozenset({"aa"}))) == {"k": [own], "k3": [unsigned]}
    assert catalog.by_keys(keys, signers=Signers(keys=frozenset({"bb", "x"}))) == {"k": [theirs], "k3": [unsigned]}
    assert catalog.by_keys(keys, signers=Signers()) == {"k3": [unsigned]}
    trusting = Signers(keys=frozenset({"aa"}), users=frozenset({"bob", "nobody"}))
    assert catalog.by_keys(keys, signers=trusting, limit=5) == {"k": [theirs, own], "k3": [unsigned]}
    assert catalog.candidates("k", signers=trusting) == [theirs, own]
    assert catalog.candidates("k", signers=Signers(keys=frozenset({"aa"}))) == [own]
    assert catalog.candidates("k", signers=Signers()) == []


def test_twenty_thousand_keys_are_looked_for_in_no_time_also_behind_what_others_have_made(catalog: Catalog) -> None:
    keys = [f"{number:064}" for number in range(20_000)]
    for maker, started in (("aa", 1), ("bb", 2)):
        run = a_run(state="succeeded")
        given = {"run": run.id, "step": "train", "state": "succeeded", "part_of": new_id(), "started": started}
        binds = (signed("x", maker),)
        them = [Execution(id=new_id(), item=n, key=key, binds=binds, **given) for n, key in enumerate(keys)]
        for begin in range(0, len(them), 5_000):
            catalog.put_items([EndedItem.of(one) for one in them[begin : begin + 5_000]])
    began = time.process_time()
    found = catalog.by_keys(keys, signers=Signers(keys=frozenset({"aa"})))
    assert time.process_time() - began < 2, "it is a third of that on two slow cores"
    assert {one.started for them in found.values() for one in them} == {1}
    assert found.keys() == set(keys)


# --- items ------------------------------------------------------------------------------------------------------------


def a_fan_out(count: int, **more: Any) -> tuple[Execution, list[Execution]]:
    whole = an_execution(a_run(), step="train", fanout=FanOut(names=("x",), shape=(count,), total=count))
    items = [
        Execution(
            id=new_id(),
            run=whole.run,
            step="train",
            state="failed" if number % 5 == 3 else "succeeded",
            part_of=whole.id,
            item=number,
            label={"x": str(number)},
            started=number + 100,
            ended=number + 200,
            **more,
        )
        for number in range(count)
    ]
    return whole, items


def test_a_fan_outs_items_are_its_own_and_not_among_the_executions_of_its_run(catalog: Catalog) -> None:
    whole, items = a_fan_out(12)
    catalog.put_run(a_run(id=whole.run))
    catalog.put_executions(items[6:])
    catalog.put_execution(whole)
    catalog.put_executions(items[:6])
    assert catalog.executions(whole.run) == [whole]
    assert catalog.items(whole.id) == items
    assert catalog.items(whole.id, limit=5) == items[:5]
    assert catalog.items(whole.id, limit=5, after=4) == items[5:10]
    assert catalog.items(whole.id, states=("failed",)) == [items[3], items[8]]
    assert catalog.items(whole.id, states=("failed",), after=3, limit=1) == [items[8]]
    assert catalog.items(items[0].id) == []
    assert catalog.count_items(whole.id) == {"succeeded": 10, "failed": 2}
    assert catalog.count_items(items[0].id) == {}
    assert catalog.execution(items[3].id) == items[3]


def test_an_items_messages_come_with_it_alone(catalog: Catalog) -> None:
    whole, items = a_fan_out(2, messages=({"output_type": "stream", "name": "stdout", "text": "x"},))
    catalog.put_executions(items)
    assert [one.messages for one in catalog.items(whole.id)] == [(), ()]
    assert catalog.execution(items[1].id) == items[1]


def test_the_metrics_of_items_are_read_by_name_and_not_as_those_of_the_run(catalog: Catalog) -> None:
    whole, items = a_fan_out(4)
    logged = [
        replace(one, metrics=(Metric(name="rmse", value=9.0, time=1), Metric(name="rmse", value=number / 2, time=2)))
        for number, one in enumerate(items)
    ]
    logged[2] = replace(items[2], metrics=(Metric(name="loss", value=math.inf), Metric(name="rmse", value=math.nan)))
    logged[1] = items[1]
    catalog.put_execution(replace(whole, metrics=(Metric(name="total", value=1.0),)))
    catalog.put_executions(logged)
    assert str(catalog.item_metrics(whole.id, "rmse")) == str([(0, 0.0), (2, math.nan), (3, 1.5)])
    assert catalog.item_metrics(whole.id, "loss") == [(2, math.inf)]
    assert catalog.item_metrics(whole.id, "none") == []
    assert catalog.item_metric_names(whole.id) == ["rmse", "loss"]
    assert [one.name for one in catalog.metrics([whole.run])[whole.run]] == ["total"]


def test_the_items_that_logged_artifacts_are_found_among_all_and_what_they_logged_is_counted(catalog: Catalog) -> None:
    artifact = Artifact(digest=SOME, size=9, type="file", codec="file", preview={"kind": "file", "artifacts": ["x"]})
    one, other = Binding(name='"artifacts":[{', artifact=artifact), Binding(name="b", problem="too large")
    whole, items = a_fan_out(6, source='"artifacts":[{"name": 1}]', binds=(one,))
    logged = {1: (one,), 3: (one, other), 5: (other,)}  # the fourth has failed
    items = [replace(each, artifacts=logged.get(number, ())) for number, each in enumerate(items)]
    catalog.put_executions(items[:3])
    catalog.put_items([EndedItem.of(each) for each in items[3:]])
    catalog.put_execution(replace(whole, artifacts=(one,)))
    assert catalog.items(whole.id, logged=True) == [items[1], items[3], items[5]]
    assert catalog.items(whole.id, logged=True, limit=1, after=1) == [items[3]]
    assert catalog.items(whole.id, logged=True, states=("failed",)) == [items[3]]
    assert catalog.items(whole.id) == items
    assert catalog.count_logged(whole.id) == 4
    assert catalog.count_logged(items[1].id) == 0


def test_items_put_again_replace_themselves_and_their_metrics_and_an_end_stays(catalog: Catalog) -> None:
    whole, items = a_fan_out(3, metrics=(Metric(name="rmse", value=1.0),))
    catalog.put_executions([replace(items[0], state="running", metrics=()), *items[1:]])
    again = [replace(one, attempt=2, state="succeeded", metrics=(Metric(name="rmse", value=2.0),)) for one in items]
    catalog.put_executions(again)
    catalog.put_executions([replace(one, state="running", metrics=()) for one in items])
    assert catalog.items(whole.id) == again
    assert catalog.item_metrics(whole.id, "rmse") == [(0, 2.0), (1, 2.0), (2, 2.0)]
    assert catalog.under_way() == []


def test_items_whose_records_are_json_already_come_back_like_others(catalog: Catalog) -> None:
    said = ({"output_type": "stream", "name": "stdout", "text": "é"},)
    artifact = Artifact(digest=SOME, size=9, type="int", codec="scalar", preview={"kind": "text", "text": "7"})
    whole, items = a_fan_out(3, cell="c1", key="k" * 64, binds=(Binding(name="y", artifact=artifact),))
    items[1] = replace(items[1], messages=said, metrics=(Metric(name="rmse", value=0.5, time=1),))
    items[2] = replace(items[2], state="failed", failure=Failure(ename="ValueError", evalue="no"), reason="error")
    catalog.put_items([EndedItem.of(one) for one in items])
    catalog.put_items([])
    assert catalog.items(whole.id) == [items[0], replace(items[1], messages=()), items[2]]
    assert [catalog.execution(one.id) for one in items] == items
    assert catalog.count_items(whole.id) == {"succeeded": 2, "failed": 1}
    assert catalog.item_metrics(whole.id, "rmse") == [(1, 0.5)]
    assert catalog.by_keys(["k" * 64])["k" * 64][0].id in {one.id for one in items}


def test_items_put_as_json_replace_what_was_known_and_their_metrics(catalog: Catalog) -> None:
    whole, items = a_fan_out(3, metrics=(Metric(name="rmse", value=1.0), Metric(name="loss", value=math.inf)))
    said = ({"output_type": "stream", "name": "stdout", "text": "x"},)
    catalog.put_executions([replace(items[0], state="running", messages=said), *items[1:]])
    again = [replace(one, attempt=2, state="succeeded", metrics=(Metric(name="rmse", value=2.0),)) for one in items]
    catalog.put_items([EndedItem.of(one) for one in again])
    catalog.put_executions([replace(one, state="running", metrics=()) for one in items])
    assert catalog.items(whole.id) == again
    assert catalog.execution(items[0].id).messages == said
    assert catalog.item_metrics(whole.id, "rmse") == [(0, 2.0), (1, 2.0), (2, 2.0)]
    assert catalog.item_metrics(whole.id, "loss") == []
    assert catalog.under_way() == []


def test_of_one_execution_named_twice_at_once_the_last_word_counts(catalog: Catalog) -> None:
    run = a_run()
    said = ({"output_type": "stream", "name": "stdout", "text": "x"},)
    running = an_execution(run, state="running", messages=said)
    ended = replace(running, state="succeeded", messages=(), metrics=(Metric(name="rmse", value=1.0),))
    catalog.put_executions([running, ended, replace(running, messages=())])
    assert catalog.execution(running.id) == replace(ended, messages=said)
    assert len(catalog.metrics([run.id])[run.id]) == 1


# --- lineage ----------------------------------------------------------------------------------------------------------


def a_digest(letter: str) -> Digest:
    return Digest("blake3:" + letter * 64)


def a_binding(name: str, letter: str) -> Binding:
    return Binding(name=name, artifact=Artifact(digest=a_digest(letter), size=1, type="int", codec="scalar"))


def test_who_bound_an_artifact_and_who_was_given_it_is_found_oldest_first(catalog: Catalog) -> None:
    run = a_run()
    load = an_execution(run, step="load", binds=(a_binding("flights", "a"), a_binding("airports", "b")), started=5)
    again = an_execution(run, step="load", binds=(a_binding("flights", "a"),), state="reused", started=3)
    reads = (Read(name="flights", digest=a_digest("a"), execution=load.id), Read(name="trees"))
    train = an_execution(run, reads=reads, messages=({"output_type": "stream"},), state="running")
    catalog.put_executions([load, again, train])
    assert catalog.makers([a_digest("a")]) == [again, load]
    assert catalog.makers([a_digest("a"), a_digest("b"), a_digest("c")], limit=1) == [again]
    assert catalog.makers([a_digest("b")]) == [load]
    assert [(one.id, one.messages) for one in catalog.readers([a_digest("a")])] == [(train.id, ())]
    assert catalog.readers([a_digest("b")]) == []
    assert catalog.makers([]) == []
    catalog.put_execution(replace(train, state="succeeded", reads=()))
    assert catalog.readers([a_digest("a")]) == []


def test_items_are_among_those_who_bound_an_artifact_and_only_what_has_ended_is(catalog: Catalog) -> None:
    whole, items = a_fan_out(3, binds=(a_binding("model", "d"),))
    catalog.put_executions([whole, *items])
    under_way = an_execution(a_run(), state="running", binds=(a_binding("model", "d"),))
    catalog.put_execution(under_way)
    assert {one.id for one in catalog.makers([a_digest("d")])} == {
        one.id for one in (whole, *items) if one.state not in ("queued", "running") and one.binds
    }
    catalog.put_execution(replace(under_way, state="succeeded"))
    assert under_way.id in {one.id for one in catalog.makers([a_digest("d")])}


def test_items_that_came_by_themselves_are_found_by_what_they_bound_once_their_fan_out_has_ended(
    catalog: Catalog,
) -> None:
    from mlbench.runs.itemrecords import EndedItem

    whole, items = a_fan_out(3, binds=(a_binding("model", "d"),))
    states = ("succeeded", "reused", "succeeded")
    ended = [replace(one, state=state, messages=()) for one, state in zip(items, states, strict=True)]
    catalog.put_execution(replace(whole, state="running", binds=()))
    catalog.put_items([EndedItem.of(one) for one in ended])
    catalog.put_execution(replace(whole, state="succeeded", binds=()))
    for _ in range(2):
        assert {one.id for one in catalog.makers([a_digest("d")])} == {one.id for one in ended}
    again = replace(whole, id=ExecutionId("b" * 26), state="succeeded", binds=())
    further = [replace(one, id=ExecutionId(f"{one.id[:-1]}7"), part_of=again.id) for one in ended]
    catalog.put_items([EndedItem.of(one) for one in further])
    catalog.put_execution(again)
    assert {one.id for one in catalog.makers([a_digest("d")])} == {one.id for one in (*ended, *further)}


def test_executions_are_found_by_their_ids_and_those_that_are_not_there_are_left_out(catalog: Catalog) -> None:
    one, other = an_execution(a_run()), an_execution(a_run(), messages=({"output_type": "stream"},))
    catalog.put_executions([one, other])
    found = catalog.executions_named([other.id, ExecutionId(new_id()), one.id])
    assert found == {one.id: one, other.id: replace(other, messages=())}
    assert catalog.executions_named([]) == {}


# --- snapshots, jobs --------------------------------------------------------------------------------------------------


def test_a_snapshot_comes_back(catalog: Catalog) -> None:
    snapshot = Snapshot(notebook=SOME, cells=("x = 1",), modules={"a.py": SOME}, packages={"numpy": "2.4"})
    catalog.put_snapshot(SOME, snapshot)
    catalog.put_snapshot(SOME, snapshot)
    assert catalog.snapshot(SOME) == snapshot
    with pytest.raises(NotFound):
        catalog.snapshot(Digest("blake3:" + "b" * 64))


def test_a_job_is_found_by_id_prefix_and_name(catalog: Catalog) -> None:
    job = a_job(cron="0 6 * * *", timezone="Europe/Berlin")
    catalog.put_job(job)
    assert catalog.job(job.id) == catalog.job(job.id[:6]) == catalog.job("nightly") == job
    catalog.put_job(a_job())
    with pytest.raises(NotFound, match="Several"):
        catalog.job("nightly")
    catalog.put_job(replace(job, deleted=True))
    assert catalog.job("nightly") != job
    assert catalog.job(job.id).deleted
    assert len(catalog.jobs()) == 1
    assert len(catalog.jobs(deleted=True)) == 2


def test_a_jobs_versions_are_listed_newest_first_and_never_change(catalog: Catalog) -> None:
    job = a_job()
    catalog.put_job(job)
    for number in (1, 2, 3):
        catalog.put_job_version(job.id, JobVersion(number=number, snapshot=SOME, parameters={"n": number}))
    catalog.put_job_version(job.id, JobVersion(number=2, snapshot=SOME, parameters={"n": 99}))
    assert [(one.number, one.parameters["n"]) for one in catalog.job_versions(job.id)] == [(3, 3), (2, 2), (1, 1)]


def test_due_jobs_are_those_whose_time_has_come_on_this_host(catalog: Catalog) -> None:
    jobs = {
        "later": a_job(name="later", next_due=200),
        "second": a_job(name="second", next_due=100, host="here"),
        "first": a_job(name="first", next_due=90),
        "paused": a_job(name="paused", paused=True),
        "deleted": a_job(name="deleted", deleted=True),
        "elsewhere": a_job(name="elsewhere", host="there"),
        "never": a_job(name="never", next_due=None),
    }
    for job in jobs.values():
        catalog.put_job(job)
    assert [job.name for job in catalog.due_jobs(100, host="here")] == ["first", "second"]
    assert [job.name for job in catalog.due_jobs(100, host="here", limit=1)] == ["first"]
    assert {job.name for job in catalog.due_jobs(100)} == {"first", "second", "elsewhere"}


# --- firings ----------------------------------------------------------------------------------------------------------


def test_firing_advances_the_schedule_once(catalog: Catalog) -> None:
    job = a_job()
    catalog.put_job(job)
    firings = [Firing(job=job.id, due=100, state="queued"), Firing(job=job.id, due=90, state="skipped", skipped=3)]
    assert catalog.fire(job.id, firings, was_due=100, next_due=200)
    assert not catalog.fire(job.id, firings, was_due=100, next_due=300)
    assert not catalog.fire(JobId(new_id()), [], was_due=100, next_due=300)
    found = catalog.job(job.id)
    assert (found.next_due, found.last_due) == (200, 100)
    assert catalog.firings(job.id) == firings
    assert catalog.fire(job.id, firings, was_due=200, next_due=None)
    assert catalog.job(job.id).next_due is None
    assert len(catalog.firings(job.id)) == 2


def test_of_many_schedulers_one_fires_and_of_many_runners_one_claims(catalog: Catalog) -> None:
    job = a_job()
    catalog.put_job(job)
    fired: list[bool] = []
    claimed: list[Firing | None] = []

    def compete(owner: str) -> None:
        fired.append(catalog.fire(job.id, [Firing(job=job.id, due=100, state="queued")], was_due=100, next_due=200))
        claimed.append(catalog.claim_firing(owner, 100))

    threads = [threading.Thread(target=compete, args=(f"owner {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert fired.count(True) == 1
    assert len(fired) == 8
    assert len([firing for firing in claimed if firing is not None]) == 1


def test_the_oldest_queued_firing_is_claimed_first(catalog: Catalog) -> None:
    job = a_job()
    catalog.put_job(job)
    for due in (30, 10, 20):
        assert catalog.add_firing(Firing(job=job.id, due=due, state="queued"))
    assert not catalog.add_firing(Firing(job=job.id, due=10, state="queued"))
    assert catalog.add_firing(Firing(job=job.id, due=10, state="queued", manual=True))
    claimed = [catalog.claim_firing("me", 99) for _ in range(5)]
    assert [firing.due for firing in claimed if firing is not None] == [10, 10, 20, 30]
    assert {firing.state for firing in claimed if firing is not None} == {"running"}
    assert {firing.owner for firing in claimed if firing is not None} == {"me"}
    assert {firing.token for firing in claimed if firing is not None} == {1}
    assert [firing.due for firing in catalog.firings(states=["running"], limit=2)] == [30, 20]
    assert catalog.firings(states=["queued"]) == []


def test_a_stale_holder_of_a_firing_changes_nothing(catalog: Catalog) -> None:
    job = a_job()
    catalog.put_job(job)
    catalog.add_firing(Firing(job=job.id, due=10, state="queued"))
    held = catalog.claim_firing("me", 10)
    assert held is not None
    stale = replace(held, token=held.token - 1)
    run = RunId(new_id())
    assert not catalog.attach_run(stale, run)
    assert not catalog.end_firing(replace(stale, state="failed"))
    assert catalog.firings() == [held]
    assert catalog.attach_run(held, run)
    assert catalog.end_firing(replace(held, state="failed", reason="worker-lost", run=run))
    assert not catalog.end_firing(replace(held, state="succeeded"))
    assert not catalog.attach_run(held, RunId(new_id()))
    (found,) = catalog.firings(job.id)
    assert (found.state, found.reason, found.run) == ("failed", "worker-lost", run)


def test_a_queued_firing_can_be_skipped_by_who_has_not_claimed_it(catalog: Catalog) -> None:
    job = a_job()
    catalog.put_job(job)
    firing = Firing(job=job.id, due=10, state="queued")
    catalog.add_firing(firing)
    assert catalog.end_firing(replace(firing, state="skipped", reason="still running"))
    assert catalog.claim_firing("me", 10) is None


def test_the_version_changes_with_each_write_and_only_then(catalog: Catalog) -> None:
    before = catalog.version()
    assert catalog.version() == before
    run = a_run()
    catalog.put_run(run)
    after = catalog.version()
    assert after != before
    catalog.runs()
    catalog.run(run.id)
    assert catalog.version() == after


# --- which notebook ---------------------------------------------------------------------------------------------------


def test_a_notebooks_runs_are_those_with_its_id_and_those_of_its_path_that_have_none(catalog: Catalog) -> None:
    ours, other = NotebookId(new_id()), NotebookId(new_id())
    catalog.put_run(a_run(id="a" * 26, started=1, notebook="/old.ipynb", notebook_id=ours))
    catalog.put_run(a_run(id="b" * 26, started=2, notebook="/n.ipynb"))
    catalog.put_run(a_run(id="c" * 26, started=3, notebook="/n.ipynb", notebook_id=other))
    catalog.put_run(a_run(id="d" * 26, started=4, notebook="/n.ipynb", notebook_id=ours))
    both = {"notebook": "/n.ipynb", "notebook_id": ours}
    assert [run.id[0] for run in catalog.runs(**both)] == ["d", "b", "a"]
    assert [run.id[0] for run in catalog.runs(**both, limit=1, before=(4, "d" * 26))] == ["b"]
    assert catalog.count_runs(**both) == 3
    assert [run.id[0] for run in catalog.runs(notebook_id=ours)] == ["d", "a"]
    assert [run.id[0] for run in catalog.runs(notebook="/n.ipynb")] == ["d", "c", "b"]


def test_the_paths_of_an_id_come_with_the_time_they_were_first_seen(catalog: Catalog) -> None:
    ours = NotebookId(new_id())
    catalog.put_run(a_run(started=5, notebook="/n.ipynb", notebook_id=ours))
    catalog.put_run(a_run(started=3, notebook="/n.ipynb", notebook_id=ours))
    catalog.put_run(a_run(started=4, notebook=None, notebook_id=ours))
    catalog.put_run(a_run(started=1, notebook="/other.ipynb", notebook_id=NotebookId(new_id())))
    catalog.put_job(a_job(notebook="/job.ipynb", notebook_id=ours, created=7))
    catalog.put_job(a_job(notebook="/n.ipynb", notebook_id=ours, created=2, name="another"))
    assert catalog.notebooks(ours) == {"/n.ipynb": 2, "/job.ipynb": 7}


def test_firings_of_some_jobs_are_claimed_and_those_of_others_left(catalog: Catalog) -> None:
    ours, theirs = JobId(new_id()), JobId(new_id())
    version = JobVersion(number=1, snapshot=Digest(f"blake3:{'0' * 64}"))
    for due, job in ((60, theirs), (120, ours)):
        catalog.put_job(Job(id=job, name=job, notebook="/n.ipynb", version=version))
        assert catalog.add_firing(Firing(job=job, due=due, state="queued"))
    claimed = catalog.claim_firing("me", 200, jobs=[ours])
    assert claimed is not None
    assert claimed.job == ours
    assert catalog.claim_firing("me", 200, jobs=[ours]) is None
    assert [firing.state for firing in catalog.firings(theirs)] == ["queued"]
