"""Everything that a user can meet has its place in the docs, and what the docs point at is there."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import cache
from pathlib import Path
from typing import get_args

import click
import pytest

from mlbench.core import errors, ports, records

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def page(name: str) -> str:
    """Return the text of a page of the reference."""
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text("utf-8")


def headings(text: str) -> list[str]:
    """Return the headings of a page, without their marks."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line.lstrip("#").strip() for line in outside.splitlines() if line.startswith("#")]


def has_heading(name: str, word: str) -> bool:
    """Say whether a page of the reference has a heading with this word as code."""
    return any(f"`{word}`" in heading or f"`{word} " in heading for heading in headings(page(name)))


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets where these pages are read."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands() -> list[tuple[str, click.Command]]:
    """Return every command of the command line with its full name, the root first."""
    from mlbench.entrypoints.cli import root

    found: list[tuple[str, click.Command]] = []

    def walk(command: click.Command, name: str) -> None:
        found.append((name, command))
        if isinstance(command, click.Group):
            context = click.Context(command)
            for word in command.list_commands(context):
                below = command.get_command(context, word)
                assert below is not None
                walk(below, f"{name} {word}")

    walk(root, "mlbench")
    return found


def test_every_option_of_a_step_has_a_heading() -> None:
    from mlbench.notebook.step import OPTIONS

    assert OPTIONS
    missing = [option.name for option in OPTIONS if not has_heading("magics", f"--{option.name.lstrip('-')}")]
    assert not missing


def test_every_magic_has_a_heading() -> None:
    from mlbench.entrypoints.kernel.clusters import ClusterMagics
    from mlbench.entrypoints.kernel.magics import StepMagics

    lines = [*StepMagics.magics["line"], *ClusterMagics.magics["line"]]
    magics = [f"%{name}" for name in lines] + [f"%%{name}" for name in StepMagics.magics["cell"]]
    assert "%%step" in magics
    assert not [magic for magic in magics if not has_heading("magics", magic)]


def test_every_command_has_a_heading_and_every_option_is_mentioned() -> None:
    text = page("command-line")
    missing = []
    for name, command in commands()[1:]:
        if not has_heading("command-line", name):
            missing.append(name)
        for parameter in command.params:
            names = [option for option in getattr(parameter, "opts", []) if option.startswith("--")]
            missing += [f"{name} {option}" for option in names if f"`{option}" not in text]
    assert not missing


def test_every_error_has_a_heading_and_stands_in_the_table() -> None:
    text = page("errors")
    assert not [name for name in errors.__all__ if not has_heading("errors", name)]
    for name in errors.__all__:
        parent = getattr(errors, name).__bases__[0].__name__
        assert f"| `{name}` | `{parent}` |" in text


def test_the_table_of_errors_says_the_status_that_the_server_answers() -> None:
    door = pytest.importorskip("mlbench.entrypoints.labserver.door")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", page("errors"), re.MULTILINE))
    for name in errors.__all__:
        kind = getattr(errors, name)
        status = next(status for above, status in door.STATUS if issubclass(kind, above))
        assert rows[name] == str(status), name


def test_every_state_and_reason_has_its_sentence() -> None:
    text = page("records")
    words = (*get_args(records.State), *get_args(records.Reason), *get_args(records.RunKind))
    assert not [word for word in words if f"`{word}`" not in text]


def test_every_record_has_a_heading() -> None:
    kinds = [name for name, kind in vars(records).items() if dataclasses.is_dataclass(kind)]
    assert len(kinds) > 10
    assert not [name for name in kinds if not has_heading("records", name)]


def test_every_port_has_a_heading_and_every_method_is_named() -> None:
    text = page("ports")
    for name in ports.__all__:
        assert has_heading("ports", name)
        methods = [method for method, _ in inspect.getmembers(getattr(ports, name), inspect.isfunction)]
        assert methods
        assert not [method for method in methods if not method.startswith("_") and f"`{method}`" not in text]


def test_every_public_name_has_a_heading() -> None:
    import mlbench

    functions = [name for name in mlbench.__all__ if not name.startswith(("_", "load_", "unload_"))]
    missing = [name for name in functions if not has_heading("python", f"mlbench.{name}")]
    assert not [name for name in missing if name not in errors.__all__]


def test_every_route_and_verb_has_a_heading() -> None:
    pytest.importorskip("jupyter_server")
    from mlbench.entrypoints.labserver import door, routes

    missing = []
    for pattern, handler in routes.HANDLERS:
        if handler is door.NothingHere:
            continue
        address = pattern.replace(door.ID, "{id}").replace(door.DIGEST, "{digest}")
        verbs = [verb for verb in ("get", "post", "patch", "delete", "put") if verb in vars(handler)]
        assert verbs or address == "events"
        missing += [f"{verb.upper()} {address}" for verb in verbs or ["get"]]
    assert not [entry for entry in missing if not has_heading("rest", entry)]


def test_every_variable_that_is_read_is_in_the_configuration_page(root: Path) -> None:
    read: set[str] = set()
    for file in (root / "mlbench").rglob("*.py"):
        read |= set(re.findall(r"[\"'](MLBENCH_[A-Z_]+)[\"']", file.read_text("utf-8")))
    # Handed from one of our processes to the next; nobody sets them by hand.
    internal = {name for name in read if name.startswith(("MLBENCH_RUN_", "MLBENCH_ENGINE", "MLBENCH_STEP"))}
    internal |= {"MLBENCH_RUN", "MLBENCH_JOB", "MLBENCH_NOTEBOOK", "MLBENCH_CI_MARK"}
    assert not [name for name in sorted(read - internal) if not has_heading("configuration", name)]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), f"{file.name} points at {link}"
        if fragment:
            assert fragment in [anchor(heading) for heading in headings(target.read_text("utf-8"))], link


def test_every_page_can_be_reached_from_the_index(root: Path) -> None:
    index = root / "docs" / "README.md"
    reached, todo = set(), [index, root / "README.md"]
    while todo:
        file = todo.pop()
        if file in reached:
            continue
        reached.add(file)
        for link in LINK.findall(file.read_text("utf-8")):
            target = (file.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists():
                todo.append(target)
    assert not set(PAGES) - reached


def test_commands_in_the_docs_exist() -> None:
    known = {name for name, _ in commands()}
    options = {name: {o for p in command.params for o in p.opts} | {"--help"} for name, command in commands()}
    for file in PAGES:
        for line in re.findall(r"^\$ (mlbench .*)$", file.read_text("utf-8"), re.MULTILINE):
            words = line.partition("  #")[0].split()
            name = next(" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in known)
            assert name != "mlbench", f"{file.name}: {line}"
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert used <= options[name], f"{file.name}: {line}"


def test_every_decision_says_how_it_is_kept(root: Path) -> None:
    decisions = sorted((root / "docs" / "decisions").glob("[0-9]*.md"))
    assert len(decisions) >= 10
    for number, file in enumerate(decisions, 1):
        text = file.read_text("utf-8")
        assert file.name.startswith(f"{number:04d}-")
        for heading in ("Context", "Considered", "Decision", "Consequences", "How it is kept"):
            assert heading in headings(text), f"{file.name} lacks {heading}"
