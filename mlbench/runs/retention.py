"""How long runs are kept.

A rule says an age, of all runs or of those of a job or with a tag. Of the rules that name a run's job or tags the
longest counts; only where there is none, the one for all runs; and where there is not that either, a run is kept for
ever. What is under way, and what somebody said is to be kept, is kept whatever the rules say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.core.ids import RunId
from mlbench.core.records import ENDED, Json
from mlbench.runs.reachable import RunFacts

__all__ = ["DAY", "GRACE", "Rule", "dropped", "horizon", "parse_age", "parse_rule", "read_rules"]

DAY: Final = 24 * 3600 * 10**9
"""What was met within this time (nanoseconds) is never freed: somebody may be about to say that it is needed."""

GRACE: Final = DAY + 3600 * 10**9
"""How old a file must look to be freed: its time is that of a meeting, or of up to an hour before the last one."""

_UNITS: Final = {"h": 3600, "hour": 3600, "d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800, "year": 31_557_600}
_AGE: Final = re.compile(r"\s*(\d{1,6})\s*([a-z]+?)s?\s*")


@dataclass(frozen=True, slots=True)
class Rule:
    """How long runs are kept, in seconds (`None`: for ever): those of a job, with a tag or one value of it, or all."""

    age: int | None
    job: str | None = None
    tag: str | None = None
    value: str | None = None


def parse_age(text: Any) -> int | None:
    """Return an age in seconds, `None` for "always".

    Examples
    --------
    >>> parse_age("90 days"), parse_age("12h"), parse_age("1 week"), parse_age("always")
    (7776000, 43200, 604800, None)

    Raises
    ------
    UsageError
        If it is none.
    """
    if text == "always":
        return None
    found = _AGE.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{text!r} is not an age.", 'Write "90 days", "12 hours", "2 weeks", "1 year" or "always".')
    return int(found[1]) * _UNITS[found[2]]


def parse_rule(text: str) -> Rule:
    """Return the rule of an option `--keep`.

    Examples
    --------
    >>> parse_rule("90 days") == Rule(age=7_776_000)
    True
    >>> parse_rule("job:nightly=30 days")
    Rule(age=2592000, job='nightly', tag=None, value=None)
    >>> parse_rule("tag:team=ops=always")
    Rule(age=None, job=None, tag='team', value='ops')

    Raises
    ------
    UsageError
        If it is none.
    """
    which, sign, rest = text.partition(":")
    if not sign:
        return Rule(parse_age(text))
    name, equals, age = rest.rpartition("=")
    if which not in {"job", "tag"} or not equals or not name:
        raise UsageError(
            f"{text!r} does not say what to keep.", "Write AGE, job:NAME=AGE, tag:NAME=AGE or tag:NAME=VALUE=AGE."
        )
    return _rule(which, name, age)


def _rule(which: str, name: str, age: Any) -> Rule:
    if which == "job":
        return Rule(parse_age(age), job=name)
    tag, equals, value = name.partition("=")
    return Rule(parse_age(age), tag=tag, value=value if equals else None)


def read_rules(settings: Json, where: str) -> tuple[Rule, ...]:
    """Return the rules of the table `retention` in a file of settings, named in what is wrong with it.

    Examples
    --------
    >>> read_rules({"age": "90 days", "job": {"nightly": "always"}}, "mlbench.toml")
    (Rule(age=7776000, job=None, tag=None, value=None), Rule(age=None, job='nightly', tag=None, value=None))

    Raises
    ------
    UsageError
        If it says something else.
    """
    rules: list[Rule] = []
    try:
        for name, given in settings.items():
            if name == "age":
                rules.append(Rule(parse_age(given)))
            elif name in {"job", "tag"} and isinstance(given, Mapping):
                rules.extend(_rule(name, key, age) for key, age in given.items())
            else:
                raise UsageError(f"there is no setting {name!r} in it.", "There are: age, and the tables job and tag.")
    except UsageError as error:
        raise UsageError(f"{where}, retention: {error.message}", error.remedy) from error
    return tuple(rules)


def dropped(
    runs: Iterable[RunFacts],
    rules: Collection[Rule],
    kept: Collection[RunId],
    now: int,
    jobs: Mapping[str, str],
    *,
    user: str | None = None,
) -> frozenset[RunId]:
    """Return the runs that no rule keeps any longer.

    Parameters
    ----------
    runs
        All of them.
    rules
        How long they are kept; of two for the same runs the last one counts.
    kept
        Those that somebody said are to be kept.
    now
        UTC nanoseconds.
    jobs
        The names of jobs by their ids.
    user
        Whose rules these are: the runs of others stay. None speaks for all.
    """
    last = {(rule.job, rule.tag, rule.value): rule for rule in rules}.values()
    gone = set()
    for run in runs:
        if run.state not in ENDED or run.id in kept or (user is not None and run.user not in (None, user)):
            continue
        age = _age_of(run, last, jobs)
        if age is not None and run.time + max(age * 10**9, DAY) < now:
            gone.add(run.id)
    return frozenset(gone)


def _age_of(run: RunFacts, rules: Collection[Rule], jobs: Mapping[str, str]) -> int | None:
    ages = [rule.age for rule in rules if _names(rule, run, jobs)]
    if not ages:
        ages = [rule.age for rule in rules if rule.job is None and rule.tag is None]
    known = [age for age in ages if age is not None]
    return max(known) if known and len(known) == len(ages) else None


def _names(rule: Rule, run: RunFacts, jobs: Mapping[str, str]) -> bool:
    if rule.job is not None:
        return run.job is not None and rule.job in {run.job, jobs.get(run.job)}
    return rule.tag is not None and rule.tag in run.tags and rule.value in {None, run.tags[rule.tag]}


def horizon(now: int, under_way: Iterable[RunFacts]) -> int:
    """Return the time (UTC nanoseconds) from which on nothing is freed.

    That is a day ago; and while a run is under way, a day before it began: its kernel and its steps hold what they have
    stored, or met, since, and say so only when a step ends.
    """
    return min([now, *(run.started for run in under_way)]) - GRACE
