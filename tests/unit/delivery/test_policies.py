"""What a job owes when its time has come, or has passed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlbench.core.errors import ScheduleError
from mlbench.core.ids import Digest, JobId
from mlbench.core.records import Job, JobVersion
from mlbench.delivery import policies

HOUR = 3600
JOB = Job(
    id=JobId("a" * 26),
    name="nightly",
    notebook="/home/ada/n.ipynb",
    version=JobVersion(number=1, snapshot=Digest("blake3:" + "0" * 64)),
    cron="0 * * * *",
    timezone="UTC",
    next_due=10 * HOUR,
)


def job(**policy: Any) -> Job:
    return replace(JOB, version=replace(JOB.version, **policy))


def test_a_job_that_is_due_fires_once_and_is_due_again_later() -> None:
    due = policies.owed(JOB, 10 * HOUR)
    assert [(f.due, f.state, f.skipped) for f in due.firings] == [(10 * HOUR, "queued", 0)]
    assert due.next_due == 11 * HOUR


def test_a_job_whose_time_has_not_come_owes_nothing() -> None:
    due = policies.owed(JOB, 10 * HOUR - 1)
    assert due.firings == ()
    assert due.next_due == 10 * HOUR


def test_latest_makes_up_for_missed_times_by_one_firing_that_says_how_many() -> None:
    due = policies.owed(JOB, 15 * HOUR + 600)
    assert [(f.due, f.state, f.skipped) for f in due.firings] == [(15 * HOUR, "queued", 5)]
    assert due.next_due == 16 * HOUR


def test_skip_only_notes_a_missed_time() -> None:
    due = policies.owed(job(missed="skip"), 15 * HOUR + 600)
    assert [(f.due, f.state, f.skipped) for f in due.firings] == [(15 * HOUR, "skipped", 5)]
    assert "missed" in (due.firings[0].reason or "")


def test_skip_fires_a_time_that_has_just_come() -> None:
    due = policies.owed(job(missed="skip"), 15 * HOUR + 5)
    assert [(f.due, f.state, f.skipped) for f in due.firings] == [(15 * HOUR, "queued", 5)]


def test_all_makes_up_for_each_missed_time_within_its_limit() -> None:
    due = policies.owed(job(missed="all"), 12 * HOUR)
    assert [f.due for f in due.firings] == [10 * HOUR, 11 * HOUR, 12 * HOUR]
    many = policies.owed(job(missed="all"), 1000 * HOUR)
    assert len(many.firings) == policies.MOST_CATCH_UP
    assert many.firings[-1].due == 1000 * HOUR
    assert sum(f.skipped + 1 for f in many.firings) == 991


def test_a_long_sleep_costs_a_bounded_amount_of_work() -> None:
    minutely = replace(JOB, cron="* * * * *")
    due = policies.owed(minutely, 10 * HOUR + 20 * 366 * 24 * HOUR)
    assert [firing.due for firing in due.firings] == [10 * HOUR + 20 * 366 * 24 * HOUR]
    assert due.next_due == 10 * HOUR + 20 * 366 * 24 * HOUR + 60


def test_a_line_that_went_bad_in_the_catalog_says_so() -> None:
    with pytest.raises(ScheduleError):
        policies.owed(replace(JOB, cron="0 0 30 2 *"), 20 * HOUR)
