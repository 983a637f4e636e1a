"""Fan-outs through the service and its cluster: items in processes, their records, and what deaths leave of them."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.failed import Failed
from mlbench.core.messages import Foreach, StepOptions
from mlbench.core.records import Execution
from mlbench.runs.artifacts import Loader
from mlbench.runs.picture import MIME
from tests.integration.house import House, Kernel, catalog, eventually

pytestmark = pytest.mark.timeout(180)


def submit(kernel: Kernel, source: str, *foreach: str, step: str = "train", parents: Any = (), **options: Any) -> str:
    more = {name: options.pop(name) for name in ("max_items", "defs", "key") if name in options}
    spread = tuple(Foreach(name=name, expression=rest) for name, _, rest in (one.partition(" in ") for one in foreach))
    more.setdefault("defs", ("y",))
    return kernel.submit(step, source, *parents, options=StepOptions(foreach=spread, **options), **more)


def value(house: House, record: Execution, name: str = "y") -> Any:
    binding = next(one for one in record.binds if one.name == name)
    return Loader(LocalBlobs(house.store)).load(binding)


def items(house: House, execution: str) -> dict[int, Execution]:
    found = catalog(house.store).items(execution, limit=100_000)
    return {one.item: one for one in found}


def lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_fan_out_ends_as_a_list_with_a_record_of_each_item(service: House) -> None:
    kernel = service.kernel()
    record = kernel.state(submit(kernel, "y = 2 * x", "x in range(3000)"))
    assert record.state == "succeeded", record.failure
    assert value(service, record) == [2 * number for number in range(3000)]
    assert record.fanout is not None
    assert (record.fanout.succeeded, record.fanout.total, record.fanout.shape) == (3000, 3000, (3000,))
    store = catalog(service.store)
    assert store.count_items(record.id) == {"succeeded": 3000}
    assert not list((service.store / "tmp").iterdir())
    found = items(service, record.id)
    assert found[17].label == {"x": "17"}
    assert (found[17].part_of, found[17].run, found[17].step) == (record.id, record.run, "train")
    assert [one.id for one in store.executions(record.run)] == [record.id]
    told = [event for event in kernel.events if event.type == "execution"]
    assert len(told) < 60
    assert sum(event.body.get("items", {}).get("ended", 0) for event in told) == 3000


def test_the_product_of_two_names_is_in_the_order_of_the_first(service: House) -> None:
    kernel = service.kernel()
    load = kernel.submit("load", "words = ['a', 'b']\nnumbers = [1, 2, 3]", defs=("words", "numbers"))
    step = submit(
        kernel,
        "import mlbench\ny = w * n\nmlbench.log(size=n)",
        "w in words",
        "n in numbers",
        parents=(f"words={load}", f"numbers={load}"),
    )
    record = kernel.state(step)
    assert record.state == "succeeded", record.failure
    assert value(service, record) == ["a", "aa", "aaa", "b", "bb", "bbb"]
    assert record.fanout is not None
    assert (record.fanout.shape, record.fanout.metric) == ((2, 3), "size")
    shown = [one for one in catalog(service.store).execution(step).messages if MIME in one.get("data", {})]
    assert [one["data"][MIME]["values"] for one in shown] == [[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]]
    third = kernel.submit("report", "total = ''.join(y)", f"y={step}", defs=("total",))
    assert value(service, kernel.state(third), "total") == "aaaaaabbbbbb"


def test_one_item_that_fails_fails_the_step_after_the_others(service: House) -> None:
    kernel = service.kernel()
    record = kernel.state(submit(kernel, "y = 1 / (x - 7)", "x in range(40)"))
    assert (record.state, record.reason) == ("failed", "error")
    assert record.failure is not None
    assert record.failure.evalue.startswith("1 of 40 items failed: item 7 (x=7): ZeroDivisionError")
    assert catalog(service.store).count_items(record.id) == {"succeeded": 39, "failed": 1}
    failed = items(service, record.id)[7]
    assert failed.failure is not None
    assert failed.failure.line == 2  # of the cell as it is written


def test_with_catch_a_later_step_gets_what_there_is(service: House) -> None:
    kernel = service.kernel()
    step = submit(kernel, "y = 1 / x", "x in [2, 0, 4]", catch=True)
    record = kernel.state(step)
    assert record.state == "succeeded", record.failure
    values = value(service, record)
    assert (values[0], values[2]) == (0.5, 0.25)
    assert isinstance(values[1], Failed)
    after = kernel.state(kernel.submit("after", "total = sum(one for one in y if one)", f"y={step}", defs=("total",)))
    assert value(service, after, "total") == 0.75


def test_with_catch_an_item_that_lacks_a_name_costs_the_others_nothing(service: House) -> None:
    kernel = service.kernel()
    source = "y = open('/dev/null') if x == 1 else x\nif x:\n    z = x"
    record = kernel.state(submit(kernel, source, "x in [0, 1, 2]", catch=True, defs=("y", "z")))
    assert record.state == "succeeded", record.failure
    values = value(service, record, "y")
    assert values[::2] == [0, 2]
    assert "y` is an open file" in values[1].evalue
    assert isinstance(values[1], Failed)
    values = value(service, record, "z")
    assert values[1:] == [1, 2]
    assert values[0].evalue == "It ended without binding z."


def test_an_item_whose_error_has_no_text_fails_by_its_own_name(service: House) -> None:
    kernel = service.kernel()
    source = "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\nif x:\n    raise Odd\ny = x"
    record = kernel.state(submit(kernel, source, "x in [0, 1]", catch=True))
    assert [getattr(one, "ename", one) for one in value(service, record)] == [0, "Odd"]


def test_items_that_die_take_no_other_with_them(service: House) -> None:
    kernel = service.kernel()
    source = (
        "import os, signal, sys, time\n"
        "if x == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if x == 5: os._exit(4)\n"
        "if x == 8: sys.exit(2)\n"
        "if x == 11: time.sleep(60)\n"
        "y = x"
    )
    record = kernel.state(submit(kernel, source, "x in range(30)", catch=True, timeout=4.0))
    assert record.state == "succeeded", record.failure
    values = value(service, record)
    gone = {number for number, one in enumerate(values) if isinstance(one, Failed)}
    assert gone == {3, 5, 8, 11}
    assert values[11].reason == "timeout"
    assert [one for one in values if not isinstance(one, Failed)] == [n for n in range(30) if n not in gone]


def test_no_item_sees_what_another_left_behind(service: House) -> None:
    kernel = service.kernel()
    source = "seen = 'mark' in dir()\nmark = x\nheap.append(x)\ny = (seen, len(heap))"
    load = kernel.submit("load", "heap = []", defs=("heap",))
    record = kernel.state(submit(kernel, source, "x in range(20)", parents=(f"heap={load}",)))
    assert record.state == "succeeded", record.failure
    assert set(value(service, record)) == {(False, 1)}


def test_an_item_is_tried_again_and_its_attempts_are_kept(service: House, tmp_path: Path) -> None:
    kernel = service.kernel()
    source = (
        f"import os\nmark = {str(tmp_path)!r} + f'/{{x}}'\n"
        "fresh = not os.path.exists(mark)\nopen(mark, 'a').write('1')\n"
        "if x == 4 and fresh: raise ValueError('not yet')\ny = x"
    )
    record = kernel.state(submit(kernel, source, "x in range(10)", retries=2))
    assert record.state == "succeeded", record.failure
    assert {number: len((tmp_path / str(number)).read_text()) for number in range(10)} == {
        number: 2 if number == 4 else 1 for number in range(10)
    }
    item = items(service, record.id)[4]
    assert (item.attempt, [(one.number, one.reason) for one in item.attempts]) == (2, [(1, "error")])


@pytest.mark.parametrize("expression", ["[]", "iter(())", "{}"])
def test_no_items_succeed_with_an_empty_list(service: House, expression: str) -> None:
    kernel = service.kernel()
    record = kernel.state(submit(kernel, "y = x", f"x in {expression}"))
    assert record.state == "succeeded", record.failure
    assert value(service, record) == []


def test_a_generator_without_end_is_refused_by_the_name_of_the_setting(service: House) -> None:
    kernel = service.kernel()
    record = kernel.state(submit(kernel, "y = x", "x in __import__('itertools').count()", max_items=500))
    assert record.state == "failed"
    assert record.failure is not None
    assert "max_items" in f"{record.failure.evalue} {record.failure.remedy}"


def test_an_expression_that_fails_is_the_steps_failure(service: House) -> None:
    kernel = service.kernel()
    record = kernel.state(submit(kernel, "y = x", "x in nothing_here"))
    assert record.state == "failed"
    assert record.failure is not None
    assert record.failure.ename == "NameError"


def test_a_cancel_in_the_middle_keeps_what_is_done_and_leaves_no_process(service: House, tmp_path: Path) -> None:
    kernel = service.kernel()
    pids, done = tmp_path / "pids", tmp_path / "done"
    source = (
        f"import os, time\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(0.02)\n"
        f"open({str(done)!r}, 'a').write(f'{{x}}\\n')\ny = x"
    )
    step = submit(kernel, source, "x in range(5000)")
    eventually(lambda: len(lines(done)) > 30)
    kernel.client.request("cancel", {"execution": step})
    record = kernel.state(step)
    assert (record.state, record.reason) == ("cancelled", "user")
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in set(lines(pids))))
    ran = lines(done)
    kept = items(service, step)
    succeeded = {number for number, one in kept.items() if one.state == "succeeded"}
    assert succeeded <= set(ran)
    assert len(succeeded) >= len(ran) - 10  # of each process the one that was under way
    assert record.fanout is not None
    assert record.fanout.succeeded == len(succeeded)
    assert record.fanout.succeeded + record.fanout.cancelled == 5000
    after = len(ran)
    again = kernel.state(submit(kernel, "y = x", "x in range(3)", step="other"))
    assert again.state == "succeeded"
    assert len(lines(done)) == after


def test_a_killed_worker_loses_only_what_was_under_way_and_nothing_runs_twice(service: House, tmp_path: Path) -> None:
    kernel = service.kernel()
    parents, ran = tmp_path / "parents", tmp_path / "ran"
    source = (
        f"import os, time\nopen({str(ran)!r}, 'a').write(f'{{x}}\\n')\n"
        f"open({str(parents)!r}, 'a').write(f'{{os.getppid()}}\\n')\ntime.sleep(0.3)\ny = x"
    )
    step = submit(kernel, source, "x in range(30)")
    eventually(lambda: len(lines(ran)) >= 8)
    os.kill(_worker_of(lines(parents)[-1]), signal.SIGKILL)
    record = kernel.state(step)
    assert (record.state, record.reason) == ("failed", "worker-lost")
    counts = catalog(service.store).count_items(step)
    assert counts["succeeded"] + counts["failed"] == 30
    assert 1 <= counts["failed"] <= 8
    assert {number: count for number, count in Counter(lines(ran)).items() if count > 1} == {}
    assert not list((service.store / "tmp").glob("begun-*"))


def test_a_fan_out_whose_service_is_killed_is_lost_and_says_so(service: House, tmp_path: Path) -> None:
    kernel = service.kernel(reconnect=True)
    done = tmp_path / "done"
    step = submit(
        kernel, f"import time\nopen({str(done)!r}, 'a').write(f'{{x}}\\n')\ntime.sleep(0.1)\ny = x", "x in range(500)"
    )
    eventually(lambda: len(lines(done)) > 12)
    service.kill()
    eventually(lambda: catalog(service.store).execution(step).state == "failed")
    assert catalog(service.store).execution(step).reason == "service-lost"
    assert kernel.state(submit(kernel, "y = x", "x in range(3)", step="other")).state == "succeeded"


def _worker_of(process: int) -> int:
    """Return the worker above a process: the step server's parent."""
    while True:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        if any(b"multiprocessing" in word or b"spawn_main" in word for word in words):
            return process
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        assert process > 1
