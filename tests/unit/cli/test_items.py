"""What `mlbench show` says of the items of a fan-out."""

from __future__ import annotations

from mlbench.backends.memory import MemoryCatalog
from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.records import Execution, FanOut, Metric
from mlbench.entrypoints.cli.items import items_table


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
