"""What is committed works on any machine: no address of a registry, no path of somebody's own."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

# Written so that this file does not hold what it looks for.
REGISTRIES = re.compile(
    r"registry\.npmjs|registry\.yarnpkg|pypi\.org/simple|files\.python"
    r"hosted|index-url\s*[=:]|\"resolved\":\s*\"http"
)
OWN_PATHS = re.compile(r"(?<![\w.])/(?:home|Users|root|work|farm)/(?!me/)[\w.-]+/")


@pytest.fixture(scope="module")
def tracked(root: Path) -> dict[str, str]:
    """Return the text of each committed file by its path."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False, timeout=60)
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout")
    texts = {}
    for name in filter(None, listing.stdout.decode().split("\0")):
        file = root / name
        if file.is_file():
            try:
                texts[name] = file.read_text("utf-8")
            except UnicodeDecodeError:
                continue
    assert texts
    return texts


def test_no_committed_file_names_a_package_registry(tracked: dict[str, str]) -> None:
    named = [
        name for name, text in tracked.items() if REGISTRIES.search(text) and name != "tests/repository/test_tree.py"
    ]
    assert not named


def test_no_committed_file_holds_a_path_of_one_machine(tracked: dict[str, str]) -> None:
    held = {name: found[0] for name, text in tracked.items() if (found := OWN_PATHS.search(text))}
    held.pop("package-lock.json", None)
    assert not {name: path for name, path in held.items() if not name.startswith("tests/")}


def test_the_lock_file_says_versions_and_hashes_but_not_where_from(root: Path) -> None:
    packages = json.loads((root / "package-lock.json").read_text("utf-8"))["packages"]
    assert len(packages) > 100
    assert not [name for name, entry in packages.items() if "resolved" in entry and not entry.get("link")]
    assert not (root / "uv.lock").exists() or "uv.lock" in (root / ".gitignore").read_text("utf-8")


def test_the_constraints_pin_versions_and_nothing_else(root: Path) -> None:
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line), line


def test_every_dependency_is_pinned_for_ci(root: Path) -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    wanted = list(project["project"]["dependencies"]) + list(project["build-system"]["requires"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    pinned = {plain(line.partition("==")[0]) for line in (root / "constraints.txt").read_text("utf-8").splitlines()}
    names = {plain(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in wanted}  # type: ignore[index]
    assert names - {"mlbench"} <= pinned


def test_no_committed_file_is_large(tracked: dict[str, str], root: Path) -> None:
    large = [name for name in tracked if (root / name).stat().st_size > 1_500_000]
    assert not large


def test_make_help_lists_every_target(root: Path) -> None:
    answer = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True, timeout=60)
    listed = {line.split()[0] for line in answer.stdout.splitlines() if line.startswith("  ")}
    phony = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert phony is not None
    assert listed == set(phony[1].split())
