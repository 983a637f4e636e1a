"""What uses how much of a store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mlbench.core.errors import ArtifactCorrupt, NotFound
from mlbench.core.ids import Digest, short
from mlbench.project.care.reading import Reading
from mlbench.runs.reachable import By, Usage, Use, usage

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["use"]

_LOG = logging.getLogger(__name__)


def use(project: Project, by: By = "run") -> tuple[Usage, int]:
    """Return what uses how much of a store, and how many bytes its records have."""
    blobs = project.blobs
    reading = Reading(blobs)
    survey = reading.survey
    sizes: dict[Digest, int] = {}
    spare = 0
    for piece in blobs.pieces("pack"):
        contents: Mapping[Digest, int] = {}
        try:
            contents = blobs.contents(Digest(piece.name))
        except (NotFound, ArtifactCorrupt):
            _LOG.warning("The pack %s is damaged: see `mlbench store verify`.", piece.name)
        rest = piece.size - sum(contents.values())
        for left, (digest, size) in zip(range(len(contents), 0, -1), contents.items(), strict=True):
            part = rest // left  # what a pack has beside them counts for those in it
            rest -= part
            sizes[digest] = sizes.get(digest, 0) + size + part
        spare += rest  # all of one whose contents nobody knows
    for piece in blobs.pieces("object"):
        digest = Digest(piece.name)
        sizes[digest] = sizes.get(digest, 0) + piece.size
    needed = survey.needed((), reading.inside_or_nothing)

    def group(one: Use) -> str:
        run = survey.runs.get(one.run) if one.run is not None else None
        job = one.job if one.job is not None else run.job if run is not None else None
        match by:
            case "job":
                return survey.jobs.get(job, job) if job is not None else "no job"
            case "run":
                if one.run is None:
                    return f"job {survey.jobs.get(job or '', job or '?')}"
                return f"{short(one.run)} {run.name}" if run is not None else short(one.run)
            case "step":
                return one.step or "no step"
            case "name":
                return f"{one.step}.{one.name}" if one.step and one.name else one.kind
            case "kind":
                return one.kind

    found = usage(sizes, survey.uses(reading.inside_or_nothing), group, needed)
    found = replace(found, shared=found.shared + spare, total=found.total + spare)
    return found, sum(piece.size for piece in reading.pieces.values())
