"""One browser for all journeys, one JupyterLab for those of a file, and a page and a folder for each.

`MLBENCH_CHROMIUM` names the browser; without it the one on PATH is taken, else the journeys are skipped, and say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.journeys.lab import Lab, Server, browsing, serving, showing


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        if opened is None:
            pytest.skip("there is no Chromium here: install it, or name it in MLBENCH_CHROMIUM")
        yield opened


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("jupyterlab")) as started:
        yield started


@pytest.fixture
def lab(browser: Browser, server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return a page with nothing in its folder; kernels and jobs end with it."""
    folder = re.sub(r"\W+", "-", request.node.name.removeprefix("test_"))[:60]
    with showing(browser, server, folder) as shown:
        yield shown
        shown.page.screenshot(path=str(tmp_path / f"{request.node.name}.png"))
    server.clear()
