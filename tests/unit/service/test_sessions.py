"""What the service knows of a kernel's notebook."""

from __future__ import annotations

import time

from mlbench.core.ids import ExecutionId, RunId, new_id
from mlbench.core.messages import Environment, KernelHello
from mlbench.core.records import Execution, Json
from mlbench.entrypoints.service.sessions import Session


def the_session() -> Session:
    environment = Environment(interpreter="python", variables={}, stamp="test")
    return Session(hello=KernelHello(kernel="k", store="/store", environment=environment), owner="me")


def document(*cells: str, identifier: str | None = None) -> Json:
    metadata = {"mlbench": {"id": identifier}} if identifier is not None else {}
    return {"metadata": metadata, "cells": [{"id": cell} for cell in cells]}


def test_a_cells_place_is_that_in_the_document_of_its_page() -> None:
    session = the_session()
    assert session.place_of("b") is None
    session.take_document({"metadata": {}, "cells": [{"id": "a"}, {"id": "b"}, {"source": "without an id"}]})
    assert [session.place_of(cell) for cell in ("a", "b", "c", None)] == [0, 1, None, None]


def step_of(cell: str | None) -> Execution:
    run, identifier = RunId("r"), ExecutionId("e")
    return Execution(id=identifier, run=run, step="check", state="failed", cell=cell, queued=time.time_ns())


def test_a_cell_is_deleted_when_its_page_lacks_it_after_it_was_run() -> None:
    session = the_session()
    step = step_of("a")
    assert not session.has_deleted(step), "no page has said anything"
    session.take_document(document("a", "b"))
    assert not session.has_deleted(step)
    session.take_document(document("b"))
    assert session.has_deleted(step)
    assert not session.has_deleted(step_of("new")), "what the page has said is older than the cell"
    assert not session.has_deleted(step_of(None))
    session.take_document(document("b", "a"))
    assert not session.has_deleted(step), "it was only moved"


def test_what_another_notebook_of_the_same_kernel_lacks_is_not_deleted() -> None:
    session = the_session()
    step = step_of("a")
    session.take_document(document("a", identifier=new_id()))
    session.take_document(document("b", identifier=new_id()))
    assert not session.has_deleted(step)
