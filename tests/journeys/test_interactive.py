"""A user's way with steps in JupyterLab: run them, reload the page meanwhile, open what was recorded."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.journeys.lab import ROOT, Lab, showing, write_notebook

pytestmark = pytest.mark.browser

COUNT = """%%step count
import time
from pathlib import Path
for number in range(6000):
    print("counted", number, flush=True)
    if Path("enough").exists():
        break
    time.sleep(0.1)
print("that is all")
total = number"""


def test_the_first_steps_of_the_example_run_and_are_seen(lab: Lab) -> None:
    for name in ("flights.ipynb", "delays.py"):
        shutil.copy(ROOT / "examples" / name, lab.root / name)
    lab.open()
    lab.open_notebook("flights.ipynb")
    lab.page.locator(".jp-mlb-StepList-row").first.wait_for()
    assert lab.page.locator(".jp-mlb-StepList-name").all_inner_texts()[:2] == ["load", "features"]

    lab.run("parameters", "setup", "load", "features")
    lab.pill("load", "succeeded")
    lab.pill("features", "succeeded")
    lab.sidebar_state("load", "succeeded")
    lab.sidebar_state("features", "succeeded")
    lab.wait_for_output("load", "flights from JFK")
    lab.wait_for_output("load", "dep_delay")  # the value of the last line, a table

    run = lab.page.locator(".jp-mlb-RunList-row").first
    run.locator(".jp-mlb-StateIcon[data-state='succeeded']").wait_for()
    lab.page.locator(".jp-mlb-Pill[data-step='load'] .jp-mlb-Pill-open").click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.locator(".jp-mlb-Execution h2", has_text="load").wait_for()
    page.locator(".jp-mlb-Card", has_text="flights").locator("table").first.wait_for()


def test_output_comes_back_when_the_page_is_reloaded_while_a_step_runs(lab: Lab) -> None:
    write_notebook(lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT), ("use", "total"))
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count")
    lab.pill("count", "running")
    lab.wait_for_output("count", "counted 3\n")
    lab.execute("docmanager:save")

    lab.page.reload()
    lab.wait_until_ready()
    lab.open_notebook("count.ipynb")
    lab.pill("count", "running")
    lab.wait_for_output("count", "counted 0\n")
    before = lab.outputs("count").count("counted")
    lab.wait_until(lambda: lab.outputs("count").count("counted") > before + 3, "the output goes on")

    (lab.root / "enough").touch()
    lab.pill("count", "succeeded")
    lab.wait_for_output("count", "that is all")
    lines = lab.outputs("count").split("\n")
    lab.wait_until(lambda: _is_whole(lab.outputs("count")), f"every line once: {lines}")
    lab.execute("docmanager:save")
    saved = json.loads((lab.root / "count.ipynb").read_text())
    (output,) = saved["cells"][1]["outputs"]
    assert _is_whole("".join(output["text"]))
    assert saved["metadata"]["mlbench"]["id"]


def _is_whole(text: str) -> bool:
    """Say whether each line is there once, in order, and the last one too."""
    *lines, last, rest = text.split("\n")
    return (last, rest) == ("that is all", "") and lines == [f"counted {number}" for number in range(len(lines))]


def test_a_cell_that_waits_can_stop_waiting_and_the_step_goes_on(lab: Lab) -> None:
    write_notebook(lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT), ("use", "total"))
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count")
    lab.pill("count", "running")
    lab.run("use")
    lab.page.locator(".jp-mlb-Pill[data-step='count']").get_by_text("don’t wait").click()
    lab.wait_for_output("use", "")
    lab.wait_for_kernel()
    lab.page.wait_for_timeout(4000)
    lab.pill("count", "running")
    (lab.root / "enough").touch()
    lab.pill("count", "succeeded")


def test_a_step_is_cancelled_on_its_pill(lab: Lab) -> None:
    write_notebook(lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT))
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count")
    lab.pill("count", "running")
    lab.page.locator(".jp-mlb-Pill[data-step='count']").get_by_text("cancel").click()
    lab.pill("count", "cancelled")
    lab.sidebar_state("count", "cancelled")


def test_a_finished_run_is_opened_and_a_failed_step_says_where_and_why(lab: Lab) -> None:
    write_notebook(
        lab.root / "fails.ipynb",
        ("load", "%load_ext mlbench"),
        ("first", "%%step first\nvalue = 1"),
        ("second", "%%step second\nprint('so far')\nresult = value / 0"),
        ("third", "%%step third\nlast = result"),
    )
    lab.open()
    lab.open_notebook("fails.ipynb")
    lab.run("load", "first", "second", "third")
    lab.pill("second", "failed")
    lab.pill("third", "skipped")
    row = lab.page.locator(".jp-mlb-RunList-row").first
    row.locator(".jp-mlb-RunList-error", has_text="second: ZeroDivisionError").wait_for()
    row.click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.locator(".jp-mlb-Error", has_text="ZeroDivisionError").wait_for()
    assert "result = value / 0" in page.locator(".jp-mlb-Error").inner_text()
    assert "so far" in page.locator(".jp-mlb-Execution-log").inner_text()
    page.get_by_role("tab", name="Notebook").click()
    page.locator(".jp-mlb-NotebookRead-source", has_text="value / 0").wait_for()


def test_the_failed_step_of_a_cell_that_is_deleted_holds_back_nobody(lab: Lab) -> None:
    write_notebook(
        lab.root / "deletes.ipynb",
        ("load", "%load_ext mlbench"),
        ("check", "%%step check\nassert 1 > 2"),
        ("publish", "%%step publish\nprint('published')"),
    )
    lab.open()
    lab.open_notebook("deletes.ipynb")
    lab.run("load", "check")
    lab.pill("check", "failed")
    with lab.page.expect_response("**/mlbench/api/v1/document*"):
        lab.run("publish")
    lab.pill("publish", "skipped")
    lab.cell("check")
    with lab.page.expect_response("**/mlbench/api/v1/document*"):
        lab.execute("notebook:delete-cell")
    lab.run("publish")
    lab.wait_for_output("publish", "published")
    lab.pill("publish", "succeeded")


def test_names_and_outputs_are_shown_as_text(lab: Lab) -> None:
    evil = "<img src=https://elsewhere.example/x onerror=window.acted=1><script>window.acted=1</script>"
    write_notebook(
        lab.root / "evil.ipynb",
        ("load", "%load_ext mlbench"),
        ("evil", f"%%step evil\nfrom IPython.display import HTML\nraise ValueError({evil!r})"),
    )
    asked: list[str] = []
    lab.page.on("request", lambda request: asked.append(request.url))
    lab.open()
    lab.open_notebook("evil.ipynb")
    lab.run("load", "evil")
    lab.pill("evil", "failed")
    lab.page.locator(".jp-mlb-RunList-row").first.click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.locator(".jp-mlb-Error", has_text="elsewhere").wait_for()
    assert page.locator("script, iframe, img").count() == 0
    assert lab.page.evaluate("() => window.acted") is None
    assert not [url for url in asked if "elsewhere.example" in url]


def test_a_notebook_that_does_not_load_mlbench_is_offered_the_line(lab: Lab) -> None:
    write_notebook(lab.root / "bare.ipynb", ("plain", "x = 1"), ("step", "%%step double\ny = 2 * x"))
    lab.open()
    lab.open_notebook("bare.ipynb")
    lab.page.locator(".jp-mlb-Notice").get_by_role("button").click()
    lab.page.locator(".jp-mlb-Notice").wait_for(state="detached")
    sources = lab.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.sharedModel.getSource())"
    )
    assert sources[:2] == ["x = 1", "%load_ext mlbench"]


def test_a_step_that_is_run_before_the_cell_that_loads_mlbench_offers_to_run_both(lab: Lab) -> None:
    write_notebook(lab.root / "late.ipynb", ("setup", "%load_ext mlbench"), ("step", "%%step double\nprint(2 * 4)"))
    lab.open()
    lab.open_notebook("late.ipynb")
    assert lab.page.locator(".jp-mlb-Notice").count() == 0
    lab.run("step")
    notice = lab.page.locator(".jp-mlb-Notice")
    notice.get_by_text("has not run in this kernel yet").wait_for()
    notice.get_by_role("button", name="Run it, then this one").click()
    lab.pill("double", "succeeded")
    lab.wait_for_output("step", "8")
    notice.wait_for(state="detached")


def test_a_kernel_whose_environment_lacks_mlbench_says_what_to_run(lab: Lab) -> None:
    # Without `site` nobody reads the path that leads to this clone, so that this Python has all but mlbench.
    start = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); import ipykernel.kernelapp as kernel"
    folder = Path(lab.server.environment["JUPYTER_DATA_DIR"]) / "kernels" / "lacking"
    folder.mkdir(parents=True)
    specification = {
        "argv": [sys.executable, "-S", "-c", f"{start}; kernel.launch_new_instance()", "-f", "{connection_file}"],
        "display_name": "Lacking",
        "language": "python",
        "env": {"PYTHONPATH": ""},
    }
    (folder / "kernel.json").write_text(json.dumps(specification))
    write_notebook(lab.root / "bare.ipynb", ("step", "%%step double\ny = 2"), kernel="lacking")
    lab.open()
    lab.open_notebook("bare.ipynb")
    notice = lab.page.locator(".jp-mlb-Notice", has_text="lacks mlbench")
    assert "pip install" in notice.locator("code").inner_text()


def test_steps_return_at_once_after_restart_and_run_all_too(lab: Lab) -> None:
    write_notebook(
        lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT), ("free", "print('free', len('ab'))")
    )
    enough = lab.root / "enough"
    enough.touch()
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count", "free")
    lab.pill("count", "succeeded")
    lab.wait_for_output("count", "that is all")

    enough.unlink()
    lab.page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:restart-run-all'); }")
    lab.page.locator(".jp-Dialog .jp-mod-accept").click()
    lab.pill("count", "running")
    lab.wait_for_output("free", "free 2")
    lab.wait_for_output("count", "counted 3\n")
    lab.pill("count", "running")
    enough.touch()
    lab.pill("count", "succeeded")
    lab.wait_until(lambda: _is_whole(lab.outputs("count")), "every line of the second time, once")


def test_a_step_that_goes_on_without_its_kernel_is_named_and_can_be_cancelled(lab: Lab) -> None:
    write_notebook(lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT))
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count")
    lab.pill("count", "running")
    lab.page.evaluate("() => { void window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    line = lab.page.locator(".jp-mlb-GoesOn", has_text="count goes on")
    line.get_by_role("button", name="Cancel it").click()
    line.wait_for(state="detached")
    lab.page.locator(".jp-mlb-RunList-row .jp-mlb-StateIcon[data-state='cancelled']").wait_for()


def test_that_a_step_goes_on_is_said_where_the_sidebar_is_closed(lab: Lab) -> None:
    write_notebook(lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT))
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count")
    lab.pill("count", "running")
    lab.execute("application:toggle-left-area")
    lab.page.evaluate("() => { void window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
    said = lab.page.locator(".jp-toastContainer, .Toastify").get_by_text("count goes on")
    said.wait_for()
    lab.page.get_by_role("button", name="Cancel it").click()
    lab.execute("mlbench:show-sidebar")
    lab.page.locator(".jp-mlb-RunList-row .jp-mlb-StateIcon[data-state='cancelled']").wait_for()


def test_a_copied_notebook_begins_without_runs_and_a_renamed_one_keeps_its_own(lab: Lab) -> None:
    write_notebook(lab.root / "first.ipynb", ("load", "%load_ext mlbench"), ("one", "%%step one\nvalue = 1"))
    lab.open()
    lab.open_notebook("first.ipynb")
    lab.run("load", "one")
    lab.pill("one", "succeeded")
    lab.execute("docmanager:save")
    lab.page.get_by_text("first.ipynb · 1", exact=True).wait_for()

    copy = lab.page.evaluate(
        "async folder => (await window.jupyterapp.serviceManager.contents.copy(`${folder}/first.ipynb`, folder)).name",
        lab.folder,
    )
    lab.open_notebook(copy)
    lab.page.get_by_text("Runs of this notebook appear here").wait_for()
    lab.run("load", "one")
    lab.page.get_by_text(f"{copy} · 1", exact=True).wait_for()
    lab.execute("docmanager:save")
    first, second = (json.loads((lab.root / name).read_text()) for name in ("first.ipynb", copy))
    assert first["metadata"]["mlbench"]["id"] != second["metadata"]["mlbench"]["id"]

    lab.open_notebook("first.ipynb")
    lab.page.get_by_text("first.ipynb · 1", exact=True).wait_for()
    lab.page.evaluate(
        "async ([old, now]) => { await window.jupyterapp.serviceManager.contents.rename(old, now); }",
        [f"{lab.folder}/first.ipynb", f"{lab.folder}/second.ipynb"],
    )
    lab.page.get_by_text("second.ipynb · 1", exact=True).wait_for()


def test_two_pages_of_one_notebook_show_each_line_once(lab: Lab, browser: Browser) -> None:
    write_notebook(lab.root / "count.ipynb", ("load", "%load_ext mlbench"), ("count", COUNT))
    lab.open()
    lab.open_notebook("count.ipynb")
    lab.run("load", "count")
    lab.wait_for_output("count", "counted 3\n")
    with showing(browser, lab.server, lab.folder) as other:
        other.page.goto(other.url.replace("workspaces/", "workspaces/other-"))
        other.wait_until_ready()
        other.open_notebook("count.ipynb")
        other.pill("count", "running")
        other.wait_for_output("count", "counted 3\n")
        (lab.root / "enough").touch()
        lab.pill("count", "succeeded")
        other.pill("count", "succeeded")
        other.wait_until(lambda: _is_whole(other.outputs("count")), "every line once in the other page")
        lab.wait_until(lambda: _is_whole(lab.outputs("count")), "every line once in the page that ran it")
