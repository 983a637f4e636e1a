"""What every handler has: who may come in, how a body is read, and how an error is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http.client import responses
from typing import Any, Final, ParamSpec, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from mlbench.core import errors
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.news import Newsroom
from mlbench.entrypoints.labserver.stores import Stores
from mlbench.runs.wire import msgspec

__all__ = ["Handler", "NothingHere", "status_of"]

P = ParamSpec("P")
T = TypeVar("T")

LARGEST_BODY: Final = 50 * 1024 * 1024
"""Bytes of a request; a notebook that is larger holds outputs that the page should not have sent."""

ID: Final = r"([a-z2-7]{26})"
"""The only form of an id that a route accepts; ids are looked up, never joined to a path."""

DIGEST: Final = r"(blake3(?::|%3[Aa])[0-9a-f]{64})"
"""The only form of a digest that a route accepts, whether or not the page has escaped its colon."""

STATUS: Final[tuple[tuple[type[errors.MlbenchError], int], ...]] = (
    (errors.NotFound, 404),
    (errors.NotebookError, 422),
    (errors.ParameterError, 422),
    (errors.ScheduleError, 422),
    (errors.UsageError, 400),
    (errors.ServiceError, 503),
    (errors.ArtifactCorrupt, 502),
    (errors.StoreError, 507),
    (errors.MlbenchError, 409),
)

log = logging.getLogger(__name__)


def status_of(error: errors.MlbenchError) -> int:
    """Return the HTTP status of an error: the first line of the table that fits.

    Examples
    --------
    >>> status_of(errors.ScheduleError("0 0 30 2 * never fires."))
    422
    """
    return next(status for kind, status in STATUS if isinstance(error, kind))


class Handler(APIHandler):
    """Answers in JSON, or refuses in one sentence; blocking work leaves the event loop alone."""

    auth_resource = "mlbench"

    def initialize(self, stores: Stores, newsroom: Newsroom) -> None:
        """Take what all handlers share."""
        self.stores = stores
        self.newsroom = newsroom

    async def reply(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do blocking work in a thread and answer with what it returns."""
        await self.reply_with(asyncio.to_thread(work, *args, **kwargs))

    async def reply_with(self, answer: Awaitable[Any]) -> None:
        """Answer with what is awaited; an error of ours becomes its status and its sentence."""
        try:
            result = await answer
        except errors.MlbenchError as error:
            self.set_status(status_of(error))
            place = error.place if isinstance(error, errors.QueryError) else None
            result = schema.Problem(message=error.message, remedy=error.remedy, type=type(error).__name__, place=place)
        self.finish(msgspec.json.encode(result))

    def body(self, kind: type[T]) -> T:
        """Read the request's body as one of the schema's structs."""
        body = self.request.body
        if len(body) > LARGEST_BODY:
            raise errors.UsageError(
                f"The request holds {len(body) >> 20} MB, more than {LARGEST_BODY >> 20}.",
                "Clear the notebook's outputs and try again.",
            )
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise errors.UsageError(f"The request cannot be read: {error}.") from error

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what went wrong in one sentence; a traceback goes to the log, never out."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        message = responses.get(status_code, "The request failed")
        if isinstance(error, web.HTTPError):
            message = error.reason or error.log_message or message
        elif error is not None:
            message = f"mlbench failed inside the server ({type(error).__name__}); its log has the details"
        self.set_header("Content-Type", "application/json")
        problem = schema.Problem(message=f"{message.rstrip('.')}.", type="HTTPError")
        self.finish(msgspec.json.encode(problem))

    def number(self, name: str, default: int, largest: int, *, smallest: int = 1) -> int:
        """Read a whole number from the query, between `smallest` and `largest`."""
        text = self.get_query_argument(name, str(default))
        if not (text.isascii() and text.isdigit() and smallest <= int(text[:12]) <= largest):
            raise errors.UsageError(f"{name} is a whole number from {smallest} to {largest}.")
        return int(text)


class NothingHere(Handler):
    """Every address under our prefix that is none of ours: one sentence, for those who may ask at all."""

    async def _refuse(self) -> None:
        await self.reply(self._not_found)

    def _not_found(self) -> None:
        raise errors.NotFound("There is nothing at this address.")

    @web.authenticated
    @authorized
    async def get(self, *_: str) -> None:
        """Answer 404."""
        await self._refuse()

    @web.authenticated
    @authorized
    async def post(self, *_: str) -> None:
        """Answer 404."""
        await self._refuse()

    @web.authenticated
    @authorized
    async def patch(self, *_: str) -> None:
        """Answer 404."""
        await self._refuse()

    @web.authenticated
    @authorized
    async def delete(self, *_: str) -> None:
        """Answer 404."""
        await self._refuse()
