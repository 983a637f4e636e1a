"""Names of a namespace as artifacts, and back.

Each name is an artifact of its own, except where two names hold an object in common (`best = models[0]`): these are
kept together, in one dictionary, so that they still share it when they are loaded. What cannot be stored never fails
the others: its binding says why, and what to do instead.

A fan-out binds each of its names to the list of what its items bound it to: an artifact that names those of the items,
so that storing and reusing it costs nothing more than them.
"""

from __future__ import annotations

import base64
import importlib
import re
import sys
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from mlbench.core.errors import ArtifactCorrupt, NotFound, NotTrusted, ResultError
from mlbench.core.failed import Failed
from mlbench.core.ids import Digest
from mlbench.core.messages import Signer
from mlbench.core.naming import naming
from mlbench.core.ports import BlobStore
from mlbench.core.records import Artifact, Binding, Json
from mlbench.runs.chunks import LARGE
from mlbench.runs.files import FILE, FOLDER, StoredFile, StoredFolder, read_folder
from mlbench.runs.previews import preview, preview_list
from mlbench.runs.sharing import sharing
from mlbench.runs.signing import needs_signature, sign
from mlbench.runs.values import (
    Encoded,
    codec_of,
    encode,
    number_of,
    pack_items,
    read_items,
    seal,
    sealed,
    type_name,
    unpack,
)

__all__ = ["Loader", "remedy", "save_lists", "save_names"]


def save_names(
    namespace: Mapping[str, Any],
    names: Iterable[str],
    blobs: BlobStore,
    *,
    imported: Collection[str] = (),
    durable: bool = True,
    signer: Signer | None = None,
) -> list[Binding]:
    """Store the values of names and return their bindings, in the order given.

    Parameters
    ----------
    namespace
        Where the names are looked up.
    names
        What to store; one that is not bound gets a binding that says so.
    blobs
        Where the artifacts go.
    imported
        What the code that bound them imports: after `import a.b` whoever loads the module `a` finds `a.b` in it.
    durable
        Whether they must survive a power cut once this returns.
    signer
        Signs those that can run code when they are loaded.

    Raises
    ------
    StoreError
        If the store cannot be written. No value raises anything: see `Binding.problem`.
    """
    wanted = list(dict.fromkeys(names))
    found: dict[str, Binding] = {}
    encoded: dict[str, Encoded] = {}
    seen: dict[str, dict[int, Any]] = {}
    kept: dict[Digest, Sequence[bytes | memoryview]] = {}
    for name in wanted:
        if name not in namespace:
            found[name] = Binding(name=name, problem=f"`{name}` was not bound: its statement was not reached.")
            continue
        value = namespace[name]
        if isinstance(value, types.ModuleType):
            found[name] = _module(name, value, imported)
            continue
        inside: dict[int, Any] = {}
        try:
            encoded[name] = encode(value, seen=inside)
        except Exception as error:  # noqa: BLE001  (a value's own __reduce__ may raise anything; it is told, not lost)
            found[name] = Binding(name=name, problem=f"`{name}` {remedy(value, error)}")
        else:
            seen[name] = inside
    for group in sharing(seen):
        together = _bundle(namespace, group) if len(group) > 1 else None
        for name in group:
            if together is None or name == group[0]:
                one = together or encoded[name]
                digest = _keep(one, blobs, kept, durable=durable)
            artifact = Artifact(
                digest=digest,
                size=one.size,
                type=encoded[name].type,
                codec=one.codec,
                preview=_shown(namespace[name], blobs, durable=durable),
                signature=sign(signer, digest, one.codec),
            )
            found[name] = Binding(name=name, artifact=artifact, member=name if together else None)
    blobs.put_all(list(kept.items()), durable=durable)
    return [found[name] for name in wanted]


def _shown(value: Any, blobs: BlobStore, *, durable: bool) -> Json:
    """Return the preview of a value; its picture, if it has one, is stored, and its digest stands in its place."""
    shown = preview(value)
    picture = shown.pop("png", None)
    if picture is not None:
        shown["picture"] = blobs.put(base64.b64decode(picture), durable=durable)
    return shown


def _keep(one: Encoded, blobs: BlobStore, kept: dict[Digest, Sequence[bytes | memoryview]], *, durable: bool) -> Digest:
    """Store a large artifact, hashed while it is written; put a small one to those that are stored together."""
    if one.size >= LARGE:
        return blobs.put_value(one.codec, one.parts, durable=durable)
    packed = seal(one)
    kept[packed.digest] = packed.parts
    return packed.digest


def save_lists(
    places: Mapping[str, Sequence[Binding | Failed]],
    blobs: BlobStore,
    *,
    durable: bool = True,
    signer: Signer | None = None,
) -> list[Binding]:
    """Store the names of a fan-out, each as the list of what its items bound it to.

    Parameters
    ----------
    places
        For each name what stands in the items' places, in their order: the item's binding of this name, or `Failed`.
    blobs
        Where the items' artifacts are already, and the lists go.
    durable
        Whether the lists must survive a power cut once this returns.
    signer
        Signs the lists, and by that all that they name: it must have been made by this user, or be trusted.

    Returns
    -------
    list[Binding]
        In the order of the names. A list's digest depends on the digests of its items alone, its size counts them. Of
        a name that an item could not store or did not bind there is no list: `problem` says so.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    found: list[Binding] = []
    kept: dict[Digest, Sequence[bytes | memoryview]] = {}
    for name, items in places.items():
        without = [place for place in items if isinstance(place, Binding) and place.problem is not None]
        if without:
            found.append(Binding(name=name, problem=_without_some(name, without, items)))
            continue
        artifacts = {
            place.artifact.digest: place.artifact
            for place in items
            if isinstance(place, Binding) and place.artifact is not None
        }
        packed = pack_items([_entry(place) for place in items], blobs.packs_of(artifacts))
        kept[packed.digest] = packed.parts
        artifact = Artifact(
            digest=packed.digest,
            size=packed.size + sum(one.size for one in artifacts.values()),
            type=packed.type,
            codec=packed.codec,
            preview=preview_list([place.artifact if isinstance(place, Binding) else None for place in items]),
            signature=sign(signer, packed.digest, packed.codec),
        )
        found.append(Binding(name=name, artifact=artifact))
    blobs.put_all(list(kept.items()), durable=durable)
    return found


def _without_some(name: str, without: Sequence[Binding], items: Sequence[Binding | Failed]) -> str:
    if len(items) == 1:
        return str(without[0].problem)
    number = next(place for place, one in enumerate(items) if one is without[0])
    said = (
        f"`{name}` has no list: {len(without):,} of {len(items):,} items lack it. Item {number}: {without[0].problem}"
    )
    if len(without) == len(items):
        return said
    return f"{said} To have the others, run the cell with --cache --catch: no item that is unchanged runs again."


def _entry(place: Binding | Failed) -> Any:
    if isinstance(place, Failed):
        return {"failed": {name: getattr(place, name) for name in _FAILED}}
    if place.module is not None:
        return {"module": place.module} | ({"submodules": place.submodules} if place.submodules else {})
    if place.artifact is None:
        raise ValueError(f"a binding with neither a value nor a reason: {place!r}")
    return place.artifact.digest if place.member is None else [place.artifact.digest, place.member]


_FAILED = ("item", "label", "ename", "evalue", "reason")


class Loader:
    """Values of bindings.

    Two names that share objects share them when one loader loads both. Loading a name a second time gives it anew, as
    it was stored.

    Parameters
    ----------
    blobs
        Where the artifacts are.
    namespace
        A live notebook's names, whose classes are used instead of stored copies of the same definition.
    accepts
        Says of an artifact whether it may run code when it is loaded. Without it all may: that is right for what this
        process has stored itself, and for what its task names, and for nothing else.
    """

    def __init__(
        self,
        blobs: BlobStore,
        namespace: Mapping[str, Any] | None = None,
        accepts: Callable[[Artifact], bool] | None = None,
    ) -> None:
        self._blobs = blobs
        self._namespace = namespace
        self._accepts = accepts
        self._bundles: dict[_Place, dict[str, Any]] = {}

    def load(self, binding: Binding | Json, /, *, trusted: bool = False) -> Any:
        """Return the value of a binding (or of its JSON).

        Parameters
        ----------
        trusted
            Whether it may run code, whoever has stored it.

        Raises
        ------
        NotTrusted
            If it would run code, and is not accepted.
        ResultError
            If it has none, because it could not be stored or its module is not here.
        NotFound, ArtifactCorrupt
            If the store does not have it (any more), or it is damaged.
        """
        if not isinstance(binding, Binding):
            from mlbench.runs.wire import msgspec

            binding = msgspec.convert(binding, Binding)
        if binding.module is not None:
            return _import(binding.name, binding.module, binding.submodules)
        if binding.artifact is None:
            raise ResultError(binding.problem or f"`{binding.name}` has no stored value.")
        try:
            with naming(binding.name):
                return self._stored(binding, binding.artifact, trusted=trusted)
        except NotFound as error:
            raise NotFound(
                f"The value of `{binding.name}` is not in the store any more: it was freed (`mlbench store gc`), or "
                f"taken away. {error.message}",
                "Run the step that makes it again.",
            ) from error

    def _stored(self, binding: Binding, artifact: Artifact, *, trusted: bool) -> Any:
        if not trusted and needs_signature(artifact.codec):
            trusted = self._accepts is None or self._accepts(artifact)
            if not trusted and artifact.codec != "items":  # what lies in a list may be data alone
                raise NotTrusted(binding.name, why="foreign" if artifact.signature else "unsigned")
        unpacked = _Unpacked(binding.name, self._namespace, trusted=trusted)
        if artifact.codec == "items":
            return self._list(unpacked, artifact)
        if artifact.codec == FILE:
            return StoredFile(binding.name, self._blobs.get_parts(artifact.digest)[2])
        if artifact.codec == FOLDER:
            contents = read_folder(self._blobs.get_parts(artifact.digest)[1])
            return StoredFolder(binding.name, contents, partial(self._file, binding.name))
        if binding.member is None:
            return unpacked(artifact.digest, self._blobs.get_parts(artifact.digest), artifact)
        place = (artifact.digest, 0)
        if self._lacks(place, binding.member):
            found = unpacked(artifact.digest, self._blobs.get_parts(artifact.digest), artifact)
            self._bundles[place] = dict(found)
        return self._member(place, binding.member)

    def _file(self, name: str, digest: Digest) -> memoryview:
        """Return the bytes of a file in a folder with a name."""
        with naming(name):
            return self._blobs.get_parts(digest)[2]

    def _list(self, unpacked: _Unpacked, artifact: Artifact) -> list[Any]:
        # The list is read as a copy that its digest was made of: what it names is as trustworthy as it is.
        entries, packs = read_items(sealed(artifact.digest, self._blobs.get_parts(artifact.digest)))
        try:
            return self._items(unpacked, entries, packs)
        except ArtifactCorrupt as error:
            number = _place_of(error.expected, entries)
            raise error.of(f"{unpacked.name}[{number}]" if number is not None else None) from error

    def _items(self, unpacked: _Unpacked, entries: Sequence[Any], packs: Sequence[Digest]) -> list[Any]:
        alone = [Digest(entry) for entry in entries if isinstance(entry, str)]
        values = iter(self._blobs.get_many(alone, packs=packs))
        places = _places_of(entries)
        bundled = [place for place, member in places if self._lacks(place, member)]
        for place, parts in zip(
            bundled, self._blobs.get_many([digest for digest, _ in bundled], packs=packs), strict=True
        ):
            self._bundles[place] = dict(unpacked(place[0], parts))
        members = iter(places)
        found: list[Any] = []
        for entry in entries:
            if isinstance(entry, str):
                parts = next(values)
                number = number_of(parts)
                found.append(number if number is not None else unpacked(Digest(entry), parts))
            elif isinstance(entry, list):
                found.append(self._member(*next(members)))
            elif "module" in entry:
                found.append(_import(unpacked.name, entry["module"], entry.get("submodules", ())))
            else:
                found.append(Failed(**entry["failed"]))
        return found

    def _lacks(self, place: _Place, member: str) -> bool:
        return member not in self._bundles.get(place, ())

    def _member(self, place: _Place, member: str) -> Any:
        # A member is handed out once: what is left here are the objects of names that were not asked for yet.
        bundle = self._bundles[place]
        value = bundle.pop(member)
        if not bundle:
            del self._bundles[place]
        return value


class _Unpacked:
    """Unpacks what one binding names: all values come through here, and what may not run code ends here."""

    def __init__(self, name: str, namespace: Mapping[str, Any] | None, *, trusted: bool) -> None:
        self.name = name
        self._namespace = namespace
        self._trusted = trusted

    def __call__(self, digest: Digest, parts: Sequence[memoryview], artifact: Artifact | None = None) -> Any:
        if not self._trusted and needs_signature(codec_of(parts)):  # a record may call it data
            raise NotTrusted(self.name)
        whole = sealed(digest, parts)
        try:
            return unpack(artifact.codec if artifact else None, whole, namespace=self._namespace)
        except ImportError as error:
            kind = artifact.type if artifact else "an item's"
            raise ResultError(
                f"A value of type {kind} needs the module {error.name or error}, which is not installed here.",
                "Install it, or open the run in the environment that it was made in.",
            ) from error


_Place = tuple[Digest, int]
"""A bundle, and how many equal ones stand before it in its list: items that bind equal values do not share them."""


def _place_of(digest: str | None, entries: Iterable[Any]) -> int | None:
    """Return the number of the first entry of a list that lies under a digest; None if none does."""
    for number, entry in enumerate(entries):
        if digest is not None and digest in (entry[:1] if isinstance(entry, list) else (entry,)):
            return number
    return None


def _places_of(entries: Iterable[Any]) -> list[tuple[_Place, str]]:
    """Return, for each entry of a list that is one name out of a bundle, which bundle it is, and the name.

    Examples
    --------
    >>> _places_of([["d", "best"], "e", ["d", "best"]])
    [(('d', 0), 'best'), (('d', 1), 'best')]
    """
    seen: Counter[Digest] = Counter()
    places: list[tuple[_Place, str]] = []
    for entry in entries:
        if isinstance(entry, list):
            digest = Digest(entry[0])
            places.append(((digest, seen[digest]), entry[1]))
            seen[digest] += 1
    return places


def _import(name: str, module: str, below: Iterable[str]) -> types.ModuleType:
    one = module
    try:
        for one in (module, *below):
            importlib.import_module(one)
    except ImportError as error:
        raise ResultError(
            f"`{name}` is the module {one}, which cannot be imported here.",
            "Install it, or put its folder on sys.path.",
        ) from error
    return sys.modules[module]


def _module(name: str, module: types.ModuleType, imported: Collection[str]) -> Binding:
    if sys.modules.get(module.__name__) is not module or module.__name__ == "__main__":
        return Binding(
            name=name,
            problem=f"`{name}` is a module that cannot be imported by name. Put its source into a file.",
        )
    below = sorted(one for one in set(imported) if one.startswith(f"{module.__name__}.") and one in sys.modules)
    return Binding(name=name, module=module.__name__, submodules=tuple(below))


def _bundle(namespace: Mapping[str, Any], names: list[str]) -> Encoded | None:
    """Return names that share objects as one dictionary, or None if together they cannot be pickled."""
    try:
        return encode({name: namespace[name] for name in names})
    except Exception:  # noqa: BLE001  (each can be stored by itself, as was tried: they are then)
        return None


# --- what can't be stored ---------------------------------------------------------------------------------------------

_UNPICKLABLE = re.compile(r"cannot pickle '([^']+)' object", re.IGNORECASE)

_DATABASES = (
    r"(_?sqlite3|psycopg2?|psycopg_c|psycopg_binary|sqlalchemy|pymysql|pyodbc|_?duckdb|redis|pymongo|snowflake|"
    r"clickhouse_\w+|MySQLdb|mysql|oracledb|pymssql|ibis|google\.cloud)\..*"
)

_INSTEAD: tuple[tuple[str, str, str], ...] = (
    (r"(async_)?generator|.*coroutine", "a generator", "Keep what it yields instead, as in `list(…)`."),
    (r"zip|map|filter|enumerate|reversed|.*_iterator|.*iterator", "an iterator", "Keep a list of it instead."),
    (r"_io\..*|.*TemporaryFile.*", "an open file", "Keep its path or what it holds, and open it where it is used."),
    (r"_thread\..*|threading\..*|multiprocessing\..*(Lock|Event|Condition|Queue|Semaphore|Pool).*|_queue\..*|queue\..*",
     "a lock, thread or queue", "Make it in the cell that uses it."),
    (r"(concurrent|asyncio|_asyncio|loky|joblib\.parallel)\..*", "an executor or a task",
     "Make it in the cell that uses it, and keep its results."),
    (r"distributed\.client\.Future", "a task of Dask's", "Keep its result, as in `client.gather(…)`."),
    (_DATABASES,
     "a database connection", "Connect in the cell that uses it, and keep the rows that you need."),
    (r"_?socket\..*|_?ssl\..*|requests\..*|httpx\..*|urllib3\..*|aiohttp\..*|paramiko\..*|boto3\..*|botocore\..*",
     "a network connection", "Connect in the cell that uses it."),
    (r"weakref.*|_?weakref\..*", "a weak reference", "Keep the object itself."),
    (r"_?contextvars\..*|.*ContextVar|.*Context", "a context", "Make it in the cell that uses it."),
    (r"module", "a module", "Import it in the cell that uses it."),
    (r"subprocess\..*|Popen", "a running process", "Start it in the cell that uses it."),
    (r"frame|traceback", "a traceback", "Keep its text instead, as in `traceback.format_exc()`."),
)  # fmt: skip


_OTHERWISE: Final = "Keep what it was made from, begin its name with an underscore, or leave it out with `--no-store`."


def remedy(value: Any, error: BaseException | None = None, *, otherwise: str = _OTHERWISE) -> str:
    """Say why a value can't be stored or sent, and what to do instead; begins where a name in front would end.

    Parameters
    ----------
    value
        What could not be pickled.
    error
        What pickling it raised, which names the part that is to blame.
    otherwise
        What to do where nothing is known of its type.

    Examples
    --------
    >>> remedy((i for i in range(3)))
    "is a generator, which can't be stored. Keep what it yields instead, as in `list(…)`."
    """
    whole = type_name(value)
    if isinstance(error, RecursionError) or isinstance(error and error.__cause__, RecursionError):
        return (
            f"({whole}) is nested too deeply to be stored. Keep it flat, as in a table of its parts, or raise "
            "the limit with `sys.setrecursionlimit(…)`."
        )
    if isinstance(error, MemoryError):
        return f"({whole}) could not be stored: the memory was not enough. Keep a smaller part of it."
    blamed = _UNPICKLABLE.search(str(error) if error is not None else "")
    part = blamed[1] if blamed else whole
    for pattern, words, instead in _INSTEAD:
        for kind in dict.fromkeys((whole, part)):
            if re.fullmatch(pattern, kind):
                inside = "is" if kind == whole else f"({whole}) holds"
                return f"{inside} {words}, which can't be stored. {instead}"
    why = f": {type(error).__name__}: {str(error)[:200]}" if error is not None and not blamed else ""
    holds = f" since it holds a {part}" if blamed and part != whole else ""
    return f"({whole}) can't be stored{holds}{why}. {otherwise}".rstrip()
