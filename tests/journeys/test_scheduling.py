"""A user's way to a job: schedule the notebook in two clicks, see it fire, open its result."""

from __future__ import annotations

import pytest

from tests.journeys.lab import Lab, write_notebook

pytestmark = pytest.mark.browser


def test_a_notebook_is_scheduled_in_two_clicks_fires_and_its_result_is_opened(lab: Lab) -> None:
    write_notebook(
        lab.root / "report.ipynb",
        ("parameters", 'origin: str = "JFK"  # airport the report is for\ntrees: int = 200'),
        ("load", "%load_ext mlbench"),
        ("report", "%%step report\nprint('report for', origin)\nlines = 3"),
        parameters="parameters",
    )
    lab.open()
    lab.open_notebook("report.ipynb")
    lab.page.locator(".jp-NotebookPanel-toolbar:visible").get_by_text("Schedule").click()
    dialog = lab.page.locator(".jp-mlb-ScheduleDialog")
    dialog.get_by_text("airport the report is for").wait_for()
    assert dialog.locator(".jp-mlb-Schedule-next li").count() == 5
    assert "Berlin time" in dialog.locator(".jp-mlb-Schedule-meaning").inner_text()
    dialog.get_by_role("button", name="Schedule").click()
    dialog.wait_for(state="detached")

    job = lab.page.locator(".jp-mlb-JobList-item", has_text="report")
    job.get_by_text("daily 06:00 Berlin").wait_for()
    job.get_by_role("button", name="Actions of report").click()
    lab.page.get_by_role("menuitem", name="Run now").click()
    run = lab.page.locator(".jp-mlb-RunList-row", has_text="report v1").first
    run.locator(".jp-mlb-StateIcon[data-state='succeeded']").wait_for()
    run.click()
    page = lab.page.locator(".jp-mlb-RunPage:visible")
    page.get_by_role("tab", name="Notebook").click()
    page.locator(".jp-mlb-NotebookRead-outputs", has_text="report for JFK").wait_for()

    job.get_by_role("button", name="Actions of report").click()
    lab.page.get_by_role("menuitem", name="Pause").click()
    job.get_by_text("paused").wait_for()
    job.get_by_role("button", name="Actions of report").click()
    lab.page.get_by_role("menuitem", name="Delete").click()
    lab.page.locator(".jp-Dialog").get_by_role("button", name="Delete").click()
    job.wait_for(state="detached")


def test_a_job_fires_at_its_time(lab: Lab) -> None:
    write_notebook(lab.root / "tick.ipynb", ("tick", "print('ticked')"))
    lab.open()
    lab.open_notebook("tick.ipynb")
    lab.page.locator(".jp-NotebookPanel-toolbar:visible").get_by_text("Schedule").click()
    dialog = lab.page.locator(".jp-mlb-ScheduleDialog")
    dialog.get_by_text("Cron", exact=True).click()
    dialog.get_by_label("Cron line").fill("* * * * *")
    dialog.get_by_text("Every minute").wait_for()
    dialog.get_by_role("button", name="Schedule").click()
    dialog.wait_for(state="detached")
    run = lab.page.locator(".jp-mlb-RunList-row", has_text="tick v1").first
    run.locator(".jp-mlb-StateIcon[data-state='succeeded']").wait_for(timeout=150_000)


def test_the_dialog_says_at_once_what_is_wrong_and_stores_nothing(lab: Lab) -> None:
    write_notebook(lab.root / "report.ipynb", ("parameters", "trees: int = 200"), parameters="parameters")
    lab.open()
    lab.open_notebook("report.ipynb")
    lab.page.locator(".jp-NotebookPanel-toolbar:visible").get_by_text("Schedule").click()
    dialog = lab.page.locator(".jp-mlb-ScheduleDialog")
    dialog.get_by_label("trees").fill("2OO")
    dialog.locator(".jp-mlb-Field-problem").wait_for()
    dialog.get_by_label("trees").fill("300")
    dialog.locator(".jp-mlb-Field-problem").wait_for(state="detached")
    assert dialog.get_by_role("button", name="Schedule").is_enabled()
    dialog.get_by_text("Cron", exact=True).click()
    dialog.get_by_label("Cron line").fill("0 0 30 2 *")
    dialog.locator(".jp-mlb-Field-problem").wait_for()
    assert "never" in dialog.locator(".jp-mlb-Schedule-meaning").inner_text()
    dialog.locator(".jp-Dialog-footer").get_by_role("button", name="Cancel").click()
    answer = lab.server.ask("GET", "/mlbench/api/v1/jobs")
    assert answer["jobs"] == []
