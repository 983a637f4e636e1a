"""What was computed is found again: filtered, scrolled to, compared, and traced to where it came from."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from playwright.sync_api import Locator

from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.records import Execution, Metric, Run
from mlbench.project import Project, find_store
from tests.journeys.lab import Lab, write_notebook
from tests.journeys.manyruns import write_runs

pytestmark = pytest.mark.browser

MANY = 3000
TRAIN = """%%step train
import mlbench
model = {'mean': sum(rows) / len(rows), 'depth': depth}
mlbench.log(rmse=float(depth))"""
CELLS = (
    ("parameters", "depth: int = 3"),
    ("setup", "%load_ext mlbench"),
    ("load", "%%step load\nrows = [1, 2, 3]"),
    ("train", TRAIN),
    ("sweep", "%%step sweep --foreach alpha in [1, 2]\nfit = alpha * depth"),
    ("report", "%%step report\nsummary = (model, max(fit))"),
)


def run_notebook(lab: Lab, *arguments: str, succeeds: bool = True) -> None:
    """Run the notebook from a terminal."""
    command = [
        sys.executable,
        "-c",
        "from mlbench.entrypoints.cli import main; main()",
        "run",
        "runs.ipynb",
        *arguments,
    ]
    done = subprocess.run(command, cwd=lab.root, env=lab.server.environment, check=False, timeout=200)
    assert (done.returncode == 0) is succeeds


def edit_notebook(lab: Lab, identifier: str, source: str) -> None:
    """Write something else into a cell of the file."""
    file = lab.root / "runs.ipynb"
    document = json.loads(file.read_text(encoding="utf-8"))
    next(cell for cell in document["cells"] if cell["id"] == identifier)["source"] = source
    file.write_text(json.dumps(document), encoding="utf-8")


def filter_line(lab: Lab) -> Locator:
    return lab.page.get_by_role("combobox", name="Filter runs")


def remembered(lab: Lab) -> str:
    """Return what JupyterLab keeps of the page's state."""
    workspace = lab.server.ask("GET", f"/lab/api/workspaces/{lab.folder}")
    return json.dumps(workspace["data"].get("mlbench:filters"))


def rows(lab: Lab) -> Locator:
    return lab.page.locator(".jp-mlb-RunList-row")


def count(lab: Lab, words: str) -> None:
    """Wait until the head of the section says how many runs are listed."""
    lab.page.locator(".jp-mlb-Section-count", has_text=words).wait_for()


def test_runs_are_filtered_with_completions_and_a_mistake_is_pointed_at(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", *CELLS)
    write_runs(lab.server.environment["MLBENCH_STORE"], lab.root / "runs.ipynb", MANY)
    lab.open()
    lab.open_notebook("runs.ipynb")
    count(lab, "runs.ipynb · 3,000")
    line = filter_line(lab)
    line.fill("metric.rmse < 12")
    problem = lab.page.get_by_role("alert")
    problem.get_by_text("did you mean metrics?").wait_for()
    assert problem.locator("mark").inner_text() == "m"
    assert line.get_attribute("aria-invalid") == "true"
    problem.get_by_role("button", name="Go to character 1").click()
    assert line.evaluate("line => [line.selectionStart, line.selectionEnd]") == [0, 1]
    count(lab, "runs.ipynb · 3,000")  # what was listed stays

    line.fill("")
    line.press_sequentially("met")
    lab.page.get_by_role("option", name="metrics.").wait_for()
    line.press("Tab")
    lab.page.get_by_role("option", name="metrics.rmse").wait_for()
    line.press("ArrowDown")
    line.press("Enter")
    line.press_sequentially("< ")
    lab.page.get_by_role("status").get_by_text("a value is missing").wait_for()  # not wrong: not written yet
    assert line.get_attribute("aria-invalid") is None
    line.press_sequentially("2 and state = 's")
    lab.page.get_by_role("option", name="'succeeded'").click()
    assert line.input_value() == "metrics.rmse < 2 and state = 'succeeded'"
    count(lab, "runs.ipynb · 1 found")
    assert rows(lab).locator("b").first.inner_text() == "1.5"
    line.fill("state = 'failed'")
    line.press("Enter")
    count(lab, "runs.ipynb · 60 found")
    lab.wait_until(lambda: "state = 'failed'" in remembered(lab), "the filter in what JupyterLab keeps")

    lab.page.reload()
    lab.wait_until_ready()
    lab.open_notebook("runs.ipynb")
    count(lab, "runs.ipynb · 60 found")
    assert filter_line(lab).input_value() == "state = 'failed'"
    filter_line(lab).fill("metrics.rmse < 0")
    lab.page.get_by_text("No run of this notebook fits the filter.").wait_for()
    lab.page.locator(".jp-mlb-Runs").get_by_role("button", name="Clear the filter").click()
    count(lab, "runs.ipynb · 3,000")

    rows(lab).first.focus()
    lab.page.keyboard.press("End")
    sort = lab.page.get_by_label("Sort runs")
    sort.focus()
    lab.page.locator("option", has_text="rmse, least first").wait_for(state="attached")
    sort.select_option(label="rmse, least first")
    rows(lab).first.get_by_text("1.5 best").wait_for()  # another list begins at its beginning
    assert lab.page.evaluate("() => document.querySelector('.jp-mlb-RunList').scrollTop") == 0


def test_all_runs_are_scrolled_through_and_news_do_not_move_them(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", *CELLS)
    store = lab.server.environment["MLBENCH_STORE"]
    made = write_runs(store, lab.root / "runs.ipynb", MANY)
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).first.wait_for()
    most = 0
    end = time.monotonic() + 120
    while lab.page.locator(".jp-mlb-RunList-more").count():
        assert time.monotonic() < end
        lab.page.evaluate(
            "() => { const list = document.querySelector('.jp-mlb-RunList'); list.scrollTop = list.scrollHeight; }"
        )
        most = max(most, rows(lab).count())
        lab.page.wait_for_timeout(20)
    rows(lab).last.focus()
    lab.page.keyboard.press("End")
    lab.page.locator(f"[data-row='{made[0].id}']:focus").wait_for()
    assert most < 60

    lab.page.keyboard.press("Home")
    lab.page.locator(f"[data-row='{made[-1].id}']:focus").wait_for()
    lab.page.keyboard.press("PageDown")
    lab.page.keyboard.press("PageDown")
    at = lab.page.evaluate("() => Number(document.activeElement.dataset.at)")
    assert at > 3
    row = lab.page.locator(f"[data-row='{made[MANY - 1 - at].id}']")
    before = row.bounding_box()
    project = Project(find_store(store=store))
    new = [replace(made[-1], id=RunId(new_id()), started=time.time_ns() + number) for number in range(3)]
    project.catalog.put_runs(new)
    project.close()
    count(lab, "runs.ipynb · 3,003")
    lab.wait_until(lambda: row.get_attribute("data-at") == str(at + 3), "the row under three new ones")
    assert row.bounding_box() == before
    assert row.evaluate("row => row === document.activeElement")


def another_run(lab: Lab, like: Run, *, rmse: float) -> Run:
    """Write one more run straight into the store, as if it had just been made somewhere else."""
    project = Project(find_store(store=lab.server.environment["MLBENCH_STORE"]))
    run = replace(like, id=RunId(new_id()), started=time.time_ns())
    metric = Metric(name="rmse", value=rmse, time=run.started)
    step = Execution(
        id=ExecutionId(new_id()), run=run.id, step="train", state="succeeded", started=run.started, metrics=(metric,)
    )
    project.catalog.put_runs([run])
    project.catalog.put_executions([step])
    project.close()
    return run


def test_no_run_moves_under_the_pointer_until_it_has_gone(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", *CELLS)
    made = write_runs(lab.server.environment["MLBENCH_STORE"], lab.root / "runs.ipynb", 100)
    lab.open()
    lab.open_notebook("runs.ipynb")
    count(lab, "runs.ipynb · 100")
    third = lab.page.locator(f"[data-row='{made[-3].id}']")
    third.hover()
    before = third.bounding_box()
    new = another_run(lab, made[0], rmse=0.5)
    lab.page.get_by_role("button", name="Show 1 new run").wait_for()
    assert third.bounding_box() == before
    lab.page.mouse.move(900, 500)
    lab.page.locator(f"[data-row='{new.id}'][data-at='0']").wait_for()

    sort = lab.page.get_by_label("Sort runs")
    sort.focus()
    lab.page.locator("option", has_text="rmse, least first").wait_for(state="attached")
    sort.select_option(label="rmse, least first")
    second = rows(lab).nth(1)
    second.get_by_text("1.5", exact=True).wait_for()
    second.hover()
    name, before = second.get_attribute("data-row"), second.bounding_box()
    best = another_run(lab, made[0], rmse=0.25)
    show = lab.page.get_by_role("button", name="Show 1 new run")
    show.wait_for()
    assert lab.page.locator(f"[data-row='{name}']").bounding_box() == before
    show.click()
    lab.page.locator(f"[data-row='{best.id}'][data-at='0']").wait_for()
    show.wait_for(state="detached")


def test_an_equal_value_of_an_earlier_run_does_not_stand_for_the_one_that_was_compared(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", *CELLS[:4], parameters="parameters")
    for depth in (4, 5, 4):
        run_notebook(lab, "-p", f"depth={depth}")
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).nth(2).wait_for()
    latest = rows(lab).first.get_attribute("data-row") or ""
    rows(lab).first.click(button="right")
    lab.page.get_by_role("menuitem", name="Compare With the Run Before").click()
    data = lab.page.locator(".jp-mlb-Difference:visible section[data-part='data'] tbody tr", has_text="model")
    data.get_by_role("button").nth(1).click()
    head = lab.page.locator(".jp-mlb-Artifact:visible .jp-mlb-RunHead")
    head.get_by_role("button", name=f"train of run {latest[:4]}").wait_for()


def test_a_fan_out_that_runs_is_compared_seldom_and_once_it_is_over(lab: Lab) -> None:
    sweep = "%%step sweep --foreach n in range(40) --max-parallel 1\nimport time\ntime.sleep(0.2)\nfit = n"
    write_notebook(lab.root / "runs.ipynb", ("setup", "%load_ext mlbench"), ("sweep", sweep))
    run_notebook(lab)
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).first.wait_for()
    asked: list[str] = []
    lab.page.on("request", lambda request: asked.append(request.url) if "/diff?" in request.url else None)
    lab.run("setup", "sweep")
    lab.pill("sweep", "running")
    lab.wait_until(lambda: rows(lab).count() == 2, "the run that has begun")
    rows(lab).first.click(button="right")
    lab.page.get_by_role("menuitem", name="Compare With the Run Before").click()
    page = lab.page.locator(".jp-mlb-Difference:visible")
    page.locator("[data-state='running']").first.wait_for()
    begun = time.monotonic()
    page.locator("[data-state='running']").first.wait_for(state="detached")
    assert len(asked) <= 3 + (time.monotonic() - begun) / 2
    lab.page.wait_for_timeout(2000)
    many = len(asked)
    lab.page.wait_for_timeout(3000)
    assert len(asked) == many


def test_two_runs_are_compared_and_a_failed_one_says_what_changed(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", *CELLS, parameters="parameters")
    run_notebook(lab, "-p", "depth=4")
    edit_notebook(
        lab,
        "load",
        "%%step load\nrows = [1, 2, 3, 4]\nsize = len(rows); import mlbench; mlbench.log_artifact(size, 'how-many')",
    )
    run_notebook(lab, "-p", "depth=5")
    edit_notebook(lab, "train", "%%step train\nmodel = rows / depth")
    run_notebook(lab, "-p", "depth=5", succeeds=False)
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).nth(2).wait_for()
    rows(lab).nth(1).click(modifiers=["Control"])
    lab.page.get_by_text("with the run that you choose").wait_for()
    lab.page.keyboard.press("Escape")
    lab.page.get_by_text("with the run that you choose").wait_for(state="detached")

    rows(lab).nth(1).click(button="right")
    lab.page.get_by_role("menuitem", name="Compare With …").click()
    rows(lab).nth(2).click()
    page = lab.page.locator(".jp-mlb-Difference:visible")
    page.get_by_role("heading", name="What differs").wait_for()
    titles = page.locator("section h2").all_inner_texts()
    assert [title.lower() for title in titles] == [
        *("cells", "parameters", "data", "artifacts", "metrics", "items of fan-outs")
    ]
    cells = page.locator("section[data-part='code']")
    assert cells.locator(".jp-mod-removed").inner_text().strip().endswith("rows = [1, 2, 3]")
    assert cells.locator(".jp-mod-added").count() == 2
    cells.get_by_text("Unified").click()
    cells.locator(".jp-mod-beside").wait_for(state="detached")
    assert page.locator("section[data-part='parameters'] tbody tr").inner_text().split() == ["depth", "4", "5"]
    assert "size of load" in page.locator("section[data-part='data']").inner_text()
    assert page.locator("section[data-part='metrics'] tbody tr").inner_text().split() == ["train.rmse", "4", "5", "+1"]
    assert "2 items differ" in page.locator("section[data-part='items']").inner_text()
    assert "fit differs: 4 to 5" in page.locator("section[data-part='items']").inner_text()
    logged = page.locator("section[data-part='artifacts'] tbody tr")
    assert logged.inner_text().split()[:6] == [
        "how-many",
        "of",
        "load",
        "not",
        "there",
        logged.get_by_role("button").inner_text(),
    ]

    rows(lab).first.click()
    head = lab.page.locator(".jp-mlb-RunPage:visible .jp-mlb-RunHead")
    head.get_by_text("Changed since the last success").wait_for()
    head.get_by_role("button", name="code of train").click()
    lab.page.locator(".jp-mlb-Difference:visible section[data-part='outcome']", has_text="TypeError").wait_for()
    assert lab.page.locator(".jp-mlb-Difference:visible section[data-part='code'] details").count() == 1


def test_an_artifact_shows_where_it_comes_from_and_what_was_made_of_it(lab: Lab) -> None:
    write_notebook(lab.root / "runs.ipynb", *CELLS, parameters="parameters")
    run_notebook(lab, "-p", "depth=4")
    lab.open()
    lab.open_notebook("runs.ipynb")
    rows(lab).first.click()
    run = lab.page.locator(".jp-mlb-RunPage:visible")
    run.locator(".jp-mlb-StepsTable tr", has_text="train").first.click()
    run.locator(".jp-mlb-Execution[aria-label='Step train']").get_by_role("button", name="model", exact=True).click()
    page = lab.page.locator(".jp-mlb-Artifact:visible")
    page.locator("h1", has_text="model").wait_for()
    page.locator(".jp-mlb-Preview-text", has_text="'mean': 2.0").wait_for()
    assert "depth 4" in page.locator(".jp-mlb-RunHead-facts").inner_text()
    lines = [line.split("\n")[0] for line in page.locator(".jp-mlb-Tree-row").all_inner_texts()]
    trees = page.locator(".jp-mlb-Tree")
    assert trees.count() == 2
    above, below = (tree.inner_text() for tree in trees.all())
    assert above.index("train") < above.index("rows") < above.index("load"), lines
    assert below.index("report") < below.index("summary"), lines
    trees.first.get_by_role("button", name="rows", exact=True).click()
    page.locator("h1", has_text="rows").wait_for()
    page.locator(".jp-mlb-Tree").last.get_by_role("button", name="report", exact=True).click()
    lab.page.locator(".jp-mlb-RunPage:visible .jp-mlb-Execution[aria-label='Step report']").wait_for()
