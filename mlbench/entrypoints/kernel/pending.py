"""Names whose values a step is still computing: what stands for them, and how a cell waits for them.

Two things work together. Before each top-level statement that may reach a pending name a *wait* is inserted, which
puts the real object in its place: after it nothing of mlbench is left in the value. What a statement reaches in a way
that its source does not show (`eval`, a callback outside a cell) meets the *placeholder*: it waits when it is used by
running code, and is inert for whatever only looks (completion, inspection, variable panels).
"""

from __future__ import annotations

import ast
import logging
import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Protocol

from IPython.core.error import InputRejected

__all__ = ["WAIT", "PendingError", "Placeholder", "Waits", "is_placeholder", "name_of", "runs_a_step"]

_LOG = logging.getLogger(__name__)

WAIT: Final = "__mlbench_wait__"
"""The hidden function of the notebook's namespace that inserted statements call."""


class PendingError(AttributeError):
    """A pending name was looked at by something that may not wait."""


class Resolver(Protocol):
    """Who knows whether code is running that may wait, and what the value is."""

    def may_wait(self) -> bool: ...
    def value(self, name: str, /) -> Any: ...


class Placeholder:
    """Stand for a pending name. Everything asked of it is asked of the value, once code that may wait is running."""

    __slots__ = ("__weakref__", "_mlbench_name", "_mlbench_resolver")

    def __init__(self, name: str, resolver: Resolver) -> None:
        object.__setattr__(self, "_mlbench_name", name)
        object.__setattr__(self, "_mlbench_resolver", resolver)

    @property
    def __class__(self) -> Any:
        return type(_value(self)) if _may_wait(self) else Placeholder

    @__class__.setter
    def __class__(self, value: Any) -> None:
        _value(self).__class__ = value

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return type(_value(self)) if _may_wait(self) else Placeholder
        return getattr(_value(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_value(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_value(self), name)

    def __dir__(self) -> Iterable[str]:
        return dir(_value(self)) if _may_wait(self) else []

    def __repr__(self) -> str:
        return repr(_value(self)) if _may_wait(self) else f"<pending: {name_of(self)}>"

    def __str__(self) -> str:
        return str(_value(self)) if _may_wait(self) else f"<pending: {name_of(self)}>"

    def __format__(self, spec: str) -> str:
        return format(_value(self), spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _same, (_value(self),)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return _value(self)(*args, **keywords)

    def __array__(self, *args: Any, **keywords: Any) -> Any:
        import numpy

        return numpy.asarray(_value(self), *args, **keywords)

    def __enter__(self) -> Any:
        return _value(self).__enter__()

    def __exit__(self, *error: Any) -> Any:
        return _value(self).__exit__(*error)

    def __eq__(self, other: object) -> Any:
        return _value(self) == other

    def __hash__(self) -> int:
        return hash(_value(self))


def _same(value: Any) -> Any:
    return value


def is_placeholder(value: Any) -> bool:
    """Say whether a value is a placeholder, without asking the value anything."""
    return type(value) is Placeholder


def name_of(placeholder: Any) -> str:
    """Return the name that a placeholder stands for."""
    return str(object.__getattribute__(placeholder, "_mlbench_name"))


def _value(placeholder: Placeholder) -> Any:
    resolver: Resolver = object.__getattribute__(placeholder, "_mlbench_resolver")
    name = name_of(placeholder)
    if not resolver.may_wait():
        raise PendingError(f"{name} is still being computed by a step.")
    return resolver.value(name)


def _may_wait(placeholder: Placeholder) -> bool:
    resolver: Resolver = object.__getattribute__(placeholder, "_mlbench_resolver")
    return resolver.may_wait()


def _forward() -> None:
    """Give the placeholder the operations that Python looks up on the type."""
    comparing = ("lt", "le", "ne", "gt", "ge")
    arithmetic = (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
    )
    others = ("neg", "pos", "invert", "abs", "getitem", "setitem", "delitem", "contains", "index")

    def forward(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *args: function(_value(self), *args)

    def reflect(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, other: function(other, _value(self))

    for name in (*comparing, *arithmetic, *(f"i{name}" for name in arithmetic), *others):
        dunder = f"__{name}__"
        setattr(Placeholder, dunder, forward(getattr(operator, dunder)))
    for name in arithmetic:
        setattr(Placeholder, f"__r{name}__", reflect(getattr(operator, f"__{name}__")))
    for function in (len, iter, next, int, float, complex, bool, bytes, reversed, round, divmod):
        setattr(Placeholder, f"__{function.__name__}__", forward(function))
    for name in ("__await__", "__aiter__", "__anext__", "__length_hint__"):
        setattr(Placeholder, name, lambda self, _name=name: getattr(_value(self), _name)())


_forward()


class Waits(ast.NodeTransformer):
    """Insert a wait before each statement of a cell that reaches a pending name.

    Parameters
    ----------
    begin
        Called with each cell's tree before it runs; returns what the cell as a whole waits for, or None for a cell
        that is to be left as it is. May raise `InputRejected` for one that must not run.
    needs
        Which of the pending names a statement that reads these names has to wait for.
    """

    def __init__(
        self,
        begin: Callable[[ast.Module], list[str] | None],
        reads: Callable[[ast.Module], list[set[str]]],
        needs: Callable[[Collection[str]], list[str]],
    ) -> None:
        self._begin = begin
        self._reads = reads
        self._needs = needs

    def visit(self, node: ast.AST) -> ast.AST:
        """Transform a cell (IPython's protocol; only whole modules come here)."""
        if not isinstance(node, ast.Module):
            return node
        try:
            first = self._begin(node)
            needs = [self._needs(reads) for reads in self._reads(node)] if first is not None else []
        except InputRejected:
            raise
        except Exception:  # noqa: BLE001  IPython would never call a transformer again that has failed once
            _LOG.exception("A cell's names could not be read, so nothing is waited for before its statements")
            return node
        if first is None or not node.body:
            return node
        body: list[ast.stmt] = [_wait(node.body[0], first)] if first else []
        waited: set[str] = set()
        for statement, needed in zip(node.body, needs, strict=True):
            names = [] if runs_a_step(statement) else [name for name in needed if name not in waited]
            if names:
                waited.update(names)
                body.append(_wait(statement, names))
            body.append(statement)
        node.body = body
        return node


def _wait(statement: ast.stmt, names: list[str]) -> ast.stmt:
    call = ast.Expr(ast.Call(ast.Name(WAIT, ast.Load()), [ast.Constant(name) for name in names], []))
    for part in ast.walk(call):
        if isinstance(part, (ast.stmt, ast.expr)):
            ast.copy_location(part, statement)
            part.end_lineno, part.end_col_offset = statement.lineno, statement.col_offset
    return call


def runs_a_step(statement: ast.stmt) -> bool:
    """Say whether a statement is what `%%step` becomes: what the cell inside reads is waited for elsewhere."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("run_cell_magic", "run_line_magic")
        and bool(call.args)
        and isinstance(call.args[0], ast.Constant)
        and call.args[0].value in _OWN_MAGICS
    )


_OWN_MAGICS: Final = frozenset(
    {"step", "steps", "cancel", "config", "load_ext", "reload_ext", "unload_ext", "who", "whos", "who_ls"}
)
