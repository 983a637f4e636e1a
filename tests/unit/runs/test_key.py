"""Keys say "the same step" in every process, and differ whenever the step could differ."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import pytest

from mlbench.core.messages import Spread
from mlbench.runs.key import Fingerprint, digest_source, item_keys

SOURCE = """
import functools, math
factor = 2
class Base:
    unit = 3
class Shape(Base):
    def area(self): return self.unit * factor
def helper(v, w=1): return v * factor + w
def outer(v):
    names = {'a', 'b', 'c'}
    return [helper(x) for x in range(v) if str(x) not in {'p', 'q', 'r'}] + sorted(names)
@functools.lru_cache
def cached(v): return helper(v)
part = functools.partial(helper, w=2)
shape = Shape()
words = {'x', 'y', 'z'}
import dataclasses, re
@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    names: list = dataclasses.field(default_factory=lambda: ['a'])
settings = Settings()
pattern = re.compile('a+', re.I)
class Lazy:
    @functools.cached_property
    def area(self): return factor
lazy = Lazy()
@functools.singledispatch
def shown(v): return 'any'
shown.register(int, lambda v: 'int')
"""
NAMES = ("outer", "cached", "part", "shape", "words", "math", "settings", "pattern", "lazy", "shown")

PROGRAM = """
import sys, types
main = types.ModuleType('__main__'); sys.modules['__main__'] = main
exec(compile(sys.argv[1], sys.argv[2], 'exec'), main.__dict__)
from mlbench.runs.key import Fingerprint
print([Fingerprint(main.__dict__).of(main.__dict__[name]) for name in sys.argv[3].split()])
"""


def elsewhere(source: str, filename: str, seed: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, source, filename, " ".join(NAMES)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    return found.stdout


def test_a_key_is_the_same_in_other_processes_files_and_lines() -> None:
    assert elsewhere(SOURCE, "one.py", "1") == elsewhere("# moved\n\n\n" + SOURCE, "two.py", "2")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("v * factor + w", "v * factor - w"),
        ("factor = 2", "factor = 3"),
        ("w=1", "w=5"),
        ("unit = 3", "unit = 4"),
        ("'c'", "'d'"),
    ],
)
def test_a_key_changes_with_what_the_code_does(before: str, after: str) -> None:
    assert fingerprints(SOURCE) != fingerprints(SOURCE.replace(before, after))


def fingerprints(source: str) -> list[str]:
    main = types.ModuleType("__main__")
    exec(source, main.__dict__)
    prints = Fingerprint(main.__dict__)
    return [prints.of(main.__dict__[name]) for name in NAMES]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("re.compile('a')", "re.compile('a', re.I)"),
        ("dataclasses.make_dataclass('D', [('a', int, 1)])", "dataclasses.make_dataclass('D', [('a', int, 2)])"),
        ("type('L', (), {'p': functools.cached_property(lambda self: 1)})()",
         "type('L', (), {'p': functools.cached_property(lambda self: 2)})()"),
        ("types.MappingProxyType({'a': 1})", "types.MappingProxyType({'a': 2})"),
    ],
)  # fmt: skip
def test_what_notebooks_often_define_has_a_key_that_changes_with_it(before: str, after: str) -> None:
    def key_of(text: str) -> str:
        main = {"__name__": "__main__"}
        exec(f"import dataclasses, functools, re, types\nv = {text}", main)
        return Fingerprint(main).of(main["v"])

    assert key_of(before) == key_of(before)
    assert key_of(before) != key_of(after)


def test_comments_and_names_of_files_do_not_change_a_key() -> None:
    assert fingerprints(SOURCE) == fingerprints(SOURCE.replace("def helper", "# why\n\n\ndef helper"))


def test_a_name_that_a_step_provides_counts_by_name_not_by_value() -> None:
    def of(value: int, without: tuple[str, ...]) -> str:
        main = types.ModuleType("__main__")
        exec(f"table = {value}\ndef f(): return table", main.__dict__)
        return Fingerprint(main.__dict__, without=without).of(main.__dict__["f"])

    assert of(1, ("table",)) == of(2, ("table",))
    assert of(1, ()) != of(2, ())


def test_modules_that_values_refer_to_are_known_by_name() -> None:
    prints = Fingerprint({})
    prints.of([Any, __import__("json"), __import__("json").dumps])
    assert "json" in prints.modules


def test_a_recursive_value_has_a_key() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert Fingerprint({}).of(loop) == Fingerprint({}).of(loop)


def test_equal_numbers_of_different_types_have_different_keys() -> None:
    assert len({Fingerprint({}).of(one) for one in (1, 1.0, True, "1")}) == 4


def test_syntax_that_cannot_be_parsed_still_has_a_digest() -> None:
    assert digest_source("x = (") != digest_source("x = [")


def test_the_keys_of_items_differ_and_begin_alike_where_they_have_all_else_in_common() -> None:
    spread = Spread(shape=(3, 2), digests=(("a", 'é"', "a"), ("int:1", "int:2")))
    keys, others = item_keys("one", spread), item_keys("other", spread)
    assert len({*keys, *others}) == 12
    assert {len(key) for key in keys} == {64}
    assert len({key[:24] for key in keys}) == 1
    assert keys[0][:24] != others[0][:24]
