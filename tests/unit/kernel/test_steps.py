"""Steps and plain cells in one notebook: what is given to whom, and what is seen when."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlbench.core.errors import CaptureError, NotFound, ResultError, ServiceError, StepFailed, UsageError
from mlbench.core.records import Binding
from mlbench.entrypoints.kernel.pending import is_placeholder
from mlbench.project.signing import signer
from mlbench.runs.artifacts import save_names
from mlbench.runs.signing import KERNEL


def test_a_plain_cell_waits_for_the_name_that_it_reads(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nx = [1, 2, 3]\n")
    assert repr(book.names["x"]) == "<pending: x>"
    gate.set()
    assert book.run("len(x)") == 3
    assert type(book.names["x"]) is list


def test_a_step_is_given_what_another_one_binds_and_what_the_kernel_has(book: Any) -> None:
    book.run("factor = 3\ndef scale(v): return v * factor")
    book.run("%%step load\nrows = [1, 2]\n")
    book.run("%%step train\nmodel = [scale(v) for v in rows]\n")
    assert book.run("model") == [3, 6]
    load, train = book.service.submissions
    assert train.edges == {"rows": load.execution}
    assert [one["name"] for one in train.captured] == ["scale", "factor"]


def test_a_helper_that_reads_a_steps_name_makes_an_edge(book: Any) -> None:
    book.run("def total(): return sum(rows)")
    book.run("%%step load\nrows = [1, 2]\n")
    book.run("%%step train\nanswer = total()\n")
    assert book.service.submissions[1].edges == {"rows": book.service.submissions[0].execution}
    assert book.run("answer") == 3


def test_a_name_that_was_awaited_is_still_an_edge(book: Any) -> None:
    book.run("%%step load\nrows = [1, 2]\n")
    book.run("rows")
    book.run("%%step train\nanswer = sum(rows)\n")
    assert book.service.submissions[1].edges == {"rows": book.service.submissions[0].execution}


def test_a_name_that_a_plain_cell_changed_in_place_is_captured(book: Any) -> None:
    book.run("%%step load\nrows = [1, 2]\n")
    book.run("rows.append(3)")
    book.run("%%step train\nanswer = sum(rows)\n")
    assert book.service.submissions[1].edges == {}
    assert book.run("answer") == 6


def test_a_cell_that_is_run_again_starts_from_what_it_saw(book: Any) -> None:
    book.run("c = 10")
    for _ in range(3):
        book.run("%%step add\nc = c + 1\n")
        assert book.run("c") == 11


def test_a_change_in_place_is_not_applied_twice(book: Any) -> None:
    book.run("rows = [1]")
    for _ in range(2):
        book.run("%%step grow\nrows.append(2)\n")
        assert book.run("rows") == [1, 2]


def test_a_cell_run_again_before_its_first_run_has_ended_starts_from_the_same(book: Any) -> None:
    book.run("c = 10")
    gate = book.service.shut("add")
    book.run("%%step add\nc = c + 1\n")
    book.run("%%step add\nc = c + 2\n")
    gate.set()
    assert book.run("c") == 12
    first, second = book.service.submissions
    assert second.supersedes == first.execution


def test_what_the_service_says_of_a_kernel_that_attaches_is_shown_under_its_first_step_once(
    book: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    book.service.do_attach = lambda hello: {"run": None, "executions": [], "note": f"it has {len(hello.keys)} key."}
    book.run("%%step one\nx = 1")
    book.run("%%step two\ny = 1")
    assert capsys.readouterr().err.count("mlbench: it has 1 key.\n") == 1


def test_the_same_cell_run_again_while_it_is_on_attaches_to_it(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nx = 1\n")
    book.run("%%step load\nx = 1  # the same\n")
    gate.set()
    assert book.run("x") == 1
    assert len(book.service.submissions) == 1


def test_a_cell_whose_names_are_not_known_never_attaches(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nx = eval('1' + '')\n")
    book.run("%%step load\nx = eval('1' + '')\n")
    gate.set()
    assert book.run("x") == 1
    assert len(book.service.submissions) == 2


def test_continue_starts_from_its_own_result(book: Any) -> None:
    book.run("c = 10")
    book.run("%%step add\nc = c + 1\n")
    book.run("%%step add --continue\nc = c + 1\n")
    assert book.run("c") == 12


def test_a_cell_that_bound_the_name_since_is_what_counts(book: Any) -> None:
    book.run("c = 10")
    book.run("%%step add\nc = c + 1\n")
    book.run("c = 100")
    book.run("%%step add\nc = c + 1\n")
    assert book.run("c") == 101


def test_cells_may_be_run_out_of_order(book: Any) -> None:
    book.run("%%step a\nx = 1\n")
    book.run("%%step b\ny = x + 1\n")
    book.run("%%step a\nx = 10\n")
    assert book.run("x, y") == (10, 2)
    book.run("%%step b\ny = x + 1\n")
    assert book.run("y") == 11


def test_a_name_bound_on_some_paths_only_keeps_the_value_from_before(book: Any) -> None:
    book.run("flag, x = False, 'old'")
    book.run("%%step maybe\nif flag:\n    x = 'new'\n")
    assert book.run("x") == "old"


def test_a_name_that_a_step_deletes_is_gone(book: Any) -> None:
    book.run("x, y = 1, 2")
    book.run("%%step clean\ny = x\ndel x\n")
    assert isinstance(book.fail("x"), NameError)


def test_loop_variables_are_bound_too(book: Any) -> None:
    book.run("%%step loop\nfor i in range(3):\n    last = i\n")
    assert book.run("i, last") == (2, 2)


def test_a_step_without_results_waits_for_those_above(book: Any) -> None:
    book.run("%%step load\nx = 1\n")
    book.run("%%step validate\nassert True\n")
    book.run("%%step publish\nprint('done')\n")
    load, validate, publish = book.service.submissions
    assert set(publish.waits_for) == {load.execution, validate.execution}
    assert "effects" in publish.waits_for[load.execution]
    assert load.waits_for == {}


def test_after_says_another_order(book: Any) -> None:
    book.run("%%step load\nx = 1\n")
    book.run("%%step other\ny = 1\n")
    book.run("%%step publish --after load\nprint('done')\n")
    load, _, publish = book.service.submissions
    assert set(publish.waits_for) == {load.execution}
    assert isinstance(book.fail("%%step late --after nobody\nz = 1\n"), UsageError)


def test_a_file_that_one_step_writes_and_another_names_is_an_order(book: Any) -> None:
    book.run("%%step clean\nn = 1\nopen('clean.csv', 'w').write('1')\n")
    book.run("%%step use\ntext = open('clean.csv').read()\n")
    clean, use = book.service.submissions
    assert list(use.waits_for) == [clean.execution]
    assert "clean.csv" in use.waits_for[clean.execution]
    assert book.run("text") == "1"


def test_of_two_steps_that_write_one_file_the_first_runs_again_after_it_has_failed(book: Any) -> None:
    """It is not skipped for the one below it, which was skipped for it."""

    def run(step: str, body: str) -> str:
        with contextlib.suppress(StepFailed):
            book.run(f"%%step {step}\nopen('both.log', 'a').write('{step}')\n{body}\n")
        last = book.service.submissions[-1].execution
        book.service.ended[last].wait(20)
        return str(book.service.records[last].state)

    assert run("first", "1 / 0") == "failed"
    assert run("second", "") == "skipped"
    assert run("second", "") == "skipped"
    assert run("first", "") == "succeeded"
    assert run("second", "") == "succeeded"
    assert list(book.service.submissions[-1].waits_for) == [book.service.submissions[-2].execution]
    gate = book.service.shut("second")
    book.run("%%step second\nopen('both.log', 'a').write('3')\n")
    book.run("%%step first\nopen('both.log', 'a').write('4')\n")
    second, first = book.service.submissions[-2:]
    assert list(first.waits_for) == [second.execution]  # it is at it just now
    gate.set()


def test_a_plain_cell_waits_for_the_step_that_writes_the_file_it_names(book: Any) -> None:
    import threading

    gate = book.service.shut("clean")
    book.run("%%step clean\nn = 1\nopen('plain.csv', 'w').write('7')\n")
    threading.Timer(0.1, gate.set).start()
    assert book.run("open('plain.csv').read()") == "7"


def test_a_reader_of_a_failed_step_is_told_why(book: Any) -> None:
    book.run("%%step load\nx = 1 / 0\n")
    book.run("%%step train\ny = x\n")
    error = book.fail("x")
    assert isinstance(error, StepFailed)
    assert (error.step, error.state) == ("load", "failed")
    assert "ZeroDivisionError" in str(error)
    skipped = book.fail("y")
    assert isinstance(skipped, StepFailed)
    assert skipped.state == "skipped"


def test_other_branches_of_a_failed_step_go_on(book: Any) -> None:
    book.run("%%step bad\nx = 1 / 0\n")
    book.run("%%step good\ny = 2\n")
    assert book.run("y") == 2


def test_a_waited_step_fails_in_its_own_cell_as_what_it_met(book: Any) -> None:
    error = book.fail("%%step load --wait\nx = 1 / 0\n")
    assert type(error).__name__ == "ZeroDivisionError"
    assert "--here, then %debug" in "\n".join(error._render_traceback_())


def test_a_waited_step_shows_what_it_prints(book: Any, capsys: pytest.CaptureFixture[str]) -> None:
    book.run("%%step load --wait\nx = 1\nprint('hello')\n")
    assert "hello" in capsys.readouterr().out


def test_what_cannot_be_sent_is_an_error_at_once(book: Any) -> None:
    book.run("import threading\ncfg = {'lock': threading.Lock()}")
    error = book.fail("%%step load\nx = cfg\n")
    assert isinstance(error, CaptureError)
    assert 'cfg["lock"]' in str(error)
    assert book.service.submissions == []


def test_a_name_that_was_left_out_says_so(book: Any) -> None:
    book.run("%%step fit --outputs model\nmodel, scratch = 1, 2\n")
    assert book.run("model") == 1
    error = book.fail("scratch")
    assert isinstance(error, ResultError)
    assert "--outputs" in str(error)
    book.run("%%step fit --no-store big\nbig, small = 1, 2\n")
    assert "--no-store big" in str(book.fail("big"))
    assert isinstance(book.fail("%%step fit --outputs nothing\nx = 1\n"), UsageError)


def test_a_value_that_could_not_be_stored_says_so_when_it_is_read(book: Any) -> None:
    book.run("%%step make\ng = (i for i in range(3))\nn = 1\n")
    assert book.run("n") == 1
    assert isinstance(book.fail("g"), ResultError)


def test_a_star_import_in_a_step_is_refused(book: Any) -> None:
    assert "plain cell" in str(book.fail("%%step load\nfrom math import *\nx = pi\n"))


def test_a_syntax_error_is_one(book: Any) -> None:
    error = book.fail("%%step load\nx = = 1\n")
    assert type(error).__name__ == "SyntaxError"
    assert "line 2" in error.lines[0]


def test_a_hidden_change_makes_the_step_the_provider(book: Any) -> None:
    book.run("rows = [1]\ndef grow(r): r.append(2)")
    book.run("%%step hidden --wait\nx = grow(rows)\n")
    assert book.names["rows"] == [1]
    record = next(iter(book.service.records.values()))
    (binding,) = save_names({"rows": [1, 2]}, ["rows"], book.service.blobs, signer=signer(KERNEL))
    assert isinstance(binding, Binding)
    book.service.records[record.id] = changed = replace(record, binds=(*record.binds, binding))
    track = book.session.news.track(record.id)
    track.ended = False
    book.service.news("execution", execution=msgspec.to_builtins(changed))
    assert book.run("rows") == [1, 2]
    book.run("%%step reader\ny = len(rows)\n")
    assert book.service.submissions[1].edges == {"rows": record.id}


def test_a_replaced_execution_is_followed(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nx = 1\n")
    first = book.service.records[book.service.submissions[0].execution]
    second = replace(first, id="b" * 26, replaces=first.id, note="rows changed.")
    book.service.records[second.id] = second
    book.service.ended[second.id] = book.service.ended[first.id]
    book.service.news("execution", execution=msgspec.to_builtins(second))
    (binding,) = save_names({"x": 2}, ["x"], book.service.blobs, signer=signer(KERNEL))
    book.service.end(replace(second, state="succeeded", binds=(binding,)))
    assert book.run("x") == 2
    gate.set()


def test_the_end_of_an_execution_that_was_replaced_changes_nothing(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nx = 1\n")
    first = book.service.records[book.service.submissions[0].execution]
    second = replace(first, id="b" * 26, replaces=first.id, note="It drew too early.")
    book.service.records[second.id] = second
    book.service.ended[second.id] = book.service.ended[first.id]
    book.service.news("execution", execution=msgspec.to_builtins(second))
    gate.set()  # the first one's success is told now, when its successor is known already
    assert book.service.ended[first.id].wait(20)
    (track,) = book.session.news.tracks()
    assert not track.ended
    (binding,) = save_names({"x": 2}, ["x"], book.service.blobs, signer=signer(KERNEL))
    book.service.end(replace(second, state="succeeded", binds=(binding,)))
    assert book.run("x") == 2


def test_an_execution_replaced_before_the_answer_comes_is_followed(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = book.service.do_submit

    def replaced_at_once(submission: Any) -> Any:
        answer = submit(submission)
        first = book.service.records[submission.execution]
        second = replace(first, id="b" * 26, replaces=first.id)
        book.service.records[second.id] = second
        book.service.news("execution", execution=msgspec.to_builtins(second))
        (binding,) = save_names({"x": 2}, ["x"], book.service.blobs, signer=signer(KERNEL))
        ended = replace(second, state="succeeded", binds=(binding,))
        book.service.news("execution", execution=msgspec.to_builtins(ended))
        return answer

    gate = book.service.shut("load")
    monkeypatch.setattr(book.service, "do_submit", replaced_at_once)
    book.run("%%step load\nx = 1\n")
    assert book.run("x") == 2
    gate.set()


def test_a_seeded_step_does_not_follow_one_that_the_service_did_not_take(
    book: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.run("import random\nrandom.seed(1)")
    gate = book.service.shut("first")
    book.run("%%step first\nx = 1\n")

    def refuse(_: Any) -> Any:
        raise ServiceError("No.")

    with monkeypatch.context() as broken:
        broken.setattr(book.service, "do_submit", refuse)
        assert isinstance(book.fail("%%step second\ny = 1\n"), ServiceError)
    book.run("%%step third\nz = 1\n")
    first, third = book.service.submissions
    assert third.random_from == first.execution
    gate.set()


def test_cancel_ends_a_step(book: Any) -> None:
    book.service.shut("slow")
    book.run("%%step slow\nx = 1\n")
    book.run("%cancel slow")
    error = book.fail("x")
    assert isinstance(error, StepFailed)
    assert error.state == "cancelled"
    assert isinstance(book.fail("%cancel nobody"), UsageError)


def test_a_lost_service_is_told_and_never_waited_for(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.entrypoints.kernel import waiting

    monkeypatch.setattr(waiting, "ASK_EVERY", 0.2)
    book.service.shut("load")
    book.run("%%step load\nx = 1\n")
    monkeypatch.setattr(book.service, "do_execution", _unknown)
    error = book.fail("x")
    assert isinstance(error, StepFailed)
    assert "service" in str(error)


def _unknown(body: Any) -> Any:
    raise NotFound("No such execution.")


def test_large_data_is_kept_once_and_again_only_when_it_changed(book: Any) -> None:
    book.run("import numpy as np\nbig = np.zeros(200_000)")
    book.run("%%step a\nx = big.sum()\n")
    book.run("%%step b\ny = big.sum() + 1\n")
    book.run("big[0] = 5")
    book.run("%%step c\nz = big.sum()\n")
    digests = [one.captured[0]["digest"] for one in book.service.submissions]
    assert digests[0] == digests[1] != digests[2]
    assert all(len(one.capture) < 5_000 for one in book.service.submissions)
    assert book.run("float(z)") == 5.0


def test_a_step_inside_another_magic_is_waited_for(book: Any) -> None:
    book.run("%%time\n%%step load\nx = 1\n")
    assert book.service.records[book.service.submissions[0].execution].state == "succeeded"


def test_results_of_former_cells_go_along(book: Any) -> None:
    book.run("40 + 2")
    number = book.shell.execution_count - 1
    book.run(f"%%step use\nx = Out[{number}] + 1\n")
    assert book.run("x") == 43


def test_a_cell_whose_names_cannot_be_read_still_runs_and_later_ones_wait(
    book: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: Any) -> Any:
        raise RuntimeError("a fault in the analysis")

    with monkeypatch.context() as patch:
        patch.setattr(book.session.waits, "_reads", fail)
        book.run("%%step load\nx = [1]\n")
        assert book.run("len(x)") == 1  # by the placeholder
    book.run("%%step load\nx = [1, 2]\n")
    assert book.run("x") == [1, 2]


def test_names_are_waited_for_after_a_reset(book: Any) -> None:
    book.run("%reset -f")
    book.run("%%step load\nx = [1]\n")
    assert book.run("x") == [1]


def test_loading_twice_and_unloading_leave_nothing(book: Any) -> None:
    from mlbench.entrypoints import kernel

    assert kernel.load(book.shell) is book.session
    kernel.unload(book.shell)
    assert book.service.closed is False  # no step was run, so there was nothing to close
    assert book.shell.ast_transformers == []
    assert "step" not in book.shell.magics_manager.magics["cell"]
    kernel.load(book.shell)


def test_parameters_that_ran_above_the_line_that_loads_mlbench_go_along(book: Any, tmp_path: Path) -> None:
    cell = {"cell_type": "code", "id": "p", "source": "origin: str = 'JFK'\ntrees = 200", "outputs": []}
    cell |= {"execution_count": None, "metadata": {"tags": ["parameters"]}}
    file = tmp_path / "flights.ipynb"
    file.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    book.session.front.notebook = str(file)
    book.run("origin, trees, other = 'LGA', 100, 1")  # as it was run, which need not be as it was saved
    book.run("%%step load\nx = origin\n")
    file.unlink()
    book.run("%%step again\ny = origin\n")
    assert [one.parameters for one in book.service.submissions] == [{"origin": "LGA", "trees": 100}] * 2


def test_a_private_name_is_there_if_it_was_stored(book: Any) -> None:
    book.run("%%step load\n_tmp = 1\nx = 2\n")
    assert book.service.submissions[0].quiet_defs == ("_tmp",)
    assert book.run("_tmp + x") == 3


def test_parameters_and_cells_go_along(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book.session.front, "tags", lambda: ("parameters",))
    book.run("origin: str = 'JFK'\ntrees = 200")
    monkeypatch.setattr(book.session.front, "tags", tuple)
    book.run("%%step load\nx = origin\n")
    first = book.service.submissions[0]
    assert first.parameters == {"origin": "JFK", "trees": 200}
    assert first.cells[0].startswith("origin")
    assert not first.new_run
    monkeypatch.setattr(book.session.front, "tags", lambda: ("parameters",))
    book.run("origin: str = 'LGA'\ntrees = 200")
    monkeypatch.setattr(book.session.front, "tags", tuple)
    book.run("%%step load\nx = origin\n")
    assert book.service.submissions[1].new_run
    assert book.service.submissions[1].parameters["origin"] == "LGA"


def test_a_pending_name_is_not_captured_but_awaited_by_the_step(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nx = 1\n")
    book.run("%%step use\ny = x + 1\n")
    assert is_placeholder(book.names["x"])
    gate.set()
    assert book.run("y") == 2


def test_the_names_of_a_step_in_the_kernel_are_edges_if_they_were_stored(book: Any) -> None:
    book.run("%%step load --here\nrows = [1, 2]\nnumbers = (n for n in rows)\n")
    (here,) = book.service.records.values()
    rows = book.names["rows"]
    book.run("%%step train --wait\nmodel = sum(rows)\n")
    assert book.service.submissions[0].edges == {"rows": here.id}
    assert book.names["rows"] is rows
    assert book.run("list(numbers)") == [1, 2]
    assert book.run("model") == 3
    book.run("rows.append(3)")
    book.run("%%step train --wait\nmodel = sum(rows)\n")
    assert book.service.submissions[1].edges == {}


def test_a_failed_step_run_again_in_the_kernel_has_what_it_was_given(book: Any) -> None:
    book.run("c = 10")
    book.run("%%step add\nc = c + 1\nd = 1 / 0\n")
    assert isinstance(book.fail("c"), StepFailed)
    assert isinstance(book.fail("%%step add --here\nc = c + 1\nd = 1 / 0\n"), Exception)
    assert book.run("c") == 11
    book.run("c = 10")
    for _ in range(2):
        book.run("%%step add --here\nc = c + 1\n")
        assert book.run("c") == 11
    book.run("%%step add --here --continue\nc = c + 1\n")
    assert book.run("c") == 12


def test_a_change_in_place_of_a_steps_value_is_not_applied_twice_in_the_kernel(book: Any) -> None:
    book.run("%%step load\nrows = [1]\n")
    assert book.run("rows") == [1]
    for _ in range(2):
        book.run("%%step grow --here\nrows.append(2)\n")
        assert book.run("rows") == [1, 2]


def test_values_of_an_execution_are_let_go_when_its_cell_has_been_run_again(book: Any) -> None:
    book.run("class Thing: pass")
    book.run("%%step make\nthing = Thing()\n")
    book.run("type(thing)")
    kept = weakref.ref(book.names["thing"])
    book.run("%%step make\nthing = [Thing()]\n")
    book.run("type(thing)")
    gc.collect()
    assert kept() is None


def test_the_package_is_there_by_its_name_unless_the_name_is_taken(book: Any) -> None:
    import mlbench
    from mlbench.entrypoints import kernel

    assert book.run("mlbench") is mlbench
    book.run("%reset -f")
    assert book.run("mlbench") is mlbench
    assert "mlbench" not in book.run("get_ipython().run_line_magic('who_ls', '')")
    book.run("%%step use\nfound = mlbench.__name__\n")
    assert book.run("found") == "mlbench"
    kernel.unload(book.shell)
    assert "mlbench" not in book.names
    book.run("mlbench = 'mine'")
    kernel.load(book.shell)
    assert book.run("mlbench") == "mine"


def test_steps_say_their_place_in_the_order_of_their_cells(book: Any) -> None:
    book.run("%%step load\nx = 1\n")
    book.run("%%step train\ny = 1\n")
    book.run("%%step load\nx = 2\n")
    book.run("%%step report --here\nz = 1\n")
    assert [one.position for one in book.service.submissions] == [0, 1, 0]
    assert [one.position for one in book.service.records.values() if one.step == "report"] == [2]


def test_a_step_that_writes_a_file_is_handed_over_without_waiting_for_any_name(book: Any) -> None:
    gate = book.service.shut("slow")
    book.run("folder = 'out'")
    book.run("%%step slow\nx = 1\n")
    book.run("%%step writes --after none\nprint(f'{folder}/a.txt', file=open(f'{folder}/a.txt', 'w'))\n")
    assert is_placeholder(book.names["x"])
    book.run("%%step reads\ny = open(f'{folder}/a.txt').read()\n")
    assert list(book.service.submissions[2].waits_for) == [book.service.submissions[1].execution]
    gate.set()


def test_a_step_that_was_given_the_older_version_starts_the_next_ones_from_the_newer(book: Any) -> None:
    book.run("rows = [1]\ndef grow(r): r.append(2)")
    gate = book.service.shut("second")
    book.run("%%step first\nx = grow(rows)\n")
    book.run("%%step second\ny = grow(rows)\n")
    first, second = (book.service.records[one.execution] for one in book.service.submissions)
    assert book.service.ended[first.id].wait(20)
    one, two = (
        save_names({"rows": rows}, ["rows"], book.service.blobs, signer=signer(KERNEL))[0]
        for rows in ([1, 2], [1, 2, 2])
    )
    track = book.session.news.track(first.id)
    track.ended = False
    changed = replace(book.service.records[first.id], binds=(*book.service.records[first.id].binds, one))
    book.service.news("execution", execution=msgspec.to_builtins(changed))
    again = replace(second, id="b" * 26, replaces=second.id)
    book.service.news("execution", execution=msgspec.to_builtins(again))
    assert book.run("rows") == [1, 2]
    book.service.news("execution", execution=msgspec.to_builtins(replace(again, state="succeeded", binds=(two,))))
    assert book.run("rows") == [1, 2, 2]
    gate.set()


@pytest.mark.parametrize("above", ["# a comment\n", "x = 1\n"])
def test_a_step_below_its_cells_first_line_is_told_where_it_belongs(book: Any, above: str) -> None:
    error = book.fail(f"{above}%%step load --cache\ny = 1\n")
    assert "%%step load --cache is not its cell's first line. Put it there" in str(error)


def test_two_steps_in_one_cell_are_refused_before_either_runs(book: Any) -> None:
    error = book.fail("%%step load\nx = 1\n%%step train\ny = x\n")
    assert "%%step train is not its cell's first line" in str(error)
    assert book.service.submissions == []
