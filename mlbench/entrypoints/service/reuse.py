"""Find what has been run already: ask the catalog, and compare what the key does not hold with how it is now.

That is the files that a step opened, the random numbers that it began with, the network, and whether all that it made
is still there. Everything is looked at off the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from mlbench.backends.cluster_dask.process.opened import MOST_FILES, has_changed
from mlbench.core.errors import ArtifactCorrupt, MlbenchError, NotFound, NotTrusted
from mlbench.core.ids import Digest, ExecutionId, RunId, short
from mlbench.core.messages import RandomState, Signer, Spread, StepTask
from mlbench.core.records import Binding, Execution, Failure, Run
from mlbench.entrypoints.service.ledger import Ledger
from mlbench.project import signing
from mlbench.runs import randomness
from mlbench.runs.key import FOLDER, item_keys
from mlbench.runs.plan import Look
from mlbench.runs.signing import sign
from mlbench.runs.values import NAMING, named_by
from mlbench.runs.wire import msgspec

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["Reuse", "described"]

CANDIDATES: Final = 10
"""Executions with the same key that are looked at, the newest first."""

WHOLLY_READ: Final = 256 << 20
"""Bytes up to which an artifact is read to see whether it is undamaged; of a larger one only the outline is checked."""

ITEMS_ASKED: Final = 5_000


class Reuse:
    """Answers, for one store, whether steps and items need not run."""

    def __init__(self, project: Project, ledger: Ledger) -> None:
        self._project = project
        self._ledger = ledger
        self._accepts = signing.judge(project.location.place, own_session=True)

    async def find(self, look: Look, states: RandomState | None) -> tuple[Execution, str] | None:
        """Return an execution that stands for a step, with its messages, and what the step's cell is told of it.

        Parameters
        ----------
        states
            Where the step's generators would start; None in a notebook that was never seeded.
        """
        for candidate in await self._ledger.ask(partial(self._candidates, look)):
            ours = await self._ledger.ask(partial(self._vouched, candidate))
            if ours is None or not await asyncio.to_thread(self._holds, look, states, ours):
                continue
            met = await self._ledger.ask(partial(self._meet, ours))
            if met is None:
                continue
            origin, run = met
            full = replace(ours, messages=origin.messages, reused_from=origin.id)
            return full, described(run, origin)
        return None

    async def find_items(
        self, spread: Spread, look: Look | None, states: RandomState | None, key: str | None
    ) -> tuple[list[str], dict[int, Execution]]:
        """Return the keys of a fan-out's items, and by number the executions that stand for some of them.

        Parameters
        ----------
        look
            The question of the step itself; without it nothing is to be reused.
        states
            Where the step's generators start; None in a notebook that was never seeded.
        key
            What the items have in common; without it they have no keys.
        """
        if key is None:
            return [], {}
        keys = await asyncio.to_thread(item_keys, key, spread)
        if look is None:
            return keys, {}
        user_of = lru_cache(maxsize=None)(self._user_of)
        known: dict[str, Execution] = {}
        for begin in range(0, len(keys), ITEMS_ASKED):
            some = keys[begin : begin + ITEMS_ASKED]
            known |= await self._ledger.ask(partial(self._vouched_items, some, user_of))
        return keys, await asyncio.to_thread(self._items_that_hold, keys, known, look, states)

    def refused(self, task: StepTask, record: Execution) -> Execution | None:
        """Return the end of a step that is not to be given what it would read, `None` if it may have it.

        A step's process loads all that its task names, whoever has stored it.
        """
        for name, given in task.inputs.items():
            binding = msgspec.convert(given, Binding)
            if binding.artifact is not None and not self._accepts(binding.artifact):
                said = NotTrusted(name, why="foreign" if binding.artifact.signature else "unsigned")
                remedy = said.remedy or "Run the cell that makes it again."
                failure = Failure(ename="NotTrusted", evalue=said.message, remedy=remedy)
                return replace(record, state="failed", reason="error", failure=failure, ended=time.time_ns())
        return None

    # --- off the loop ------------------------------------------------------------------------------------------------

    def _candidates(self, look: Look) -> list[Execution]:
        catalog, key = self._project.catalog, look.record.key or ""
        found: list[Execution] = []
        if look.resume is not None:
            own = catalog.executions(look.resume)
            found = [one for one in own if one.key == key and one.state in ("succeeded", "reused")]
        if look.others:
            found += catalog.candidates(key, signers=signing.signers(), limit=CANDIDATES)
        return found

    def _vouched_items(self, keys: Sequence[str], user_of: Callable[[RunId], str | None]) -> dict[str, Execution]:
        """Return by key the newest execution whose values may run code as this user.

        Of nearly all keys that is the first that the catalog offers, which looks for signatures and does not check
        them; only where it is none, some more are looked at.
        """
        catalog, signers = self._project.catalog, signing.signers()
        found: dict[str, Execution] = {}
        for limit in (1, CANDIDATES):
            asked = [key for key in keys if key not in found]
            offered = catalog.by_keys(asked, signers=signers, limit=limit) if asked else {}
            for key, them in offered.items():
                ours = next((ours for one in them if (ours := self._vouched(one, user_of)) is not None), None)
                if ours is not None:
                    found[key] = ours
            keys = list(offered)
        return found

    def _holds(self, look: Look, states: RandomState | None, found: Execution) -> bool:
        """Say whether an execution with the same key has made what the step would make now."""
        if found.fanout is not None and (found.fanout.failed or found.fanout.cancelled):
            return False  # its items are looked at one by one
        if found.files and found.key_parts.get(FOLDER) != look.record.key_parts.get(FOLDER):
            return False  # it may have named them as seen from its folder
        return self._may_stand(look, found, states) and not any(map(has_changed, found.files)) and self._kept(found)

    def _items_that_hold(
        self,
        keys: Sequence[str],
        known: Mapping[str, Execution],
        look: Look,
        states: RandomState | None,
    ) -> dict[int, Execution]:
        changed = lru_cache(maxsize=None)(has_changed)
        folder_of = lru_cache(maxsize=None)(self._folder_of)
        found: dict[int, Execution] = {}
        for number, key in enumerate(keys):
            one = known.get(key)
            if one is None or not self._may_stand(look, one, states, item=number):
                continue
            if one.files and folder_of(one.part_of) != look.record.key_parts.get(FOLDER):
                continue
            if not any(map(changed, one.files)):
                found[number] = one
        digests = list(dict.fromkeys(digest for one in found.values() for digest in _digests(one)))
        if not self._can_be_read(digests):
            found = {number: one for number, one in found.items() if self._kept(one)}
        return self._items_met(found)

    def _user_of(self, run: RunId) -> str | None:
        try:
            return self._project.catalog.run(run).user
        except NotFound:
            return None

    def _vouched(self, found: Execution, user_of: Callable[[RunId], str | None] | None = None) -> Execution | None:
        """Return an execution whose values may run code as this user, signed by this user; `None` if they may not.

        Steps and kernels load what they are given without another question: what others have stored, and are not
        trusted to have, is made anew.
        """
        made = (*found.binds, *found.artifacts)
        if all(one.artifact is None or self._accepts(one.artifact) for one in made):
            return found
        users = signing.trust().users
        if not users or (user_of or self._user_of)(found.run) not in users:
            return None
        signer = signing.signer(found.id)
        binds, logged = (tuple(_signed(one, signer) for one in ones) for ones in (found.binds, found.artifacts))
        return replace(found, binds=binds, artifacts=logged)

    def _may_stand(self, look: Look, found: Execution, states: RandomState | None, *, item: int | None = None) -> bool:
        if found.network and not (look.named or found.run == look.resume):
            return False
        if found.draws:
            start = None if states is None else randomness.start_of(states, found.draws, item=item)
            if start != found.random_start:
                return False
        return len(found.files) < MOST_FILES

    def _folder_of(self, step: ExecutionId | None) -> str | None:
        """Return where the items of a step ran."""
        try:
            return self._project.catalog.execution(step).key_parts.get(FOLDER) if step is not None else None
        except NotFound:
            return None

    def _can_be_read(self, digests: Sequence[Digest], packs: Sequence[Digest] = ()) -> bool:
        try:
            self._project.blobs.get_many(digests, packs=packs)
            return self._project.blobs.touch(digests)  # what they were made for may be about to be freed
        except (MlbenchError, OSError):
            return False

    def _kept(self, found: Execution) -> bool:
        """Say whether all that an execution made can still be read; what is damaged may be made again."""
        blobs = self._project.blobs
        artifacts = {one.artifact.digest: one.artifact for one in (*found.binds, *found.artifacts) if one.artifact}
        try:
            for digest, artifact in artifacts.items():
                try:
                    if artifact.size <= WHOLLY_READ:
                        blobs.verify(digest)
                    else:
                        blobs.get_parts(digest)
                except ArtifactCorrupt:
                    blobs.set_aside(digest)
                    return False
                if artifact.codec in NAMING and not self._can_be_read(*named_by(blobs.get_parts(digest))):
                    return False
            rest = () if found.random is None else (found.random,)
            if found.log is not None:
                blobs.touch([found.log])
            return blobs.touch([*artifacts, *rest])  # what they were made for may be about to be freed
        except (MlbenchError, OSError):
            return False

    def _meet(self, found: Execution) -> tuple[Execution, Run] | None:
        """Return the execution that ran, of which others took what it made, with its messages and its run.

        Its run is not forgotten from now on, since a record will name it; `None` if it has been meanwhile, or is being
        forgotten: its own row goes first.
        """
        catalog = self._project.catalog
        for identifier in filter(None, (found.reused_from, found.id)):
            named = catalog.executions_named([identifier])
            for run in catalog.meet_runs([one.run for one in named.values()], time.time_ns()):
                return catalog.execution(identifier), catalog.run(run)
        return None

    def _items_met(self, found: Mapping[int, Execution]) -> dict[int, Execution]:
        """Return the items whose runs, and the runs that they were reused from, are not forgotten from now on."""
        catalog = self._project.catalog
        origins = catalog.executions_named(one.reused_from for one in found.values() if one.reused_from is not None)
        runs = {one.run for one in (*found.values(), *origins.values())}
        there = catalog.meet_runs(runs, time.time_ns())
        ran_in = {identifier: one.run for identifier, one in origins.items() if one.run in there}
        return {
            number: one if one.reused_from in ran_in else replace(one, reused_from=None)
            for number, one in found.items()
            if one.run in there or one.reused_from in ran_in
        }


def described(run: Run, origin: Execution) -> str:
    """Say, in a line under a step's cell, from where it was reused.

    Examples
    --------
    >>> from mlbench.core.ids import ExecutionId, RunId
    >>> run = Run(id=RunId("3f2a6gqx"), kind="job", state="succeeded", name="n", started=86_400 * 10**9)
    >>> described(run, Execution(id=ExecutionId("a"), run=run.id, step="load", state="succeeded"))[:16]
    'reused from 3f2a'
    """
    moment = time.localtime(run.started / 1e9)
    return f"reused from {short(origin.run)} (run {moment.tm_mday} {time.strftime('%b %H:%M', moment)})"


def _signed(binding: Binding, signer: Signer | None) -> Binding:
    artifact = binding.artifact
    if artifact is None:
        return binding
    return replace(binding, artifact=replace(artifact, signature=sign(signer, artifact.digest, artifact.codec)))


def _digests(record: Execution) -> Iterable[Digest]:
    return (one.artifact.digest for one in record.binds if one.artifact is not None)
