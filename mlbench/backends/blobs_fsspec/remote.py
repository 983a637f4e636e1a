"""A place under a URL, reached through fsspec: names and bytes, each call bounded in time, each error a sentence.

Its event loop and thread are its own. So nothing that a notebook does with fsspec gets in its way, what it does itself
is told from what a step does (`THREAD`), and the thread can be ended before a process is forked (`rest`).
"""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from mlbench.backends.blobs_local import THREAD
from mlbench.backends.blobs_local.files import Buffer, Pieces
from mlbench.core.errors import MlbenchError, StoreError

__all__ = ["Entry", "Remote"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Item = TypeVar("_Item")

_BLOCK: Final = 8 << 20
"""Bytes that are sent or fetched at a time; a few of these are in memory, however large an object is."""

_AT_ONCE: Final = 4
_REQUESTS: Final = 16
"""How many blocks, and how many small requests, are under way at the same time."""

_CONFLICTS: Final = 5

_CONNECT: Final = 10
_ANSWER: Final = 30
_ATTEMPTS: Final = 3
_SLOW: Final = 100_000
"""Seconds for which S3 may take no connection, or send nothing; how often a request is made at most; and the bytes
in a second that a way may be too slow for."""

_LIBRARIES: Final = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

# fmt: off
_SPEAKERS: Final = frozenset({
    "adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "concurrent", "fsspec", "gcsfs", "google", "requests",
    "s3fs", "socket", "ssl", "urllib3",
})
# fmt: on
"""The packages whose errors say what is the matter with a store, or with the way to it."""

_NO_BUCKET: Final = ("NoSuchBucket", "bucket does not exist")

# fmt: off
_DENIED: Final = (
    "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403",
    "401", "Unauthorized",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Entry:
    """Something under a name: its size in bytes, and the UTC nanoseconds of when it was written."""

    name: str
    size: int
    time: int


class Remote:
    """What lies under a URL; names are relative to it, with slashes.

    Calls may come from several threads, and from a fork of the process that made this.

    Parameters
    ----------
    url
        As fsspec takes it. Credentials are found as the provider's own tools find them.

    Raises
    ------
    StoreError
        If the library for it is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._lock = threading.Lock()
        self._process = 0
        self._fs: Any = None
        self._root = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._prefixed = False
        self.file_system  # noqa: B018  (a library that is missing is said at once)

    @property
    def file_system(self) -> Any:
        """The file system of fsspec, made anew after a fork."""
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._connect()
        return self._fs

    def _connect(self) -> None:
        protocol = self.url.partition("://")[0]
        try:
            import fsspec

            known = fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:
            library = _LIBRARIES.get(protocol)
            if library is None and isinstance(error, ValueError):
                raise StoreError(
                    f"The store {self.url} is under a URL that begins with {protocol}://, which fsspec does not know.",
                    "Name one that begins with s3://, gs:// or abfs://, or a directory.",
                ) from error
            raise StoreError(
                f"The store {self.url} needs a library that is not installed in this environment: "
                f"{library or 'fsspec'}.",
                f"Install it there: pip install {library or 'fsspec'}",
            ) from error
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if getattr(known, "async_impl", False):
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name=THREAD, daemon=True)
            self._thread.start()
            options["loop"] = self._loop
        if protocol in {"s3", "s3a"}:
            retries = {"total_max_attempts": _ATTEMPTS, "mode": "standard"}
            options["config_kwargs"] = {"connect_timeout": _CONNECT, "read_timeout": _ANSWER, "retries": retries}
            options["max_concurrency"] = 1  # we read and write by blocks, several at once
        if protocol == "memory":
            options = {}
        self._fs, self._root = fsspec.core.url_to_fs(self.url, **options)
        if hasattr(self._fs, "call_s3"):
            self._fs.retries = 1  # botocore's own attempts rewind what they send, these do not
        self._root = self._root.rstrip("/")
        find = getattr(self._fs, "_find", None)
        self._prefixed = find is not None and "prefix" in inspect.signature(find).parameters
        self._process = os.getpid()

    def rest(self) -> None:
        """End the thread, so that the process can be forked; the next call starts another."""
        with self._lock:
            if self._process != os.getpid() or self._loop is None or self._thread is None:
                return
            loop, thread = self._loop, self._thread
            self._process, self._loop, self._thread = 0, None, None
            client = getattr(self._fs, "_s3creator", None)
            if client is not None:
                with suppress(Exception):  # what does not close now is closed by the system
                    asyncio.run_coroutine_threadsafe(client.__aexit__(None, None, None), loop).result(5)
            self._fs = None
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)

    # --- reading ------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Entry | None:
        """Return what is known of a name, `None` if there is nothing."""
        with self.clear_errors():
            try:
                found = self.file_system.info(self._path(name))
            except FileNotFoundError:
                return None
        return None if found["type"] == "directory" else Entry(name, int(found["size"]), _time_of(found))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return bytes, all or from `start` to `end`. Raise `FileNotFoundError`."""
        for turn in range(_ATTEMPTS):
            try:
                with self.clear_errors():
                    data: bytes = self.file_system.cat_file(self._path(name), start=start, end=end)
                    return data
            except StoreError as error:  # an answer that breaks off is nobody else's to ask for again
                if turn == _ATTEMPTS - 1 or not _is_broken(error.__cause__):
                    raise
        raise AssertionError

    def fetch(self, name: str, size: int, write: Callable[[int, bytes], None]) -> None:
        """Have bytes of a large object written at their offsets as they come, several blocks at once."""

        def one(start: int) -> None:
            write(start, self.read(name, start, min(start + _BLOCK, size)))

        self.each(one, range(0, size, _BLOCK), at_once=_AT_ONCE)

    def entries(self, folder: str, prefix: str = "") -> Iterator[Entry]:
        """Yield what lies in a folder and below whose path in it begins so, in the order of names."""
        with self.clear_errors():
            base = self._path(folder)
            options = {"prefix": prefix} if prefix and self._prefixed else {}
            try:
                found = self.file_system.find(base, detail=True, **options)
            except FileNotFoundError:
                return
            for path in sorted(found):
                inside = path[len(base) :].lstrip("/")
                if inside and inside.startswith(prefix) and found[path]["type"] != "directory":
                    yield Entry(f"{folder}/{inside}", int(found[path]["size"]), _time_of(found[path]))

    def top(self) -> list[str]:
        """Return the first part of all names."""
        with self.clear_errors():
            try:
                found = self.file_system.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        names = (path.rstrip("/")[len(self._root) :].lstrip("/") for path in found)
        return [name for name in names if name]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        with self.clear_errors():
            try:
                found = self.file_system.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        return sorted(one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory")

    # --- writing ------------------------------------------------------------------------------------------------------

    def create(self, name: str, size: int, pieces: Pieces) -> bool:
        """Write pieces at their offsets, all or nothing, if there is nothing yet; return False if there is something.

        Where the other side cannot promise that, whoever comes last wins.
        """
        for turn in range(_CONFLICTS):
            try:
                self._write(name, size, pieces, new=True)
            except FileExistsError:
                return False
            except StoreError as error:
                if _says(error.__cause__, "NotImplemented", "501") or isinstance(error.__cause__, NotImplementedError):
                    break
                if turn == _CONFLICTS - 1 or not _says(error.__cause__, "ConditionalRequestConflict", "409"):
                    raise
                threading.Event().wait(0.1 * 2**turn)
            else:
                return True
        if self.find(name) is not None:
            return False
        self._write(name, size, pieces, new=False)
        return True

    def replace(self, name: str, size: int, pieces: Pieces) -> None:
        """Write pieces at their offsets, all or nothing, over whatever there is."""
        self._write(name, size, pieces, new=False)

    def remove(self, name: str) -> None:
        """Remove what lies under a name; do nothing if there is nothing."""
        with self.clear_errors(), suppress(FileNotFoundError):
            self.file_system.rm_file(self._path(name))

    def _write(self, name: str, size: int, pieces: Pieces, *, new: bool) -> None:
        if hasattr(self.file_system, "call_s3"):
            write = self._put_s3 if size <= _BLOCK else self._upload_s3
        else:
            write = self._pipe if size <= _BLOCK else self._stream
        with self.clear_errors():
            try:
                write(name, size, pieces, new=new)
            except FileNotFoundError as error:  # not an object store: it has folders, which have to be made
                if _says(error, *_NO_BUCKET):
                    raise
                self.file_system.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
                write(name, size, pieces, new=new)

    def _pipe(self, name: str, size: int, pieces: Pieces, *, new: bool) -> None:
        data = b"".join(_blocks(pieces, size))
        self._send("pipe_file", size, self._path(name), data, **({"mode": "create"} if new else {}))

    def _put_s3(self, name: str, size: int, pieces: Pieces, *, new: bool) -> None:
        bucket, key, _ = self.file_system.split_path(self._path(name))
        body = io.BytesIO(b"".join(_blocks(pieces, size)))  # bytes as they are would hold up the loop
        try:
            self._send("call_s3", size, "put_object", Bucket=bucket, Key=key, Body=body, **_condition(new=new))
        except Exception as error:
            if _says(error, "PreconditionFailed", "412"):
                raise FileExistsError(name) from error
            raise

    def _upload_s3(self, name: str, size: int, pieces: Pieces, *, new: bool) -> None:
        """Write by S3's own multipart upload, which shows nothing until it is completed, several parts at once."""
        call = self.file_system.call_s3
        bucket, key, _ = self.file_system.split_path(self._path(name))
        place = {"Bucket": bucket, "Key": key}
        place["UploadId"] = call("create_multipart_upload", **place)["UploadId"]
        step = max(_BLOCK, -(-size // 9_999))  # S3 takes 10,000 parts

        def send(part: tuple[int, bytearray]) -> dict[str, Any]:
            number, data = part
            body = io.BytesIO(data)
            answer = self._send("call_s3", len(data), "upload_part", **place, PartNumber=number, Body=body)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            parts = self.each(send, enumerate(_blocks(pieces, size, step), 1), at_once=_AT_ONCE)
            call("complete_multipart_upload", **place, MultipartUpload={"Parts": parts}, **_condition(new=new))
        except BaseException as error:
            with suppress(Exception):  # what is left of it, `sweep` removes
                call("abort_multipart_upload", **place)
            if _says(error, "PreconditionFailed", "412"):
                raise FileExistsError(name) from error
            raise

    def _send(self, name: str, size: int, *given: Any, **more: Any) -> Any:
        """Call a method of the file system that sends so many bytes; raise `TimeoutError` if it takes too long.

        While the other side is asked whether it wants them, no time-out of the libraries counts.
        """
        file_system = self.file_system
        if self._loop is None:
            return getattr(file_system, name)(*given, **more)
        import fsspec

        async def send() -> Any:
            return await asyncio.wait_for(getattr(file_system, f"_{name}")(*given, **more), seconds)

        seconds = _ATTEMPTS * _ANSWER + size / _SLOW
        try:
            return fsspec.asyn.sync(self._loop, send)
        except (TimeoutError, fsspec.asyn.FSTimeoutError) as error:
            raise TimeoutError(f"nothing was heard of what was sent within {seconds:.0f} s") from error

    def _stream(self, name: str, size: int, pieces: Pieces, *, new: bool) -> None:
        path = self._path(name)
        if new and self.file_system.exists(path):
            raise FileExistsError(path)
        file = self.file_system.open(path, "wb", block_size=_BLOCK, autocommit=False)
        try:
            for block in _blocks(pieces, size):
                file.write(block)
            file.close()
            file.commit()
        except BaseException:
            file.closed = True  # closing it would complete what is not complete
            with suppress(Exception):
                file.discard()
            raise

    def abort_uploads(self, before: int, *, dry_run: bool) -> int:
        """Give up the uploads that were begun before a time and never completed; return how many bytes they hold."""
        if not hasattr(self.file_system, "call_s3"):
            return 0
        freed = 0
        with self.clear_errors():
            call = self.file_system.call_s3
            bucket, key, _ = self.file_system.split_path(f"{self._root}/")
            found = call("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads") or []
            for upload in found:
                if _nanoseconds(upload["Initiated"]) >= before or not upload["Key"].startswith(key):
                    continue
                place = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                with suppress(FileNotFoundError):
                    freed += sum(part["Size"] for part in call("list_parts", **place).get("Parts") or [])
                    if not dry_run:
                        call("abort_multipart_upload", **place)
        return freed

    # --- all of it ----------------------------------------------------------------------------------------------------

    def each(self, work: Callable[[_Item], _T], items: Iterable[_Item], *, at_once: int = _REQUESTS) -> list[_T]:
        """Return what work gives for each item, several of them at the same time; no more items are taken ahead."""
        if isinstance(items, Sequence) and len(items) < 2:
            return [work(item) for item in items]
        free, failed, answers = threading.Semaphore(at_once), threading.Event(), []

        def one(item: _Item) -> _T:
            try:
                return work(item)
            except BaseException:
                failed.set()
                raise
            finally:
                free.release()

        with ThreadPoolExecutor(at_once, thread_name_prefix=THREAD) as threads:
            waiting = iter(items)
            while True:
                free.acquire()
                if failed.is_set():
                    break
                try:
                    item = next(waiting)
                except StopIteration:
                    break
                answers.append(threads.submit(one, item))
        return [answer.result() for answer in answers]

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Say what a library says about the other side as one sentence that names the store; not what is not there."""
        try:
            yield
        except (MlbenchError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if _says(error, *_NO_BUCKET):
                raise self.error(error, "it is not there", "Make the bucket, or name another.") from error
            raise
        except Exception as error:
            if not isinstance(error, (OSError, NotImplementedError)) and not _is_speaker(error):
                raise
            if isinstance(error, PermissionError) or "Credential" in type(error).__name__ or _says(error, *_DENIED):
                raise self.error(
                    error,
                    f"access is refused: {_sentence(error)}",
                    "Give the credentials as the provider's own tools take them: in its variables or files. A service "
                    "that runs already sees new variables after `mlbench service stop`.",
                ) from error
            raise self.error(
                error, _sentence(error), "See that its address is right and the network is up, then do it again."
            ) from error

    def error(self, cause: BaseException, what: str, remedy: str) -> StoreError:
        """Return the error that says what is the matter with the store."""
        _log.debug("The store %s: %r", self.url, cause)
        return StoreError(f"The store {self.url} cannot be used: {what.rstrip('.')}.", remedy)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _condition(*, new: bool) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if new else {}


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.set_default_executor(ThreadPoolExecutor(2, thread_name_prefix=THREAD))
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _blocks(pieces: Pieces, size: int, step: int = _BLOCK) -> Iterator[bytearray]:
    """Yield a file of pieces at offsets as blocks of so many bytes; what no piece covers is zero."""
    views = [(offset, memoryview(piece).cast("B")) for offset, piece in pieces if _length(piece)]
    for begin in range(0, size, step):
        block = bytearray(min(step, size - begin))
        for offset, view in views:
            first, last = max(offset, begin), min(offset + view.nbytes, begin + len(block))
            if first < last:
                block[first - begin : last - begin] = view[first - offset : last - offset]
        yield block


def _length(piece: Buffer) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)


def _time_of(found: Any) -> int:
    """Return when something was written, as each file system says it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        if found.get(key) is not None:
            return _nanoseconds(found[key])
    return 0


def _nanoseconds(moment: Any) -> int:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1_000_000) * 1000
    return int(moment * 1_000_000_000)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says(error: BaseException | None, *words: str) -> bool:
    """Say whether an error, or one that it comes from, has one of these codes or words."""
    for one in _chain(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            code = str(answer.get("Error", {}).get("Code", ""))
            status = str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
            if code in words or status in words:
                return True
        elif any(not word.isdigit() and word in str(one) for word in words):
            return True
    return False


def _is_speaker(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in _SPEAKERS for kind in type(error).__mro__)


def _is_broken(error: BaseException | None) -> bool:
    """Say whether an answer began and broke off."""
    return any(type(one).__name__ in _BROKEN for one in _chain(error))


_BROKEN: Final = frozenset({"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError"})


def _sentence(error: BaseException) -> str:
    """Return what an error says, on one line; many say nothing but their name."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and not error.filename:
        text = " ".join(str(error.strerror).split())
    return text[:300] or type(error).__name__
