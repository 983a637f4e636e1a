"""Draw `docs/images/lab.png` anew: the example in JupyterLab, run by the real service, kernel and steps.

Run it in the root of a clone after `make setup`: `.venv/bin/python -m tests.journeys.screenshot`.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.journeys.lab import MLBENCH, ROOT, Lab, Server, browsing, serving, showing

PICTURE = ROOT / "docs" / "images" / "lab.png"
FOLDER = "flights"
SIDEBAR = 340
COLOURS = 128


def main(picture: Path = PICTURE) -> None:
    """Run the example as a user would, and keep what is seen while `train` is under way."""
    with tempfile.TemporaryDirectory() as folder, browsing() as browser, serving(Path(folder)) as server:
        if browser is None:
            raise SystemExit("There is no Chromium here: install it, or name it in MLBENCH_CHROMIUM.")
        with showing(browser, server, FOLDER) as lab:
            for name in ("flights.ipynb", "delays.py"):
                shutil.copy(ROOT / "examples" / name, lab.root / name)
            for arguments in (
                ["run", "flights.ipynb", "-p", "origin=LGA", "-p", "rounds=20"],
                ["run", "flights.ipynb", "-p", "origin=EWR", "-p", "rounds=40"],
                ["schedule", "flights.ipynb", "--cron", "0 6 * * 1-5", "--tz", "Europe/Berlin", "-p", "origin=JFK"],
            ):
                mlbench(server, lab, *arguments)
            run_example(lab)
            keep(lab.page.screenshot(), picture)


def mlbench(server: Server, lab: Lab, *arguments: str) -> None:
    """Run a command in the folder of the notebook."""
    subprocess.run([MLBENCH, *arguments], cwd=lab.root, env=server.environment, check=True, timeout=300)


def run_example(lab: Lab) -> None:
    """Run all cells, and wait until `train` has learnt for some airlines, with its cell in sight."""
    lab.open()
    lab.open_notebook("flights.ipynb")
    page = lab.page
    page.locator(".jp-mlb-JobList-row").first.wait_for()
    handle = page.locator("#jp-main-split-panel > .lm-SplitPanel-handle:not(.lm-mod-hidden)").first
    sidebar = page.locator("#mlbench-sidebar")
    edge, panel = handle.bounding_box(), sidebar.bounding_box()
    assert edge
    assert panel
    page.mouse.move(edge["x"] + edge["width"] / 2, 450)
    page.mouse.down()
    page.mouse.move(panel["x"] + SIDEBAR, 450, steps=4)
    page.mouse.up()
    page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    lab.pill("train", "running")
    lab.cell("train")
    page.evaluate(
        """() => {
          const { content } = window.jupyterapp.shell.currentWidget;
          const cell = content.widgets.find(cell => cell.model.id === 'about-beside');
          cell.node.scrollIntoView({ block: 'start' });
        }"""
    )
    done = page.locator(".jp-mlb-StepList-item", has_text="train").get_by_text(re.compile("[2-9] done"))
    done.wait_for(timeout=60_000)
    page.mouse.move(900, 890)
    page.wait_for_timeout(400)


def keep(png: bytes, picture: Path) -> None:
    """Write a picture with few colours, which is a fraction of its size."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    picture.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
