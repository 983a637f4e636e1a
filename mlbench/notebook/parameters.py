"""The parameters cell as a typed form, and the values given to it.

The cell is the one that papermill knows: tagged `parameters`, one assignment a line, `name: type = default  # help`,
or the type in a comment, `name = default  # type: int help`.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import operator
import re
import tokenize
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlbench.core.errors import ParameterError
from mlbench.notebook import syntax
from mlbench.notebook.step import nearest

__all__ = ["Parameter", "convert", "defaults", "read", "recorded", "restored"]

LONGEST_TEXT = 1_000_000
DEEPEST_VALUE = 100
LARGEST_VALUE = 100_000
LARGEST_INTEGER = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    `type` is `int`, `float`, `bool`, `str`, `list`, `dict` or `any`; `item` the type of a list's items (or of a
    dictionary's values). `optional` allows None. `default` is JSON; where the cell computes it, it is None and
    `default_source` is the expression. `required` means that the cell gives no value. `line` counts from 1.
    """

    name: str
    type: str = "any"
    default: Any = None
    help: str | None = None
    required: bool = False
    optional: bool = False
    item: str | None = None
    choices: tuple[Any, ...] = ()
    default_source: str | None = None
    line: int = 0


def read(source: str) -> tuple[Parameter, ...]:
    r"""Return the parameters that a cell tagged `parameters` declares, in its order.

    Raises
    ------
    ParameterError
        If Python cannot read the cell.

    Examples
    --------
    >>> for parameter in read('origin: str = "JFK"  # airport\ntrees = 200\nlimit: float | None = None'):
    ...     print(parameter.name, parameter.type, parameter.default, parameter.help, parameter.optional)
    origin str JFK airport False
    trees int 200 None False
    limit float None None True
    """
    try:
        tree = syntax.parse(source)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ParameterError(f"The parameters cell{line}: {error.msg}.", "Correct it, then run again.") from None
    comments = _comments(source)
    found: dict[str, Parameter] = {}
    for node in tree.body:
        annotation: ast.expr | None = None
        value: ast.expr | None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names, annotation, value = [node.target.id], node.annotation, node.value
        elif isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            names, value = [target.id for target in node.targets if isinstance(target, ast.Name)], node.value
        else:
            continue
        comment = comments.get(node.end_lineno or node.lineno, "")
        typed = re.match(r"type:\s*([^\s#]+)\s*(.*)", comment, re.DOTALL)
        if typed:
            annotation = annotation or _expression(typed[1])
            comment = typed[2]
        for name in names:
            if not name.startswith("_"):
                found.pop(name, None)
                found[name] = _parameter(name, annotation, value, comment.lstrip("# ").strip() or None, node.lineno)
    return tuple(found.values())


def defaults(parameters: Sequence[Parameter]) -> dict[str, Any]:
    r"""Return the values that the cell itself gives, but for those that it computes.

    Examples
    --------
    >>> defaults(read("origin: str = 'JFK'\nday: str\nseen = now()"))
    {'origin': 'JFK'}
    """
    return {one.name: one.default for one in parameters if not one.required and one.default_source is None}


def convert(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return the values given, checked and converted; only those given are in the result.

    A text is read as its parameter's type, since on a command line all values are texts; other JSON values must be
    of that type.

    Raises
    ------
    ParameterError
        For the first that is unknown, of another type, or no name.

    Examples
    --------
    >>> form = read('origin: str = "JFK"\ntrees: int = 200\nscale: float = 1.0')
    >>> convert(form, {"origin": "007", "trees": "300", "scale": 2})
    {'origin': '007', 'trees': 300, 'scale': 2.0}
    >>> convert(form, {"tree": "300"})
    Traceback (most recent call last):
        ...
    mlbench.core.errors.ParameterError: Unknown parameter tree: did you mean trees?
    """
    known = {parameter.name: parameter for parameter in parameters}
    result: dict[str, Any] = {}
    for name, value in given.items():
        check_name(name)
        parameter = known.get(unicodedata.normalize("NFKC", name))
        if parameter is None:
            raise ParameterError(_unknown(name, known))
        if parameter.name in result:
            raise ParameterError(f"{parameter.name} is given twice.", "Leave one out.")
        result[parameter.name] = _value(parameter, value)
    return result


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return the values of parameters as a record holds them: JSON, and what JSON has no value for as a text.

    These are numbers that are none or without end, or have more than 64 bits, and inside lists and dictionaries
    objects of other kinds. Numbers of NumPy are Python's.

    Examples
    --------
    >>> recorded({"rate": float("nan"), "seed": 2**70, "limits": (1, float("inf")), "days": {1: "Mon"}})
    {'rate': 'nan', 'seed': '1180591620717411303424', 'limits': [1, 'inf'], 'days': {'1': 'Mon'}}
    """
    return {name: _recorded(value, ()) for name, value in values.items()}


def _recorded(value: Any, inside: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else _digits(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (list, tuple, dict)):
        if id(value) in inside or len(inside) >= DEEPEST_VALUE:
            return "..."
        within = (*inside, id(value))
        if isinstance(value, dict):
            return {_text(str(key)): _recorded(each, within) for key, each in value.items()}
        return [_recorded(each, within) for each in value]
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _recorded(value.item(), inside)
    return _text(str(value))


def _digits(value: int) -> str:
    return str(value) if value.bit_length() <= LARGEST_INTEGER else hex(value)


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def restored(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return values that were `recorded`, numbers that are texts there as numbers again.

    Examples
    --------
    >>> restored(read("rate: float = 0.1\nname: str = ''"), {"rate": "inf", "name": "nan"})
    {'rate': inf, 'name': 'nan'}
    """
    numbers = {one.name: one for one in parameters if one.type in ("int", "float")}
    return {
        name: _read_text(numbers[name], value) if name in numbers and isinstance(value, str) else value
        for name, value in values.items()
    }


def check_required(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> None:
    """Raise `ParameterError` if a parameter that the cell gives no value has none here either.

    Examples
    --------
    >>> check_required(read("day: str"), {})
    Traceback (most recent call last):
        ...
    mlbench.core.errors.ParameterError: day has no default: give it a value, -p day VALUE.
    """
    for parameter in parameters:
        if parameter.required and parameter.name not in given:
            raise ParameterError(f"{parameter.name} has no default: give it a value, -p {parameter.name} VALUE.")


def check_name(name: object) -> None:
    """Raise `ParameterError` unless a text can be a parameter's name: an identifier, no keyword, not `__dunder__`.

    Examples
    --------
    >>> check_name("import os;x")
    Traceback (most recent call last):
        ...
    mlbench.core.errors.ParameterError: 'import os;x' cannot be a parameter's name: it must be a name of Python's.
    """
    if not isinstance(name, str) or not name.isidentifier():
        shown = _shown(name)
        raise ParameterError(f"{shown} cannot be a parameter's name: it must be a name of Python's.")
    if keyword.iskeyword(name) or (name.startswith("__") and name.endswith("__")):
        raise ParameterError(f"{name} cannot be a parameter's name: Python keeps it for itself.")


def _unknown(name: str, known: Mapping[str, Parameter]) -> str:
    if not known:
        return f"Unknown parameter {name}: the notebook has no cell tagged parameters, or an empty one."
    near = nearest(name, known)
    return f"Unknown parameter {name}: " + (f"did you mean {near}?" if near else f"there are {', '.join(known)}.")


# What the cell declares


def _comments(source: str) -> dict[int, str]:
    """Return the comments by line, without their sign."""
    found: dict[int, str] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string[1:].strip()
    except (tokenize.TokenError, SyntaxError):
        pass  # a magic beside the parameters: comments are help texts, and only those below it are lost
    return found


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parameter(
    name: str, annotation: ast.expr | None, value: ast.expr | None, help_: str | None, line: int
) -> Parameter:
    declared = _Type() if annotation is None else _type(annotation)
    default: Any = None
    source: str | None = None
    if value is not None:
        try:
            default = _constant(value)
        except ValueError:
            source = ast.unparse(value)
    known = value is not None and source is None
    type_, item = declared.type, declared.item
    if annotation is None and known:
        type_ = _type_of(default)
    if type_ == "float" and isinstance(default, int) and not isinstance(default, bool):
        default = float(default)
    return Parameter(
        name=name,
        type=type_,
        default=default,
        help=help_,
        required=value is None,
        optional=declared.optional or (known and default is None),
        item=item,
        choices=declared.choices,
        default_source=source,
        line=line,
    )


@dataclass(frozen=True, slots=True)
class _Type:
    type: str = "any"
    optional: bool = False
    item: str | None = None
    choices: tuple[Any, ...] = ()


_TYPES = {
    "int": "int",
    "integer": "int",
    "float": "float",
    "double": "float",
    "bool": "bool",
    "boolean": "bool",
    "str": "str",
    "string": "str",
    "list": "list",
    "tuple": "list",
    "set": "list",
    "frozenset": "list",
    "Sequence": "list",
    "Iterable": "list",
    "Collection": "list",
    "dict": "dict",
    "Mapping": "dict",
}


def _type(node: ast.expr) -> _Type:
    """Return what an annotation says: `int`, `Optional[int]`, `int | None`, `list[str]`, `Literal["a"]`, a text."""
    if isinstance(node, ast.Constant):
        if node.value is None:
            return _Type(optional=True)
        inner = _expression(node.value) if isinstance(node.value, str) else None
        return _Type() if inner is None else _type(inner)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right])
    if isinstance(node, ast.Subscript):
        outer = _last_name(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Optional":
            return _union([*parts, ast.Constant(None)])
        if outer == "Union":
            return _union(parts)
        if outer in ("Annotated", "Final"):
            return _type(parts[0])
        if outer == "Literal":
            return _choices(parts)
        kind = _TYPES.get(outer, _TYPES.get(outer.lower(), "any"))
        inner_types = [_type(part).type for part in parts if not (isinstance(part, ast.Constant) and part.value is ...)]
        item = inner_types[-1] if kind == "dict" or len(set(inner_types)) == 1 else None
        return _Type(kind, item=item if kind in ("list", "dict") and item != "any" else None)
    name = _last_name(node)
    return _Type(_TYPES.get(name, _TYPES.get(name.lower(), "any")))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _union(parts: Sequence[ast.expr]) -> _Type:
    types = [_type(part) for part in parts if not (isinstance(part, ast.Constant) and part.value is None)]
    optional = len(types) < len(parts) or any(one.optional for one in types)
    if len(types) == 1:
        return _Type(types[0].type, optional, types[0].item, types[0].choices)
    names = {one.type for one in types}
    return _Type("float" if names == {"int", "float"} else "any", optional)


def _choices(parts: Sequence[ast.expr]) -> _Type:
    try:
        values = tuple(_constant(part) for part in parts)
    except ValueError:
        return _Type()
    kinds = {_type_of(value) for value in values if value is not None}
    kind = kinds.pop() if len(kinds) == 1 else "any"
    return _Type(kind, None in values, None, tuple(value for value in values if value is not None))


_OPERATORS: Mapping[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def _constant(node: ast.expr) -> Any:
    """Return the JSON value of a constant expression. Raise `ValueError` for anything else."""
    if isinstance(node, ast.Constant):
        if node.value is None or isinstance(node.value, (bool, int, float, str)):
            return node.value
    elif isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_constant(element) for element in node.elts]
    elif isinstance(node, ast.Dict):
        keys = [None if key is None else _constant(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, map(_constant, node.values), strict=True))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _number(_constant(node.operand))
        return -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _number(_constant(node.left)), _number(_constant(node.right))
        if isinstance(node.op, ast.Pow) and (abs(right) > 1000 or abs(left) > 1e6):
            raise ValueError("too large a power")
        try:
            return _number(_OPERATORS[type(node.op)](left, right))
        except (ArithmeticError, TypeError) as error:
            raise ValueError(str(error)) from error
    elif isinstance(node, ast.Call) and _last_name(node.func) == "float" and len(node.args) == 1:
        text = _constant(node.args[0])
        if isinstance(text, (str, int, float)):
            return float(text)
    raise ValueError("not a constant")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")  # noqa: TRY004 - as for all that is no constant
    return value


def _type_of(value: Any) -> str:
    for kind in (bool, int, float, str, list, dict):
        if isinstance(value, kind):
            return kind.__name__
    return "any"


# Values that are given

_PHRASES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a dictionary",
    "any": "any JSON value",
}
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def _value(parameter: Parameter, value: Any) -> Any:
    _check_size(parameter.name, value)
    if value is None or (isinstance(value, str) and parameter.type != "str" and value in ("None", "null")):
        if parameter.optional or parameter.type == "any":
            return None
        raise _wrong(parameter, "None is not allowed")
    converted = _read_text(parameter, value) if isinstance(value, str) else _check_type(parameter, value)
    if parameter.choices and converted not in parameter.choices:
        raise ParameterError(
            f"{parameter.name} is one of {', '.join(map(json.dumps, parameter.choices))}: {_shown(value)} is not."
        )
    if parameter.item is not None:
        inner = Parameter(name=f"an item of {parameter.name}", type=parameter.item)
        if isinstance(converted, list):
            return [_check_type(inner, element) for element in converted]
        if isinstance(converted, dict):
            return {key: _check_type(inner, element) for key, element in converted.items()}
    return converted


def _read_text(parameter: Parameter, text: str) -> Any:
    kind = parameter.type
    if kind == "str":
        return text
    stripped = text.strip()
    if kind == "int":
        if re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)*", stripped) and len(stripped) <= 4000:
            return int(stripped)
        raise _wrong(parameter, f"{_quoted(text)} {_why_no_int(stripped)}")
    if kind == "float":
        try:
            if stripped.isascii():
                return float(stripped)
        except ValueError:
            pass  # said below, with the parameter's name
        raise _wrong(parameter, f"{_quoted(text)} is none")
    if kind == "bool":
        if stripped.lower() in _TRUE | _FALSE:
            return stripped.lower() in _TRUE
        raise _wrong(parameter, f"{_quoted(text)} is neither")
    read = _literal(stripped)
    if kind == "any":
        return text if read is _NOTHING else read
    if isinstance(read, list if kind == "list" else dict):
        return read
    example = '["a", "b"]' if kind == "list" else '{"a": 1}'
    raise ParameterError(f"{parameter.name} is {_PHRASES[kind]}: write it as {example}, not {_quoted(text)}.")


def _why_no_int(text: str) -> str:
    if not text:
        return "is empty"
    try:
        float(text)
    except ValueError:
        return "holds letters" if any(character.isalpha() for character in text) else "is none"
    return "is not"


_NOTHING = object()


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _literal(text: str) -> Any:
    """Return the JSON value, or else the Python constant, that a text is."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        node = _expression(text)
    try:
        return _NOTHING if node is None else _constant(node)
    except (ValueError, RecursionError):
        return _NOTHING


def _check_type(parameter: Parameter, value: Any) -> Any:
    kind = parameter.type
    if kind == "any":
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"{parameter.name}: {value} is taken only where a parameter is declared a float.")
        return value
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _wrong(parameter, f"{_shown(value)} is too large") from None
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    if _type_of(value) != kind:
        raise _wrong(parameter, f"{_shown(value)} is not")
    return value


def _check_size(name: str, value: Any) -> None:
    """Refuse what is no JSON, too large or nested too deeply, without recursion."""
    stack: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while stack:
        one, depth = stack.pop()
        seen += 1
        if depth > DEEPEST_VALUE:
            raise ParameterError(f"{name}: the value is nested more than {DEEPEST_VALUE} deep.")
        if seen > LARGEST_VALUE:
            raise ParameterError(f"{name}: the value has more than {LARGEST_VALUE:,} parts. Give a path to a file.")
        if isinstance(one, str):
            if len(one) > LONGEST_TEXT:
                raise ParameterError(
                    f"{name}: the text has {len(one):,} characters, at most {LONGEST_TEXT:,} are taken. "
                    "Give a path to a file."
                )
            if not one.isascii() and any("\ud800" <= character <= "\udfff" for character in one):
                raise ParameterError(f"{name}: the text holds half of a character (a lone surrogate).")
        elif isinstance(one, dict):
            if not all(isinstance(key, str) for key in one):
                raise ParameterError(f"{name}: the keys of a dictionary must be texts.")
            stack.extend((part, depth + 1) for pair in one.items() for part in pair)
        elif isinstance(one, (list, tuple)):
            stack.extend((part, depth + 1) for part in one)
        elif isinstance(one, int) and one.bit_length() > LARGEST_INTEGER:
            raise ParameterError(f"{name}: the number has more than {LARGEST_INTEGER} bits.")
        elif isinstance(one, float) and not math.isfinite(one) and depth:
            raise ParameterError(f"{name}: a number inside a list or dictionary must be finite.")
        elif one is not None and not isinstance(one, (bool, int, float)):
            raise ParameterError(
                f"{name}: a {type(one).__name__} cannot be given. Give a text, a number, true, false, a list or a "
                "dictionary of these."
            )


def _wrong(parameter: Parameter, why: str) -> ParameterError:
    return ParameterError(f"{parameter.name} is {_PHRASES[parameter.type]}: {why}.")


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=not text.isprintable())


def _shown(value: object) -> str:
    text = _quoted(value) if isinstance(value, str) and len(value) > 60 else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
