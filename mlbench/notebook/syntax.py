"""From a cell as it is written to Python's syntax tree, IPython's own syntax included."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Iterator

__all__ = ["check", "expression_names", "magic_call", "parse", "strip_options", "template_names"]

_SPECIAL = re.compile(r"^[ \t]*(?:[%!?/,;]|>>>|In \[)|\?[ \t]*$|=[ \t]*[%!]|\A[ \t]+\S", re.MULTILINE)
_MAGIC_LINE = re.compile(r"^%(\w+)([^\n]*)$", re.MULTILINE)
_FIRST_MAGICS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n|%[A-Za-z_]\w*(?:[ \t][^\n\\?]*)?(?:\n|\Z))+")
"""Lines that begin a cell and are magics, comments or empty: they are read without IPython, whose import takes long."""
_BRACES = re.compile(r"\{([^{}]+)\}")
_DOLLAR = re.compile(r"(?<![$\\])\$([A-Za-z_]\w*)")
_PYTHON_SHOWS_NOTHING = threading.Lock()  # warnings.catch_warnings of two threads would undo each other

_VALUED = {
    "timeit": "nrtp",
    "time": "",
    "prun": "lsTD",
    "memit": "rti",
    "mprun": "fT",
    "lprun": "fTDmsu",
    "capture": "",
    "debug": "b",
}
PYTHON_MAGICS = frozenset(_VALUED)
"""Magics whose line or body is Python that runs in the notebook's namespace, with the options that take a value."""


def parse(source: str) -> ast.Module:
    """Return the syntax tree of a cell. Raise `SyntaxError`, also for what Python cannot read at all.

    IPython is imported only where Python alone does not understand the source.

    Examples
    --------
    >>> ast.unparse(parse("%time y = slow(x)"))
    "get_ipython().run_line_magic('time', 'y = slow(x)')"
    """
    try:
        return _parse_python(source)
    except SyntaxError:
        if not _SPECIAL.search(source):
            raise
    first = _FIRST_MAGICS.match(source)
    if first is not None and not _SPECIAL.search(source, first.end()):
        return _parse_python(_MAGIC_LINE.sub(_as_call, first[0]) + source[first.end() :])
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        transformed: str = TransformerManager().transform_cell(source)  # type: ignore[no-untyped-call]
    except (UnicodeError, ValueError) as error:
        raise SyntaxError(str(error)) from error
    return _parse_python(transformed)


def check(source: str) -> None:
    """Raise `SyntaxError` for a cell that Python cannot compile, though it may be able to read it.

    Examples
    --------
    >>> check("await work()")
    >>> check("return 1")
    Traceback (most recent call last):
        ...
    SyntaxError: 'return' outside function
    """
    tree = parse(source)
    with _PYTHON_SHOWS_NOTHING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(tree, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def _as_call(line: re.Match[str]) -> str:
    return f"get_ipython().run_line_magic({line[1]!r}, {line[2].strip()!r})"


def _parse_python(source: str) -> ast.Module:
    try:
        with _PYTHON_SHOWS_NOTHING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except ValueError as error:  # a NUL, or a half of a surrogate pair
        raise SyntaxError(f"the source holds a character that Python cannot read ({error})") from error
    except (RecursionError, MemoryError) as error:
        raise SyntaxError("the source is nested too deeply for Python") from error


def magic_call(call: ast.Call) -> tuple[str, tuple[str, ...]] | None:
    """Return the method and the constant texts of a call of `get_ipython()`'s, which is what IPython makes of magics.

    Examples
    --------
    >>> magic_call(parse("!ls {folder}").body[0].value)
    ('system', ('ls {folder}',))
    """
    method = call.func
    if not (isinstance(method, ast.Attribute) and isinstance(method.value, ast.Call)):
        return None
    owner = method.value.func
    if not (isinstance(owner, ast.Name) and owner.id == "get_ipython"):
        return None
    texts = tuple(a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
    return method.attr, texts


def template_names(text: str, *, dollars: bool = True) -> set[str]:
    """Return the names that IPython fills in for `{expression}` and `$name` in a line.

    Examples
    --------
    >>> sorted(template_names("cp {folder / name} $target {{literal}}"))
    ['folder', 'name', 'target']
    """
    names: set[str] = set()
    for inside in _BRACES.findall(text.replace("{{", "").replace("}}", "")):
        expression = re.split(r"![rsa]\b|:(?!:)", inside)[0] if not inside.count("[") else inside
        names |= expression_names(expression)
    return names | set(_DOLLAR.findall(text)) if dollars else names


def expression_names(text: str) -> set[str]:
    """Return the names in an expression, none if the text is no expression.

    Examples
    --------
    >>> sorted(expression_names("a.b + f(c)"))
    ['a', 'c', 'f']
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def strip_options(magic: str, line: str) -> tuple[str, set[str]]:
    """Return a Python magic's line without its options, and the names that options (`%lprun -f fit`) mention.

    Examples
    --------
    >>> strip_options("timeit", "-n 10 -r1 fit(x)")
    ('fit(x)', set())
    >>> strip_options("lprun", "-f fit fit(x)")
    ('fit(x)', {'fit'})
    """
    names: set[str] = set()
    valued = _VALUED.get(magic, "")
    rest = line.strip()
    while match := re.match(r"(--?)(\w[\w-]*)(=\S*)?(\s+|$)", rest):
        rest = rest[match.end() :]
        letter = match[2][0]
        if match[1] == "-" and letter in valued:
            value = match[2][1:]
            if not value:
                value, _, rest = rest.partition(" ")
                rest = rest.lstrip()
            if letter == "f":
                names |= expression_names(value)
    return rest, names


def shell_words(text: str) -> Iterator[str]:
    """Yield the words of a shell line, without quotes: some of them may be paths."""
    for word in re.split(r"[\s;|&<>()]+", text):
        if word := word.strip("'\""):
            yield word
