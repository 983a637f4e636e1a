"""What differs between two runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from mlbench.core.ids import Digest, ExecutionId, RunId
from mlbench.core.records import Artifact, Binding, Execution, Failure, GitState, Metric, Run, Snapshot
from mlbench.runs.diff import MOST_ITEMS, Difference, Side, compare
from mlbench.runs.diff_cells import NotebookCell, as_run
from mlbench.runs.diff_text import as_html, as_lines
from mlbench.runs.diff_values import preview_changes, value_changes
from mlbench.runs.previews import preview, preview_file, preview_folder
from mlbench.runs.values import pack


def a_run(ident: str, **more: Any) -> Run:
    given_: dict[str, Any] = {"id": RunId(ident), "kind": "papermill", "state": "succeeded", "name": "flights"}
    return Run(**(given_ | more))


def side(ident: str = "rrrr", *, run: dict[str, Any] | None = None, **more: Any) -> Side:
    return Side(run=a_run(ident, **(run or {})), **more)


def of(before: dict[str, Any], after: dict[str, Any], **more: Any) -> Difference:
    return compare(side("bbbb", **before), side("cccc", **after), **more)


def cell(source: str, ident: str | None = None, kind: str = "code") -> NotebookCell:
    return NotebookCell(source=source, id=ident, type=kind)


def artifact(value: Any) -> Artifact:
    packed = pack(value)
    return Artifact(
        digest=packed.digest, size=packed.size, type=packed.type, codec=packed.codec, preview=preview(value)
    )


def execution(step: str, **more: Any) -> Execution:
    values = {name: more.pop(name) for name in list(more) if name not in Execution.__dataclass_fields__}
    binds = tuple(Binding(name=name, artifact=artifact(value)) for name, value in values.items())
    given_: dict[str, Any] = {"id": ExecutionId(step), "run": RunId("r"), "state": "succeeded", "binds": binds}
    return Execution(step=step, **(given_ | more))


def said(difference: Difference) -> str:
    return "\n".join(line for _, line in as_lines(difference))


def file_artifact(name: str, content: bytes) -> Artifact:
    packed = pack(content)
    return Artifact(
        digest=packed.digest,
        size=packed.size,
        type="file",
        codec="file",
        preview=preview_file(name, len(content)),
    )


# --- cells ------------------------------------------------------------------------------------------------------------


def changes(before: list[NotebookCell], after: list[NotebookCell]) -> list[tuple[str, str]]:
    found = of({"cells": tuple(before)}, {"cells": tuple(after)})
    return [(one.change, one.name) for one in found.code]


def test_cells_are_added_removed_and_changed_by_their_ids() -> None:
    before = [cell("import os", "a"), cell("%%step load\nx = 1", "b"), cell("print(x)", "c")]
    after = [cell("import os", "a"), cell("%%step load\nx = 2", "b"), cell("# a note", "d", "markdown")]
    found = of({"cells": tuple(before)}, {"cells": tuple(after)}).code
    assert [(one.change, one.name, one.type) for one in found] == [
        ("changed", "load", "code"),
        ("added", "cell 3", "markdown"),
        ("removed", "cell 3", "code"),
    ]
    assert found[0].diff == ("@@ -1,2 +1,2 @@", " %%step load", "-x = 1", "+x = 2")
    assert found[1].diff == ("@@ -0,0 +1 @@", "+# a note")


def test_cells_whose_ids_changed_are_known_by_step_text_or_likeness() -> None:
    before = [
        cell("%%step load\nx = 1", "a"),
        cell("same", "b"),
        cell("frame = read(path, columns=['a', 'b'])\nframe = frame.dropna()", "c"),
    ]
    after = [
        cell("%%step load\ny = f(x, 22)\nz = 3", "x"),
        cell("same", "y"),
        cell("frame = read(path, columns=['a', 'c'])\nframe = frame.dropna()", "z"),
    ]
    assert changes(before, after) == [("changed", "load"), ("changed", "cell 3")]


def test_a_cell_of_the_same_letters_is_another_one_unless_most_of_its_words_stand_as_before() -> None:
    before = [cell("mean = read(rows)\nfit = chart(delay)", "a")]
    assert changes(before, [cell("chart = mean(fit)\ndelay = rows(read)", "b")]) == [
        ("added", "cell 1"),
        ("removed", "cell 1"),
    ]
    assert changes(before, [cell("mean = read(rows)\nfit = chart(delay, 3)", "b")]) == [("changed", "cell 1")]


def test_a_cell_that_stands_elsewhere_has_moved_and_the_others_have_not() -> None:
    one, two, three = cell("1", "a"), cell("2", "b"), cell("3", "c")
    assert changes([one, two, three], [three, one, two]) == [("moved", "cell 1")]


def test_a_cell_with_a_wrong_step_line_is_compared_like_any_other() -> None:
    assert changes([cell("%%step --nonsense", "a")], [cell("%%step --nonsense x", "a")]) == [("changed", "cell 1")]


def test_modules_beside_the_notebook_are_code_too() -> None:
    found = of({"modules": {"delays.py": "a = 1", "old.py": ""}}, {"modules": {"delays.py": "a = 2"}}).code
    assert [(one.what, one.change, one.name) for one in found] == [
        ("module", "changed", "delays.py"),
        ("module", "removed", "old.py"),
    ]
    assert found[0].diff[1:] == ("-a = 1", "+a = 2")


def test_a_cell_is_compared_as_its_step_ran_where_the_notebook_that_was_kept_is_older() -> None:
    cells = [cell("%%step load --cpu 2\r\nx = 1", "a"), cell("%%step fit\ny = x", "b"), cell("x", "c")]
    ran = [
        execution("load", cell="a", source="x = 2"),
        execution("fit", cell="b", source="y = x\n"),
        execution("old", cell="c", source="nothing"),
    ]
    assert [one.source for one in as_run(cells, ran)] == ["%%step load --cpu 2\nx = 2", "%%step fit\ny = x", "x"]
    assert list(as_run(cells, [execution("load", cell="a", source="z", state="reused")])) == cells


_CELLS = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["x", "y", ""])), unique_by=lambda one: one[0])


@given(_CELLS, _CELLS)
def test_each_cell_is_told_at_most_once_and_equal_notebooks_do_not_differ(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    old, new = ([cell(source, ident) for ident, source in side_] for side_ in (before, after))
    found = of({"cells": tuple(old)}, {"cells": tuple(new)}).code
    assert len([one for one in found if one.change != "removed"]) <= len(new)
    added, removed = (sum(one.change == change for one in found) for change in ("added", "removed"))
    assert len(new) - len(old) == added - removed
    assert not of({"cells": tuple(old)}, {"cells": tuple(old)})


# --- parameters, environment ------------------------------------------------------------------------------------------


def test_parameters_differ_by_value_and_by_being_there() -> None:
    before = {"run": {"parameters": {"origin": "JFK", "trees": 1, "gone": None, "same": [1]}}}
    after = {"run": {"parameters": {"origin": "LGA", "trees": True, "new": 3, "same": [1]}}}
    found = of(before, after)
    assert [(one.name, one.change, one.before, one.after) for one in found.parameters] == [
        ("origin", "changed", "JFK", "LGA"),
        ("trees", "changed", 1, True),
        ("gone", "removed", None, None),
        ("new", "added", None, 3),
    ]
    assert "  origin: 'JFK' to 'LGA'" in said(found)
    assert "  gone: None (not there any more)" in said(found)


def test_the_environment_differs_by_python_packages_and_commit() -> None:
    some = Digest("blake3:" + "0" * 64)
    before = Snapshot(notebook=some, python="3.11.1", packages={"numpy": "1", "old": "2"}, git=GitState(commit="abc"))
    after = Snapshot(
        notebook=some, python="3.12.0", packages={"numpy": "2"}, git=GitState(commit="abc", difference=some)
    )
    found = of({"snapshot": before}, {"snapshot": after}).environment
    assert [(one.part, one.change, one.before, one.after) for one in found] == [
        ("python", "changed", "3.11.1", "3.12.0"),
        ("package numpy", "changed", "1", "2"),
        ("package old", "removed", "2", None),
        ("commit", "changed", "abc", "abc with changes"),
    ]
    assert not of({"snapshot": before}, {})


def test_what_only_one_of_two_runs_has_recorded_of_its_environment_is_no_difference() -> None:
    some = Digest("blake3:" + "0" * 64)
    papermill = Snapshot(notebook=some, python="3.11.1", packages={"numpy": "1"}, kernel_name="python3")
    interactive = Snapshot(notebook=some, python="3.11.1", packages={"numpy": "2"}, environment=("HOME", "PATH"))
    found = of({"snapshot": papermill}, {"snapshot": interactive}).environment
    assert [one.part for one in found] == ["package numpy"]
    other = replace(interactive, environment=("HOME", "TOKEN"))
    found = of({"snapshot": interactive}, {"snapshot": other}).environment
    assert [(one.part, one.change) for one in found] == [("variable PATH", "removed"), ("variable TOKEN", "added")]


# --- data -------------------------------------------------------------------------------------------------------------


def data(before: Any, after: Any) -> tuple[str, ...]:
    found = of(
        {"executions": (execution("load", table=before),)}, {"executions": (execution("load", table=after),)}
    ).data
    assert all((one.step, one.name, one.change) == ("load", "table", "changed") for one in found)
    return found[0].details if found else ()


def test_a_frame_differs_by_rows_columns_and_types_before_its_values() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [1.0, 2.0, 3.0], "c": ["x", "y", "z"]})
    other = frame.drop(columns="c").assign(a=frame["a"].astype("float64"), d=1, b=[1.0, 7.0, None])
    assert data(frame, frame.copy()) == ()
    assert data(frame, frame.head(2)) == ("rows 3 to 2",)
    assert data(frame, other) == (
        "columns gone: c",
        "new columns: d",
        "column a: type int64 to float64",
        "column b: missing 0 to 1",
        "first at row 1, column b: 2 to 7",
    )
    assert data(frame, frame.assign(b=[1.0, 2.5, 3.0])) == ("first at row 1, column b: 2 to 2.5",)


def test_other_values_differ_by_what_their_previews_show() -> None:
    assert data(np.arange(3), np.arange(4))[0] == "shape 3 to 4"
    assert data(np.array([1, 2]), np.array([1, 5])) == ("max 2 to 5", "first at 1: 2 to 5")
    assert data(1, "1") == ("type int to str",)
    assert data(1, 2) == ("1 to 2",)
    big = np.zeros(100_000)
    other = big.copy()
    other[50_000] = -0.0
    assert data(big, other) == ("the content: what is shown of it is the same",)


def test_estimators_differ_by_their_parameters() -> None:
    def model(trees: str) -> Artifact:
        shown = {"kind": "estimator", "text": "Forest()", "parameters": {"trees": trees, "depth": "3"}}
        return Artifact(digest=Digest(trees), size=1, type="Forest", codec="pickle", preview=shown)

    assert preview_changes(model("10"), model("20")) == ("trees 10 to 20",)


def test_names_and_steps_of_one_run_only_are_added_or_removed() -> None:
    before = {"executions": (execution("load", table=1, extra=2), execution("old", x=1))}
    after = {"executions": (execution("load", table=1), execution("fit", model=3))}
    found = of(before, after)
    assert [(one.step, one.name, one.change, one.details) for one in found.data] == [
        ("load", "extra", "removed", ("2",)),
        ("fit", "model", "added", ("3",)),
        ("old", "x", "removed", ("1",)),
    ]
    assert [(one.step, one.before, one.after) for one in found.outcome] == [
        ("old", "succeeded", None),
        ("fit", None, "succeeded"),
    ]


def test_artifacts_that_were_logged_differ_by_step_and_by_run_with_their_sizes() -> None:
    def logged(**files: bytes) -> tuple[Binding, ...]:
        return tuple(Binding(name=name, artifact=file_artifact(name, content)) for name, content in files.items())

    before = {
        "executions": (execution("fit", artifacts=logged(report=b"x" * 1200, same=b"1", gone=b"22")),),
        "run": {"artifacts": logged(notes=b"abc")},
    }
    after = {
        "executions": (execution("fit", artifacts=logged(report=b"x" * 3000, same=b"1", more=b"333")),),
        "run": {"artifacts": logged(notes=b"abd")},
    }
    found = of(before, after).artifacts
    assert [(one.step, one.name, one.change, one.before_size, one.after_size) for one in found] == [
        ("fit", "report", "changed", 1200, 3000),
        ("fit", "gone", "removed", 2, None),
        ("fit", "more", "added", None, 3),
        (None, "notes", "changed", 3, 3),
    ]
    assert found[0].before_execution == "fit"
    assert found[0].details == ("size 1.2 kB to 3.0 kB",)
    text = said(of(before, after))
    assert "Artifacts\n  report of fit differs" in text
    assert "  gone of fit was removed\n    gone, 2 bytes" in text
    assert "  notes of the run differs" in text
    assert "other content of the same size" in text


def test_folders_differ_by_their_files_and_figures_by_how_they_look() -> None:
    def folder(**files: int) -> Artifact:
        shown = preview_folder("plots", files)
        return Artifact(digest=Digest(str(files)), size=9, type="folder", codec="folder", preview=shown)

    assert preview_changes(folder(a=1, b=2), folder(a=1, c=2000)) == (
        "files gone: b",
        "new files: c",
        "size 3 B to 2.0 kB",
    )
    assert preview_changes(folder(a=1), folder(a=1)) == ("other content of the same size",)

    def fan_out(digest: str) -> Artifact:
        shown = {"kind": "list", "length": 2, "text": "list of 2: numpy.ndarray"}
        return Artifact(digest=Digest(digest), size=9, type="list", codec="items", preview=shown)

    assert preview_changes(fan_out("a"), fan_out("b")) == ("in single items, which are named below",)

    def figure(picture: str | None) -> Artifact:
        shown = {"kind": "figure", "text": "Figure, 1 axes", "picture": picture}
        return Artifact(digest=Digest("d"), size=1, type="matplotlib.figure.Figure", codec="pickle", preview=shown)

    assert preview_changes(figure("p"), figure("p")) == ("it looks the same",)
    assert preview_changes(figure("p"), figure("q")) == ("it looks otherwise",)


def test_loaded_values_are_asked_before_previews_and_only_where_digests_differ() -> None:
    asked = []

    def load(before: Binding, after: Binding) -> tuple[str, ...]:
        asked.append((before.name, after.name))
        return ("at the very end",) if before.name == "a" else ()

    before = {"executions": (execution("load", a=1, b=1, c=1),)}
    after = {"executions": (execution("load", a=2, b=2, c=1),)}
    assert [one.details for one in of(before, after, load=load).data] == [("at the very end",), ("1 to 2",)]
    assert asked == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            pd.DataFrame({"a": [1, 2, 3], "b": [1.0, None, 3.0]}),
            pd.DataFrame({"a": [1, 2, 4], "b": [1.0, None, 5.0]}),
            ("first at row 2, column a: 3 to 4", "1 of 3 rows differ, in a, b"),
        ),
        (
            pd.DataFrame({"a": [1, 2, 3]}, index=["x", "y", "z"]),
            pd.DataFrame({"a": [9, 2]}, index=["x", "w"]),
            (
                "rows 3 to 2",
                "index: first at row 1: 'y' to 'w'",
                "first at row 0, column a: 1 to 9",
                "1 of 2 rows differ, in a",
            ),
        ),
        (
            pd.Series([1, 2], index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)])),
            pd.Series([1, 2], index=pd.MultiIndex.from_tuples([("x", 1), ("y", 3)])),
            ("index: first at row 1: ('y', 2) to ('y', 3)",),
        ),
        (
            pd.Series([1, 2], index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)])),
            pd.Series([1, 2], index=["x", "y"]),
            ("index: 2 to 1 levels",),
        ),
        (
            pd.DataFrame({"a": [1], "b": [2]}),
            pd.DataFrame({"b": [2.0], "a": [1]}),
            ("order of columns: a, b to b, a", "column b: type int64 to float64"),
        ),
        (
            pd.DataFrame({"k": pd.Categorical(["x", "y"])}),
            pd.DataFrame({"k": pd.Categorical(["x", "z"])}),
            (
                "column k: other categories",
                "first at row 1, column k: 'y' to 'z'",
                "1 of 2 rows differ, in k",
            ),
        ),
        (
            pd.DataFrame({"s": pd.array(["x", None], dtype="string")}),
            pd.DataFrame({"s": pd.array([None, None], dtype="string")}),
            ("first at row 0, column s: 'x' to <NA>", "1 of 2 rows differ, in s"),
        ),
        (
            pd.Series([1.0, 2.0]),
            pd.Series([1.0, 2.5]),
            ("first at row 1, column value: 2 to 2.5", "1 of 2 rows differ, in value"),
        ),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), pd.DataFrame([[1, 3]], columns=["a", "a"]), ()),
        (
            pa.table({"a": [[1, 2], [3]], "b": [1, 1]}),
            pa.table({"a": [[1, 2], [4]], "b": [1, 1]}),
            ("first at row 1, column a: array([3]) to array([4])", "1 of 2 rows differ, in a"),
        ),
        (
            np.array([[1.0, math.nan], [3.0, 4.0]]),
            np.array([[1.0, math.nan], [3.0, 5.0]]),
            ("first at [1, 1]: 4 to 5", "1 of 4 values differ"),
        ),
        (np.zeros(2), np.zeros((2, 1)), ("shape 2 to 2 × 1",)),
        (np.zeros(2), np.zeros(2, dtype="int8"), ("type float64 to int8",)),
        (1, 1.5, ("type int to float",)),
        ({"a": 1}, {"a": 2}, ()),
    ],
)
def test_values_that_were_loaded_say_where_they_first_differ(before: Any, after: Any, says: tuple[str, ...]) -> None:
    assert value_changes(before, after) == says


SPARSE = sparse.random(50, 60, 0.1, format="csr", random_state=0)
POINTS = np.zeros(5, dtype=[("x", "f8"), ("name", "S3")])


def changed(value: Any, place: Any, to: Any) -> Any:
    other = value.copy()
    other[place] = to
    return other


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (SPARSE, SPARSE[:10], ("shape 50 × 60 to 10 × 60",)),
        (SPARSE, SPARSE.copy(), ()),
        (sparse.coo_array(SPARSE), sparse.csr_array(SPARSE), ("type scipy.sparse._coo.coo_array to scipy.sparse",)),
        (
            sparse.csr_array(np.array([[0.0, np.nan, 1, 3]])),
            sparse.csr_array(np.array([[0.0, np.nan, 2, 0]])),
            ("stored values 3 to 2", "first at [0, 2]: 1 to 2", "2 of 4 values differ"),
        ),
        (POINTS, changed(POINTS, 3, (2.5, b"")), ("field x: first at [3]: 0 to 2.5", "field x: 1 of 5 values differ")),
        (POINTS, np.zeros(5, [("x", "f8"), ("y", "f4")]), ("type", "fields gone: name", "new fields: y")),
    ],
)
def test_sparse_and_structured_ones_say_so_too(before: Any, after: Any, says: tuple[str, ...]) -> None:
    found = value_changes(before, after)
    assert len(found) == len(says)
    assert all(line.startswith(beginning) for line, beginning in zip(found, says, strict=True)), found


# --- what came out ----------------------------------------------------------------------------------------------------


def test_metrics_differ_by_their_last_values_and_nan_is_nan() -> None:
    before = (Metric(name="rmse", value=9.0), Metric(name="rmse", value=2.0), Metric(name="r2", value=math.nan))
    after = (Metric(name="rmse", value=1.5), Metric(name="r2", value=math.nan), Metric(name="new", value=1.0))
    found = of(
        {"executions": (execution("fit", metrics=before),), "run": {"metrics": (Metric(name="total", value=1),)}},
        {"executions": (execution("fit", metrics=after),), "run": {"metrics": (Metric(name="total", value=3),)}},
    )
    assert [(one.step, one.name, one.change, one.difference) for one in found.metrics] == [
        (None, "total", "changed", 2),
        ("fit", "rmse", "changed", -0.5),
        ("fit", "new", "added", None),
    ]
    assert "  fit.rmse: 2 to 1.5 (-0.5)" in said(found)


def test_the_outcome_differs_by_state_and_error_and_reused_is_succeeded() -> None:
    failure = Failure(ename="ValueError", evalue="\x1b[31mno\x1b[0m\nmore")
    before = {"executions": (execution("load"), execution("fit"))}
    after = {
        "executions": (execution("load", state="reused"), execution("fit", state="failed", failure=failure)),
        "run": {"state": "failed", "reason": "timeout"},
    }
    found = of(before, after)
    assert [(one.step, one.before, one.after) for one in found.outcome] == [
        (None, "succeeded", "failed (timeout)"),
        ("fit", "succeeded", "failed: ValueError: no"),
    ]


def item(number: int, carrier: str, **more: Any) -> Execution:
    return execution("fit", item=number, label={"carrier": carrier}, **more)


def test_items_are_compared_by_their_values_wherever_they_stand() -> None:
    before = {"items": {"fit": [item(0, "AA", model=1), item(1, "UA", model=2), item(2, "DL", model=3)]}}
    after = {
        "items": {
            "fit": [
                item(0, "UA", model=5, metrics=(Metric(name="rmse", value=1),)),
                item(1, "AA", model=1),
                item(2, "B6", model=7),
            ]
        }
    }
    (found,) = of(before, after).items
    assert (found.step, found.differing, found.added, found.removed, found.cut) == ("fit", 1, 1, 1, False)
    assert [
        (one.label["carrier"], one.before, one.after, tuple(each.name for each in one.data)) for one in found.items
    ] == [
        ("UA", "succeeded", "succeeded", ("model",)),
        ("B6", None, "succeeded", ()),
        ("DL", "succeeded", None, ()),
    ]
    text = said(of(before, after))
    assert "  fit: 1 differ, 1 new, 1 gone" in text
    assert "    carrier=UA: model differs: 2 to 5; rmse: 1 (not there before)" in text


def test_of_an_item_that_differs_it_is_said_in_what_and_few_small_ones_are_loaded() -> None:
    asked: list[str] = []

    def load(before: Binding, after: Binding) -> tuple[str, ...]:
        asked.append(before.name)
        return (f"{before.name} was loaded",)

    large = artifact(np.zeros(9))
    plot = (Binding(name="plot.txt", artifact=file_artifact("plot.txt", b"12345")),)
    before = {"items": {"fit": [item(n, str(n), r=np.zeros(n + 1), artifacts=plot) for n in range(60)]}}
    after = {"items": {"fit": [item(n, str(n), r=np.zeros(n + 2)) for n in range(60)]}}
    (found,) = of(before, after).items
    assert [one.details for each in found.items[:2] for one in each.data] == [("shape 1 to 2",), ("shape 2 to 3",)]
    assert "    carrier=1: r differs: shape 2 to 3; plot.txt was removed: plot.txt, 5 bytes" in said(of(before, after))
    (found,) = of(before, after, load=load).items
    assert 0 < len(asked) <= 20
    assert found.items[0].data[0].details == ("r was loaded",)
    assert found.items[50].data[0].details == ("shape 51 to 52",)
    asked.clear()
    whole = [
        {
            "items": {
                "fit": [item(0, "AA", binds=(Binding(name="r", artifact=replace(large, digest=Digest(d), size=s)),))]
            }
        }
        for d, s in (("a", 1), ("b", 1 << 30))
    ]
    assert of(*whole, load=load).items[0].items[0].data
    assert asked == []


def test_items_with_the_same_values_are_told_apart_by_their_order() -> None:
    before = {"items": {"fit": [item(0, "AA", model=1), item(1, "AA", model=2)]}}
    after = {"items": {"fit": [item(0, "AA", model=1), item(1, "AA", model=3)]}}
    (found,) = of(before, after).items
    assert (found.differing, found.added, found.removed) == (1, 0, 0)


def test_of_very_many_items_the_first_are_named_and_all_are_counted() -> None:
    before = {"items": {"fit": [item(n, str(n), state="failed") for n in range(MOST_ITEMS + 5)]}}
    after = {"items": {"fit": [item(n, str(n)) for n in range(MOST_ITEMS + 5)]}}
    difference = of(before, after)
    (found,) = difference.items
    assert (found.differing, len(found.items), found.cut) == (MOST_ITEMS + 5, MOST_ITEMS, True)
    assert said(difference).endswith(f"… and {MOST_ITEMS + 5 - 20:,} more")


# --- as text ----------------------------------------------------------------------------------------------------------


def test_what_matters_most_is_said_first() -> None:
    some = Digest("blake3:" + "0" * 64)
    everything = [
        {
            "cells": (cell(f"x = {number}", "a"),),
            "run": {"parameters": {"trees": number}, "state": state},
            "snapshot": Snapshot(notebook=some, python=str(number)),
            "executions": (
                execution(
                    "fit",
                    model=number,
                    metrics=(Metric(name="rmse", value=number),),
                    artifacts=(Binding(name="report", artifact=artifact(number)),),
                ),
            ),
            "items": {"fit": [item(0, "AA", model=number)]},
        }
        for number, state in ((1, "succeeded"), (2, "failed"))
    ]
    difference = of(*everything)
    heads = [line for style, line in as_lines(difference) if style == "head"]
    assert heads == ["Cells", "Parameters", "Data", "Artifacts", "Environment", "Metrics", "Outcome", "Items"]
    assert ("removed", "    -x = 1") in list(as_lines(difference))
    assert ("added", "    +x = 2") in list(as_lines(difference))


def test_equal_runs_say_so() -> None:
    difference = of({}, {})
    assert not difference
    assert said(difference) == "Nothing differs between run bbbb and run cccc."
    assert as_html(difference) == "<p>Nothing differs between run bbbb and run cccc.</p>"


def test_html_escapes_what_the_runs_hold_and_closes_what_it_opens() -> None:
    evil = "<script>alert(1)</script>"
    before = {"run": {"parameters": {evil: 1}}, "cells": (cell("a", "a"),)}
    found = as_html(of(before, {"run": {"parameters": {evil: evil}}, "cells": (cell(evil, "a"),)}))
    assert "<script" not in found
    assert f"<ins>    +{evil.replace('<', '&lt;').replace('>', '&gt;')}</ins>" in found
    for tag in ("p", "pre", "b", "ins", "del"):
        assert found.count(f"<{tag}>") == found.count(f"</{tag}>")
