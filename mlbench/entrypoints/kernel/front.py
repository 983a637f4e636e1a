"""What the kernel can know of who asks: the request, its cell, the page or engine behind it, and the notebook.

Late output is known to arrive in two cases only: under mlbench's papermill engine, and in a page whose extension has
greeted this kernel and whose request says its cell.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from mlbench.core.errors import MlbenchError
from mlbench.core.ids import NotebookId, RunId, is_id
from mlbench.core.records import Json, RunKind

__all__ = ["PAGES", "Front"]

PAGES: Final = "mlbench_pages"
"""Attribute of the shell: the sessions of pages that have greeted this kernel."""

_LISTING: Final = frozenset({"who", "whos", "who_ls"})
NOTEBOOK_ID: Final = "mlbench_notebook_id"
"""Attribute of the shell: the id in the metadata of the notebook, as the page that greeted this kernel said it."""

_CONTROL: Final = frozenset({"Control", "IOPub", "Heartbeat"})


class Front:
    """Who asks this kernel for what.

    Parameters
    ----------
    shell
        IPython's; its `kernel`, if it has one, tells of requests.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.kernel = getattr(shell, "kernel", None)
        self._in_cell = False
        self._cell: str | None = None
        self._raw = ""
        self._request: Json = {}
        self._skew: float | None = None
        self._shutdown: Any = None
        self.kernel_id = _kernel_id()
        self.notebook = _notebook()

    # --- the request ------------------------------------------------------------------------------------------------

    def request(self) -> Json:
        """Return the request that is being answered, as it came; empty without a kernel."""
        if self.kernel is None:
            return {}
        try:
            return dict(self.kernel.get_parent() or {})
        except LookupError:  # a thread of the user before any request
            return {}

    @property
    def last_request(self) -> Json:
        """Return the request of the cell that ran last, or runs."""
        return self._request

    def tags(self) -> tuple[str, ...]:
        """Return the tags of the running cell, where the front end sends them."""
        found = (self._request.get("metadata") or {}).get("tags") or ()
        return tuple(str(one) for one in found)

    def parameters_in_file(self) -> str | None:
        """Return the source of the cell that is tagged `parameters` in the notebook's file, if that can be read.

        It tells of a cell that ran before this session began: above `%load_ext mlbench`, as papermill has it.
        """
        if self.notebook is None or self.engine_run() is not None:  # an engine knows its run's parameters
            return None
        from mlbench.notebook import document

        try:
            cell = document.parameters_cell(document.read(Path(self.notebook).read_bytes(), self.notebook))
        except (OSError, MlbenchError):
            return None
        return cell.source if cell is not None else None

    def cell_id(self) -> str | None:
        """Return the id of the running cell, where the front end sends it."""
        return self._cell

    @property
    def source(self) -> str:
        """Return the source of the cell that ran last, or runs."""
        return self._raw

    def cell_starts(self, info: Any) -> None:
        """Note which cell runs now."""
        self._in_cell = True
        self._request = self.request()
        self._cell = getattr(info, "cell_id", None)
        self._raw = getattr(info, "raw_cell", None) or ""
        sent = self._sent()
        if sent is not None:
            delay = time.time() - sent
            self._skew = delay if self._skew is None else min(self._skew, delay)

    def cell_ends(self) -> None:
        """Note that no cell runs."""
        self._in_cell = False

    def starts_with_step(self) -> bool:
        """Say whether the running cell is a step's alone, not one inside `%%time` or the like."""
        return not self._raw or self._raw.lstrip().startswith("%%step")

    def runs_cell(self) -> bool:
        """Say whether what is about to run is a user's cell, not a silent request."""
        if self.kernel is None:
            return True
        request = self.request()
        kind = request.get("header", {}).get("msg_type")
        return kind != "execute_request" or not request.get("content", {}).get("silent", False)

    def may_wait(self) -> bool:
        """Say whether code is running that may wait for a value: a cell's, a callback's or a thread's of the user.

        Whatever only looks (completion, inspection, variable panels, the debugger) may not.
        """
        thread = threading.current_thread()
        if thread.name in _CONTROL:
            return False
        if thread is not threading.main_thread() and not thread.name.startswith("subshell"):
            return True
        if self._in_cell and _only_looks():
            return False
        if self.kernel is None:
            return self._in_cell
        request = self.request()
        kind = str(request.get("header", {}).get("msg_type", ""))
        if kind.startswith("comm_"):
            return True
        return self._in_cell and kind == "execute_request" and not request.get("content", {}).get("silent", False)

    def _sent(self) -> float | None:
        sent = self._request.get("header", {}).get("date")
        return float(sent.timestamp()) if hasattr(sent, "timestamp") else None

    def sent_before(self, moment: float) -> bool:
        """Say whether the running cell was asked for before a moment of this machine's clock.

        The front end's clock may differ: the shortest delay seen between a request and its start is taken off.
        """
        request = self.request()
        if request.get("content", {}).get("stop_on_error", True) is False:
            return False
        sent = self._sent()
        return sent is not None and self._skew is not None and sent + self._skew < moment

    # --- the page or engine -----------------------------------------------------------------------------------------

    def under_engine(self) -> bool:
        """Say whether mlbench's own engine runs this notebook: it started this very kernel."""
        return os.environ.get("MLBENCH_ENGINE") == str(os.getppid()) and self.engine_run() is not None

    def engine_run(self) -> RunId | None:
        """Return the run that the engine has opened."""
        run = os.environ.get("MLBENCH_RUN")
        return RunId(run) if run and os.environ.get("MLBENCH_ENGINE") == str(os.getppid()) else None

    def kind(self) -> RunKind:
        """Return the kind of run that this kernel's steps belong to."""
        kind = os.environ.get("MLBENCH_RUN_KIND", "papermill")
        return ("job" if kind == "job" else "papermill") if self.engine_run() else "interactive"

    def takes_late_output(self) -> bool:
        """Say whether output that comes after the cell has ended is known to find its way to it."""
        if self.under_engine():
            return True
        request = self.request()
        session = request.get("header", {}).get("session")
        cell = (request.get("metadata") or {}).get("cellId")
        return bool(cell) and session in self._shell.__dict__.get(PAGES, ())

    def notebook_id(self) -> NotebookId | None:
        """Return the notebook's id, where a page has said it."""
        said = self._shell.__dict__.get(NOTEBOOK_ID)
        return NotebookId(said) if isinstance(said, str) and is_id(said) else None

    # --- the kernel's end -------------------------------------------------------------------------------------------

    def on_shutdown(self, action: Callable[[], None]) -> None:
        """Call back before the kernel ends or restarts."""
        kernel = self.kernel
        if kernel is None:
            return
        shut_down = self._shutdown = kernel.do_shutdown

        def closing(restart: bool) -> Any:  # noqa: FBT001  ipykernel's signature
            action()
            return shut_down(restart)

        kernel.do_shutdown = closing

    def restore(self) -> None:
        """Take back what was changed of the kernel."""
        if self.kernel is not None and self._shutdown is not None:
            self.kernel.do_shutdown = self._shutdown
            self._shutdown = None


def _only_looks() -> bool:
    """Say whether `%who` or one like it runs, or IPython's prefilter: they look at values, and must wait for none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in _LISTING and code.co_filename.endswith("magics/namespace.py"):
            return True
        if code.co_filename.endswith("IPython/core/prefilter.py"):
            return True
        frame = frame.f_back
    return False


def _kernel_id() -> str:
    """Return the kernel's id as its server knows it: the connection file carries it, also over a restart."""
    application = sys.modules.get("ipykernel.kernelapp")
    if application is not None and application.IPKernelApp.initialized():
        name = Path(application.IPKernelApp.instance().connection_file).stem
        if name.startswith("kernel-"):
            return name.removeprefix("kernel-")
    return uuid.uuid4().hex


def _notebook() -> str | None:
    """Return the notebook's path, where whoever started this kernel said it.

    A kernel that a kernel starts inherits the variable: what the parent process has too says nothing of this one.
    """
    if os.environ.get("MLBENCH_ENGINE") == str(os.getppid()) and os.environ.get("MLBENCH_NOTEBOOK"):
        return os.environ["MLBENCH_NOTEBOOK"]
    path = os.environ.get("JPY_SESSION_NAME")
    if not path:
        return None
    try:
        inherited = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        inherited = []
    return None if f"JPY_SESSION_NAME={path}".encode() in inherited else os.path.abspath(path)
