"""The list of what the items of a fan-out bound, made again from what is known of each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mlbench.core.errors import NotFound, StoreError
from mlbench.core.failed import Failed, lacking, unbound
from mlbench.core.ids import Digest
from mlbench.core.ports import Catalog
from mlbench.core.records import Binding, Execution
from mlbench.runs.reachable import Use

if TYPE_CHECKING:
    from mlbench.project import Project

__all__ = ["can_be_made", "make_again"]

_PAGE: Final = 1000


def can_be_made(project: Project, digest: Digest, users: Iterable[Use]) -> bool:
    """Say whether a list that is damaged or gone can be made again: all of its items have to be known.

    Its digest depends on those of its items alone, and so says whether it is the same.
    """
    return _places(project, digest, users) is not None


def make_again(project: Project, digest: Digest, users: Iterable[Use]) -> bool:
    """Make a list again and keep it in the place of a damaged one; return False if it cannot be made."""
    from mlbench.runs.artifacts import save_lists

    places = _places(project, digest, users)
    if places is None:
        return False
    with suppress(NotFound):
        project.blobs.set_aside(digest)
    save_lists({"": places}, project.blobs)
    return True


def _places(project: Project, digest: Digest, users: Iterable[Use]) -> list[Binding | Failed] | None:
    """Return what stands in a list for each of its items."""
    for use in users:
        if use.run is None or use.step is None:
            continue
        with suppress(NotFound, StoreError):
            for execution in project.catalog.executions(use.run):
                for name in (one.name for one in execution.binds if one.artifact and one.artifact.digest == digest):
                    if (places := _of_items(project.catalog, execution, name, digest)) is not None:
                        return places
    return None


def _of_items(catalog: Catalog, execution: Execution, name: str, digest: Digest) -> list[Binding | Failed] | None:
    from mlbench.backends.memory import MemoryBlobs
    from mlbench.project.history import with_items
    from mlbench.runs.artifacts import save_lists

    places: list[Binding | Failed] = []
    for number, item in enumerate(_items(catalog, with_items(catalog, execution))):
        if item.item != number:
            return None
        places.append(_place(item, name))
    (bound,) = save_lists({name: places}, MemoryBlobs())
    return places if bound.artifact is not None and bound.artifact.digest == digest else None


def _items(catalog: Catalog, execution: Execution) -> Iterator[Execution]:
    after = -1
    while page := catalog.items(execution.id, limit=_PAGE, after=after):
        yield from page
        after += len(page)


def _place(item: Execution, name: str) -> Binding | Failed:
    """Return what stands in the list for an item: what it bound, or, with `--catch`, that it failed or lacks it."""
    if item.state in {"succeeded", "reused"}:
        binding = next((one for one in item.binds if one.name == name), unbound(name))
        return binding if binding.problem is None else lacking(item.item or 0, item.label, binding)
    failure = item.failure
    return Failed(
        item=item.item or 0,
        label=item.label,
        ename=failure.ename if failure is not None else "",
        evalue=failure.evalue if failure is not None else "",
        reason=item.reason,
    )
