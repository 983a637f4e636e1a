"""`mlbench.client()`: distributed work inside a step, on this machine and on a cluster of somebody else."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.service_socket import connect
from tests.integration.clusters.places import Elsewhere, certificates, elsewhere
from tests.integration.kernel.conftest import Notebook

pytestmark = pytest.mark.timeout(240)

MAPPED = """%%step {name} --wait
import mlbench
c_ = mlbench.client()
squares = c_.gather(c_.map(helped, range(100)))
place = c_.gather(c_.submit(where))
total = sum(squares)
"""
ARRAY = """%%step {name} --wait
import dask.array as da, mlbench
_client = mlbench.client()
total_ = int(da.arange(1000, chunks=100).sum().compute())
whole = total_
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(folder / "there", tls=certificates(folder)) as one:
        yield one


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    (folder / "helpers.py").write_text("def square(x):\n    return x * x\n")
    one = Notebook(folder, folder / "store", runtime, MARK="yes")
    try:
        prepared = one.run(
            "import helpers\n"
            "def helped(x):\n    return helpers.square(x)\n"
            "def where():\n    import os, sys\n"
            "    return os.getpid(), sys.executable, os.environ.get('MARK'), os.getppid()"
        )
        assert prepared.status == "ok", prepared.error
        yield one
    finally:
        one.manager.shutdown_kernel(now=True)
        with connect(role="cli", start=False, runtime=runtime) as client:
            client.request("stop", {"force": True})
        shutil.rmtree(runtime, ignore_errors=True)


def test_a_step_maps_functions_of_the_notebook_and_computes_arrays_here(notebook: Notebook) -> None:
    step = notebook.run(MAPPED.format(name="mapped"), timeout=120)
    assert step.status == "ok", step.error
    assert notebook.value("total") == str(sum(x * x for x in range(100)))
    worker, interpreter, mark, companion = eval(notebook.value("place"))
    assert (interpreter, mark) == (sys.executable, "yes")
    step = notebook.run(ARRAY.format(name="summed"), timeout=120)
    assert step.status == "ok", step.error
    assert notebook.value("whole") == "499500"
    assert Path(f"/proc/{worker}").exists()  # the same cluster for the next step
    assert notebook.run("%cluster stop --force").status == "ok"
    assert Path(f"/proc/{companion}").exists()  # a step's death, or its workers', does not touch it


def test_the_workers_that_supervise_steps_load_nothing_of_it(notebook: Notebook) -> None:
    step = notebook.run(
        "%%step apart --wait\nimport mlbench, os\n_c = mlbench.client()\n"
        "_p = set(_c.gather(_c.map(lambda _: os.getppid(), range(8), pure=False)))\n"
        "apart = (len(_p), _p.pop() != os.getppid())",
        timeout=120,
    )
    assert step.status == "ok", step.error
    assert notebook.value("apart") == "(1, True)"


def test_a_plain_cell_has_the_same_client_and_an_edited_module_is_loaded_anew(notebook: Notebook) -> None:
    cell = notebook.run("import mlbench\nc = mlbench.client()\nc.submit(helped, 5).result()", timeout=120)
    assert cell.text.strip() == "25", cell.error
    path = notebook.folder / "helpers.py"
    path.write_text("def square(x):\n    return x * x + 1\n")
    os.utime(path, (1, 1))
    cell = notebook.run("import mlbench\nc = mlbench.client()\nc.submit(helped, 5).result()", timeout=120)
    assert cell.text.strip() == "26", cell.error
    assert notebook.run("c.close()").status == "ok"


def test_joblib_works_on_dask_without_an_address(notebook: Notebook) -> None:
    step = notebook.run(
        "%%step jobs --wait\nimport joblib, mlbench\n_c = mlbench.client()\n"
        "with joblib.parallel_backend('dask'):\n"
        "    found = joblib.Parallel()(joblib.delayed(abs)(-x) for x in range(10))",
        timeout=120,
    )
    assert step.status == "ok", step.error
    assert notebook.value("found") == str(list(range(10)))


def test_two_steps_that_wait_for_tasks_on_two_slots_do_not_deadlock(notebook: Notebook, there: Elsewhere) -> None:
    assert there.tls is not None
    files = f"--tls-ca {there.tls.ca_file} --tls-cert {there.tls.cert} --tls-key {there.tls.key}"
    chosen = notebook.run(f"%cluster {there.address} {files}", timeout=60)
    assert chosen.status == "ok", chosen.error
    (notebook.folder / "helpers.py").write_text("def square(x):\n    return x * x\n")
    asked = [
        notebook.send(
            MAPPED.format(name=name)
            .replace("--wait", "--no-wait")
            .replace("total", f"sum_{name}")
            .replace("squares", f"squares_{name}")
            .replace("place", f"place_{name}"),
            cell=name,
        )
        for name in ("one", "two", "three")
    ]
    for request in asked:
        assert notebook.receive(request).status == "ok"
    for name in ("one", "two", "three"):
        assert notebook.value(f"sum_{name}", timeout=90) == str(sum(x * x for x in range(100)))
    worker = int(notebook.value("place_one[0]"))
    assert worker == there.processes[1].pid  # the same cluster, not one of this machine's own
    assert notebook.run("%cluster local").status == "ok"
