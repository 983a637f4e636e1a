"""What the service knows of a kernel's notebook."""

from __future__ import annotations

from mlbench.core.messages import Environment, KernelHello
from mlbench.entrypoints.service.sessions import Session


def test_a_cells_place_is_that_in_the_document_of_its_page() -> None:
    environment = Environment(interpreter="python", variables={}, stamp="test")
    session = Session(hello=KernelHello(kernel="k", store="/store", environment=environment), owner="me")
    assert session.place_of("b") is None
    session.take_document({"metadata": {}, "cells": [{"id": "a"}, {"id": "b"}, {"source": "without an id"}]})
    assert [session.place_of(cell) for cell in ("a", "b", "c", None)] == [0, 1, None, None]
