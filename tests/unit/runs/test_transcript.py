from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlbench.core.records import Json
from mlbench.runs.transcript import Transcript


def text(text: str, name: str = "stdout") -> Json:
    return {"output_type": "stream", "name": name, "text": text}


def display(shown: str, identifier: str | None = None, **others: object) -> Json:
    transient = {"display_id": identifier} if identifier else {}
    return {
        "output_type": "display_data",
        "data": {"text/plain": shown},
        "metadata": {},
        "transient": transient,
        **others,
    }


def kept(*messages: Json, **options: int) -> list[Json]:
    transcript = Transcript(**options)  # type: ignore[arg-type]
    for message in messages:
        transcript.add(message)
    return transcript.outputs()


def test_text_of_one_stream_is_one_output() -> None:
    assert kept(text("a"), text("b"), text("c", "stderr"), text("d")) == [text("ab"), text("c", "stderr"), text("d")]


def test_an_update_changes_each_display_with_its_id() -> None:
    update = {**display("new", "x"), "output_type": "update_display_data"}
    shown = [one["data"]["text/plain"] for one in kept(display("a", "x"), display("b", "y"), display("c", "x"), update)]
    assert shown == ["new", "b", "new"]


def test_an_update_without_an_id_changes_nothing() -> None:
    update = {**display("new"), "output_type": "update_display_data"}
    assert [one["data"]["text/plain"] for one in kept(display("a"), display("b", "y"), update)] == ["a", "b"]


def test_a_clear_takes_effect_at_once_or_with_the_next_output() -> None:
    assert kept(text("a"), {"output_type": "clear_output", "wait": False}) == []
    assert kept(text("a"), {"output_type": "clear_output", "wait": True}) == [text("a")]
    assert kept(text("a"), {"output_type": "clear_output", "wait": True}, text("b")) == [text("b")]


def test_what_is_too_long_keeps_its_beginning_and_its_end() -> None:
    lines = [text(f"line {number}\n") for number in range(1000)]
    outputs = kept(*lines, limit=1000)
    whole = "".join(one["text"] for one in outputs)
    assert whole.startswith("line 0\nline 1\n")
    assert whole.endswith("line 998\nline 999\n")
    assert "left out" in whole
    assert len(whole) < 1700


def test_displays_between_cut_text_stay() -> None:
    outputs = kept(*(one for number in range(100) for one in (text("x" * 100), display(str(number)))), limit=1000)
    assert sum(one["output_type"] == "display_data" for one in outputs) == 100


def test_too_many_rich_displays_keep_their_plain_text() -> None:
    rich = {"output_type": "display_data", "data": {"text/plain": "frame", "text/html": "x" * 60}, "metadata": {}}
    first, second = kept(rich, rich, rich=100)
    assert "text/html" in first["data"]
    assert set(second["data"]) == {"text/plain"}


def test_the_plain_text_of_a_display_is_cut_and_says_how_much_is_left_out() -> None:
    transcript = Transcript(limit=1000)
    (live,) = transcript.add(display("a" * 600 + "b" * 1_000_000 + "c" * 600))
    (shown,) = transcript.outputs()
    for one in (live, shown):
        plain = one["data"]["text/plain"]
        assert plain.startswith("a" * 600 + "b" * 400 + "\n[… 999,200 characters of this are left out here …]\n")
        assert plain.endswith("c" * 600)
        assert len(plain) < 2100


def test_a_form_that_is_too_large_is_named_by_the_plain_text() -> None:
    data = {"text/plain": "frame", "text/html": "x" * 200, "application/json": {"a": "y" * 200}, "image/png": "z"}
    (shown,) = kept({"output_type": "display_data", "data": data, "metadata": {}}, rich=199)
    plain = shown["data"].pop("text/plain")
    assert shown["data"] == {"image/png": "z"}
    assert plain.splitlines()[:2] == ["frame", "[… text/html of 200 characters is not kept: it is too large …]"]
    assert "application/json of 209 characters" in plain


def test_displays_without_end_are_counted_in_the_end() -> None:
    outputs = kept(*(display("x" * 90) for _ in range(10_000)), limit=1000, rich=1000)
    assert len(outputs) < 30
    assert outputs[-1]["name"] == "stderr"
    assert "more displays are not kept" in outputs[-1]["text"]


def test_a_display_that_is_updated_for_ever_takes_the_place_of_one() -> None:
    update = {**display("y" * 90, "x"), "output_type": "update_display_data"}
    (shown,) = kept(display("y" * 90, "x"), *(update for _ in range(1000)), rich=200)
    assert shown["data"] == {"text/plain": "y" * 90}


def test_an_update_is_cut_as_a_display_is() -> None:
    update = {**display("y" * 5000, "x"), "output_type": "update_display_data"}
    (shown,) = kept(display("x", "x"), update, limit=1000)
    assert "3,000 characters of this are left out" in shown["data"]["text/plain"]


def test_text_that_comes_too_fast_is_not_sent_on_but_said() -> None:
    now = [0.0]
    transcript = Transcript(limit=1000, clock=lambda: now[0])
    live = [one for _ in range(300) for one in transcript.add(text("x" * 10))]
    assert sum(len(one["text"]) for one in live) == 1000
    now[0] = 1.0
    note, more = transcript.add(text("y"))
    assert "2,000 characters" in note["text"]
    assert more == text("y")
    assert transcript.last_words() == []


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=30)), max_size=60))
def test_nothing_is_lost_below_the_limit(parts: list[tuple[str, str]]) -> None:
    outputs = kept(*(text(part, name) for name, part in parts), limit=1 << 20)
    for stream in ("stdout", "stderr"):
        assert "".join(one["text"] for one in outputs if one["name"] == stream) == "".join(
            part for name, part in parts if name == stream
        )


@given(st.lists(st.text(alphabet="ab\n", max_size=40), max_size=80))
def test_what_is_kept_is_a_beginning_and_an_end_of_what_was_printed(parts: list[str]) -> None:
    transcript = Transcript(limit=100)
    for part in parts:
        transcript.add(text(part))
    whole = "".join(parts)
    if not transcript.cut:
        assert "".join(one["text"] for one in transcript.outputs()) == whole
        return
    first, note, *last = transcript.outputs()
    assert whole.startswith(first["text"])
    assert whole.endswith("".join(one["text"] for one in last))
    assert "left out" in note["text"]
