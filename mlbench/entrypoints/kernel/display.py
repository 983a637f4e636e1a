"""Bring what a step prints and shows to where its cell is.

While the step's own cell runs, its output is the cell's: it goes the way of all output of a kernel. Later it is sent
from a thread: under mlbench's papermill engine as an answer to the step's own request, which the engine routes; in a
page whose extension has greeted this kernel as a message of its own, marked with the execution and the cell that it
belongs to.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import uuid
from collections.abc import Callable
from typing import Any, Final

from mlbench.core.records import Json

__all__ = ["Delivery", "let_figures_show", "show_here"]

_LOG = logging.getLogger(__name__)
_TYPES: Final = frozenset({"stream", "display_data", "execute_result", "update_display_data", "clear_output", "error"})


def show_here(shell: Any, message: Json) -> None:
    """Show one message of a step as output of the running cell."""
    kind = message["output_type"]
    if kind == "stream":
        stream = sys.stderr if message.get("name") == "stderr" else sys.stdout
        stream.write(message["text"])
        stream.flush()
    elif kind == "clear_output":
        shell.display_pub.clear_output(wait=bool(message.get("wait")))
    elif kind == "execute_result" and hasattr(shell.displayhook, "session"):
        _flush()
        hook = shell.displayhook
        content = {
            "execution_count": shell.execution_count,
            "data": message["data"],
            "metadata": message.get("metadata", {}),
        }
        hook.session.send(hook.pub_socket, "execute_result", content, parent=hook.parent_header, ident=hook.topic)
    elif kind in ("display_data", "update_display_data", "execute_result"):
        if getattr(shell, "kernel", None) is None and _is_passing(message):
            return
        _flush()
        shell.display_pub.publish(
            message["data"],
            message.get("metadata", {}),
            transient=message.get("transient") or {},
            update=kind == "update_display_data",
        )


def _is_passing(message: Json) -> bool:
    """Say whether a message is a picture of items that are under way: a terminal would print each below the last."""
    from mlbench.runs.picture import MIME

    picture = message["data"].get(MIME)
    if picture is None:
        return False
    counts = picture["counts"]
    ended = sum(counts[state] for state in ("succeeded", "reused", "failed", "cancelled"))
    return picture["total"] is None or bool(counts["running"]) or ended < picture["total"]


def let_figures_show(value: Any) -> None:
    """See to it that a figure that was made in a step is shown like one that was made here.

    The inline backend tells IPython how when the first figure is made, and none may have been made in this kernel.
    """
    if type(value).__module__.partition(".")[0] == "matplotlib" and "inline" in os.environ.get("MPLBACKEND", ""):
        importlib.import_module("matplotlib_inline.backend_inline")


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


class Delivery:
    """Sends late output from any thread.

    Parameters
    ----------
    kernel
        The ipykernel; its `session` signs and its `iopub_socket` sends.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def send(self, message: Json, *, parent: Json | None, about: Json) -> None:
        """Send one message of a step.

        Parameters
        ----------
        message
            An output as nbformat has it, with `transient` where it has one.
        parent
            The request that it answers, or None for a message of its own.
        about
            `execution`, `step` and `cell`.
        """
        kind = message["output_type"]
        if kind not in _TYPES:
            _LOG.warning("Left out a message of step %s of an unknown type: %s", about.get("step"), kind)
            return
        content = {name: value for name, value in message.items() if name != "output_type"}
        if kind in ("display_data", "update_display_data"):
            content.setdefault("transient", {})
        if kind == "execute_result" and content.get("execution_count") is None:
            # JupyterLab refuses a message without a number; its page puts the cell's own there.
            content["execution_count"] = 0 if parent is None else None
        session, socket = self._kernel.session, self._kernel.iopub_socket
        if socket is None:  # the kernel is ending
            return
        session.send(
            socket,
            kind,
            content,
            parent=parent if parent is not None else _own_parent(),
            ident=self._kernel._topic(kind),
            metadata={"mlbench": about},
        )

    def tell(self, content: Json) -> None:
        """Tell mlbench's engine what is no output."""
        session, socket = self._kernel.session, self._kernel.iopub_socket
        if socket is not None:
            session.send(
                socket, "mlbench", content, parent=self._kernel.get_parent(), ident=self._kernel._topic("mlbench")
            )

    def after_idle(self, action: Callable[[], None]) -> None:
        """Call back when the running request has been answered: nothing late comes before its idle status."""
        loop = getattr(self._kernel, "io_loop", None)
        if loop is None:
            action()
        else:
            loop.add_callback(action)


def _own_parent() -> Json:
    """Return a header that belongs to no request, so that no front end takes the message for another cell's."""
    return {
        "msg_id": uuid.uuid4().hex,
        "session": "mlbench",
        "msg_type": "execute_request",
        "username": "mlbench",
        "version": "5.3",
    }
