"""What has changed since it ran is seen, and run again with what waits for it, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.journeys.lab import Lab, write_notebook

pytestmark = pytest.mark.browser

CELLS = (
    ("setup", "%load_ext mlbench\nrate = 2\nprint('set up')"),
    ("load", "%%step load\nrows = [1, 2, 3]\nprint('loaded')"),
    ("beside", "%%step beside\nother = 5\nprint('beside')"),
    ("scale", "%%step scale\nscaled = [row * rate for row in rows]\nprint('scaled', scaled)"),
    ("total", "%%step total\nwhole = sum(scaled)\nprint('whole', whole)"),
)


def edit(lab: Lab, identifier: str, source: str) -> None:
    """Write something else into a cell."""
    lab.page.evaluate(
        """([identifier, source]) => {
          const { content } = window.jupyterapp.shell.currentWidget;
          content.widgets.find(cell => cell.model.id === identifier).model.sharedModel.setSource(source);
        }""",
        [identifier, source],
    )


def stale(lab: Lab) -> list[str]:
    """Return the steps that the sidebar calls out of date."""
    rows = lab.page.locator(".jp-mlb-StepList-row", has=lab.page.locator(".jp-mlb-Stale"))
    return rows.locator(".jp-mlb-StepList-name").all_inner_texts()


def executions(lab: Lab) -> dict[str, str]:
    """Return the id of what each step did last, as its pill's page would open it."""
    found: dict[str, str] = lab.page.evaluate(
        """async () => {
          const { sessionContext, content, context } = window.jupyterapp.shell.currentWidget;
          const cells = content.widgets.map(cell => cell.model.id);
          const url = '/mlbench/api/v1/outputs?token=journey';
          const body = JSON.stringify({ kernel: sessionContext.session.kernel.id, cells, path: context.path });
          const xsrf = (document.cookie.match('_xsrf=([^;]+)') ?? [])[1] ?? '';
          const answer = await fetch(url, { method: 'POST', body, headers: { 'X-XSRFToken': xsrf } });
          const { outputs } = await answer.json();
          return Object.fromEntries(Object.values(outputs).map(each => [each.step, each.id]));
        }"""
    )
    return found


def all_done(lab: Lab) -> None:
    for step in ("load", "beside", "scale", "total"):
        lab.pill(step, "succeeded")


def test_an_edited_step_is_out_of_date_and_is_run_with_what_waits_for_it_alone(lab: Lab) -> None:
    write_notebook(lab.root / "changes.ipynb", *CELLS)
    lab.open()
    lab.open_notebook("changes.ipynb")
    action = lab.page.get_by_role("button", name="Run what changed")
    action.click()  # nothing has run: all of it does, the cell that loads mlbench first
    all_done(lab)
    lab.wait_for_output("total", "whole 12")
    action.wait_for(state="detached")
    before = executions(lab)

    edit(
        lab,
        "scale",
        "%%step scale\n# a remark changes nothing\nscaled = [row * rate for row in rows]\nprint('scaled', scaled)",
    )
    lab.page.wait_for_timeout(1500)  # longer than a question about typing takes: nothing is to be seen of it
    assert stale(lab) == []
    edit(lab, "scale", "%%step scale\nscaled = [row * rate + 1 for row in rows]\nprint('scaled', scaled)")
    lab.wait_until(lambda: stale(lab) == ["scale", "total"], "two steps out of date")
    lab.page.locator(".jp-mlb-Pill[data-step='scale'] .jp-mlb-Stale").wait_for()
    assert lab.page.locator(".jp-mlb-Pill[data-step='load'] .jp-mlb-Stale").count() == 0

    action.click()
    lab.wait_for_output("total", "whole 15")
    lab.wait_until(lambda: stale(lab) == [], "nothing out of date")
    action.wait_for(state="detached")
    after = executions(lab)
    assert {step for step in after if after[step] != before[step]} == {"scale", "total"}


def test_a_plain_cell_that_feeds_a_step_makes_it_out_of_date_and_is_run_first(lab: Lab) -> None:
    write_notebook(lab.root / "changes.ipynb", *CELLS)
    lab.open()
    lab.open_notebook("changes.ipynb")
    lab.run(*(identifier for identifier, _ in CELLS))
    all_done(lab)
    edit(lab, "setup", "%load_ext mlbench\nrate = 10\nprint('set up')")
    lab.wait_until(lambda: stale(lab) == ["scale", "total"], "two steps out of date")
    lab.page.get_by_role("button", name="Run what changed").click()
    lab.wait_for_output("total", "whole 60")
    lab.wait_until(lambda: stale(lab) == [], "nothing out of date")


def test_what_changed_is_told_after_a_reload_too(lab: Lab) -> None:
    write_notebook(lab.root / "changes.ipynb", *CELLS)
    lab.open()
    lab.open_notebook("changes.ipynb")
    lab.run(*(identifier for identifier, _ in CELLS))
    all_done(lab)
    lab.execute("docmanager:save")
    lab.page.reload()
    lab.wait_until_ready()
    lab.open_notebook("changes.ipynb")
    all_done(lab)
    edit(lab, "load", "%%step load\nrows = [1, 2]\nprint('loaded')")
    lab.wait_until(lambda: stale(lab) == ["load", "scale", "total"], "three steps out of date")


def test_a_step_that_is_reused_says_from_which_run_and_opens_it(lab: Lab) -> None:
    write_notebook(
        lab.root / "again.ipynb",
        ("setup", "%load_ext mlbench"),
        ("load", "%%step load --cache\nprint('ran')\nrows = [1, 2]"),
        ("total", "%%step total --cache\nwhole = sum(rows)"),
    )
    lab.open()
    lab.open_notebook("again.ipynb")
    lab.run("setup", "load", "total")
    lab.pill("total", "succeeded")
    runs = lab.page.locator(".jp-mlb-RunList-row")
    runs.first.locator(".jp-mlb-StateIcon[data-state='succeeded']").wait_for()
    lab.run("load", "total")
    lab.pill("load", "reused")
    lab.pill("total", "reused")
    lab.wait_for_output("load", "ran")  # the output of then
    lab.page.locator(".jp-mlb-StepList-origin").first.get_by_text("from ").wait_for()
    link = lab.page.locator(".jp-mlb-Pill[data-step='load']").get_by_text("reused from")
    origin = link.inner_text().removeprefix("reused from ")
    link.click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.locator(".jp-mlb-RunHead code", has_text=origin).wait_for()


def test_a_failed_run_is_resumed_from_the_step_that_failed(lab: Lab) -> None:
    write_notebook(
        lab.root / "resume.ipynb",
        ("setup", "%load_ext mlbench"),
        ("load", "%%step load\nrows = [1, 2]"),
        ("total", "%%step total\nwhole = sum(rows) / 0"),
        ("show", "%%step show\nprint('whole', whole)"),
    )
    lab.open()
    lab.open_notebook("resume.ipynb")
    lab.run("setup", "load", "total", "show")
    lab.pill("total", "failed")
    lab.pill("show", "skipped")
    before = executions(lab)
    edit(lab, "total", "%%step total\nwhole = sum(rows)")
    lab.page.locator(".jp-mlb-Pill[data-step='total'] .jp-mlb-Pill-open").click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.get_by_role("button", name="Resume from total").click()
    lab.wait_for_output("show", "whole 3")
    lab.pill("show", "succeeded")
    assert executions(lab)["load"] == before["load"]


def test_a_failed_run_of_a_terminal_is_resumed_from_its_page(lab: Lab) -> None:
    write_notebook(
        lab.root / "nightly.ipynb",
        ("setup", "%load_ext mlbench"),
        ("load", "%%step load\nrows = [1, 2]"),
        ("total", "%%step total\nwhole = sum(rows) / 0"),
    )
    command = [sys.executable, "-c", "from mlbench.entrypoints.cli import main; main()", "run", "nightly.ipynb"]
    failed = subprocess.run(command, cwd=lab.root, env=lab.server.environment, check=False, timeout=120)
    assert failed.returncode == 1
    write_notebook(
        lab.root / "nightly.ipynb",
        ("setup", "%load_ext mlbench"),
        ("load", "%%step load\nrows = [1, 2]"),
        ("total", "%%step total\nwhole = sum(rows)"),
    )
    lab.open()
    lab.open_notebook("nightly.ipynb")
    lab.page.locator(".jp-mlb-RunList-row").first.click()
    lab.page.get_by_role("button", name="Resume from total").click()
    page = lab.page.locator(".jp-mlb-RunPage:visible", has_text="Resumes")
    page.locator(".jp-mlb-RunHead .jp-mlb-StateIcon[data-state='succeeded']").wait_for(timeout=60_000)
    assert "from" in page.locator(".jp-mlb-StepsTable tr", has_text="load").first.inner_text()
