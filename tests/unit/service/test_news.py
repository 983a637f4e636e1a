"""News: who hears what, and what those hear who come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mlbench.backends.service_socket.frames import Decoder
from mlbench.entrypoints.service.events import News, Wish


@dataclass(eq=False)
class Ear:
    """A listener that keeps what it hears."""

    wish: Wish
    heard: list[dict[str, Any]] = field(default_factory=list)

    def send(self, frame: bytes, /) -> None:
        self.heard += [message["event"] for message in Decoder().feed(frame)]

    @property
    def numbers(self) -> list[int]:
        return [event["seq"] for event in self.heard]


@pytest.mark.parametrize(
    ("wish", "heard"),
    [
        (Wish(), []),
        (Wish(subscribed=True), ["execution", "job"]),
        (Wish(subscribed=True, messages=True), ["execution", "messages", "job"]),
        (Wish(subscribed=True, notebook="b"), ["job"]),
        (Wish(kernel="k"), ["execution", "messages"]),
        (Wish(kernel="other"), []),
    ],
    ids=["nobody", "subscriber", "with messages", "another notebook", "its kernel", "another kernel"],
)
def test_each_hears_what_it_wishes(wish: Wish, heard: list[str]) -> None:
    news, ear = News("life"), Ear(wish)
    news.join(ear)
    news.publish("execution", {}, notebook="a", kernel="k")
    news.publish("messages", {}, notebook="a", kernel="k")
    news.publish("job", {}, notebook="a")
    assert [event["type"] for event in ear.heard] == heard


def test_numbers_grow_and_name_their_life() -> None:
    news, ear = News("life"), Ear(Wish(subscribed=True))
    news.join(ear)
    news.publish("run", {})
    news.publish("run", {})
    assert [(event["seq"], event["life"]) for event in ear.heard] == [(1, "life"), (2, "life")]


def test_who_comes_back_hears_what_it_missed_and_nothing_twice() -> None:
    news, ear = News("life"), Ear(Wish(subscribed=True))
    for _ in range(5):
        news.publish("run", {})
    assert news.catch_up(ear, seq=3, life="life")
    assert ear.numbers == [4, 5]


@pytest.mark.parametrize(
    ("seq", "life"), [(1, "life"), (5, "another"), (9, "life")], ids=["too long ago", "another life", "never said"]
)
def test_who_was_away_for_too_long_is_told_to_ask_for_everything(seq: int, life: str) -> None:
    news, ear = News("life", kept=2), Ear(Wish(subscribed=True))
    for _ in range(5):
        news.publish("run", {})
    assert not news.catch_up(ear, seq=seq, life=life)
    assert ear.heard == []


def test_what_is_kept_is_bounded_in_bytes() -> None:
    news, ear = News("life", kept_bytes=1000), Ear(Wish(subscribed=True))
    for _ in range(5):
        news.publish("run", {"text": "x" * 400})
    assert not news.catch_up(ear, seq=2, life="life")
    assert news.catch_up(ear, seq=3, life="life")


def test_who_has_left_hears_nothing() -> None:
    news, ear = News("life"), Ear(Wish(subscribed=True))
    news.join(ear)
    news.leave(ear)
    news.publish("run", {})
    assert ear.heard == []
