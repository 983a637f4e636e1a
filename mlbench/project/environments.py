"""What a step's `--env` means: the requirements of an environment of its own. Light: kernels import it.

It names one of `[tool.mlbench.environments.NAME]` (in the nearest `pyproject.toml` or `mlbench.toml` above the notebook
that has it), or a requirements file beside the notebook.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from mlbench.core.errors import UsageError
from mlbench.project.configuration import settings_above

__all__ = ["find_requirements"]

_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_INCLUDE: Final = re.compile(r"(?:-r|--requirement)(?:\s+|=|(?<=-r))\s*(\S.*)")
_ELSEWHERE: Final = re.compile(r"-e\b|--editable\b|-c\b|--constraint\b|\.{0,2}/|\.$|file:|~")
_MOST_LINES: Final = 2_000
_LARGEST: Final = 1 << 20


def find_requirements(env: str, notebook: str | None = None) -> tuple[str, ...]:
    """Return the requirement lines of an environment, sorted.

    Parameters
    ----------
    env
        What `--env` says.
    notebook
        Its path; without one, the working directory decides.

    Raises
    ------
    UsageError
        If there is no such environment or file, or if it asks for what its lines do not fix: local folders.
    """
    folder = Path(os.path.abspath(notebook)).parent if notebook else Path.cwd()
    known: list[str] = []
    for file, settings in settings_above(folder):
        environments = settings.get("environments", {})
        if not isinstance(environments, dict):
            raise UsageError(f"{file}: environments is not a table.", _EXAMPLE)
        if env in environments:
            return _of_settings(env, environments[env], file)
        known += environments
    path = folder / Path(env).expanduser()
    if path.is_file():
        return tuple(sorted(set(_lines_of(path))))
    if re.search(r"[/\\]|\.txt$", env):
        raise UsageError(f"--env {env}: there is no file {path}.", "Write the path as seen from the notebook's folder.")
    near = get_close_matches(env, known, 1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}." if known else _EXAMPLE
    raise UsageError(f"--env {env}: there is no environment of this name.", hint)


_EXAMPLE: Final = 'Write [tool.mlbench.environments.NAME] with requirements = ["…"] into pyproject.toml.'


def _of_settings(env: str, entry: Any, file: Path) -> tuple[str, ...]:
    where = f"{file}: the environment {env}"
    if not isinstance(entry, dict) or set(entry) - {"requirements", "file"} or len(entry) != 1:
        raise UsageError(f"{where} needs either requirements or file, and nothing else.", _EXAMPLE)
    if "file" in entry:
        path = file.parent / str(entry["file"])
        if not path.is_file():
            raise UsageError(f"{where} names {path}, which is not there.", "Correct the path.")
        return tuple(sorted(set(_lines_of(path))))
    listed = entry["requirements"]
    if not isinstance(listed, list) or not all(isinstance(one, str) and one.strip() for one in listed):
        raise UsageError(f"{where}: requirements is a list of texts.", _EXAMPLE)
    return tuple(sorted({_checked(one.strip(), where) for one in listed}))


def _lines_of(path: Path, seen: frozenset[Path] = frozenset()) -> Iterator[str]:
    """Yield the lines of a requirements file and of those that it includes."""
    path = path.resolve()
    if path in seen:
        raise UsageError(f"{path} includes itself.", "Leave one of the -r lines out.")
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is too large for a requirements file.", "Name another with --env.")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Correct it, or name another file.") from error
    for number, whole in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        line = " ".join(_COMMENT.sub("", whole).split())
        if not line:
            continue
        if include := _INCLUDE.fullmatch(line):
            yield from _lines_of(path.parent / include[1], seen | {path})
        else:
            yield _checked(line, f"{path}, line {number}")
        if number > _MOST_LINES:
            raise UsageError(f"{path} has more than {_MOST_LINES:,} lines.", "Name another file with --env.")


def _checked(line: str, where: str) -> str:
    if not line.isprintable():
        raise UsageError(f"{where}: {line!r} holds a character that no requirement has.", "Correct it.")
    if _ELSEWHERE.match(line) or re.search(r"@\s*(file:|\.{0,2}/)", line):
        raise UsageError(
            f"{where}: {line} stands for files that can change or that other machines do not have.",
            "Name a package and its version; modules beside the notebook travel with the step by themselves.",
        )
    return line
