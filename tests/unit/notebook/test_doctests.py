"""The examples in the docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import mlbench.notebook

MODULES = [module.name for module in pkgutil.iter_modules(mlbench.notebook.__path__, "mlbench.notebook.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
