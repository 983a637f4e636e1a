"""What is shipped works where nothing else is: no Node, no checkout, JupyterLab and kernel together or apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BUNDLE = "data/share/jupyter/labextensions/mlbench"


def run(command: list[str], **options: object) -> str:
    """Run a command and return what it said; show all of it if it fails."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)  # type: ignore[call-overload]
    assert answer.returncode == 0, f"{' '.join(command)}\n{answer.stdout}\n{answer.stderr}"
    return str(answer.stdout) + str(answer.stderr)


def with_tools() -> dict[str, str]:
    """Return an environment in which npm finds the tools that are Python packages."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def without_node() -> dict[str, str]:
    """Return an environment whose PATH holds the system's own tools at most, and neither Node nor npm."""
    folders = os.environ["PATH"].split(os.pathsep)
    kept = [folder for folder in folders if not any(Path(folder, tool).exists() for tool in ("node", "npm"))]
    return {**os.environ, "PATH": os.pathsep.join(kept)}


@pytest.fixture(scope="module")
def uv() -> str:
    """Return the installer, of this environment or of the machine."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed")
    return found


@pytest.fixture(scope="module")
def clone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what is committed or about to be, with its front end built for release."""
    if shutil.which("npm") is None or not (root / "node_modules").is_dir():
        pytest.skip("the front end's tools are not installed: make setup")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=root, capture_output=True, check=True, timeout=60).stdout.decode()
    place = tmp_path_factory.mktemp("clone")
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, place / name)
    (place / "node_modules").symlink_to(root / "node_modules")
    run(["npm", "run", "--silent", "build:prod"], cwd=place, env=with_tools())
    (place / "node_modules").unlink()
    return place


@pytest.fixture(scope="module")
def built(clone: Path, uv: str) -> dict[str, Path]:
    """Return a wheel and a source distribution of the clone."""
    python = ["--python", sys.executable]
    run(
        [uv, "build", "--no-build-isolation", *python, "--sdist", "--wheel", "--out-dir", "dist"],
        cwd=clone,
        env=with_tools(),
    )
    return {"wheel": next(clone.glob("dist/*.whl")), "sdist": next(clone.glob("dist/*.tar.gz"))}


@pytest.fixture(scope="module")
def lab(built: dict[str, Path], uv: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the wheel and JupyterLab, made where there is no Node."""
    return environment(tmp_path_factory.mktemp("lab"), f"{built['wheel']}[lab]", uv, root)


@pytest.fixture(scope="module")
def kernel(built: dict[str, Path], uv: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the wheel alone: what a kernel needs."""
    return environment(tmp_path_factory.mktemp("kernel"), str(built["wheel"]), uv, root)


def environment(place: Path, requirement: str, uv: str, root: Path) -> Path:
    """Make an empty environment, install into it, and return the folder of its commands."""
    run([uv, "venv", "--python", sys.executable, str(place / "venv")])
    python = str(place / "venv" / "bin" / "python")
    install = [uv, "pip", "install", "--python", python, "-c", str(root / "constraints.txt"), requirement]
    run(install, env=without_node(), cwd=place)
    return place / "venv" / "bin"


PROBE = """
import sys
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name=sys.argv[1])
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=120)
said = []
answer = client.execute_interactive(
    "%load_ext mlbench\\nimport mlbench, sys\\nprint('loaded by', sys.executable)",
    timeout=120, output_hook=lambda message: said.append(str(message["content"])),
)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(answer["content"]["status"], *said)
"""


def test_the_wheel_holds_the_bundle_and_its_settings(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    assert len(names) == len(set(names))
    for part in ("package.json", "install.json", "static/style.js"):
        assert any(name.endswith(f"{BUNDLE}/{part}") for name in names), part
    assert any(f"{BUNDLE}/static/remoteEntry" in name for name in names)
    assert any("/etc/jupyter/jupyter_server_config.d/" in name and name.endswith(".json") for name in names)
    assert "mlbench/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "node_modules/", "mlbench/labextension/"))]


def test_the_wheel_holds_every_module_and_data_file_of_the_package(built: dict[str, Path], root: Path) -> None:
    listing = subprocess.run(["git", "ls-files", "mlbench"], cwd=root, capture_output=True, text=True, check=True)
    assert set(listing.stdout.split()) <= set(zipfile.ZipFile(built["wheel"]).namelist())


def test_the_source_distribution_holds_bundle_and_sources(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "mlbench/labextension/static/style.js" in names
    for needed in ("package.json", "package-lock.json", "src/index.ts", "hatch_build.py", "LICENSE", "install.json"):
        assert needed in names
    assert not [name for name in names if name.startswith(("node_modules/", ".venv/", "lib/"))]


def test_jupyterlab_finds_both_extensions_without_node(lab: Path) -> None:
    listed = run([str(lab / "jupyter"), "labextension", "list"], env=without_node())
    line = next(line for line in listed.splitlines() if "mlbench v" in line)
    assert "enabled" in line
    assert "OK" in line
    served = run([str(lab / "jupyter"), "server", "extension", "list"], env=without_node())
    assert "mlbench" in served
    assert "Validating" not in served or "OK" in served


def test_the_command_says_its_version(kernel: Path, root: Path) -> None:
    version = json.loads((root / "package.json").read_text("utf-8"))["version"]
    assert version in run([str(kernel / "mlbench"), "version"], env=without_node())


def test_a_kernels_environment_holds_no_jupyterlab(kernel: Path) -> None:
    probe = "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('jupyterlab', 'jupyter_server')])"
    assert "[False, False]" in run([str(kernel / "python"), "-c", probe])


def test_the_extension_loads_in_a_kernel(kernel: Path) -> None:
    said = run([str(kernel / "python"), "-c", PROBE, "python3"], env=without_node())
    assert "ok" in said.split()
    assert str(kernel / "python") in said


def test_jupyterlab_and_kernel_live_in_two_environments(lab: Path, kernel: Path, tmp_path: Path) -> None:
    spec = tmp_path / "kernels" / "elsewhere" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(kernel / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Elsewhere", "language": "python"}), "utf-8")
    said = run([str(lab / "python"), "-c", PROBE, "elsewhere"], env={**without_node(), "JUPYTER_PATH": str(tmp_path)})
    assert "ok" in said.split()
    assert str(kernel / "python") in said
