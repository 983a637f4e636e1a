"""A fan-out is seen under its cell, in the list of steps and on its run's page, and its items are opened."""

from __future__ import annotations

import json
import re

import pytest

from tests.journeys.lab import Lab, write_notebook

pytestmark = pytest.mark.browser

TRAIN = """%%step train --foreach carrier in carriers --foreach alpha in alphas
import mlbench
if (carrier, alpha) == ("EV", 3):
    raise ValueError(f"no rows of {carrier}")
mlbench.log(rmse=len(carrier) * alpha)
model = (carrier, alpha)
"""
CELLS = (
    ("load", "%load_ext mlbench\ncarriers = ['AA', 'EV', 'UA']\nalphas = list(range(1, 9))"),
    ("train", TRAIN),
    ("many", "%%step many --foreach n in range(200)\nsquare = n * n"),
)


def kept_picture(identifier: str) -> dict[str, object]:
    """Return an output as a saved notebook holds it, of a store that is not here any more."""
    facts = {
        "schema": 1, "execution": "a" * 26, "step": "train", "names": ["carrier", "alpha"], "shape": [2, 3], "total": 6,
        "counts": {"running": 0, "succeeded": 5, "reused": 0, "failed": 1, "cancelled": 0}, "rate": None, "left": None,
        "slowest": {"item": 5, "label": "UA, 1", "seconds": 0.4}, "metric": "rmse", "grid": [2, 3], "per_cell": 1,
        "states": "sssfss", "values": [1.0, 2.0, 3.0, None, 5.0, 6.0],
        "labels": [["AA", "UA"], ["0.01", "0.1", "1"]],
        "failed": [[3, "UA, 0.01", "ValueError: <img src=x onerror=window.acted=1>"]],
    }  # fmt: skip
    data = {"application/vnd.mlbench.fanout+json": facts, "text/html": "<p>as html</p>", "text/plain": "as text"}
    output = {"output_type": "display_data", "metadata": {}, "data": data}
    return {
        "cell_type": "code", "id": identifier, "source": "%%step train\nx = 1", "outputs": [output],
        "execution_count": 1, "metadata": {},
    }  # fmt: skip


def test_a_saved_picture_is_drawn_and_its_cells_are_named_without_any_trust(lab: Lab) -> None:
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    document = {
        "cells": [kept_picture("train")], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    (lab.root / "saved.ipynb").write_text(json.dumps(document))
    lab.open()
    lab.open_notebook("saved.ipynb")
    view = lab.page.locator(".jp-mlb-FanOut")
    view.wait_for()
    assert "6 of 6" in view.inner_text()
    assert "✕ 1 failed" in view.locator(".jp-mlb-FanOut-line").evaluate(
        "node => getComputedStyle(node.querySelector('.jp-mlb-FanOut-failed'), '::before').content.slice(1, -1)"
        " + node.querySelector('.jp-mlb-FanOut-failed').textContent"
    )
    assert "as html" not in lab.page.locator(".jp-OutputArea").first.inner_text()
    canvas = view.locator("canvas")
    box = canvas.bounding_box()
    assert box is not None
    lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 3)
    words = view.get_by_role("status")
    words.get_by_text("AA, 0.1 · rmse 2").wait_for()
    canvas.focus()
    lab.page.keyboard.press("Home")
    words.get_by_text("AA, 0.01 · rmse 1").wait_for()
    lab.page.keyboard.press("ArrowDown")
    words.get_by_text("UA, 0.01 · failed: ValueError").wait_for()
    assert lab.page.evaluate("() => window.acted") is None


def test_a_fan_out_is_seen_while_it_runs_and_an_item_is_opened(lab: Lab) -> None:
    write_notebook(lab.root / "sweep.ipynb", *CELLS)
    lab.open()
    lab.open_notebook("sweep.ipynb")
    lab.run("load", "train", "many")
    lab.pill("train", "failed")
    lab.pill("many", "succeeded")
    row = lab.page.locator(".jp-mlb-StepList-row", has=lab.page.get_by_text("train", exact=True))
    row.get_by_text("×24 · 23 done · 1 failed").wait_for()
    lab.page.locator(".jp-mlb-StepList-row", has_text="×200").wait_for()

    cell = lab.page.locator(lab.cell("train"))
    view = cell.locator(".jp-mlb-FanOut")
    view.get_by_text("24 of 24").wait_for()
    view.get_by_text("rmse by carrier (down) and alpha (across)").wait_for()
    assert view.locator(".jp-mlb-FanOutBar [data-state='failed']").count() == 1
    assert lab.page.locator(lab.cell("many")).locator("canvas").count() == 0  # no metric, no map

    lab.cell("train")
    box = view.locator("canvas").bounding_box()
    assert box is not None
    side = box["width"] / 8
    view.locator("canvas").click(position={"x": 4.5 * side, "y": 2.5 * side})
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.locator("h2", has_text="train[UA, 5]").wait_for()
    assert "rmse" in page.locator(".jp-mlb-RunPage-side").inner_text()
    failed = page.locator(".jp-mlb-StepsTable tr", has_text="EV, 3")
    failed.click()
    page.locator("h2", has_text="train[EV, 3]").wait_for()
    page.locator(".jp-mlb-Error", has_text="no rows of EV").wait_for()
    page.get_by_role("button", name="All items").click()
    page.locator("h2", has_text="train").wait_for()
    page.locator(".jp-mlb-Execution .jp-mlb-FanOut").wait_for()

    page.get_by_text(re.compile(r"^and 2\d more, all done$")).wait_for()
    page.get_by_role("button", name=re.compile(r"^Show 2\d$")).click()
    page.get_by_text("all 24 items").wait_for()
    assert page.locator(".jp-mlb-StepsTable tr.jp-mod-item").count() == 24 + 1  # of many the slowest


def test_the_picture_is_there_after_a_reload(lab: Lab) -> None:
    write_notebook(lab.root / "sweep.ipynb", *CELLS[:2])
    lab.open()
    lab.open_notebook("sweep.ipynb")
    lab.run("load", "train")
    lab.pill("train", "failed")
    lab.page.reload()  # without having saved
    lab.wait_until_ready()
    lab.open_notebook("sweep.ipynb")
    lab.page.locator(".jp-mlb-FanOut").get_by_text("24 of 24").wait_for()
