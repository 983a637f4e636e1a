"""`mlbench cluster`: the same verbs on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlbench.entrypoints.cli import root
from tests.integration.clusters.places import elsewhere
from tests.integration.house import House

pytestmark = pytest.mark.timeout(180)


def run(*words: str) -> str:
    done = CliRunner().invoke(root, ["cluster", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_clusters_are_shown_started_scaled_and_stopped(
    service: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("show") == run() == "local (this machine): not running: it starts with the first step\n"
    with elsewhere(tmp_path / "there") as place:
        (tmp_path / "mlbench.toml").write_text(
            f'cluster = "there"\n[clusters.there]\naddress = "{place.address}"\n'
            '[clusters.made]\nfactory = "distributed.LocalCluster"\nworkers = 1\n'
            'kwargs = {n_workers = 0, threads_per_worker = 1, host = "127.0.0.1"}\n'
        )
        assert f"address: {place.address}" in run("start")
        facts = json.loads(run("show", "--json"))
        assert (facts["name"], facts["running"], len(facts["workers"])) == ("there", True, 1)
        assert run("stop").startswith("there (run by somebody else): not running")
        assert "made (distributed.LocalCluster): running" in run("start", "made")
        assert "asked for 20 workers; " in run("scale", "20", "made")
        run("scale", "0", "made")
        assert run("stop", "made").startswith("made (distributed.LocalCluster): not running")
        assert place.processes[1].poll() is None  # somebody else's goes on


def test_wrong_words_are_refused_in_a_sentence(service: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlbench.core.errors import UsageError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"There is no cluster lokal\. Did you mean local\?"):
        run("show", "lokal")
    (tmp_path / "ca").write_text("x")
    with pytest.raises(UsageError, match="one is missing"):
        run("start", "tls://127.0.0.1:1", "--tls-ca", str(tmp_path / "ca"))
