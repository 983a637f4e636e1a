"""`mlbench logs -f`: what a run prints, as it prints it, until it ends.

The service sends what steps print to whoever asks. What they printed before is asked for once for each step, together
with the number of the last piece of news that is in it, so that nothing is shown twice and nothing is left out.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from mlbench.core.errors import NotFound, ServiceError
from mlbench.core.ids import ExecutionId, short
from mlbench.core.messages import Event
from mlbench.core.records import ENDED, Execution, Json, Run
from mlbench.entrypoints.cli import output
from mlbench.runs.key import ITEMS
from mlbench.runs.picture import MIME as FANOUT

if TYPE_CHECKING:
    from mlbench.backends.service_socket import ServiceClient
    from mlbench.project import Project

__all__ = ["Printer", "follow", "item_of", "texts"]

_PROGRESS_SECONDS: Final = 2.0
"""Seconds between two lines that say how far a fan-out is."""

_LOOK_EVERY: Final = 2.0
"""Seconds without news after which the catalog is asked whether the run has ended."""


class Printer:
    """Prints what steps print: a line above says which step it is, whenever it is another one than before."""

    def __init__(self, *, as_json: bool, headings: bool) -> None:
        self._as_json = as_json
        self._headings = headings
        self._last: str | None = None
        self._open = False  # whether the last line has no end yet

    def show(self, step: str | None, cell: str | None, messages: Sequence[Json]) -> None:
        """Print messages of a step."""
        if self._as_json:
            if messages:
                click.echo(json.dumps({"step": step, "cell": cell, "messages": list(messages)}, ensure_ascii=False))
            return
        text = output.clean("".join(texts(messages)))
        if not text:
            return
        name = step or cell or ""
        if self._headings and name != self._last:
            self.close()
            click.secho(f"--- {output.clean(name)} ---", bold=True)
        self._last = name
        click.echo(text, nl=False)
        self._open = not text.endswith("\n")

    def show_progress(self, step: str, cell: str | None, picture: Json) -> None:
        """Print how far a fan-out is: the first line of its picture."""
        if self._as_json:
            self.show(step, cell, [picture])
            return
        lines = _joined(picture["data"].get("text/plain", "")).splitlines()
        if lines:
            self.close()
            self._last = None  # what is printed next says again whose it is
            click.echo(output.clean(lines[0]))

    def close(self) -> None:
        """End the last line."""
        if self._open:
            click.echo()
        self._open = False


def follow(project: Project, run: Run, step: str | None, printer: Printer, *, item: int | None = None) -> int:
    """Print what a run, a step of it or an item of that step prints until it ends; return 0 if it succeeded, else 1."""
    from mlbench.backends.service_socket import connect

    news: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    try:
        client = connect(role="cli", start=False)
    except ServiceError:
        if run.ended is None and any(one.state not in ENDED for one in project.steps(run.id)):
            raise
        return _Followed(project, run, step, printer, news, None, item).until_ended()
    with client:
        client.on_event(lambda event: news.put(event) if event.run in (None, run.id) else None)
        client.on_lost(lambda _: news.put(None))
        client.request("subscribe", {"messages": True, "notebook": run.notebook})
        return _Followed(project, run, step, printer, news, client, item).until_ended()


class _Followed:
    """One run that is followed.

    Parameters
    ----------
    news
        Its news in their order; None when the service is lost.
    client
        Asks the service; None where there is none, and the catalog says when the run has ended.
    """

    def __init__(
        self,
        project: Project,
        run: Run,
        step: str | None,
        printer: Printer,
        news: queue.SimpleQueue[Event | None],
        client: ServiceClient | None,
        item: int | None,
    ) -> None:
        self._project = project
        self._run = run
        self._step = step
        self._printer = printer
        self._news = news
        self._client = client
        self._item = item
        self._seen: dict[ExecutionId, int] = {}  # what is shown of an execution: all news up to this number
        self._told: dict[ExecutionId, float] = {}  # when it was said how far a fan-out is

    def until_ended(self) -> int:
        """Print until the end comes; return the exit status."""
        for execution in self._project.steps(self._run.id):
            if self._wanted(execution.step):
                self._catch_up(execution.id)
        look = self._item is not None  # its record has all that it printed
        while True:
            ended = self._ended() if look else None
            if ended is not None:
                self._printer.close()
                return ended
            try:
                event = self._news.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                look = True
                continue
            if event is None:
                raise ServiceError(
                    "The mlbench service was lost.", f"See what became of it: mlbench show {short(self._run.id)}"
                )
            self._take(event)
            look = self._tells_of_an_end(event)

    def _tells_of_an_end(self, event: Event) -> bool:
        """Say whether what is followed may have ended: all that it printed has come before this news."""
        if event.type == "run":
            return event.body["run"]["state"] in ENDED
        record = event.body["execution"] if event.type == "execution" else None
        if record is None or record["step"] != self._step:
            return False
        return record["state"] in ENDED or self._item is not None

    def _take(self, event: Event) -> None:
        """Print what a piece of news says, unless it has been printed; go on with the rest that is there."""
        if event.type == "messages" and self._wanted(event.body["step"]):
            execution = ExecutionId(event.body["execution"])
            if execution not in self._seen:
                self._catch_up(execution)
            if event.seq > self._seen[execution] and self._item is None:
                self._seen[execution] = event.seq
                messages = event.body["messages"]
                self._printer.show(event.body["step"], event.body["cell"], _without_pictures(messages))
                self._tell_progress(execution, event.body["step"], event.body["cell"], messages)
        elif event.type == "execution" and self._wanted(event.body["execution"]["step"]):
            execution = ExecutionId(event.body["execution"]["id"])
            state = event.body["execution"]["state"]
            if execution not in self._seen and state != "queued":
                self._catch_up(execution)
            elif state in ENDED and event.body["execution"].get("fanout") and self._item is None:
                record, _ = self._ask(execution)
                self._printer.show(record.step, record.cell, [one for one in record.messages if _is_picture(one)])

    def _catch_up(self, execution: ExecutionId) -> None:
        """Print what an execution has printed so far."""
        self._seen[execution] = 0
        if self._item is not None:
            return
        record, seq = self._ask(execution)
        self._seen[execution] = seq
        messages = record.messages if record.state in ENDED else _without_pictures(record.messages)
        self._printer.show(record.step, record.cell, messages)
        if record.state not in ENDED:
            self._tell_progress(execution, record.step, record.cell, record.messages)

    def _tell_progress(self, execution: ExecutionId, step: str, cell: str | None, messages: Sequence[Json]) -> None:
        """Say now and then how far a fan-out is; its last picture is shown whole when it has ended."""
        pictures = [one for one in messages if _is_picture(one)]
        now = time.monotonic()
        if not pictures or now - self._told.get(execution, float("-inf")) < _PROGRESS_SECONDS:
            return
        facts = pictures[-1]["data"][FANOUT]
        if facts["total"] and facts["counts"]["running"] + facts["states"].count("q"):
            self._told[execution] = now
            self._printer.show_progress(step, cell, pictures[-1])

    def _ask(self, execution: ExecutionId) -> tuple[Execution, int]:
        if self._client is not None:
            from mlbench.runs.wire import msgspec

            try:
                answer = self._client.request("execution", {"id": execution, **self._project.location.named()})
                return msgspec.convert(answer["execution"], Execution), int(answer.get("seq", 0))
            except NotFound:
                pass  # the service has let go of it, so it is in the catalog
        return self._project.catalog.execution(execution), 0

    def _wanted(self, step: str) -> bool:
        return self._step is None or step == self._step

    def _ended(self) -> int | None:
        """Return the exit status if what is followed has ended, and all that it printed has been printed."""
        run = self._project.catalog.run(self._run.id)
        if self._step is not None:
            found = [one for one in self._project.steps(run.id) if one.step == self._step]
            if self._item is not None:
                return self._item_ended(found[-1] if found else None, run)
            if found and found[-1].state in ENDED:
                return int(found[-1].state not in ("succeeded", "reused"))
            if run.state in ENDED and not found:
                raise NotFound(f"Run {short(run.id)} ended without a step {self._step}.")
        if run.state not in ENDED:
            return None
        for execution in self._project.steps(run.id):
            if execution.id not in self._seen:
                self._catch_up(execution.id)
        return int(run.state != "succeeded")

    def _item_ended(self, execution: Execution | None, run: Run) -> int | None:
        assert self._item is not None
        over = run.state in ENDED if execution is None else execution.state in ENDED
        found = item_of(self._project, execution, self._item, over=over) if execution is not None else None
        if found is None:
            if over:
                raise NotFound(f"Run {short(run.id)} ended without item {self._item} of step {self._step}.")
            return None
        if found.state not in ENDED:
            return None
        record = self._project.catalog.execution(found.id)
        self._printer.show(f"{record.step}[{record.item}]", record.cell, record.messages)
        return int(record.state not in ("succeeded", "reused"))


def item_of(project: Project, execution: Execution, number: int, *, over: bool) -> Execution | None:
    """Return the execution of an item, None if it has not ended and may still.

    Parameters
    ----------
    over
        Whether no item will come any more.

    Raises
    ------
    NotFound
        If the step is no fan-out, or has no such item.
    """
    fanout = execution.fanout
    if fanout is None and (over or execution.state != "queued"):
        raise NotFound(f"Step {execution.step} has no items: {_why_no_items(execution)}")
    if fanout is not None and fanout.total is not None and number >= fanout.total:
        numbers = f"they are numbered from 0 to {fanout.total - 1:,}" if fanout.total else "it has none"
        raise NotFound(f"Step {execution.step} has no item {number}: {numbers}.")
    found = project.catalog.items(execution.id, after=number - 1, limit=1)
    if found and found[0].item == number:
        return found[0]
    if over:
        raise NotFound(f"Item {number} of step {execution.step} was not run.")
    return None


def _why_no_items(execution: Execution) -> str:
    if execution.state in ("skipped", "cancelled"):
        return f"it was {execution.state}. {execution.note or ''}".rstrip()
    if execution.state == "failed" and execution.failure is not None and ITEMS in execution.key_parts:
        return f"{execution.failure.ename}: {execution.failure.evalue}"
    return "it has no --foreach."


def _is_picture(message: Json) -> bool:
    return FANOUT in (message.get("data") or {})


def _without_pictures(messages: Sequence[Json]) -> list[Json]:
    """Return messages without the picture of a fan-out, which changes four times a second: its last one is shown."""
    return [one for one in messages if not _is_picture(one)]


def texts(messages: Sequence[Json]) -> Iterator[str]:
    """Yield the text of outputs: what was printed, the plain form of what was shown, tracebacks."""
    for message in messages:
        kind = message.get("output_type")
        if kind == "stream":
            yield _joined(message.get("text", ""))
        elif kind == "error":
            yield "\n".join(message.get("traceback", [])) + "\n"
        elif kind in ("display_data", "execute_result"):
            text = (message.get("data") or {}).get("text/plain")
            if text is not None:
                yield f"{_joined(text)}\n"


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
