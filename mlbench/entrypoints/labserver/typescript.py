"""The REST interface as TypeScript, made from `schema.py`: `python -m mlbench.entrypoints.labserver.typescript`.

Every interface is read-only, since records are immutable; a field with a default is always there in an answer and may
be left out of a question, so only the questions' fields are optional.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import inspect

from mlbench.entrypoints.labserver import schema

__all__ = ["typescript"]

HEAD: Final = """\
// Written by `python -m mlbench.entrypoints.labserver.typescript` from mlbench/entrypoints/labserver/schema.py.

import type { PartialJSONObject, PartialJSONValue } from '@lumino/coreutils';
"""
ASKED: Final = frozenset(
    {
        "GraphQuestion",
        "CellText",
        "OutputsQuestion",
        "JobQuestion",
        "NewJob",
        "JobChange",
        "ScheduleQuestion",
        "Watch",
        "Document",
    }
)


def typescript(types: Iterable[type] = schema.SPOKEN) -> str:
    """Return the interfaces of the types and of all that they hold, as one module."""
    blocks: dict[str, str] = {}
    for known in msgspec.inspect.multi_type_info(types):
        _collect(known, blocks)
    return "\n".join([HEAD, *(blocks[name] for name in sorted(blocks))])


def _collect(known: inspect.Type, blocks: dict[str, str]) -> None:
    if isinstance(known, (inspect.StructType, inspect.DataclassType)):
        name = known.cls.__name__
        if name in blocks:
            return
        blocks[name] = ""
        lines = []
        for field in known.fields:
            _collect(field.type, blocks)
            optional = "?" if name in ASKED and not field.required else ""
            lines.append(f"  readonly {field.encode_name}{optional}: {_spell(field.type)};")
        blocks[name] = "\n".join([f"export interface I{name} {{", *lines, "}", ""])
    elif isinstance(known, inspect.UnionType):
        for member in known.types:
            _collect(member, blocks)
    elif isinstance(known, (inspect.ListType, inspect.VarTupleType)):
        _collect(known.item_type, blocks)
    elif isinstance(known, inspect.DictType):
        _collect(known.value_type, blocks)


def _spell(known: inspect.Type) -> str:
    match known:
        case inspect.StructType() | inspect.DataclassType():
            return f"I{known.cls.__name__}"
        case inspect.UnionType():
            return " | ".join(_spell(member) for member in known.types)
        case inspect.ListType() | inspect.VarTupleType():
            item = _spell(known.item_type)
            return f"ReadonlyArray<{item}>"
        case inspect.DictType(value_type=inspect.AnyType()):
            return "PartialJSONObject"
        case inspect.DictType():
            return f"{{ readonly [name: string]: {_spell(known.value_type)} }}"
        case inspect.LiteralType():
            return " | ".join(f"'{value}'" for value in known.values)
        case inspect.StrType():
            return "string"
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
        case inspect.AnyType():
            return "PartialJSONValue"
        case _:
            raise TypeError(f"{known!r} has no spelling in TypeScript: say it with other types in schema.py.")


def main() -> None:
    """Write `src/api/schema.ts`, or the file that is named."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("src/api/schema.ts")
    target.write_text(typescript(), encoding="utf-8")


if __name__ == "__main__":
    main()
