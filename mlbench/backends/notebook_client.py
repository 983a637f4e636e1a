"""Runs the cells of a notebook in a kernel: papermill's client, with the outputs of steps that come later.

A step's cell returns at once and its outputs arrive while other cells run. They carry the step's own request as their
parent, so each finds its cell by it. When all cells have been started, a request that belongs to no cell waits for
what is still under way: without it the last outputs would be lost, and a late failure would pass for a success.
For a notebook without steps this is papermill's own client, message for message.
"""

from __future__ import annotations

import ast
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty
from typing import Any, Final

from nbclient.exceptions import CellExecutionComplete, CellExecutionError, CellTimeoutError
from nbclient.util import ensure_async, run_sync
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient

from mlbench.core.records import Json

__all__ = ["BARRIER", "NotebookRunner"]

BARRIER: Final = (
    "(lambda modules: 'mlbench.entrypoints.kernel' in modules and "
    "modules['mlbench.entrypoints.kernel'].barrier())(__import__('sys').modules)"
)
"""What the kernel runs when all cells have been started: it returns when no step is under way any more."""

OUTPUT_TYPES: Final = frozenset(
    {"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"}
)
OURS: Final = "mlbench"
"""The type of the messages in which a kernel tells its engine what is no output: what plain cells log."""

IDLE_WITHIN: Final = 5.0
"""Seconds that a kernel which has replied is given to be idle."""

Watch = Callable[[Json], None]


class NotebookRunner(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client for one notebook and one kernel.

    Parameters
    ----------
    nb_man
        papermill's bookkeeper of the notebook.
    environment
        Variables that the kernel gets besides this process's own.
    set_up
        Code that is run before the first cell, and is no cell.
    has_steps
        Whether outputs may come late; if not, everything is as papermill does it.
    started
        Called when the kernel's process has started, before it is waited for.
    ready
        Called when the kernel has started, before anything runs in it; if it raises, nothing does.
    computed
        Parameters whose values only the kernel knows: it is asked for them when it has run the cell that sets them.
    watch
        Called with each cell that begins and ends, and with what the kernel says besides outputs.
    """

    def __init__(
        self,
        nb_man: Any,
        *,
        environment: Mapping[str, str],
        set_up: str = "",
        has_steps: bool = False,
        started: Callable[[], None] | None = None,
        ready: Callable[[], None] | None = None,
        computed: Sequence[str] = (),
        watch: Watch | None = None,
        **traits: Any,
    ) -> None:
        super().__init__(nb_man, **traits)
        self._environment = dict(environment)
        self._set_up = set_up
        self._has_steps = has_steps
        self._started = started
        self._ready = ready
        self._computed = tuple(computed)
        self._watch = watch
        self._requests: dict[str, int] = {}
        self._clear_next: set[int] = set()
        self._came_late: set[int] = set()
        self._failed_late: dict[int, Json] = {}
        self.clear_before_next_output = False
        self.problems: list[str] = []

    def execute(self, **kwargs: Any) -> Any:
        """Run the notebook; see papermill's own."""
        import os

        kwargs.setdefault("env", {**os.environ, **self._environment})
        return super().execute(**kwargs)

    def start_new_kernel_client(self) -> Any:
        """Wait for the kernel, whose process has started; see nbclient's own."""
        if self._started is not None:
            self._started()
        return super().start_new_kernel_client()

    def papermill_execute_cells(self) -> None:
        """Run each cell, then wait for the steps, then put each failure where it belongs."""
        try:
            self._run_cells()
        except KeyboardInterrupt:
            self.shutdown_kernel = "immediate"  # a busy kernel that is asked to end would only complain
            _leave_tasks()
            raise

    def _begin(self) -> None:
        """Wait until cells may run; end the kernel outright if they may not.

        The usual end begins with an interrupt, which a kernel that may still be answering whether it is there would
        complain of on the terminal. In this one nothing has run that could be lost.
        """
        if self._ready is None:
            return
        try:
            self._ready()
        except BaseException:
            run_sync(ensure_async)(self.km.signal_kernel(signal.SIGKILL))
            raise

    def _run_cells(self) -> None:
        self._begin()
        if self._set_up:
            self.run_hidden(self._set_up)
        setting = _last_of_parameters(self.nb.cells) if self._computed else None
        for index, cell in enumerate(self.nb.cells):
            self._tell_cell(index, "running")
            if self._has_steps:
                # What JupyterLab says of a request: the kernel records the cell that a step is.
                tags = list(cell.metadata.get("tags", []))
                self.kc.session.metadata = {"cellId": cell.get("id"), "tags": tags}
            try:
                self.nb_man.cell_start(cell, index)
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index, exception=error)
                break
            finally:
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
                self._tell_cell(index, self.nb.cells[index].metadata.papermill["status"])
            if self._has_steps:
                self._read_late()
                if self._failed_late:
                    break
            if index == setting:
                self._ask_parameters()
        if self._has_steps:
            self.kc.session.metadata = {}
            self.run_hidden(BARRIER, timeout=self._get_timeout(None))
            self._read_late()
            self._settle()

    def wait_for_reply(self, msg_id: str, cell: NotebookNode | None = None) -> Any:
        """Wait for a reply, and for the kernel to be idle again; see nbclient's own.

        A kernel replies before it is done with the request. What comes next is its end, which begins with a signal:
        one that arrives in between is an interrupt of that request, and the kernel says so on the terminal.
        """
        reply = super().wait_for_reply(msg_id, cell)
        if reply is not None:
            run_sync(self._async_wait_until_idle)(msg_id)
        return reply

    # --- messages ------------------------------------------------------------------------------------------------

    async def _async_wait_until_idle(self, request: str) -> None:
        deadline = time.monotonic() + IDLE_WITHIN
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = await ensure_async(self.kc.iopub_channel.get_msg(timeout=min(left, 1)))
            except Empty:
                if not await ensure_async(self.km.is_alive()):
                    return
                continue
            if _is_idle(message, request):
                return
            self._take_any(message)

    async def _async_poll_output_msg(self, parent_msg_id: str, cell: NotebookNode, cell_index: int) -> None:
        self._requests[parent_msg_id] = cell_index
        while True:
            message = await ensure_async(self.kc.iopub_channel.get_msg(timeout=None))
            if message["msg_type"] == OURS:
                self._take_ours(message)
            elif message["parent_header"].get("msg_id") == parent_msg_id:
                try:
                    self.process_message(message, cell, cell_index)
                except CellExecutionComplete:
                    if self.clear_before_next_output:
                        self._clear_next.add(cell_index)
                    return
            else:
                self._take_late(message)

    def _take_late(self, message: Json) -> None:
        """Put an output of a step into the step's own cell."""
        index = self._requests.get(message["parent_header"].get("msg_id"))
        if index is None or message["msg_type"] not in OUTPUT_TYPES:
            return
        cell = self.nb.cells[index]
        count, clear_other = cell.get("execution_count"), self.clear_before_next_output
        if message["msg_type"] == "execute_result":
            message["content"]["execution_count"] = count
        self.clear_before_next_output = index in self._clear_next
        try:
            self.process_message(message, cell, index)
        finally:
            (self._clear_next.add if self.clear_before_next_output else self._clear_next.discard)(index)
            self.clear_before_next_output = clear_other
        cell["execution_count"] = count
        self._came_late.add(index)
        if message["msg_type"] == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            self._failed_late.setdefault(index, message["content"])
        self._note_end(cell)

    def _take_ours(self, message: Json) -> None:
        if self._watch is not None:
            self._watch({"type": "kernel", **message["content"]})

    def _note_end(self, cell: NotebookNode) -> None:
        """Keep papermill's times of a cell true: it has ended when its last output came."""
        from datetime import datetime

        told = cell.metadata.get("papermill") or {}
        if told.get("start_time") and told.get("end_time"):
            now = self.nb_man.now()
            told["end_time"] = now.isoformat()
            told["duration"] = (now - datetime.fromisoformat(told["start_time"])).total_seconds()

    def _read_late(self) -> None:
        """Take the messages that have come since the last cell ended."""
        while True:
            try:
                message = run_sync(ensure_async)(self.kc.iopub_channel.get_msg(timeout=0))
            except Empty:
                return
            self._take_any(message)

    def _take_any(self, message: Json) -> None:
        if message["msg_type"] == OURS:
            self._take_ours(message)
        else:
            self._take_late(message)

    def _ask_parameters(self) -> None:
        """Ask the kernel which values the parameters have that their cell computes, and tell those that are plain."""
        self.kc.session.metadata = {}
        asked = {name: f"__import__('json').dumps({name})" for name in self._computed}
        answers = self.run_hidden("", expressions=asked).get("user_expressions") or {}
        found = {}
        for name, answer in answers.items():
            if answer.get("status") == "ok":  # any other is no value that could be shown: a table, a model
                found[name] = json.loads(ast.literal_eval(answer["data"]["text/plain"]))
        if found and self._watch is not None:
            self._watch({"type": "kernel", "parameters": found})

    def run_hidden(
        self, code: str, *, timeout: float | None = None, expressions: Mapping[str, str] | None = None
    ) -> Json:
        """Run code in the kernel that is no cell of the notebook; return its reply's content.

        `expressions` are Python's, by names under which their values come in the reply's `user_expressions`.

        Raises
        ------
        nbclient.exceptions.CellTimeoutError, nbclient.exceptions.DeadKernelError
            As a cell would.
        """
        reply: Json = run_sync(self._async_run_hidden)(code, timeout, expressions)
        if reply.get("status") == "error":
            self.problems.append(f"{reply.get('ename')}: {reply.get('evalue')}")
        return reply

    async def _async_run_hidden(
        self, code: str, seconds: float | None, expressions: Mapping[str, str] | None = None
    ) -> Json:
        deadline = None if seconds is None else time.monotonic() + seconds
        request = await ensure_async(
            self.kc.execute(
                code,
                silent=True,
                store_history=False,
                user_expressions=dict(expressions or {}),
                stop_on_error=False,
            )
        )
        while True:
            try:
                message = await ensure_async(self.kc.iopub_channel.get_msg(timeout=1))
            except Empty:
                await self._async_check_alive()
                if deadline is not None and time.monotonic() > deadline:
                    raise CellTimeoutError(
                        f"Steps were still under way {seconds:.0f} seconds after the last cell was started."
                    ) from None
                continue
            if _is_idle(message, request):
                break
            if message["parent_header"].get("msg_id") != request or message["msg_type"] == OURS:
                self._take_any(message)
        while True:
            try:
                reply: Json = await ensure_async(self.kc.shell_channel.get_msg(timeout=1))
            except Empty:
                await self._async_check_alive()
                continue
            if reply["parent_header"].get("msg_id") == request:
                content: Json = reply["content"]
                return content

    # --- the end -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Mark steps that failed late, and let the cells that only waited for one say so without an error.

        papermill reports the last cell that holds an error: that has to be the step's own.
        """
        for index in sorted(self._failed_late):
            self.nb_man.cell_exception(self.nb.cells[index], cell_index=index)
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code" or not cell.get("outputs"):
                continue
            if self._failed_late and index not in self._failed_late:
                self._demote(cell)
            if index in self._came_late:
                cell.outputs = _joined(cell.outputs)

    def _demote(self, cell: NotebookNode) -> None:
        for place, output in enumerate(cell.outputs):
            if output.output_type == "error" and output.ename == "StepFailed":
                text = f"Not run: {output.evalue}\n"
                cell.outputs[place] = new_output("stream", name="stderr", text=text)  # type: ignore[no-untyped-call]
                cell.metadata.papermill["exception"] = False

    @property
    def failed_late(self) -> tuple[int, ...]:
        """The places of the cells whose steps failed after their cell had returned."""
        return tuple(sorted(self._failed_late))

    def _tell_cell(self, index: int, state: str) -> None:
        if self._watch is not None:
            self._watch({"type": "cell", "index": index, "count": len(self.nb.cells), "state": state})


def _last_of_parameters(cells: Sequence[NotebookNode]) -> int | None:
    """Return the place of the cell after which the parameters are what they are: the notebook's own, or papermill's."""
    tagged = ({"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])) for cell in cells)
    return max((index for index, tags in enumerate(tagged) if tags), default=None)


def _is_idle(message: Json, request: str) -> bool:
    """Say whether a message tells that the kernel is done with a request."""
    return bool(
        message["parent_header"].get("msg_id") == request
        and message["msg_type"] == "status"
        and message["content"]["execution_state"] == "idle"
    )


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs with neighbours of one stream joined, as a page shows them.

    Examples
    --------
    >>> a, b = (NotebookNode(output_type="stream", name="stdout", text=text) for text in "ab")
    >>> [output.text for output in _joined([a, b])]
    ['ab']
    """
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _leave_tasks() -> None:
    """End what still waits for the kernel's answers: it would complain of the kernel's end, which is wanted."""
    import asyncio

    from jupyter_core.utils import ensure_event_loop

    for task in asyncio.all_tasks(ensure_event_loop()):
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        task.cancel()
