"""JupyterLab's server half: who may come in, and what it answers."""

from __future__ import annotations

import ast
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from jupyter_server.auth import Authorizer
from nbformat.v4 import new_code_cell, new_notebook
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

import mlbench.entrypoints.labserver as labserver
from mlbench.core.ids import Digest, ExecutionId, new_id
from mlbench.core.records import (
    ENDED,
    Artifact,
    Binding,
    Execution,
    Failure,
    FanOut,
    Firing,
    Job,
    JobVersion,
    Metric,
    Read,
    Run,
)
from mlbench.entrypoints.labserver import schema
from mlbench.entrypoints.labserver.door import DIGEST
from mlbench.entrypoints.labserver.news import Newsroom
from mlbench.entrypoints.labserver.routes import HANDLERS
from mlbench.entrypoints.labserver.typescript import typescript
from mlbench.project import Project

pytest_plugins = ["pytest_jupyter.jupyter_server"]

API = schema.PREFIX
SECOND = 10**9
A_DIGEST = "blake3:" + "0" * 64
VERBS = ("GET", "POST", "PATCH", "PUT", "DELETE")


class NobodyMay(Authorizer):
    """Lets nobody do anything."""

    def is_authorized(self, *_: Any) -> bool:
        return False


class ReadersMay(Authorizer):
    """Lets everybody read."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return action == "read"


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {"ServerApp": {"jpserver_extensions": {"mlbench.entrypoints.labserver": True}}}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the store and the runtime folder of each test apart; no service is started."""
    monkeypatch.setenv("MLBENCH_STORE", str(tmp_path / "store"))
    with tempfile.TemporaryDirectory(prefix="mlb") as runtime:
        monkeypatch.setenv("MLBENCH_RUNTIME", runtime)
        yield


@pytest.fixture(autouse=True)
def quiet_afterwards(jp_serverapp: Any, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """End what listens to the service and the catalog, before the store goes."""
    yield
    jp_asyncio_loop.run_until_complete(jp_serverapp.web_app.settings["mlbench_newsroom"].close())


@pytest.fixture
def notebook(jp_root_dir: Path) -> Path:
    path = Path(jp_root_dir).resolve() / "flights.ipynb"
    path.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def put_run(notebook: Path, *, ago: int = 0, kernel: str | None = None, **fields: Any) -> Run:
    """Record a run with the steps `load` and `train`, of which the second failed unless `fields` say otherwise."""
    catalog = Project.open(notebook=str(notebook)).catalog
    started = time.time_ns() - ago * SECOND
    given: dict[str, Any] = {"state": "failed", "ended": started + 9 * SECOND, "failed_step": "train"}
    given |= {"parameters": {"origin": "JFK"}} | fields
    run = Run(
        id=new_id(), kind="interactive", name="flights", notebook=str(notebook), started=started, kernel=kernel,
        **given,
    )  # fmt: skip
    catalog.put_run(run)
    load, train = new_id(), new_id()
    made = Artifact(digest="blake3:" + "0" * 64, size=9, type="int", codec="scalar", preview={"kind": "text"})  # type: ignore[arg-type]
    catalog.put_executions([
        Execution(
            id=load, run=run.id, step="load", state="succeeded", cell="c1", position=0, queued=started,
            started=started, ended=started + SECOND, binds=(Binding(name="flights", artifact=made),),
            messages=({"output_type": "stream", "name": "stdout", "text": "loaded\n"},), source="flights = 1",
        ),
        Execution(
            id=train, run=run.id, step="train", state="failed", cell="c2", position=1, queued=started,
            started=started + SECOND, ended=started + 9 * SECOND, parents=(load,), source="fit(flights)",
            reads=(Read(name="flights", step="load", execution=load),), metrics=(Metric(name="rmse", value=11.5),),
            failure=Failure(ename="ValueError", evalue="<img src=x onerror=act()>", traceback=("…",), line=2),
        ),
    ])  # fmt: skip
    return run


def copied_with_id(notebook: Path, identifier: str) -> Path:
    """Give a notebook an id, and return a copy of it."""
    notebook.write_text(json.dumps({"metadata": {"mlbench": {"id": identifier}}, "cells": []}))
    return Path(shutil.copy(notebook, notebook.with_name("copy.ipynb")))


async def refused(call: Any) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a request that is refused."""
    with pytest.raises(HTTPClientError) as caught:
        await call
    response = caught.value.response
    said = response is not None and response.headers.get("Content-Type", "").startswith("application/json")
    return caught.value.code, json.loads(response.body) if said else {}


def addresses() -> list[tuple[str, str]]:
    """Return each verb that a handler answers, with an address of it."""
    found = []
    for pattern, handler in HANDLERS:
        path = pattern.replace("([a-z2-7]{26})", "a" * 26).replace(DIGEST, A_DIGEST).replace(".*", "nothing/here")
        own = [
            verb for verb in VERBS if getattr(handler, verb.lower()) is not getattr(web.RequestHandler, verb.lower())
        ]
        assert own, pattern
        found += [(verb, path) for verb in own]
    return found


# --- who may come in --------------------------------------------------------------------------------------------------


def body_of(verb: str) -> dict[str, Any]:
    return {"body": b"{}"} if verb in ("POST", "PATCH", "PUT") else {}


async def test_nobody_comes_in_without_a_token(jp_fetch: Any) -> None:
    for verb, path in addresses():
        status, _ = await refused(
            jp_fetch(API, path, method=verb, headers={"Authorization": "token wrong"}, **body_of(verb))
        )
        assert status == 403, (verb, path)


async def test_nobody_comes_in_whom_the_authorizer_refuses(jp_fetch: Any, jp_serverapp: Any) -> None:
    jp_serverapp.web_app.settings["authorizer"] = NobodyMay(parent=jp_serverapp)
    for verb, path in addresses():
        status, _ = await refused(jp_fetch(API, path, method=verb, **body_of(verb)))
        assert status == 403, (verb, path)


async def test_a_reader_changes_and_starts_nothing(jp_fetch: Any, jp_serverapp: Any) -> None:
    jp_serverapp.web_app.settings["authorizer"] = ReadersMay(parent=jp_serverapp)
    reading = {"graph", "outputs", "jobs/check", "schedule/preview"}
    for verb, path in addresses():
        if verb == "GET" or path in reading:
            continue
        status, _ = await refused(jp_fetch(API, path, method=verb, **body_of(verb)))
        assert status == 403, (verb, path)
    response = await jp_fetch(API, "runs")
    assert response.code == 200


async def signed_in(jp_fetch: Any, jp_serverapp: Any) -> str:
    """Return the cookies of a browser in which the user has signed in."""
    jp_serverapp.web_app.settings["disable_check_xsrf"] = False
    response = await jp_fetch("api/me")
    cookies = [each.partition(";")[0] for each in response.headers.get_list("Set-Cookie")]
    assert cookies
    return "; ".join(cookies)


async def test_a_page_from_elsewhere_is_refused(
    jp_fetch: Any, jp_serverapp: Any, http_server_client: Any, jp_base_url: str
) -> None:
    cookies = await signed_in(jp_fetch, jp_serverapp)
    own = await http_server_client.fetch(f"{jp_base_url}{API}/status", headers={"Cookie": cookies})
    assert own.code == 200
    headers = {"Cookie": cookies, "Origin": "https://elsewhere.example"}
    for verb, path in addresses():
        if path == "events":
            continue  # a plain request of it is none: the next test
        status, _ = await refused(
            http_server_client.fetch(f"{jp_base_url}{API}/{path}", method=verb, headers=headers, **body_of(verb))
        )
        assert status in (403, 404), (verb, path)


async def test_the_websocket_refuses_a_page_from_elsewhere(
    jp_fetch: Any, jp_serverapp: Any, jp_base_url: str, jp_http_port: int
) -> None:
    cookies = await signed_in(jp_fetch, jp_serverapp)
    url = f"ws://127.0.0.1:{jp_http_port}{jp_base_url}{API}/events"
    own = await websocket_connect(HTTPRequest(url, headers={"Cookie": cookies}))
    own.close()
    elsewhere = HTTPRequest(url, headers={"Cookie": cookies, "Origin": "https://elsewhere.example"})
    with pytest.raises(HTTPClientError) as caught:
        await websocket_connect(elsewhere)
    assert caught.value.code == 403


async def test_a_change_by_cookie_alone_is_refused(
    jp_fetch: Any, jp_serverapp: Any, http_server_client: Any, jp_base_url: str
) -> None:
    cookies = await signed_in(jp_fetch, jp_serverapp)
    for verb, path in addresses():
        if verb == "GET":
            continue
        status, _ = await refused(
            http_server_client.fetch(
                f"{jp_base_url}{API}/{path}", method=verb, headers={"Cookie": cookies}, **body_of(verb)
            )
        )
        assert status == 403, (verb, path)


def test_no_module_of_the_server_can_load_a_pickle() -> None:
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "torch", "marshal", "shelve"}
    files = sorted(Path(labserver.__file__).parent.glob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                names = ["pickle"]
            assert not forbidden & {name.partition(".")[0] for name in names}, file


def test_every_handler_is_guarded_by_its_own_decorators() -> None:
    files = sorted(Path(labserver.__file__).parent.glob("*.py"))
    seen = 0
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AsyncFunctionDef) and node.name.upper() in VERBS:
                said = [ast.unparse(each) for each in node.decorator_list]
                assert said[0] in ("web.authenticated", "ws_authenticated"), (file, node.name)
                assert said[1].startswith("authorized"), (file, node.name)
                seen += 1
    assert seen == len({(verb, handler) for _, handler in HANDLERS for verb in VERBS if verb.lower() in vars(handler)})


# --- what it answers --------------------------------------------------------------------------------------------------


def test_the_types_of_the_page_are_those_of_the_server() -> None:
    written = Path(__file__).parents[2] / "src" / "api" / "schema.ts"
    assert written.read_text(encoding="utf-8") == typescript(), (
        "Run: python -m mlbench.entrypoints.labserver.typescript"
    )


async def ask(jp_fetch: Any, path: str, method: str = "GET", body: Any = None, **query: str) -> Any:
    more = {} if body is None else {"body": json.dumps(body)}
    response = await jp_fetch(API, path, method=method, params=query, **more)
    return json.loads(response.body)


async def test_runs_come_newest_first_a_page_at_a_time(jp_fetch: Any, notebook: Path) -> None:
    made = [put_run(notebook, ago=ago) for ago in (40, 30, 20)]
    page = await ask(jp_fetch, "runs", notebook="flights.ipynb", limit="2")
    assert [each["run"]["id"] for each in page["runs"]] == [made[2].id, made[1].id]
    assert page["count"] == 3
    rest = await ask(jp_fetch, "runs", notebook="flights.ipynb", limit="2", before=page["next"])
    assert [each["run"]["id"] for each in rest["runs"]] == [made[0].id]
    assert rest["next"] is None


async def test_runs_are_searched_and_sorted_a_page_at_a_time(jp_fetch: Any, notebook: Path) -> None:
    made = [put_run(notebook, ago=ago, parameters={"n": ago, "a b": 1}) for ago in (40, 30, 20)]
    question = {"query": "params.n > 25 or params.n = 20", "sort": "-params.n", "limit": "2"}
    page = await ask(jp_fetch, "runs", **question)
    assert [each["run"]["id"] for each in page["runs"]] == [made[0].id, made[1].id]
    assert page["count"] == 3
    rest = await ask(jp_fetch, "runs", **question, before=page["next"])
    assert [each["run"]["id"] for each in rest["runs"]] == [made[2].id]
    assert rest["next"] is None
    assert (await ask(jp_fetch, "runs", query="params.n > 25"))["count"] == 2
    assert (await ask(jp_fetch, "completions", prefix="params."))["names"] == ["params.`a b`", "params.n"]
    assert (await ask(jp_fetch, "completions", prefix="metrics.rm"))["names"] == ["metrics.rmse"]
    assert (await ask(jp_fetch, "completions", prefix="stat"))["names"] == ["state"]


@pytest.mark.parametrize(
    ("question", "place"),
    [({"query": "state = 'failed' and metrics.rmse <"}, 35), ({"sort": "__class__"}, 0), ({"query": "'; drop"}, 0)],
)
async def test_a_query_that_cannot_be_read_is_refused_with_its_place(
    jp_fetch: Any, question: dict[str, str], place: int
) -> None:
    status, problem = await refused(jp_fetch(API, "runs", params=question))
    assert (status, problem["type"], problem["place"]) == (400, "QueryError", place)
    assert problem["message"]
    assert "\n" not in problem["message"]


async def test_a_run_in_a_list_says_what_tells_it_apart(jp_fetch: Any, notebook: Path) -> None:
    put_run(notebook)
    (run,) = (await ask(jp_fetch, "runs"))["runs"]
    assert run["path"] == "flights.ipynb"
    assert (run["steps_done"], run["steps_total"]) == (2, 2)
    assert (run["metric"]["name"], run["metric"]["value"]) == ("rmse", 11.5)
    assert run["error"] == "train: ValueError: <img src=x onerror=act()>"


async def test_a_run_in_a_list_names_the_parameters_that_the_run_before_it_had_otherwise(
    jp_fetch: Any, notebook: Path
) -> None:
    given = ({"n": 1, "origin": "JFK"}, {"n": 2, "origin": "JFK"}, {}, {"n": 2, "origin": "JFK", "deep": True})
    for ago, parameters in zip((40, 30, 20, 10), given, strict=True):
        put_run(notebook, ago=ago, parameters=parameters)
    changed = [["n", "origin", "deep"], [], ["n"], ["n", "origin"]]
    for question in ({}, {"query": "state = 'failed'"}, {"sort": "-started"}):
        runs = (await ask(jp_fetch, "runs", **question))["runs"]
        assert [each["changed"] for each in runs] == changed
    page = await ask(jp_fetch, "runs", limit="3")
    assert [each["changed"] for each in page["runs"]] == changed[:3]  # the run before the last one is on the next page


async def test_the_first_run_of_a_notebook_names_the_parameters_that_are_not_the_notebooks_own(
    jp_fetch: Any, notebook: Path
) -> None:
    cell = new_code_cell("n = 1\norigin = 'JFK'", metadata={"tags": ["parameters"]})
    snapshot = Project.open().snapshot(json.loads(nbformat.writes(new_notebook(cells=[cell]))), str(notebook))
    put_run(notebook, ago=20, parameters={"n": 1, "origin": "LGA"}, snapshot=snapshot)
    put_run(notebook, ago=10, parameters={"n": 1, "origin": "JFK"}, snapshot=snapshot)
    runs = (await ask(jp_fetch, "runs"))["runs"]
    assert [each["changed"] for each in runs] == [["origin"], ["origin"]]


async def test_the_runs_of_a_list_come_with_the_metric_that_is_asked_for(jp_fetch: Any, notebook: Path) -> None:
    metrics = (Metric(name="auc", value=0.5, time=1), Metric(name="loss", value=2.0, time=2))
    run = put_run(notebook)
    Project.open(notebook=str(notebook)).put_execution(
        Execution(id=ExecutionId(new_id()), run=run.id, step="score", state="succeeded", metrics=metrics)
    )
    for name, shown in (("auc", "auc"), ("loss", "loss"), ("none", "loss")):
        (found,) = (await ask(jp_fetch, "runs", metric=name))["runs"]
        assert found["metric"]["name"] == shown


async def test_a_notebook_without_runs_has_an_empty_page(jp_fetch: Any, notebook: Path) -> None:
    assert await ask(jp_fetch, "runs", notebook="flights.ipynb") == {"runs": [], "count": 0, "next": None}


async def test_the_runs_of_a_copied_notebook_are_its_own_although_it_carries_the_originals_id(
    jp_fetch: Any, notebook: Path
) -> None:
    identifier = new_id()
    copy = copied_with_id(notebook, identifier)
    original = put_run(notebook, ago=10, notebook_id=identifier)
    copied = put_run(copy)
    for path, run in (("flights.ipynb", original), ("copy.ipynb", copied)):
        page = await ask(jp_fetch, "runs", notebook=path, notebook_id=identifier)
        assert [each["run"]["id"] for each in page["runs"]] == [run.id]
    shutil.move(notebook, notebook.with_name("renamed.ipynb"))
    page = await ask(jp_fetch, "runs", notebook="renamed.ipynb", notebook_id=identifier)
    assert [each["run"]["id"] for each in page["runs"]] == [original.id]


async def test_a_run_has_its_steps_their_edges_and_no_messages(jp_fetch: Any, notebook: Path) -> None:
    run = put_run(notebook)
    detail = await ask(jp_fetch, f"runs/{run.id}")
    assert [each["step"] for each in detail["executions"]] == ["load", "train"]
    assert detail["edges"] == [{"parent": "load", "child": "train"}]
    assert all(not each["messages"] for each in detail["executions"])
    assert detail["executions"][0]["binds"][0]["artifact"]["preview"] == {"kind": "text"}


async def test_of_a_step_that_was_run_again_in_a_run_only_the_last_execution_counts(
    jp_fetch: Any, notebook: Path
) -> None:
    run = put_run(notebook, state="succeeded", failed_step=None)
    catalog = Project.open(notebook=str(notebook)).catalog
    train = catalog.executions(run.id)[1]
    again = replace(
        train, id=ExecutionId(new_id()), state="succeeded", failure=None, queued=run.started + 10 * SECOND
    )  # fmt: skip
    catalog.put_executions([again])
    (summary,) = (await ask(jp_fetch, "runs", notebook="flights.ipynb"))["runs"]
    assert (summary["steps_done"], summary["steps_total"], summary["error"]) == (2, 2, None)
    detail = await ask(jp_fetch, f"runs/{run.id}")
    assert [(each["step"], each["state"]) for each in detail["executions"]] == [
        ("load", "succeeded"), ("train", "succeeded")
    ]  # fmt: skip


async def test_an_execution_has_its_messages(jp_fetch: Any, notebook: Path) -> None:
    run = put_run(notebook)
    first = (await ask(jp_fetch, f"runs/{run.id}"))["executions"][0]
    detail = await ask(jp_fetch, f"executions/{first['id']}")
    assert detail["execution"]["messages"][0]["text"] == "loaded\n"


def put_fan_out(notebook: Path, count: int = 8, **fields: Any) -> Execution:
    """Record a fan-out in which the fourth item failed, and every second one logged a metric."""
    run = put_run(notebook)
    given: dict[str, Any] = {"state": "failed", **fields}
    whole = Execution(
        id=new_id(), run=run.id, step="sweep", fanout=FanOut(names=("x",), shape=(count,), total=count), **given
    )
    said = {"output_type": "stream", "name": "stdout", "text": "item\n"}
    items = [
        Execution(
            id=new_id(), run=run.id, step="sweep", part_of=whole.id, item=number, label={"x": str(number)},
            state="failed" if number == 3 else "succeeded", started=run.started, messages=(said,),
            metrics=(Metric(name="rmse", value=number / 2 or float("nan")),) if number % 2 == 0 else (),
        )
        for number in range(count)
    ]  # fmt: skip
    Project.open(notebook=str(notebook)).catalog.put_executions([whole, *items])
    return whole


async def test_a_fan_outs_items_come_a_page_at_a_time_with_their_counts(jp_fetch: Any, notebook: Path) -> None:
    whole = put_fan_out(notebook)
    detail = await ask(jp_fetch, f"runs/{whole.run}")
    assert [each["step"] for each in detail["executions"]] == ["load", "train", "sweep"]
    page = await ask(jp_fetch, f"executions/{whole.id}/items", limit="3")
    assert [each["item"] for each in page["items"]] == [0, 1, 2]
    assert page["items"][2]["label"] == {"x": "2"}
    assert all(not each["messages"] for each in page["items"])
    assert page["counts"] == {"succeeded": 7, "failed": 1}
    page = await ask(jp_fetch, f"executions/{whole.id}/items", limit="9", after=str(page["next"]))
    assert ([each["item"] for each in page["items"]], page["next"]) == ([3, 4, 5, 6, 7], None)
    page = await ask(jp_fetch, f"executions/{whole.id}/items", state="failed,cancelled")
    assert [each["item"] for each in page["items"]] == [3]
    one = await ask(jp_fetch, f"executions/{page['items'][0]['id']}")
    assert one["execution"]["messages"][0]["text"] == "item\n"
    page = await ask(jp_fetch, f"executions/{whole.id}/items", after="0", limit="1")
    assert [each["item"] for each in page["items"]] == [1]


async def test_what_the_items_of_a_fan_out_logged_comes_a_page_at_a_time(jp_fetch: Any, notebook: Path) -> None:
    whole = put_fan_out(notebook, count=200, state="succeeded")
    catalog = Project.open(notebook=str(notebook)).catalog
    artifact = Artifact(digest=Digest("blake3:" + "5" * 64), size=9, type="file", codec="file")
    both = tuple(Binding(name=name, artifact=artifact) for name in ("a.txt", "b.txt"))
    even = [
        replace(one, artifacts=both) for one in catalog.items(whole.id) if one.item is not None and not one.item % 2
    ]
    catalog.put_executions(even)
    page = await ask(jp_fetch, f"executions/{whole.id}/items", logged="1", limit="24")
    assert [(each["item"], each["label"]["x"]) for each in page["items"]] == [(n, str(n)) for n in range(0, 48, 2)]
    assert [each["name"] for each in page["items"][0]["artifacts"]] == ["a.txt", "b.txt"]
    assert (page["logged"], page["next"]) == (200, 46)
    page = await ask(jp_fetch, f"executions/{whole.id}/items", logged="1", limit="96", after=str(page["next"]))
    assert ([each["item"] for each in page["items"]], page["next"]) == (list(range(48, 200, 2)), None)
    page = await ask(jp_fetch, f"executions/{whole.id}/items", limit="1")
    assert page["logged"] is None
    reused = replace(whole, id=ExecutionId(new_id()), state="reused", reused_from=whole.id)
    catalog.put_execution(reused)
    assert (await ask(jp_fetch, f"executions/{reused.id}/items", logged="1", limit="1"))["logged"] == 200


async def test_a_fan_outs_metric_has_a_place_for_each_item(jp_fetch: Any, notebook: Path) -> None:
    whole = put_fan_out(notebook)
    expected = [None, None, 1, None, 2, None, 3, None]
    found = await ask(jp_fetch, f"executions/{whole.id}/metric")
    assert found == {"names": ["rmse"], "name": "rmse", "values": expected, "shape": [8]}
    assert await ask(jp_fetch, f"executions/{whole.id}/metric", name="rmse") == found
    found = await ask(jp_fetch, f"executions/{whole.id}/metric", name="nothing")
    assert found["values"] == [None] * 8
    plain = (await ask(jp_fetch, f"runs/{whole.run}"))["executions"][0]["id"]
    assert await ask(jp_fetch, f"executions/{plain}/metric") == {"names": [], "name": None, "values": [], "shape": []}


async def test_a_reused_fan_out_shows_the_items_that_it_stands_for(jp_fetch: Any, notebook: Path) -> None:
    whole = put_fan_out(notebook, state="succeeded")
    reused = replace(whole, id=ExecutionId(new_id()), state="reused", reused_from=whole.id)
    Project.open(notebook=str(notebook)).catalog.put_execution(reused)
    page = await ask(jp_fetch, f"executions/{reused.id}/items")
    assert len(page["items"]) == 8
    assert len((await ask(jp_fetch, f"executions/{reused.id}/metric"))["values"]) == 8


@pytest.mark.parametrize(
    "query", [{"state": "broken"}, {"limit": "-1"}, {"limit": "9999999"}, {"after": "x"}, {"after": "-2"}]
)
async def test_a_wrong_question_for_items_is_refused(jp_fetch: Any, notebook: Path, query: dict[str, str]) -> None:
    whole = put_fan_out(notebook, count=1)
    status, said = await refused(ask(jp_fetch, f"executions/{whole.id}/items", **query))
    assert status == 400
    assert said["message"]


async def test_an_artifact_says_what_it_was_made_of_and_what_was_made_of_it(jp_fetch: Any, notebook: Path) -> None:
    run = put_run(notebook)
    catalog = Project.open(notebook=str(notebook)).catalog
    load = catalog.executions(run.id)[0]
    flights = load.binds[0].artifact
    assert flights is not None
    reads = (Read(name="flights", digest=flights.digest, step="load", execution=load.id),)
    score = Execution(id=new_id(), run=run.id, step="score", state="succeeded", position=2, reads=reads)
    catalog.put_execution(score)
    found = await ask(jp_fetch, f"artifacts/{flights.digest}/lineage", notebook="flights.ipynb")
    assert (found["above"], found["below"], found["cut"]) == ([load.id], [score.id], False)
    assert found["values"][0]["name"] == "flights"
    made = next(one for one in found["executions"] if one["id"] == load.id)
    assert made["parameters"] == {"origin": "JFK"}
    one = {"execution": load.id, "name": "flights", "way": "up"}
    assert (await ask(jp_fetch, f"artifacts/{flights.digest}/lineage", **one))["below"] == []
    equal = Execution(id=new_id(), run=run.id, step="equal", state="succeeded", started=load.started, binds=load.binds)
    catalog.put_execution(equal)
    for asked in (load, equal):  # of equal values, the one that is asked about comes first
        found = await ask(jp_fetch, f"artifacts/{flights.digest}/lineage", execution=asked.id)
        assert found["values"][0]["execution"] == asked.id
        assert len(found["values"]) == 2
    for query in ({"way": "sideways"}, {"name": "flights"}, {"execution": "../x"}):
        code, said = await refused(ask(jp_fetch, f"artifacts/{flights.digest}/lineage", **query))
        assert (code, said["type"]) == (400, "UsageError")
    code, said = await refused(ask(jp_fetch, f"artifacts/{A_DIGEST[:-1]}1/lineage"))
    assert (code, said["type"]) == (404, "NotFound")
    code, _ = await refused(ask(jp_fetch, f"artifacts/{A_DIGEST[:-1]}1/lineage", **one))
    assert code == 404


async def test_two_runs_say_what_differs_and_in_which_order(jp_fetch: Any, notebook: Path) -> None:
    before = put_run(notebook, ago=100)
    after = put_run(notebook, state="succeeded", failed_step=None)
    found = await ask(jp_fetch, f"runs/{after.id}/diff", **{"with": before.id})
    assert (found["before"], found["after"]) == (before.id, after.id)
    parts = ["code", "parameters", "data", "artifacts", "environment", "metrics", "outcome", "items"]
    assert list(found)[2:] == parts
    assert found["outcome"] == [{"step": None, "before": "failed", "after": "succeeded"}]
    assert found["code"] == found["data"] == []
    failed = put_run(notebook, ago=-100)
    found = await ask(jp_fetch, f"runs/{failed.id}/diff", **{"with": "last-success"})
    assert (found["before"], found["after"]) == (after.id, failed.id)
    found = await ask(jp_fetch, f"runs/{after.id}/diff", **{"with": "run-before"})
    assert (found["before"], found["after"]) == (before.id, after.id)
    for earlier in ("last-success", "run-before"):
        code, _ = await refused(ask(jp_fetch, f"runs/{before.id}/diff", **{"with": earlier}))
        assert code == 404
    for query in ({}, {"with": "abcd"}, {"with": "../../etc/passwd"}):
        code, said = await refused(ask(jp_fetch, f"runs/{after.id}/diff", **query))
        assert (code, said["type"]) == (400, "UsageError")
    code, _ = await refused(ask(jp_fetch, f"runs/{after.id}/diff", **{"with": new_id()}))
    assert code == 404


async def test_the_notebook_of_a_run_has_lost_its_trust(jp_fetch: Any, notebook: Path) -> None:
    project = Project.open(notebook=str(notebook))
    cell = {"cell_type": "code", "id": "c", "source": "1", "metadata": {"trusted": True}, "outputs": []}
    output = project.blobs.put(json.dumps({"cells": [cell], "metadata": {}}).encode())
    run = put_run(notebook, output=output)
    view = await ask(jp_fetch, f"runs/{run.id}/notebook", executed="1")
    assert view["executed"]
    assert view["notebook"]["cells"][0]["metadata"] == {}


async def test_a_run_that_kept_no_notebook_shows_its_steps_as_cells(jp_fetch: Any, notebook: Path) -> None:
    run = put_run(notebook)
    view = await ask(jp_fetch, f"runs/{run.id}/notebook")
    assert [cell["source"] for cell in view["notebook"]["cells"]] == ["flights = 1", "fit(flights)"]


async def test_the_graph_says_which_cells_feed_a_step_and_which_are_not_what_ran(jp_fetch: Any) -> None:
    cells = [
        {"id": "a", "source": "rate = 2", "ran": "rate = 1"},
        {"id": "b", "source": "%%step load --cpu 2\nx = rate  # all", "ran": "x = rate"},
        {"id": "c", "source": "%%step show\nprint(x)"},
    ]
    graph = await ask(jp_fetch, "graph", "POST", {"cells": cells})
    assert [(step["name"], step["cells"]) for step in graph["steps"]] == [("load", ["a"]), ("show", [])]
    assert graph["edited"] == ["a"]


async def test_the_graph_says_who_waits_for_whom_and_why(jp_fetch: Any) -> None:
    cells = [
        {"id": "a", "source": "import pandas as pd"},
        {"id": "b", "source": "%%step load\nflights = pd.read_csv('x.csv')"},
        {"id": "c", "source": "%%step train\nmodel = fit(flights)"},
    ]
    graph = await ask(jp_fetch, "graph", "POST", {"cells": cells})
    assert [(step["name"], step["cell"]) for step in graph["steps"]] == [("load", "b"), ("train", "c")]
    (parent,) = graph["steps"][1]["parents"]
    assert parent["step"] == "load"
    assert "flights" in parent["why"]


async def test_a_cell_that_is_wrong_is_a_problem_of_its_step(jp_fetch: Any) -> None:
    graph = await ask(jp_fetch, "graph", "POST", {"cells": [{"id": "a", "source": "%%step load --retires 3\nx = ("}]})
    said = [*graph["problems"], *(problem for step in graph["steps"] for problem in step["problems"])]
    assert said


async def test_output_is_put_back_for_the_kernel_that_made_it(jp_fetch: Any, notebook: Path) -> None:
    put_run(notebook, ago=60, kernel="k1")
    run = put_run(notebook, kernel="k1")
    question = {"kernel": "k1", "cells": ["c1", "c2", "c9"], "path": "flights.ipynb", "messages": True}
    answer = await ask(jp_fetch, "outputs", "POST", question)
    assert set(answer["outputs"]) == {"c1", "c2"}
    assert answer["outputs"]["c1"]["run"] == run.id
    assert answer["outputs"]["c1"]["messages"][0]["text"] == "loaded\n"
    other = await ask(jp_fetch, "outputs", "POST", {**question, "kernel": "k2"})
    assert other == {"outputs": {}, "copied": False, "notebook_id": None}


async def test_a_copy_does_not_own_the_id_that_it_carries(jp_fetch: Any, notebook: Path) -> None:
    identifier = new_id()
    copied_with_id(notebook, identifier)
    put_run(notebook, notebook_id=identifier)
    for path, own in (("flights.ipynb", True), ("copy.ipynb", False)):
        assert await ask(jp_fetch, "identity", notebook=path, notebook_id=identifier) == {"own": own}
    status, _ = await refused(jp_fetch(API, "identity", params={"notebook": "flights.ipynb", "notebook_id": "x"}))
    assert status == 400


async def test_what_a_kernels_next_run_took_over_is_told_as_it_ran(jp_fetch: Any, notebook: Path) -> None:
    first = put_run(notebook, ago=60, kernel="k1")
    catalog = Project.open(notebook=str(notebook)).catalog
    load = next(one for one in catalog.executions(first.id) if one.step == "load")
    second = put_run(notebook, kernel="k1")
    at = time.time_ns() + SECOND
    catalog.put_execution(
        replace(load, id=new_id(), run=second.id, state="reused", reused_from=load.id, queued=at, started=at, ended=at)
    )
    answer = await ask(jp_fetch, "outputs", "POST", {"kernel": "k1", "cells": ["c1"], "path": "flights.ipynb"})
    assert (answer["outputs"]["c1"]["id"], answer["outputs"]["c1"]["state"]) == (load.id, "succeeded")
    hit = replace(load, id=new_id(), run=second.id, state="reused", reused_from=load.id, queued=at + 1, ended=at + 9)
    catalog.put_execution(replace(hit, messages=()))
    asked = {"kernel": "k1", "cells": ["c1"], "path": "flights.ipynb", "messages": True}
    (found,) = (await ask(jp_fetch, "outputs", "POST", asked))["outputs"].values()
    assert (found["id"], found["reused_from"]) == (hit.id, load.id)
    assert [each["text"] for each in found["messages"]] == ["loaded\n"]


async def test_there_is_no_dashboard_without_a_proxy_or_a_service(jp_fetch: Any) -> None:
    assert await ask(jp_fetch, "dashboards") == {"dashboards": []}


async def test_output_is_never_put_into_a_copy(jp_fetch: Any, notebook: Path) -> None:
    put_run(notebook, kernel="k1")
    shutil.copy(notebook, notebook.with_name("copy.ipynb"))
    answer = await ask(jp_fetch, "outputs", "POST", {"kernel": "k1", "cells": ["c1"], "path": "copy.ipynb"})
    assert answer == {"outputs": {}, "copied": True, "notebook_id": None}


async def test_a_renamed_notebook_keeps_its_output(jp_fetch: Any, notebook: Path) -> None:
    put_run(notebook, kernel="k1")
    shutil.move(notebook, notebook.with_name("renamed.ipynb"))
    answer = await ask(jp_fetch, "outputs", "POST", {"kernel": "k1", "cells": ["c1"], "path": "renamed.ipynb"})
    assert set(answer["outputs"]) == {"c1"}


async def test_a_schedule_is_said_in_words_with_its_next_times(jp_fetch: Any) -> None:
    preview = await ask(jp_fetch, "schedule/preview", "POST", {"cron": "0 6 * * 1-5", "timezone": "Europe/Berlin"})
    assert preview["sentence"] == "At 06:00, Monday to Friday, Berlin time"
    assert len(preview["next"]) == 5


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [("0 0 30 2 *", "UTC"), ("@reboot", "UTC"), ("9" * 5000, "UTC"), ("", "UTC"), ("0 6 * * *", "../../etc/passwd")],
)
async def test_a_schedule_that_cannot_be_is_refused_in_a_sentence(jp_fetch: Any, cron: str, timezone: str) -> None:
    question = json.dumps({"cron": cron, "timezone": timezone})
    status, problem = await refused(jp_fetch(API, "schedule/preview", method="POST", body=question))
    assert status == 422
    assert problem["message"]
    assert "Traceback" not in json.dumps(problem)


async def test_jobs_are_listed_with_what_they_did_last(jp_fetch: Any, notebook: Path) -> None:
    catalog = Project.open(notebook=str(notebook)).catalog
    version = JobVersion(number=2, snapshot="blake3:" + "0" * 64)  # type: ignore[arg-type]
    job = Job(
        id=new_id(), name="nightly", notebook=str(notebook), version=version, cron="0 6 * * *", timezone="UTC",
        next_due=2_000_000_000,
    )  # fmt: skip
    catalog.put_job(job)
    catalog.add_firing(Firing(job=job.id, due=1_000_000_000, state="succeeded"))
    answer = await ask(jp_fetch, "jobs")
    (view,) = answer["jobs"]
    assert (view["short"], view["path"]) == ("daily 06:00 UTC", "flights.ipynb")
    assert view["last"]["state"] == "succeeded"
    assert "mlbench service install" in answer["service"] or answer["service"]
    firings = await ask(jp_fetch, f"jobs/{job.id}/firings")
    assert [each["due"] for each in firings["firings"]] == [1_000_000_000]


async def test_a_job_says_why_its_last_firing_failed(jp_fetch: Any, notebook: Path) -> None:
    catalog = Project.open(notebook=str(notebook)).catalog
    version = JobVersion(number=1, snapshot="blake3:" + "0" * 64)  # type: ignore[arg-type]
    job = Job(id=new_id(), name="nightly", notebook=str(notebook), version=version)
    catalog.put_job(job)
    run = put_run(notebook)
    catalog.add_firing(Firing(job=job.id, due=1_000_000_000, state="failed", run=run.id, reason="error"))
    (view,) = (await ask(jp_fetch, "jobs"))["jobs"]
    assert view["error"] == "train: ValueError: <img src=x onerror=act()>"
    catalog.add_firing(Firing(job=job.id, due=1_000_000_060, state="failed", reason="the interpreter is gone"))
    (view,) = (await ask(jp_fetch, "jobs"))["jobs"]
    assert view["error"] == "the interpreter is gone"


async def test_the_dialog_learns_the_form_and_what_was_checked(jp_fetch: Any, notebook: Path) -> None:
    cells = [
        {
            "cell_type": "code", "id": "p", "metadata": {"tags": ["parameters"]}, "outputs": [],
            "execution_count": None, "source": 'origin: str = "JFK"  # airport the model is for\ntrees: int = 200',
        }
    ]  # fmt: skip
    content = {
        "cells": cells, "nbformat": 4, "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    }  # fmt: skip
    question = {"path": "flights.ipynb", "notebook": content, "parameters": {"trees": "2OO"}}
    check = await ask(jp_fetch, "jobs/check", "POST", question)
    assert [(field["name"], field["type"]) for field in check["fields"]] == [("origin", "str"), ("trees", "int")]
    assert check["fields"][0]["help"] == "airport the model is for"
    assert [line["parameter"] for line in check["checked"] if line["level"] == "error"] == ["trees"]


async def test_status_says_where_the_store_is_and_why(jp_fetch: Any, tmp_path: Path) -> None:
    status = await ask(jp_fetch, "status")
    assert status["store"] == str(tmp_path / "store")
    assert "MLBENCH_STORE" in status["store_source"]
    assert status["install"].startswith("%pip install ")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "runs/..%2f..%2fetc", "runs/%252e%252e%252f", "runs/C:%5Cx", "runs/file:%2F%2Fx", "runs/" + "a" * 4096,
        "runs/con", "runs/" + "A" * 26, "executions/$(id)", "jobs/%00", "nothing",
    ],
)  # fmt: skip
async def test_what_is_no_id_is_nowhere(jp_fetch: Any, path: str) -> None:
    status, problem = await refused(jp_fetch(API, path))
    assert status in (400, 404)
    assert problem["message"].count("\n") == 0


async def test_an_unknown_id_is_not_found(jp_fetch: Any) -> None:
    for path in (f"runs/{'a' * 26}", f"executions/{'a' * 26}", f"jobs/{'a' * 26}"):
        status, problem = await refused(jp_fetch(API, path))
        assert (status, problem["type"]) == (404, "NotFound")


@pytest.mark.parametrize("path", ["../x.ipynb", "a/../../x", "a" * 5000])
async def test_a_path_that_leads_out_is_refused(jp_fetch: Any, path: str) -> None:
    status, problem = await refused(jp_fetch(API, "runs", params={"notebook": path}))
    assert status == 400
    assert problem["message"]


@pytest.mark.parametrize(
    "query",
    [{"limit": "-1"}, {"limit": "1000000000"}, {"limit": "٣"}, {"before": "forged"}, {"notebook_id": "'; drop--"}],
)
async def test_a_forged_question_is_refused(jp_fetch: Any, query: dict[str, str]) -> None:
    status, _ = await refused(jp_fetch(API, "runs", params=query))
    assert status == 400


@pytest.mark.parametrize(
    "body", [b"", b"{not json", b"[]", b"null", b'{"cells": 5}', b"[" * 100_000, b'{"cells":[{"id":1,"source":"x"}]}']
)
async def test_a_body_that_cannot_be_read_is_refused_in_a_sentence(jp_fetch: Any, body: bytes) -> None:
    status, problem = await refused(jp_fetch(API, "graph", method="POST", body=body))
    assert status == 400
    assert problem["message"]


async def test_nothing_can_be_cancelled_where_no_service_runs(jp_fetch: Any, notebook: Path) -> None:
    run = put_run(notebook, state="running", ended=None)
    status, problem = await refused(jp_fetch(API, f"runs/{run.id}/cancel", method="POST", body="{}"))
    assert (status, problem["type"]) == (503, "ServiceError")


def write_plain(notebook: Path) -> None:
    """Make a notebook with a parameter and a cell that is no step."""
    pairs = (("origin: str = 'LGA'", ["parameters"]), ("print(origin)", []))
    cells = [
        {
            "cell_type": "code",
            "id": f"c{place}",
            "source": source,
            "metadata": {"tags": tags},
            "outputs": [],
            "execution_count": None,
        }
        for place, (source, tags) in enumerate(pairs)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


async def test_a_failed_run_is_resumed_in_a_process_of_its_own(jp_fetch: Any, notebook: Path) -> None:
    write_plain(notebook)
    failed = put_run(notebook)
    begun = await ask(jp_fetch, f"runs/{failed.id}/resume", "POST", {})
    catalog = Project.open(notebook=str(notebook)).catalog
    until = time.monotonic() + 60
    while (run := catalog.run(begun["run"])).state not in ENDED:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    assert (run.state, run.resumed_from, run.parameters) == ("succeeded", failed.id, {"origin": "JFK"})


async def test_what_cannot_be_resumed_is_said(jp_fetch: Any, notebook: Path) -> None:
    fine = put_run(notebook, state="succeeded")
    status, problem = await refused(jp_fetch(API, f"runs/{fine.id}/resume", method="POST", body="{}"))
    assert (status, problem["message"]) == (400, f"Run {fine.id[:4]} succeeded: there is nothing to resume.")
    without_kernel = put_run(notebook)
    status, problem = await refused(jp_fetch(API, f"runs/{without_kernel.id}/resume", method="POST", body="{}"))
    assert status == 503
    assert problem["message"].startswith(f"Run {without_kernel.id[:4]} could not be resumed: ")
    assert "kernel" in problem["message"]


# --- news -------------------------------------------------------------------------------------------------------------


async def test_a_page_hears_that_somebody_wrote_to_the_catalog(jp_ws_fetch: Any, jp_fetch: Any, notebook: Path) -> None:
    put_run(notebook)
    await jp_fetch(API, "runs")
    socket = await jp_ws_fetch(API, "events")
    hello = json.loads(await asyncio.wait_for(socket.read_message(), 60))
    assert hello["type"] == "hello"
    await asyncio.sleep(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        put_run(notebook)
        try:
            news = json.loads(await asyncio.wait_for(socket.read_message(), 3))
        except TimeoutError:
            continue
        assert news["type"] == "changed"
        break
    else:
        pytest.fail("No news came.")
    socket.close()


async def test_a_page_asks_again_once_the_catalog_is_watched(jp_ws_fetch: Any, notebook: Path) -> None:
    put_run(notebook)  # whatever is written before the first look would be missed, were it only compared with that
    socket = await jp_ws_fetch(API, "events")
    heard = [json.loads(await asyncio.wait_for(socket.read_message(), 20))["type"] for _ in range(2)]
    assert heard == ["hello", "changed"]
    socket.close()


async def test_a_page_that_sends_nonsense_is_let_go(jp_ws_fetch: Any) -> None:
    socket = await jp_ws_fetch(API, "events")
    await asyncio.wait_for(socket.read_message(), 60)
    await socket.write_message("{nonsense")
    assert await asyncio.wait_for(socket.read_message(), 60) is None


def test_a_store_that_was_taken_away_holds_up_no_news_of_the_others(tmp_path: Path) -> None:
    projects = [Project.open(store=str(tmp_path / name)) for name in ("gone", "there")]
    newsroom = Newsroom(SimpleNamespace(met=lambda: projects))  # type: ignore[arg-type]
    assert set(newsroom._read_versions()) == {str(tmp_path / "gone"), str(tmp_path / "there")}
    shutil.move(tmp_path / "gone", tmp_path / "away")
    assert set(newsroom._read_versions()) == {str(tmp_path / "there")}
