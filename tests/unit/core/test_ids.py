"""Ids are random from their first character and recognised by their form alone."""

from __future__ import annotations

import pytest

from mlbench.core import ids


def test_ids_are_random_from_the_first_character() -> None:
    made = [ids.new_id() for _ in range(500)]
    assert len(set(made)) == 500
    assert len({identifier[0] for identifier in made}) > 20


@pytest.mark.parametrize("text", ["", "abc", "../../etc/passwd", "A" * 26, "abcd\n", "1" * 26, "abcd' --", "%", "_bcd"])
def test_what_is_no_id_is_no_prefix_either(text: str) -> None:
    assert not ids.is_id(text)
    assert not ids.is_prefix(text)


def test_four_characters_are_enough_to_ask_for_a_record() -> None:
    assert ids.is_prefix(ids.new_id()[:4])


@pytest.mark.parametrize("text", ["", "blake3:", "sha256:" + "0" * 64, "blake3:" + "G" * 64, "blake3:" + "0" * 63])
def test_a_digest_names_its_algorithm_and_all_of_its_digits(text: str) -> None:
    assert not ids.is_digest(text)
