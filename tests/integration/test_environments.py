"""Steps in environments of their own: made once, kept, and without what the kernel has."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlbench.backends.blobs_local import LocalBlobs
from mlbench.backends.cluster_dask.worker import environments, supervisor
from mlbench.core.messages import Foreach, StepOptions, StepTask, Surroundings
from mlbench.core.records import Execution
from mlbench.runs.artifacts import Loader
from tests.integration.house import House, catalog
from tests.integration.steps import Shown, await_true, begin, environment, run, task, text_of

pytestmark = pytest.mark.timeout(240)

SMALL = "tabulate==0.9.0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the environments of the module are kept, so that few are made."""
    return tmp_path_factory.mktemp("environments")


def asking(store: Path, source: str, home: Path, *requirements: str, **more: Any) -> StepTask:
    path = more.pop("path", None)
    variables = {"MLBENCH_ENVIRONMENTS": str(home), **({"PATH": path} if path is not None else {})}
    variables |= {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}  # as every kernel has them
    return task(
        store,
        source,
        env="small",
        requirements=requirements,
        environment=environment(**variables),
        surroundings=Surroundings(folder=str(store.parent), path=tuple(one for one in sys.path if one)),
        **more,
    )


def wheel(folder: Path, name: str, version: str) -> str:
    """Make a wheel of one module, and return the requirement line that finds it without any index."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"--find-links {folder}"


def test_a_step_runs_where_its_requirements_are_and_the_kernels_packages_are_not(store: Path, home: Path) -> None:
    source = (
        "import importlib.util, sys, tabulate\n"
        "print(tabulate.__version__, importlib.util.find_spec('pandas'), sys.prefix)\n"
        "x = [1, 2]\n"
        "def double(n): return 2 * n\n"
        "y = double(seed)\n"
    )
    record = run(asking(store, source, home, SMALL, defs=("x", "y"), captured={"seed": 21}))
    assert record.state == "succeeded", record.failure
    said = text_of(record.messages, "stdout").split()
    assert said[:2] == ["0.9.0", "None"]
    assert said[2].startswith(str(home))
    assert "mlbench: Makes environment small (1 requirement)" in text_of(record.messages, "stderr")
    again = run(asking(store, "print('hello')", home, SMALL))
    assert text_of(again.messages) == "hello\n"


def test_several_steps_that_need_it_at_once_get_one(store: Path, home: Path, tmp_path: Path) -> None:
    links = wheel(tmp_path / "wheels", "only_here", "1.5")
    ends: list[Execution] = []

    def one() -> None:
        ends.append(run(asking(store, "import only_here\nprint(only_here.VERSION)", home, links, "only_here")))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [end.state for end in ends] == ["succeeded"] * 4, [end.failure for end in ends]
    texts = [text_of(end.messages, "stderr") for end in ends]
    assert sum("Makes environment small" in text for text in texts) == 1, texts


def test_what_cannot_be_installed_fails_with_the_last_lines_and_a_remedy(store: Path, home: Path) -> None:
    record = run(asking(store, "x = 1", home, "tabulate==99.0"))
    assert (record.state, record.reason) == ("failed", "error")
    assert record.failure is not None
    assert "tabulate==99.0" in record.failure.evalue
    assert "Environment small could not be made" in record.failure.evalue
    assert "\x1b" not in record.failure.evalue
    assert record.failure.remedy is not None
    assert "requirements" in record.failure.remedy
    left = [one for one in home.iterdir() if one.is_dir() and not (one / "complete").exists()]
    assert not left


def test_what_the_environment_cannot_unpickle_is_named_with_what_to_add(store: Path, home: Path) -> None:
    pandas = pytest.importorskip("pandas")
    record = run(asking(store, "print(len(frame))", home, SMALL, captured={"frame": pandas.DataFrame({"a": [1]})}))
    assert record.state == "failed"
    assert record.failure is not None
    assert "Add pandas to the requirements of environment small" in (record.failure.remedy or ""), record.failure
    record = run(asking(store, "import pandas", home, SMALL))
    assert record.failure is not None
    assert "Add pandas to the requirements of environment small" in (record.failure.remedy or "")


def test_an_environment_that_was_left_unfinished_is_made_again(store: Path, home: Path) -> None:
    given = asking(store, "x = 1", home, SMALL)
    ready = environments.fitted(given, lambda _: None, lambda: False)
    assert ready is not None
    folder = Path(ready.environment.interpreter).parents[1]
    (folder / "complete").unlink()
    (folder / "bin" / "python").unlink()
    said: list[str] = []
    assert environments.fitted(given, said.append, lambda: False) == ready
    assert len(said) == 1
    assert json.loads((folder / "complete").read_text())["name"] == "small"


def test_a_cancel_ends_the_making(store: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    (tools / "uv").chmod(0o755)
    given = asking(store, "x = 1", tmp_path / "home", SMALL, path=f"{tools}{os.pathsep}{os.environ['PATH']}")
    shown, thread = begin(given)
    await_true(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    assert supervisor.cancel(given.execution)
    thread.join(30)
    assert isinstance(shown, Shown)
    assert shown.record is not None
    assert shown.record.state == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIG_DFL)


@pytest.mark.slow
def test_without_uv_it_is_made_with_pip(store: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_find_uv", lambda _: None)
    record = run(asking(store, "import tabulate\nprint(tabulate.__version__)", home / "pip", SMALL))
    assert record.state == "succeeded", record.failure
    assert text_of(record.messages, "stdout") == "0.9.0\n"


def test_passwords_of_addresses_are_in_no_error_and_no_record(store: Path, home: Path) -> None:
    address = "--index-url https://ada:secret@127.0.0.1:9/simple"
    record = run(asking(store, "x = 1", home, address, "tabulate"))
    assert record.failure is not None
    assert "secret" not in record.failure.evalue


def test_the_record_says_in_which_environment_a_step_ran(service: House, home: Path) -> None:
    kernel = service.kernel()
    kernel.client.request("attach", replace(kernel.hello, environment=environment(MLBENCH_ENVIRONMENTS=str(home))))
    step = kernel.submit("fit", "x = 1", options=StepOptions(env="small"), requirements=(SMALL,))
    record = kernel.state(step)
    assert record.state == "succeeded", record.failure
    found = catalog(service.store).execution(step)
    assert (found.env, found.requirements) == ("small", (SMALL,))


def test_items_of_a_fan_out_run_in_it_too(service: House, home: Path) -> None:
    kernel = service.kernel()
    kernel.client.request("attach", replace(kernel.hello, environment=environment(MLBENCH_ENVIRONMENTS=str(home))))
    options = StepOptions(env="small", foreach=(Foreach(name="n", expression="range(20)"),))
    source = "import sys, tabulate\nplace = sys.prefix"
    step = kernel.submit("sweep", source, defs=("place",), options=options, requirements=(SMALL,))
    record = kernel.state(step)
    assert record.state == "succeeded", record.failure
    found = Loader(LocalBlobs(service.store)).load(catalog(service.store).execution(step).binds[0])
    assert len(found) == 20
    assert all(one.startswith(str(home)) for one in found)
