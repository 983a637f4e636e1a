"""What a step depends on, all told, and how its record comes to be that of an earlier execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Submission
from mlbench.core.records import Execution, Json
from mlbench.runs.key import ASKED, CATCH, CELL, ITEMS, PLAIN, UNKNOWN, key_of
from mlbench.runs.plan.state import Node
from mlbench.runs.plan.words import Look, Submitted

__all__ = ["item_key", "parts_of", "question", "take_over"]

_BEHIND: Final = "code behind "
"""The part that says what a pickled value's maker imported: a pickle only names its classes."""
_IMPORTED: Final = ("module ", "package ", _BEHIND)
"""Parts that say what a step imported."""


def parts_of(
    asked: Submitted,
    inputs: Mapping[str, Json],
    edges: Mapping[str, ExecutionId],
    made: Mapping[ExecutionId, Mapping[str, str]],
) -> dict[str, str]:
    """Return the parts of a step's key when its parents have ended: the kernel's, and what the parents made.

    `made` are the parts of the parents' keys: of a module that one of them imported, these say which version it is.
    """
    parts = dict(asked.submission.key_parts)
    if asked.submission.key is not None:
        parts[CELL] = asked.submission.key
    parts[ASKED] = _asked(asked)
    for name, parent in edges.items():
        content, binding = _content(inputs.get(name)), inputs.get(name) or {}
        known = made.get(parent, {})
        imported = {part: said for part, said in known.items() if part.startswith(_IMPORTED)}
        if binding.get("module"):
            if "code" not in known:
                parts[UNKNOWN] = f"{name} is a module, and nobody can tell in which version"
            content = f"{content} {key_of({'code': '', **imported})}"
        elif imported and (binding.get("artifact") or {}).get("codec", "ndarray") not in PLAIN:
            parts[f"{_BEHIND}{name}"] = str(key_of({"code": "", **imported}))
        parts[f"input {name}"] = content
    return parts


def question(node: Node) -> Look:
    """Return the question whether a step can be reused, about which all is known that it depends on."""
    assert node.asked is not None
    submission, named = node.asked.submission, node.asked.submission.options.cache is True
    return Look(
        execution=node.id,
        look=node.look or 0,
        record=node.record,
        random=submission.random if submission.seeded else None,
        random_of=node.random_used,
        named=named,
        others=named or submission.cache_default,
        resume=node.asked.resume,
    )


def item_key(submission: Submission, parts: Mapping[str, str]) -> str | None:
    """Return what the keys of a fan-out's items have in common: all but what only says which items there are."""
    only = {f"{kind} {name}" for name in submission.items_from for kind in ("input", "value", _BEHIND.strip())}
    return key_of({name: part for name, part in parts.items() if name not in {*only, ITEMS, CATCH}} | {"item": "yes"})


def take_over(record: Execution, found: Execution, at: int) -> Execution:
    """Return the end of an execution that did not run, since an earlier one has made what it would make."""
    return replace(
        record,
        state="reused",
        reused_from=found.reused_from or found.id,
        started=at,
        ended=at,
        binds=found.binds,
        artifacts=found.artifacts,
        metrics=found.metrics,
        messages=found.messages,
        log=found.log,
        files=found.files,
        network=found.network,
        draws=found.draws,
        random=found.random,
        random_start=found.random_start,
        fanout=found.fanout,
        tags={**found.tags, **record.tags},
    )


def _asked(asked: Submitted) -> str:
    said = asked.submission.options.cache
    if said is not None:
        return "line" if said else "no"
    return "setting" if asked.submission.cache_default else "resume" if asked.resume is not None else ""


def _content(binding: Json | None) -> str:
    """Return what identifies the value of a name that a parent has bound, or has not."""
    if binding is None:
        return "not bound"
    if binding.get("module"):
        return f"module {binding['module']}"
    artifact = binding.get("artifact")
    if artifact is None:
        return "not stored"
    member = binding.get("member")
    return f"{artifact['digest']} {member}" if member else str(artifact["digest"])
