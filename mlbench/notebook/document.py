"""A notebook's document: read from bytes, checked, looked into.

One validator stands before everything that runs, lists or stores a notebook. It names the cell, its id and the field,
and it lets nothing through that would make another reader stumble later: nbformat accepts NaN, tags that are a text and
two cells of one id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from mlbench.core.errors import NotebookError
from mlbench.core.ids import is_id
from mlbench.notebook import step
from mlbench.notebook.graph import CellSource

__all__ = [
    "SIZE_LIMIT",
    "Notebook",
    "cells",
    "has_steps",
    "kernel_name",
    "language",
    "notebook_id",
    "parameters_cell",
    "read",
    "with_notebook_id",
    "without_outputs",
]

Notebook = dict[str, Any]

SIZE_LIMIT: Final = 50_000_000
"""How many bytes a notebook may have: the setting `notebook_size_limit`."""

DEEPEST: Final = 200

_CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KERNEL = re.compile(r"[a-zA-Z0-9._-]{1,200}")
_OUTPUTS = {
    "stream": ("name", "text"),
    "display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata"),
    "error": ("ename", "evalue", "traceback"),
}
# What a run writes, not a person: papermill's, JupyterLab's timings, widgets' states.
_RUN_METADATA = frozenset({"papermill", "widgets"})
_RUN_CELL_METADATA = frozenset({"papermill", "execution", "ExecuteTime"})


def read(data: bytes, name: str, *, limit: int = SIZE_LIMIT) -> Notebook:
    r"""Return a checked notebook of nbformat 4, as it was written.

    Parameters
    ----------
    data
        The file's bytes: UTF-8, with or without a byte order mark.
    name
        What errors call the notebook: its file name.
    limit
        The most bytes that are read.

    Raises
    ------
    NotebookError
        For the first thing that is wrong, in one sentence that names the notebook, the cell and the field.

    Examples
    --------
    >>> read(b'{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{}]}', "a.ipynb")
    Traceback (most recent call last):
        ...
    mlbench.core.errors.NotebookError: a.ipynb: cell 1: 'cell_type' is missing.
    """
    check = _Check(_safe(name))
    if len(data) > limit:
        check.fail(
            f"it has {len(data):,} bytes, more than the {limit:,} that the setting notebook_size_limit allows",
            remedy="Clear large outputs, or raise the setting.",
        )
    nb = check.parse(data)
    check.whole(nb)
    return nb


class _Check:
    """Check one notebook; every failure begins with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, what: str, where: str | None = None, remedy: str | None = None) -> NoReturn:
        raise NotebookError(f"{self.name}: {where}: {what}." if where else f"{self.name}: {what}.", remedy)

    def parse(self, data: bytes) -> Notebook:
        if not data.strip():
            self.fail("the file is empty")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.fail(f"it is not UTF-8 text (byte {error.start + 1} is 0x{data[error.start]:02x})")
        try:
            nb = json.loads(text)
        except json.JSONDecodeError as error:
            self.fail(f"it is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})")
        except RecursionError:
            self.fail("it is nested too deeply to be a notebook")
        except ValueError as error:  # a number of thousands of digits
            self.fail(f"it is not valid JSON ({error})")
        if not isinstance(nb, dict):
            self.fail(f"it holds {_kind(nb)}, where a notebook is an object with cells")
        return nb

    def whole(self, nb: Notebook) -> None:
        self.version(nb)
        self.field(nb, "metadata", dict, "an object")
        cells_ = self.field(nb, "cells", list, "a list")
        seen: dict[str, int] = {}
        for number, cell in enumerate(cells_, start=1):
            self.cell(cell, number, seen, ids=nb["nbformat_minor"] >= 5)
        for key, value in nb.items():
            if key != "cells":
                self.values(value, None, key)

    def version(self, nb: Notebook) -> None:
        if "nbformat" not in nb:
            self.fail("'nbformat' is missing, so it is not a notebook")
        major = nb["nbformat"]
        if not _is_int(major):
            self.fail(f"'nbformat' must be a whole number, not {_kind(major)}")
        if major < 4:
            self.fail(
                f"it is of nbformat {major}",
                remedy="Open and save it in JupyterLab, which makes it nbformat 4.",
            )
        if major > 4:
            self.fail(f"it is of nbformat {major}, which this release of mlbench does not know: it reads nbformat 4")
        if not _is_int(nb.get("nbformat_minor")):
            self.fail("'nbformat_minor' must be a whole number")

    def field(
        self, owner: dict[str, Any], key: str, kind: type | tuple[type, ...], phrase: str, where: str | None = None
    ) -> Any:
        if key not in owner:
            self.fail(f"'{key}' is missing", where)
        if not isinstance(owner[key], kind):
            self.fail(f"'{key}' must be {phrase}, not {_kind(owner[key])}", where)
        return owner[key]

    def cell(self, cell: Any, number: int, seen: dict[str, int], *, ids: bool) -> None:
        where = f"cell {number}"
        if not isinstance(cell, dict):
            self.fail(f"it is {_kind(cell)}, not an object", where)
        identifier = cell.get("id")
        if isinstance(identifier, str) and _CELL_ID.fullmatch(identifier):
            where = f"cell {number} (id {identifier})"
        elif ids or identifier is not None:
            self.fail("'id' must be a text of 1 to 64 letters, digits, '-' and '_'", where)
        kind = self.field(cell, "cell_type", str, "a text", where)
        if kind not in ("code", "markdown", "raw"):
            self.fail(f"'cell_type' must be code, markdown or raw, not {_safe(kind)!r}", where)
        if identifier in seen:
            self.fail(
                f"cell {seen[identifier]} has the same id",
                where,
                "Open and save it in JupyterLab, which gives one of them another.",
            )
        if identifier is not None:
            seen[identifier] = number
        self.text(self.field(cell, "source", (str, list), "a text or a list of texts", where), "source", where)
        metadata = self.field(cell, "metadata", dict, "an object", where)
        tags = metadata.get("tags", [])
        if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            self.fail("'metadata.tags' must be a list of texts", where)
        if kind == "code":
            count = cell.get("execution_count")
            if count is not None and not _is_int(count):
                self.fail("'execution_count' must be a whole number or null", where)
            for place, output in enumerate(self.field(cell, "outputs", list, "a list", where), start=1):
                self.output(output, f"outputs[{place}]", where)
        for key, value in cell.items():
            self.values(value, where, key)

    def text(self, source: Any, field: str, where: str) -> None:
        if isinstance(source, list):
            for line in source:
                if not isinstance(line, str):
                    self.fail(f"'{field}' must be a text or a list of texts, not a list with {_kind(line)}", where)
            source = "".join(source)
        if "\x00" in source:
            self.fail(f"'{field}' holds a NUL character", where)

    def output(self, output: Any, field: str, where: str) -> None:
        if not isinstance(output, dict):
            self.fail(f"'{field}' must be an object, not {_kind(output)}", where)
        kind = output.get("output_type")
        if not isinstance(kind, str) or kind not in _OUTPUTS:
            self.fail(f"'{field}.output_type' must be one of {', '.join(_OUTPUTS)}", where)
        for key in _OUTPUTS[kind]:
            if key not in output:
                self.fail(f"'{field}.{key}' is missing", where)
        if kind in ("display_data", "execute_result"):
            for key in ("data", "metadata"):
                if not isinstance(output[key], dict):
                    self.fail(f"'{field}.{key}' must be an object, not {_kind(output[key])}", where)

    def values(self, value: Any, where: str | None, field: str) -> None:
        """Look at every value, however deep, without recursion: what is no JSON, or no text, is refused."""
        stack: list[tuple[Any, _Path]] = [(value, (None, field))]
        depths = [0]
        while stack:
            one, path = stack.pop()
            depth = depths.pop()
            if isinstance(one, str):
                if not one.isascii() and _half_character(one):
                    self.fail(f"'{_spelled(path)}' holds half of a character (a lone surrogate)", where)
            elif isinstance(one, float):
                if one != one or one in (float("inf"), float("-inf")):
                    self.fail(f"'{_spelled(path)}' is {one}, which JSON does not have", where)
            elif isinstance(one, dict):
                if depth > DEEPEST:
                    self.fail(f"'{field}' is nested more than {DEEPEST} deep", where)
                for key, part in one.items():
                    if not key.isascii() and _half_character(key):
                        self.fail(f"a key in '{_spelled(path)}' holds half of a character (a lone surrogate)", where)
                    stack.append((part, (path, key)))
                    depths.append(depth + 1)
            elif isinstance(one, list):
                if depth > DEEPEST:
                    self.fail(f"'{field}' is nested more than {DEEPEST} deep", where)
                for place, part in enumerate(one):
                    stack.append((part, (path, place)))
                    depths.append(depth + 1)


_Path = tuple[Any, Any]


def _spelled(path: _Path) -> str:
    parts: list[str] = []
    current: Any = path
    while current is not None:
        current, key = current
        parts.append(f"[{key + 1}]" if isinstance(key, int) else f".{_safe(key)}")
    return "".join(reversed(parts)).lstrip(".")


def _half_character(text: str) -> bool:
    return re.search("[\ud800-\udfff]", text) is not None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    for kind, phrase in ((bool, "true or false"), (int, "a number"), (float, "a number"), (str, "a text")):
        if isinstance(value, kind):
            return phrase
    return "a list" if isinstance(value, list) else "an object"


def _safe(text: str) -> str:
    """Return a text that is harmless in one line of output."""
    cut = text if len(text) <= 200 else text[:197] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


# A checked notebook


def cells(nb: Notebook) -> list[CellSource]:
    r"""Return the code cells, numbered as they stand among all cells; one without an id is called `cell-<number>`.

    Examples
    --------
    >>> cells({"cells": [{"cell_type": "code", "source": ["a = 1\n", "b = 2"], "metadata": {"tags": ["x"]}}]})
    [CellSource(id='cell-1', source='a = 1\nb = 2', tags=('x',), number=1)]
    """
    return list(_code_cells(nb))


def _code_cells(nb: Notebook) -> Iterator[CellSource]:
    for number, cell in enumerate(nb["cells"], start=1):
        if cell["cell_type"] == "code":
            source = cell["source"]
            yield CellSource(
                id=cell.get("id") or f"cell-{number}",
                source=source if isinstance(source, str) else "".join(source),
                tags=tuple(cell["metadata"].get("tags", ())),
                number=number,
            )


def kernel_name(nb: Notebook, name: str = "The notebook") -> str:
    """Return the name of its kernel. Raise `NotebookError` if it has none, or one that cannot be a kernel's.

    Examples
    --------
    >>> kernel_name({"metadata": {"kernelspec": {"name": "python3"}}})
    'python3'
    """
    spec = nb["metadata"].get("kernelspec")
    kernel = spec.get("name") if isinstance(spec, dict) else None
    if kernel is None or kernel == "":
        raise NotebookError(
            f"{_safe(name)} names no kernel ('metadata.kernelspec.name').",
            "Open it in JupyterLab, choose a kernel and save it, or name one: --kernel NAME.",
        )
    if not isinstance(kernel, str) or not _KERNEL.fullmatch(kernel) or not kernel.strip("."):
        raise NotebookError(
            f"{_safe(name)}: 'metadata.kernelspec.name' cannot be a kernel's name: {_safe(str(kernel))}.",
            "Open it in JupyterLab, choose a kernel and save it.",
        )
    return kernel


def language(nb: Notebook) -> str | None:
    """Return the language that its metadata names, in lower case.

    Examples
    --------
    >>> language({"metadata": {"language_info": {"name": "R"}}})
    'r'
    """
    metadata = nb["metadata"]
    for owner, key in (("kernelspec", "language"), ("language_info", "name")):
        value = metadata.get(owner)
        if isinstance(value, dict) and isinstance(value.get(key), str) and value[key]:
            return str(value[key]).lower()
    return None


def notebook_id(nb: Notebook) -> str | None:
    """Return the id that mlbench has written into its metadata, None if there is none or it is no id.

    Examples
    --------
    >>> notebook_id({"metadata": {"mlbench": {"id": "../../etc"}}}) is None
    True
    """
    own = nb["metadata"].get("mlbench")
    value = own.get("id") if isinstance(own, dict) else None
    return value if isinstance(value, str) and is_id(value) else None


def with_notebook_id(nb: Notebook, identifier: str) -> Notebook:
    """Return a copy that carries an id; what else mlbench keeps in its metadata stays.

    Examples
    --------
    >>> with_notebook_id({"metadata": {}, "cells": []}, "a" * 26)["metadata"]
    {'mlbench': {'id': 'aaaaaaaaaaaaaaaaaaaaaaaaaa'}}
    """
    own = nb["metadata"].get("mlbench")
    kept = own if isinstance(own, dict) else {}
    return {**nb, "metadata": {**nb["metadata"], "mlbench": {**kept, "id": identifier}}}


def without_outputs(nb: Notebook) -> Notebook:
    """Return a copy without outputs, counts and what a run writes into metadata.

    Examples
    --------
    >>> cell = {"cell_type": "code", "source": "", "metadata": {}, "execution_count": 3, "outputs": [{}]}
    >>> without_outputs({"metadata": {}, "cells": [cell]})["cells"][0]["outputs"]
    []
    """
    stripped = []
    for cell in nb["cells"]:
        copy = {**cell, "metadata": {k: v for k, v in cell["metadata"].items() if k not in _RUN_CELL_METADATA}}
        if cell["cell_type"] == "code":
            copy.update(outputs=[], execution_count=None)
        stripped.append(copy)
    metadata = {key: value for key, value in nb["metadata"].items() if key not in _RUN_METADATA}
    return {**nb, "metadata": metadata, "cells": stripped}


def parameters_cell(nb: Notebook, name: str = "The notebook") -> CellSource | None:
    """Return the cell tagged `parameters`, if there is one. Raise `NotebookError` if there are several.

    Examples
    --------
    >>> parameters_cell({"cells": []}) is None
    True
    """
    tagged = [cell for cell in _code_cells(nb) if "parameters" in cell.tags]
    if len(tagged) > 1:
        numbers = " and ".join(str(cell.number) for cell in tagged[:2])
        raise NotebookError(
            f"{_safe(name)}: cells {numbers} are both tagged parameters.", "Take the tag off all but one."
        )
    return tagged[0] if tagged else None


def has_steps(nb: Notebook) -> bool:
    """Say whether a code cell begins with `%%step`, be its line right or wrong.

    Examples
    --------
    >>> has_steps({"cells": [{"cell_type": "code", "source": "%%step a", "metadata": {}}]})
    True
    """
    return any(step.is_step(cell.source) for cell in _code_cells(nb))
