"""A fan-out as its kernel sees it: what it is given, what its names are afterwards, what a second run starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.core.ids import ExecutionId
from mlbench.core.messages import Foreach
from mlbench.core.records import FanOut
from mlbench.entrypoints.kernel.display import show_here
from mlbench.entrypoints.kernel.pending import is_placeholder
from mlbench.entrypoints.kernel.storage import Storage
from mlbench.runs import artifacts, randomness
from mlbench.runs.picture import Grid, picture


def test_a_name_of_a_fan_out_is_a_list_outside(book: Any) -> None:
    book.run("xs = [1, 2, 3]\nfactor = 10")
    gate = book.service.shut("scale")
    book.run("%%step scale --foreach x in xs\ny = x * factor\n")
    assert is_placeholder(book.names["y"])
    assert "x" not in book.names
    gate.set()
    assert book.run("y") == [10, 20, 30]
    (submission,) = book.service.submissions
    assert submission.defs == ("y",)
    assert submission.options.foreach == (Foreach(name="x", expression="xs"),)
    assert sorted(one["name"] for one in submission.captured) == ["factor", "xs"]


def test_a_fan_out_over_what_a_step_makes_waits_for_it(book: Any) -> None:
    book.run("%%step load\nrows = [3, 4]\n")
    book.run("%%step square --foreach row in rows\narea = row * row\n")
    book.run("%%step total\nall_of_it = sum(area)\n")
    assert book.run("all_of_it") == 25
    load, square, total = book.service.submissions
    assert square.edges == {"rows": load.execution}
    assert total.edges == {"area": square.execution}


def test_a_name_of_the_kernel_that_is_called_like_an_item_stays_what_it_is(book: Any) -> None:
    book.run("x = 'mine'")
    book.run("%%step a --foreach x in [1, 2]\ny = x\ndel x\n")
    assert book.run("y") == [1, 2]
    assert book.run("x") == "mine"
    assert [one["name"] for one in book.service.submissions[0].captured] == []


def test_an_item_may_be_called_like_what_it_comes_from(book: Any) -> None:
    book.run("x = [1, 2]")
    book.run("%%step a --foreach x in x\ny = x + 1\n")
    assert book.run("y") == [2, 3]
    assert book.run("x") == [1, 2]


def test_a_helper_reads_the_item_and_nobody_waits_for_a_step_that_binds_its_name(book: Any) -> None:
    book.run("def show(): return x")
    gate = book.service.shut("other")
    book.run("%%step other\nx = 'late'\n")
    book.run("%%step a --foreach x in [1, 2]\ny = show()\n")
    assert book.run("y") == [1, 2]
    assert book.service.submissions[1].edges == {}
    gate.set()
    assert book.run("x") == "late"


def test_a_fan_out_run_again_starts_from_what_it_saw(book: Any) -> None:
    book.run("c = 1")
    for _ in range(2):
        book.run("%%step add --foreach n in [10, 20]\nc = c + n\n")
        assert book.run("c") == [11, 21]


def test_a_fan_out_goes_on_from_its_own_result_if_it_is_told_to(book: Any) -> None:
    book.run("c = 1")
    book.run("%%step add --foreach n in [10, 20]\nc = c + n\n")
    book.run("%%step add --continue --foreach n in [[1], [2]]\nc = c + n\n")
    assert book.run("c") == [[11, 21, 1], [11, 21, 2]]


def test_a_name_that_items_change_in_place_is_a_list_outside_and_its_own_before(book: Any) -> None:
    book.run("table = {}")
    for _ in range(2):
        book.run("%%step fill --foreach n in [1, 2]\ntable[n] = n\n")
        assert set(book.service.submissions[-1].defs) == {"table"}
        assert [dict(one).get(n) for n, one in enumerate(book.run("table"), 1)] == [1, 2]
        assert [one["name"] for one in book.service.submissions[-1].captured] == ["table"]


def test_a_module_that_items_use_stays_a_module_outside(book: Any) -> None:
    book.run("import math\nimport decimal as d")
    book.run("%%step a --foreach n in [1, 4]\nimport math\nd.setting = n\ny = math.sqrt(n)\n")
    assert book.service.submissions[0].defs == ("y",)
    assert book.run("math.sqrt(sum(y) + 1)") == 2.0
    assert book.run("type(d).__name__") == "module"


def test_another_expression_is_another_step(book: Any) -> None:
    for expression in ("[1, 2]", "[1, 3]", "[1,3]"):
        book.run(f"%%step a --foreach n in {expression}\ny = n\n")
        book.run("y")
    one, two, same = book.service.submissions
    assert one.key != two.key
    assert two.key == same.key


def test_the_kernel_goes_on_from_where_a_fan_out_left_its_generators(book: Any, monkeypatch: Any) -> None:
    kept = np.random.get_state()
    np.random.seed(99)
    states = randomness.read_states()
    np.random.set_state(kept)
    digest = book.service.blobs.put(randomness.to_bytes(states))
    end = book.service.end

    def drawn(record: Any) -> None:
        more = {"draws": ("numpy",), "random": digest} if record.state == "succeeded" else {}
        end(replace(record, **more))

    monkeypatch.setattr(book.service, "end", drawn)
    book.run("import numpy as np\nnp.random.seed(1)")
    book.run("%%step a --foreach n in [1, 2]\ny = n\n")
    book.run("y")
    assert book.run("np.random.rand()") == np.random.RandomState(99).rand()


def test_a_terminal_shows_the_picture_of_a_fan_out_once_its_items_have_ended(book: Any, capsys: Any) -> None:
    def shown(**counts: int) -> str:
        fanout = FanOut(names=("n",), shape=(3,), total=3, **counts)
        grid = Grid((3,))
        message = picture(execution=ExecutionId("e"), step="fan", fanout=fanout, grid=grid, spread=None, again=True)
        show_here(book.shell, message)
        return str(capsys.readouterr().out)

    assert shown(running=1, succeeded=1) == ""
    assert shown(succeeded=1) == ""
    assert shown(succeeded=2, failed=1).startswith("fan: 3 items")


def test_a_list_of_plain_values_is_compared_without_being_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    storage = Storage({}, None, print)
    blobs = LocalBlobs(storage.path())
    items = [artifacts.save_names({"y": value}, ["y"], blobs)[0] for value in (1000.5, "a", None)]
    (binding,) = artifacts.save_lists({"y": items}, blobs)
    value = storage.load(binding)
    loads: list[int] = []
    whole = LocalBlobs.get_many
    monkeypatch.setattr(LocalBlobs, "get_many", lambda *given, **more: loads.append(1) or whole(*given, **more))
    assert not storage.differs(binding, value)
    assert not loads
    value[0] = 7.0
    assert storage.differs(binding, value)
    value[0] = 1000.5
    assert not storage.differs(binding, value)
    assert loads


def test_a_list_of_values_that_can_change_is_loaded_again_to_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    storage = Storage({}, None, print)
    blobs = LocalBlobs(storage.path())
    items = [artifacts.save_names({"y": value}, ["y"], blobs, signer=storage._signer())[0] for value in ([1], [2])]
    (binding,) = artifacts.save_lists({"y": items}, blobs, signer=storage._signer())
    value = storage.load(binding)
    assert not storage.differs(binding, value)
    value[0].append(2)
    assert storage.differs(binding, value)
