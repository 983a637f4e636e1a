"""What a cron line means, and when it is due next."""

from __future__ import annotations

import time

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler

__all__ = ["Preview"]


class Preview(Handler):
    """`POST schedule/preview`."""

    @web.authenticated
    @authorized("read")
    async def post(self) -> None:
        """Answer a schedule's sentence and its next five times, or what is wrong with it."""
        await self.reply(self._preview)

    def _preview(self) -> schema.SchedulePreview:
        from mlbench.delivery import schedule

        question = self.body(schema.ScheduleQuestion)
        cron = schedule.check(question.cron, question.timezone)
        times = schedule.next_times(cron, question.timezone, int(time.time()), 5)
        return schema.SchedulePreview(
            cron=cron,
            sentence=schedule.sentence(cron, question.timezone),
            next=[due.isoformat() for due in times],
        )
