"""Libraries that train on Dask, inside a step, through `mlbench.client()`: run where they are installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbench.backends.service_socket import connect
from tests.integration.clusters.places import Elsewhere, certificates, elsewhere
from tests.integration.kernel.conftest import Notebook

pytestmark = pytest.mark.timeout(400)

XGBOOST = """%%step boost --wait
import dask.array as da, mlbench, numpy as np
from xgboost import dask as dxgb
_client = mlbench.client()
_X = da.random.RandomState(0).random_sample((2000, 4), chunks=(500, 4))
_y = 3 * _X[:, 0] - _X[:, 1]
_data = dxgb.DaskDMatrix(_client, _X, _y)
_made = dxgb.train(_client, {"tree_method": "hist"}, _data, num_boost_round=20, evals=[(_data, "train")])
booster = _made["booster"]
_found = dxgb.predict(_client, booster, _X).compute()
rmse = float(np.sqrt(np.mean((_found - _y.compute()) ** 2)))
mlbench.log(rmse=rmse)
"""

OPTUNA = """%%step search --wait
import mlbench, optuna
from {module} import DaskStorage
_client = mlbench.client()
def objective(trial):
    return (trial.suggest_float("x", -10, 10) - 2) ** 2
_study = optuna.create_study(storage=DaskStorage(client=_client))
_client.gather([_client.submit(_study.optimize, objective, n_trials=5, pure=False) for _ in range(4)])
trials = len(_study.trials)
best = _study.best_params["x"]
"""

DASK_ML = """%%step cluster --wait
import dask.array as da, mlbench
from dask_ml.cluster import KMeans
_client = mlbench.client()
_X = da.concatenate([da.zeros((500, 2), chunks=(100, 2)), da.ones((500, 2), chunks=(100, 2))])
_model = KMeans(n_clusters=2, random_state=0).fit(_X)
centers = sorted(round(float(one[0])) for one in _model.cluster_centers_)
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    with elsewhere(folder / "there", tls=certificates(folder)) as one:
        one.worker("--name", "second")
        yield one


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("notebook")
    runtime = Path(tempfile.mkdtemp(prefix="mlb"))
    one = Notebook(folder, folder / "store", runtime)
    try:
        yield one
    finally:
        one.manager.shutdown_kernel(now=True)
        with connect(role="cli", start=False, runtime=runtime) as client:
            client.request("stop", {"force": True})
        shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(params=["here", "there"])
def chosen(request: pytest.FixtureRequest, notebook: Notebook, there: Elsewhere) -> Iterator[Notebook]:
    """Return a notebook whose steps run on this machine, or on a cluster of somebody else."""
    if request.param == "there":
        assert there.tls is not None
        files = f"--tls-ca {there.tls.ca_file} --tls-cert {there.tls.cert} --tls-key {there.tls.key}"
        assert notebook.run(f"%cluster {there.address} {files}", timeout=60).status == "ok"
    yield notebook
    assert notebook.run("%cluster local", timeout=60).status == "ok"


def test_xgboost_trains_on_dask(chosen: Notebook) -> None:
    pytest.importorskip("xgboost")
    step = chosen.run(XGBOOST, timeout=250)
    assert step.status == "ok", step.error
    assert float(chosen.value("rmse")) < 0.3
    assert chosen.value("booster.num_boosted_rounds()") == "20"


def test_optuna_searches_on_dask(chosen: Notebook) -> None:
    pytest.importorskip("optuna")
    module = "optuna_integration"
    pytest.importorskip(module)
    step = chosen.run(OPTUNA.format(module=module), timeout=250)
    assert step.status == "ok", step.error
    assert chosen.value("trials") == "20"
    assert abs(float(chosen.value("best")) - 2) < 5


def test_dask_ml_fits_on_dask(chosen: Notebook) -> None:
    pytest.importorskip("dask_ml")
    step = chosen.run(DASK_ML, timeout=250)
    assert step.status == "ok", step.error
    assert chosen.value("centers") == "[0, 1]"
