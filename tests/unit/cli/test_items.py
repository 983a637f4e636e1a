"""What `mlbench show` says of the items of a fan-out."""

from __future__ import annotations

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.records import Binding, Execution, FanOut, Metric
from mlbench.entrypoints.cli.items import items_table, logged_by_items


def test_a_fan_out_that_was_reused_as_a_whole_shows_what_its_items_logged_where_they_ran() -> None:
    catalog = MemoryCatalog()
    ran, again = ExecutionId(new_id()), ExecutionId(new_id())
    fanout = FanOut(names=("x",), shape=(2,), total=2, succeeded=2)
    first = Execution(id=ran, run=RunId("r1"), step="fit", state="succeeded", fanout=fanout)
    second = Execution(id=again, run=RunId("r2"), step="fit", state="reused", fanout=fanout, reused_from=ran)
    items = [
        Execution(
            id=ExecutionId(f"i{number}"),
            run=RunId("r1"),
            step="fit",
            state="succeeded",
            part_of=ran,
            item=number,
            label={"x": str(number)},
            metrics=(Metric(name="rmse", value=float(number), time=1),),
        )
        for number in range(2)
    ]
    catalog.put_executions([first, second, *items])
    for whole in (first, second):
        table = items_table(catalog, [whole])
        assert table is not None
        assert [next(iter(column.cells)).plain for column in table.columns][:4] == ["fit", "rmse", "2", "0.5"]


def test_what_the_first_items_logged_is_shown_with_their_values_and_how_much_more_there_is() -> None:
    catalog = MemoryCatalog()
    whole = Execution(
        id=ExecutionId(new_id()), run=RunId("r1"), step="fit", state="succeeded", fanout=FanOut(names=("x",))
    )
    both = (Binding(name="a.txt"), Binding(name="b.txt"))
    catalog.put_executions(
        [
            Execution(
                id=ExecutionId(f"i{number}"), run=RunId("r1"), step="fit", state="succeeded", part_of=whole.id,
                item=number, label={"x": str(number)} if number else {}, artifacts=both,
            )
            for number in range(20_000)
        ]
    )  # fmt: skip
    shown, left = logged_by_items(catalog, whole)
    assert [(whose, one.name) for whose, one in shown[:3]] == [
        ("fit (item 0)", "a.txt"),
        ("fit (item 0)", "b.txt"),
        ("fit (x=1)", "a.txt"),
    ]
    assert (len(shown), left) == (10, 39_990)
    assert logged_by_items(catalog, Execution(id=whole.id, run=whole.run, step="fit", state="succeeded")) == ([], 0)
