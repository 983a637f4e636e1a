"""What the lab server hands out of a store's files: as downloads, and never as a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from mlbench.backends.blobs_local import LocalBlobs, keep_logged
from mlbench.entrypoints.labserver.schema import PREFIX
from mlbench.project import Project

pytest_plugins = ["pytest_jupyter.jupyter_server"]
PAGE = "<script>document.title = 'run'</script>"


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {"ServerApp": {"jpserver_extensions": {"mlbench.entrypoints.labserver": True}}}


@pytest.fixture(autouse=True)
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalBlobs:
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLBENCH_RUNTIME", str(tmp_path))
    return Project.open().blobs


def digest_of(value: Any, blobs: LocalBlobs, name: str | None = None) -> str:
    artifact = keep_logged(value, name, blobs).artifact
    assert artifact is not None
    return str(artifact.digest)


async def fetch(jp_fetch: Any, path: str, **query: str) -> Any:
    return await jp_fetch(PREFIX, path, params=query)


@pytest.mark.parametrize("size", [0, 20, 3_000_000, 9_000_000])
async def test_a_file_is_a_download_whatever_it_holds(
    jp_fetch: Any, blobs: LocalBlobs, tmp_path: Path, size: int
) -> None:
    content = (PAGE * (size // 20 + 1)).encode()[:size]
    (tmp_path / "report.html").write_bytes(content)
    digest = digest_of(tmp_path / "report.html", blobs)
    answer = await fetch(jp_fetch, f"artifacts/{digest}/content", name='plots/rep"ort.html')
    assert answer.body == content
    headers = answer.headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["Content-Disposition"] == "attachment; filename=\"rep_ort.html\"; filename*=UTF-8''rep%22ort.html"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


async def test_the_files_of_a_folder_are_listed_and_each_is_a_download(
    jp_fetch: Any, blobs: LocalBlobs, tmp_path: Path
) -> None:
    (tmp_path / "out" / "plots").mkdir(parents=True)
    (tmp_path / "out" / "plots" / "a.txt").write_text("a")
    (tmp_path / "out" / "page.html").write_text(PAGE)
    digest = digest_of(tmp_path / "out", blobs)
    listed = json.loads((await fetch(jp_fetch, f"artifacts/{digest}/files")).body)
    assert {one["path"]: one["size"] for one in listed["files"]} == {"page.html": len(PAGE), "plots/a.txt": 1}
    page = next(one for one in listed["files"] if one["path"] == "page.html")
    assert (await fetch(jp_fetch, f"artifacts/{page['digest']}/content")).body == PAGE.encode()


async def test_nothing_that_would_have_to_be_loaded_is_handed_out(jp_fetch: Any, blobs: LocalBlobs) -> None:
    digest = digest_of({"a": object}, blobs, "value")
    for what, code in (("content", 400), ("files", 400), ("picture", 404)):
        with pytest.raises(HTTPClientError) as caught:
            await fetch(jp_fetch, f"artifacts/{digest}/{what}")
        assert caught.value.code == code
        assert caught.value.response is not None
        assert caught.value.response.headers["Content-Type"].startswith("application/json")
    for what in ("content", "files", "picture"):
        with pytest.raises(HTTPClientError) as caught:
            await fetch(jp_fetch, f"artifacts/blake3:{'0' * 64}/{what}")
        assert caught.value.code == 404


async def test_a_picture_is_a_png_and_nothing_else(jp_fetch: Any, blobs: LocalBlobs) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + b"x" * 100
    answer = await fetch(jp_fetch, f"artifacts/{blobs.put(picture)}/picture")
    assert (answer.body, answer.headers["Content-Type"]) == (picture, "image/png")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with pytest.raises(HTTPClientError) as caught:
        await fetch(jp_fetch, f"artifacts/{blobs.put(b'<svg onload=alert(1)>')}/picture")
    assert caught.value.code == 404


async def test_a_damaged_file_is_refused_before_a_byte_of_it_is_sent(
    jp_fetch: Any, blobs: LocalBlobs, tmp_path: Path
) -> None:
    (tmp_path / "large.bin").write_bytes(os.urandom(6_000_000))
    digest = digest_of(tmp_path / "large.bin", blobs)
    (pack,) = (blobs.root / "chunks").iterdir()
    with pack.open("r+b") as file:
        file.seek(3_000_000)
        file.write(b"damaged")
    with pytest.raises(HTTPClientError) as caught:
        await fetch(jp_fetch, f"artifacts/{digest}/content", name="large.bin")
    assert caught.value.code == 502
    assert caught.value.response is not None
    said = json.loads(caught.value.response.body)
    assert said["message"].startswith(
        f"`large.bin` is damaged in the store: expected {digest[:15]}, got its chunk blake3:"
    )
    assert "`mlbench store verify --repair-from COPY`" in said["remedy"]
