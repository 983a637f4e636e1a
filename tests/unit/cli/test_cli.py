"""The command line's own manners: help, wrong words, exit status, and how quickly it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from mlbench.core.errors import ParameterError, StoreError
from mlbench.core.records import Metric
from mlbench.entrypoints.cli import COMMANDS, SUMMARIES, main, output, root
from mlbench.entrypoints.cli.pairs import read_pairs


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    status = ended.value.code
    assert isinstance(status, int)
    return status, captured.out, captured.err


def all_commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(root)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield f"{name} {inner}", found


COMMAND_LIST = list(all_commands())


def test_every_command_has_a_summary() -> None:
    assert list(SUMMARIES) == list(COMMANDS)


@pytest.mark.parametrize(("name", "command"), COMMAND_LIST, ids=[name for name, _ in COMMAND_LIST])
def test_every_command_has_help_with_an_example(
    name: str, command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = call(capsys, *name.split(), "--help")
    assert status == 0
    assert "Example: " in out
    assert f"mlbench {name.split(maxsplit=1)[0]}" in out
    assert command.help


PRINTS_DATA = [name for name, command in COMMAND_LIST if not isinstance(command, click.Group) and name != "service run"]


@pytest.mark.parametrize("name", PRINTS_DATA)
def test_every_command_that_prints_data_can_print_json(name: str) -> None:
    command = dict(COMMAND_LIST)[name]
    assert any("--json" in parameter.opts for parameter in command.params)


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "shwo")
    assert status == 2
    assert "Did you mean `mlbench show`?" in err


def test_an_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "run", "x.ipynb", "--paramter", "a=1")
    assert status == 2
    assert "--parameter" in err
    assert "Traceback" not in err


def test_a_missing_argument_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "show")
    assert status == 2
    assert "Error: " in err
    assert err.count("\n") == 1


def test_an_error_of_ours_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise StoreError("The store /x cannot be written.", "Make room on its disk.")

    monkeypatch.setattr("mlbench.project.configuration.find_store", broken)
    status, out, err = call(capsys, "config")
    assert (status, out) == (2, "")
    assert err == "Error: The store /x cannot be written. Make room on its disk.\n"


def test_version_says_the_protocol_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "version", "--json")
    assert status == 0
    assert set(json.loads(out)) == {"version", "python", "protocol"}


def test_the_command_line_starts_without_loading_what_its_commands_need() -> None:
    code = (
        "import sys; from mlbench.entrypoints.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'alembic', 'papermill', 'nbformat', 'distributed', 'rich', 'IPython', 'cronsim'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize(
    ("pairs", "says"),
    [(("a",), "has no value"), (("=1",), "has no value"), (("a=1", "a=2"), "given twice"), ((" a =1", "a=2"), "twice")],
)
def test_a_pair_that_is_none_is_refused(pairs: tuple[str, ...], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        read_pairs(pairs)


def test_a_value_may_hold_an_equals_sign_and_nothing() -> None:
    assert read_pairs(("q=a=b", "empty=")) == {"q": "a=b", "empty": ""}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\nlines\t", "plain\nlines\t"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07x", "x"),
        ("a\x1b[2Jb\x1b[1;1Hc", "abc"),
        ("nul\x00bel\x07", "nulbel"),
        ("\u202eevil", "evil"),
        ("\x9b31m", "31m"),
    ],
)
def test_stored_text_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert output.clean(text) == shown


def test_markup_in_a_stored_name_is_shown_as_it_is() -> None:
    assert output.plain("[red]x[/red]").plain == "[red]x[/red]"


def test_json_holds_no_numbers_that_json_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json([Metric(name="loss", value=float("nan")), float("inf")])
    assert json.loads(capsys.readouterr().out) == [{"name": "loss", "value": None, "step": None, "time": 0}, None]


def test_a_machines_own_time_zone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.entrypoints.cli.jobs import local_timezone

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_timezone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", ":/usr/share/zoneinfo/Europe/Berlin")
    assert local_timezone() in ("Europe/Berlin", "UTC")
