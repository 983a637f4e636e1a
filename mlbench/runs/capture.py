"""Pack what a step's cell reads from its kernel, by value, and unpack it in the step's process.

A capture is one pickle of a dictionary of names. Functions and classes of the notebook travel by value with what they
in turn read; modules travel by name. One function of the notebook's own namespace, the sentinel, travels along: all
functions captured share one globals dictionary with it, so that on the other side that dictionary is the namespace
in which the cell runs, and a helper sees what the cell binds.

Large arrays and frames do not travel: they are kept once in the store, and the capture holds their binding.
"""

from __future__ import annotations

import contextvars
import functools
import io
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from mlbench.core.errors import CaptureError
from mlbench.core.records import Json

if TYPE_CHECKING:
    from mlbench.core.ports import BlobStore

__all__ = ["LARGE", "Capture", "Problem", "install", "make"]

LARGE: Final = 1 << 20
"""From this many bytes on an array or frame is kept in the store rather than sent along."""

Keep = Callable[[Any], Json]
"""Keep a large value in the store and return its binding as JSON (see `mlbench.core.records.Binding`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A value that cannot be sent: `path` says where it is, such as `cfg["lock"]`."""

    path: str
    type: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a cell reads from its kernel, packed.

    `described` says it to people, one object a name, with the fields of `mlbench.core.records.Read`.
    """

    data: bytes
    described: tuple[Json, ...] = ()


def make(
    names: Collection[str],
    namespace: dict[str, Any],
    *,
    without: Collection[str] = (),
    keep: Keep | None = None,
) -> Capture:
    """Pack the values of names.

    Parameters
    ----------
    names
        The names that the cell reads. Those that the namespace lacks are left out.
    namespace
        The kernel's.
    without
        Names that come from other steps: helpers that read them are sent, their values are not.
    keep
        Where large values go; without it they travel along.

    Raises
    ------
    CaptureError
        Names each value that cannot be sent, where it is, its type and what to do instead.
    """
    raise NotImplementedError


def install(data: bytes, blobs: BlobStore | None = None) -> dict[str, Any]:
    """Unpack a capture: return the namespace in which the cell is to run.

    Functions of the notebook have this very dictionary as their globals.
    """
    raise NotImplementedError
