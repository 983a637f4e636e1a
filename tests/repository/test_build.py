"""A build asks for Node where there is none that will do, and for nothing elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

hatch_build = pytest.importorskip("hatch_build", reason="hatchling is not installed")


def tool(folder: Path, name: str, says: str) -> None:
    """Make a command that says something."""
    file = folder / name
    file.write_text(f"#!/bin/sh\necho {says}\n", "utf-8")
    file.chmod(0o755)


def test_a_machine_without_node_gets_it_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hatch_build.node_requirement() == [hatch_build.NODE]


@pytest.mark.parametrize(
    ("version", "brought"),
    [("v18.20.4", True), ("v20.18.3", True), ("v20.19.0", False), ("v22.11.0", True), ("v22.12.0", False)],
)
def test_only_a_node_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, brought: bool
) -> None:
    tool(tmp_path, "node", version)
    tool(tmp_path, "npm", "10.0.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bool(hatch_build.node_requirement()) is brought


def test_a_node_without_npm_does_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path, "node", "v22.12.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hatch_build.node_requirement() == [hatch_build.NODE]
