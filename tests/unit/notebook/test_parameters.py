"""The parameters cell and the values given to it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlbench.core.errors import ParameterError
from mlbench.notebook import parameters
from mlbench.notebook.parameters import Parameter


def one(source: str) -> Parameter:
    (parameter,) = parameters.read(source)
    return parameter


def refused(source: str, given: dict[str, Any]) -> str:
    with pytest.raises(ParameterError) as caught:
        parameters.convert(parameters.read(source), given)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('a: str = "x"  # help text', Parameter(name="a", type="str", default="x", help="help text", line=1)),
        ("a = 3", Parameter(name="a", type="int", default=3, line=1)),
        ("a = 3  # type: float  how much", Parameter(name="a", type="float", default=3.0, help="how much", line=1)),
        ("a = 1.5", Parameter(name="a", type="float", default=1.5, line=1)),
        ("a = True", Parameter(name="a", type="bool", default=True, line=1)),
        ("a = None", Parameter(name="a", type="any", optional=True, line=1)),
        ("a: int = None", Parameter(name="a", type="int", optional=True, line=1)),
        ("a: int | None = 3", Parameter(name="a", type="int", default=3, optional=True, line=1)),
        ("a: Optional[str] = None", Parameter(name="a", type="str", optional=True, line=1)),
        ("a: Union[int, float] = 1", Parameter(name="a", type="float", default=1.0, line=1)),
        ("a: 'int' = 1", Parameter(name="a", type="int", default=1, line=1)),
        ("a: int", Parameter(name="a", type="int", required=True, line=1)),
        ("a = [1, 2]", Parameter(name="a", type="list", default=[1, 2], line=1)),
        ("a = (1, 2)", Parameter(name="a", type="list", default=[1, 2], line=1)),
        ("a: list[str] = []", Parameter(name="a", type="list", default=[], item="str", line=1)),
        ("a: typing.List[int] = []", Parameter(name="a", type="list", default=[], item="int", line=1)),
        ("a = {'k': 1}", Parameter(name="a", type="dict", default={"k": 1}, line=1)),
        ("a: dict[str, float] = {}", Parameter(name="a", type="dict", default={}, item="float", line=1)),
        ("a: Literal['x', 'y'] = 'x'", Parameter(name="a", type="str", default="x", choices=("x", "y"), line=1)),
        ("a = -60 * 60", Parameter(name="a", type="int", default=-3600, line=1)),
        ("a = 2 ** 99999999", Parameter(name="a", default_source="2 ** 99999999", line=1)),
        ("a = date.today()", Parameter(name="a", default_source="date.today()", line=1)),
        ("a: str = os.environ['X']", Parameter(name="a", type="str", default_source="os.environ['X']", line=1)),
        ("a: pd.DataFrame = None", Parameter(name="a", optional=True, line=1)),
        ("\n# above\na = 'x#y'  # type: str", Parameter(name="a", type="str", default="x#y", line=3)),
    ],
)
def test_a_declaration_is_read(source: str, expected: Parameter) -> None:
    assert one(source) == expected


def test_the_cells_order_is_kept_the_last_of_two_counts_and_private_names_are_none() -> None:
    found = parameters.read("b = 1\na = 2\n_c = 3\nb = 'x'\nimport os\nd.e = 1")
    assert [(parameter.name, parameter.default) for parameter in found] == [("a", 2), ("b", "x")]


def test_help_of_a_value_over_several_lines_is_that_of_its_last() -> None:
    assert one("a = [\n    1,  # one\n]  # all").help == "all"


def test_magics_beside_the_parameters_do_no_harm() -> None:
    assert [p.name for p in parameters.read("%matplotlib inline\na = 1")] == ["a"]


def test_a_cell_that_python_cannot_read_is_named() -> None:
    with pytest.raises(ParameterError, match="The parameters cell, line 2: "):
        parameters.read("a = 1\nb = (")


@pytest.mark.parametrize(
    ("source", "given", "value"),
    [
        ("a = 1", "200", 200),
        ("a = 1", " -7 ", -7),
        ("a = 1", "1_000", 1000),
        ("a = 1", 5.0, 5),
        ("a = 1", 2**70, 2**70),
        ("a = 1.0", "2", 2.0),
        ("a = 1.0", "1e-3", 0.001),
        ("a = 1.0", "inf", math.inf),
        ("a = 1.0", 3, 3.0),
        ("a = True", "no", False),
        ("a = True", "True", True),
        ("a = True", False, False),
        ("a = 'x'", "007", "007"),
        ("a = 'x'", "None", "None"),
        ("a = 'x'", "'; import os #\n", "'; import os #\n"),
        ("a: str | None = 'x'", None, None),
        ("a: int | None = 1", "None", None),
        ("a: int | None = 1", "null", None),
        ("a = []", '["AA", 1]', ["AA", 1]),
        ("a = []", "['AA', (1, 2)]", ["AA", [1, 2]]),
        ("a: list[float] = []", [1, 2.5], [1.0, 2.5]),
        ("a = {}", '{"k": [true]}', {"k": [True]}),
        ("a = f()", "3", 3),
        ("a = f()", "some text", "some text"),
        ("a = None", "NaN", "NaN"),
        ("a: Literal[1, 2] = 1", "2", 2),
    ],
)
def test_a_value_is_read_as_its_parameters_type(source: str, given: Any, value: Any) -> None:
    converted = parameters.convert(parameters.read(source), {"a": given})
    assert converted == {"a": value}
    assert type(converted["a"]) is type(value)


def test_not_a_number_is_taken_where_a_number_is_meant() -> None:
    assert math.isnan(parameters.convert(parameters.read("a = 1.0"), {"a": "nan"})["a"])


def test_only_what_is_given_is_returned() -> None:
    assert parameters.convert(parameters.read("a = 1\nb = 2"), {"b": 3}) == {"b": 3}


@pytest.mark.parametrize(
    ("source", "given", "says"),
    [
        ("trees = 1", {"trees": "2OO"}, 'trees is a whole number: "2OO" holds letters.'),
        ("trees = 1", {"trees": "2.5"}, 'trees is a whole number: "2.5" is not.'),
        ("trees = 1", {"trees": "nan"}, 'trees is a whole number: "nan" is not.'),
        ("trees = 1", {"trees": ""}, 'trees is a whole number: "" is empty.'),
        ("trees = 1", {"trees": "٣"}, 'trees is a whole number: "٣" is not.'),
        ("trees = 1", {"trees": 2.5}, "trees is a whole number: 2.5 is not."),
        ("trees = 1", {"trees": math.nan}, "trees is a whole number: nan is not."),
        ("trees = 1", {"trees": True}, "trees is a whole number: True is not."),
        ("trees = 1", {"trees": None}, "trees is a whole number: None is not allowed."),
        ("rate = 0.1", {"rate": "fast"}, 'rate is a number: "fast" is none.'),
        ("rate = 0.1", {"rate": True}, "rate is a number: True is not."),
        ("dry = True", {"dry": "maybe"}, 'dry is true or false: "maybe" is neither.'),
        ("dry = True", {"dry": 1}, "dry is true or false: 1 is not."),
        ("origin = 'x'", {"origin": 5}, "origin is a text: 5 is not."),
        ("xs = []", {"xs": "AA,DL"}, 'xs is a list: write it as ["a", "b"], not "AA,DL".'),
        ("xs = {}", {"xs": "[1]"}, 'xs is a dictionary: write it as {"a": 1}, not "[1]".'),
        ("xs: list[int] = []", {"xs": [1, "b"]}, "an item of xs is a whole number: 'b' is not."),
        ("k: Literal['x', 'y'] = 'x'", {"k": "z"}, 'k is one of "x", "y": \'z\' is not.'),
        ("trees = 1", {"tree": "3"}, "Unknown parameter tree: did you mean trees?"),
        ("trees = 1\nrate = 2", {"zzz": 3}, "Unknown parameter zzz: there are trees, rate."),
        ("", {"a": 3}, "Unknown parameter a: the notebook has no cell tagged parameters, or an empty one."),
        ("a = None", {"a": math.inf}, "a: inf is taken only where a parameter is declared a float."),
        ("a = []", {"a": [math.nan]}, "a: a number inside a list or dictionary must be finite."),
        ("a = {}", {"a": {1: 2}}, "a: the keys of a dictionary must be texts."),
        (
            "a = None",
            {"a": b"x"},
            ("a: a bytes cannot be given. Give a text, a number, true, false, a list or a dictionary of these."),
        ),
        ("a = ''", {"a": "\ud800"}, "a: the text holds half of a character (a lone surrogate)."),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(source: str, given: dict[str, Any], says: str) -> None:
    assert refused(source, given) == says


@pytest.mark.parametrize(
    "name", ["a b", "import os;x", "class", "", "__import__", "1a", "a-b", "a\nb", "None", "\ud800"]
)
def test_a_name_that_is_code_or_no_name_is_refused(name: str) -> None:
    assert "cannot be a parameter's name" in refused("a = 1", {name: "1"})


def test_a_name_is_found_in_every_unicode_form() -> None:
    assert parameters.convert(parameters.read("\u00e9 = 1"), {"e\u0301": "2"}) == {"\u00e9": 2}


def test_a_parameter_given_in_two_unicode_forms_is_refused() -> None:
    assert refused("\u00e9 = 1", {"e\u0301": "2", "\u00e9": "3"}) == "\u00e9 is given twice. Leave one out."


def test_values_that_are_too_large_or_nested_too_deeply_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    assert "nested more than" in refused("a = []", {"a": deep})
    assert "at most" in refused("a = ''", {"a": "x" * 10_000_000})
    assert "parts" in refused("a = []", {"a": [0] * 200_000})
    assert "bits" in refused("a = 1", {"a": 10**5000})
    assert refused("a = []", {"a": "[" * 5000}).startswith("a is a list: write it as")
    assert refused("a = 1", {"a": "9" * 5000})


def test_a_parameter_without_a_value_must_be_given() -> None:
    form = parameters.read("day: str\nn = 1")
    parameters.check_required(form, {"day": "x"})
    with pytest.raises(ParameterError, match="day has no default"):
        parameters.check_required(form, {"n": 3})


def test_what_is_recorded_of_a_value_that_holds_itself_ends() -> None:
    inside: dict[str, Any] = {"name": "half \ud800"}
    inside["again"] = [inside, inside]
    assert parameters.recorded({"a": inside}) == {"a": {"name": "half ?", "again": ["...", "..."]}}


def test_numbers_that_were_recorded_as_texts_are_numbers_again() -> None:
    form = parameters.read("rate: float = 1.0\nseed = 1\nname = ''\nlist_ = [1]")
    given = {"rate": math.inf, "seed": -(2**80), "name": "inf", "list_": [2]}
    assert parameters.restored(form, parameters.recorded(given)) == given
