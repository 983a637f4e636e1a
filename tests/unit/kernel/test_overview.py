"""`%steps`: what is going on, who waits for whom and why, and what to type next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlbench.core.records import Execution, FanOut
from mlbench.entrypoints.kernel.overview import Line, Overview


def shown(book: Any) -> list[str]:
    return str(repr(book.run("%steps"))).splitlines()


def words(line: str) -> str:
    return " ".join(line.split())


def test_without_a_step_it_says_how_to_make_one(book: Any) -> None:
    assert "write `%%step NAME`" in shown(book)[-1]


def test_it_shows_who_waits_for_whom_and_why(book: Any) -> None:
    gate = book.service.shut("load")
    book.run("%%step load\nrows = [1]\n")
    book.run("%%step train\nmodel = sum(rows)\n")
    book.run("%%step publish\nprint('done')\n")
    load, train, publish, *_ = map(words, shown(book))
    assert load.startswith("load ◌ queued")
    assert train == "train ◌ queued waits for load (reads rows)"
    assert "waits for load and train (the step is run for its effects" in publish
    gate.set()
    book.run("model")
    load, train, *_ = map(words, shown(book))
    assert load.startswith("load ✓ succeeded")
    assert train.startswith("train ✓ succeeded")
    assert train.endswith("after load (reads rows)")


def test_a_fan_out_shows_how_far_it_is_as_the_service_knows_it(book: Any) -> None:
    gate = book.service.shut("train")
    book.run("%%step train --foreach n in range(16)\nmodel = n\n")
    (known,) = book.service.records.values()
    going_on = FanOut(names=("n",), shape=(16,), total=16, running=4, succeeded=11, failed=1)
    book.service.records[known.id] = replace(known, state="running", fanout=going_on)
    train, _, following = shown(book)
    assert words(train).startswith("train ● running ×16 · 11 done · 1 failed")
    assert "`%cancel train` ends it" in following
    assert f"mlbench logs -f {known.run[:4]} train" in following
    gate.set()
    book.run("model")
    assert "×16 · 16 done" in words(shown(book)[0])


def test_a_failed_step_says_why_and_how_to_look_into_it(book: Any) -> None:
    book.run("%%step load\nraise KeyError('carrier')\n")
    book.fail("%%step train --wait\nx = 1\nraise ValueError('no')\n")
    text = "\n".join(shown(book))
    assert "KeyError: 'carrier'" in text
    assert "`%%step load --here`" in text


def test_a_skipped_step_says_once_why_it_waits_and_a_long_note_is_cut_visibly(book: Any) -> None:
    book.fail(f"%%step load --wait\nx = 1\nraise ValueError('{'no ' * 90}')\n")
    book.fail("%%step publish --wait\nprint('done')\n")
    skipped = book.session.order.steps["publish"]
    why = "Step load failed. Step publish waits for it: the step is run for its effects."
    skipped.record = replace(skipped.record, note=why)
    load, publish, *_ = map(words, shown(book))
    assert load.endswith("no no…")
    assert publish.startswith("publish – skipped Step load failed. · after load (the step is run for its effects")


def test_a_cell_that_was_not_taken_is_drawn_from_its_names(book: Any) -> None:
    book.run("%%step load\nrows = [1]\n")
    book.run("lock = __import__('threading').Lock()")
    book.fail("%%step train\nmodel = sum(rows), lock\n")
    train = words(shown(book)[1])
    assert train == "train · not run would wait for load (reads rows)"
    assert any("run the cell of train again" in line for line in shown(book))


def test_when_all_is_done_it_says_where_the_results_are(book: Any) -> None:
    book.run("%%step load\nrows = [1]\n")
    book.run("rows")
    assert shown(book)[-1] == f"Next: `mlbench.run('{book.service.run[:4]}')` has what was recorded of this run."


def test_it_is_shown_though_no_service_answers(book: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.core.errors import ServiceError

    gate = book.service.shut("load")
    book.run("%%step load\nrows = [1]\n")

    def gone(body: Any) -> Any:
        raise ServiceError("There is no service.")

    monkeypatch.setattr(book.service, "do_execution", gone)
    assert words(shown(book)[0]).startswith("load ◌ queued")
    gate.set()


def test_the_html_holds_no_markup_of_a_user_and_no_script() -> None:
    view = Overview(
        (Line(step="a", state="failed", note="<script>x</script>", waits="after b (reads <b>)"),), ("`<i>`",)
    )
    text = view._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "reads &lt;b&gt;" in text
    assert "<code>&lt;i&gt;</code>" in text


def test_more_than_the_magic_takes_is_refused(book: Any) -> None:
    assert "takes nothing" in str(book.fail("%steps all"))


def test_a_step_taken_over_from_another_run_says_so(book: Any) -> None:
    from mlbench.entrypoints.kernel.overview import overview

    book.run("%%step load\nrows = [1]\n")
    book.run("rows")
    (track,) = book.session.order.steps.values()
    reused: Execution = replace(track.record, state="reused", note="Reused from run mq2a.")
    view = overview(book.session.order, book.session.news, {}, records={track.execution: reused})
    assert words(repr(view)).startswith("load ○ reused Reused from run mq2a.")


def _run_in(book: Any, cell: str, source: str) -> None:
    request = {"header": {"msg_id": source}}
    book.session.front.request = lambda: request
    result = book.shell.run_cell(source, cell_id=cell)
    assert result.success, result.error_in_exec


def test_a_cell_that_became_another_step_is_the_former_no_more(book: Any) -> None:
    _run_in(book, "one", "%%step bad1\nraise ValueError('x')")
    _run_in(book, "two", "%%step below\nb = 1")
    _run_in(book, "one", "%%step bad2\nbb = 1")
    _run_in(book, "three", "%%step effects\nprint('effects')")
    assert {words(line).partition(" ")[0] for line in shown(book)} == {"bad2", "below", "effects", "", "Next:"}
    below, bad, effects = book.service.submissions[1:]
    assert set(effects.waits_for) == {below.execution, bad.execution}
    assert all("--after none" in why for why in effects.waits_for.values())
    assert (bad.position, below.position, effects.position) == (0, 1, 2)


def test_several_steps_of_one_request_stay(book: Any) -> None:
    cell = "for name in ('a', 'b'): get_ipython().run_cell_magic('step', name, f'{name}1 = 1')"
    _run_in(book, "one", cell)
    assert list(book.session.order.steps) == ["a", "b"]
