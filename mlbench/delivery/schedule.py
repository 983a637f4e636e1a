"""When a schedule is due: a cron line read in a time zone, as Debian's cron reads it.

Three rules of cron are easy to get wrong, and are kept here. A job at a fixed time that falls into the hour that the
clocks skip runs right after it; one that falls into the hour that they repeat runs once; one that runs every hour or
more often goes on evenly. The arithmetic is cronsim's; this module decides which lines are accepted at all, and sees
to it that a due time always lies after the time it was asked for.

A line has five fields (minute, hour, day of the month, month, day of the week), or is one of `@hourly`, `@daily`,
`@weekly`, `@monthly` and `@yearly`. Times are UTC seconds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from mlbench.core.errors import ScheduleError

__all__ = ["check", "next_due", "next_times", "sentence", "short_sentence"]

ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
LONGEST_LINE: Final = 256
"""Characters of a cron line; a longer one is a mistake or an attack."""

FIELDS: Final = ("minute", "hour", "day of the month", "month", "day of the week")
_RANGES: Final = ("0 to 59", "0 to 23", "1 to 31", "1 to 12 or JAN to DEC", "0 to 7 or SUN to SAT")
_FIELD: Final = re.compile(r"[0-9A-Z*,/#-]+")
_EXAMPLE: Final = 'Write five fields, such as "0 6 * * 1-5" for 06:00 on weekdays.'
_DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_DAY_NAMES: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_MONTH_NAMES: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_ORDINALS: Final = {"1": "first", "2": "second", "3": "third", "4": "fourth", "5": "fifth"}


def check(cron: str, timezone: str | None) -> str:
    """Return a cron line as it is stored: five fields, aliases written out.

    Raises
    ------
    ScheduleError
        If the line or the zone cannot be used, or if the line never comes due.

    Examples
    --------
    >>> check("@daily", "Europe/Berlin")
    '0 0 * * *'
    """
    line = _read(cron)
    _zone(timezone)
    _first_tick(cron, line)
    return line


def next_due(cron: str, timezone: str | None, after: int) -> int:
    """Return the first time, in UTC seconds, that is due later than `after`.

    Seed it with the due time before, never with the present: then no time is left out.

    Raises
    ------
    ScheduleError
        As `check` does, and if nothing is due in the years that a calendar has.

    Examples
    --------
    >>> next_due("0 6 * * *", "UTC", 0)
    21600
    """
    return next(_due_times(cron, timezone, after))


def next_times(cron: str, timezone: str | None, after: int, count: int = 5) -> tuple[datetime, ...]:
    """Return the next due times as a reader of the zone's clocks sees them.

    Examples
    --------
    >>> [time.isoformat() for time in next_times("0 6 * * 1-5", "Europe/Berlin", 0, 2)]
    ['1970-01-01T06:00:00+01:00', '1970-01-02T06:00:00+01:00']
    """
    zone = _zone(timezone)
    due = _due_times(cron, timezone, after)
    return tuple(datetime.fromtimestamp(next(due), zone) for _ in range(count))


def sentence(cron: str, timezone: str | None) -> str:
    """Say in words when a schedule runs.

    Examples
    --------
    >>> sentence("0 6 * * 1-5", "Europe/Berlin")
    'At 06:00, Monday to Friday, Berlin time'
    >>> sentence("*/15 9-17 * * *", "UTC")
    'Every 15 minutes from 09:00 to 17:45, every day, UTC'
    """
    minute, hour, day, month, weekday = check(cron, timezone).split()
    when = _clock_words(minute, hour)
    days = _day_words(day, weekday)
    months = _month_words(month)
    if not days and not months:
        rest = [] if hour == "*" else ["every day"]
    else:
        rest = [words for words in (days, months) if words]
    return ", ".join([when, *rest, _zone_words(timezone)])


def short_sentence(cron: str, timezone: str | None) -> str:
    """Say when a schedule runs in the few words that a list has room for.

    Examples
    --------
    >>> short_sentence("0 6 * * 1-5", "Europe/Berlin"), short_sentence("30 7 * * 1", "Europe/Berlin")
    ('weekdays 06:00 Berlin', 'Mondays 07:30 Berlin')
    >>> short_sentence("*/15 * * * *", "UTC")
    'every 15 minutes UTC'
    """
    minute, hour, day, month, weekday = check(cron, timezone).split()
    zone = _city(timezone)
    if not (minute.isdigit() and hour.isdigit()):
        words = sentence(cron, timezone).rsplit(", ", 1)[0]
        return f"{words[0].lower()}{words[1:]} {zone}"
    clock = f"{int(hour):02}:{int(minute):02}"
    numbers = _numbers(weekday, _DAY_NAMES)
    if day == month == weekday == "*":
        return f"daily {clock} {zone}"
    if day == month == "*" and weekday in ("1-5", "MON-FRI"):
        return f"weekdays {clock} {zone}"
    if day == month == "*" and numbers is not None and len(numbers) <= 3:
        return f"{_listed([f'{_DAYS[number % 7]}s' for number in numbers])} {clock} {zone}"
    if day.isdigit() and month == weekday == "*":
        return f"monthly on day {int(day)} {clock} {zone}"
    words = sentence(cron, timezone).rsplit(", ", 1)[0]
    return f"{words[0].lower()}{words[1:]} {zone}"


# Reading


def _read(cron: str) -> str:
    """Return the five fields of a line in one spelling, or say which one is wrong."""
    if not cron.strip():
        raise ScheduleError("The schedule is empty.", _EXAMPLE)
    if len(cron) > LONGEST_LINE:
        raise ScheduleError(f"The schedule has {len(cron):,} characters; {LONGEST_LINE} are the most.", _EXAMPLE)
    text = cron.strip()
    if text.startswith("@"):
        if text.lower() in ALIASES:
            return ALIASES[text.lower()]
        near = difflib.get_close_matches(text.lower(), ALIASES, 1)
        meant = f"Did you mean {near[0]}?" if near else f"Use {', '.join(sorted(ALIASES))}, or five fields."
        raise ScheduleError(f'The schedule "{text}" is not one that mlbench knows.', meant)
    fields = text.upper().split()
    if len(fields) != 5:
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        hint = " Seconds are not supported." if len(fields) == 6 else ""
        raise ScheduleError(f'The schedule "{text}" has {count}, not five.{hint}', _EXAMPLE)
    for position, field in enumerate(fields):
        probe = ["0", "*", "*", "*", "*"]
        probe[position] = field
        if _FIELD.fullmatch(field) is None or not _is_cron(" ".join(probe)):
            raise ScheduleError(
                f'The {FIELDS[position]} "{field}" in the schedule "{text}" cannot be read.',
                f"It is {_RANGES[position]}, *, a list (1,2), a range (1-5) or a step (*/2).",
            )
    return " ".join(fields)


def _is_cron(line: str) -> bool:
    """Say whether cronsim reads a line; that it never comes due is said later, in a better sentence."""
    try:
        CronSim(line, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, ValueError, IndexError):
        return False
    return True


def _first_tick(cron: str, line: str) -> None:
    """Refuse a line that never comes due; a date that a leap year has is due within eight years."""
    try:
        next(CronSim(line, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration, OverflowError) as error:
        raise ScheduleError(
            f'The schedule "{cron.strip()}" never fires: none of its months has such a day.',
            "Choose a day that the month has, or L for its last one.",
        ) from error


@lru_cache(maxsize=256)
def _zone(timezone: str | None) -> ZoneInfo:
    """Return a zone of the IANA database, by its exact name only."""
    if not timezone:
        raise ScheduleError("A schedule needs a time zone.", "Name one, such as Europe/Berlin or UTC.")
    known = _zone_names()
    if timezone not in known:
        shown = timezone if len(timezone) <= 64 else f"{timezone[:60]} ..."
        near = difflib.get_close_matches(timezone[:64], known, 1)
        meant = f"Did you mean {near[0]}?" if near else "Name one, such as Europe/Berlin or UTC."
        raise ScheduleError(f'"{shown}" is not a time zone.', meant)
    return ZoneInfo(timezone)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime", "posixrules", "Factory"}


def _due_times(cron: str, timezone: str | None, after: int) -> Iterator[int]:
    line, zone = _read(cron), _zone(timezone)
    _first_tick(cron, line)
    try:
        # An evenly running line is computed in the zone, a fixed time on the zone's clocks: there a start in the
        # second pass of a repeated hour looks like one in the first, so what has passed already is left out below.
        ticks = CronSim(line, datetime.fromtimestamp(after, UTC).astimezone(zone))
        for tick in ticks:
            due = int(tick.timestamp())
            if due > after:
                yield due
                after = due
    except (CronSimError, OverflowError, OSError, ValueError) as error:
        raise ScheduleError(f'The schedule "{cron.strip()}" is not due at any time that a calendar has.') from error
    raise ScheduleError(f'The schedule "{cron.strip()}" is not due at any time that a calendar has.')


# Words


def _numbers(field: str, names: tuple[str, ...] = (), base: int = 0) -> list[int] | None:
    """Return what a field made of plain numbers, names and ranges lists; None if it holds anything else."""
    found: list[int] = []
    for term in field.split(","):
        ends = [str(names.index(end) + base) if end in names else end for end in term.split("-")]
        if len(ends) > 2 or not all(end.isdigit() for end in ends):
            return None
        found.extend(range(int(ends[0]), int(ends[-1]) + 1))
    return found


def _clock_words(minute: str, hour: str) -> str:
    minutes, hours = _numbers(minute), _numbers(hour)
    if minutes is not None and hours is not None and len(minutes) * len(hours) <= 6:
        return "At " + _listed([f"{h:02}:{m:02}" for h in sorted(set(hours)) for m in sorted(set(minutes))])
    step = _step(minute)
    if hour == "*":
        if step is not None:
            return _every(step, "minute")
        if minute == "0":
            return "Every hour"
        if minutes is not None:
            return f"At {_minute_words(minutes)} of every hour"
        return f"At the minutes {minute} of every hour"
    every = _step(hour)
    at = f", at {_minute_words(minutes)}" if minutes is not None else f", at the minutes {minute}"
    at = "" if minute == "0" else at
    if every is not None and step is None:
        return f"{_every(every, 'hour')}{at}"
    if hours is not None and step is not None:
        last = 60 - (60 % step or step)
        spans = _spans(hours)
        windows = _listed([f"from {first:02}:00 to {end:02}:{last:02}" for first, end in spans])
        return f"{_every(step, 'minute')} {windows}"
    if hours is not None and minutes is not None and len(_spans(hours)) == 1 and len(hours) > 2:
        first, end = _spans(hours)[0]
        return f"Every hour from {first:02}:00 to {end:02}:00{at}"
    return f"At the minutes {minute} of the hours {hour}"


def _minute_words(minutes: list[int]) -> str:
    return f"{'minute' if len(minutes) == 1 else 'minutes'} {_listed([str(m) for m in minutes])}"


def _step(field: str) -> int | None:
    """Return N of `*/N`, 1 of `*`."""
    if field == "*":
        return 1
    star, slash, number = field.partition("/")
    return int(number) if star == "*" and slash and number.isdigit() else None


def _every(step: int, unit: str) -> str:
    return f"Every {unit}" if step == 1 else f"Every {step} {unit}s"


def _spans(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the runs of neighbours in a list of numbers.

    Examples
    --------
    >>> _spans([1, 2, 3, 7])
    [(1, 3), (7, 7)]
    """
    spans: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def _day_words(day: str, weekday: str) -> str:
    of_month = "" if day == "*" else _month_day_words(day)
    of_week = "" if weekday == "*" else _weekday_words(weekday)
    if of_month and of_week:
        # Debian's rule: both must hold if one of the fields begins with a star, else either is enough.
        both = day.startswith("*") or weekday.startswith("*")
        return f"{of_month} if it is {of_week}" if both else f"{of_month} and also {of_week}"
    return of_month or of_week


def _month_day_words(day: str) -> str:
    step = _step(day)
    if step is not None:
        return f"every {_nth(step)} day of the month"
    if day == "L":
        return "on the last day of the month"
    if day == "LW":
        return "on the last weekday of the month"
    numbers = _numbers(day)
    if numbers is None:
        return f"on the days {day} of the month"
    return f"on {'day' if len(numbers) == 1 else 'days'} {_span_words(numbers, str)} of the month"


def _weekday_words(weekday: str) -> str:
    numbers = _numbers(weekday, _DAY_NAMES)
    if numbers is not None:
        # Sunday closes the week when it is written as 7, and opens it as 0.
        return _span_words(numbers, lambda number: _DAYS[number % 7])
    name, hash_, nth = weekday.partition("#")
    one = _numbers(name, _DAY_NAMES)
    if hash_ and one is not None and len(one) == 1 and nth in _ORDINALS:
        return f"on the {_ORDINALS[nth]} {_DAYS[one[0] % 7]} of the month"
    if weekday.endswith("L") and weekday[:-1].isdigit():
        return f"on the last {_DAYS[int(weekday[:-1]) % 7]} of the month"
    return f"on the days {weekday} of the week"


def _month_words(month: str) -> str:
    if month == "*":
        return ""
    step = _step(month)
    if step is not None:
        return f"every {_nth(step)} month"
    numbers = _numbers(month, _MONTH_NAMES, 1)
    return f"in the months {month}" if numbers is None else f"in {_span_words(numbers, lambda n: _MONTHS[n - 1])}"


def _span_words(numbers: list[int], name: Callable[[int], str]) -> str:
    """Return `Monday to Friday and Sunday` for the numbers of these days."""
    words: list[str] = []
    for first, end in _spans(numbers):
        if end - first >= 2:
            words.append(f"{name(first)} to {name(end)}")
        else:
            words.extend(name(number) for number in range(first, end + 1))
    return _listed(words)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _nth(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _city(timezone: str | None) -> str:
    return str(timezone).rsplit("/", 1)[-1].replace("_", " ")


def _zone_words(timezone: str | None) -> str:
    if timezone in ("UTC", "Etc/UTC", "GMT"):
        return str(timezone).rsplit("/", 1)[-1]
    return f"{_city(timezone)} time"
