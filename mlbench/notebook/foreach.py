"""What a step reads and binds, its `--foreach` included.

The body of a fan-out is a cell's that begins with the names of its items bound. What it binds is outside a list, one
value an item; the names of the items themselves are bound inside only. The expressions that the items come from are
evaluated once, before them, among the names of the notebook.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from mlbench.core.errors import UsageError
from mlbench.core.messages import StepOptions
from mlbench.notebook.cell import CellNames, FunctionNames, analyse

__all__ = ["bound_of", "names_of"]


def names_of(body: str, options: StepOptions, functions: Mapping[str, FunctionNames] | None = None) -> CellNames:
    r"""Return the names of a step: of its body, without its `%%step` line, and of the expressions of its options.

    Modules that the items import are not among the names bound: outside, they would be lists of a module.

    Raises
    ------
    SyntaxError
        If neither Python nor IPython can read the body.

    Examples
    --------
    >>> from mlbench.notebook.step import parse
    >>> step = parse("%%step train --foreach c in carriers\nmodel = fit(flights[flights.carrier == c])")
    >>> names = names_of(step.body, step.options)
    >>> sorted(names.reads), sorted(names.binds), sorted(names.items)
    (['carriers', 'fit', 'flights'], ['model'], ['c'])
    """
    names = analyse(body, functions)
    if not options.foreach:
        return names
    items = frozenset(one.name for one in options.foreach)
    bound = (names.binds | names.maybe) - frozenset(names.imports)
    maybe = (names.maybe & bound) - items  # where the body does not bind it, the item has
    names = replace(
        names,
        reads=names.reads - items,
        builtins=names.builtins - items,
        history=names.history - items,
        binds=bound - maybe,
        maybe=maybe,
        deletes=names.deletes - items,
        maybe_deletes=names.maybe_deletes - items,
        changes=names.changes - items,
        late=names.late - items,
        functions={},  # outside they are lists of functions
        results=names.results & bound,
        writes_paths=_unnamed(names.writes_paths, items),
        names_paths=_unnamed(names.names_paths, items),
        items=items,
    )
    for one in options.foreach:
        names = _with_expression(names, analyse(f"({one.expression}\n)", functions))
    return names


def bound_of(step: str, names: CellNames, options: StepOptions) -> frozenset[str]:
    r"""Return the names that a step may bind.

    Raises
    ------
    UsageError
        If `--outputs` or `--no-store` names another.

    Examples
    --------
    >>> sorted(bound_of("train", analyse("model = 1\nlosses.append(2)"), StepOptions()))
    ['losses', 'model']
    """
    bound = names.binds | names.maybe | names.changes
    for option, named in (("--outputs", options.outputs or ()), ("--no-store", options.no_store)):
        if unknown := sorted(set(named) - bound):
            raise UsageError(
                f"{option} names {unknown[0]}, which step {step} does not bind.",
                f"It binds {', '.join(sorted(bound)) or 'nothing'}.",
            )
    return bound


def _unnamed(paths: frozenset[str], items: frozenset[str]) -> frozenset[str]:
    """Return paths in which the names of items are not those of the notebook: nobody knows what they hold."""
    return frozenset(re.sub(r"\{(\w+)[\w.]*\}", lambda m: "{}" if m[1] in items else m[0], path) for path in paths)


def _with_expression(names: CellNames, expression: CellNames) -> CellNames:
    """Return the names of a step with what one of its expressions reads; what that binds or changes, nobody sees."""
    return replace(
        names,
        reads=names.reads | expression.reads | expression.changes | expression.late,
        builtins=names.builtins | expression.builtins,
        history=names.history | expression.history,
        names_paths=names.names_paths | expression.names_paths,
        attributes=names.attributes | expression.attributes,
        draws=names.draws | expression.draws,
        seeds=names.seeds or expression.seeds,
        dynamic=names.dynamic or expression.dynamic,
    )
