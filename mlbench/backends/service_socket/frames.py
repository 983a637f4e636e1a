"""Frames: four bytes that say how long, then msgpack.

A request is `{"n", "op", "body"}`, its answer `{"n", "ok"}` or `{"n", "error": {"type", "args"}}`, news is
`{"event"}`, and a service that ends in order says `{"bye"}` with a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from mlbench.core import errors
from mlbench.core.errors import MlbenchError, ServiceError

__all__ = ["LARGEST", "Decoder", "encode", "read_error", "write_error"]

LARGEST: Final = 1 << 30
"""A longer frame is not ours: captures over 64 MB travel through the store."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode(message: object, /) -> bytes:
    r"""Return a message as a frame; records are written as the dictionaries that they are.

    Examples
    --------
    >>> encode({"n": 1})
    b'\x00\x00\x00\x04\x81\xa1n\x01'
    """
    body = _encoder.encode(message)
    if len(body) > LARGEST:
        raise ServiceError(
            f"A message of {len(body) >> 20} MB is too long for the service.",
            "Keep large values in variables of a step, not in what a cell captures.",
        )
    return len(body).to_bytes(4, "big") + body


class Decoder:
    """Turns what a socket yields into messages, however it was cut.

    Examples
    --------
    >>> frame = encode({"n": 1})
    >>> decoder = Decoder()
    >>> list(decoder.feed(frame[:5])), list(decoder.feed(frame[5:]))
    ([], [{'n': 1}])
    """

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes, /) -> Iterator[dict[str, Any]]:
        """Yield the messages that are complete.

        Raises
        ------
        ServiceError
            The other end speaks something else.
        """
        held = self._held
        held += data
        start = 0
        try:
            while len(held) - start >= 4:
                length = int.from_bytes(held[start : start + 4], "big")
                if length > LARGEST:
                    raise ServiceError("The other end of the service's socket does not speak mlbench's protocol.")
                if len(held) - start - 4 < length:
                    break
                body = bytes(held[start + 4 : start + 4 + length])
                start += 4 + length
                yield _message(body)
        finally:
            del held[:start]


def _message(body: bytes) -> dict[str, Any]:
    try:
        message = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise ServiceError("The other end of the service's socket sent what is not msgpack.") from error
    if not isinstance(message, dict):
        raise ServiceError("The other end of the service's socket sent a message that is no dictionary.")
    return message


def write_error(error: MlbenchError, /) -> dict[str, Any]:
    """Return one of our errors as plain data."""
    return {"type": type(error).__name__, "args": list(error.args)}


def read_error(written: object, /) -> MlbenchError:
    """Return the error that `write_error` wrote; one that this version does not know is a `ServiceError`.

    Examples
    --------
    >>> read_error({"type": "NotFound", "args": ["No run abcd.", None]})
    NotFound('No run abcd.', None)
    >>> read_error({"type": "SystemExit", "args": ["No.", None]})
    ServiceError('No.', None)
    """
    if not isinstance(written, dict):
        return ServiceError("The service refused, and did not say why.")
    arguments: list[Any] = [part for part in written.get("args") or () if part is None or isinstance(part, str | int)]
    name = str(written.get("type"))
    kind: type[MlbenchError] = getattr(errors, name) if name in errors.__all__ else ServiceError
    try:
        return kind(*arguments)
    except TypeError:
        return ServiceError(" ".join(str(part) for part in arguments if part) or "The service refused.")
