"""What to do about due times that have passed, runs that overlap and runs that were lost. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlbench.core.records import Firing, Job
from mlbench.delivery import schedule

MOST_DUE: Final = 10_000
"""Due times that are counted at most: a service that slept for a year owes a number, not the whole list."""

MOST_CATCH_UP: Final = 100
"""Firings that the policy `all` makes up for at most."""

LATE: Final = 60
"""Seconds after which a due time counts as missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a job owes now: the firings to insert, and when it is due next."""

    firings: tuple[Firing, ...]
    next_due: int


def owed(job: Job, now: int) -> Due:
    """Return the firings of a job whose time has come, cut by its policy for missed ones.

    The last due time always fires: with `latest` and `skip` it stands for those before it, whose number it carries in
    `skipped`. With `skip` a time that passed more than `LATE` seconds ago is not made up for: it is only noted.

    Raises
    ------
    ScheduleError
        If the schedule can no longer be read.
    """
    assert job.cron is not None
    assert job.next_due is not None
    dues: list[int] = []
    due = job.next_due
    while due <= now:
        dues.append(due)
        if len(dues) >= MOST_DUE:
            dues.append(_last_due(job.cron, job.timezone, due, now))
            due = schedule.next_due(job.cron, job.timezone, now)
            break
        due = schedule.next_due(job.cron, job.timezone, due)
    if not dues:
        return Due(firings=(), next_due=due)
    version = job.version
    if version.missed == "all":
        kept = dues[-MOST_CATCH_UP:]
        first = Firing(job=job.id, due=kept[0], state="queued", skipped=len(dues) - len(kept))
        rest = (Firing(job=job.id, due=each, state="queued") for each in kept[1:])
        return Due(firings=(first, *rest), next_due=due)
    last = dues[-1]
    if version.missed == "skip" and now - last > LATE:
        noted = Firing(
            job=job.id, due=last, state="skipped", reason="missed: no service was running", skipped=len(dues) - 1
        )
        return Due(firings=(noted,), next_due=due)
    return Due(firings=(Firing(job=job.id, due=last, state="queued", skipped=len(dues) - 1),), next_due=due)


def _last_due(cron: str, timezone: str | None, known: int, now: int) -> int:
    """Return the last due time up to now, given one: by looking back over ever longer spans."""
    for days in (1, 40, 400):
        last, due = None, schedule.next_due(cron, timezone, max(known, now - days * 86_400))
        while due <= now:
            last, due = due, schedule.next_due(cron, timezone, due)
        if last is not None:
            return last
    return known
