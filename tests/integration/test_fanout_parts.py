"""The parts that put what many items print into the right places."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.channel import Frames, MarkedChannel, PipeEnd, frame, mark_before
from mlbench.backends.cluster_dask.itemwords import ItemEnd, read_word
from mlbench.backends.cluster_dask.process.foreach import Items, evaluate, keep
from mlbench.backends.cluster_dask.worker.itemtexts import Texts
from mlbench.backends.cluster_dask.worker.pipes import MarkedReader
from mlbench.core.errors import UsageError
from mlbench.core.ids import Digest
from mlbench.core.messages import Foreach
from mlbench.runs import values
from mlbench.runs.values import _sealed

pieces = st.lists(st.tuples(st.binary(max_size=12).filter(lambda data: b"mlbench:" not in data), st.booleans()))


def read_in_cuts(data: bytes, cuts: list[int]) -> tuple[list[tuple[int, str]], int]:
    """Write bytes to a pipe in pieces, and read after each."""
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    reader = MarkedReader("stdout", "e")
    found = []
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    for begin, end in itertools.pairwise(places):
        os.write(ours, data[begin:end])
        found += reader.read_marked(theirs)
    os.close(ours)
    found += reader.read_marked(theirs)
    os.close(theirs)
    assert reader.ended
    return found, reader.number


@given(pieces, st.lists(st.integers(0, 500), max_size=6))
def test_text_is_told_apart_by_marks_wherever_the_pipe_is_cut(texts: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    data, expected, number = b"", dict[int, bytes](), 0
    for text, marked in texts:
        data += text
        expected[number] = expected.get(number, b"") + text
        if marked:
            number += 1
            data += mark_before("e") + b"%d\0" % number
    found, last = read_in_cuts(data, cuts)
    joined: dict[int, str] = {}
    for place, piece in found:
        joined[place] = joined.get(place, "") + piece
    assert last == number
    if all(text.isascii() for text, _ in texts):
        assert joined == {place: text.decode() for place, text in expected.items() if text}
    assert [place for place, _ in found] == sorted(place for place, _ in found)


def test_a_mark_follows_each_message_in_both_pipes_and_descriptors_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = os.pipe(), os.pipe()
    copies = {1: out[1], 2: err[1]}
    monkeypatch.setattr(os, "dup", lambda descriptor: copies[descriptor])
    ours, theirs = socket.socketpair()
    channel = MarkedChannel(theirs, "e")
    channel.send({"op": "output"}, (out[0],))
    channel.tell({"op": "news"})
    channel.about_to_write(1)
    channel.about_to_write(1)
    channel.about_to_write(2)
    data, descriptors, _, _ = socket.recv_fds(ours, 4096, 4)
    messages = Frames().feed(data)
    messages += Frames().feed(ours.recv(4096)) if len(messages) < 2 else []
    assert messages == [{"op": "output", "n": 1}, {"op": "news", "n": 1}]
    assert len(descriptors) == 1
    marks = b"".join(mark_before("e") + b"%d\0" % number for number in (1, 2, 3))
    assert os.read(out[0], 4096) == os.read(err[0], 4096) == marks
    for one in (*out, *err, *descriptors):
        os.close(one)
    ours.close()
    theirs.close()


def test_frames_that_come_in_any_pieces_are_the_same_messages() -> None:
    messages = [{"op": "item", "n": number, "body": b"x" * number} for number in range(50)]
    data = b"".join(map(frame, messages))
    for size in (1, 3, 7, 100, len(data)):
        frames = Frames()
        found = [one for begin in range(0, len(data), size) for one in frames.feed(data[begin : begin + size])]
        assert found == messages


def test_the_end_of_an_item_and_other_messages_are_told_apart_in_one_stream() -> None:
    ours, theirs = os.pipe()
    end = ItemEnd(7, 3, 1, 2, 0.5, 4, b"[]", [(Digest("d"), [b"x" * 40_000])], None, (), (), False)
    data = b"".join(map(frame, (end, {"op": "over"}, end)))
    writer = threading.Thread(target=PipeEnd(theirs).sendall, args=(data,))  # more than the pipe holds
    writer.start()
    read = b""
    while len(read) < len(data):
        read += os.read(ours, 1 << 16)
    writer.join()
    assert Frames(read_word).feed(read) == [end, {"op": "over"}, end]
    os.close(ours)
    PipeEnd(theirs).close()


def test_what_is_printed_goes_to_the_item_that_ends_next_and_silent_items_cost_nothing() -> None:
    texts, got = Texts(), dict[str, list[str]]()

    def end(name: str, number: int) -> None:
        texts.add_end(number, lambda messages: got.update({name: [one["text"] for one in messages]}))

    end("silent", 1)
    texts.settle(1)
    texts.add_text(1, "stdout", "after the first\n")
    end("second", 2)
    end("third", 4)
    texts.add_text(3, "stderr", "of the third\n")
    texts.settle(2)
    assert got == {"second": ["after the first\n"]}
    texts.settle(3)
    texts.add_text(4, "stdout", "of nobody\n")
    texts.settle(float("inf"))
    assert got == {"second": ["after the first\n"], "third": ["of the third\n"]}
    assert [one["text"] for one in texts.take()] == ["of nobody\n"]


def test_items_are_stored_and_bound_by_number(tmp_path: Path) -> None:
    foreach = (Foreach(name="a", expression="[1, 2]"), Foreach(name="b", expression="[[0], [1], [2]]"))
    blobs = LocalBlobs(tmp_path / "store")
    spread = keep(foreach, evaluate(foreach, {}, 100), blobs)
    items = Items(spread, blobs, {})
    space: dict[str, object] = {}
    items.bind(space, 5, copied=False)
    assert space == {"a": 2, "b": [2]}
    assert items.label(4) == ["2", "[1]"]
    first: dict[str, list[int]] = {}
    items.bind(first, 0, copied=True)
    first["b"].append(1)
    items.bind(first, 0, copied=True)
    assert first["b"] == [0]


def test_equal_values_have_equal_digests_and_others_have_not(tmp_path: Path) -> None:
    expression = "[1, 1.0, True, '1', 'x' * 100, 'x' * 101, None, (1,), 1, 'x' * 100]"
    foreach = (Foreach(name="a", expression=expression),)
    spread = keep(foreach, evaluate(foreach, {}, 100), LocalBlobs(tmp_path / "store"))
    (digests,) = spread.digests
    assert len(set(digests)) == 8
    assert (digests[8], digests[9]) == (digests[0], digests[4])
    assert max(map(len, spread.labels[0])) == 80


def test_an_iterator_of_as_many_items_as_are_allowed_is_taken(tmp_path: Path) -> None:
    one = (Foreach(name="a", expression="iter(range(10))"),)
    assert evaluate(one, {}, 10) == [list(range(10))]
    with pytest.raises(UsageError, match="max_items"):
        evaluate(one, {}, 9)


@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.integers(-(10**400), 10**400)),
)
def test_plain_scalars_are_packed_as_all_others_are(value: object) -> None:
    codec, parts = values._canonical(value)
    assert values.pack(value) == _sealed(codec, values.type_name(value), parts)
