"""Which cluster a text, or the configuration, means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbench.core.errors import UsageError
from mlbench.core.messages import ClusterChoice, Tls
from mlbench.project.clusters import choose, configured, default_cluster

BIG = """
cluster = "big"
[clusters.big]
factory = "dask_jobqueue.SLURMCluster"
args = [1]
kwargs = {queue = "long", job_extra_directives = ["--x"]}
adapt = {minimum = 0, maximum = 20}
[clusters.here]
address = "tcp://10.0.0.5:8786"
"""


@pytest.fixture
def notebook(tmp_path: Path) -> str:
    (tmp_path / "mlbench.toml").write_text(BIG)
    (tmp_path / "deep").mkdir()
    return str(tmp_path / "deep" / "notebook.ipynb")


def test_a_configured_cluster_is_a_class_by_name_with_its_arguments(notebook: str) -> None:
    big = default_cluster(notebook)
    assert (big.name, big.kind, big.factory) == ("big", "factory", "dask_jobqueue.SLURMCluster")
    assert (big.args, big.adapt) == ((1,), {"minimum": 0, "maximum": 20})
    assert big.kwargs == {"queue": "long", "job_extra_directives": ["--x"]}
    assert choose("here", notebook).address == "tcp://10.0.0.5:8786"
    assert choose("local", notebook).kind == "local"


def test_without_configuration_steps_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_cluster() == ClusterChoice()


def test_the_nearest_of_two_descriptions_counts(notebook: str) -> None:
    (Path(notebook).parent / "mlbench.toml").write_text('[clusters.here]\naddress = "tcp://10.0.0.6:1"\n')
    assert choose("here", notebook).address == "tcp://10.0.0.6:1"
    assert set(configured(notebook)) == {"big", "here"}


def test_certificates_are_files_beside_the_configuration(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text("x")
    text = 'address = "tls://h:1"\ntls = {ca_file = "ca.pem", cert = "cert.pem", key = "key.pem"}\n'
    (tmp_path / "mlbench.toml").write_text(f"[clusters.safe]\n{text}")
    safe = choose("safe", str(tmp_path / "n.ipynb"))
    assert safe.tls == Tls(
        ca_file=str(tmp_path / "ca.pem"), cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem")
    )
    (tmp_path / "key.pem").unlink()
    with pytest.raises(UsageError, match="can't be read"):
        choose("safe", str(tmp_path / "n.ipynb"))


def test_dasks_own_configuration_names_the_files_of_a_tls_address(tmp_path: Path) -> None:
    import dask.config

    (tmp_path / "all.pem").write_text("x")
    both = {"ca-file": str(tmp_path / "all.pem"), "client": {"cert": str(tmp_path / "all.pem"), "key": None}}
    with dask.config.set({"distributed.comm.tls": both}):
        found = choose("tls://h:1").tls
        assert found is not None
        assert found.key == str(tmp_path / "all.pem")
        assert choose("tcp://h:1").tls is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("bigg", "There is no cluster bigg. Did you mean big?"),
        ("http://h:1", "is not the address of a Dask scheduler"),
        ("tcp://h", "is not the address of a Dask scheduler"),
        ("", "named by a text"),
    ],
)
def test_an_unknown_cluster_is_refused_with_the_nearest(notebook: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose(text, notebook)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ('factory = "a.B"\naddress = "tcp://h:1"', "needs either `factory` (a class) or `address`"),
        ("", "needs either `factory`"),
        ('factori = "a.B"', "Did you mean factory?"),
        ('factory = "B"', 'Write it as "module.Class".'),
        ('factory = "a.B"\nworkers = -1', "not a number of workers"),
        ('factory = "a.B"\nworkers = 1\nadapt = {minimum = 1}', "both `workers` and `adapt`"),
        ('factory = "a.B"\nadapt = {min = 1}', "It has `minimum` and `maximum`."),
        ('factory = "a.B"\ntls = {ca_file = "x", cert = "x", key = "x"}', "`tls`, which goes with an address"),
        ('address = "tcp://h:1"\nworkers = 2', "`workers`, which goes with a factory"),
        ('address = "tls://h:1"\ntls = {ca_file = "x"}', "not a table of `ca_file`, `cert` and `key`"),
    ],
)
def test_a_wrong_description_is_refused_in_a_sentence(tmp_path: Path, table: str, sentence: str) -> None:
    (tmp_path / "mlbench.toml").write_text(f"[clusters.one]\n{table}\n")
    with pytest.raises(UsageError) as refused:
        choose("one", str(tmp_path / "n.ipynb"))
    assert sentence in str(refused.value)
    assert "mlbench.toml: the cluster one" in str(refused.value)
