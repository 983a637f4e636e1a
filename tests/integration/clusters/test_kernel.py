"""`%cluster` in a real kernel, and what its steps take with them to another cluster."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.service_socket import connect
from tests.integration.clusters.places import Elsewhere, certificates, elsewhere
from tests.integration.kernel.conftest import Notebook

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(folder / "there", tls=certificates(folder)) as one:
        yield one


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mlb"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, runtime: Path, place: Elsewhere) -> Iterator[Notebook]:
    """Return a kernel in a folder with a helper module, a configured cluster and a wrong one."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "helpers.py").write_text("import deeper\n\ndef twice(x):\n    return deeper.TWO * x\n")
    (folder / "deeper.py").write_text("TWO = 2\n")
    assert place.tls is not None
    (folder / "mlbench.toml").write_text(
        f"""
        [clusters.there]
        address = "{place.address}"
        tls = {{ca_file = "{place.tls.ca_file}", cert = "{place.tls.cert}", key = "{place.tls.key}"}}
        [clusters.missing]
        factory = "no_such_module.Cluster"
        [clusters.refusing]
        factory = "distributed.SpecCluster"
        kwargs = {{no_such_argument = 1}}
        [clusters.made]
        factory = "distributed.LocalCluster"
        workers = 1
        kwargs = {{n_workers = 0, threads_per_worker = 2, protocol = "tcp://", dashboard_address = "127.0.0.1:0"}}
        """
    )
    one = Notebook(folder, folder / "store", runtime)
    try:
        yield one
    finally:
        one.manager.shutdown_kernel(now=True)
        with connect(role="cli", start=False, runtime=runtime) as client:
            client.request("stop", {"force": True})


def test_a_kernel_chooses_a_cluster_by_name_and_its_modules_and_variables_go_there(notebook: Notebook) -> None:
    assert notebook.run("%cluster").text.startswith("Cluster local (this machine) is not running")
    chosen = notebook.run("%cluster there")
    assert chosen.status == "ok", chosen.error
    assert chosen.text.startswith("Cluster there (run by somebody else) at tls://127.0.0.1:")
    prepared = notebook.run("import os, helpers\nos.environ['MINE'] = 'yes'\nbase, here = 20, os.getcwd()")
    assert prepared.status == "ok", prepared.error
    step = notebook.run(
        "%%step visit --wait\nimport os\nx = helpers.twice(base) + 2\n"
        "print(os.environ.get('MINE'), os.getcwd() == here, os.path.dirname(helpers.__file__) == here)",
    )
    assert step.status == "ok", step.error
    assert step.text.splitlines()[-1] == "yes True False"  # the folder is there, the module came along
    assert notebook.value("x") == "42"
    assert "visit" not in notebook.run("%cluster").text
    assert notebook.run("%cluster local").text.startswith("Cluster local")
    step = notebook.run("%%step home --wait\nimport helpers, os\ny = os.path.dirname(helpers.__file__) == here")
    assert step.status == "ok", step.error
    assert notebook.value("y") == "True"


def test_an_address_with_certificates_is_chosen_as_well(notebook: Notebook, place: Elsewhere) -> None:
    assert place.tls is not None
    files = f"--tls-ca {place.tls.ca_file} --tls-cert {place.tls.cert} --tls-key {place.tls.key}"
    chosen = notebook.run(f"%cluster {place.address} {files}")
    assert chosen.status == "ok", chosen.error
    assert "worker" in chosen.text
    assert "threads" in chosen.text
    step = notebook.run("%%step there --wait\nz = 1")
    assert step.status == "ok", step.error
    assert "run by somebody else" in notebook.run("%cluster scale 3").error
    assert notebook.run("%cluster local").status == "ok"


def test_what_cannot_be_chosen_is_said_in_a_sentence(notebook: Notebook, place: Elsewhere) -> None:
    assert "There is no cluster ther. Did you mean there?" in notebook.run("%cluster ther").error
    assert "can't be imported" in notebook.run("%cluster missing").error
    refused = notebook.run("%cluster refusing")
    assert "distributed.SpecCluster refuses the arguments of cluster refusing" in refused.error
    nobody = notebook.run("%cluster tcp://127.0.0.1:9")
    assert "No Dask scheduler answers at tcp://127.0.0.1:9 within 10 s" in nobody.error
    assert "is not the address" in notebook.run("%cluster http://x").error
    assert "Usage: %cluster" in notebook.run("%cluster there --what").error
    assert notebook.run("%cluster").text.startswith("Cluster local")  # what failed has changed nothing


def test_a_cluster_that_a_class_makes_is_scaled_and_stopped(notebook: Notebook) -> None:
    made = notebook.run("%cluster made", timeout=120)
    assert made.status == "ok", made.error
    assert "(distributed.LocalCluster)" in made.text
    assert "Dashboard: http" in made.text
    step = notebook.run("%%step on_it --wait\nw = 5", timeout=120)
    assert step.status == "ok", step.error
    assert notebook.value("w") == "5"
    scaled = notebook.run("%cluster scale 2", timeout=120)
    assert scaled.status == "ok", scaled.error
    stopped = notebook.run("%cluster stop")
    assert "is not running" in stopped.text, stopped.error
    assert notebook.run("%cluster local").status == "ok"


def test_the_configurations_default_holds_without_a_word_in_the_notebook(
    notebook: Notebook, runtime: Path, place: Elsewhere, tmp_path: Path
) -> None:
    named = (notebook.folder / "mlbench.toml").read_text()
    (tmp_path / "mlbench.toml").write_text('cluster = "there"\n' + named)
    one = Notebook(tmp_path, notebook.folder / "store", runtime)
    try:
        step = one.run("%%step there --wait\nimport os\ngrandparent = os.getppid()")
        assert step.status == "ok", step.error
        server = int(one.value("grandparent"))
        parent = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent == place.processes[1].pid
        assert one.run("%cluster").text.startswith("Cluster there (run by somebody else)")
    finally:
        one.manager.shutdown_kernel(now=True)


def test_a_fan_out_there_that_is_cancelled_runs_only_the_rest_with_cache(notebook: Notebook, tmp_path: Path) -> None:
    assert notebook.run("%cluster there").status == "ok"
    marks, gate = tmp_path / "marks", tmp_path / "gate"
    marks.mkdir()
    # A folder for each time that an item begins: files that it opens would be part of its key.
    body = (
        f"import os, time\nos.mkdir({str(marks)!r} + f'/{{x}}-{{time.time_ns()}}')\ntime.sleep(0.05)\n"
        f"while x >= 20 and not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "halves = x / 2"
    )

    def begun() -> list[int]:
        return [int(one.name.partition("-")[0]) for one in marks.iterdir()]

    first = notebook.run(f"%%step half --foreach x in range(40) --cache\n{body}", cell="c1")
    assert first.status == "ok", first.error
    until = time.monotonic() + 90
    while not (set(range(20)) <= set(begun()) and sum(number >= 20 for number in begun()) == 2):  # both threads wait
        assert time.monotonic() < until, begun()
        time.sleep(0.05)
    assert notebook.run("%cancel half").status == "ok"
    assert "cancelled" in notebook.run("halves").error
    gate.touch()
    begun_then = begun()
    again = notebook.run(f"%%step half --foreach x in range(40) --cache --wait\n{body}", cell="c1", timeout=120)
    assert again.status == "ok", again.error
    assert notebook.value("halves == [x / 2 for x in range(40)]") == "True"
    rest = begun()[:]
    for number in begun_then:
        rest.remove(number)
    assert set(rest).isdisjoint(range(20)), "what had ended ran again"
    assert set(range(20, 40)) == set(rest)
    assert notebook.run("%cluster local").status == "ok"
