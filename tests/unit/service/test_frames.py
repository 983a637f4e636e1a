"""Frames: what is sent is what is read, however the socket cuts it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbench.backends.service_socket.frames import LARGEST, Decoder, encode, read_error, write_error
from mlbench.core import errors
from mlbench.core.errors import MlbenchError, QueryError, ServiceError, StepFailed, UsageError
from mlbench.core.messages import Submission

messages = st.dictionaries(st.text(), st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(), st.binary(), st.none()))


@given(st.lists(messages, max_size=5), st.data())
def test_messages_survive_any_cut(sent: list[dict[str, Any]], data: st.DataObject) -> None:
    stream = b"".join(encode(message) for message in sent)
    decoder, read = Decoder(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        read += list(decoder.feed(stream[:cut]))
        stream = stream[cut:]
    assert read == sent


def test_a_record_travels_as_the_dictionary_that_it_is() -> None:
    (message,) = Decoder().feed(encode({"body": Submission(execution="a", step="load", source="", capture=b"\0")}))
    assert message["body"]["step"] == "load"
    assert message["body"]["capture"] == b"\0"


@pytest.mark.parametrize(
    "stream",
    [b"GET / HTTP/1.1\r\n", (LARGEST + 1).to_bytes(4, "big"), b"\0\0\0\1\xc1", encode([1, 2])],
    ids=["http", "too long", "no msgpack", "no dictionary"],
)
def test_what_is_not_our_protocol_is_refused_with_a_sentence(stream: bytes) -> None:
    with pytest.raises(ServiceError):
        list(Decoder().feed(stream))


@pytest.mark.parametrize("name", errors.__all__)
def test_each_of_our_errors_survives_the_way(name: str) -> None:
    kind: type[MlbenchError] = getattr(errors, name)
    facts: dict[type, tuple[Any, ...]] = {
        StepFailed: ("load", "failed", "KeyError: x", None),
        QueryError: ("stat is nothing that a run has.", "stat = 1", 0),
    }
    error = kind(*facts.get(kind, ("What.", "What to do.")))
    back = read_error(write_error(error))
    assert type(back) is kind
    assert str(back) == str(error)


@pytest.mark.parametrize(
    "written", [None, "x", {}, {"type": "eval", "args": ["1"]}, {"type": "StepFailed", "args": []}]
)
def test_an_error_that_is_not_known_is_an_error_of_the_service(written: object) -> None:
    assert isinstance(read_error(written), ServiceError)


def test_facts_that_are_not_texts_are_not_taken_over() -> None:
    assert str(read_error({"type": "UsageError", "args": ["No.", {"__reduce__": 1}]})) == str(UsageError("No."))
