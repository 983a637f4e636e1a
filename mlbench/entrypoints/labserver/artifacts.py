"""What an artifact holds, as far as it can be handed out without being loaded: files, folders' files, pictures.

Nothing is unpickled, and nothing that is answered is ever run by the page: a file is a download whatever it holds.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import quote

from jupyter_server.auth.decorator import authorized
from tornado import iostream, web

from mlbench.core.errors import ArtifactCorrupt, MlbenchError, NotFound, UsageError
from mlbench.core.ids import Digest
from mlbench.core.naming import naming
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import Handler
from mlbench.runs.files import FILE, FOLDER, read_folder
from mlbench.runs.values import digest_of, read_manifest

__all__ = ["ContentOfArtifact", "FilesOfArtifact", "PictureOfArtifact"]

_BLOCK: Final = 1 << 20
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_LARGEST_PICTURE: Final = 4 << 20


class _Bytes(Handler):
    """A handler that answers in bytes which no browser may take for a page."""

    async def send(self, data: memoryview, kind: str, disposition: str) -> None:
        """Answer bytes, piece by piece."""
        self.set_header("Content-Type", kind)
        self.set_header("Content-Disposition", disposition)
        self.set_header("Content-Length", str(data.nbytes))
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")
        try:
            for start in range(0, data.nbytes, _BLOCK):
                self.write(bytes(data[start : start + _BLOCK]))
                await self.flush()
        except iostream.StreamClosedError:  # whoever asked has gone
            return
        await self.finish(set_content_type=kind)

    def parts(self, digest: str, codec: str) -> list[memoryview]:
        """Return the parts of an artifact of a codec, whole and checked."""
        path = self.get_query_argument("notebook", None)
        name = self.get_query_argument("name", None)
        with naming(name):
            _, parts = self.stores.find(lambda project: project.blobs.get_parts(Digest(digest)), path)
        found, promised = read_manifest(parts[0])
        if found != codec:
            raise UsageError(
                f"The artifact is no {codec}, and is not loaded here.", 'In Python, `mlbench.run(ID)["STEP"]` loads it.'
            )
        for part, (expected, _) in zip(parts[1:], promised, strict=True):
            if digest_of(part) != expected:
                raise ArtifactCorrupt.at(digest, "other bytes").of(name)
        return parts


class ContentOfArtifact(_Bytes):
    """`GET artifacts/{digest}/content?name=`."""

    @web.authenticated
    @authorized
    async def get(self, digest: str) -> None:
        """Answer the bytes of a file as a download, under the name asked for."""
        name = self.get_query_argument("name", "artifact")
        try:
            parts = await asyncio.to_thread(self.parts, digest, FILE)
        except MlbenchError as error:
            await self.reply_with(_raising(error))
            return
        await self.send(parts[2], "application/octet-stream", disposition(name))


class FilesOfArtifact(_Bytes):
    """`GET artifacts/{digest}/files`."""

    @web.authenticated
    @authorized
    async def get(self, digest: str) -> None:
        """Answer the files of a folder, each with its digest, under which its content is."""
        await self.reply(self._files, digest)

    def _files(self, digest: str) -> schema.FileList:
        contents = read_folder(self.parts(digest, FOLDER)[1])
        files = [schema.FileEntry(path=path, digest=one, size=size) for path, (one, size) in contents["files"].items()]
        return schema.FileList(files=files, links=contents["links"])


class PictureOfArtifact(_Bytes):
    """`GET artifacts/{digest}/picture`."""

    @web.authenticated
    @authorized
    async def get(self, digest: str) -> None:
        """Answer a picture that was made of a value: the digest is that of its preview's `picture`."""
        try:
            data = await asyncio.to_thread(self._picture, digest)
        except MlbenchError as error:
            await self.reply_with(_raising(error))
            return
        await self.send(memoryview(data), "image/png", "inline")

    def _picture(self, digest: str) -> bytes:
        path = self.get_query_argument("notebook", None)
        with naming("picture"):
            _, data = self.stores.find(lambda project: project.blobs.get(Digest(digest)), path)
        if not data.startswith(_PNG) or len(data) > _LARGEST_PICTURE:
            raise NotFound("There is no picture at this address.")
        return data


async def _raising(error: MlbenchError) -> None:
    raise error


def disposition(name: str) -> str:
    r"""Return the header that makes a browser keep what it is sent, under a name that cannot be more than one.

    Examples
    --------
    >>> disposition('plots/über "x".html')
    'attachment; filename="_ber _x_.html"; filename*=UTF-8\'\'%C3%BCber%20%22x%22.html'
    """
    last = name.rpartition("/")[2].rpartition("\\")[2][:200] or "artifact"
    last = re.sub(r"[\x00-\x1f\x7f]", "_", last)
    plain = re.sub(r"[^A-Za-z0-9 ._()+-]", "_", last)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='', errors='replace')}"
