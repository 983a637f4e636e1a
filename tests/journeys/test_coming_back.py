"""What a page showed is there again after it was reloaded, though nothing was saved."""

from __future__ import annotations

import re

import pytest

from tests.journeys.lab import Lab, write_notebook

pytestmark = pytest.mark.browser

CELLS = (
    ("load", "%load_ext mlbench\nimport mlbench"),
    ("divide", "%%step divide\nmlbench.tag(kind='ratio')\nshare = 1 / 0"),
    ("use", "%%step use\ntotal = share + 1"),
    ("note", "mlbench.log(plain=3)\nmlbench.tag(team='ops')"),
)
LONG = """%%step long
import time
from pathlib import Path
for number in range(100):
    print("item", number, flush=True)
    mlbench.progress(number, 100)
    if Path("enough").exists():
        break
    time.sleep(0.2)
print("that is all")"""


def test_failures_are_said_again_and_the_run_stays_with_its_notebook(lab: Lab) -> None:
    write_notebook(lab.root / "back.ipynb", *CELLS)
    lab.open()
    lab.open_notebook("back.ipynb")
    lab.run("load", "divide", "use")
    lab.pill("divide", "failed")
    lab.pill("use", "skipped")
    lab.run("note")
    lab.wait_for_output("use", "Step use was not run: ")
    lab.page.get_by_text("back.ipynb · 1", exact=True).wait_for()
    run = lab.page.locator(".jp-mlb-RunList-row").get_attribute("data-row")
    known = notebook_id(lab)

    lab.page.reload()  # without having saved
    lab.wait_until_ready()
    lab.open_notebook("back.ipynb")
    lab.wait_for_output("use", "Step use was not run: ")
    error = lab.page.locator(lab.cell("divide")).locator(".jp-OutputArea")
    error.get_by_text("Run the cell with `%%step divide --here`").wait_for()
    assert notebook_id(lab) is None
    lab.run("divide")
    lab.wait_until(lambda: notebook_id(lab) == known, "the id under which it ran before")
    lab.pill("divide", "failed")
    lab.page.locator(f".jp-mlb-RunList-row[data-row='{run}']").click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    facts = page.locator(".jp-mlb-RunHead-facts")
    facts.get_by_title("plain = 3").wait_for()
    facts.get_by_title("team = ops").wait_for()
    page.locator(".jp-mlb-StepsTable tr", has_text="divide").first.click()
    page.get_by_role("heading", name="Tags").wait_for()
    page.locator(".jp-mlb-Execution .jp-mlb-Facts").get_by_text("ratio").wait_for()


def test_what_a_step_prints_is_whole_though_its_kernel_is_restarted_meanwhile(lab: Lab) -> None:
    write_notebook(lab.root / "long.ipynb", ("load", "%load_ext mlbench\nimport mlbench"), ("long", LONG))
    lab.open()
    lab.open_notebook("long.ipynb")
    lab.run("load", "long")
    lab.wait_for_output("long", "item 1\n")
    lab.page.locator(".jp-mlb-Pill").get_by_text(re.compile("of 100 ")).wait_for()
    lab.page.locator(".jp-mlb-StepList-extra").get_by_text(re.compile("of 100$")).wait_for()
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    lab.page.get_by_text("long goes on").first.wait_for()
    (lab.root / "enough").touch()
    lab.pill("long", "succeeded")
    lab.wait_for_output("long", "that is all")
    lines = lab.outputs("long").split()
    assert lines[:2] == ["item", "0"]
    assert lines.count("item") == len({*lines}) - 4


def test_the_sections_keep_the_heights_that_they_were_given(lab: Lab) -> None:
    write_notebook(lab.root / "back.ipynb", *CELLS)
    lab.open()
    lab.open_notebook("back.ipynb")
    runs = lab.page.locator("#mlbench-sidebar .jp-AccordionPanel-title", has_text="Runs")
    box = runs.bounding_box()
    assert box is not None
    lab.page.mouse.move(box["x"] + 100, box["y"] - 2)
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] + 100, box["y"] - 90, steps=4)
    lab.page.mouse.up()
    dragged = top(lab)
    assert dragged < box["y"] - 60
    lab.wait_until(lambda: sizes(lab)[0] < 0.2, "the heights in what JupyterLab keeps")

    lab.page.reload()
    lab.wait_until_ready()
    lab.wait_until(lambda: abs(top(lab) - dragged) < 2, "the heights that were given")


def notebook_id(lab: Lab) -> str | None:
    """Return the id that the open notebook carries."""
    found: str | None = lab.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.model.getMetadata('mlbench')?.id ?? null"
    )
    return found


def top(lab: Lab) -> float:
    """Return where the list of runs begins."""
    box = lab.page.locator("#mlbench-sidebar .jp-AccordionPanel-title", has_text="Runs").bounding_box()
    return box["y"] if box is not None else -1.0


def sizes(lab: Lab) -> list[float]:
    """Return the shares of the sections, as JupyterLab keeps them."""
    kept = lab.server.ask("GET", f"/lab/api/workspaces/{lab.folder}")["data"].get("layout-restorer:data", {})
    state = kept.get("left", {}).get("widgetStates", {}).get("mlbench-sidebar", {})
    return state.get("sizes") or [1.0]
