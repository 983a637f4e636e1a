"""The command line. Each group of commands is a file, loaded when one of them is asked for, so that it starts fast.

Exit status: 0 done, 1 the notebook failed, 2 wrong use, or a store or service that cannot be used.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
from typing import Any, Final

import click

__all__ = ["main", "root"]

COMMANDS: Final = {
    "run": "mlbench.entrypoints.cli.run:run",
    "resume": "mlbench.entrypoints.cli.again:resume",
    "check": "mlbench.entrypoints.cli.look:check",
    "graph": "mlbench.entrypoints.cli.look:graph",
    "runs": "mlbench.entrypoints.cli.history:runs",
    "show": "mlbench.entrypoints.cli.history:show",
    "logs": "mlbench.entrypoints.cli.history:logs",
    "why": "mlbench.entrypoints.cli.again:why",
    "lineage": "mlbench.entrypoints.cli.compare:lineage",
    "diff": "mlbench.entrypoints.cli.compare:diff",
    "schedule": "mlbench.entrypoints.cli.jobs:schedule",
    "jobs": "mlbench.entrypoints.cli.jobs:jobs",
    "cluster": "mlbench.entrypoints.cli.cluster:cluster",
    "keep": "mlbench.entrypoints.cli.store:keep",
    "store": "mlbench.entrypoints.cli.store:store",
    "trust": "mlbench.entrypoints.cli.trust:trust",
    "service": "mlbench.entrypoints.cli.service:service",
    "config": "mlbench.entrypoints.cli.about:config",
    "version": "mlbench.entrypoints.cli.about:version",
}

_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)

SUMMARIES: Final = {
    "run": "Run a notebook, its steps side by side, and record it.",
    "resume": "Run again what a run left: what succeeded and is unchanged is reused.",
    "check": "Say what would fail in a notebook, before anything is run.",
    "graph": "Show a notebook's steps, and who waits for whom and why.",
    "runs": "List runs, or those that a query is true of.",
    "show": "Show a run: its steps, metrics and what went wrong.",
    "logs": "Print what a run, or one of its steps, has printed.",
    "why": "Say why a step was not reused: what had changed.",
    "lineage": "Show where a value comes from, and what was made of it.",
    "diff": "Show what differs between two runs, and where.",
    "schedule": "Make a notebook a job that runs by the clock.",
    "jobs": "List jobs; run, pause, resume, delete or show one.",
    "cluster": "Show, start, scale or stop the cluster that steps run on.",
    "keep": "Keep a run whatever the rules of retention say.",
    "store": "Check, clean, copy and measure the store.",
    "trust": "Say whose stored values may run code when you load them.",
    "service": "The process that runs steps and fires schedules.",
    "config": "Show which store is used, and why.",
    "version": "Show the version of mlbench.",
}


class _Commands(click.Group):
    """The commands by name; their summaries are here so that `mlbench --help` loads none of them."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, __: click.Context, name: str) -> click.Command | None:
        where = COMMANDS.get(name)
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
            near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
            meant = f"Did you mean `mlbench {near[0]}`?" if near else "See: mlbench --help"
            raise click.UsageError(f"There is no command `{arguments[0]}`. {meant}", context)
        return super().resolve_command(context, arguments)

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: mlbench run examples/flights.ipynb -p origin=LGA",
)
@click.version_option(package_name="mlbench", message="mlbench %(version)s")
def root() -> None:
    """Run notebooks whose cells are steps, see what was recorded, and schedule them."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status; errors of ours are one sentence, without a traceback."""
    _fill_gaps()
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    sys.exit(_status(arguments))


def _fill_gaps() -> None:
    """Open what our caller has closed of standard input, output and error, so that no file of ours gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  for as long as we live
            os.set_inheritable(stream.fileno(), True)  # kernels are ours, and need the three too
            setattr(sys, name, stream)


def _status(arguments: list[str] | None) -> int:
    from mlbench.core.errors import MlbenchError

    try:
        status = root(arguments, prog_name="mlbench", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group that was given no command; older clicks print it
            click.echo(error.format_message())
            return 0
        _say_error(_sentence(error))
        return 2
    except click.ClickException as error:
        _say_error(error.format_message())
        return 2
    except MlbenchError as error:
        _say_error(str(error))
        return 2
    except (KeyboardInterrupt, click.Abort) as stop:
        _say_error(str(stop) or "Interrupted.")
        return 130
    except BrokenPipeError:  # whoever read our output has gone
        from mlbench.entrypoints.cli.output import leave_unread

        leave_unread()
        return 0
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        from mlbench.entrypoints.cli.output import leave_unread

        leave_unread()
        _say_error(f"What there is to say cannot be written: {error.strerror}. Write it elsewhere, or make room there.")
        return 2
    return status if isinstance(status, int) else 0


def _sentence(error: click.UsageError) -> str:
    """Return what is wrong, the nearest right option, and where help is, in one line."""
    where = error.ctx.command_path if error.ctx is not None else "mlbench"
    message = error.format_message()
    return message if "See:" in message or "Did you mean" in message else f"{message} See: {where} --help"


def _say_error(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody can be told; the exit status says it
        click.secho(f"Error: {sentence}", fg="red", err=True)
