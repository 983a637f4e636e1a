"""What holds for every test: nothing of the user's machine is read or written, and nothing outlives the tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before anything is imported: Jupyter and IPython read their folders once, some of them at import. Paths of
# sockets end at 107 bytes, hence a short folder of our own instead of pytest's.
_FOLDER = Path(tempfile.mkdtemp(prefix="mlb"))
_OWN = {
    "MLBENCH_STORE": _FOLDER / "store",
    "MLBENCH_RUNTIME": _FOLDER / "run",
    "MLBENCH_KEYS": _FOLDER / "keys",
    "MLBENCH_CACHE": _FOLDER / "cache",
    "JUPYTER_CONFIG_DIR": _FOLDER / "jupyter" / "config",
    "JUPYTER_DATA_DIR": _FOLDER / "jupyter" / "data",
    "JUPYTER_RUNTIME_DIR": _FOLDER / "jupyter" / "runtime",
    "IPYTHONDIR": _FOLDER / "ipython",
    "MPLCONFIGDIR": Path(tempfile.gettempdir()) / f"mlbench-matplotlib-{os.getuid()}",
}
for _name in [name for name in os.environ if name.startswith(("MLBENCH_", "JPY_")) and name != "MLBENCH_CI_MARK"]:
    del os.environ[_name]
os.environ.update({name: str(path) for name, path in _OWN.items()})
os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
os.environ.pop("CI", None)  # it makes a service end with its last client: tests of that set it themselves
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so their children

# How long an example takes says more of the machine than of what is tested.
hypothesis.settings.register_profile("mlbench", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("mlbench")


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the project's folder."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    if list((_FOLDER / "run").glob("*.lock")):
        from mlbench.backends.service_socket import end_by_force

        end_by_force(runtime=_FOLDER / "run")
    shutil.rmtree(_FOLDER, ignore_errors=True)
