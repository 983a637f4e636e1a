"""An id goes into a notebook's text, and nothing else of the text changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlbench.core.errors import NotebookError
from mlbench.notebook.identity import insert_id

ID = "b" * 26
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"indent": 1},
    {"indent": 4},
    {"indent": "\t"},
    {"separators": (",", ":")},
    {"indent": 1, "ensure_ascii": False},
]
METADATA: list[dict[str, Any]] = [
    {},
    {"kernelspec": {"name": "python3"}},
    {"a": 1, "z": [1, {"deep": '} " {'}]},
    {"z": 1, "a": 2},
    {"mlbench": {}},
    {"mlbench": {"id": "x", "kept": 1}},
    {"mlbench": {"kept": 1}},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("metadata", METADATA, ids=str)
def test_an_id_is_written_as_the_writer_of_the_file_would_have_written_it(
    layout: dict[str, Any], metadata: dict[str, Any]
) -> None:
    before = {"cells": [{"source": 'é " } {'}], "metadata": metadata, "nbformat": 4}
    changed = insert_id(json.dumps(before, **layout) + "\n", ID)
    after = json.loads(changed)
    assert after == {**before, "metadata": {**metadata, "mlbench": {**metadata.get("mlbench", {}), "id": ID}}}
    assert changed == json.dumps(after, **layout) + "\n"


def test_it_stands_in_order_among_sorted_keys_and_last_among_others() -> None:
    assert list(json.loads(insert_id('{"metadata": {"a": 1, "z": 2}}', ID))["metadata"]) == ["a", "mlbench", "z"]
    assert list(json.loads(insert_id('{"metadata": {"z": 1, "a": 2}}', ID))["metadata"]) == ["z", "a", "mlbench"]


def test_spellings_that_json_would_not_write_again_stay() -> None:
    before = '\ufeff{\r\n  "cells" : [1.50, 1E3, "\\u00e9"],\r\n  "metadata" : { }\r\n}\r\n'
    after = insert_id(before, ID)
    assert after.startswith('\ufeff{\r\n  "cells" : [1.50, 1E3, "\\u00e9"],\r\n  "metadata" : {')
    assert json.loads(after[1:])["metadata"] == {"mlbench": {"id": ID}}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"metadata": 1}', '{"cells": []}', '{"metadata": {"a"'])
def test_what_has_no_metadata_is_refused(text: str) -> None:
    with pytest.raises(NotebookError):
        insert_id(text, ID)
