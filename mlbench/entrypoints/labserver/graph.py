"""The graph of a notebook's steps, drawn from names before anything has run."""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from tornado import web

from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler

__all__ = ["GraphOfCells"]


class GraphOfCells(Handler):
    """`POST graph`."""

    @web.authenticated
    @authorized("read")
    async def post(self) -> None:
        """Answer the steps of the cells that are sent, in their order, with who waits for whom and why."""
        await self.reply(self._graph)

    def _graph(self) -> schema.Graph:
        from mlbench.notebook import feeding, graph

        question = self.body(schema.GraphQuestion)
        cells = [
            graph.CellSource(id=cell.id, source=cell.source, tags=tuple(cell.tags), number=number)
            for number, cell in enumerate(question.cells, 1)
        ]
        built = graph.build(cells)
        feeds = feeding.feeding_cells(cells, built)
        parents: dict[str, dict[str, list[str]]] = {}
        for edge in built.edges:
            parents.setdefault(edge.child, {}).setdefault(edge.parent, []).append(edge.why)
        said: dict[str | None, list[str]] = {}
        steps = {step.cell for step in built.steps}
        for problem in built.problems:
            said.setdefault(problem.cell_id if problem.cell_id in steps else None, []).append(problem.sentence)
        return schema.Graph(
            steps=[
                schema.GraphStep(
                    name=step.name,
                    cell=step.cell,
                    parents=[
                        schema.GraphParent(step=parent, why=" and ".join(whys))
                        for parent, whys in parents.get(step.name, {}).items()
                    ],
                    problems=said.get(step.cell, []),
                    cells=list(feeds.get(step.cell, ())),
                )
                for step in built.steps
            ],
            problems=said.get(None, []),
            edited=[
                cell.id for cell in question.cells if cell.ran is not None and feeding.is_edited(cell.source, cell.ran)
            ],
        )
