"""Ids and digests: what names a record, and what names a content.

An id is random from its first character, so that a short prefix is enough to say which one is meant; order comes
from times, never from ids. A digest carries its algorithm, so that another one can be added beside it.
"""

from __future__ import annotations

import os
import re
from typing import NewType

RunId = NewType("RunId", str)
ExecutionId = NewType("ExecutionId", str)
NotebookId = NewType("NotebookId", str)
JobId = NewType("JobId", str)
Digest = NewType("Digest", str)
"""`"blake3:"` and 64 hexadecimal digits."""

ID_LENGTH = 26
SHORTEST_PREFIX = 4

_LETTERS = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""A letter for each byte: five of its bits count."""

_ID = re.compile(r"[a-z2-7]{26}")
_PREFIX = re.compile(r"[a-z2-7]{4,26}")
_DIGEST = re.compile(r"blake3:[0-9a-f]{64}")


def new_id() -> str:
    """Return 130 random bits as 26 characters of lower-case base32.

    Examples
    --------
    >>> is_id(new_id())
    True
    """
    return os.urandom(ID_LENGTH).translate(_LETTERS).decode("ascii")


def is_id(text: str) -> bool:
    """Say whether a text has the form of an id.

    Examples
    --------
    >>> is_id("../../etc/passwd")
    False
    """
    return _ID.fullmatch(text) is not None


def is_prefix(text: object) -> bool:
    """Say whether what is given is a text that can begin an id and is long enough to be asked for.

    Examples
    --------
    >>> is_prefix("mq2a"), is_prefix("mq")
    (True, False)
    """
    return isinstance(text, str) and _PREFIX.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Say whether a text has the form of a digest.

    Examples
    --------
    >>> is_digest("blake3:" + "0" * 64)
    True
    """
    return _DIGEST.fullmatch(text) is not None


def short(identifier: str) -> str:
    """Return the part of an id or digest that is shown to people.

    Examples
    --------
    >>> short("abcdefghijklmnopqrstuvwxyz")
    'abcd'
    >>> short("blake3:" + "0" * 64)
    '00000000'
    """
    algorithm, colon, rest = identifier.partition(":")
    return rest[:8] if colon else algorithm[:SHORTEST_PREFIX]


def digest_shown(digest: str) -> str:
    """Return the part of a digest that is shown to people, with its algorithm.

    Examples
    --------
    >>> digest_shown("blake3:" + "0" * 64)
    'blake3:00000000'
    """
    algorithm, colon, rest = digest.partition(":")
    return f"{algorithm}{colon}{rest[:8]}"
