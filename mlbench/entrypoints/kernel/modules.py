"""What cells set in modules: noted as they run, so that steps are given it, or it is said that they are not."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlbench.entrypoints.kernel.sources import file_of, roots_of
from mlbench.notebook import syntax
from mlbench.notebook.assigned import assigned, taken

if TYPE_CHECKING:
    from mlbench.runs.modulesettings import Setting

__all__ = ["ModuleWatch"]


class ModuleWatch:
    """What this kernel's cells have set in modules.

    Parameters
    ----------
    namespace
        The kernel's.
    say
        Shows a sentence under the cell that runs.
    """

    def __init__(self, namespace: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._namespace = namespace
        self._say = say
        self._assigned: frozenset[tuple[str, ...]] = frozenset()  # by cells that have not ended
        self._taken: dict[str, tuple[str, str]] = {}
        self._said: set[Setting] = set()

    def see(self, tree: ast.AST) -> None:
        """Look at a plain cell that is about to run."""
        self._assigned |= assigned(tree)
        self._taken |= taken(tree)

    def look_back(self, cells: Iterable[str]) -> None:
        """Look at the cells that ran before this one, the one that loads mlbench among them."""
        for source in cells:
            with contextlib.suppress(SyntaxError, ValueError):
                self.see(syntax.parse(source))

    def settle(self) -> None:
        """Note what the cells that have ended may have set."""
        if self._assigned:
            from mlbench.runs.modulesettings import note

            note(self._assigned, self._namespace, self._taken)
            self._assigned = frozenset()

    def warn(self, body: str, folders: Collection[str]) -> None:
        """Say what the kernel has set and a step can't be given, once of each, and what the step sets for itself alone.

        The latter of modules in the folders only: what a step sets in a library is meant for the step.
        """
        from mlbench.runs.modulesettings import found, unsent

        for one in unsent():
            if one not in self._said:
                self._said.add(one)
                self._say(
                    f"{_spelled(one)} was changed in the kernel, and steps do not see that: they import {one[0]} for "
                    "themselves. Change it in the module, or in the step."
                )
        for one in sorted(found(assigned(syntax.parse(body)), self._namespace, {})):
            if file_of(one[0], roots_of(folders)) is not None:
                self._say(f"{_spelled(one)} is set in this step alone: cells and other steps do not see it.")


def _spelled(setting: Setting) -> str:
    name, path = setting
    return ".".join((name, *path))
