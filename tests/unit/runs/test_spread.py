"""A fan-out's decisions: which items go next, which are tried again, and what it all comes to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbench.core.ids import ExecutionId, RunId
from mlbench.core.messages import Chunk, ChunkEnd, Spread
from mlbench.core.records import Execution, Failure, Metric
from mlbench.runs.spread import Spreading

SECOND = 1_000_000_000


def a_spreading(total: int | None = None, **more: Any) -> Spreading:
    numbers = itertools.count()
    names = more.pop("names", ("x",))
    one = Spreading(
        execution=ExecutionId("e" * 26),
        run=RunId("r" * 26),
        step="train",
        names=names,
        make_id=lambda: f"id{next(numbers)}",
        **more,
    )
    if total is not None:
        begin(one, (total,))
    return one


def begin(one: Spreading, shape: tuple[int, ...], known: dict[int, Execution] | None = None) -> list[Execution]:
    first = one.next(0.0, 4)
    assert first is not None
    assert (first.numbers, first.spread) == ((), None)
    labels = tuple(tuple(f"{name}{place}" for place in range(size)) for name, size in zip("xy", shape, strict=False))
    spread = Spread(shape=shape, labels=labels)
    reused = one.found(spread, known)
    assert one.ended(first.place, ChunkEnd(spread=spread), 0.0) == []
    return reused


def taken(one: Spreading, slots: int = 4, now: float = 0.0) -> Chunk:
    chunk = one.next(now, slots)
    assert chunk is not None
    return chunk


def records(
    chunk: Chunk, *, cost: float = 0.001, fails: Iterable[int] = (), reason: str = "error", **more: Any
) -> tuple[Execution, ...]:
    return tuple(
        Execution(
            id=execution,
            run=RunId("r" * 26),
            step="train",
            state="failed" if number in fails else "succeeded",
            reason=reason if number in fails else None,  # type: ignore[arg-type]
            failure=Failure(ename="ValueError", evalue=f"not {number}", traceback=("t",)) if number in fails else None,
            item=number,
            attempt=attempt,
            started=SECOND,
            ended=SECOND + int(cost * SECOND),
            **more,
        )
        for number, execution, attempt in zip(chunk.numbers, chunk.executions, chunk.attempts, strict=True)
    )


def end(one: Spreading, chunk: Chunk, now: float = 0.0, **more: Any) -> list[Execution]:
    return one.ended(chunk.place, ChunkEnd(executions=records(chunk, **more)), now)


def run_out(one: Spreading, slots: int = 2, cost: Callable[[int], float] = lambda _: 0.001) -> list[tuple[int, ...]]:
    """Run all there is, some chunks at a time; return the items of each chunk."""
    seen: list[tuple[int, ...]] = []
    under_way: list[Chunk] = []
    while not one.over:
        while (chunk := one.next(0.0, slots)) is not None:
            under_way.append(chunk)
        chunk = under_way.pop(0)
        seen.append(chunk.numbers)
        end(one, chunk, cost=cost(chunk.numbers[0]))
    return seen


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_the_first_chunk_only_finds_the_items_and_nothing_is_sent_beside_it() -> None:
    one = a_spreading()
    first = taken(one)
    assert (first.spread, first.numbers, first.seconds) == (None, (), 0.0)
    assert one.next(0.0, 4) is None
    assert not one.over


@settings(deadline=None, max_examples=40)
@given(total=st.integers(0, 1_500), slots=st.integers(1, 9), cost=st.floats(1e-6, 3))
def test_each_item_is_sent_once_whatever_they_cost(total: int, slots: int, cost: float) -> None:
    one = a_spreading(total)
    sent = [number for numbers in run_out(one, slots, lambda _: cost) for number in numbers]
    assert sorted(sent) == list(range(total))
    assert one.outcome().state == "succeeded"
    assert one.fanout.succeeded == total


def test_chunks_of_short_items_are_large_and_those_of_long_ones_are_single_items() -> None:
    short = a_spreading(100_000)
    chunks = run_out(short, 2, lambda _: 1e-5)
    assert len(chunks) < 40
    assert max(map(len, chunks)) == 5_000
    long = a_spreading(40)
    assert {len(numbers) for numbers in run_out(long, 2, lambda _: 30.0)[2:]} == {1}


def test_while_nobody_knows_what_an_item_costs_a_chunk_stops_soon_and_what_is_left_goes_first() -> None:
    one = a_spreading(1_000)
    chunk = taken(one, slots=2)
    assert len(chunk.numbers) == 500
    assert chunk.seconds is not None
    assert chunk.seconds < 0.5
    assert 0 < chunk.rest < 1  # unless that is little
    begun = Chunk(numbers=chunk.numbers[:3], executions=chunk.executions[:3], attempts=chunk.attempts[:3])
    one.ended(chunk.place, ChunkEnd(executions=records(begun, cost=0.5), left=chunk.numbers[3:]), 0.0)
    later = taken(one, slots=2)
    assert (later.numbers, later.rest) == ((3,), 0.0)
    assert taken(one, slots=2).numbers == (4,)


def test_no_more_chunks_are_under_way_than_a_few_more_than_there_is_room_for() -> None:
    one = a_spreading(10_000)
    probes = [taken(one) for _ in range(4)]
    assert one.next(0.0, 4) is None
    end(one, probes[0], cost=1.0)
    under_way = 3
    while one.next(0.0, 4) is not None:
        under_way += 1
    assert under_way == 6


def test_max_parallel_is_the_most_that_is_under_way() -> None:
    one = a_spreading(100, max_parallel=2)
    first = [taken(one, slots=8) for _ in range(2)]
    assert one.next(0.0, 8) is None
    end(one, first[0])
    assert one.next(0.0, 8) is not None
    assert one.next(0.0, 8) is None


def test_one_more_chunk_is_made_ready_where_the_cluster_lets_them_run_in_turn() -> None:
    one = a_spreading(1_000, max_parallel=2, in_turn=True)
    first = [taken(one, slots=8), taken(one, slots=8)]
    assert one.next(0.0, 8) is None  # nobody knows yet how long the others would hold it up
    for chunk in first:
        part = replace(chunk, numbers=chunk.numbers[:9], executions=chunk.executions[:9], attempts=chunk.attempts[:9])
        one.ended(chunk.place, ChunkEnd(executions=records(part, cost=0.01), left=chunk.numbers[9:]), 0.0)
    assert [taken(one, slots=8).at_once for _ in range(3)] == [2, 2, 2]
    assert one.next(0.0, 8) is None


def test_no_chunk_waits_for_its_turn_behind_items_that_take_long() -> None:
    one = a_spreading(100, max_parallel=2, in_turn=True)
    for chunk in [taken(one, slots=8), taken(one, slots=8)]:
        part = replace(chunk, numbers=chunk.numbers[:1], executions=chunk.executions[:1], attempts=chunk.attempts[:1])
        one.ended(chunk.place, ChunkEnd(executions=records(part, cost=5.0), left=chunk.numbers[1:]), 0.0)
    taken(one, slots=8)
    taken(one, slots=8)
    assert one.next(0.0, 8) is None


def test_the_rest_is_shared_out_so_that_no_process_has_the_last_second_to_itself() -> None:
    one = a_spreading(200)
    chunks = run_out(one, 2, lambda _: 0.01)
    assert max(map(len, chunks[2:])) <= 50


def test_none_and_one_item_are_fan_outs_too() -> None:
    none = a_spreading(0)
    assert none.over
    assert none.outcome().state == "succeeded"
    one = a_spreading(1)
    assert run_out(one) == [(0,)]


# --- failures and retries --------------------------------------------------------------------------------------------


def test_a_failed_item_fails_the_step_when_the_others_have_ended_and_the_sentence_says_which() -> None:
    one = a_spreading(names=("x", "y"))
    begin(one, (2, 3))
    chunk = taken(one, slots=1)
    assert len(end(one, chunk, fails={4, 5})) == 6
    outcome = one.outcome()
    assert (outcome.state, outcome.reason) == ("failed", "error")
    assert outcome.failure is not None
    assert outcome.failure.evalue == "2 of 6 items failed, the first is item 4 (x=x1, y=y1): ValueError: not 4."
    assert outcome.failure.remedy is not None
    assert "--cache" in outcome.failure.remedy
    assert one.fanout.failed == 2
    assert one.kept_failures() == [(4, "x1, y1", "ValueError: not 4"), (5, "x1, y2", "ValueError: not 5")]


def test_one_failed_item_is_spoken_of_as_one() -> None:
    one = a_spreading(3)
    end(one, taken(one, slots=1), fails={0}, reason="memory")
    outcome = one.outcome()
    assert outcome.reason == "memory"
    assert outcome.failure is not None
    assert outcome.failure.evalue == "1 of 3 items failed: item 0 (x=x0): ValueError: not 0."


def test_with_catch_the_step_succeeds_without_them() -> None:
    one = a_spreading(3, catch=True)
    end(one, taken(one, slots=1), fails={1})
    assert one.outcome().state == "succeeded"
    assert one.fanout.failed == 1
    assert set(one.failed) == {1}


def test_a_failed_item_is_tried_again_after_its_delay_and_its_attempts_are_kept() -> None:
    one = a_spreading(2, retries=1, retry_delay=30.0)
    first = taken(one, slots=1)
    assert [record.item for record in end(one, first, now=100.0, fails={1}, reason="timeout")] == [0]
    assert one.next(129.0, 1) is None
    assert one.wait(129.0) == pytest.approx(1.0)
    again = taken(one, slots=1, now=130.0)
    assert (again.numbers, again.attempts, again.executions) == ((1,), (2,), (first.executions[1],))
    (record,) = end(one, again, now=131.0)
    assert [(attempt.number, attempt.reason) for attempt in record.attempts] == [(1, "timeout")]
    assert one.over
    assert one.outcome().state == "succeeded"
    assert one.fanout.failed == 0


def test_an_item_that_is_due_again_while_there_is_no_room_is_not_waited_for_by_the_clock() -> None:
    one = a_spreading(3, retries=1, retry_delay=5.0, max_parallel=1)
    chunk = taken(one, slots=1)
    part = Chunk(numbers=chunk.numbers[:1], executions=chunk.executions[:1], attempts=chunk.attempts[:1])
    one.ended(chunk.place, ChunkEnd(executions=records(part, cost=9.0, fails={0}), left=chunk.numbers[1:]), 0.0)
    other = taken(one, slots=1, now=1.0)
    assert one.next(1.0, 1) is None
    assert one.wait(1.0) == pytest.approx(4.0)
    assert one.next(6.0, 1) is None
    assert one.wait(6.0) is None
    end(one, other, now=7.0, cost=9.0)
    assert [taken(one, slots=1, now=7.0).numbers, one.wait(7.0)] == [(2,), None]


def test_an_item_fails_when_its_attempts_are_used_up() -> None:
    one = a_spreading(1, retries=2)
    ends = []
    for _ in range(3):
        ends += end(one, taken(one, slots=1), fails={0})
    assert [(record.attempt, len(record.attempts)) for record in ends] == [(3, 2)]
    assert one.outcome().state == "failed"


# --- ends that nobody wanted -----------------------------------------------------------------------------------------


def test_a_cancel_keeps_what_is_done_and_begins_nothing_more() -> None:
    one = a_spreading(10, retries=3)
    chunk = taken(one, slots=2)
    one.stop("user")
    assert one.next(0.0, 2) is None
    part = Chunk(numbers=chunk.numbers[:2], executions=chunk.executions[:2], attempts=chunk.attempts[:2])
    ended = one.ended(chunk.place, ChunkEnd(executions=records(part, fails={1}), left=chunk.numbers[2:]), 0.0)
    assert [record.state for record in ended] == ["succeeded", "failed"]
    assert one.over
    outcome = one.outcome()
    assert (outcome.state, outcome.reason) == ("cancelled", "user")
    assert (one.fanout.succeeded, one.fanout.failed, one.fanout.cancelled) == (1, 1, 8)


def test_an_item_that_was_cancelled_though_nobody_stopped_the_fan_out_makes_it_fail() -> None:
    for catch in (False, True):
        one = a_spreading(2, catch=catch)
        while (chunk := one.next(0.0, 1)) is not None:
            done = tuple(
                replace(record, state="cancelled", reason="service-lost") if record.item == 1 else record
                for record in records(chunk)
            )
            one.ended(chunk.place, ChunkEnd(executions=done), 0.0)
        outcome = one.outcome()
        assert (outcome.state, outcome.reason) == ("failed", "service-lost")
        assert outcome.failure is not None
        assert outcome.failure.evalue.startswith("1 of 2 items was cancelled")


def test_a_lost_worker_fails_what_was_under_way_and_the_rest_is_sent_again() -> None:
    one = a_spreading(10)
    chunk = taken(one, slots=1)
    one.heard({"begun": [[0, 5], [1, 6]], "ended": [[0, "succeeded", 0.1, None]]})
    one.heard({"begun": [[2, 7]], "ended": [[1, "succeeded", 0.1, None]]})
    part = Chunk(numbers=chunk.numbers[:2], executions=chunk.executions[:2], attempts=chunk.attempts[:2])
    ends = one.lost(chunk.place, records(part), 0.0, at=9)
    assert [(record.item, record.state, record.reason) for record in ends] == [
        (0, "succeeded", None),
        (1, "succeeded", None),
        (2, "failed", "worker-lost"),
    ]
    assert (ends[2].id, ends[2].part_of, ends[2].started, ends[2].label) == (
        chunk.executions[2],
        "e" * 26,
        7,
        {"x": "x2"},
    )
    assert sorted(number for numbers in run_out(one) for number in numbers) == list(range(3, 10))


def test_what_was_begun_unheard_on_a_lost_worker_is_not_begun_again() -> None:
    one = a_spreading(10)
    chunk = taken(one, slots=1)
    one.heard({"begun": [[0, 5]]})
    ends = one.lost(chunk.place, (), 0.0, at=9, begun=3)
    assert [(record.item, record.started) for record in ends] == [(0, 5), (1, None), (2, None), (3, None)]
    assert sorted(number for numbers in run_out(one) for number in numbers) == list(range(4, 10))


def test_an_item_that_was_lost_is_tried_again_if_it_may() -> None:
    one = a_spreading(2, retries=1)
    chunk = taken(one, slots=1)
    one.heard({"begun": [[0, 5]]})
    assert one.lost(chunk.place, (), 0.0, at=9) == []
    again = taken(one, slots=1)
    assert dict(zip(again.numbers, again.attempts, strict=True)) == {0: 2, 1: 1}


def test_one_worker_that_is_lost_with_many_chunks_is_one_loss() -> None:
    one = a_spreading(1_000)
    for chunk in [taken(one, slots=8) for _ in range(8)]:
        one.lost(chunk.place, (), 0.0, at=9)
    assert sorted(number for numbers in run_out(one, 8) for number in numbers) == list(range(1_000))
    assert one.outcome().state == "succeeded"


def test_workers_that_are_lost_one_after_the_other_end_the_fan_out() -> None:
    one = a_spreading(5)
    for _ in range(9):
        chunk = one.next(0.0, 1)
        if chunk is None:
            break
        one.lost(chunk.place, (), 0.0, at=9)
    assert one.over
    outcome = one.outcome()
    assert (outcome.state, outcome.reason) == ("failed", "worker-lost")


def test_a_process_that_could_begin_no_item_fails_the_step() -> None:
    one = a_spreading()
    first = taken(one)
    failure = Failure(ename="NameError", evalue="name 'xs' is not defined")
    assert one.ended(first.place, ChunkEnd(failure=failure, reason="error"), 0.0) == []
    assert one.over
    assert one.outcome().failure == failure
    assert one.fanout.total is None


def test_items_that_change_what_they_are_given_are_run_apart_from_then_on() -> None:
    one = a_spreading(50)
    chunk = taken(one, slots=2)
    assert not chunk.apart
    one.ended(chunk.place, ChunkEnd(left=chunk.numbers, changed=("rows",)), 0.0)
    again = taken(one, slots=1)
    assert again.apart
    assert len(again.numbers) == 50
    end(one, again)
    note = one.outcome().note
    assert note is not None
    assert "rows" in note


# --- reuse and counts ------------------------------------------------------------------------------------------------


def test_items_that_are_known_are_not_run_and_say_where_they_come_from() -> None:
    one = a_spreading()
    former = Execution(
        id=ExecutionId("f" * 26),
        run=RunId("q" * 26),
        step="train",
        state="succeeded",
        item=7,
        metrics=(Metric(name="rmse", value=2.0),),
    )
    (reused,) = begin(one, (4,), {2: former})
    assert (reused.state, reused.reused_from, reused.item, reused.run) == ("reused", former.id, 2, "r" * 26)
    assert reused.id != former.id
    assert reused.label == {"x": "x2"}
    sent = [number for numbers in run_out(one) for number in numbers]
    assert sorted(sent) == [0, 1, 3]
    assert (one.fanout.reused, one.fanout.succeeded, one.fanout.metric) == (1, 3, "rmse")


def test_a_fan_out_that_is_known_whole_runs_nothing() -> None:
    one = a_spreading()
    former = Execution(id=ExecutionId("f" * 26), run=RunId("q" * 26), step="train", state="succeeded", item=0)
    begin(one, (2,), {0: former, 1: former})
    assert one.over
    assert one.outcome().state == "succeeded"


def test_the_counts_follow_what_is_heard_and_end_with_what_is_recorded() -> None:
    one = a_spreading(4)
    chunk = taken(one, slots=1)
    one.heard({"begun": [[0, 1], [1, 1]]})
    assert one.fanout.running == 2
    one.heard({"ended": [[0, "succeeded", 0.1, 1.5]], "begun": [[2, 1]]})
    assert (one.fanout.running, one.fanout.succeeded) == (2, 1)
    end(one, chunk, cost=0.5, cpu=0.25, peak_memory=100, metrics=(Metric(name="rmse", value=3.0),))
    fanout = one.fanout
    assert (fanout.running, fanout.succeeded, fanout.seconds, fanout.slowest_seconds) == (0, 4, 2.0, 0.5)
    assert (fanout.metric, one.cpu, one.peak_memory) == ("rmse", 1.0, 100)
    assert bytes(one.states) == b"ssss"
