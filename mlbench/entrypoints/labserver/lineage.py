"""Where an artifact comes from, and what differs between two runs."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.core.errors import NotFound, UsageError
from mlbench.core.ids import Digest, is_id
from mlbench.entrypoints.labserver.door import Handler
from mlbench.project.comparison import difference, last_success, lineage, lineage_of, run_before
from mlbench.runs.diff import Difference
from mlbench.runs.lineage import Lineage, values_of

__all__ = ["DifferenceOfRuns", "LineageOfArtifact"]

EARLIER = {"last-success": last_success, "run-before": run_before}
"""What stands for a run of the notebook before: the last that succeeded, or the last."""


class LineageOfArtifact(Handler):
    """`GET artifacts/{digest}/lineage?execution=&name=&way=`."""

    @web.authenticated
    @authorized
    async def get(self, digest: str) -> None:
        """Answer what an artifact was made of and what was made of it; nothing is loaded."""
        await self.reply(self._lineage, digest)

    def _lineage(self, digest: str) -> Lineage:
        way = self.get_query_argument("way", "both")
        if way not in ("up", "down", "both"):
            raise UsageError("way is up, down or both.")
        up, down = way != "down", way != "up"
        path = self.get_query_argument("notebook", None)
        execution, name = (self.get_query_argument(word, None) for word in ("execution", "name"))
        if execution is not None and not is_id(execution):
            raise UsageError("execution is the id of one.")
        if name is None:
            project, _ = self.stores.find(lambda project: values_of(project.catalog, Digest(digest)), path)
            return lineage(project, digest, execution=execution, up=up, down=down)
        if execution is None:
            raise UsageError("A value that is named by its name is named by the id of its execution too.")
        project, found = self.stores.find(lambda project: project.catalog.execution(execution), path)
        answer = lineage_of(project, found, name, digest=Digest(digest), up=up, down=down)
        if answer.values[0].digest != digest:
            raise NotFound(f"The execution bound {name} to another artifact.")
        return answer


class DifferenceOfRuns(Handler):
    """`GET runs/{id}/diff?with=`."""

    @web.authenticated
    @authorized
    async def get(self, run: str) -> None:
        """Answer what differs between a run and the one before it that is named; previews only, nothing is loaded."""
        await self.reply(self._difference, run)

    def _difference(self, identifier: str) -> Difference:
        path = self.get_query_argument("notebook", None)
        other = self.get_query_argument("with", "")
        if other not in EARLIER and not is_id(other):
            raise UsageError(f"with is the id of the run that this one is compared with, or {' or '.join(EARLIER)}.")
        project, run = self.stores.find(lambda project: project.catalog.run(identifier), path)
        before = EARLIER[other](project, run) if other in EARLIER else project.catalog.run(other)
        return difference(project, before, run)
