"""Run the cell for one item after the other in one process: each in names of its own, with all that is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import mmap
import os
import struct
import sys
import time
import traceback
import types
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, cast

from mlbench.backends.blobs import local_folder, open_blobs, own_folders
from mlbench.backends.cluster_dask import processors
from mlbench.backends.cluster_dask.channel import MarkedChannel, encodable
from mlbench.backends.cluster_dask.itemwords import ItemEnd, Mark
from mlbench.backends.cluster_dask.process.fingerprints import Values
from mlbench.backends.cluster_dask.process.foreach import Items
from mlbench.backends.cluster_dask.process.opened import Opened
from mlbench.backends.cluster_dask.process.stepprocess import Step
from mlbench.backends.cluster_dask.process.stepshell import ZMQInteractiveShell
from mlbench.core.errors import StoreError
from mlbench.core.ids import Digest
from mlbench.core.messages import Chunk, StepTask, Surroundings
from mlbench.core.ports import BlobStore
from mlbench.core.records import Artifact, Binding, Failure, Json
from mlbench.runs import artifacts, context, faithful, randomness, surroundings, values
from mlbench.runs.generators import Generators, find
from mlbench.runs.wire import msgspec

__all__ = ["LONG", "Progress", "Runner", "flush_c", "show"]

LONG: Final = 0.2
"""Seconds from which on an item has a process of its own: that costs little beside it."""
_LARGE: Final = 64 << 10
_SHOWN: Final = 20
"""So many failures of a chunk get IPython's traceback, which takes longer than most items; the others a plain one."""
_SHARE: Final = 25
"""It is looked at most every so many times as long as a look takes whether items have changed what they were given."""
_AT_MOST: Final = 4
"""What is left of a chunk may take so many times as long as was thought, before it is left after all."""
_PLAIN: Final = frozenset({int, float, bool, str, type(None)})


class Progress:
    """What a process that is forked for items leaves behind, however it ends."""

    _LAYOUT: Final = struct.Struct("qqqqdq")

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self._LAYOUT.size)

    def _get(self, place: int) -> Any:
        return self._LAYOUT.unpack_from(self._shared)[place]

    def reset(self) -> None:
        """Forget all: another process begins."""
        self._LAYOUT.pack_into(self._shared, 0, -1, 0, 0, 0, 0.0, 0)

    def begin(self, place: int) -> None:
        """Note which of its items the process begins."""
        _WORD.pack_into(self._shared, 0, place)

    def keep(self, count: int, seconds: float) -> None:
        """Note how many items have ended, and how long the last one took."""
        _WORD.pack_into(self._shared, 8, count)
        _TIME.pack_into(self._shared, 32, seconds)

    def look(self, count: int) -> None:
        """Note that up to here no item has changed what others have too."""
        _WORD.pack_into(self._shared, 40, count)

    def change(self, kept: int) -> None:
        """Note that items have changed what they were given, and how many of them had not seen it."""
        _WORD.pack_into(self._shared, 8, kept)
        _WORD.pack_into(self._shared, 16, 1)

    def end(self) -> None:
        """Note that the process has come to its end."""
        _WORD.pack_into(self._shared, 24, 1)

    @property
    def begun(self) -> int:
        """The place of the item that was begun last, -1 if none was."""
        return int(self._get(0))

    @property
    def kept(self) -> int:
        """How many of the items, from the first on, need not run again."""
        return int(self._get(1))

    @property
    def clean(self) -> int:
        """How many of the items had ended when it was last seen that none had changed what others have too."""
        return int(self._get(5))

    @property
    def changed(self) -> bool:
        """Whether items changed in place what others have too."""
        return bool(self._get(2))

    @property
    def over(self) -> bool:
        """Whether the process came to its end."""
        return bool(self._get(3))

    @property
    def seconds(self) -> float:
        """How long the last item took."""
        return float(self._get(4))


_WORD: Final = struct.Struct("q")
_TIME: Final = struct.Struct("d")


# --- items ------------------------------------------------------------------------------------------------------------


class Runner:
    """Runs items one after the other, in one process.

    `unsure` are the places of items that ended in a process which then died before it was seen whether they had
    changed what others have too: where a later look finds a change, they run again as well. Of those that ended in
    processes which loaded all for themselves the supervisor knows.
    """

    def __init__(
        self,
        task: StepTask,
        channel: MarkedChannel,
        step: Step,
        namespace: dict[str, Any],
        items: Items,
        codes: Sequence[types.CodeType],
    ) -> None:
        self._channel = channel
        self._step = step
        self._shell: ZMQInteractiveShell = ZMQInteractiveShell.instance()
        self._namespace = namespace
        self._items = items
        self._codes = [(code, bool(code.co_flags & inspect.CO_COROUTINE)) for code in codes]
        self._clean = dict(namespace)
        self._own = {
            name: value
            for name, value in namespace.items()
            if name not in self._shell.user_ns_hidden and not name.startswith("__")
        }
        self._generators = Generators(task.random if task.seeded else None, find(self._own.values()))
        self._blobs = open_blobs(task.store, make=False)
        self._satchel = _Satchel(self._blobs)
        self._opened = Opened(without=own_folders(task.store))
        self._names = tuple(dict.fromkeys((*task.defs, *task.quiet_defs)))
        self._settings = _Settings()
        self._number = 0
        self._compared: set[tuple[str, type]] = set()
        self._values: Values | None = None
        self._around: Surroundings | None = None
        self._modules: frozenset[str] = frozenset()
        self._cost = 0.0
        self.progress = Progress()
        self.changes = any(name in namespace for name in task.changes)
        self._mark = Mark(task)
        self.take(task)

    def take(self, task: StepTask) -> None:
        """Turn to a chunk: its own, or another of the same fan-out where no item has run in this process itself."""
        assert task.chunk is not None
        self._task = task
        self._chunk: Chunk = task.chunk
        self._failures = 0
        self.unsure: list[int] = []
        self._until: float | None = None
        self._rest = self._chunk.rest
        self.begun_any = False
        self._mark.close()
        self._mark = Mark(task)
        self._mark.open()
        self.progress.reset()

    def watch(self) -> None:
        """Take the fingerprints of what items are given, to see later whether they have changed it in place."""
        if self._values is not None:
            return
        self._generators.settle()
        begun = time.perf_counter()
        self._values = Values(self._namespace, store=local_folder(self._task.store))
        self._around = surroundings.read(self._shell)
        self._cost = max(1e-5, time.perf_counter() - begun)
        self._modules = frozenset(sys.modules)

    @property
    def doubts(self) -> bool:
        """Whether items that have ended depend on what is found to be changed, or not, by those that come."""
        return bool(self.unsure) or self._chunk.unsure

    def run_again(self) -> list[int]:
        """Return the places of the items that are unsure, which now run again."""
        places, self.unsure = self.unsure, []
        self._chunk = replace(self._chunk, unsure=False)
        return places

    def set_clock(self) -> None:
        """Let the time begin in which items may be begun."""
        self._until = None if self._chunk.seconds is None else time.monotonic() + self._chunk.seconds

    def late(self) -> bool:
        """Say whether no item is to be begun any more."""
        return (self._until is not None and time.monotonic() >= self._until) or self._mark.gone

    @property
    def given_up(self) -> bool:
        """Whether somebody has taken this chunk's worker for lost: others have its items by now."""
        return self._mark.gone

    def _has_little_left(self, count: int, left: int, begun: float) -> bool:
        """Say whether items that are left are so few that they are run although it is late; asked once it is."""
        rest, self._rest = self._rest, 0.0
        now = time.monotonic()
        if left * (now - begun - _waited()) > rest * count:  # another process would have to wait like this one
            return False
        self._until = now + _AT_MOST * rest
        return True

    def begin(self) -> None:
        """Make the process ready for items, after it was forked."""
        processors.share(self._task.threads, os.environ)
        randomness.refresh()
        self._shell.move()
        self._shell.builtin_trap.activate()
        sys.displayhook = self._shell.displayhook
        self._shell.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._shell.loop)
        self._settings = _Settings()
        self._opened.start()

    def run(self, places: Sequence[int]) -> tuple[str, ...]:
        """Run items, as far as they should run in this process; return what an unseeded notebook's drew from."""
        before = randomness.read_states() if not (self._task.seeded and self._task.random) else {}
        alone = len(places) == 1
        looked = begun = time.monotonic()
        clean = 0
        progress = self.progress
        count = 0
        for place in places:
            late = count and self.late() and not self._has_little_left(count, len(places) - count, begun)
            if late or not self._mark.begin(self._chunk.numbers[place]):
                break
            progress.begin(count)
            seconds = self._run_one(
                place, following=places[count + 1] if count + 1 < len(places) else None, alone=alone
            )
            count += 1
            progress.keep(count, seconds)
            if alone:
                break
            now = time.monotonic()
            wait = 0.0 if not self._names else self._cost * (_SHARE if clean else 1)
            if now - looked >= wait:
                if self._has_changed(places, clean, count):
                    break
                looked, clean = time.monotonic(), count
            if seconds > LONG:
                break
        if count - clean > (0 if self.doubts else 1) and not progress.changed:
            self._has_changed(places, clean, count)
        return randomness.drew(before, randomness.read_states()) if before else ()

    def _has_changed(self, places: Sequence[int], clean: int, count: int) -> bool:
        """Look whether the items since the last look have changed what they were given: all but the first saw that."""
        if self._values is None:
            return False
        self._reset()
        self._settings.restore()
        self._generators.settle()
        names = [*self._values.changed(), *self._settings_changed()]
        if not names:
            self.progress.look(count)
            self._channel.tell({"op": "clean"})
            return False
        self.progress.change(clean + 1)
        again = [self._chunk.numbers[place] for place in (*self.unsure, *places[clean + 1 : count])]
        self._channel.send({"op": "changed", "names": names, "again": again})
        return True

    def _settings_changed(self) -> list[str]:
        """Return what items have set in libraries, for all that comes after them in their process."""
        now = surroundings.read(self._shell)
        if self._around is None or now.libraries == self._around.libraries:
            return []
        changed = surroundings.changed(self._around, now, self._modules)
        if not changed:  # libraries have been imported, which is not looked at again
            self._around, self._modules = now, frozenset(sys.modules)
        return [f"the settings of {name}" for name in changed]

    def _reset(self) -> None:
        """Make the names what they were at the start, in the same dictionary: helpers have it as their globals."""
        namespace = self._namespace
        namespace.clear()
        namespace.update(self._clean)
        if shown := namespace.get("_oh"):
            shown.clear()
            hook = self._shell.displayhook
            hook._ = hook.__ = hook.___ = ""

    def _run_one(self, place: int, *, following: int | None, alone: bool) -> float:
        task, chunk, shell = self._task, self._chunk, self._shell
        self._number = number = chunk.numbers[place]
        self._reset()
        self._items.bind(self._namespace, number, copied=not alone)
        self._settings.restore()
        self._generators.set_to(number)
        context.enter(
            context.Context(
                run=task.run,
                step=task.step,
                execution=chunk.executions[place],
                item=number,
                attempt=chunk.attempts[place],
                emit=self._emit,
                keep=self._step.keep,
                reach=self._step.reach,
            )
        )
        shell.failure = None
        if task.paths:
            self._opened.name(task.paths)
        started, cpu = time.time_ns(), time.process_time()
        error = self._execute()
        draws = self._generators.drew()
        binds: list[Binding] = []
        parts: list[tuple[Digest, list[bytes]]] = []
        failure = None
        if error is None and shell.failure is None:
            try:
                binds, parts = self._bind()
            except StoreError as refusal:
                failure = self._step.refused(refusal)
        else:
            failure = self._fail(error)
            del error
        files, network = self._opened.take()
        flush_c()
        ended = time.time_ns()
        took = time.process_time() - cpu
        then = None if following is None else chunk.numbers[following]
        listed = _listed(binds)
        self._channel.send_packed(
            lambda n: _packed(
                ItemEnd(n, number, started, ended, took, then, listed, parts, failure, draws, files, network)
            )
        )
        return (ended - started) / 1e9

    def _execute(self) -> BaseException | None:
        """Run the cell; return what it raised."""
        shell, namespace = self._shell, self._namespace
        events = shell.events
        loop = shell.loop
        if loop.is_closed() or loop._ready or loop._scheduled:  # an item has left tasks behind
            _end_loop(loop)
            loop = shell.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        raised: BaseException | None = None
        if events.callbacks["pre_execute"]:
            events.trigger("pre_execute")
        try:
            for code, awaits in self._codes:
                if awaits:
                    loop.run_until_complete(eval(code, namespace))  # noqa: S307  the cell
                else:
                    asyncio._set_running_loop(loop)
                    try:
                        exec(code, namespace)  # noqa: S102  the cell
                    finally:
                        asyncio._set_running_loop(None)
        except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt are the item's failure too
            raised = error
        events.trigger("post_execute")
        return raised

    def _fail(self, error: BaseException | None) -> Failure:
        if error is not None:
            self._failures += 1
            show(self._shell, error, whole=self._failures <= _SHOWN)
        return self._step.failure(error, self._shell.failure)

    # --- what it binds -----------------------------------------------------------------------------------------------

    def _bind(self) -> tuple[list[Binding], list[tuple[Digest, list[bytes]]]]:
        namespace = self._namespace
        binds: list[Binding] = []
        parts: list[tuple[Digest, list[bytes]]] = []
        names = [name for name in self._names if name in namespace]
        for name in names:
            value = namespace[name]
            if type(value) not in _PLAIN or not (shown := _shown(value)):
                return self._save(names)
            packed = values.pack(value)
            parts.append((packed.digest, [bytes(part) for part in packed.parts]))
            artifact = Artifact(
                digest=packed.digest, size=packed.size, type=packed.type, codec=packed.codec, preview=shown
            )
            binds.append(Binding(name=name, artifact=artifact))
        return binds, parts

    def _save(self, names: list[str]) -> tuple[list[Binding], list[tuple[Digest, list[bytes]]]]:
        namespace, quiet = self._namespace, self._task.quiet_defs
        satchel = cast("BlobStore", self._satchel)
        imported = self._shell.compile.imported
        binds = artifacts.save_names(namespace, names, satchel, imported=imported, signer=self._task.signer)
        for binding in binds:
            value = namespace[binding.name]
            kind = (binding.name, type(value))
            sentence = binding.problem
            if sentence is None and kind not in self._compared:
                self._compared.add(kind)
                sentence = faithful.loss(value, binding, satchel, namespace)
            if sentence and binding.name not in quiet and getattr(value, "closed", False) is not True:
                print(f"mlbench: {sentence}", file=sys.stderr)  # noqa: T201  the item's own output
        kept = [binding for binding in binds if binding.problem is None or binding.name not in quiet]
        return kept, self._satchel.empty()

    def _emit(self, news: Json) -> None:
        if news["type"] in ("metrics", "tags", "artifacts"):
            self._channel.tell({"op": "news", "item": self._number, "news": news})


_encode: Final = msgspec.msgpack.Encoder().encode
_encode_json: Final = msgspec.json.Encoder().encode


def _listed(binds: list[Binding]) -> bytes:
    try:
        return _encode_json(binds)
    except UnicodeEncodeError:  # half of a surrogate pair, in a preview
        return _encode_json(encodable(msgspec.to_builtins(binds)))


def _packed(end: ItemEnd) -> bytes:
    try:
        return _encode(end)
    except UnicodeEncodeError:  # half of a surrogate pair, in the name of a file
        return _encode(encodable(msgspec.to_builtins(end, builtin_types=(bytes,))))


def _shown(value: Any) -> Json | None:
    """Return the preview of a plain value, as `previews.preview` has it; None for one that is too long."""
    if type(value) is str:
        return {"kind": "text", "text": value, "length": len(value)} if len(value) <= 2000 else None
    if type(value) is int and not -(1 << 200) < value < 1 << 200:
        return None
    return {"kind": "text", "text": repr(value)}


class _Satchel:
    """A store that sends small artifacts along with their item, to be kept with those of others; and keeps the rest.

    It is the port as far as values are saved in it and looked at again.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._held: dict[Digest, list[bytes]] = {}

    def put_all(self, artifacts: Any, /, *, durable: bool = True) -> None:
        """Keep artifacts, or hold them."""
        large = []
        for digest, parts in artifacts:
            if sum(memoryview(part).nbytes for part in parts) < _LARGE:
                self._held[digest] = [bytes(part) for part in parts]
            else:
                large.append((digest, parts))
        if large:
            self._blobs.put_all(large, durable=durable)

    def get_parts(self, digest: Digest, /) -> list[memoryview]:
        """Return the parts of an artifact that is held, or kept."""
        held = self._held.get(digest)
        return [memoryview(bytearray(part)) for part in held] if held is not None else self._blobs.get_parts(digest)

    def get_many(self, digests: Sequence[Digest], /, *, packs: Sequence[Digest] = ()) -> list[list[memoryview]]:
        """Return the parts of artifacts, held or kept."""
        if self._held.keys().isdisjoint(digests):
            return self._blobs.get_many(digests, packs=packs)
        return [self.get_parts(digest) for digest in digests]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    def empty(self) -> list[tuple[Digest, list[bytes]]]:
        """Give away what is held."""
        held, self._held = self._held, {}
        return list(held.items())


# --- around an item ---------------------------------------------------------------------------------------------------


class _Settings:
    """What an item may set for its whole process, which the next one is not to see."""

    def __init__(self) -> None:
        self._folder = _folder()
        self._variables: dict[Any, Any] = dict(_variables())
        self._path = list(sys.path)
        self._filters = list(warnings.filters)
        self._streams = (sys.stdout, sys.stderr, sys.displayhook)

    def restore(self) -> None:
        """Set everything back; warnings that were shown once are shown again."""
        if _folder() != self._folder and self._folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)
        if _variables() != self._variables:
            for name in [name for name in os.environ if os.environ.encodekey(name) not in self._variables]:
                del os.environ[name]
            for key, value in self._variables.items():
                if _variables().get(key) != value:
                    os.environ[os.environ.decodekey(key)] = os.environ.decodevalue(value)
        if sys.path != self._path:
            sys.path[:] = self._path
        if warnings.filters != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]
        _forget_warnings()
        sys.stdout, sys.stderr, sys.displayhook = self._streams


def _waited() -> float:
    """Return the seconds for which this process was ready to run and had no processor (Linux)."""
    try:
        with open("/proc/self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _variables() -> dict[Any, Any]:
    own: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
    return own


def _forget_warnings() -> None:
    """Let warnings that modules have shown once be shown once more."""
    change = getattr(warnings, "_filters_mutated", None) or getattr(warnings, "_filters_mutated_lock_held", None)
    if change is not None:
        change()


def _end_loop(loop: Any) -> None:
    """Close an event loop, which has descriptors; what its tasks leave undone is nothing for the next item to show."""
    tasks = asyncio.all_tasks(loop)
    while tasks:
        with contextlib.suppress(AttributeError):  # a kind of task of the item's own
            tasks.pop()._log_destroy_pending = False  # type: ignore[attr-defined]
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError):  # it runs, in a thread of the item's
        warnings.simplefilter("ignore")
        loop.close()


def show(shell: ZMQInteractiveShell, error: BaseException, *, whole: bool) -> None:
    """Show what an item, or a `--foreach`, raised, from its own first line on, and keep it as `shell.failure`."""
    own = shell.compile.code_name()
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != own:
        trace = trace.tb_next
    if trace is None:  # a `--foreach`, or a generator that it goes through
        trace = error.__traceback__
        while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("mlbench."):
            trace = trace.tb_next
    trace = trace or error.__traceback__
    if whole:
        shell.showtraceback((type(error), error, trace), tb_offset=0, exception_only=isinstance(error, SystemExit))
        return
    lines = traceback.format_exception(type(error), error, trace, limit=5, chain=False)
    shell._showtraceback(type(error), error, [line.rstrip("\n") for line in lines])


def flush_c() -> None:
    """Have C's own buffers written: what an item printed from C belongs to it."""
    _c.fflush(None)


_c: Final = ctypes.CDLL(None)
