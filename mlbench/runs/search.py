"""The language in which runs are looked for: `metrics.rmse < 12 and params.origin = 'JFK' and state = 'succeeded'`.

A query is read into a tree (`Comparison`, `And`, `Or`, `Not`), which a catalog turns into its own language and `fits`
decides in memory. What cannot be read is refused with the place of the first character that is to blame.

::

    query       = any { "or" any }
    any         = all { "and" all }                 # `and` binds closer than `or`
    all         = ["not"] ( "(" query ")" | comparison )
    comparison  = name ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "like" | "ilike") value
                | name ["not"] "in" "(" value { "," value } ")"
    name        = a column, or params.X, metrics.X, tags.X; X in double quotes or backticks if it is no word
    value       = 'text' | "text" | 12.5 | true | false | none | a time such as 2026-11-09 or 90m, where one is meant
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, cast, get_args

from mlbench.core.errors import QueryError, UsageError
from mlbench.core.ids import RunId, is_id
from mlbench.core.queries import (
    COLUMNS,
    And,
    Column,
    Comparison,
    Kind,
    Name,
    Not,
    Operator,
    Or,
    Place,
    Query,
    Sort,
    Space,
    Value,
)
from mlbench.core.records import Run, RunKind, State
from mlbench.notebook.step import seconds_of

__all__ = [
    "check_place",
    "comparable",
    "completions",
    "fits",
    "parse",
    "parse_sort",
    "pattern_parts",
    "read_place",
    "searched",
    "sort_value",
    "write_place",
]

_SPACES: Final[Mapping[str, Space]] = {
    "params": "params",
    "parameters": "params",
    "metrics": "metrics",
    "tags": "tags",
}
_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^'\\]|\\[\s\S]|'')*'|"(?:[^"\\]|\\[\s\S])*")
    | (?P<quoted>`[^`]*`)
    | (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}
        (?:[T\ ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?)
    | (?P<duration>(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhd]))+(?![\w.]))
    | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<operator><=|>=|!=|==|=|<|>)
    | (?P<mark>[(),.])
    | (?P<word>[^\W\d][\w-]*)
    )""",
    re.VERBOSE,
)
_UNWRITABLE: Final = re.compile("[\0\ud800-\udfff]")
_LONGEST: Final = 10_000
_DEEPEST: Final = 50
_MOST: Final = 200
"""How many comparisons one query has, and how many values one `in`: a database has limits too."""

_HUGE: Final = 10**308
_LAST_MOMENT: Final = 2**63 - 1


def parse(text: str) -> Query | None:
    """Read a query; None if it is empty.

    Raises
    ------
    QueryError
        With the query and a mark under the character where it cannot be read on.

    Examples
    --------
    >>> parse("metrics.rmse < 12")
    Comparison(field=Name(space='metrics', name='rmse'), operator='<', value=12.0)
    >>> parse("stat = 'failed'")
    Traceback (most recent call last):
    ...
    mlbench.core.errors.QueryError: stat is nothing that a run has: did you mean state?
      stat = 'failed'
      ^
    """
    return _Reader(text).query()


def parse_sort(text: str) -> Sort:
    """Read what to sort by: a name, with a minus before it for the greatest first.

    Examples
    --------
    >>> parse_sort("-metrics.rmse")
    Sort(field=Name(space='metrics', name='rmse'), descending=True)
    """
    stripped = text.strip()
    descending = stripped.startswith("-")
    reader = _Reader(stripped[1:] if descending else stripped)
    field = reader.field()
    if reader.token is not None:
        reader.refuse("One name is enough to sort by.")
    return Sort(field, descending)


def searched(run: Run, metrics: Mapping[str, float]) -> Mapping[str, Any]:
    """Return a run as `fits` and `sort_value` take it, with the last value of each of its metrics."""
    found: dict[str, Any] = {name: getattr(run, name) for name in COLUMNS if name != "duration"}
    found["duration"] = None if run.ended is None else (run.ended - run.started) / 1e9
    return found | {"params": run.parameters, "metrics": metrics, "tags": run.tags}


def comparable(value: object) -> str | float | bool | tuple[()] | None:
    """Return what a parameter, metric or tag is compared as: one that is no number (nan) counts as not there.

    Of anything but texts, numbers and truth values (a list, a number beyond those that a database holds) it only
    counts that it is there: it is returned as an empty tuple.

    Examples
    --------
    >>> comparable(3), comparable(True), comparable(float("nan")), comparable([1])
    (3.0, True, None, ())
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return float(value) if isinstance(value, int) and abs(value) < _HUGE else ()


def fits(query: Query | None, run: Mapping[str, Any]) -> bool:
    """Say whether a query is true of a run.

    Parameters
    ----------
    run
        Its columns by name, and `params`, `metrics`, `tags` as mappings. Times in nanoseconds, durations in seconds.

    Examples
    --------
    >>> fits(parse("params.origin in ('JFK', 'LGA') and not state = 'failed'"),
    ...      {"state": "succeeded", "params": {"origin": "JFK"}})
    True
    """
    match query:
        case None:
            return True
        case And():
            return all(fits(part, run) for part in query.parts)
        case Or():
            return any(fits(part, run) for part in query.parts)
        case Not():
            return not fits(query.part, run)
        case Comparison():
            return _compare(_found(query.field, run), query.operator, query.value)


def sort_value(sort: Sort, run: Mapping[str, Any]) -> str | float | None:
    """Return what a run is sorted by; None if it has nothing that has an order."""
    found = _found(sort.field, run)
    return None if isinstance(found, bool | tuple) else found


def _found(field: Column | Name, run: Mapping[str, Any]) -> Any:
    if isinstance(field, Column):
        return run.get(field.name)
    return comparable((run.get(field.space) or {}).get(field.name))


def _compare(found: Any, operator: Operator, value: Any) -> bool:
    if value is None:
        return (found is None) is (operator == "=")
    if found is None:
        return False
    if operator == "in":
        return any(_same(found, one) for one in value)
    if operator in {"=", "!="}:
        return _same(found, value) is (operator == "=")
    if operator in {"like", "ilike"}:
        return isinstance(found, str) and _like(found, value, ignore_case=operator == "ilike")
    if isinstance(found, bool | tuple) or isinstance(found, str) is not isinstance(value, str):
        return False
    return _ORDERS[operator](found, value)


_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": lambda one, other: bool(one < other),
    "<=": lambda one, other: bool(one <= other),
    ">": lambda one, other: bool(one > other),
    ">=": lambda one, other: bool(one >= other),
}


def _same(found: Any, value: Any) -> bool:
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value
    return isinstance(found, str) is isinstance(value, str) and bool(found == value)


def pattern_parts(pattern: str) -> Iterator[tuple[str, bool]]:
    r"""Yield the parts of a pattern of `like`, each with whether it is `%` or `_` and stands for something.

    Examples
    --------
    >>> list(pattern_parts(r"1_0\%%"))
    [('1', False), ('_', True), ('0', False), ('%', False), ('%', True)]
    """
    for part in re.findall(r"\\[\s\S]|[%_]|[\s\S]", pattern):
        yield (part[1], False) if len(part) == 2 else (part, part in "%_")


def _like(text: str, pattern: str, *, ignore_case: bool) -> bool:
    """Match without ever going back further than the last `%`, so that no pattern takes long."""
    if ignore_case:
        text, pattern = text.lower(), pattern.lower()
    parts = list(pattern_parts(pattern))
    place = part = again = 0
    last = -1
    while place < len(text):
        if part < len(parts) and parts[part] == ("%", True):
            last, again = part, place
            part += 1
        elif part < len(parts) and (parts[part] == ("_", True) or parts[part] == (text[place], False)):
            place += 1
            part += 1
        elif last >= 0:
            again += 1
            place, part = again, last + 1
        else:
            return False
    return all(one == ("%", True) for one in parts[part:])


def completions(prefix: str, names_in_use: Callable[[Space, str], Iterable[str]]) -> list[str]:
    """Return what a name in a query can be, of which the beginning is written.

    Examples
    --------
    >>> completions("st", lambda *_: [])
    ['state', 'started']
    >>> completions("params.or", lambda space, prefix: ["origin", "or else"])
    ['params.origin', 'params.`or else`']
    """
    first, dot, begun = prefix.partition(".")
    if not dot:
        return [name for name in (*COLUMNS, *(f"{space}." for space in _KINDS)) if name.startswith(first)]
    space = _SPACES.get(first)
    begun = begun[1:] if begun.startswith(("`", '"')) else begun
    if space is None or len(begun) > _LONGEST or _UNWRITABLE.search(begun):
        return []
    return [f"{first}.{_written(name)}" for name in names_in_use(space, begun)]


def _written(name: str) -> str:
    if re.fullmatch(r"[^\W\d][\w-]*(?:\.[^\W\d][\w-]*)*", name):
        return name
    return '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"' if "`" in name else f"`{name}`"


def check_place(place: Place | None, sort: Sort | None) -> None:
    """Raise `UsageError` for a place that a list sorted so does not have: its value is of another kind."""
    if place is None or place.value is None:
        return
    kind = _kind_of(sort.field) if sort is not None else None
    if sort is None or (kind is not None and isinstance(place.value, str) is not (kind == "text")):
        raise UsageError("This is no place in a list that is sorted so.", "Begin with the first page.")


def write_place(place: Place) -> str:
    """Return a place in a list as a short text that can stand in an address."""
    kind = (
        "n"
        if place.value is None
        else "t"
        if isinstance(place.value, str)
        else "i"
        if isinstance(place.value, int)
        else "f"
    )
    value = "" if place.value is None else str(place.value)
    return base64.urlsafe_b64encode(json.dumps([kind, value, place.started, place.id]).encode()).decode()


def read_place(text: str) -> Place:
    """Read what `write_place` has written.

    Raises
    ------
    UsageError
        If it is anything else.

    Examples
    --------
    >>> read_place(write_place(Place(0.25, 7, "a" * 26)))
    Place(value=0.25, started=7, id='aaaaaaaaaaaaaaaaaaaaaaaaaa')
    """
    try:
        kind, given, started, identifier = json.loads(base64.b64decode(text.encode(), b"-_", validate=True))
        value = _READ[kind](given)
        if type(started) is not int or not is_id(identifier) or abs(started) > _LAST_MOMENT:
            raise ValueError(text)
        if (isinstance(value, int) and abs(value) > _LAST_MOMENT) or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(text)
        if isinstance(value, str):
            value.encode()
            if "\0" in value:
                raise ValueError(text)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise UsageError("This is no place where a page of runs ended.", "Begin with the first page.") from error
    return Place(value, started, RunId(identifier))


_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "n": lambda _: None,
    "t": lambda text: text + "",
    "f": float,
    "i": int,
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int


class _Reader:
    """Reads one query from left to right; `token` is what comes next."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > _LONGEST:
            self._refuse_at(_LONGEST, f"A query has at most {_LONGEST:,} characters: this one has {len(text):,}.")
        if match := _UNWRITABLE.search(text):
            self._refuse_at(match.start(), f"The character {match[0]!a} cannot be looked for.")
        self._tokens = list(self._split())
        self._next = 0
        self._depth = 0
        self._comparisons = 0

    @property
    def token(self) -> _Token | None:
        """What comes next, None at the end."""
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _split(self) -> Iterator[_Token]:
        place = 0
        end = len(self._text.rstrip())
        while place < end:
            match = _TOKEN.match(self._text, place)
            if match is None or match.lastgroup is None:
                place += len(self._text[place:]) - len(self._text[place:].lstrip())
                mark = self._text[place]
                if mark in "'\"`":
                    self._refuse_at(place, "A quotation mark is left open.")
                if mark.isdigit() or mark in "+-":
                    self._refuse_at(place, "This is no number; a text goes into quotation marks, a name into `…`.")
                self._refuse_at(place, f"{mark!r} has no meaning in a query.")
            yield _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
            place = match.end()

    def _refuse_at(self, place: int, why: str) -> NoReturn:
        raise QueryError(why, self._text, place)

    def refuse(self, why: str) -> NoReturn:
        """Raise `QueryError` with the place of what comes next."""
        self._refuse_at(self.token.place if self.token is not None else len(self._text.rstrip()), why)

    def _take(self) -> _Token:
        token = self.token
        assert token is not None
        self._next += 1
        return token

    def query(self) -> Query | None:
        """Read all of the text."""
        if not self._tokens:
            return None
        found = self._any()
        if self.token is not None:
            self.refuse("Here an `and` or an `or` is missing, or the query should end.")
        return found

    def _any(self) -> Query:
        parts = [self._all()]
        while self._is_word("or"):
            self._take()
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Query:
        parts = [self._one()]
        while self._is_word("and"):
            self._take()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Query:
        self._depth += 1
        if self._depth > _DEEPEST:
            self.refuse(f"Parentheses and `not` go at most {_DEEPEST} deep.")
        try:
            if self._is_word("not"):
                self._take()
                return Not(self._one())
            if self._is_mark("("):
                self._take()
                found = self._any()
                self._expect(")")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _is_word(self, *words: str) -> bool:
        return self.token is not None and self.token.kind == "word" and self.token.text.lower() in words

    def _is_mark(self, mark: str) -> bool:
        return self.token is not None and self.token.kind == "mark" and self.token.text == mark

    def _expect(self, mark: str) -> None:
        if not self._is_mark(mark):
            self.refuse(f"Here a `{mark}` is missing.")
        self._take()

    def _comparison(self) -> Query:
        self._comparisons += 1
        if self._comparisons > _MOST:
            self.refuse(f"A query has at most {_MOST} comparisons; `in (…)` takes many values at once.")
        field = self.field()
        negated = self._is_word("not")
        if negated:
            self._take()
        if self._is_word("in"):
            self._take()
            compared = Comparison(field, "in", self._values(field))
            return Not(compared) if negated else compared
        if negated:
            self.refuse("After `not` there can only be `in (…)` here.")
        if self._is_word("like", "ilike"):
            operator = self._take().text.lower()
        elif self.token is not None and self.token.kind == "operator":
            operator = self._take().text.replace("==", "=")
        else:
            self.refuse("Here a comparison is missing: one of = != < <= > >= like ilike in.")
        token = self.token
        value = self._value(field, pattern=operator in {"like", "ilike"})
        assert token is not None
        if operator in {"like", "ilike"} and (not isinstance(value, str) or _kind_of(field) not in {None, "text"}):
            self._refuse_at(
                token.place, f"`{operator}` compares a text with a pattern, in which % stands for anything."
            )
        if operator not in {"=", "!="} and (value is None or isinstance(value, bool)):
            self._refuse_at(token.place, f"{token.text} can only be compared by = and !=.")
        return Comparison(field, cast("Operator", operator), value)

    def _values(self, field: Column | Name) -> tuple[Value, ...]:
        self._expect("(")
        values: list[Value] = []
        while not values or self._is_mark(","):
            if values:
                self._take()
            token = self.token
            values.append(self._value(field))
            if len(values) > _MOST or values[-1] is None:
                assert token is not None
                many = f"`in` takes at most {_MOST} values."
                self._refuse_at(
                    token.place, many if len(values) > _MOST else f"{token.text} can only be compared by = and !=."
                )
        self._expect(")")
        return tuple(values)

    def field(self) -> Column | Name:
        """Read the name of what is compared."""
        token = self.token
        if token is None or token.kind != "word" or self._is_word("and", "or", "in", "like", "ilike"):
            self.refuse("Here a name is missing: a column such as state, or params.X, metrics.X, tags.X.")
        self._take()
        if self._is_mark("."):
            space = _SPACES.get(token.text)
            if space is None:
                self._refuse_at(token.place, f"{token.text}. is nothing that a run has{_near(token.text, _SPACES)}")
            self._take()
            parts = [self._part()]
            while self._is_mark("."):
                self._take()
                parts.append(self._part())
            return Name(space, ".".join(parts))
        if token.text in _SPACES:
            self.refuse(f"Here a dot and a name are missing: {token.text}.NAME.")
        if token.text not in COLUMNS:
            names = [*COLUMNS, *_SPACES]
            self._refuse_at(token.place, f"{token.text} is nothing that a run has{_near(token.text, names)}")
        return Column(token.text)

    def _part(self) -> str:
        token = self.token
        if token is None or token.kind not in {"word", "quoted", "text"}:
            self.refuse("Here the name of a parameter, metric or tag is missing; one that is no word goes into `…`.")
        self._take()
        return token.text if token.kind == "word" else _unquoted(token.text)

    def _value(self, field: Column | Name, *, pattern: bool = False) -> Value:
        token = self.token
        if token is None or token.kind in {"operator", "mark"}:
            self.refuse("Here a value is missing: a number, or a text in quotation marks.")
        self._take()
        kind, value = _kind_of(field), self._plain(token)
        if value is None or kind is None:
            return value
        fitting = isinstance(value, str) and token.kind != "time"
        match kind:
            case "time":
                value = _moment(value)
                fitting = value is not None
            case "duration":
                value = seconds_of(str(value)) if fitting else value
                fitting = isinstance(value, float)
            case "number":
                fitting = isinstance(value, float) and token.kind == "number"
        closed = _CLOSED.get(field.name) if isinstance(field, Column) and fitting and not pattern else None
        if closed is not None and value not in closed:
            self._refuse_at(token.place, f"There is no {field.name} {token.text}: there are {', '.join(closed)}.")
        if not fitting:
            name = field.name if isinstance(field, Column) else f"{field.space}.{field.name}"
            self._refuse_at(token.place, f"{name} is compared with {_WANTED[kind]}.")
        return value

    def _plain(self, token: _Token) -> Value:
        if token.kind == "text":
            return _unquoted(token.text)
        if token.kind == "time":
            return token.text
        if token.kind in {"number", "duration"}:
            number = float(token.text) if token.kind == "number" else seconds_of(token.text)
            if number is None or not math.isfinite(number):
                self._refuse_at(token.place, "This number is too large.")
            return number
        word = token.text.lower()
        if token.kind != "word" or word not in _WORDS:
            self._refuse_at(token.place, f"A text goes into quotation marks: '{token.text}'.")
        return _WORDS[word]


def _kind_of(field: Column | Name) -> Kind | None:
    """Return what a field is compared as; None if its value decides."""
    return COLUMNS[field.name] if isinstance(field, Column) else _KINDS[field.space]


_KINDS: Final[Mapping[Space, Kind | None]] = {"params": None, "metrics": "number", "tags": "text"}
_CLOSED: Final[Mapping[str, tuple[str, ...]]] = {"state": get_args(State), "kind": get_args(RunKind)}
"""What columns with few words may hold: another one fits no run, and is a mistake."""

_WORDS: Final[Mapping[str, bool | None]] = {"none": None, "null": None, "true": True, "false": False}
_WANTED: Final[Mapping[Kind, str]] = {
    "text": "a text in quotation marks",
    "number": "a number",
    "time": "a time such as 2026-11-09",
    "duration": "a time such as 90s or 10m",
}


def _unquoted(text: str) -> str:
    inside = text[1:-1]
    if text[0] == "'":
        inside = inside.replace("''", "'")
    return inside if text[0] == "`" else re.sub(r"\\(['\"\\])", r"\1", inside)


def _moment(value: Value) -> int | None:
    """Return a time in UTC nanoseconds; one without a zone is in that of this machine."""
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
    if moment is None:
        return None
    nanoseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    return nanoseconds if abs(nanoseconds) <= _LAST_MOMENT else None


def _near(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return (
        f": did you mean {close[0]}?" if close else f": it has {', '.join(COLUMNS)}, and params.X, metrics.X, tags.X."
    )
