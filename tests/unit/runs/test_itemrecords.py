"""Records of items, read as far as a fan-out needs them."""

from __future__ import annotations

import math

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.messages import ChunkEnd
from mlbench.core.records import Execution, Failure, Metric
from mlbench.runs.itemrecords import EndedItem, read_chunk, whole
from mlbench.runs.wire import msgspec

SAID = ({"output_type": "stream", "name": "stdout", "text": "x"},)


def an_item(number: int = 0, **more: object) -> Execution:
    given = {"run": RunId("r"), "step": "many", "state": "succeeded", "part_of": ExecutionId("e"), "item": number}
    return Execution(**({"id": ExecutionId(f"i{number}")} | given | more))  # type: ignore[arg-type]


def test_what_a_chunk_says_of_its_items_is_read_and_their_records_stay_whole() -> None:
    items = (an_item(0, cell="c", started=1, ended=3), an_item(1, messages=SAID, label={"x": "1"}))
    end = ChunkEnd(executions=items, left=(2,), changed=("rows",), failure=Failure(ename="E", evalue="no"))
    read = read_chunk(msgspec.json.encode(end))
    assert [whole(one) for one in read.executions] == list(items)
    assert [(one.item, one.started, one.label) for one in read.executions] == [(0, 1, {}), (1, None, {"x": "1"})]
    assert (read.left, read.changed, read.failure) == (end.left, end.changed, end.failure)


def test_what_an_item_has_shown_is_kept_apart_from_its_record() -> None:
    item = EndedItem.of(an_item(messages=SAID))
    record, messages = item.texts()
    assert messages is not None
    assert msgspec.json.decode(messages) == list(SAID)
    assert "messages" not in msgspec.json.decode(record)
    assert EndedItem.of(an_item()).texts()[1] is None


def test_a_metric_that_is_no_number_in_json_survives() -> None:
    item = EndedItem.of(an_item(metrics=(Metric(name="loss", value=math.inf),)))
    assert item.metrics[0].value == math.inf
    assert item.record().metrics == item.metrics
