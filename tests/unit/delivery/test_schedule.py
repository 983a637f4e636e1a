"""When a schedule is due, and which lines are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import CroniterBadDateError, croniter
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlbench.core.errors import ScheduleError
from mlbench.delivery import schedule

# What Debian's cron does, line by line: name, cron, zone, seed, the times that follow (all UTC).
JUDGED = [
    ("a time in the skipped hour runs right after it, once", "30 2 * * *", "America/New_York",
     "2025-03-08T12:00", ["2025-03-09T07:00", "2025-03-10T06:30"]),
    ("the first skipped minute runs right after the gap", "0 2 * * *", "America/New_York",
     "2025-03-08T12:00", ["2025-03-09T07:00", "2025-03-10T06:00"]),
    ("half hours go on evenly over a gap", "*/30 * * * *", "America/New_York",
     "2025-03-09T06:10", ["2025-03-09T06:30", "2025-03-09T07:00", "2025-03-09T07:30"]),
    ("hours go on evenly over a gap", "0 * * * *", "America/New_York",
     "2025-03-09T05:30", ["2025-03-09T06:00", "2025-03-09T07:00", "2025-03-09T08:00"]),
    ("a time in the repeated hour runs the first time only", "30 1 * * *", "America/New_York",
     "2025-11-01T12:00", ["2025-11-02T05:30", "2025-11-03T06:30"]),
    ("the first repeated minute runs once", "0 1 * * *", "America/New_York",
     "2025-11-01T12:00", ["2025-11-02T05:00", "2025-11-03T06:00"]),
    ("hours go on evenly over a repeated hour", "0 * * * *", "America/New_York",
     "2025-11-02T04:30", ["2025-11-02T05:00", "2025-11-02T06:00", "2025-11-02T07:00"]),
    ("half hours go on evenly over a repeated hour", "*/30 * * * *", "America/New_York",
     "2025-11-02T05:10", ["2025-11-02T05:30", "2025-11-02T06:00", "2025-11-02T06:30", "2025-11-02T07:00"]),
    ("a seed in the second pass gives the next day, not the past", "30 1 * * *", "America/New_York",
     "2025-11-02T06:10", ["2025-11-03T06:30"]),
    ("a seed in the second pass of an even line goes on in it", "*/30 * * * *", "America/New_York",
     "2025-11-02T06:10", ["2025-11-02T06:30", "2025-11-02T07:00"]),
    ("a gap of half an hour", "15 2 * * *", "Australia/Lord_Howe",
     "2025-10-04T12:00", ["2025-10-04T15:30", "2025-10-05T15:15"]),
    ("a repeated half hour", "45 1 * * *", "Australia/Lord_Howe",
     "2025-04-05T12:00", ["2025-04-05T14:45", "2025-04-06T15:15"]),
    ("a gap at midnight does not lose the day", "0 0 * * *", "Africa/Cairo",
     "2025-04-24T12:00", ["2025-04-24T22:00", "2025-04-25T21:00"]),
    ("a gap at midnight, half an hour into it", "30 0 * * *", "Asia/Beirut",
     "2025-03-29T12:00", ["2025-03-29T22:00", "2025-03-30T21:30"]),
    ("the hour before midnight, repeated", "30 23 * * *", "Africa/Cairo",
     "2025-10-30T12:00", ["2025-10-30T20:30", "2025-10-31T21:30"]),
    ("day of month or day of week", "0 0 13 * 5", "UTC",
     "2025-06-07T00:00", ["2025-06-13T00:00", "2025-06-20T00:00"]),
    ("day of month and day of week where one begins with a star", "0 0 */2 * 1", "UTC",
     "2025-06-01T00:00", ["2025-06-09T00:00", "2025-06-23T00:00"]),
    ("seven is Sunday", "0 0 * * 7", "UTC", "2025-06-02T00:00", ["2025-06-08T00:00", "2025-06-15T00:00"]),
    ("zero is Sunday", "0 0 * * 0", "UTC", "2025-06-02T00:00", ["2025-06-08T00:00", "2025-06-15T00:00"]),
    ("names of days and months, in any case", "0 9 * jan-MAR Mon-fri", "UTC",
     "2025-03-31T09:00", ["2026-01-01T09:00", "2026-01-02T09:00", "2026-01-05T09:00"]),
    ("the leap day", "0 0 29 2 *", "UTC", "2025-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
]  # fmt: skip

ZONES = [
    "Africa/Cairo", "Africa/Lagos", "America/Bogota", "America/Chicago", "America/Los_Angeles", "America/New_York",
    "America/Santiago", "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut", "Asia/Calcutta", "Asia/Kathmandu",
    "Asia/Tokyo", "Australia/Lord_Howe", "Australia/Sydney", "Europe/Berlin", "Europe/London", "Pacific/Apia",
    "Pacific/Chatham", "UTC",
]  # fmt: skip


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("cron", "zone", "seed", "expected"), [case[1:] for case in JUDGED], ids=[c[0] for c in JUDGED]
)
def test_a_line_is_due_as_debians_cron_has_it(cron: str, zone: str, seed: str, expected: list[str]) -> None:
    due, found = seconds(seed), []
    for _ in expected:
        due = schedule.next_due(cron, zone, due)
        found.append(datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%dT%H:%M"))
    assert found == expected


def test_the_table_has_all_judged_cases() -> None:
    assert len(JUDGED) == 21


def test_the_day_that_samoa_never_had_is_passed_over() -> None:
    seed = seconds("2011-12-29T12:00")
    assert schedule.next_due("0 12 * * *", "Pacific/Apia", seed) > seed


minutes = st.one_of(
    st.just("*"), st.integers(0, 59).map(str), st.sampled_from(["*/5", "*/15", "0,30", "10-20", "5-50/7"])
)
hours = st.one_of(st.just("*"), st.integers(0, 23).map(str), st.sampled_from(["*/2", "9-17", "0,12", "1-23/3"]))
days = st.one_of(st.just("*"), st.integers(1, 28).map(str), st.sampled_from(["1,15", "10-20", "31"]))
months = st.one_of(st.just("*"), st.sampled_from(["1", "JAN-MAR", "1,7", "*/3", "12"]))
weekdays = st.one_of(st.just("*"), st.sampled_from(["0", "7", "1-5", "MON", "SAT,SUN", "2,4"]))
lines = st.tuples(minutes, hours, days, months, weekdays).map(" ".join)
times = st.integers(seconds("2020-01-01T00:00"), seconds("2030-01-01T00:00"))


@given(lines, st.sampled_from(ZONES), times)
@settings(max_examples=300, deadline=None)
def test_away_from_changes_of_the_clocks_another_library_agrees(cron: str, zone: str, seed: int) -> None:
    due = schedule.next_due(cron, zone, seed)
    assert due > seed
    tz, day = ZoneInfo(zone), timedelta(days=1)
    start, end = datetime.fromtimestamp(seed, tz), datetime.fromtimestamp(due, tz)
    offsets = {(start - day).utcoffset(), (end + day).utcoffset()}
    offsets |= {(start + n * day).utcoffset() for n in range((end - start).days + 1)}
    assume(len(offsets) == 1)
    try:
        expected = croniter(cron, start).get_next(datetime)
    except CroniterBadDateError:
        assume(False)
    assert int(expected.timestamp()) == due


@given(lines, st.sampled_from(ZONES), times)
@settings(max_examples=200, deadline=None)
def test_a_due_time_lies_after_its_seed_and_asking_again_never_repeats_one(cron: str, zone: str, seed: int) -> None:
    first = schedule.next_due(cron, zone, seed)
    second = schedule.next_due(cron, zone, first)
    assert seed < first < second
    assert schedule.next_due(cron, zone, first - 1) == first


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "empty"), ("   ", "empty"), ("L", "1 field"), ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"), ("* * * *", "4 fields"), ("0 0 * * * *", "Seconds"),
        ("0 0 0 * * * *", "7 fields"), ("60 * * * *", 'minute "60"'), ("* 24 * * *", 'hour "24"'),
        ("*/0 * * * *", "minute"), ("5-1 * * * *", "minute"), ("-1 * * * *", "minute"), ("1e2 * * * *", "minute"),
        ("\u0663 * * * *", "minute"), ("a b c d e", "minute"), ("H H * * *", "minute"), ("@reboot", "not one"),
        ("@dayly", "@daily"), ("0 0 * * *; rm", "6 fields"), ("0 0 15W * *", "day of the month"), ("1" * 5000, "5,000"),
        ("1,1" * 20_000 + " * * * *", "characters"), ("0 0 0 * *", "day of the month"), ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "day of the week"), ("0 0 * * MON#6", "day of the week"), ("\x00 * * * *", "minute"),
        ("1" * 200 + " * * * *", "minute"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_used_is_refused_in_one_sentence(cron: str, says: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        schedule.check(cron, "UTC")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value).replace(cron, "")


@pytest.mark.parametrize(
    "zone",
    ["Mars/Phobos", "../../etc/passwd", None, "", "localtime", "right/UTC", "/etc/localtime", "UTC\x00", "a" * 5000],
)
def test_a_zone_that_is_none_is_refused(zone: str | None) -> None:
    with pytest.raises(ScheduleError):
        schedule.check("0 6 * * *", zone)


def test_a_zone_with_a_small_mistake_names_the_right_one() -> None:
    with pytest.raises(ScheduleError, match="Did you mean Europe/Berlin"):
        schedule.check("0 6 * * *", "Europe/berlin")


@pytest.mark.parametrize(
    ("alias", "line"),
    [("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@weekly", "0 0 * * 0"), ("@monthly", "0 0 1 * *"),
     ("@yearly", "0 0 1 1 *"), ("@DAILY", "0 0 * * *")],
)  # fmt: skip
def test_an_alias_is_stored_as_its_five_fields(alias: str, line: str) -> None:
    assert schedule.check(alias, "UTC") == line


@pytest.mark.parametrize(
    ("cron", "zone", "words"),
    [
        ("0 6 * * 1-5", "Europe/Berlin", "At 06:00, Monday to Friday, Berlin time"),
        ("* * * * *", "UTC", "Every minute, UTC"),
        ("*/15 * * * *", "UTC", "Every 15 minutes, UTC"),
        ("0 * * * *", "America/New_York", "Every hour, New York time"),
        ("7 * * * *", "UTC", "At minute 7 of every hour, UTC"),
        ("0 6 * * *", "UTC", "At 06:00, every day, UTC"),
        ("15 2,14 * * *", "UTC", "At 02:15 and 14:15, every day, UTC"),
        ("0 */2 * * *", "UTC", "Every 2 hours, every day, UTC"),
        ("0 9-17 * * 1-5", "UTC", "Every hour from 09:00 to 17:00, Monday to Friday, UTC"),
        ("*/10 9-17 * * *", "UTC", "Every 10 minutes from 09:00 to 17:50, every day, UTC"),
        ("30 7 * * MON,WED", "UTC", "At 07:30, Monday and Wednesday, UTC"),
        ("0 0 1 * *", "UTC", "At 00:00, on day 1 of the month, UTC"),
        ("0 0 1,15 * *", "UTC", "At 00:00, on days 1 and 15 of the month, UTC"),
        ("0 0 L * *", "UTC", "At 00:00, on the last day of the month, UTC"),
        ("0 9 * * MON#2", "UTC", "At 09:00, on the second Monday of the month, UTC"),
        ("0 9 * * 5L", "UTC", "At 09:00, on the last Friday of the month, UTC"),
        ("0 0 13 * 5", "UTC", "At 00:00, on day 13 of the month and also Friday, UTC"),
        ("0 0 1 JAN,JUL *", "UTC", "At 00:00, on day 1 of the month, in January and July, UTC"),
        ("0 0 * * 7", "UTC", "At 00:00, Sunday, UTC"),
    ],
)
def test_a_schedule_is_said_in_words(cron: str, zone: str, words: str) -> None:
    assert schedule.sentence(cron, zone) == words


@given(lines, st.sampled_from(ZONES))
@settings(max_examples=200, deadline=None)
def test_every_accepted_line_has_words(cron: str, zone: str) -> None:
    assert schedule.sentence(cron, zone)
    assert schedule.short_sentence(cron, zone)


def test_the_next_times_are_shown_on_the_zones_own_clocks() -> None:
    times = schedule.next_times("0 6 * * 1-5", "Europe/Berlin", seconds("2026-11-20T12:00"))
    assert [time.strftime("%a %d %b %H:%M") for time in times] == [
        "Mon 23 Nov 06:00", "Tue 24 Nov 06:00", "Wed 25 Nov 06:00", "Thu 26 Nov 06:00", "Fri 27 Nov 06:00",
    ]  # fmt: skip
    assert {time.utcoffset() for time in times} == {timedelta(hours=1)}
