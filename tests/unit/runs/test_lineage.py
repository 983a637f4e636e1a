"""Where values come from and what was made from them."""

from __future__ import annotations

from typing import Any

import pytest

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, ExecutionId, RunId
from mlbench.core.records import Artifact, Binding, Execution, FanOut, FileUse, GitState, Read, Run, Snapshot
from mlbench.runs.lineage import Lineage, LineageExecution, lines, origin_of, trace, values_of


def digest(text: str) -> Digest:
    return Digest("blake3:" + text.encode().hex().ljust(64, "0"))


def bound(name: str, content: str | None = None) -> Binding:
    artifact = Artifact(
        digest=digest(content or name), size=8, type="DataFrame", codec="frame", preview={"text": f"the {name}"}
    )
    return Binding(name=name, artifact=artifact)


def step(
    catalog: MemoryCatalog, ident: str, *binds: Binding | str, reads: tuple[Read, ...] = (), **more: Any
) -> Execution:
    given: dict[str, Any] = {
        "run": RunId("rrrr"),
        "step": ident,
        "state": "succeeded",
        "started": 1,
        "source": "x = 1",
        "parents": tuple(read.execution for read in reads if read.execution is not None),
    }
    made = Execution(
        id=ExecutionId(ident),
        binds=tuple(bound(one) if isinstance(one, str) else one for one in binds),
        reads=reads,
        **(given | more),
    )
    catalog.put_execution(made)
    return made


def read(execution: Execution, name: str) -> Read:
    artifact = next(one.artifact for one in execution.binds if one.name == name)
    assert artifact is not None
    return Read(name=name, digest=artifact.digest, execution=execution.id, step=execution.step)


def only(found: Lineage, ident: str) -> LineageExecution:
    return next(one for one in found.executions if one.id == ident)


def of(catalog: MemoryCatalog, content: str, **more: Any) -> Lineage:
    return trace(catalog, values_of(catalog, digest(content)), **more)


@pytest.fixture
def catalog() -> MemoryCatalog:
    catalog = MemoryCatalog()
    snapshot = Snapshot(notebook=digest("notebook"), git=GitState(commit="c" * 40))
    catalog.put_snapshot(digest("snapshot"), snapshot)
    catalog.put_run(
        Run(
            id=RunId("rrrr"),
            kind="papermill",
            state="succeeded",
            name="flights",
            notebook="/n.ipynb",
            snapshot=digest("snapshot"),
            parameters={"origin": "JFK"},
        )
    )
    return catalog


def test_a_value_is_followed_up_to_all_that_led_to_it_and_down_to_all_that_came_of_it(catalog: MemoryCatalog) -> None:
    load = step(catalog, "load", "flights", files=(FileUse(path="/f.csv", mode="r", size=9),))
    train = step(catalog, "train", "model", reads=(read(load, "flights"), Read(name="trees", type="int")))
    step(catalog, "score", "rmse", reads=(read(train, "model"), read(load, "flights")))
    step(catalog, "other", "unrelated")
    found = of(catalog, "model")
    assert (found.above, found.below, found.cut) == (("train", "load"), ("score",), False)
    made = only(found, "train")
    assert [(value.name, value.execution, value.how) for value in made.reads] == [
        ("flights", "load", "name"),
        ("trees", None, "captured"),
    ]
    assert (made.parameters, made.notebook, made.commit, made.path) == (
        {"origin": "JFK"},
        digest("notebook"),
        "c" * 40,
        "/n.ipynb",
    )
    assert made.code is not None
    assert [use.path for use in only(found, "load").files] == ["/f.csv"]
    assert [value.name for value in only(found, "score").binds] == ["rmse"]
    assert of(catalog, "flights").below == ("score", "train")


def test_only_the_way_that_was_asked_for_is_followed(catalog: MemoryCatalog) -> None:
    load = step(catalog, "load", "flights")
    train = step(catalog, "train", "model", reads=(read(load, "flights"),))
    step(catalog, "score", reads=(read(train, "model"),))
    assert of(catalog, "model", down=False).below == ()
    up = of(catalog, "model", up=False)
    assert (up.above, up.below) == ((), ("score",))


def test_a_reused_execution_stands_for_the_one_that_ran(catalog: MemoryCatalog) -> None:
    load = step(catalog, "load", "flights")
    again = step(
        catalog, "again", "flights", run=RunId("ssss"), step="load", state="reused", reused_from=load.id, started=2
    )
    step(catalog, "train", "model", reads=(read(again, "flights"),), run=RunId("ssss"), started=3)
    found = of(catalog, "model")
    assert found.above == ("train", "load")
    assert only(found, "load").reused_in == ("ssss",)
    assert of(catalog, "flights").below == ("train",)
    assert origin_of(catalog, again) == load
    assert [value.execution for value in values_of(catalog, digest("flights"))] == ["load"]


def test_equal_values_of_two_executions_have_each_their_own_readers(catalog: MemoryCatalog) -> None:
    one, other = step(catalog, "one", bound("seed", "7")), step(catalog, "two", bound("seed", "7"), started=2)
    step(catalog, "fit", reads=(read(one, "seed"),))
    step(catalog, "fit2", reads=(read(other, "seed"),))
    values = values_of(catalog, digest("7"))
    assert [value.execution for value in values] == ["one", "two"]
    assert trace(catalog, values[:1]).below == ("fit",)
    assert set(trace(catalog, values).below) == {"fit", "fit2"}


def test_an_item_was_given_what_its_fan_out_was_and_goes_on_in_its_list(catalog: MemoryCatalog) -> None:
    load = step(catalog, "load", "flights")
    fan = FanOut(names=("carrier",), shape=(2,), total=2, succeeded=2)
    fit = step(catalog, "fit", bound("model", "list"), reads=(read(load, "flights"),), fanout=fan)
    for number, carrier in enumerate(("AA", "UA")):
        step(
            catalog,
            f"item{number}",
            bound("model", carrier),
            step="fit",
            part_of=fit.id,
            item=number,
            label={"carrier": carrier},
        )
    step(catalog, "compare", "best", reads=(read(fit, "model"),))
    found = of(catalog, "AA")
    assert (found.above, found.below) == (("item0", "load"), ("fit", "compare"))
    item = only(found, "item0")
    assert (item.item, item.label, [value.execution for value in item.reads]) == (0, {"carrier": "AA"}, ["load"])
    assert ("model", "item") in [(value.name, value.how) for value in only(found, "fit").reads]
    assert of(catalog, "best").above == ("compare", "fit", "load")


def test_an_item_that_was_reused_goes_on_in_the_lists_of_both_runs(catalog: MemoryCatalog) -> None:
    fan = FanOut(names=("x",), total=1, succeeded=1)
    for number, (whole, item) in enumerate((("fit1", "one"), ("fit2", "two")), 1):
        step(catalog, whole, bound("model", f"list{number}"), step="fit", fanout=fan, started=number)
        more: dict[str, Any] = {"state": "reused", "reused_from": ExecutionId("one")} if item == "two" else {}
        more |= {"step": "fit", "part_of": ExecutionId(whole), "item": 0, "started": number}
        step(catalog, item, bound("model", "AA"), **more)
    assert of(catalog, "AA").below == ("fit1", "fit2")


def test_a_file_that_a_step_above_wrote_is_a_way_up(catalog: MemoryCatalog) -> None:
    step(catalog, "write", files=(FileUse(path="/data.csv", mode="w", size=5),))
    read_it = (FileUse(path="/data.csv", mode="r", size=5),)
    step(catalog, "look", "table", files=read_it, parents=(ExecutionId("write"),), started=2)
    found = of(catalog, "table")
    assert found.above == ("look", "write")
    assert [(value.name, value.how) for value in only(found, "look").reads] == [("/data.csv", "file")]


def test_a_long_lineage_is_cut_and_says_so(catalog: MemoryCatalog) -> None:
    before = step(catalog, "s0", "v0")
    for number in range(1, 30):
        before = step(catalog, f"s{number}", f"v{number}", reads=(read(before, f"v{number - 1}"),))
    found = of(catalog, "v29", limit=20)
    assert found.cut
    assert len(found.executions) == 10
    assert lines(found)[-1].startswith("… and more")
    assert set(of(catalog, "v10", limit=30).below) == {f"s{number}" for number in range(11, 26)}
    down = of(catalog, "v0", limit=20)
    assert down.cut
    assert len(down.executions) == 11
    assert not of(catalog, "v29").cut
    assert len(of(catalog, "v0").below) == 29


def test_an_execution_that_is_gone_ends_its_way(catalog: MemoryCatalog) -> None:
    gone = Read(name="flights", digest=digest("flights"), execution=ExecutionId("gone"), step="load")
    step(catalog, "train", "model", reads=(gone,), run=RunId("nowhere"))
    found = of(catalog, "model")
    assert found.above == ("train",)
    assert [(value.name, value.execution) for value in only(found, "train").reads] == [("flights", None)]


def test_an_artifact_that_nobody_made_is_not_found(catalog: MemoryCatalog) -> None:
    with pytest.raises(NotFound, match="No step has made"):
        values_of(catalog, digest("nothing"))


def test_the_text_is_indented_and_tells_nothing_twice(catalog: MemoryCatalog) -> None:
    load = step(catalog, "load", "flights", started=None, files=(FileUse(path="/f.csv", mode="r", size=9000),))
    clean = step(catalog, "clean", "tidy", reads=(read(load, "flights"),), started=None)
    train = step(catalog, "train", "model", reads=(read(clean, "tidy"), read(load, "flights")), started=None)
    step(catalog, "score", "rmse", reads=(read(train, "model"),), started=None)
    told = lines(of(catalog, "model"))
    code = told[2].split()[1]
    facts = f"code {code}  notebook /n.ipynb at {digest('notebook')[7:15]}  commit cccccccc"
    assert told == [
        f"model  {digest('model')[7:15]}  the model",
        "  made by train  run rrrr",
        f"    {facts}",
        "    parameters origin='JFK'",
        f"    from tidy  {digest('tidy')[7:15]}  the tidy",
        "      made by clean  run rrrr",
        f"        {facts}",
        "        parameters origin='JFK'",
        f"        from flights  {digest('flights')[7:15]}  the flights",
        "          made by load  run rrrr",
        f"            {facts}",
        "            parameters origin='JFK'",
        "            read file /f.csv  9.0 kB",
        f"    from flights  {digest('flights')[7:15]}  the flights",
        "      made by load  run rrrr (told above)",
        "  read by score  run rrrr",
        f"    made rmse  {digest('rmse')[7:15]}  the rmse",
    ]
