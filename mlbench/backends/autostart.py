"""Whether the service starts with the machine, and how to make it so: a systemd user unit, or launchd on macOS."""

from __future__ import annotations

import getpass
import os
import plistlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlbench.core.errors import ServiceError

__all__ = ["Autostart", "describe", "find"]

LABEL: Final = "org.mlbench.service"
_COMMAND_SECONDS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Autostart:
    """What starts the service here: the file that says so, its text, and the commands that put it to work.

    `hint` is what the user still has to do or know, one line.
    """

    kind: str
    path: Path
    text: str
    commands: tuple[tuple[str, ...], ...]
    hint: str

    @property
    def installed(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    def install(self) -> None:
        """Write the file and put it to work.

        Raises
        ------
        ServiceError
            If the file cannot be written, or a command fails; the file stays, so that it can be tried by hand.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.text, encoding="utf-8")
        except OSError as error:
            raise ServiceError(f"{self.path} cannot be written: {error.strerror or error}.") from error
        for command in self.commands:
            if shutil.which(command[0]) is None:
                raise ServiceError(
                    f"{self.path} is written, but {command[0]} is not on this machine.",
                    "Start `mlbench service run` from what supervises processes here.",
                )
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
                raise ServiceError(
                    f"{self.path} is written, but `{' '.join(command)}` failed: {said[-1]}.",
                    "Start `mlbench service run` from what supervises processes here.",
                )


_KEPT: Final = ("MLBENCH_STORE", "MLBENCH_RUNTIME", "MLBENCH_KEYS", "XDG_CONFIG_HOME")
"""Variables that say where things of this user are: kernels and the service have to agree on them."""


def find() -> Autostart:
    """Return how the service can be started with this machine, for this interpreter and this user's settings."""
    command = [sys.executable, "-m", "mlbench.entrypoints.service", "run"]
    kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    if sys.platform == "darwin":
        path = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        wanted = {
            "Label": LABEL,
            "ProgramArguments": command,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "EnvironmentVariables": kept,
        }
        return Autostart(
            kind="launchd",
            path=path,
            text=plistlib.dumps(wanted).decode(),
            commands=(("launchctl", "bootstrap", f"gui/{os.getuid()}", str(path)),),
            hint="It starts when you log in.",
        )
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    variables = "".join(f'Environment="{name}={_escaped(value)}"\n' for name, value in kept.items())
    text = (
        "[Unit]\n"
        "Description=mlbench: runs the steps of notebooks and fires schedules\n\n"
        "[Service]\n"
        f"ExecStart={' '.join(_quoted(part) for part in command)}\n"
        f"{variables}"
        "Restart=on-failure\n"
        "RestartSec=5\n"
        "KillMode=mixed\n\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )
    return Autostart(
        kind="systemd",
        path=home / "systemd" / "user" / "mlbench.service",
        text=text,
        commands=(
            ("systemctl", "--user", "daemon-reload"),
            ("systemctl", "--user", "enable", "--now", "mlbench.service"),
        ),
        hint=(
            "It starts with the machine."
            if _lingers()
            else f"It starts when you log in. To start it with the machine, run: loginctl enable-linger {_user()}"
        ),
    )


def describe() -> str:
    """Return the line about whether schedules go on after the machine has been started again."""
    way = find()
    if not way.installed:
        return (
            "The service does not start with this machine: after a restart, schedules go on when mlbench is next used, "
            "and the last time that was missed is made up for. To change that, run: mlbench service install"
        )
    if way.kind == "systemd" and _lingers():
        return "The service starts with this machine: schedules go on after a restart."
    more = f" To start it with the machine, run: loginctl enable-linger {_user()}" if way.kind == "systemd" else ""
    return f"The service starts when you log in; a time that was missed until then is made up for once.{more}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _lingers() -> bool:
    return Path("/var/lib/systemd/linger", _user()).exists()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _quoted(part: str) -> str:
    escaped = _escaped(part)
    return f'"{escaped}"' if " " in part else escaped
