"""The kernel's side of the store: what it keeps there for steps, and loads of what they made."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlbench.core.ids import Digest
from mlbench.core.messages import Signer
from mlbench.core.records import Binding, Json
from mlbench.entrypoints.kernel.names import Settled

if TYPE_CHECKING:
    from mlbench.project.configuration import StoreLocation

__all__ = ["Storage"]

_LARGE: Final = 1 << 20
"""From this many bytes on a capture goes to the store rather than through the socket."""

_ATOMS: Final = frozenset({bool, int, float, str, type(None)})
_LISTS: Final = 8
_MOST_BYTES: Final = 16 << 20
"""Lists of plain values of which it is remembered what was in them, and the bytes of what may be in one."""


class Storage:
    """The store of one kernel; found when it is first needed.

    Large values are remembered by their identity, until a cell could have changed them.

    Parameters
    ----------
    namespace
        The notebook's: its classes are used in place of stored copies of them.
    notebook
        The notebook's path, as far as it is known.
    say
        Called with a line for the user.
    """

    def __init__(self, namespace: dict[str, Any], notebook: str | None, say: Callable[[str], None]) -> None:
        self._namespace = namespace
        self._notebook = notebook
        self._say = say
        self._location: StoreLocation | None = None
        self._blobs: Any = None
        self._loader: Any = None
        self._accepts: Any = None
        self._kept: dict[int, tuple[Any, Binding]] = {}
        self._lists: OrderedDict[Digest, tuple[Any, ...]] = OrderedDict()

    def path(self) -> Path:
        """Return the store's folder on this machine.

        Raises
        ------
        StoreError
            If it has been taken away since it was opened: it is not begun anew behind the service's back.
        """
        location = self.location()
        if location.url is None and not os.path.isfile(location.path / "format"):
            from mlbench.backends.blobs_local import gone

            raise gone(location.path)
        return location.path

    def named(self) -> Json:
        """Return what names the store in a request to the service."""
        return self.location().named()

    def location(self) -> StoreLocation:
        """Return where the store is; it is made if it is not there."""
        if self._location is None:
            from mlbench.backends.blobs import open_blobs
            from mlbench.project.configuration import find_store, low_space
            from mlbench.project.signing import judge
            from mlbench.runs.artifacts import Loader

            location = find_store(self._notebook)
            self._blobs = open_blobs(location.place)
            self._accepts = judge(location.place, own_session=True)
            self._loader = Loader(self._blobs, Settled(self._namespace), self._accepts)
            self._location = location
            for notice in (location.notice, low_space(location.path)):
                if notice:
                    self._say(notice)
        return self._location

    def put_large(self, data: bytes) -> Digest | None:
        """Keep a capture if it is large; return its digest then."""
        self.path()
        if len(data) <= _LARGE:
            return None
        digest: Digest = self._blobs.put(data, durable=False)
        return digest

    def put(self, data: bytes) -> Digest:
        """Keep bytes; return their digest."""
        self.path()
        digest: Digest = self._blobs.put(data, durable=False)
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return what is kept under a digest."""
        self.path()
        data: bytes = self._blobs.get(digest)
        return data

    def keep(self, value: Any) -> Json:
        """Keep a large value in the store and return its binding as JSON."""
        import weakref

        from mlbench.runs.artifacts import save_names
        from mlbench.runs.wire import msgspec

        self.path()
        binding = self._known(value)
        if binding is None:
            binding = save_names({"value": value}, ["value"], self._blobs, durable=False, signer=self._signer())[0]
            if binding.artifact is None:
                raise TypeError(binding.problem or "it cannot be stored")
            with contextlib.suppress(TypeError):  # a value without weak references is kept anew each time
                self._kept[id(value)] = (weakref.ref(value), binding)
        built: Json = msgspec.to_builtins(binding)
        return built

    def keep_logged(self, value: Any, name: str | None) -> Binding:
        """Keep what a cell logs: a value, or the file or folder at a path."""
        from mlbench.backends.blobs_local import keep_logged

        self.path()
        return keep_logged(value, name, self._blobs, signer=self._signer())

    def forget(self, identities: Collection[int]) -> None:
        """Keep these objects anew when they are sent again: a cell could have changed them."""
        for identity in identities:
            self._kept.pop(identity, None)

    def digest(self, value: Any) -> str:
        """Return the digest of an array or frame as an artifact."""
        from mlbench.runs.values import pack

        binding = self._known(value)
        return str(binding.artifact.digest if binding is not None and binding.artifact else pack(value).digest)

    def _known(self, value: Any) -> Binding | None:
        found = self._kept.get(id(value))
        return found[1] if found is not None and found[0]() is value else None

    def load(self, binding: Binding) -> Any:
        """Return a step's value, as if it had been made here."""
        from mlbench.entrypoints.kernel.adopt import adopt

        self.path()
        value = adopt(self._loader.load(binding), self._namespace)
        if binding.artifact is not None and binding.artifact.codec == "items":
            self._remember(binding.artifact.digest, value)
        return value

    def _remember(self, digest: Digest, value: list[Any]) -> None:
        """Note what is in a fan-out's list, if that cannot be changed itself: it is compared sooner than loaded."""
        if set(map(type, value)) <= _ATOMS and sum(map(sys.getsizeof, value)) <= _MOST_BYTES:
            self._lists[digest] = tuple(value)
            self._lists.move_to_end(digest)
            if len(self._lists) > _LISTS:
                self._lists.popitem(last=False)

    def _is_as_loaded(self, digest: Digest, value: Any) -> bool:
        """Say whether a list holds the very objects that were loaded for an artifact, none of which can change."""
        known = self._lists.get(digest)
        return known is not None and type(value) is list and len(value) == len(known) and all(map(is_, value, known))

    def save(self, names: Collection[str], imported: Collection[str]) -> tuple[Binding, ...]:
        """Store values of the namespace, which a cell has bound that imports these modules."""
        from mlbench.runs.artifacts import save_names

        self.path()
        present = [name for name in names if name in self._namespace]
        return tuple(save_names(self._namespace, present, self._blobs, imported=imported, signer=self._signer()))

    def _signer(self) -> Signer | None:
        from mlbench.project.signing import signer
        from mlbench.runs.signing import KERNEL

        return signer(KERNEL)

    def differs(self, binding: Binding | None, value: Any) -> bool:
        """Say whether a value of the kernel is no longer what an execution made."""
        from mlbench.runs.artifacts import Loader
        from mlbench.runs.capture import is_data
        from mlbench.runs.key import Fingerprint

        if binding is None or binding.artifact is None:
            return binding is None or binding.module is None
        if self._is_as_loaded(binding.artifact.digest, value):
            return False
        if is_data(value) and binding.member is None:
            return self.digest(value) != binding.artifact.digest
        self.path()
        prints = Fingerprint(self._namespace)
        try:
            fresh = Loader(self._blobs, Settled(self._namespace), self._accepts).load(binding)
            return prints.of(value) != prints.of(fresh)
        except Exception:  # noqa: BLE001  a value that cannot be compared counts as changed
            return True
