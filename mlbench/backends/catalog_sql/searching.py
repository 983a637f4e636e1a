"""Searches of runs in SQL: a query's tree as conditions, a page of what they hold for, and the names in use.

Whatever a query, a place or a prefix holds is a bound parameter, never part of a statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Select,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)

from mlbench.backends.catalog_sql import tables as t
from mlbench.backends.catalog_sql.rows import decode, searchable
from mlbench.core.ids import RunId
from mlbench.core.queries import COLUMNS, And, Column, Comparison, Name, Not, Or, Page, Place, Query, Sort, Space, Value
from mlbench.core.records import Run
from mlbench.runs.search import check_place, pattern_parts
from mlbench.runs.wire import msgspec

__all__ = ["condition_of", "names_in_use", "search"]

_FEW: Final = 2_000
"""Up to so many runs that one comparison holds for are gone through, rather than all runs from the newest on."""

Condition = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class _Field:
    """What SQL has of a field: whether it is there, and its value as what it can be compared as."""

    present: Condition
    number: ColumnElement[Any] | None = None
    text: ColumnElement[Any] | None = None
    json: ColumnElement[Any] | None = None

    def same(self, value: Value) -> Condition:
        """Return whether it is this value; unknown counts as false."""
        if isinstance(value, bool):
            return self.json == msgspec.json.encode(value).decode() if self.json is not None else false()
        own = self.text if isinstance(value, str) else self.number
        return own == _bound(value) if own is not None and value is not None else false()

    def holds(self, operator: str, value: Any, dialect: str) -> Condition:
        """Return the condition of a comparison with anything but none."""
        match operator:
            case "=":
                found = self.same(value)
            case "!=":
                found = not_(func.coalesce(self.same(value), false()))
            case "in":
                found = or_(false(), *(self.same(one) for one in value))
            case "like" | "ilike":
                found = (
                    false() if self.text is None else _like(self.text, value, dialect, ignore_case=operator == "ilike")
                )
            case _:
                own = self.text if isinstance(value, str) else self.number
                if own is None or isinstance(value, bool):
                    return false()
                if isinstance(value, str):
                    own = _in_order(own, dialect)
                found = own.op(operator, is_comparison=True)(_bound(value))
        return and_(self.present, found)


def _bound(value: str | float) -> ColumnElement[Any]:
    if isinstance(value, str):
        return literal(value, Text())
    return literal(value, BigInteger() if isinstance(value, int) else Double())


def _in_order(text: ColumnElement[Any], dialect: str) -> ColumnElement[Any]:
    """Return a text to be ordered by its characters, which SQLite does by itself."""
    return text.collate("C") if dialect == "postgresql" else text


def _like(text: ColumnElement[Any], pattern: str, dialect: str, *, ignore_case: bool) -> Condition:
    parts = list(pattern_parts(pattern))
    if dialect == "postgresql":
        written = "".join(part if special or part not in r"\%_" else f"\\{part}" for part, special in parts)
        bound = literal(written, Text())
        return text.ilike(bound, escape="\\") if ignore_case else text.like(bound, escape="\\")
    # SQLite's LIKE never looks at the case of letters, its GLOB always does.
    meaning = {"%": "*", "_": "?"}
    written = "".join(meaning[part] if special else f"[{part}]" if part in "*?[" else part for part, special in parts)
    if ignore_case:
        return func.mlbench_lower(text).op("GLOB", is_comparison=True)(literal(written.lower(), Text()))
    return text.op("GLOB", is_comparison=True)(literal(written, Text()))


def _column(name: str) -> _Field:
    c = t.runs.c
    if name == "duration":
        return _Field(c.ended.is_not(None), number=cast(c.ended - c.started, Double()) / literal(1e9, Double()))
    column: ColumnElement[Any] = c[name]
    if COLUMNS[name] == "text":
        return _Field(column.is_not(None), text=column)
    return _Field(column.is_not(None), number=column)


def _named(space: Space) -> tuple[FromClause, _Field]:
    """Return the table of a kind of names under a name of its own, and what its rows are compared as."""
    match space:
        case "metrics":
            table = t.run_metrics.alias()
            return table, _Field(table.c.value.is_not(None), number=table.c.value)
        case "tags":
            table = t.tags.alias()
            return table, _Field(true(), text=table.c.value)
        case "params":
            table = t.params.alias()
            c = table.c
            return table, _Field(c.value != "null", number=c.number, text=c.text, json=c.value)


def condition_of(query: Query | None, dialect: str, *, of_all: bool) -> Condition:
    """Return what must hold of a row of `runs`; it is never unknown, so that `not` means what it says.

    With `of_all` it is made to be asked of all runs: what it needs is gathered once. Without it is made for the first
    few that it holds for, and looks for each run by itself.
    """
    match query:
        case None:
            return true()
        case And():
            parts = sorted(query.parts, key=_weight)
            return and_(true(), *(condition_of(part, dialect, of_all=of_all) for part in parts))
        case Or():
            return or_(false(), *(condition_of(part, dialect, of_all=of_all) for part in query.parts))
        case Not():
            return not_(condition_of(query.part, dialect, of_all=of_all))
        case Comparison(field=Column(name=name)):
            field = _column(name)
            if query.value is None:
                return field.present if query.operator == "!=" else not_(field.present)
            return field.holds(query.operator, query.value, dialect)
        case Comparison(field=Name()):
            table, rows = _rows_of(query, dialect)
            if of_all:
                there: Condition = t.runs.c.id.in_(select(table.c.run).where(rows))
            else:
                there = exists().where(rows, table.c.run == t.runs.c.id).correlate(t.runs)
            return not_(there) if query.value is None and query.operator == "=" else there
    raise AssertionError(query)


def _weight(part: Query) -> int:
    """Return a number by which parts of an `and` are ordered: first what costs least, then what rules out most."""
    match part:
        case Comparison(field=Column()):
            return 0
        case Comparison(operator="="):
            return 1
    return 2


def _rows_of(comparison: Comparison, dialect: str) -> tuple[FromClause, Condition]:
    """Return the rows of params, metrics or tags that a comparison is about: it holds for them, or they are there."""
    assert isinstance(comparison.field, Name)
    table, field = _named(comparison.field.space)
    has_name = table.c.name == literal(searchable(comparison.field.name), Text())
    if comparison.value is None:
        return table, and_(has_name, field.present)
    return table, and_(has_name, field.holds(comparison.operator, comparison.value, dialect))


# --- pages ------------------------------------------------------------------------------------------------------------


def search(
    connection: Connection,
    query: Query | None,
    sort: Sort | None,
    scopes: Sequence[Sequence[Condition]],
    *,
    limit: int,
    after: Place | None,
) -> Page:
    """Return a page of runs.

    Parameters
    ----------
    scopes
        Ways to find the runs among which is looked, each a list of conditions; no run is found in two ways.
    """
    check_place(after, sort)
    dialect = connection.dialect.name
    from_an_index = sort is None or sort.field == Column("started") or getattr(sort.field, "space", None) == "metrics"
    wanted = condition_of(query, dialect, of_all=not from_an_index)
    few = _narrowed(connection, query, dialect)
    if few is not None:
        wanted = and_(few, wanted)
    if sort is None or sort == _NEWEST:
        return _newest(connection, wanted, scopes, limit=limit, after=after, is_sorted=sort is not None)
    scope = or_(false(), *(and_(true(), *one) for one in scopes))
    order = _order(sort, dialect, [part for part in _conjuncts(query) if part.value is not None])
    found: list[tuple[Run, Place]] = []
    if after is None or after.value is not None:
        page = order.having.where(wanted, scope).order_by(*order.by).limit(limit + 1)
        if after is not None:
            page = page.where(_comes_after(order, after, descending=sort.descending))
        for row in connection.execute(page):
            value = row.number if row.number is not None else row.text
            found.append((decode(row.record, Run), Place(value, row.started, RunId(row.id))))
    if len(found) <= limit and not order.all_have:
        c = t.runs.c
        rest = select(c.record, c.started, c.id).where(not_(order.has), wanted, scope)
        if after is not None and after.value is None:
            rest = rest.where(_older(c.started, c.id, after))
        rest = rest.order_by(c.started.desc(), c.id.desc()).limit(limit + 1 - len(found))
        found += (
            (decode(row.record, Run), Place(None, row.started, RunId(row.id))) for row in connection.execute(rest)
        )
    return _page(found, limit)


_NEWEST: Final = Sort(Column("started"), descending=True)


def _newest(
    connection: Connection,
    wanted: Condition,
    scopes: Sequence[Sequence[Condition]],
    *,
    limit: int,
    after: Place | None,
    is_sorted: bool,
) -> Page:
    """Return a page, newest first: of each scope the newest, so that each is read from the end of its index."""
    c = t.runs.c
    query = select(c.record).where(wanted)
    if after is not None:
        query = query.where(_older(c.started, c.id, after))
    query = query.order_by(c.started.desc(), c.id.desc()).limit(limit + 1)
    runs: list[Run] = []
    for scope in scopes:
        runs += (decode(record, Run) for record in connection.execute(query.where(*scope)).scalars())
    runs.sort(key=lambda run: (run.started, run.id), reverse=True)
    return _page([(run, Place(run.started if is_sorted else None, run.started, run.id)) for run in runs], limit)


def _page(found: Sequence[tuple[Run, Place]], limit: int) -> Page:
    return Page(tuple(run for run, _ in found[:limit]), found[limit - 1][1] if len(found) > limit else None)


def _older(started: ColumnElement[Any], identifier: ColumnElement[Any], place: Place) -> Condition:
    moment = literal(place.started, BigInteger())
    # The first condition follows from the second: it is what an index is entered by.
    return and_(started <= moment, or_(started < moment, identifier < place.id))


@dataclass(frozen=True, slots=True)
class _Order:
    """How runs are sorted: the select of those that have what they are sorted by, its order, and who has it.

    `all_have` says that runs which do not have it are not looked for.
    """

    having: Select[Any]
    by: list[ColumnElement[Any]]
    has: Condition
    number: ColumnElement[Any] | None
    text: ColumnElement[Any] | None
    started: ColumnElement[Any]
    id: ColumnElement[Any]
    all_have: bool


def _conjuncts(query: Query | None) -> list[Comparison]:
    """Return the comparisons that all must hold for a query to be true."""
    parts = query.parts if isinstance(query, And) else (query,)
    return [part for part in parts if isinstance(part, Comparison)]


def _order(sort: Sort, dialect: str, known: Sequence[Comparison]) -> _Order:
    """Return an order; what is `known` of the very thing that is sorted by bounds what is read of its index."""
    runs = t.runs.c
    all_have = any(part.field == sort.field for part in known)
    started: ColumnElement[Any] = runs.started
    identifier: ColumnElement[Any] = runs.id
    if isinstance(sort.field, Column):
        field = _column(sort.field.name)
        source: Any = t.runs
        has = there = field.present
    else:
        table, field = _named(sort.field.space)
        there = table.c.name == literal(searchable(sort.field.name), Text())
        if sort.field.space == "params":
            there = and_(there, or_(table.c.number.is_not(None), table.c.text.is_not(None)))
        elif sort.field.space == "metrics":
            there = and_(there, field.present)
            started, identifier = table.c.started, table.c.run  # in the index that this is read from
        source = table.join(t.runs, t.runs.c.id == table.c.run)
        has = exists().where(there, table.c.run == runs.id).correlate(t.runs)
        bounds = [field.holds(part.operator, part.value, dialect) for part in known if part.field == sort.field]
        there = and_(there, *bounds)
    text = None if field.text is None else _in_order(field.text, dialect)
    nothing = literal(None, Text())
    number_shown = field.number if field.number is not None else nothing
    text_shown = field.text if field.text is not None else nothing
    columns = (runs.record, started.label("started"), identifier.label("id"))
    having = select(*columns, number_shown.label("number"), text_shown.label("text")).select_from(source).where(there)
    keys: list[ColumnElement[Any]] = [key for key in (field.number, text) if key is not None]
    if len(keys) > 1:
        keys.insert(0, field.text.is_not(None))  # type: ignore[union-attr]
    by = [key.desc() if sort.descending else key.asc() for key in keys]
    return _Order(
        having, [*by, started.desc(), identifier.desc()], has, field.number, text, started, identifier, all_have
    )


def _comes_after(order: _Order, place: Place, *, descending: bool) -> Condition:
    """Return what is true of the runs after a place that has a value."""
    is_text = isinstance(place.value, str)
    own, other = (order.text, order.number) if is_text else (order.number, order.text)
    assert own is not None
    assert place.value is not None
    bound = _bound(place.value)
    beyond = own < bound if descending else own > bound
    entered = own <= bound if descending else own >= bound
    found = and_(entered, or_(beyond, _older(order.started, order.id, place)))
    if other is not None and is_text is descending:
        return or_(other.is_not(None), found)
    return found


def _narrowed(connection: Connection, query: Query | None, dialect: str) -> Condition | None:
    """Return that a run is one of those few that a part of a query holds for; None if no part holds for few.

    Runs are else gone through in their order until a page is full, which takes long where hardly any fits.
    """
    for part in _conjuncts(query):
        if _is_in_an_index(part):
            table, condition = _rows_of(part, dialect)
            rows = select(table.c.run).where(condition)
            count = select(func.count()).select_from(rows.limit(_FEW + 1).subquery())
            if connection.execute(count).scalar_one() <= _FEW:
                return t.runs.c.id.in_(rows)
    return None


def _is_in_an_index(part: Comparison) -> bool:
    if not isinstance(part.field, Name) or part.value is None or part.operator not in {"=", "<", "<=", ">", ">="}:
        return False
    return part.field.space != "tags" and isinstance(part.value, int | float) and not isinstance(part.value, bool)


# --- names ------------------------------------------------------------------------------------------------------------


def names_in_use(connection: Connection, space: Space, prefix: str, limit: int) -> Iterator[str]:
    """Yield the names that begin so: each is one step through an index, however often it is used."""
    table, _ = _named(space)
    c = table.c
    query = select(c.name).order_by(c.name).limit(1)
    if space == "metrics":
        query = query.where(c.value.is_not(None))
    condition = c.name >= literal(prefix, Text())
    for _ in range(limit):
        found = connection.execute(query.where(condition)).scalar()
        if found is None or not found.startswith(prefix):
            return
        yield found
        condition = c.name > literal(found, Text())
