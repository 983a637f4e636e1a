"""Kernels of two Pythons use one service, which is a third's: no pickle ever crosses versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
MINORS = range(11, 16)
COMMAND = "from mlbench.entrypoints.cli import main; main()"


def version_of(python: Path) -> tuple[int, int] | None:
    """Return the version of an interpreter, or None for one that does not start."""
    asked = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    if answer.returncode != 0:
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def other_pythons() -> list[Path]:
    """Return one interpreter for each version that mlbench supports and that is not this one's."""
    candidates = [Path(named) for minor in MINORS if (named := shutil.which(f"python3.{minor}"))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(pyenv.glob("3.*/bin/python")) if pyenv.is_dir() else []
    found: dict[tuple[int, int], Path] = {}
    for candidate in candidates:
        version = version_of(candidate)
        if version is not None and version >= (3, 11) and version != sys.version_info[:2]:
            found.setdefault(version, candidate)
    return list(found.values())


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the interpreters of two environments that hold the base package, of two versions that are not ours."""
    pythons = other_pythons()
    if len(pythons) < 2:
        pytest.skip(f"needs two other Pythons from 3.11 on; found {[str(python) for python in pythons]}")
    if not (ROOT / "mlbench" / "labextension").is_dir():
        pytest.skip("the front end is not built: make setup")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    made = []
    for python in pythons[:2]:
        place = tmp_path_factory.mktemp("python") / "venv"
        inside = place / "bin" / "python"
        install = [uv, "pip", "install", "--python", str(inside), "-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)]
        for command in ([uv, "venv", "--python", str(python), str(place)], install):
            environment = {**os.environ, "SKIP_JUPYTER_BUILDER": "1", "UV_PYTHON_DOWNLOADS": "never"}
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
            assert answer.returncode == 0, answer.stderr
        made.append(inside)
    return made


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return an environment with a store and a service of its own; the service is ended afterwards."""
    runtime = tempfile.mkdtemp(prefix="mlb")
    environment = {**os.environ, "MLBENCH_STORE": str(tmp_path / "store"), "MLBENCH_RUNTIME": runtime}
    try:
        yield environment
    finally:
        mlbench("service", "stop", "--force", env=environment)
        shutil.rmtree(runtime, ignore_errors=True)


def mlbench(*arguments: str, env: dict[str, str]) -> str:
    """Run a command of mlbench with our own interpreter and return what it printed."""
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120).stdout


CELLS = (
    "%load_ext mlbench",
    "def doubled(numbers, by=2):\n    return [by * number for number in numbers]",
    "%%step here\nimport os, sys\nresult = doubled([1, 2])\nwhere = [sys.executable, *sys.version_info[:2]]",
    "import json; print(json.dumps([result, where]))",
)


def test_kernels_of_two_pythons_use_one_service_of_a_third(kernels: list[Path], environment: dict[str, str]) -> None:
    from jupyter_client.manager import KernelManager

    mlbench("service", "start", env=environment)
    before = json.loads(mlbench("service", "status", "--json", env=environment))
    managers: list[Any] = []
    try:
        for python in kernels:
            manager: Any = KernelManager(kernel_name="python3")
            manager.kernel_spec.argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            manager.start_kernel(env=environment)
            managers.append(manager)
        clients = [manager.client() for manager in managers]
        for client in clients:
            client.start_channels()
            client.wait_for_ready(timeout=120)
        # Both kernels get each cell before either is asked for its answer, so that their steps are there at once.
        said = ["", ""]
        for cell in CELLS:
            requests = [client.execute(cell) for client in clients]
            for place, (client, request) in enumerate(zip(clients, requests, strict=True)):
                said[place] = printed(client, request)
        for python, text in zip(kernels, said, strict=True):
            result, (executable, *version) = json.loads(text)
            assert result == [2, 4]
            assert Path(executable) == python
            assert tuple(version) == version_of(python)
        after = json.loads(mlbench("service", "status", "--json", env=environment))
        assert after["pid"] == before["pid"]
        assert psutil.Process(after["pid"]).cmdline()[0] not in {str(python) for python in kernels}
    finally:
        for manager in managers:
            manager.shutdown_kernel(now=True)


def printed(client: Any, request: str) -> str:
    """Return what a cell printed; fail with its error if it has one."""
    text = ""
    while True:
        message = client.get_iopub_msg(timeout=180)
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        assert message["msg_type"] != "error", "\n".join(content["traceback"])
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            text += content["text"]
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return text
