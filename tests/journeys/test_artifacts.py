"""What a run has left behind is looked at and downloaded: files, folders, pictures and values."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Locator

from tests.journeys.lab import Lab, write_notebook
from tests.journeys.test_results import rows, run_notebook

pytestmark = pytest.mark.browser

PLAIN = """%load_ext mlbench
import base64, pathlib
import mlbench
import numpy as np
import pandas as pd
pathlib.Path("notes.md").write_text("# Notes\\n")
mlbench.log_artifact("notes.md")"""
VALUES = """%%step values
class Mean:
    def get_params(self, deep=True):
        return {"shrink": 0.5, "deep": deep}
    def fit(self, rows):
        self.n_features_in_, self.coef_ = 2, np.array([0.25, 0.75])
        return self
frame = pd.DataFrame({"carrier": ["AA", "UA"] * 50, "delay": np.arange(100.0)})
frame.loc[::10, "delay"] = np.nan
matrix = np.arange(12.0).reshape(3, 4)
mean = Mean().fit(frame)"""
# A picture of one red dot.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
FILES = f"""%%step files
pathlib.Path("out/plots").mkdir(parents=True, exist_ok=True)
pathlib.Path("out/plots/dot.png").write_bytes(base64.b64decode("{DOT}"))
pathlib.Path("out/scores.csv").write_text('name,score\\n"a, b",1\\nc,2\\n')
pathlib.Path("report.html").write_text("<h1>Hi</h1><script>window.acted = 1</script>")
mlbench.log_artifact("out")
mlbench.log_artifact("out/scores.csv")
mlbench.log_artifact("out/plots/dot.png", name="plots/dot.png")
mlbench.log_artifact("report.html")
mlbench.log_artifact(pd.DataFrame({{"a": [1, 2]}}), name="summary")"""
ITEMS = """%%step items --foreach carrier in ["AA", "UA"]
pathlib.Path(f"{carrier}.txt").write_text(carrier)
mlbench.log_artifact(f"{carrier}.txt")"""

MANY = """%%step many --foreach number in range(150)
mlbench.log_artifact({"number": number}, name="model")"""


def card(page: Locator, name: str) -> Locator:
    """Return the card of an artifact."""
    return page.locator(f".jp-mlb-Card[data-name='{name}']:visible")


def downloaded(lab: Lab, link: Locator) -> tuple[str, bytes]:
    """Click on a link, and return the name and the content of what the browser keeps."""
    with lab.page.expect_download() as about:
        link.click()
    return about.value.suggested_filename, about.value.path().read_bytes()


def test_files_folders_pictures_and_values_are_looked_at_and_downloaded(lab: Lab) -> None:
    cells = (("setup", PLAIN), ("values", VALUES), ("files", FILES), ("items", ITEMS))
    write_notebook(lab.root / "runs.ipynb", *cells)
    run_notebook(lab)
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).first.click()
    run = lab.page.locator(".jp-mlb-RunPage:visible")
    run.get_by_role("tab", name="Artifacts").click()

    frame = card(run, "frame")
    assert "DataFrame 100 × 2" in frame.inner_text()
    assert "10 % missing" in frame.locator("thead").inner_text()
    assert "float64" in frame.locator("thead").inner_text()
    assert "first 5 of 100 rows" in frame.inner_text()
    assert "0 to 11" in card(run, "matrix").inner_text()
    assert "0.25" in card(run, "mean").inner_text()
    run.get_by_text("classes and functions").wait_for()
    assert run.get_by_role("tab", name="Artifacts").inner_text().split() == ["Artifacts", "11"]

    picture = card(run, "plots/dot.png").locator("img")
    picture.wait_for()
    assert picture.evaluate("async picture => { await picture.decode(); return picture.naturalWidth; }") == 1
    name, content = downloaded(lab, card(run, "report.html").get_by_role("link", name="Download"))
    assert (name, content[:4]) == ("report.html", b"<h1>")
    assert lab.page.evaluate("() => window.acted") is None
    folder = card(run, "out")
    folder.get_by_text("2 files").last.click()
    name, content = downloaded(lab, folder.get_by_role("link", name="Download scores.csv"))
    assert (name, content[:10]) == ("scores.csv", b"name,score")

    folder.get_by_role("button", name="out", exact=True).click()
    page = lab.page.locator(".jp-mlb-Artifact:visible")
    page.locator("h1", has_text="out").wait_for()
    page.locator(".jp-mlb-Gallery img").wait_for()
    assert downloaded(lab, page.get_by_role("link", name="Download plots/dot.png"))[0] == "dot.png"
    page.get_by_text("Logged by").wait_for()
    page.get_by_role("button", name="files of run").click()

    run.get_by_role("tab", name="Artifacts").click()
    card(run, "scores.csv").get_by_role("button", name="scores.csv", exact=True).click()
    table = page.locator(".jp-mlb-FileLook table")
    table.get_by_text("a, b").wait_for()
    assert downloaded(lab, page.get_by_role("link", name="Download"))[0] == "scores.csv"


def test_what_plain_cells_and_items_logged_is_found(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", ("setup", PLAIN), ("items", ITEMS))
    run_notebook(lab)
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).first.click()
    run = lab.page.locator(".jp-mlb-RunPage:visible")
    run.get_by_role("tab", name="Artifacts").click()
    card(run, "notes.md").get_by_role("button", name="notes.md", exact=True).click()
    page = lab.page.locator(".jp-mlb-Artifact:visible")
    page.locator(".jp-mlb-FileLook", has_text="# Notes").wait_for()
    page.get_by_text("A plain cell logged it").wait_for()
    workspace = f"/lab/api/workspaces/{lab.folder}"
    lab.wait_until(lambda: "mlbench-artifact-" in json.dumps(lab.server.ask("GET", workspace)), "the page, kept")
    lab.page.reload()
    lab.wait_until_ready()
    page.locator(".jp-mlb-FileLook", has_text="# Notes").wait_for()
    page.get_by_role("button", name="a plain cell of run").click()
    run.get_by_role("tab", name="Steps").click()
    run.locator(".jp-mlb-StepsTable tr.jp-mod-item").first.click()
    item = run.locator(".jp-mlb-Execution")
    item.get_by_role("heading", name="Logged").wait_for()
    assert downloaded(lab, item.get_by_role("link", name="Download"))[1] in (b"AA", b"UA")


def test_what_items_logged_is_on_the_runs_page_with_the_item_that_did_however_many_there_are(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", ("setup", PLAIN), ("items", ITEMS), ("many", MANY))
    run_notebook(lab)
    lab.open()
    lab.open_notebook("runs.ipynb")
    asked: list[str] = []
    lab.page.on("request", lambda request: asked.append(request.url) if "logged=1" in request.url else None)
    rows(lab).first.click()
    run = lab.page.locator(".jp-mlb-RunPage:visible")
    run.get_by_role("tab", name="Artifacts").get_by_text("153").wait_for()
    run.get_by_role("tab", name="Artifacts").click()

    few = run.get_by_role("region", name="Artifacts of items")
    few.get_by_text("2 logged by items").wait_for()
    assert "of items[AA]" in card(run, "AA.txt").inner_text()
    assert downloaded(lab, card(run, "UA.txt").get_by_role("link", name="Download")) == ("UA.txt", b"UA")

    many = run.get_by_role("region", name="Artifacts of many")
    cards = many.locator(".jp-mlb-Card")
    many.get_by_text("and 126 more").wait_for()
    assert cards.count() == 24
    assert len(asked) == 2
    many.get_by_role("button", name="Show more").click()
    many.get_by_text("and 30 more").wait_for()
    many.get_by_role("button", name="Show more").click()
    many.get_by_text("and 30 more").wait_for(state="detached")
    assert cards.count() == 150
    assert len(asked) == 4
    assert "of many[149]" in cards.last.inner_text()

    card(run, "UA.txt").get_by_role("button", name="UA.txt").click()
    page = lab.page.locator(".jp-mlb-Artifact:visible")
    page.get_by_text("Logged by").wait_for()
    page.get_by_role("button", name="items[UA] of run").click()
    run.get_by_role("tab", name="Artifacts").click()
    cards.nth(7).get_by_role("button", name="many[7]").click()
    run.get_by_role("heading", name="many[7]").wait_for()

    run.get_by_role("button", name="Show 100").click()
    run.get_by_text(re.compile(r"and (49|50) more, all done")).wait_for()
    run.get_by_role("tab", name="Artifacts").click()
    cards.nth(90).get_by_role("button", name="many[90]").click()
    chosen = run.locator(".jp-mlb-StepsTable tr.jp-mod-selected", has_text="90")
    chosen.wait_for()
    lab.wait_until(
        lambda: chosen.evaluate("row => row.getBoundingClientRect().bottom <= innerHeight"), "the item in the table"
    )
