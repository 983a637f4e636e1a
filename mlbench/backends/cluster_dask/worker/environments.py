"""Environments of steps' own (`--env`), made where their worker is and kept by the digest of what they were made from.

One is a virtual environment in a folder named by that digest, made with uv, or with venv and pip where there is no uv.
It holds what was asked for and the few packages that a step's process needs of mlbench, in the versions that this
installation has; mlbench itself comes from this installation by its path. Whoever makes one holds its lock, and its
last file, `complete`, says that it may be used: what a killed worker has left unfinished is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from mlbench.core.errors import UsageError
from mlbench.core.messages import StepTask

__all__ = ["fitted"]

NEEDED: Final = ("blake3", "cloudpickle", "ipython", "msgspec")
"""What a step's process imports; what these need comes with them."""

_MAKE_SECONDS: Final = 3600.0
_LOOK_SECONDS: Final = 0.1
_LAST_LINES: Final = 12
_ASK: Final = "import json, sys; print(json.dumps([sys.implementation.name, list(sys.version_info), sys.base_prefix]))"
_PATH: Final = "import json, sys; print(json.dumps([one for one in sys.path if one]))"
_NOT_WHILE_MAKING: Final = (
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_TARGET", "PIP_PREFIX"),
    *("FORCE_COLOR", "CLICOLOR_FORCE"),
)
_PACKAGES: Final = re.compile(r"[/\\](site|dist)-packages([/\\]|$)|[/\\]python\d[\d.]*(\.zip|[/\\]lib-dynload)?$")


def fitted(task: StepTask, say: Callable[[str], None], stop: Callable[[], bool]) -> StepTask | None:
    """Return a step's task with the environment that it asks for, which is made if it is not there.

    Parameters
    ----------
    say
        Takes a line for the user.
    stop
        Says that nobody waits any more; the answer is then None.

    Raises
    ------
    UsageError
        If it cannot be made; the sentence has the last lines of what was tried.
    """
    if task.env is None:
        return task
    variables = task.environment.variables
    lines = _with_needed(task.requirements)
    interpreter = task.environment.interpreter
    digest = hashlib.sha256(json.dumps([_version_of(interpreter), lines, _pinned("mlbench")]).encode()).hexdigest()[:32]
    folder = _home(variables) / digest
    path = _find(folder)
    if path is None:
        path = _obtain(folder, task, lines, say, stop)
        if path is None:
            return None
    own = {name: one for name, one in variables.items() if name not in ("PYTHONHOME", "CONDA_PREFIX")}
    own |= {
        "VIRTUAL_ENV": str(folder),
        "PATH": os.pathsep.join([str(folder / "bin"), variables.get("PATH", os.defpath)]),
    }
    environment = dataclasses.replace(
        task.environment, interpreter=str(folder / "bin" / "python"), variables=own, stamp=digest
    )
    surroundings = task.surroundings
    if surroundings is not None:  # modules of the user's own still come first; packages are this environment's
        users = [one for one in surroundings.path if not _PACKAGES.search(one)]
        surroundings = dataclasses.replace(surroundings, path=tuple(dict.fromkeys([*users, *path])))
    return dataclasses.replace(task, environment=environment, surroundings=surroundings)


def _obtain(
    folder: Path, task: StepTask, lines: Sequence[str], say: Callable[[str], None], stop: Callable[[], bool]
) -> list[str] | None:
    """Make an environment, or wait for who makes it; return its `sys.path`, None if nobody waits any more."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    name, count = task.env, len(task.requirements)
    with open(f"{folder}.lock", "ab") as lock:
        if not _take(lock.fileno()):
            say(f"Waits for environment {name}, which another step makes.")
            waiting = threading.Event()
            while not _take(lock.fileno()):
                if stop():
                    return None
                waiting.wait(_LOOK_SECONDS)
        path = _find(folder)
        if path is None and not stop():
            say(f"Makes environment {name} ({count} requirement{'s' if count != 1 else ''}), once for all steps.")
            path = _make(folder, task, lines, lock.fileno(), stop)
        return path


def _make(folder: Path, task: StepTask, lines: Sequence[str], lock: int, stop: Callable[[], bool]) -> list[str] | None:
    shutil.rmtree(folder, ignore_errors=True)
    variables = {name: one for name, one in task.environment.variables.items() if name not in _NOT_WHILE_MAKING}
    variables["NO_COLOR"] = "1"  # a kernel asks for colours; what goes wrong is recorded, and shown as text
    interpreter, python = task.environment.interpreter, str(folder / "bin" / "python")
    with tempfile.TemporaryDirectory(prefix="mlbench-env-") as beside:
        wanted = Path(beside, "requirements.txt")
        wanted.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        uv = _find_uv(variables)
        commands = (
            [
                [uv, "venv", "--quiet", "--python", interpreter, str(folder)],
                [uv, "pip", "install", "--quiet", "--python", python, "-r", str(wanted)],
            ]
            if uv is not None
            else [
                [interpreter, "-m", "venv", str(folder)],
                [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)],
            ]
        )
        for command in (*commands, [python, "-c", _PATH]):
            said = _run(command, beside, variables, lock, stop)
            if said is None:
                return None
            code, text = said
            if code:
                shutil.rmtree(folder, ignore_errors=True)
                last = "\n".join(text.strip().splitlines()[-_LAST_LINES:]) or f"exit status {code}"
                raise UsageError(
                    f"Environment {task.env} could not be made:\n{_without_secrets(last)}\n",
                    "Correct its requirements, then run the cell again.",
                )
    path: list[str] = json.loads(text.strip().splitlines()[-1])
    new = folder / "complete.new"
    with new.open("w", encoding="utf-8") as file:
        requirements = [_without_secrets(line) for line in lines]
        json.dump({"name": task.env, "requirements": requirements, "path": path}, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(folder / "complete")
    return path


def _run(
    command: Sequence[str], folder: str, variables: Mapping[str, str], lock: int, stop: Callable[[], bool]
) -> tuple[int, str] | None:
    """Run a command to its end; return its exit status and what it said, None if nobody waits for it any more.

    It holds the lock too, so that nobody else begins while it goes on, should this process be killed.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
            )
        except OSError as error:
            return 1, f"{command[0]}: {error.strerror}"
        try:
            for _ in range(int(_MAKE_SECONDS / _LOOK_SECONDS)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_SECONDS)
                    break
                if stop():
                    return None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return process.returncode, said.read().decode("utf-8", "replace")


def _find(folder: Path) -> list[str] | None:
    try:
        path: list[str] = json.loads((folder / "complete").read_text("utf-8"))["path"]
    except (OSError, ValueError, KeyError):
        return None
    return path if os.access(folder / "bin" / "python", os.X_OK) else None


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _home(variables: Mapping[str, str]) -> Path:
    named = variables.get("MLBENCH_ENVIRONMENTS")
    if named:
        return Path(os.path.abspath(Path(named).expanduser()))
    import platformdirs

    return Path(platformdirs.user_cache_dir("mlbench", appauthor=False)) / "environments"


def _with_needed(requirements: Sequence[str]) -> list[str]:
    """Return the lines with what a step's process needs, in our versions where the lines do not say another.

    Examples
    --------
    >>> [line.partition("=")[0] for line in _with_needed(["pandas", "IPython >= 8"])]
    ['IPython >', 'blake3', 'cloudpickle', 'msgspec', 'pandas']
    """
    named = {_canonical(line) for line in requirements}
    return sorted([*requirements, *(_pinned(name) for name in NEEDED if name not in named)])


def _canonical(line: str) -> str:
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else line


def _pinned(name: str) -> str:
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name


@functools.lru_cache(maxsize=64)
def _version_of(interpreter: str) -> str:
    """Return which Python an interpreter is."""
    if interpreter == sys.executable:
        return json.dumps([sys.implementation.name, list(sys.version_info), sys.base_prefix])
    try:
        return subprocess.run(
            [interpreter, "-I", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{interpreter} can't be started: {error}.", "Restart the kernel.") from error


def _find_uv(variables: Mapping[str, str]) -> str | None:
    beside = os.path.dirname(sys.executable)
    return shutil.which("uv", path=os.pathsep.join([variables.get("PATH", os.defpath), beside]))


def _without_secrets(text: str) -> str:
    """Return a text without the passwords that its addresses hold.

    Examples
    --------
    >>> _without_secrets("--index-url https://ada:secret@packages.example/simple")
    '--index-url https://***@packages.example/simple'
    """
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)
