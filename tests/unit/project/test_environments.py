"""What `--env` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbench.core.errors import UsageError
from mlbench.project.environments import find_requirements


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "work" / "flights.ipynb")


def test_a_name_is_looked_up_above_the_notebook(notebook: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.mlbench.environments.old]\nrequirements = ["pandas==2.2", "numpy<2"]\n'
        '[tool.mlbench.environments.filed]\nfile = "more/req.txt"\n'
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "req.txt").write_text("tabulate\n")
    assert find_requirements("old", notebook) == ("numpy<2", "pandas==2.2")
    assert find_requirements("filed", notebook) == ("tabulate",)


def test_the_nearest_file_that_has_the_name_counts(notebook: str, tmp_path: Path) -> None:
    (tmp_path / "mlbench.toml").write_text('[environments]\na = {requirements = ["far"]}\nb = {requirements = ["b"]}\n')
    (tmp_path / "work" / "mlbench.toml").write_text('[environments]\na = {requirements = ["near"]}\n')
    assert find_requirements("a", notebook) == ("near",)
    assert find_requirements("b", notebook) == ("b",)


def test_a_file_is_found_beside_the_notebook_with_what_it_includes(notebook: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "requirements.txt").write_text(
        "# what it needs\npandas>=2,\\\n  <3   # frames\n\n-r base/more.txt\n--index-url https://example.org/simple\n"
    )
    (work / "base").mkdir()
    (work / "base" / "more.txt").write_text("tabulate==0.9.0 ; python_version >= '3.8'\n")
    assert find_requirements("requirements.txt", notebook) == (
        "--index-url https://example.org/simple",
        "pandas>=2, <3",
        "tabulate==0.9.0 ; python_version >= '3.8'",
    )


def test_the_order_of_lines_does_not_matter(notebook: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "a.txt").write_text("x\ny\nx\n")
    (work / "b.txt").write_text("y\nx\n")
    assert find_requirements("a.txt", notebook) == find_requirements("b.txt", notebook)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("odl", "Did you mean old?"),
        ("nothing-like-it", "There are: old, wrong, both."),
        ("missing.txt", "there is no file"),
        ("sub/requirements", "there is no file"),
        ("wrong", "requirements is a list of texts"),
        ("both", "needs either requirements or file"),
        ("editable.txt", "line 2: -e . stands for files that can change"),
        ("constraint.txt", "line 1: -c other.txt"),
        ("local.txt", "line 1: ./wheels/x.whl"),
        ("url.txt", "line 1: x @ file:///tmp/x.whl"),
        ("loop.txt", "includes itself"),
        ("bytes.txt", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named(notebook: str, tmp_path: Path, env: str, said: str) -> None:
    work = tmp_path / "work"
    (tmp_path / "mlbench.toml").write_text(
        '[environments]\nold = {requirements = ["a"]}\nwrong = {requirements = "a"}\n'
        'both = {requirements = ["a"], file = "b"}\n'
    )
    (work / "editable.txt").write_text("a\n-e .\n")
    (work / "constraint.txt").write_text("-c other.txt\n")
    (work / "local.txt").write_text("./wheels/x.whl\n")
    (work / "url.txt").write_text("x @ file:///tmp/x.whl\n")
    (work / "loop.txt").write_text("-r loop.txt\n")
    (work / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError) as refused:
        find_requirements(env, notebook)
    assert said in str(refused.value)
    assert refused.value.remedy


def test_without_any_the_sentence_says_how_to_make_one(notebook: str) -> None:
    with pytest.raises(UsageError, match=r"tool\.mlbench\.environments"):
        find_requirements("gpu", notebook)
