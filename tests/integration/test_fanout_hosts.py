"""A process that has loaded what a fan-out's items are given runs the chunks that follow, and is no trace of others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlbench.backends.cluster_dask.worker import hosts
from mlbench.core.messages import Spread, StepTask
from tests.integration.items import Ended, chunk_of, evaluated, run_chunk, spread_task
from tests.integration.steps import alive, await_true, environment, stopped

Chunked = Callable[..., tuple[StepTask, Spread]]

HOST = "import os\nhost = os.getppid()"


@pytest.fixture
def chunked(tmp_path: Path) -> Chunked:
    """Begin a fan-out of four items with a source."""

    def begin(source: str = HOST) -> tuple[StepTask, Spread]:
        task = spread_task(tmp_path, source, {"x": "range(4)"}, captured={"seen": []}, defs=("host", "count"))
        spread = evaluated(task).spread
        assert spread is not None
        return task, spread

    return begin


def host_of(ended: Ended) -> int:
    """Return the process that loaded for a chunk's items."""
    assert set(ended.states) == {"succeeded"}, ended.end
    (found,) = set(ended.values("host"))
    assert isinstance(found, int)
    return found


def test_the_chunk_that_follows_is_run_where_all_is_loaded_and_sees_nothing_of_the_one_before(
    chunked: Chunked,
) -> None:
    task, spread = chunked(f"{HOST}\nseen.append(x)\ncount = len(seen)\nprint('item', x)")
    first = run_chunk(task, chunk_of(spread, (0, 1), place=1))
    second = run_chunk(task, chunk_of(spread, (2, 3), place=2))
    assert host_of(first) == host_of(second)
    assert first.values("count") == second.values("count") == [1, 1]
    assert [second.text(number) for number in (2, 3)] == ["item 2\n", "item 3\n"]
    assert second.end.changed == ("seen",)  # found out anew, by what was loaded


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_was_killed_or_stopped_while_it_waited_keeps_nobody_waiting(
    chunked: Chunked, number: signal.Signals
) -> None:
    task, spread = chunked()
    process = host_of(run_chunk(task, chunk_of(spread, (0, 1), place=1)))
    os.kill(process, number)
    await_true(lambda: not alive(process) if number == signal.SIGKILL else stopped(process))
    following = host_of(run_chunk(task, chunk_of(spread, (2, 3), place=2)))
    assert (following == process) is (number == signal.SIGSTOP)


def test_what_items_have_left_running_ends_with_their_chunk(chunked: Chunked) -> None:
    task, spread = chunked(f"{HOST}\nimport subprocess\ncount = subprocess.Popen(['sleep', '300']).pid")
    first = run_chunk(task, chunk_of(spread, (0,), place=1))
    process, left = host_of(first), first.values("count")[0]
    assert host_of(run_chunk(task, chunk_of(spread, (2,), place=2))) != process
    await_true(lambda: not alive(left) and not alive(process))


def test_other_surroundings_and_other_fan_outs_get_processes_of_their_own(
    chunked: Chunked,
) -> None:
    task, spread = chunked()
    process = host_of(run_chunk(task, chunk_of(spread, (0,), place=1)))
    elsewhere = replace(task, environment=environment(CUDA_VISIBLE_DEVICES="1"))
    assert host_of(run_chunk(elsewhere, chunk_of(spread, (1,), place=2))) != process
    other, others = chunked()
    assert host_of(run_chunk(other, chunk_of(others, (0,), place=1))) != process


def test_a_process_for_which_nothing_more_comes_ends(chunked: Chunked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_WAIT_SECONDS", 0.1)
    task, spread = chunked()
    process = host_of(run_chunk(task, chunk_of(spread, (0,), place=1)))
    await_true(lambda: not alive(process))
    assert host_of(run_chunk(task, chunk_of(spread, (1,), place=2))) != process
