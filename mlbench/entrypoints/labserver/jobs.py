"""Jobs: their list, a new one, what stands in its way, and what can be done with one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.errors import NotFound, ScheduleError, UsageError
from mlbench.core.records import Firing, Job
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.entrypoints.labserver.runs import failure_line
from mlbench.project import Project, promotion

__all__ = ["Check", "FiringsOfJob", "Jobs", "OneJob", "RunNow"]


class _Office(Handler):
    """A handler that tells the service when jobs have changed."""

    def find(self, identifier: str) -> tuple[Project, Job]:
        """Return a job and the store that it is in."""
        return self.stores.find(lambda project: project.catalog.job(identifier))

    def view(self, project: Project, job: Job) -> schema.JobView:
        """Return a job as a list shows it."""
        from mlbench.delivery import schedule

        short = sentence = None
        if job.cron is not None:
            try:
                short = schedule.short_sentence(job.cron, job.timezone)
                sentence = schedule.sentence(job.cron, job.timezone)
            except ScheduleError as error:
                sentence = str(error)
        firings = project.catalog.firings(job.id, limit=1)
        return schema.JobView(
            job=job,
            path=self.stores.relative(job.notebook),
            short=short,
            sentence=sentence,
            last=firings[0] if firings else None,
            error=_error(project, firings[0]) if firings else None,
        )


class Jobs(_Office):
    """`GET jobs`, `POST jobs`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer all jobs of the stores that are open, those that are due next first."""
        await self.reply(self._list)

    @web.authenticated
    @authorized("execute")
    async def post(self) -> None:
        """Make the notebook that is sent a job, or the next version of the job that it is."""
        await self.reply_with(self._create())

    def _list(self) -> schema.JobList:
        jobs = [self.view(project, job) for project in self.stores.met() for job in project.catalog.jobs()]
        jobs.sort(key=lambda view: (view.job.next_due is None, view.job.next_due or 0, view.job.name))
        return schema.JobList(jobs=jobs, service=promotion.service_line())

    async def _create(self) -> schema.JobView:
        wanted = self.body(schema.NewJob)
        view = await asyncio.to_thread(self._promote, wanted)
        await self.newsroom.jobs_changed()
        return view

    def _promote(self, wanted: schema.NewJob) -> schema.JobView:
        project = self.stores.project(wanted.path)
        job = promotion.promote(
            project,
            str(self.stores.absolute(wanted.path)),
            content=wanted.notebook,
            parameters=wanted.parameters,
            cron=wanted.cron,
            timezone=wanted.timezone,
            name=wanted.name.strip() or None,
        )
        return self.view(project, job)


class Check(_Office):
    """`POST jobs/check`."""

    @web.authenticated
    @authorized("read")
    async def post(self) -> None:
        """Answer what scheduling the notebook would do and what stands in its way; nothing is stored."""
        await self.reply(self._check)

    def _check(self) -> schema.JobCheck:
        question = self.body(schema.JobQuestion)
        check = promotion.check_promotion(
            self.stores.project(question.path),
            str(self.stores.absolute(question.path)),
            content=question.notebook,
            parameters=question.parameters,
            cron=question.cron,
            timezone=question.timezone,
            name=question.name,
        )
        return schema.JobCheck(
            name=check.name,
            version=check.version,
            fields=[
                schema.FormField(
                    name=form["name"],
                    type=form["type"],
                    default=form.get("default"),
                    help=form.get("help"),
                    required=bool(form.get("required")),
                )
                for form in check.parameters
            ],
            checked=[
                schema.CheckLine(
                    level="error" if found.level == "error" else "warning" if found.level == "warning" else "ok",
                    text=found.text,
                    cell=found.cell,
                    parameter=found.parameter,
                )
                for found in check.findings
            ],
            service=check.service,
        )


class OneJob(_Office):
    """`GET jobs/{id}`, `PATCH jobs/{id}`, `DELETE jobs/{id}`."""

    @web.authenticated
    @authorized
    async def get(self, job: str) -> None:
        """Answer a job."""
        await self.reply(self._job, job)

    @web.authenticated
    @authorized
    async def patch(self, job: str) -> None:
        """Pause a job's schedule or let it go on."""
        await self.reply_with(self._change(job))

    @web.authenticated
    @authorized
    async def delete(self, job: str) -> None:
        """Delete a job; its runs stay."""
        await self.reply_with(self._delete(job))

    def _job(self, identifier: str) -> schema.JobView:
        project, job = self.find(identifier)
        if job.deleted:
            raise UsageError(f"The job {job.name} has been deleted.")
        return self.view(project, job)

    async def _change(self, identifier: str) -> schema.JobView:
        change = self.body(schema.JobChange)
        view = await asyncio.to_thread(self._pause, identifier, paused=change.paused)
        await self.newsroom.jobs_changed()
        return view

    def _pause(self, identifier: str, *, paused: bool) -> schema.JobView:
        project, job = self.find(identifier)
        return self.view(project, promotion.pause(project, job.id, paused=paused))

    async def _delete(self, identifier: str) -> schema.JobView:
        view = await asyncio.to_thread(self._remove, identifier)
        await self.newsroom.jobs_changed()
        return view

    def _remove(self, identifier: str) -> schema.JobView:
        project, job = self.find(identifier)
        return self.view(project, promotion.delete(project, job.id))


class RunNow(_Office):
    """`POST jobs/{id}/run`."""

    @web.authenticated
    @authorized("execute")
    async def post(self, job: str) -> None:
        """Queue a firing of a job for now, and see to it that a service runs it."""
        await self.reply_with(self._run(job))

    async def _run(self, identifier: str) -> schema.FiringDetail:
        firing = await asyncio.to_thread(self._queue, identifier)
        await self.newsroom.jobs_changed()
        return schema.FiringDetail(firing=firing)

    def _queue(self, identifier: str) -> Any:
        project, job = self.find(identifier)
        return promotion.run_now(project, job.id)


class FiringsOfJob(_Office):
    """`GET jobs/{id}/firings`."""

    @web.authenticated
    @authorized
    async def get(self, job: str) -> None:
        """Answer the last firings of a job, newest first."""
        await self.reply(self._firings, job)

    def _firings(self, identifier: str) -> schema.Firings:
        project, job = self.find(identifier)
        return schema.Firings(firings=project.catalog.firings(job.id, limit=self.number("limit", 50, 500)))


def _error(project: Project, firing: Firing) -> str | None:
    """Say in one line why a firing failed: what its run says, else what is known of the firing itself."""
    if firing.state != "failed":
        return None
    if firing.run is not None:
        with contextlib.suppress(NotFound):
            run = project.catalog.run(firing.run)
            return failure_line(run, project.steps(run.id)) or firing.reason
    return firing.reason
