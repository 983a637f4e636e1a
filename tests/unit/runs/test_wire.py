"""Several threads of a new process may fill records at the same moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mlbench.core.records import Metric
from mlbench.runs.wire import encoded, msgspec

THREADS = """
import sys, threading, time
sys.setswitchinterval(1e-6)
from mlbench.runs.wire import msgspec
from mlbench.core.records import Execution

barrier = threading.Barrier(6)

def fill(number):
    barrier.wait()
    until = time.perf_counter() + number * 1.5e-4
    while time.perf_counter() < until:
        pass
    given = {"id": "x", "run": "y", "step": "s", "state": "queued", "reads": [{"name": "a"}], "binds": [{"name": "b"}]}
    assert msgspec.convert(given, Execution).binds[0].name == "b"

threads = [threading.Thread(target=fill, args=(number,)) for number in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_a_new_process_fills_records_in_several_threads_at_once() -> None:
    ends = [subprocess.run([sys.executable, "-c", THREADS], check=False, timeout=60).returncode for _ in range(12)]
    assert set(ends) == {0}  # with msgspec as it is, one process of seven ends by a segmentation fault


def test_every_record_that_travels_is_known_before_threads_begin() -> None:
    code = (
        "import dataclasses, mlbench.runs.wire\n"
        "from mlbench.core import messages, records\n"
        "kinds = {kind for module in (records, messages) for kind in vars(module).values()\n"
        "         if isinstance(kind, type) and dataclasses.is_dataclass(kind)}\n"
        "assert len(kinds) > 15\n"
        "print([kind.__name__ for kind in kinds if '__msgspec_cache__' not in vars(kind)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_whoever_fills_records_has_msgspec_from_there(root: Path) -> None:
    fillers = [path for path in (root / "mlbench").rglob("*.py") if "msgspec.convert(" in path.read_text("utf-8")]
    assert len(fillers) > 10
    assert [path.name for path in fillers if "mlbench.runs.wire import" not in path.read_text("utf-8")] == []


def test_a_metric_without_a_number_is_a_text_also_beside_what_is_json_already() -> None:
    record = {"binds": msgspec.Raw(b'[{"name":"y"}]'), "metrics": [Metric(name="loss", value=float("nan"))], "item": 3}
    assert msgspec.json.decode(encoded(record)) == {
        "binds": [{"name": "y"}],
        "metrics": [{"name": "loss", "value": "nan", "step": None, "time": 0}],
        "item": 3,
    }
