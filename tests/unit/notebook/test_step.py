"""The `%%step` line."""

from __future__ import annotations

import pytest

from mlbench.core.errors import UsageError
from mlbench.core.messages import Foreach, StepOptions
from mlbench.notebook import step


def refused(line: str) -> str:
    with pytest.raises(UsageError) as caught:
        step.read_line(line)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.isprintable()
    assert len(sentence) < 300
    return sentence


def test_a_cell_that_begins_with_the_magic_is_a_step() -> None:
    found = step.parse("%%step train\nmodel = fit(rows)\n")
    assert found == step.StepCell(name="train", line="train", body="model = fit(rows)\n", options=StepOptions())


@pytest.mark.parametrize(
    "source", ["", "x = 1", "# %%step a", "x = 1\n%%step a", "%%steps a", "%step a", "%%time\nf()"]
)
def test_any_other_cell_is_none(source: str) -> None:
    assert step.parse(source) is None
    assert not step.is_step(source)


def test_empty_lines_above_the_magic_are_counted() -> None:
    found = step.parse("\n \n%%step a\nx")
    assert found is not None
    assert (found.name, found.first_line, found.body) == ("a", 4, "x")


def test_a_step_may_have_no_body() -> None:
    found = step.parse("%%step a")
    assert found is not None
    assert found.body == ""


def test_windows_line_ends_are_read() -> None:
    found = step.parse("%%step a\r\nx = 1\r\n")
    assert found is not None
    assert (found.name, found.body) == ("a", "x = 1\n")


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("a", StepOptions()),
        ("a --wait", StepOptions(wait=True)),
        ("--no-wait a", StepOptions(wait=False)),
        ("a --here --continue", StepOptions(here=True, resume_own=True)),
        ("a --after load,clean-2", StepOptions(after=("load", "clean-2"))),
        ("a --after none", StepOptions(after=())),
        ("a --outputs x,y --no-store z", StepOptions(outputs=("x", "y"), no_store=("z",))),
        ("a --outputs 'x, y'", StepOptions(outputs=("x", "y"))),
        ("a --timeout 10m", StepOptions(timeout=600)),
        ("a --timeout=1h30m", StepOptions(timeout=5400)),
        ("a --timeout 500ms", StepOptions(timeout=0.5)),
        ("a --timeout 90", StepOptions(timeout=90)),
        ("a --tag team=ops --tag 'note=two words'", StepOptions(tags={"team": "ops", "note": "two words"})),
        ("a --tag q=a=b", StepOptions(tags={"q": "a=b"})),
        ("a --wait  # until it is done", StepOptions(wait=True)),
    ],
)
def test_options_are_read(line: str, options: StepOptions) -> None:
    assert step.read_line(line) == ("a", options)


@pytest.mark.parametrize("name", ["a", "train_2", "clean-data", "v1.2", "été", "特征", "_x", "3d", "x" * 64])
def test_names_that_are_allowed(name: str) -> None:
    assert step.read_line(name)[0] == name


def test_a_name_is_kept_in_its_composed_form() -> None:
    assert step.read_line("e\u0301te\u0301")[0] == "\u00e9t\u00e9"


@pytest.mark.parametrize(
    "name",
    [
        "a/b", "..", ".a", "../x", "a\\b", "'a b'", "a\u202eb", "a\u200bb", "$(id)", "`id`", "<img", "a;b", "a\x00b",
        "x" * 65, "none", "-", "''", "a,b", "{x}", "\ud800",
    ],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    refused(name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "A step needs a name: %%step NAME."),
        ("--wait", "A step needs a name: %%step NAME."),
        ("a b", "A step has one name, a word: found a and b."),
        ("a --timout 3m", "Unknown option --timout: did you mean --timeout?"),
        ("a --Wait", "Unknown option --Wait: did you mean --wait?"),
        ("a --retires 3", "Unknown option --retires: did you mean --retries?"),
        ("a --zzzzz", "Unknown option --zzzzz: %%step? shows those there are."),
        ("a -t 3", "Unknown option -t: %%step? shows those there are."),
        ("a --timeout", "--timeout needs a value: --timeout 10m."),
        ("a --timeout --wait", "--timeout needs a value: --timeout 10m."),
        ("a --wait=yes", "--wait takes no value: --wait=yes."),
        ("a --timeout 1m --timeout 2m", "--timeout is given twice."),
        ("a --tag k=1 --tag k=2", "--tag k is given twice."),
        ("a --tag k", "--tag takes key=value: found k."),
        ("a --tag =v", "--tag takes key=value: found =v."),
        ("a --timeout soon", "--timeout takes a time such as 30s, 10m, 2h or 1d: found soon."),
        ("a --timeout -5", "--timeout takes a time such as 30s, 10m, 2h or 1d: found -5."),
        ("a --timeout nan", "--timeout takes a time such as 30s, 10m, 2h or 1d: found nan."),
        ("a --timeout ٣m", "--timeout takes a time such as 30s, 10m, 2h or 1d: found ٣m."),
        ("a --timeout 0", "--timeout must be more than nothing: leave it out for no limit."),
        ("a --timeout 1000000d", "--timeout 1000000d is more than a year: leave it out for no limit."),
        ("a --wait --no-wait", "--wait and --no-wait exclude each other: leave one out."),
        ("a --here --no-wait", "--here runs in the kernel, so the cell must wait: leave out --no-wait."),
        ("a --outputs x,y --no-store y", "y is named by both --outputs and --no-store: leave it out of one."),
        ("a --outputs x,,y", "--outputs takes names with commas between, and no spaces: found x,,y."),
        ("a --outputs 1x", "--outputs takes names of variables, with commas between: 1x is none."),
        ("a --after a", "--after a: a step cannot wait for itself."),
        ("a --after b/c", "The step name b/c holds /: use letters, digits, '_', '-' and '.'."),
        ("a --tag 'open", "A quotation mark is left open in %%step a --tag 'open."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(line: str, says: str) -> None:
    assert refused(line) == says


@pytest.mark.parametrize(
    ("line", "name", "expression"),
    [
        ("a --foreach c in carriers --cpu 1", "c", "carriers"),
        ("a --foreach c in sorted(t['a --b']) # all", "c", "sorted(t['a --b'])"),
        ("a --foreach=c in {1: 'it\\'s'}", "c", "{1: 'it\\'s'}"),
    ],
)
def test_foreach_takes_an_expression_as_python_writes_it(line: str, name: str, expression: str) -> None:
    assert step.read_line(line)[1].foreach == (Foreach(name=name, expression=expression),)


def test_several_foreach_are_kept_in_their_order() -> None:
    _, options = step.read_line("a --foreach g in groups --catch --foreach s in [1, 2] --max-parallel 3")
    assert [one.name for one in options.foreach] == ["g", "s"]
    assert options.catch
    assert options.max_parallel == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a --foreach", "--foreach takes a name and what it goes through, --foreach X in XS: found ''."),
        ("a --foreach c in", "--foreach takes a name and what it goes through, --foreach X in XS: found c in."),
        ("a --foreach 3 in x", "--foreach takes the name of a variable before `in`: 3 is none."),
        ("a --foreach class in x", "--foreach takes the name of a variable before `in`: class is none."),
        ("a --foreach c in x y", "--foreach c in x y: what stands behind `in` is no expression of Python."),
        ("a --foreach c in (yield)", "--foreach c in (yield): what stands behind `in` is no expression of Python."),
        ("a --foreach c in x --foreach c in y", "--foreach c is given twice: each needs a name of its own."),
        ("a --catch", "--catch is about the items of a fan-out: add --foreach X in XS, or leave it out."),
        ("a --retry-delay 3s", "--retry-delay says how long to wait before a retry: add --retries N, or leave it out."),
        ("a --cache --no-cache", "--cache and --no-cache exclude each other: leave one out."),
        ("a --memory -1", "--memory takes a size from 10MB to 1024TB, such as 500MB or 2GB: found -1."),
        ("a --memory 9999999PB", "--memory takes a size from 10MB to 1024TB, such as 500MB or 2GB: found 9999999PB."),
        ("a --cpu 1e9", "--cpu takes a number above 0: found 1e9."),
        ("a --cpu 0", "--cpu takes a number above 0: found 0."),
        ("a --retries -1", "--retries takes a whole number from 0 to 100: found -1."),
        ("a --resources cpu=1", "--resources cpu has an option of its own: --cpu 1."),
        ("a --resources tpu", "--resources takes NAME=N with commas between: found tpu."),
        ("a --here --foreach c in x",
         "--here runs in the kernel itself, where --foreach has no meaning: leave one of them out."),
        ("a --here --memory 1GB",
         "--here runs in the kernel itself, where --memory has no meaning: leave one of them out."),
    ],
)  # fmt: skip
def test_options_of_fan_outs_and_resources_are_checked(line: str, says: str) -> None:
    assert refused(line) == says


@pytest.mark.parametrize("names", ["k, v", "k,v", "(k, v)"])
def test_items_that_are_to_be_unpacked_are_unpacked_in_the_cell(names: str) -> None:
    said = refused(f"a --foreach {names} in d.items()")
    assert said.endswith(f"Write `--foreach item in d.items()`, and `{names.strip('()')} = item` in the cell.")


@pytest.mark.parametrize("expression", ["{1, 2}", "set(ids)", "{c for c in ids}", "frozenset(ids)"])
def test_items_are_not_taken_from_a_set_which_has_no_order(expression: str) -> None:
    said = refused(f"a --foreach c in {expression}")
    assert "a set has another order in each process" in said
    assert f"`sorted({expression})`" in said


def test_resources_are_read_in_their_units() -> None:
    _, options = step.read_line("a --cpu 0.5 --gpu 2 --memory 1.5GiB --resources tpu=1,licence=2 --retries 3")
    assert (options.cpu, options.gpu, options.memory) == (0.5, 2.0, 1610612736)
    assert options.resources == {"tpu": 1.0, "licence": 2.0}
    assert options.retries == 3


def test_usage_shows_every_option() -> None:
    text = step.usage()
    for option in step.OPTIONS:
        assert option.name in text
        assert option.help in text


def test_names_that_look_alike_are_the_same() -> None:
    assert step.same_name("Étape") == step.same_name("e\u0301tape")
    assert step.same_name("train") != step.same_name("trains")
