"""A catalog in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlbench.core.errors import NotFound
from mlbench.core.ids import Digest, ExecutionId, JobId, RunId, is_prefix
from mlbench.core.ports import WrittenItem
from mlbench.core.queries import Page, Place, Query, Signers, Sort, Space
from mlbench.core.records import (
    ENDED,
    UNDER_WAY,
    Execution,
    Firing,
    Job,
    JobVersion,
    Metric,
    Run,
    Snapshot,
)
from mlbench.runs import lineage
from mlbench.runs.search import check_place, fits, searched, sort_value

__all__ = ["MemoryCatalog"]


class MemoryCatalog:
    """Records in dictionaries, one lock around them."""

    is_new = False

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._version = 0
        self._snapshots: dict[Digest, Snapshot] = {}
        self._runs: dict[str, Run] = {}
        self._met: dict[str, int] = {}
        self._executions: dict[str, Execution] = {}
        self._jobs: dict[str, Job] = {}
        self._job_versions: dict[tuple[str, int], JobVersion] = {}
        self._firings: dict[tuple[str, int, bool], Firing] = {}

    def close(self) -> None:
        """Do nothing: memory needs no closing."""

    def version(self) -> int:
        return self._version

    def put_snapshot(self, digest: Digest, snapshot: Snapshot, /) -> None:
        with self._lock:
            self._version += 1
            self._snapshots.setdefault(digest, snapshot)

    def snapshot(self, digest: Digest, /) -> Snapshot:
        if digest not in self._snapshots:
            raise NotFound(f"The catalog has no snapshot {digest}.")
        return self._snapshots[digest]

    def put_run(self, run: Run, /) -> None:
        with self._lock:
            before = self._runs.get(run.id)
            if before is not None and before.state in ENDED and run.state in UNDER_WAY and before.kind != "interactive":
                return
            self._version += 1
            self._runs[run.id] = run

    def put_runs(self, runs: Sequence[Run], /) -> None:
        for run in runs:
            self.put_run(run)

    def run(self, prefix: str, /) -> Run:
        return self._runs[_one(prefix, self._runs, "run")]

    def runs(
        self,
        *,
        notebook: str | None = None,
        notebook_id: str | None = None,
        job: JobId | None = None,
        kernel: str | None = None,
        under_way: bool = False,
        limit: int = 50,
        before: tuple[int, str] | None = None,
    ) -> list[Run]:
        with self._lock:
            found = [
                run
                for run in self._runs.values()
                if _is_of(run, notebook, notebook_id)
                and job in {None, run.job}
                and kernel in {None, run.kernel}
                and (not under_way or run.state in UNDER_WAY)
                and (before is None or (run.started, run.id) < before)
            ]
        return sorted(found, key=lambda run: (run.started, run.id), reverse=True)[:limit]

    def search(
        self,
        query: Query | None = None,
        /,
        *,
        sort: Sort | None = None,
        notebook: str | None = None,
        notebook_id: str | None = None,
        job: JobId | None = None,
        under_way: bool = False,
        limit: int = 50,
        after: Place | None = None,
    ) -> Page:
        among = self.runs(
            notebook=notebook, notebook_id=notebook_id, job=job, under_way=under_way, limit=len(self._runs)
        )
        found = [(run, self._searched(run)) for run in among]
        listed = [
            Place(sort_value(sort, about) if sort is not None else None, run.started, run.id)
            for run, about in found
            if fits(query, about)
        ]
        descending = sort is not None and sort.descending
        without = [place for place in listed if place.value is None]
        listed = [place for place in listed if place.value is not None]
        listed.sort(key=_rank, reverse=descending)  # of equals the newest stays first, either way
        listed += without
        if after is not None:
            check_place(after, sort)
            listed = [place for place in listed if _is_after(place, after, descending=descending)]
        runs = tuple(self._runs[place.id] for place in listed[:limit])
        return Page(runs, listed[limit - 1] if len(listed) > limit else None)

    def _searched(self, run: Run) -> Mapping[str, Any]:
        return searched(run, {metric.name: metric.value for metric in self.metrics([run.id]).get(run.id, ())})

    def count_runs(
        self, query: Query | None = None, /, *, notebook: str | None = None, notebook_id: str | None = None
    ) -> int:
        found = self.runs(notebook=notebook, notebook_id=notebook_id, limit=len(self._runs))
        return sum(query is None or fits(query, self._searched(run)) for run in found)

    def runs_by_id(self, *, after: str = "", limit: int = 1000) -> list[Run]:
        return [run for _, run in sorted(self._runs.items()) if run.id > after][:limit]

    def executions_by_id(self, *, after: str = "", limit: int = 1000) -> list[Execution]:
        found = [one for _, one in sorted(self._executions.items()) if one.id > after]
        return [replace(one, messages=()) for one in found[:limit]]

    def names_in_use(self, space: Space, prefix: str = "", /, *, limit: int = 50) -> list[str]:
        names = {name for run in list(self._runs.values()) for name in self._searched(run)[space]}
        return sorted(name for name in names if name.startswith(prefix))[:limit]

    def notebooks(self, notebook_id: str, /) -> dict[str, int]:
        with self._lock:
            runs = [(one.notebook, one.started) for one in self._runs.values() if one.notebook_id == notebook_id]
            jobs = [(one.notebook, one.created) for one in self._jobs.values() if one.notebook_id == notebook_id]
        first: dict[str, int] = {}
        for path, moment in (*runs, *jobs):
            if path is not None:
                first[path] = min(moment, first.get(path, moment))
        return first

    def metrics(self, runs: Sequence[RunId], /) -> dict[RunId, tuple[Metric, ...]]:
        found: dict[RunId, tuple[Metric, ...]] = {}
        for run in runs:
            logged = list(self._runs[run].metrics) if run in self._runs else []
            for execution in self._executions.values():
                if execution.run == run and execution.part_of is None:
                    logged += execution.metrics
            if logged:
                found[run] = tuple(sorted(logged, key=lambda metric: metric.time))
        return found

    def put_execution(self, execution: Execution, /) -> None:
        with self._lock:
            before = self._executions.get(execution.id)
            if before is not None and before.state in ENDED and execution.state in UNDER_WAY:
                return
            if before is not None and not execution.messages:
                execution = replace(execution, messages=before.messages)
            self._version += 1
            self._executions[execution.id] = execution

    def put_executions(self, executions: Sequence[Execution], /) -> None:
        for execution in executions:
            self.put_execution(execution)

    def put_items(self, items: Sequence[WrittenItem], /) -> None:
        for item in items:
            self.put_execution(item.record())

    def execution(self, prefix: str, /) -> Execution:
        return self._executions[_one(prefix, self._executions, "execution")]

    def executions(self, run: RunId, /) -> list[Execution]:
        found = [one for one in list(self._executions.values()) if one.run == run and one.part_of is None]
        found.sort(key=lambda one: (one.position is None, one.position or 0, lineage.moment(one), one.attempt))
        return [replace(one, messages=()) for one in found]

    def items(
        self,
        execution: ExecutionId,
        /,
        *,
        states: Sequence[str] = (),
        logged: bool = False,
        limit: int = 200,
        after: int = -1,
    ) -> list[Execution]:
        found = [
            one
            for number, one in self._items(execution)
            if number > after and (not states or one.state in states) and (not logged or one.artifacts)
        ]
        return [replace(one, messages=()) for one in found[:limit]]

    def count_items(self, execution: ExecutionId, /) -> dict[str, int]:
        return dict(Counter(one.state for _, one in self._items(execution)))

    def count_logged(self, execution: ExecutionId, /) -> int:
        return sum(len(one.artifacts) for _, one in self._items(execution))

    def item_metrics(self, execution: ExecutionId, name: str, /) -> list[tuple[int, float]]:
        logged = [
            (number, sorted(one.metrics, key=lambda metric: metric.time)) for number, one in self._items(execution)
        ]
        found = {number: metric.value for number, metrics in logged for metric in metrics if metric.name == name}
        return list(found.items())

    def item_metric_names(self, execution: ExecutionId, /) -> list[str]:
        return list(dict.fromkeys(metric.name for _, one in self._items(execution) for metric in one.metrics))

    def by_keys(
        self, keys: Iterable[str], /, *, signers: Signers | None = None, limit: int = 1
    ) -> dict[str, list[Execution]]:
        wanted = set(keys)
        known = [one for one in list(self._executions.values()) if one.state in {"succeeded", "reused"}]
        found: dict[str, list[Execution]] = {}
        for one in sorted(known, key=lambda one: (lineage.moment(one), one.id), reverse=True):
            if one.key in wanted and self._signed_by(signers, one):
                found.setdefault(one.key, []).append(replace(one, messages=()))
        return {key: them[:limit] for key, them in found.items()}

    def candidates(self, key: str, /, *, signers: Signers | None = None, limit: int = 10) -> list[Execution]:
        known = [one for one in list(self._executions.values()) if one.key == key and one.state == "succeeded"]
        found = [replace(one, messages=()) for one in known if self._signed_by(signers, one)]
        return sorted(found, key=lineage.moment, reverse=True)[:limit]

    def _signed_by(self, signers: Signers | None, one: Execution) -> bool:
        made = (*one.binds, *one.artifacts)
        signatures = [bound.artifact.signature for bound in made if bound.artifact is not None]
        signed = [signature for signature in signatures if signature is not None]
        if signers is None or not signed or not signers.keys.isdisjoint(name.partition(".")[0] for name in signed):
            return True
        run = self._runs.get(one.run)
        return run is not None and run.user in signers.users

    def _items(self, execution: ExecutionId) -> list[tuple[int, Execution]]:
        them = list(self._executions.values())
        found = [(one.item, one) for one in them if one.part_of == execution and one.item is not None]
        return sorted(found, key=lambda pair: pair[0])

    def meet_runs(self, runs: Iterable[RunId], now: int, /) -> set[RunId]:
        with self._lock:
            there = {run for run in runs if run in self._runs}
            self._met.update(dict.fromkeys(there, now))
            return there

    def met_since(self, moment: int, /) -> set[RunId]:
        with self._lock:
            return {RunId(run) for run, met in self._met.items() if met >= moment and run in self._runs}

    def delete_runs(self, runs: Sequence[RunId], /, *, met_before: int | None = None) -> set[RunId]:
        with self._lock:
            self._version += 1
            there = {run for run in runs if run in self._runs}
            gone = {run for run in there if self._runs[run].state in ENDED}
            if met_before is not None:
                gone = {run for run in gone if self._met.get(run, met_before - 1) < met_before}
            self._runs = {key: run for key, run in self._runs.items() if key not in gone}
            self._executions = {key: one for key, one in self._executions.items() if one.run not in gone}
            return there - gone

    def delete_snapshots(self, digests: Sequence[Digest], /) -> None:
        with self._lock:
            self._version += 1
            for digest in digests:
                self._snapshots.pop(digest, None)

    def under_way(self) -> list[Execution]:
        found = [replace(one, messages=()) for one in list(self._executions.values()) if one.state in UNDER_WAY]
        return sorted(found, key=lineage.moment, reverse=True)

    def executions_named(self, ids: Iterable[ExecutionId], /) -> dict[ExecutionId, Execution]:
        found = (self._executions.get(one) for one in ids)
        return {one.id: replace(one, messages=()) for one in found if one is not None}

    def makers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        wanted = set(digests)
        ended = [one for one in list(self._executions.values()) if one.state in ENDED]
        return _oldest((one for one in ended if wanted & lineage.binds(one)), limit)

    def readers(self, digests: Iterable[Digest], /, *, limit: int = 1000) -> list[Execution]:
        wanted = set(digests)
        return _oldest((one for one in list(self._executions.values()) if wanted & lineage.given(one)), limit)

    def put_job(self, job: Job, /) -> None:
        with self._lock:
            self._version += 1
            self._jobs[job.id] = job

    def job(self, prefix: str, /) -> Job:
        named = [job for job in self._jobs.values() if job.name == prefix and not job.deleted]
        if len(named) > 1:
            raise NotFound(f"Several jobs are called {prefix!r}.", "Name one by its id.")
        return named[0] if named else self._jobs[_one(prefix, self._jobs, "job")]

    def jobs(self, *, deleted: bool = False) -> list[Job]:
        found = [job for job in list(self._jobs.values()) if deleted or not job.deleted]
        return sorted(found, key=lambda job: job.created, reverse=True)

    def put_job_version(self, job: JobId, version: JobVersion, /) -> None:
        with self._lock:
            self._version += 1
            self._job_versions.setdefault((job, version.number), version)

    def job_versions(self, job: JobId, /) -> list[JobVersion]:
        found = [version for (owner, _), version in list(self._job_versions.items()) if owner == job]
        return sorted(found, key=lambda version: version.number, reverse=True)

    def due_jobs(self, now: int, /, *, host: str | None = None, limit: int = 100) -> list[Job]:
        due = {job.id: job.next_due for job in list(self._jobs.values()) if job.next_due is not None}
        found = [
            job
            for job in list(self._jobs.values())
            if not job.paused
            and not job.deleted
            and due.get(job.id, now + 1) <= now
            and (host is None or job.host in {None, host})
        ]
        return sorted(found, key=lambda job: due[job.id])[:limit]

    def fire(self, job: JobId, firings: Sequence[Firing], /, *, was_due: int, next_due: int | None) -> bool:
        with self._lock:
            if job not in self._jobs or self._jobs[job].next_due != was_due:
                return False
            self._version += 1
            last = max([was_due, *(firing.due for firing in firings)])
            self._jobs[job] = replace(self._jobs[job], next_due=next_due, last_due=last)
            for firing in firings:
                self._firings.setdefault(_key(firing), firing)
            return True

    def add_firing(self, firing: Firing, /) -> bool:
        with self._lock:
            if _key(firing) in self._firings:
                return False
            self._version += 1
            self._firings[_key(firing)] = firing
            return True

    def claim_firing(
        self,
        owner: str,
        now: int,  # noqa: ARG002  (kept with the row elsewhere)
        /,
        *,
        jobs: Sequence[JobId] | None = None,
    ) -> Firing | None:
        with self._lock:
            queued = [
                firing
                for firing in self._firings.values()
                if firing.state == "queued" and (jobs is None or firing.job in jobs)
            ]
            if not queued:
                return None
            first = min(queued, key=lambda firing: (firing.due, firing.job))
            self._version += 1
            claimed = replace(first, state="running", token=first.token + 1, owner=owner)
            self._firings[_key(first)] = claimed
            return claimed

    def end_firing(self, firing: Firing, /) -> bool:
        with self._lock:
            found = self._held(firing)
            if found is None:
                return False
            self._version += 1
            self._firings[_key(firing)] = replace(found, state=firing.state, reason=firing.reason, run=firing.run)
            return True

    def attach_run(self, firing: Firing, run: RunId, /) -> bool:
        with self._lock:
            found = self._held(firing)
            if found is None:
                return False
            self._version += 1
            self._firings[_key(firing)] = replace(found, run=run)
            return True

    def firings(self, job: JobId | None = None, /, *, states: Sequence[str] = (), limit: int = 50) -> list[Firing]:
        found = [
            firing
            for firing in list(self._firings.values())
            if job in {None, firing.job} and (not states or firing.state in states)
        ]
        return sorted(found, key=lambda firing: (-firing.due, firing.job))[:limit]

    def _held(self, firing: Firing) -> Firing | None:
        found = self._firings.get(_key(firing))
        if found is None or found.token != firing.token or found.state not in UNDER_WAY:
            return None
        return found


def _is_of(run: Run, notebook: str | None, notebook_id: str | None) -> bool:
    if notebook is not None and notebook_id is not None:
        return run.notebook_id == notebook_id or (run.notebook == notebook and run.notebook_id is None)
    return notebook in {None, run.notebook} and notebook_id in {None, run.notebook_id}


def _rank(place: Place) -> tuple[bool, Any]:
    return isinstance(place.value, str), place.value


def _is_after(place: Place, last: Place, *, descending: bool) -> bool:
    if (place.value is None) is not (last.value is None):
        return place.value is None
    if place.value is None or _rank(place) == _rank(last):
        return (place.started, place.id) < (last.started, last.id)
    return (_rank(place) > _rank(last)) is not descending


def _key(firing: Firing) -> tuple[str, int, bool]:
    return firing.job, firing.due, firing.manual


def _oldest(them: Iterable[Execution], limit: int) -> list[Execution]:
    found = sorted(them, key=lambda one: (lineage.moment(one), one.id))[:limit]
    return [replace(one, messages=()) for one in found]


def _one(prefix: str, known: dict[str, Run] | dict[str, Execution] | dict[str, Job], word: str) -> str:
    if not is_prefix(prefix):
        raise NotFound(f"{prefix!r} is no {word}'s id.", "Write four or more of its letters.")
    fitting = sorted(identifier for identifier in known if identifier.startswith(prefix))
    if not fitting:
        raise NotFound(f"There is no {word} {prefix}.")
    if len(fitting) > 1:
        shown = ", ".join(one[: len(prefix) + 4] for one in fitting[:3])
        raise NotFound(f"Several {word}s begin with {prefix}: {shown}.", "Write more letters of its id.")
    return fitting[0]
