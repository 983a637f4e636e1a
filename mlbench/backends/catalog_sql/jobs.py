"""Jobs, and the firings that the catalog alone knows: the part of the catalog in which two may want the same.

What is claimed or changed here says, by its return value, who was first. Where a connection is lost before the server
has said so, `_settle_…` reads it back: by the key of the firing, and the token that only grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import or_, select, text, update

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.connections import Connections, find_row
from mlbench.backends.catalog_sql.rows import decode, encode, firing_row, to_firing, to_job
from mlbench.core.errors import NotFound
from mlbench.core.ids import JobId, RunId
from mlbench.core.records import UNDER_WAY, Firing, Job, JobVersion, Json

__all__ = ["Jobs"]

_FIRING: Final = [getattr(t.firings.c, field.name) for field in fields(Firing)]


class Jobs(Connections):
    """The jobs and firings of a catalog."""

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def put_job(self, job: Job, /) -> None:
        names = ("id", "name", "notebook_id", "host", "paused", "deleted", "next_due", "last_due", "created")
        row = {name: getattr(job, name) for name in names} | {"record": encode(job)}
        with self._writing() as connection:
            self._put(connection, t.jobs, row)

    def job(self, prefix: str, /) -> Job:
        """Return the job with this id, unique prefix or name; of those with one name a deleted one comes last."""
        c = t.jobs.c
        with self._reading() as connection:
            named = connection.execute(
                select(c.record, c.next_due, c.last_due).where(c.name == prefix, c.deleted.is_(False)).limit(2)
            ).all()
            if len(named) == 1:
                return to_job(named[0])
            if len(named) > 1:
                raise NotFound(f"Several jobs are called {prefix!r}.", "Name one by its id: `mlbench jobs` shows them.")
            return to_job(find_row(connection, t.jobs, prefix, "job", c.next_due, c.last_due))

    def jobs(self, *, deleted: bool = False) -> list[Job]:
        c = t.jobs.c
        query = select(c.record, c.next_due, c.last_due).order_by(c.created.desc(), c.id)
        if not deleted:
            query = query.where(c.deleted.is_(False))
        with self._reading() as connection:
            return [to_job(row) for row in connection.execute(query)]

    def put_job_version(self, job: JobId, version: JobVersion, /) -> None:
        row = {"job": job, "number": version.number, "record": encode(version)}
        with self._writing() as connection:
            connection.execute(self._insert(t.job_versions).values(row).on_conflict_do_nothing())

    def job_versions(self, job: JobId, /) -> list[JobVersion]:
        c = t.job_versions.c
        with self._reading() as connection:
            found = connection.execute(select(c.record).where(c.job == job).order_by(c.number.desc())).scalars().all()
        return [decode(record, JobVersion) for record in found]

    def due_jobs(self, now: int, /, *, host: str | None = None, limit: int = 100) -> list[Job]:
        c = t.jobs.c
        query = select(c.record, c.next_due, c.last_due).where(
            c.paused.is_(False), c.deleted.is_(False), c.next_due <= now
        )
        if host is not None:
            query = query.where(or_(c.host == host, c.host.is_(None)))
        with self._reading() as connection:
            return [to_job(row) for row in connection.execute(query.order_by(c.next_due, c.id).limit(limit))]

    # --- firings ------------------------------------------------------------------------------------------------------

    def fire(self, job: JobId, firings: Sequence[Firing], /, *, was_due: int, next_due: int | None) -> bool:
        c = t.jobs.c
        moved: Json = {"next_due": next_due}
        if firings:
            moved["last_due"] = max([was_due, *(firing.due for firing in firings)])
        rows = [firing_row(firing) for firing in firings]
        with self._writing() as connection:
            advanced = connection.execute(update(t.jobs).where(c.id == job, c.next_due == was_due).values(**moved))
            if not advanced.rowcount:
                return False
            for row in rows:
                connection.execute(self._insert(t.firings).values(row).on_conflict_do_nothing())
        return True

    def add_firing(self, firing: Firing, /) -> bool:
        row = firing_row(firing)
        with self._writing() as connection:
            return bool(connection.execute(self._insert(t.firings).values(row).on_conflict_do_nothing()).rowcount)

    def claim_firing(self, owner: str, now: int, /, *, jobs: Sequence[JobId] | None = None) -> Firing | None:
        c = t.firings.c
        # In this word, so that SQLite sees that the partial index holds all that is asked for.
        queued = c.state == text("'queued'")
        first = select(c.job, c.due, c.manual).where(queued).order_by(c.due, c.job).limit(1)
        if jobs is not None:
            first = first.where(c.job.in_(jobs))
        with self._writing() as connection:
            found = connection.execute(first.with_for_update(skip_locked=True)).first()
            if found is None:
                return None
            claimed = connection.execute(
                update(t.firings)
                .where(c.job == found.job, c.due == found.due, c.manual == found.manual, c.state == "queued")
                .values(state="running", token=c.token + 1, owner=owner, claimed=now)
                .returning(*_FIRING)
            ).one()
            self._fate.claimed = firing = to_firing(claimed)
        return firing

    def end_firing(self, firing: Firing, /) -> bool:
        return self._change_firing(firing, state=firing.state, reason=firing.reason, run=firing.run)

    def attach_run(self, firing: Firing, run: RunId, /) -> bool:
        return self._change_firing(firing, run=run)

    def firings(self, job: JobId | None = None, /, *, states: Sequence[str] = (), limit: int = 50) -> list[Firing]:
        query = select(*_FIRING).order_by(t.firings.c.due.desc(), t.firings.c.job, t.firings.c.manual).limit(limit)
        if job is not None:
            query = query.where(t.firings.c.job == job)
        if states:
            query = query.where(t.firings.c.state.in_(states))
        with self._reading() as connection:
            return [to_firing(row) for row in connection.execute(query)]

    def _change_firing(self, firing: Firing, **changes: Any) -> bool:
        c = t.firings.c
        which = (c.job == firing.job, c.due == firing.due, c.manual == firing.manual, c.token == firing.token)
        with self._writing() as connection:
            changed = connection.execute(update(t.firings).where(*which, c.state.in_(UNDER_WAY)).values(**changes))
            return bool(changed.rowcount)

    # --- what became of a change whose connection was lost ------------------------------------------------------------

    def _settle_fire(self, job: JobId, firings: Sequence[Firing], *, was_due: int, next_due: int | None) -> bool | None:
        moved = select(t.jobs.c.next_due).where(t.jobs.c.id == job)
        with self._reading() as connection:
            found = connection.execute(moved).scalar()
        there = all(self._firing(one) is not None for one in firings)
        return True if found == next_due != was_due and there else None

    def _settle_add_firing(self, firing: Firing) -> bool | None:
        return True if self._firing(firing) is not None else None

    def _settle_claim_firing(self, owner: str, now: int, **_: Any) -> Firing | None:
        del now
        claimed: Firing | None = self._fate.claimed
        found = self._firing(claimed) if claimed is not None else None
        if claimed is None or found is None:
            return None
        mine = found.owner == owner and found.token == claimed.token and found.state == "running"
        return found if mine else None

    def _settle_end_firing(self, firing: Firing) -> bool | None:
        found = self._firing(firing)
        return True if found is not None and (found.token, found.state) == (firing.token, firing.state) else None

    def _settle_attach_run(self, firing: Firing, run: RunId) -> bool | None:
        found = self._firing(firing)
        return True if found is not None and (found.token, found.run) == (firing.token, run) else None

    def _firing(self, firing: Firing) -> Firing | None:
        c = t.firings.c
        which = (c.job == firing.job, c.due == firing.due, c.manual == firing.manual)
        with self._reading() as connection:
            row = connection.execute(select(*_FIRING).where(*which)).first()
        return to_firing(row) if row is not None else None
