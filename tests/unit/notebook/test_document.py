"""Reading and checking a notebook's document."""

from __future__ import annotations

import json
import time
from typing import Any

import nbformat
import pytest

from mlbench.core.errors import NotebookError
from mlbench.notebook import diagnostics, document


def code(source: Any = "x = 1", **fields: Any) -> dict[str, Any]:
    cell = {"cell_type": "code", "id": "a1", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    return {**cell, **fields}


def notebook(*cells: Any, **fields: Any) -> dict[str, Any]:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells), **fields}


def data(nb: Any) -> bytes:
    return json.dumps(nb).encode()


def refused(raw: bytes, **options: Any) -> str:
    with pytest.raises(NotebookError) as caught:
        document.read(raw, "nb.ipynb", **options)
    sentence = str(caught.value)
    assert sentence.startswith("nb.ipynb: ")
    assert sentence.isprintable()
    assert len(sentence) < 400
    return sentence.removeprefix("nb.ipynb: ")


def without(cell: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in cell.items() if key != field}


STREAM = {"output_type": "stream", "name": "stdout", "text": "x"}

WRONG: list[tuple[str, bytes, str]] = [
    ("an empty file", b"", "the file is empty."),
    ("a blank file", b" \n", "the file is empty."),
    (
        "no JSON",
        b"{not json",
        "it is not valid JSON (line 1, column 2: Expecting property name enclosed in double quotes).",
    ),
    ("half a file", data(notebook(code()))[:-3], "it is not valid JSON (line 1, column 171: Expecting ',' delimiter)."),
    ("a list", b"[]", "it holds a list, where a notebook is an object with cells."),
    ("null", b"null", "it holds null, where a notebook is an object with cells."),
    ("a text", b'"x"', "it holds a text, where a notebook is an object with cells."),
    ("latin-1", b'{"a": "\xe9"}', "it is not UTF-8 text (byte 8 is 0xe9)."),
    ("UTF-16", '{"a": 1}'.encode("utf-16"), "it is not UTF-8 text (byte 1 is 0xff)."),
    ("another JSON file", b"{}", "'nbformat' is missing, so it is not a notebook."),
    (
        "nbformat 3",
        data({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}),
        "it is of nbformat 3. Open and save it in JupyterLab, which makes it nbformat 4.",
    ),
    (
        "nbformat 5",
        data(notebook(nbformat=5)),
        "it is of nbformat 5, which this release of mlbench does not know: it reads nbformat 4.",
    ),
    ("nbformat as a text", data(notebook(nbformat="4")), "'nbformat' must be a whole number, not a text."),
    ("nbformat true", data(notebook(nbformat=True)), "'nbformat' must be a whole number, not true or false."),
    ("no minor version", data(without(notebook(), "nbformat_minor")), "'nbformat_minor' must be a whole number."),
    ("no metadata", data(without(notebook(), "metadata")), "'metadata' is missing."),
    ("metadata as a list", data(notebook(metadata=[])), "'metadata' must be an object, not a list."),
    ("no cells", data(without(notebook(), "cells")), "'cells' is missing."),
    ("cells as an object", data(notebook(cells={})), "'cells' must be a list, not an object."),
    ("a cell that is a text", data(notebook("x")), "cell 1: it is a text, not an object."),
    (
        "a cell without an id",
        data(notebook(without(code(), "id"))),
        "cell 1: 'id' must be a text of 1 to 64 letters, digits, '-' and '_'.",
    ),
    (
        "a strange id",
        data(notebook(code(id="<img src=x>"))),
        "cell 1: 'id' must be a text of 1 to 64 letters, digits, '-' and '_'.",
    ),
    (
        "two cells of one id",
        data(notebook(code(), code(id="b"), code())),
        "cell 3 (id a1): cell 1 has the same id. Open and save it in JupyterLab, which gives one of them another.",
    ),
    ("no cell type", data(notebook(without(code(), "cell_type"))), "cell 1 (id a1): 'cell_type' is missing."),
    (
        "an unknown cell type",
        data(notebook(code(cell_type="sql\n"))),
        "cell 1 (id a1): 'cell_type' must be code, markdown or raw, not 'sql\\\\n'.",
    ),
    ("no source", data(notebook(code(id="b"), without(code(), "source"))), "cell 2 (id a1): 'source' is missing."),
    (
        "a number as source",
        data(notebook(code(5))),
        "cell 1 (id a1): 'source' must be a text or a list of texts, not a number.",
    ),
    (
        "numbers in the source",
        data(notebook(code(["x", 5]))),
        "cell 1 (id a1): 'source' must be a text or a list of texts, not a list with a number.",
    ),
    ("a NUL in the source", data(notebook(code("x\x00"))), "cell 1 (id a1): 'source' holds a NUL character."),
    (
        "a lone surrogate in the source",
        data(notebook(code("x = '\ud800'"))),
        "cell 1 (id a1): 'source' holds half of a character (a lone surrogate).",
    ),
    (
        "a lone surrogate in an output",
        data(notebook(code(outputs=[{**STREAM, "text": ["a", "\udfff"]}]))),
        "cell 1 (id a1): 'outputs[1].text[2]' holds half of a character (a lone surrogate).",
    ),
    (
        "tags as a text",
        data(notebook(code(metadata={"tags": "x"}))),
        "cell 1 (id a1): 'metadata.tags' must be a list of texts.",
    ),
    (
        "a number as tag",
        data(notebook(code(metadata={"tags": [1]}))),
        "cell 1 (id a1): 'metadata.tags' must be a list of texts.",
    ),
    (
        "cell metadata null",
        data(notebook(code(metadata=None))),
        "cell 1 (id a1): 'metadata' must be an object, not null.",
    ),
    (
        "outputs as an object",
        data(notebook(code(outputs={}))),
        "cell 1 (id a1): 'outputs' must be a list, not an object.",
    ),
    (
        "an output of an unknown type",
        data(notebook(code(outputs=[{"output_type": "html"}]))),
        "cell 1 (id a1): 'outputs[1].output_type' must be one of stream, display_data, execute_result, error.",
    ),
    (
        "an output without its text",
        data(notebook(code(outputs=[STREAM, without(STREAM, "text")]))),
        "cell 1 (id a1): 'outputs[2].text' is missing.",
    ),
    (
        "a text as execution count",
        data(notebook(code(execution_count="3"))),
        "cell 1 (id a1): 'execution_count' must be a whole number or null.",
    ),
    (
        "NaN in the notebook's metadata",
        data(notebook(metadata={"a": {"b": [1, float("nan")]}})),
        "'metadata.a.b[2]' is nan, which JSON does not have.",
    ),
    (
        "infinity in a cell's metadata",
        data(notebook(code(metadata={"a": 0}))).replace(b'"a": 0', b'"a": 1e999'),
        "cell 1 (id a1): 'metadata.a' is inf, which JSON does not have.",
    ),
    (
        "50,000 nested lists",
        data(notebook(metadata={"a": 0})).replace(b'"a": 0', b'"a": ' + b"[" * 50_000 + b"]" * 50_000),
        "it is nested too deeply to be a notebook.",
    ),
    (
        "300 nested lists",
        data(notebook(metadata={"a": 0})).replace(b'"a": 0', b'"a": ' + b"[" * 300 + b"]" * 300),
        "'metadata' is nested more than 200 deep.",
    ),
]


@pytest.mark.parametrize(("raw", "says"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_notebook_is_refused_by_cell_and_field(raw: bytes, says: str) -> None:
    assert refused(raw) == says


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    assert "not valid JSON" in refused(data(notebook(metadata={"a": 0})).replace(b'"a": 0', b'"a": ' + b"9" * 5000))


def test_a_notebook_that_is_too_large_names_the_setting() -> None:
    assert refused(data(notebook()), limit=10) == (
        f"it has {len(data(notebook()))} bytes, more than the 10 that the setting notebook_size_limit allows. "
        "Clear large outputs, or raise the setting."
    )


def test_a_strange_file_name_stays_on_one_line() -> None:
    with pytest.raises(NotebookError) as caught:
        document.read(b"", "a\nb\u202e.ipynb")
    assert str(caught.value) == "a\\nb\\u202e.ipynb: the file is empty."


@pytest.mark.parametrize(
    "nb",
    [
        notebook(),
        notebook(code()),
        notebook(code(["a = 1\n", "b = 2"], outputs=[STREAM])),
        notebook({"cell_type": "markdown", "id": "m", "metadata": {"tags": ["x"]}, "source": "# é 🙂"}),
        notebook(
            {"cell_type": "raw", "id": "r", "metadata": {}, "source": ""},
            metadata={"kernelspec": {"name": "p", "display_name": "P"}},
        ),
        notebook(code(outputs=[{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}])),
        notebook(without(code(), "id"), nbformat_minor=4),
    ],
)
def test_what_is_accepted_is_valid_and_comes_back_as_it_was(nb: dict[str, Any]) -> None:
    nbformat.validate(nbformat.from_dict(nb))
    assert document.read(data(nb), "nb.ipynb") == nb


def test_a_byte_order_mark_is_accepted() -> None:
    assert document.read(b"\xef\xbb\xbf" + data(notebook()), "nb.ipynb") == notebook()


def test_a_notebook_of_very_many_cells_is_read_in_reasonable_time() -> None:
    raw = data(notebook(*(code(id=f"c{i}") for i in range(20_000))))
    start = time.perf_counter()
    assert len(document.cells(document.read(raw, "nb.ipynb"))) == 20_000
    assert time.perf_counter() - start < 5


def test_code_cells_keep_their_place_among_all_cells() -> None:
    nb = notebook(
        {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "text"},
        code(["a\n", "b"], metadata={"tags": ["parameters"]}),
        without(code(), "id"),
    )
    first, second = document.cells(nb)
    assert (first.id, first.number, first.source, first.tags) == ("a1", 2, "a\nb", ("parameters",))
    assert second.id == "cell-3"


@pytest.mark.parametrize("metadata", [{}, {"kernelspec": {}}, {"kernelspec": "python3"}, {"kernelspec": {"name": ""}}])
def test_a_notebook_without_a_kernel_says_how_to_give_it_one(metadata: dict[str, Any]) -> None:
    with pytest.raises(NotebookError, match=r"nb\.ipynb names no kernel .*--kernel NAME"):
        document.kernel_name(notebook(metadata=metadata), "nb.ipynb")


@pytest.mark.parametrize("name", ["../../etc", "a b", "..", "/bin/sh", "a\nb", 3, "x" * 300])
def test_a_kernels_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(NotebookError, match="cannot be a kernel's name"):
        document.kernel_name(notebook(metadata={"kernelspec": {"name": name}}))


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({}, None),
        ({"kernelspec": {"name": "ir", "language": "R"}}, "r"),
        ({"language_info": {"name": "python"}}, "python"),
        ({"kernelspec": "x", "language_info": 3}, None),
    ],
)
def test_the_language_is_that_of_the_kernel(metadata: dict[str, Any], language: str | None) -> None:
    assert document.language(notebook(metadata=metadata)) == language


def test_a_notebooks_id_is_kept_beside_what_else_is_there() -> None:
    nb = notebook(metadata={"mlbench": {"x": 1}, "y": 2})
    assert document.notebook_id(nb) is None
    named = document.with_notebook_id(nb, "b" * 26)
    assert document.notebook_id(named) == "b" * 26
    assert named["metadata"] == {"mlbench": {"x": 1, "id": "b" * 26}, "y": 2}
    assert "id" not in nb["metadata"]["mlbench"]


def test_outputs_and_what_a_run_wrote_are_taken_out_of_a_copy() -> None:
    nb = notebook(
        code(outputs=[STREAM], execution_count=3, metadata={"execution": {}, "papermill": {}, "tags": ["a"]}),
        metadata={"papermill": {}, "widgets": {}, "kernelspec": {"name": "python3"}},
    )
    stripped = document.without_outputs(nb)
    assert stripped["cells"][0] == code(metadata={"tags": ["a"]})
    assert stripped["metadata"] == {"kernelspec": {"name": "python3"}}
    assert nb["cells"][0]["outputs"] == [STREAM]


def test_the_parameters_cell_is_found_and_two_are_refused() -> None:
    tagged = {"tags": ["parameters"]}
    nb = notebook(code(), code("a = 1", id="b", metadata=tagged))
    cell = document.parameters_cell(nb)
    assert cell is not None
    assert (cell.id, cell.number) == ("b", 2)
    assert document.parameters_cell(notebook(code())) is None
    with pytest.raises(NotebookError, match=r"nb: cells 1 and 3 are both tagged parameters\."):
        document.parameters_cell(notebook(code(metadata=tagged), code(id="b"), code(id="c", metadata=tagged)), "nb")


def test_steps_are_found_also_where_their_line_is_wrong() -> None:
    assert document.has_steps(notebook(code(), code("%%step")))
    assert not document.has_steps(notebook(code("x = '%%step a'")))


def test_problems_of_steps_and_parameters_come_in_the_order_of_cells() -> None:
    tagged = {"tags": ["parameters"]}
    nb = notebook(
        code("%%step a\nx = 1"),
        code("p = 1", metadata=tagged),
        code("q = 1", metadata=tagged),
        code("%%step A\ny = (", id="z"),
    )
    found = diagnostics.check(nb)
    assert [(problem.cell, problem.line) for problem in found] == [(3, 0), (4, 1), (4, 2)]
    assert found[0].sentence == "Cells 2 and 3 are both tagged parameters: take the tag off all but one."
    with pytest.raises(NotebookError, match=r"^nb\.ipynb: cells 2 and 3"):
        diagnostics.refuse(nb, "nb.ipynb")


def test_a_notebook_without_problems_passes() -> None:
    nb = notebook(code("%%step a\nx = 1"), code("x", id="b"))
    assert diagnostics.check(nb) == []
    diagnostics.refuse(nb, "nb.ipynb")


def test_a_notebook_of_another_language_is_left_alone() -> None:
    assert diagnostics.check(notebook(code("x <- c(1,"), metadata={"kernelspec": {"language": "R"}})) == []
