"""What strangers' notebooks do: each trap in a real kernel, whose page shows late output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def shown(page: Any, cell: str) -> list[dict[str, Any]]:
    """Return the late messages of a cell, as they came."""
    return [one for one in page.late if one["metadata"]["mlbench"]["cell"] == cell]


@pytest.fixture(scope="module", autouse=True)
def _plotting(shared: Any) -> None:
    answer = shared.run("import matplotlib.pyplot as plt, numpy as np, pandas as pd, warnings, os, random", timeout=120)
    assert answer.status == "ok", answer.error


# --- the first cells set global things --------------------------------------------------------


def test_what_the_first_cells_set_holds_in_steps(page: Any, tmp_path: Path) -> None:
    page.run(
        "plt.rcParams['figure.figsize'] = (3, 2)\n"
        "pd.set_option('display.max_rows', 7)\n"
        "np.set_printoptions(precision=3)\n"
        "np.seterr(divide='ignore')\n"
        "warnings.filterwarnings('ignore', message='be quiet')\n"
        "import logging\nlogging.getLogger('trap').setLevel(logging.DEBUG)\n"
        "os.environ['MLBENCH_TRAP'] = 'set in a cell'\n"
        f"os.chdir({str(tmp_path)!r})\n"
    )
    page.run("%config InlineBackend.figure_format = 'svg'")
    page.run(
        "%%step surroundings\n"
        "import logging, warnings\n"
        "found = [plt.rcParams['figure.figsize'][0], pd.get_option('display.max_rows'), repr(np.array([1.23456])),\n"
        "         np.geterr()['divide'], os.environ['MLBENCH_TRAP'], os.getcwd(),\n"
        "         logging.getLogger('trap').level]\n"
        "warnings.warn('be quiet')\nwarnings.warn('be loud')\n"
        "plt.plot([1, 2]);\nplt.show()\n",
        "surroundings",
    )
    assert page.value("found[5]", timeout=90) == repr(str(tmp_path))
    assert page.value("found[:5] + found[6:]") == "[3.0, 7, 'array([1.235])', 'ignore', 'set in a cell', 10]"
    text = page.late_text("surroundings", "Figure")
    assert "be loud" in text
    assert "be quiet" not in text
    assert any("image/svg+xml" in one["content"].get("data", {}) for one in shown(page, "surroundings"))
    page.run("%config InlineBackend.figure_format = 'png'")
    page.run(f"os.chdir({str(page.folder)!r})")


def test_the_environment_that_the_kernel_was_started_with_holds_in_steps(place: Any, page: Any) -> None:
    page.value("1")
    page.run("%%step service_is_there\ns = 1\n")
    page.value("s")
    other = place.notebook(TRAP_DB_URL="postgres://today")  # the service of before knows nothing of it
    other.run("import os")
    other.run("%%step db\nurl = os.environ.get('TRAP_DB_URL')\n")
    assert other.value("url") == "'postgres://today'"
    other.run("os.environ['TRAP_DB_URL'] = 'postgres://changed'")
    other.run("%%step db\nurl = os.environ.get('TRAP_DB_URL')\n")
    assert other.value("url") == "'postgres://changed'"
    other.close()
    page.run("%%step db\nurl = os.environ.get('TRAP_DB_URL')\n")
    assert page.value("url is None") == "True"


# --- magics, history, display -----------------------------------------------------------------


def test_magics_of_cells_and_lines_behave_as_in_the_kernel(page: Any, tmp_path: Path) -> None:
    (tmp_path / "seen.txt").write_text("")
    page.run(
        "%%step magics\n"
        "%matplotlib inline\n"
        f"files = !ls {tmp_path}\n"
        f"!ls {tmp_path}\n"
        "%timeit -n 1 -r 1 pass\n"
        "%time took = 1\n",
        "magics",
    )
    assert page.value("list(files), took", timeout=90) == "(['seen.txt'], 1)"
    text = page.late_text("magics", "Wall time")
    assert "seen.txt" in text
    assert "per loop" in text


@pytest.mark.parametrize("magic", ["%%time", "%%capture out"])
def test_cell_magics_around_a_step_and_inside_it(page: Any, magic: str) -> None:
    around = page.run(f"{magic}\n%%step around\nx_around = 1\nprint('inside')\n")
    assert around.status == "ok", around.error
    assert page.value("x_around") == "1"
    assert ("inside" in around.text) is (magic == "%%time")
    if magic != "%%time":
        assert page.value("out.stdout") == "'inside\\n'"
    page.run(f"%%step within\n{magic}\nx_within = 2\nprint('within')\n", "within")
    assert page.value("x_within") == "2"
    if magic == "%%time":
        assert "within" in page.late_text("within", "Wall time")
    else:
        assert page.value("out.stdout") == "'within\\n'"


def test_history_is_there_in_a_step(page: Any) -> None:
    number = page.run("[1, 2, 3]").reply["execution_count"]
    page.run(f"%%step history\na = len(_)\nb = Out[{number}][0]\nc = In[{number}]\nd = _{number}[1]\n")
    assert page.value("a, b, c, d") == "(3, 1, '[1, 2, 3]', 2)"


def test_displays_results_and_semicolons_show_what_they_show_in_the_kernel(page: Any) -> None:
    page.run(
        "%%step shows\nfrom IPython.display import display, HTML\ndisplay(HTML('<b>bold</b>'))\n"
        "df = pd.DataFrame({'a': range(9)})\ndf.head(2)\n",
        "shows",
    )
    page.run("%%step hides\n6 * 7;\n", "hides")
    page.run("%%step tells\n6 * 7\n", "tells")
    page.value("df.shape", timeout=90)
    page.late_text("tells", "42")
    page.late_text("shows", "1  1")
    kinds = [one["msg_type"] for one in shown(page, "shows")]
    assert kinds == ["display_data", "execute_result"]
    assert "text/html" in shown(page, "shows")[1]["content"]["data"]
    assert shown(page, "hides") == []


def test_prints_without_ends_bars_and_clears_arrive_as_they_are(page: Any) -> None:
    page.run(
        "%%step bars\nprint('a', end='')\nprint('b', end='', flush=True)\n"
        "for i in range(3): print(f'\\r{i}/2', end='')\nprint()\ndone = 1\n",
        "bars",
    )
    page.run(
        "%%step clears\nfrom IPython.display import clear_output\nprint('old')\nclear_output(wait=True)\n"
        "print('new')\ncleared = 1\n",
        "clears",
    )
    page.value("done, cleared")
    assert "ab\r0/2\r1/2\r2/2\n" in page.late_text("bars", "2/2\n")
    page.late_text("clears", "new")
    messages = shown(page, "clears")
    kinds = [one["msg_type"] for one in messages]
    place = kinds.index("clear_output")
    assert messages[place]["content"]["wait"] is True
    assert "".join(one["content"]["text"] for one in messages[:place]) == "old\n"
    assert "".join(one["content"]["text"] for one in messages[place + 1 :]) == "new\n"


def test_a_progress_bar_of_tqdm_is_shown(page: Any) -> None:
    pytest.importorskip("tqdm")
    page.run("%%step tqdm_bar\nfrom tqdm.auto import tqdm\nfor i in tqdm(range(3)): pass\nbar = 1\n", "tqdm_bar")
    assert page.value("bar", timeout=90) == "1"
    page.late_text("tqdm_bar", "3/3")


def test_widgets_in_a_step_do_not_break_it(page: Any) -> None:
    page.run(
        "%%step widget\nimport ipywidgets\nw_text = 'x'\nfrom IPython.display import display\n"
        "display(ipywidgets.IntSlider(3))\nw_value = 5\n",
        "widget",
    )
    assert page.value("w_value", timeout=90) == "5"
    assert "IntSlider" in page.late_text("widget", "IntSlider")
    assert all(
        "application/vnd.jupyter.widget-view+json" not in one["content"].get("data", {})
        for one in shown(page, "widget")
    )


def test_input_in_a_step_is_a_clear_error(page: Any) -> None:
    page.run("%%step asks\nname = input('Who? ')\n", "asks")
    answer = page.run("name")
    assert answer.reply["ename"] == "StepFailed"
    assert "parameter" in plain(page.late_text("asks", "parameter"))


def test_a_figure_of_the_kernel_is_not_shown_twice(page: Any) -> None:
    page.run("%%step figure\nfig, ax = plt.subplots()\nax.plot([1, 2]);\nplt.show()\n", "figure")
    answer = page.run("ax.figure is fig, plt.get_fignums()", timeout=90)
    assert answer.text == "(True, [])"
    page.late_text("figure", "Figure")
    assert len([one for one in shown(page, "figure") if "image/png" in one["content"].get("data", {})]) == 1
    again = page.run("ax.set_title('more')\nfig")
    assert len([one for one in again.messages if "image/png" in one["content"].get("data", {})]) == 1


# --- values -----------------------------------------------------------------------------------


def test_a_class_is_the_same_wherever_it_was_defined(page: Any) -> None:
    page.run(
        "class Plain:\n    def __init__(self, n): self.n = n\n    def __eq__(self, other): return self.n == other.n"
    )
    page.run("%%step makes\nplain = Plain(1)\nclass Own:\n    pass\nown = Own()\n")
    page.run("%%step uses\nboth = isinstance(plain, Plain), isinstance(own, Own), type(own) is Own\nsecond = Own()\n")
    assert page.value("both") == "(True, True, True)"
    assert page.value("isinstance(plain, Plain), plain == Plain(1), type(own) is type(second) is Own") == (
        "(True, True, True)"
    )


def test_what_cannot_be_stored_fails_no_step_and_says_so_when_read(page: Any) -> None:
    page.run(
        "%%step opens\nimport sqlite3, threading\ngen = (i for i in range(3))\nlock = threading.Lock()\n"
        "con = sqlite3.connect(':memory:')\nfine = 1\n",
        "opens",
    )
    assert page.value("fine") == "1"
    for name, word in (("gen", "generator"), ("lock", "lock"), ("con", "onnection")):
        answer = page.run(name)
        assert answer.reply["ename"] == "ResultError", answer.reply
        assert word in answer.error
        assert len(answer.reply["traceback"]) == 1, answer.reply["traceback"]


def test_a_step_reads_a_module_below_a_package_that_a_plain_cell_has_imported(page: Any, place: Any) -> None:
    package = place.folder / "trappackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text("x = 1\n")
    page.run("import xml.etree.ElementTree, trappackage.inner")
    page.run("%%step deep\ntag = xml.etree.ElementTree.fromstring('<a/>').tag, trappackage.inner.x")
    assert page.value("tag") == "('a', 1)"
    page.run(
        "%%step deepitems --foreach text in [xml.etree.ElementTree.fromstring('<b/>').tag, 'c']\n"
        "tags = xml.etree.ElementTree.fromstring(f'<{text}/>').tag"
    )
    assert page.value("tags") == "['b', 'c']"


def test_modules_that_a_step_imports_are_modules_in_the_kernel(page: Any) -> None:
    page.run(
        "%%step imports\nimport json as js\nfrom collections import Counter\nimport os.path\ncount = Counter('aab')\n"
    )
    assert page.value("js.dumps([1]), Counter('aa')['a'], count['a'], os.path.sep") == "('[1]', 2, 2, '/')"


def test_loop_variables_and_split_names_come_back(page: Any) -> None:
    page.run(
        "%%step split\nX_train, X_test, *rest = [np.arange(3), np.arange(2), 7, 8]\n"
        "for i, (a, b) in enumerate([(1, 2), (3, 4)]):\n    total = a + b\n"
    )
    assert page.value("X_train.sum(), X_test.sum(), rest, i, a, b, total").replace("np.int64", "") in (
        "(3, 1, [7, 8], 1, 3, 4, 7)",
        "((3), (1), [7, 8], 1, 3, 4, 7)",
    )


def test_objects_that_two_names_share_stay_shared_also_across_cells(page: Any) -> None:
    page.run("%%step share\nmodels = [[1], [2]]\nbest = models[1]\n")
    assert page.value("best is models[1]") == "True"
    page.run("best.append(3)")
    page.run("%%step shared_on\nstill = best is models[1], models[1]\n")
    assert page.value("still") == "(True, [2, 3])"


HELPERS = """
import functools, collections
@functools.lru_cache(maxsize=None)
def cached(n): return n + offset
@functools.cache
def cached_too(n): return cached(n)
offset = 100
def power(base, exponent): return base ** exponent + offset
square = functools.partial(power, exponent=2)
class Curry:
    "A decorator object, as toolz.curry is: it pickles by the name of what it wraps."
    def __init__(self, function): self.function = function; functools.update_wrapper(self, function)
    def __call__(self, *args): return self.function(*args)
    def __reduce__(self): return self.__qualname__
@Curry
def curried(a, b): return a + b + offset
@functools.singledispatch
def kind(value): return 'any'
@kind.register
def _(value: int): return 'int'
def deco(function):
    @functools.wraps(function)
    def inner(*args): return function(*args) + 1
    return inner
@deco
def decorated(n): return n + offset
Point = collections.namedtuple('Point', 'x y')
"""


def test_helpers_that_pickle_by_name_only_are_sent_by_value(page: Any) -> None:
    assert page.run(HELPERS).status == "ok"
    page.run(
        "%%step helps\nhelped = [cached(1), cached_too(2), square(3), curried(1, 2), kind(1), kind('a'),\n"
        "          decorated(1), Point(1, 2).y]\npoint = Point(3, 4)\n",
        "helps",
    )
    assert page.value("helped") == "[101, 102, 109, 103, 'int', 'any', 102, 2]"
    assert page.value("isinstance(point, Point), point.x") == "(True, 3)"


def test_objects_that_look_at_their_callers_frame_are_loaded(page: Any) -> None:
    page.run(
        "import sys\n"
        "class Framed:\n"
        "    def __init__(self): self.depth = 8\n"
        "    def __setstate__(self, state):\n"
        "        for depth in range(8): sys._getframe(depth).f_globals\n"
        "        self.__dict__.update(state)\n"
        "framed = Framed()"
    )
    page.run("%%step frames\nframed_back = framed\ndepth = framed.depth\n")
    assert page.value("depth, framed_back.depth") == "(8, 8)"


def test_what_does_not_survive_pickling_is_said(page: Any) -> None:
    page.run(
        "class Forgetful:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def __getstate__(self): return {'n': 0}\n"
        "    def __setstate__(self, state): self.__dict__.update(state)\n"
    )
    page.run("%%step forgets\nforgetful = Forgetful(5)\n", "forgets")
    page.run("forgetful")
    assert "its `n` was 5 and is 0" in page.late_text("forgets", "forgetful")


# --- names and orders -------------------------------------------------------------------------


def test_a_name_bound_by_a_plain_cell_and_by_a_step_is_the_last_ones(page: Any) -> None:
    page.run("%%step binds\nboth_bind = 'step'\n")
    page.run("both_bind = 'plain'")
    page.run("%%step reads\nread = both_bind\n")
    assert page.value("read, both_bind") == "('plain', 'plain')"
    page.run("%%step binds\nboth_bind = 'step'\n")
    page.run("%%step reads\nread = both_bind\n")
    assert page.value("read, both_bind") == "('step', 'step')"


def test_cells_may_be_run_out_of_order(page: Any) -> None:
    page.run("low = 1")
    page.run("%%step later\nhigh = low + 1\n")
    page.run("low = 10")
    assert page.value("high, low") == "(2, 10)"
    page.run("%%step earlier\nlow = 20\n")
    page.run("%%step later\nhigh = low + 1\n")
    assert page.value("high") == "21"


def test_run_all_twice_gives_the_same(page: Any) -> None:
    cells = {
        "plain": "values = [3, 1, 2]\ncounter = 0",
        "sort": "%%step sort_all\nvalues.sort()\ncounter += 1\n",
        "count": "%%step count_all\ncounter += len(values)\nlargest = values[-1]\n",
        "end": "counter, largest, values",
    }
    seen = [[page.run(source, cell) for cell, source in cells.items()][-1].text for _ in range(2)]
    assert seen == ["(4, 3, [1, 2, 3])"] * 2


def test_a_file_that_a_step_writes_orders_its_readers(page: Any, tmp_path: Path) -> None:
    page.run(f"folder = {str(tmp_path)!r}\ntable = pd.DataFrame({{'a': [1, 2, 3]}})")
    page.run(
        "%%step writes --after none\nimport time; time.sleep(0.7)\ntable.to_csv(f'{folder}/clean.csv', index=False)\n"
        "table.to_pickle(f'{folder}/clean.pkl')\n"
    )
    page.run("%%step reads_csv\nrows = len(pd.read_csv(f'{folder}/clean.csv'))\n")
    assert page.value("rows", timeout=90) == "3"
    page.run(
        "%%step writes --after none\nimport time; time.sleep(0.7)\n"
        "table.head(1).to_csv(f'{folder}/clean.csv', index=False)\n"
    )
    assert page.run("len(pd.read_csv(f'{folder}/clean.csv'))").text == "1"


def test_state_that_no_name_shows_is_changed_in_place(page: Any) -> None:
    page.run(
        "journal = []\ncalls = {'n': 0}\n"
        "def third(v): journal.append(v); calls['n'] += 1\n"
        "def second(v): third(v)\n"
        "def first_of_three(v): second(v)\n"
    )
    page.run("%%step deep --after none\nfor v in range(3): first_of_three(v)\n", "deep")
    page.run("%%step deeper\nseen_there = list(journal), calls['n']\n", "deeper")
    page.run("v")  # `deeper` was given the lists of before: when the change shows it runs again
    assert page.value("seen_there", timeout=60) == "([0, 1, 2], 3)"
    assert page.value("journal, calls") == "([0, 1, 2], {'n': 3})"


def test_a_generator_object_goes_on_where_it_was_also_through_helpers(page: Any) -> None:
    expected = page.value("rng = np.random.default_rng(0)\n[round(float(x), 6) for x in rng.random(4)]")
    page.run(
        "rng = np.random.default_rng(0)\ndef draw(): return round(float(rng.random()), 6)\ndef outer(): return draw()"
    )
    page.run("%%step rng_a\nra = [outer(), outer()]\n")
    page.run("%%step rng_b\nrb = outer()\n")
    page.run("ra, rb", timeout=60)
    assert page.value("[*ra, rb, draw()]", timeout=60) == expected


def test_a_seed_in_one_cell_orders_the_draws_of_later_ones(page: Any) -> None:
    expected = page.value("np.random.seed(42)\n[round(float(x), 6) for x in np.random.rand(4)]")
    page.run("np.random.seed(42)")
    for step in "abc":
        page.run(f"%%step draws_{step}\nn_{step} = round(float(np.random.rand()), 6)\n")
    assert page.value("[n_a, n_b, n_c, round(float(np.random.rand()), 6)]", timeout=60) == expected


# --- much, and wrong --------------------------------------------------------------------------


def test_a_hundred_thousand_lines_arrive(page: Any) -> None:
    page.run("%%step lines\nfor i in range(100_000): print(i)\nlines_done = 1\n", "lines")
    assert page.value("lines_done", timeout=60) == "1"
    page.late_text("lines", "99999\n", timeout=60)


def test_a_syntax_error_in_a_step_is_shown_at_its_line(page: Any) -> None:
    answer = page.run("%%step wrong\nx = 1\nif x\n    y = 2\n", "wrong")
    assert answer.reply["ename"] == "SyntaxError"
    text = plain("\n".join(answer.reply["traceback"]))
    assert "line 3" in text
    assert "if x" in text
    assert "mlbench/" not in text
