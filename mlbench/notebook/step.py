"""The `%%step` line: a name and options.

Options are spelled as users of other tools know them. What cannot be understood is refused with the nearest right word;
nothing is guessed.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlbench.core.errors import UsageError
from mlbench.core.messages import Foreach, StepOptions

__all__ = [
    "OPTIONS",
    "Option",
    "StepCell",
    "not_first",
    "parse",
    "read_line",
    "same_name",
    "seconds_of",
    "usage",
    "without_order",
]

LONGEST_NAME = 64
LONGEST_TIMEOUT = 366 * 86400.0
LONGEST_DELAY = 86400.0
LONGEST_PATH = 4096
LEAST_MEMORY, MOST_MEMORY = 10 * 10**6, 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of `%%step`: its spelling, what follows it (None if nothing) and what it does."""

    name: str
    value: str | None
    help: str


OPTIONS: tuple[Option, ...] = (
    Option(name="--foreach", value="X in XS", help="Run the cell for each X; given again: for each pair, and so on."),
    Option(name="--catch", value=None, help="A failed item does not fail the step: its place holds a Failed value."),
    Option(name="--max-parallel", value="N", help="Run at most so many items at once."),
    Option(name="--cpu", value="N", help="Processors that the step needs (each item, in a fan-out)."),
    Option(name="--gpu", value="N", help="GPUs that it needs."),
    Option(name="--memory", value="2GB", help="Memory that it needs, and that ends it if it uses more."),
    Option(name="--resources", value="NAME=N,...", help="Other things that a worker must have, by Dask's names."),
    Option(name="--retries", value="N", help="Try again so often if it fails or its worker is lost."),
    Option(name="--retry-delay", value="30s", help="Wait so long before each of these."),
    Option(name="--cache", value=None, help="Take the results of an unchanged execution instead of running."),
    Option(name="--no-cache", value=None, help="Run, whatever %config MLBench.cache says."),
    Option(name="--env", value="NAME", help="Run in an environment of its own: a name, or a requirements file."),
    Option(name="--wait", value=None, help="The cell returns when the step has ended."),
    Option(name="--no-wait", value=None, help="The cell returns at once, where late output is shown under its cell."),
    Option(name="--here", value=None, help="Run in the kernel itself, recorded all the same, so that %debug works."),
    Option(name="--continue", value=None, help="Start from this step's own last result, not from what it saw then."),
    Option(name="--after", value="A,B|none", help="Wait for these steps, though no name says so; none: for no others."),
    Option(name="--outputs", value="a,b", help="Store only these names."),
    Option(name="--no-store", value="a,b", help="Do not store these names."),
    Option(name="--timeout", value="10m", help="End the step if it takes longer: 30s, 10m, 2h, 1d."),
    Option(name="--tag", value="key=value", help="A tag for the record; may be given several times."),
)
"""All of them, in the order in which `%%step?` shows them."""

_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
_MAGIC = re.compile(r"(?:[ \t]*\n)*%%step(?=[ \t]|\n|\Z)([^\n]*)(?:\n|\Z)")
_FOREACH = re.compile(r"(?:^|(?<=\s))(--foreach(?:=|(?=\s)|$))")
_NEXT_OPTION = re.compile(r"(?<=\s)--[a-z]")
_OWN_RESOURCES = frozenset({"cpu", "gpu", "memory"})
_SIZES = {"": 1, **{f"{letter}": 1000**power for power, letter in enumerate("kmgt", 1)}}
_SIZES |= {f"{letter}i": 1024**power for power, letter in enumerate("kmgt", 1)}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[smhd]))+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCell:
    """A cell that is a step: `line` is what follows `%%step`, `body` the rest, which begins at line `first_line`."""

    name: str
    line: str
    body: str
    options: StepOptions = field(default_factory=StepOptions)
    first_line: int = 2


def parse(source: str) -> StepCell | None:
    r"""Return the step that a cell is, or None if it does not begin with `%%step`.

    Raises
    ------
    UsageError
        If its line has no name, or an option that is unknown or malformed.

    Examples
    --------
    >>> step = parse("%%step train --timeout 10m\nmodel = fit(flights)")
    >>> step.name, step.options.timeout, step.body
    ('train', 600.0, 'model = fit(flights)')
    >>> parse("model = fit(flights)") is None
    True
    """
    match = _MAGIC.match(source.replace("\r\n", "\n"))
    if match is None:
        return None
    line = match[1].strip()
    name, options = read_line(line)
    body = match.string[match.end() :]
    return StepCell(name=name, line=line, body=body, options=options, first_line=match[0].count("\n") + 1)


def is_step(source: str) -> bool:
    """Say whether a cell begins with `%%step`, be its line right or wrong.

    Examples
    --------
    >>> is_step("%%step"), is_step("%%stepwise x")
    (True, False)
    """
    return _MAGIC.match(source.replace("\r\n", "\n")) is not None


def read_line(line: str) -> tuple[str, StepOptions]:
    """Return the name and the options of what follows `%%step`. Raise `UsageError`.

    Examples
    --------
    >>> name, options = read_line("report --after load,train --tag team=ops")
    >>> name, options.after, options.tags
    ('report', ('load', 'train'), {'team': 'ops'})
    """
    line, expressions = _cut_out_foreach(line)
    foreach = [_foreach(text) for text in expressions]
    words = _words(line)
    names: list[str] = []
    values: dict[str, Any] = {}
    tags: dict[str, str] = {}
    given: set[str] = set()
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            names.append(word)
            continue
        spelled, equals, value = word.partition("=")
        option = _option(spelled)
        if option.value is None:
            if equals:
                raise UsageError(f"{option.name} takes no value: {_shown(word)}.")
        elif not equals:
            if not words or (words[0].startswith("--") and words[0].partition("=")[0] in _BY_NAME):
                raise UsageError(f"{option.name} needs a value: {option.name} {option.value}.")
            value = words.pop(0)
        if option.name in given and option.name != "--tag":
            raise UsageError(f"{option.name} is given twice.")
        given.add(option.name)
        if option.name == "--tag":
            key, text = _tag(value)
            if key in tags:
                raise UsageError(f"--tag {key} is given twice.")
            tags[key] = text
        else:
            field_name, read = _READ[option.name]
            values[field_name] = read(value)
    for one, other in (("--wait", "--no-wait"), ("--cache", "--no-cache")):
        if {one, other} <= given:
            raise UsageError(f"{one} and {other} exclude each other: leave one out.")
    if {"--here", "--no-wait"} <= given:
        raise UsageError("--here runs in the kernel, so the cell must wait: leave out --no-wait.")
    both = set(values.get("outputs") or ()) & set(values.get("no_store", ()))
    if both:
        raise UsageError(f"{min(both)} is named by both --outputs and --no-store: leave it out of one.")
    if not names:
        raise UsageError("A step needs a name: %%step NAME.")
    if len(names) > 1:
        found = " and ".join(_shown(name) for name in names)
        raise UsageError(f"A step has one name, a word: found {found}.")
    name = _name(names[0])
    if name in (values.get("after") or ()):
        raise UsageError(f"--after {name}: a step cannot wait for itself.")
    _check_together(given, foreach)
    return name, StepOptions(foreach=tuple(foreach), tags=tags, **values)


def _check_together(given: set[str], foreach: list[Foreach]) -> None:
    """Refuse options that mean nothing together."""
    for option in ("--catch", "--max-parallel"):
        if option in given and not foreach:
            raise UsageError(f"{option} is about the items of a fan-out: add --foreach X in XS, or leave it out.")
    if "--retry-delay" in given and "--retries" not in given:
        raise UsageError("--retry-delay says how long to wait before a retry: add --retries N, or leave it out.")
    elsewhere = given | ({"--foreach"} if foreach else set())
    here = sorted(elsewhere & {"--foreach", "--env", "--cpu", "--gpu", "--memory", "--resources", "--retries"})
    if "--here" in given and here:
        raise UsageError(f"--here runs in the kernel itself, where {here[0]} has no meaning: leave one of them out.")
    names = [one.name for one in foreach]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--foreach {name} is given twice: each needs a name of its own.")


def same_name(name: str) -> str:
    """Return what two step names have in common if they differ only in case or Unicode form.

    Examples
    --------
    >>> same_name("Train") == same_name("train")
    True
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def usage() -> str:
    """Return what `%%step?` shows.

    Examples
    --------
    >>> print(usage().splitlines()[0])
    %%step NAME [options]
    """
    wide = max(len(_spelling(option)) for option in OPTIONS)
    lines = [f"  {_spelling(option):<{wide}}  {option.help}" for option in OPTIONS]
    return "\n".join(
        [
            "%%step NAME [options]",
            "",
            "Run this cell on the cluster, in parallel with the steps whose results it does not need, and record it.",
            "NAME is made of letters, digits, '_', '-' and '.'; another cell's code reads what this one binds by name.",
            "",
            *lines,
        ]
    )


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was most likely meant, if one is near.

    Examples
    --------
    >>> nearest("--timout", ["--timeout", "--tag"])
    '--timeout'
    """
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return close[0] if close else None


def _spelling(option: Option) -> str:
    return option.name if option.value is None else f"{option.name} {option.value}"


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""
    try:
        words = list(lexer)
    except ValueError:
        raise UsageError(f"A quotation mark is left open in %%step {_shown(line)}.") from None
    for place, word in enumerate(words):
        if word.startswith("#"):
            return words[:place]  # a comment, as on every other line
    return words


def _option(word: str) -> Option:
    option = _BY_NAME.get(word)
    if option is not None:
        return option
    near = nearest(word, _BY_NAME)
    hint = f"did you mean {near}?" if near else "%%step? shows those there are."
    raise UsageError(f"Unknown option {_shown(word)}: {hint}")


def _name(text: str) -> str:
    name = unicodedata.normalize("NFC", text)
    if not name:
        raise UsageError("A step needs a name: %%step NAME.")
    if len(name) > LONGEST_NAME:
        raise UsageError(f"A step's name has at most {LONGEST_NAME} characters: {_shown(name)} has {len(name)}.")
    for character in name:
        if not (character.isalnum() or character in "_-."):
            raise UsageError(
                f"The step name {_shown(name)} holds {_shown(character)}: use letters, digits, '_', '-' and '.'."
            )
    if not (name[0].isalnum() or name[0] == "_"):
        raise UsageError(f"The step name {_shown(name)} must begin with a letter, a digit or '_'.")
    if name.lower() == "none":
        raise UsageError("A step cannot be called none: --after none means that it waits for no other.")
    return name


def _shown(text: str) -> str:
    """Return a text as it is if it is harmless, else with its strange characters spelled out."""
    cut = text if len(text) <= 80 else text[:77] + "..."
    return cut if cut.isprintable() and cut.strip() else ascii(cut)


def _flag(*, to: bool) -> Callable[[str], bool]:
    def read(_text: str) -> bool:
        return to

    return read


def _after(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    return tuple(dict.fromkeys(_name(part) for part in _list(text, "--after", "step names")))


def _variables(option: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = [unicodedata.normalize("NFKC", part) for part in _list(text, option, "names")]
        for name in names:
            if not name.isidentifier():
                raise UsageError(f"{option} takes names of variables, with commas between: {_shown(name)} is none.")
        return tuple(dict.fromkeys(names))

    return read


def _list(text: str, option: str, what: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} takes {what} with commas between, and no spaces: found {_shown(text)}.")
    return parts


def _cut_out_foreach(line: str) -> tuple[str, list[str]]:
    """Return a line without what follows each `--foreach`, and that: Python has its own quotation marks.

    Examples
    --------
    >>> _cut_out_foreach("fit --foreach c in table['a b'] --cpu 1")
    ('fit --cpu 1', ["c in table['a b']"])
    """
    found: list[str] = []
    while (begin := _FOREACH.search(line)) is not None:
        end = _end_of_expression(line, begin.end())
        found.append(line[begin.end() : end].strip())
        line = line[: begin.start(1)] + line[end:]
    return line, found


def _end_of_expression(line: str, place: int) -> int:
    """Return where an expression ends that begins at a place: before the next option, or a comment."""
    depth, quote = 0, ""
    while place < len(line):
        character = line[place]
        if quote:
            if character == "\\":
                place += 1
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth <= 0 and (character == "#" or _NEXT_OPTION.match(line, place)):
            return place
        place += 1
    return place


def _foreach(text: str) -> Foreach:
    match = re.fullmatch(r"\s*(\S+)\s+in\s+(.+)", text, re.DOTALL)
    several = re.match(r"\s*\(?\s*(\w+(?:\s*,\s*\w+)+)\s*,?\s*\)?\s+in\s+(.+)", text, re.DOTALL)
    if several is not None:
        raise UsageError(
            f"--foreach takes one name before `in`: {_shown(several[1])} are more.",
            f"Write `--foreach item in {_shown(several[2].strip())}`, and `{_shown(several[1])} = item` in the cell.",
        )
    if match is None:
        raise UsageError(f"--foreach takes a name and what it goes through, --foreach X in XS: found {_shown(text)}.")
    name, expression = unicodedata.normalize("NFKC", match[1]), match[2].strip()
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"--foreach takes the name of a variable before `in`: {_shown(match[1])} is none.")
    try:
        tree = ast.parse(expression, mode="eval")
        compile(tree, "<foreach>", "eval")  # also what only a function may have, such as `yield`
    except (SyntaxError, ValueError):
        raise UsageError(
            f"--foreach {name} in {_shown(expression)}: what stands behind `in` is no expression of Python."
        ) from None
    if _is_set(tree.body):
        raise without_order(name, expression)
    return Foreach(name=name, expression=expression)


def not_first(line: str) -> UsageError:
    """Return what is said of a `%%step` that something stands above: a comment is enough."""
    return UsageError(
        f"%%step {_shown(line.strip())} is not its cell's first line.",
        "Put it there, and what stands above it below it or into a cell of its own.",
    )


def without_order(name: str, expression: str) -> UsageError:
    """Return what is said of a `--foreach` that goes through a set: processes see it in orders of their own."""
    return UsageError(
        f"--foreach {name} in {_shown(expression)}: a set has another order in each process, so nobody could tell whose"
        " result is at which place.",
        f"Make a list with an order of its own, such as `sorted({_shown(expression)})`, and go by it outside too.",
    )


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    return isinstance(node, ast.Set | ast.SetComp)


def _timeout(text: str) -> float:
    seconds = _seconds(text, "--timeout")
    if seconds <= 0:
        raise UsageError("--timeout must be more than nothing: leave it out for no limit.")
    if seconds > LONGEST_TIMEOUT:
        raise UsageError(f"--timeout {_shown(text)} is more than a year: leave it out for no limit.")
    return seconds


def seconds_of(text: str) -> float | None:
    """Return how many seconds a duration has, None if a text is none.

    Examples
    --------
    >>> seconds_of("90s"), seconds_of("1h30m"), seconds_of("250ms"), seconds_of("90")
    (90.0, 5400.0, 0.25, None)
    """
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|[smhd])", text))


def _seconds(text: str, option: str) -> float:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    seconds = seconds_of(text)
    if seconds is not None:
        return seconds
    raise UsageError(f"{option} takes a time such as 30s, 10m, 2h or 1d: found {_shown(text)}.")


def _delay(text: str) -> float:
    seconds = _seconds(text, "--retry-delay")
    if seconds > LONGEST_DELAY:
        raise UsageError(f"--retry-delay {_shown(text)} is more than a day.")
    return seconds


def _count(option: str, *, least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise UsageError(f"{option} takes a whole number from {least} to {most:,}: found {_shown(text)}.")
        return int(text)

    return read


def _amount(option: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        amount = float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) else 0.0
        if amount <= 0:
            raise UsageError(f"{option} takes a number above 0: found {_shown(text)}.")
        return amount

    return read


def _memory(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([kKMGT]i?)?B?", text)
    size = int(float(match[1]) * _SIZES[(match[2] or "").lower()]) if match else 0
    if not LEAST_MEMORY <= size <= MOST_MEMORY:
        raise UsageError(f"--memory takes a size from 10MB to 1024TB, such as 500MB or 2GB: found {_shown(text)}.")
    return size


def _resources(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in _list(text, "--resources", "NAME=N"):
        name, equals, number = part.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", name):
            raise UsageError(f"--resources takes NAME=N with commas between: found {_shown(part)}.")
        if name in _OWN_RESOURCES:
            raise UsageError(f"--resources {name} has an option of its own: --{name} {number or 'N'}.")
        if name in found:
            raise UsageError(f"--resources names {name} twice.")
        found[name] = _amount(f"--resources {name}")(number)
    return found


def _env(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > LONGEST_PATH:
        raise UsageError(f"--env takes a name, or the path of a requirements file: found {_shown(text)}.")
    return text


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--tag takes key=value: found {_shown(text)}.")
    if not (key + value).isprintable():
        raise UsageError(f"--tag takes printable text: found {_shown(text)}.")
    return key.strip(), value.strip()


_READ: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "--catch": ("catch", _flag(to=True)),
    "--max-parallel": ("max_parallel", _count("--max-parallel", least=1, most=100_000)),
    "--cpu": ("cpu", _amount("--cpu")),
    "--gpu": ("gpu", _amount("--gpu")),
    "--memory": ("memory", _memory),
    "--resources": ("resources", _resources),
    "--retries": ("retries", _count("--retries", least=0, most=100)),
    "--retry-delay": ("retry_delay", _delay),
    "--cache": ("cache", _flag(to=True)),
    "--no-cache": ("cache", _flag(to=False)),
    "--env": ("env", _env),
    "--wait": ("wait", _flag(to=True)),
    "--no-wait": ("wait", _flag(to=False)),
    "--here": ("here", _flag(to=True)),
    "--continue": ("resume_own", _flag(to=True)),
    "--after": ("after", _after),
    "--outputs": ("outputs", _variables("--outputs")),
    "--no-store": ("no_store", _variables("--no-store")),
    "--timeout": ("timeout", _timeout),
}
