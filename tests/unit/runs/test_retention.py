"""Which runs are kept, what records need, and whose it is: decisions, without any store."""

from __future__ import annotations

from typing import Any

import pytest

from mlbench.core.errors import UsageError
from mlbench.core.ids import Digest, RunId
from mlbench.runs.reachable import RunFacts, Survey, Use, mentions, usage
from mlbench.runs.retention import DAY, GRACE, Rule, dropped, horizon, parse_age, parse_rule, read_rules

NOW = 1000 * DAY


def some(number: int) -> Digest:
    return Digest(f"blake3:{number:064x}")


def a_run(name: str, days: float, **more: Any) -> RunFacts:
    return RunFacts(**({"id": RunId(name), "state": "succeeded", "time": NOW - int(days * DAY)} | more))


def gone(runs: list[RunFacts], *rules: str, kept: tuple[str, ...] = ()) -> str:
    found = dropped(runs, [parse_rule(rule) for rule in rules], {RunId(one) for one in kept}, NOW, {"j": "nightly"})
    return "".join(sorted(found))


RUNS = [
    a_run("a", 100),
    a_run("b", 10),
    a_run("c", 100, job="j"),
    a_run("d", 10, job="j"),
    a_run("e", 100, tags={"team": "ops"}),
    a_run("f", 10, tags={"team": "dev"}),
    a_run("g", 100, job="j", tags={"team": "ops"}),
    a_run("h", 100, state="running"),
]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], ""),
        (["always"], ""),
        (["30 days"], "aceg"),
        (["1 week"], "abcdefg"),
        (["30 days", "job:nightly=always"], "ae"),
        (["job:nightly=30 days"], "cg"),
        (["job:j=30 days"], "cg"),
        (["30 days", "tag:team=1 year"], "ac"),
        (["tag:team=dev=1 week"], "f"),
        (["job:nightly=1 week", "tag:team=ops=1 year"], "cd"),
        (["30 days", "1 year"], ""),
        (["0 days"], "abcdefg"),
    ],
)
def test_the_longest_rule_that_names_a_run_decides_and_only_then_the_one_for_all(
    rules: list[str], expected: str
) -> None:
    assert gone(RUNS, *rules) == expected


def test_a_run_that_somebody_keeps_or_that_ended_within_a_day_stays() -> None:
    assert gone(RUNS, "30 days", kept=("a", "g")) == "ce"
    assert gone([a_run("a", 0.9), a_run("b", 1.1)], "1 hour") == "b"


@pytest.mark.parametrize("text", ["", "5", "days", "-1 days", "1.5 days", "5 fortnights", 7, None, "90 days old"])
def test_what_is_no_age_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="is not an age"):
        parse_age(text)


@pytest.mark.parametrize("text", ["job:=1 day", "job:nightly", "state:failed=1 day", "job=nightly=1 day"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rule(text)


@pytest.mark.parametrize("settings", [{"ages": "1 day"}, {"job": "1 day"}, {"job": {"nightly": 5}}])
def test_settings_that_say_something_else_are_refused_by_file(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"mlbench\.toml, retention"):
        read_rules(settings, "mlbench.toml")


def test_settings_say_rules() -> None:
    settings = {"age": "90 days", "job": {"nightly": "2 weeks"}, "tag": {"team=ops": "always", "sweep": "12h"}}
    assert read_rules(settings, "here") == (
        Rule(90 * 86_400),
        Rule(14 * 86_400, job="nightly"),
        Rule(None, tag="team", value="ops"),
        Rule(12 * 3600, tag="sweep"),
    )


def test_nothing_is_freed_that_is_younger_than_a_day_or_than_the_day_before_a_run_under_way() -> None:
    assert horizon(NOW, []) == NOW - GRACE
    assert (
        horizon(NOW, [a_run("a", 0, started=NOW - 5 * DAY), a_run("b", 0, started=NOW - DAY)]) == NOW - 5 * DAY - GRACE
    )


# --- what is needed ---------------------------------------------------------------------------------------------------


def a_survey() -> Survey:
    survey = Survey()
    artifact = {"digest": some(1), "codec": "items", "type": "list"}
    survey.add(
        {"record": "execution", "id": "e", "run": "a", "step": "s", "binds": [{"name": "x", "artifact": artifact}]}, "1"
    )
    survey.add({"record": "run", "id": "a", "state": "succeeded", "ended": 5, "snapshot": some(2)}, "2")
    survey.add({"record": "run", "id": "b", "state": "failed", "output": some(3), "unknown": {"deep": [some(4)]}}, "3")
    survey.add({"record": "snapshot", "id": some(2), "notebook": some(5), "git": {"difference": some(6)}}, "4")
    survey.add({"record": "model-version", "id": "m", "artifact": some(7)}, "5")
    return survey


def inside(digest: Digest) -> list[Digest]:
    return [some(8), some(9)] if digest == some(1) else []


def test_what_a_kept_run_names_is_needed_however_far_down_and_what_is_unknown_too() -> None:
    survey = a_survey()
    assert survey.needed((), inside) == {some(number) for number in range(1, 10)}
    assert survey.needed({RunId("a")}, inside) == {some(3), some(4), some(7)}
    assert survey.needed({RunId("b")}, inside) == {some(number) for number in (1, 2, 5, 6, 7, 8, 9)}
    assert survey.records == {"a": ["1", "2"], "b": ["3"]}


def test_a_run_stays_as_long_as_a_kept_one_has_reused_a_step_of_it_however_far_back() -> None:
    survey = Survey()
    for run, execution, origin in (
        ("a", "1", None),
        ("b", "2", "1"),
        ("b", "3", None),
        ("c", "4", "3"),
        ("d", "5", "9"),
    ):
        record = {"record": "execution", "id": execution, "run": run, "step": "s", "reused_from": origin}
        survey.add(record, execution)
    runs = {name: RunId(name) for name in "abcd"}
    assert survey.without_origins(runs.values()) == set(runs.values())
    assert survey.without_origins([runs["a"], runs["b"]]) == set()
    assert survey.without_origins([runs["a"], runs["c"], runs["d"]]) == {"c", "d"}


def test_uses_are_told_by_run_step_and_name() -> None:
    found = a_survey().uses(inside)
    assert {digest: sorted(map(str, users)) for digest, users in found.items()} == {
        some(1): ["run a step s x"],
        some(8): ["run a step s x"],
        some(9): ["run a step s x"],
        some(2): ["run a snapshot"],
        some(3): ["run b executed notebook"],
        some(5): ["run a notebook"],
        some(6): ["run a git difference"],
    }


def test_the_last_word_on_keeping_a_run_counts() -> None:
    survey = Survey()
    for run, keep in (("a", True), ("b", True), ("a", False)):
        survey.add({"record": "keep", "run": run, "keep": keep})
    assert survey.kept == {"b"}


def test_a_text_that_only_holds_a_digest_is_none() -> None:
    assert list(mentions({"a": [f"see {some(1)}", 5, None, {"b": some(2)}]})) == [some(2)]


def test_what_several_groups_use_is_counted_once() -> None:
    needed_by = {some(1): {Use("a")}, some(2): {Use("a"), Use("b")}}
    found = usage({some(1): 10, some(2): 20, some(3): 5, some(4): 7}, needed_by, lambda use: use.kind, {some(4)})
    assert [(one.group, one.objects, one.own, one.shared) for one in found.shares] == [
        ("a", 2, 10, 20),
        ("b", 1, 0, 20),
    ]
    assert (found.shared, found.unused, found.total) == (27, 5, 42)


def test_the_rules_of_one_user_leave_the_runs_of_others() -> None:
    old = 40 * DAY
    runs = [
        RunFacts(id=RunId(name), state="succeeded", user=user)
        for name, user in (("a", "ada"), ("b", "bob"), ("c", None))
    ]
    rules = (parse_rule("1 day"),)
    assert dropped(runs, rules, (), old, {}, user="bob") == {"b", "c"}
    assert dropped(runs, rules, (), old, {}) == {"a", "b", "c"}
