"""Puts a configuration's backends together; the use cases of a store.

What is said here is written twice: as an immutable record in the store, and in the catalog, which is an index of the
records and is made from them again if it is lost. Importing this is light; the catalog, and with it SQLAlchemy, is
loaded when it is first used.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbench.backends.blobs import open_blobs
from mlbench.core.errors import NotFound, StoreError, UsageError
from mlbench.core.ids import Digest, NotebookId, RunId, new_id
from mlbench.core.ports import Catalog
from mlbench.core.queries import Page, Place
from mlbench.core.records import (
    ENDED,
    Execution,
    Failure,
    Json,
    Metric,
    Reason,
    Run,
    RunKind,
    Snapshot,
    State,
)
from mlbench.project.configuration import StoreLocation, find_store, note_catalog

if TYPE_CHECKING:
    import pandas as pd

    from mlbench.project.history import RunView
    from mlbench.project.leftovers import Leftovers

__all__ = ["Project", "StoreLocation", "find_store"]

_log = logging.getLogger(__name__)

_MOMENT = 10.0
"""Seconds for which a catalog that is this machine's alone is taken to know what others have recorded."""


class Project:
    """A store with its use cases.

    Parameters
    ----------
    location
        Where it is; its directory is made if it is not there.
    catalog
        A catalog that is open already; without one it is opened, made or migrated when it is first used.
    """

    def __init__(self, location: StoreLocation, *, catalog: Catalog | None = None) -> None:
        self.location = location
        self.blobs = open_blobs(location.place)
        self._catalog = catalog
        self._given = catalog is not None
        self._opening = threading.Lock()
        self._caught_up = 0.0

    @classmethod
    def open(cls, store: str | None = None, notebook: str | None = None) -> Project:
        """Open the store named, or the one that is configured for a notebook.

        Raises
        ------
        StoreError, UsageError
            If it cannot be used; see `mlbench.project.configuration.find_store`.
        """
        return cls(find_store(notebook, store=store))

    def __repr__(self) -> str:
        return f"Project({self.location.place!r})"

    @property
    def catalog(self) -> Catalog:
        """The index of all records."""
        with self._opening:
            if self._catalog is None:
                from mlbench.backends.catalog_sql import SqlCatalog

                if self._is_own:
                    self.location.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                catalog = SqlCatalog(self.location.catalog_url)
                note_catalog(self.location)
                if self._is_own:
                    self._catch_up(catalog, anew=catalog.is_new)
                elif catalog.is_new:
                    from mlbench.project.indexing import fill_catalog

                    fill_catalog(catalog, self.blobs)  # it was lost or moved, and the records are there already
                self._catalog = catalog
            return self._catalog

    @property
    def _is_own(self) -> bool:
        """Whether the catalog is this machine's, on a store that others may write to."""
        return self.location.url is not None and self.location.catalog_url.startswith("sqlite")

    @property
    def catalog_is_apart(self) -> bool:
        """Whether the catalog does not lie in the store, so that others who use the store have one of their own."""
        url = self.location.catalog_url
        return self._is_own or (url.startswith("sqlite") and Path(url[10:]).parent != self.location.path)

    def catalog_problem(self, *, expected: bool) -> str | None:
        """Read all of the catalog's database, and return what is wrong with it, `None` if it is whole; change nothing.

        Parameters
        ----------
        expected
            Whether there are records, so that a catalog in the store is damaged if it is gone.

        Raises
        ------
        StoreError
            If it cannot be told.
        """
        if self._given:
            return None
        from mlbench.backends.catalog_sql import problem_of

        return problem_of(self.location.catalog_url, expected=expected and not self.catalog_is_apart)

    def catch_up(self, *, at_once: bool = False) -> None:
        """Have the catalog know what others have recorded, unless it was looked at a moment ago."""
        catalog = self.catalog
        if self._is_own and (at_once or time.monotonic() - self._caught_up > _MOMENT):
            self._catch_up(catalog)

    def _catch_up(self, catalog: Catalog, *, anew: bool = False) -> None:
        from mlbench.project.catchup import catch_up

        self._caught_up = time.monotonic()
        catch_up(catalog, self.blobs, self.location.path, anew=anew)

    def close(self) -> None:
        """Close the catalog's connections."""
        with self._opening:
            if self._catalog is not None:
                self._catalog.close()
                self._catalog = None

    # --- recording ----------------------------------------------------------------------------------------------------

    def begin_run(
        self,
        *,
        kind: RunKind,
        notebook: str | None = None,
        name: str | None = None,
        id: RunId | None = None,  # noqa: A002  (the record's own word)
        notebook_id: NotebookId | None = None,
        snapshot: Digest | None = None,
        parameters: Json | None = None,
        owner: str | None = None,
        **more: Any,
    ) -> Run:
        """Record that a run has begun, and return it.

        Parameters
        ----------
        kind, notebook, name, id, notebook_id, snapshot, parameters, owner
            As in `Run`; the id is made, the name is the notebook's, and the owner this process unless they are given.
        more
            Further fields of `Run`.
        """
        from mlbench.backends.owners import owner_of_this_process, user_name

        if owner is None:
            owner = owner_of_this_process()
        given: Json = {
            "state": "running",
            "started": time.time_ns(),
            "user": user_name(),
            "host": platform.node(),
            **more,
        }
        run = Run(
            id=id or RunId(new_id()),
            kind=kind,
            name=name or (Path(notebook).stem if notebook else kind),
            notebook=notebook,
            notebook_id=notebook_id,
            snapshot=snapshot,
            parameters=dict(parameters or {}),
            owner=owner,
            **given,
        )
        self.put_run(run)
        return run

    def end_run(
        self,
        run: Run,
        state: State,
        *,
        reason: Reason | None = None,
        failure: Failure | None = None,
        failed_step: str | None = None,
        output: Digest | None = None,
        metrics: Sequence[Metric] | None = None,
        **more: Any,
    ) -> Run:
        """Record a run's end, durably, and return it."""
        ended = replace(
            run,
            **{
                "state": state,
                "reason": reason,
                "failure": failure,
                "failed_step": failed_step,
                "output": output if output is not None else run.output,
                "metrics": tuple(metrics) if metrics is not None else run.metrics,
                "ended": time.time_ns(),
                **more,
            },
        )
        self.put_run(ended, durable=True)
        return ended

    def record(self, record: Run | Execution) -> None:
        """Write the object of a run or of an execution's end, durably if it is an end, and leave the catalog alone."""
        if isinstance(record, Run):
            self.blobs.append("run", record.id, _plain(record), durable=record.state in ENDED)
        else:
            self._record_execution(record)

    def put_run(self, run: Run, *, durable: bool = False) -> None:
        """Write a run as it is: its record, then the catalog."""
        self.blobs.append("run", run.id, _plain(run), durable=durable)
        self.catalog.put_run(run)

    def put_execution(self, execution: Execution, *, recorded: bool = False) -> None:
        """Write an execution to the catalog; before that its record, if it has ended and is not `recorded` yet."""
        if execution.state in ENDED and not recorded:
            self._record_execution(execution)
        self.catalog.put_execution(execution)

    def _record_execution(self, execution: Execution) -> None:
        from mlbench.project.signing import signer
        from mlbench.runs.signing import proven

        record = proven(signer(execution.id), "execution", execution.id, _plain(execution))
        self.blobs.append("execution", execution.id, record, durable=execution.state in ENDED)

    def snapshot(
        self,
        notebook: Json,
        path: str | None = None,
        interpreter: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        cells: Sequence[str] = (),
        kernel_name: str | None = None,
        python: str | None = None,
        packages: Mapping[str, str] | None = None,
        environment: Sequence[str] = (),
        durable: bool = True,
    ) -> Digest:
        """Make and keep a snapshot of a notebook and of what it stands on.

        Parameters
        ----------
        notebook
            nbformat's dictionary; its outputs are dropped.
        path
            Where it lies: the modules beside it and the state of git are taken from its folder.
        interpreter, python, packages
            The kernel's Python; its version and packages are read from its folders unless they are given.
        parameters, cells, kernel_name
            As in `Snapshot`.
        environment
            Names of environment variables that it had; never their values.
        durable
            Whether it must survive a power cut once this returns.

        Returns
        -------
        Digest
            That of the snapshot's record.
        """
        from mlbench.backends.runner_papermill import installed_packages, python_version
        from mlbench.project.snapshots import keep_modules, read_git
        from mlbench.runs.snapshots import notebook_bytes, snapshot_bytes, without_outputs

        folder = os.path.dirname(os.path.abspath(path)) if path is not None else None
        there = folder is not None and os.path.isdir(folder)
        if interpreter is not None:
            python = python or python_version(interpreter)
            packages = installed_packages(interpreter) if packages is None else packages
        snapshot = Snapshot(
            notebook=self.blobs.put(notebook_bytes(without_outputs(notebook)), durable=durable),
            cells=tuple(cells),
            parameters=dict(parameters or {}),
            modules=keep_modules(folder, self.blobs, durable=durable) if folder and there else {},
            folder=folder,
            interpreter=interpreter,
            kernel_name=kernel_name,
            python=python,
            packages=dict(packages or {}),
            environment=tuple(sorted(environment)),
            git=read_git(folder, self.blobs, durable=durable) if folder and there else None,
        )
        record = snapshot_bytes(snapshot)
        digest = self.blobs.put(record, durable=durable)
        self.blobs.append("snapshot", digest, _plain(snapshot), durable=durable)
        self.catalog.put_snapshot(digest, snapshot)
        return digest

    # --- looking ------------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str | None = None,
        *,
        sort: str | None = None,
        notebook: str | None = None,
        job: str | None = None,
        user: str | None = None,
        under_way: bool = False,
        limit: int = 50,
        after: Place | None = None,
    ) -> Page:
        """Return a page of runs, newest first or as `sort` says; see `Catalog.search`.

        Parameters
        ----------
        query, sort
            As they are written; see `mlbench.runs.search`.
        notebook
            The path of one, whose former names count too.
        job
            A job's name or id.
        user
            Whose runs alone.

        Raises
        ------
        QueryError
            If the query, or what to sort by, cannot be read.
        """
        from mlbench.core.queries import And, Column, Comparison
        from mlbench.project.identity import runs_of
        from mlbench.runs.search import parse, parse_sort

        self.catch_up()
        wanted, order = parse(query or ""), parse_sort(sort) if sort is not None else None
        if user is not None:
            theirs = Comparison(Column("user"), "=", user)
            wanted = theirs if wanted is None else And((theirs, wanted))
        of_notebook: dict[str, Any] = dict(runs_of(self.catalog, notebook)) if notebook is not None else {}
        if job is not None:
            of_notebook["job"] = self.catalog.job(job).id
        return self.catalog.search(wanted, sort=order, under_way=under_way, limit=limit, after=after, **of_notebook)

    def runs(
        self,
        query: str | None = None,
        *,
        sort: str | None = None,
        notebook: str | None = None,
        limit: int = 50,
    ) -> pd.DataFrame:
        """Return the runs that a query is true of as a table, newest first or as `sort` says."""
        from mlbench.project.history import as_frame

        _check_arguments(query, sort, limit)
        found = self.search(query, sort=sort, notebook=notebook, limit=limit).runs
        return as_frame(found, self.catalog.metrics([run.id for run in found]))

    def run(self, prefix: str) -> RunView:
        """Return a run by its id or a beginning of it.

        Raises
        ------
        NotFound
            If no run, or more than one, begins with it.
        """
        from mlbench.project.history import RunView
        from mlbench.project.signing import judge

        self.catch_up()
        return RunView(self.catalog.run(prefix), self.catalog, self.blobs, judge(self.location.place))

    def steps(self, run: RunId) -> list[Execution]:
        """Return the executions that count in a run, the last one of each step, without their messages."""
        from mlbench.runs.series import last_of_each_step

        return last_of_each_step(self.catalog.executions(run))

    # --- after a loss -------------------------------------------------------------------------------------------------

    def reconcile(self, alive: Callable[[str | None], bool], left: Leftovers | None = None) -> list[Run]:
        """Say of all that is under way and whose owner is dead what became of it.

        An end that was recorded is taken, of items too, so that nothing that finished is lost; everything else has
        failed: steps with the reason `service-lost`, runs that had a process of their own with `worker-lost`.

        Parameters
        ----------
        alive
            Says whether the process that an owner text names still lives (`mlbench.backends.owners.is_alive`).
        left
            What takes the items, for who asks it for later ones.

        Returns
        -------
        list of Run
            The runs that are ended now.
        """
        from mlbench.project.history import runs_under_way
        from mlbench.project.leftovers import Leftovers

        owners = functools.cache(alive)
        open_runs = {run.id: run for run in runs_under_way(self.catalog)}
        lost: dict[RunId, list[Execution]] = {run.id: [] for run in open_runs.values() if not owners(run.owner)}
        for execution in self.catalog.under_way():
            run = open_runs.get(execution.run)
            if run is None:
                try:
                    run = self.catalog.run(execution.run)
                except NotFound:
                    run = None
            if run is None or not owners(run.owner):
                lost.setdefault(execution.run, []).append(execution)
        left = Leftovers(self) if left is None else left
        left.take_of([one for them in lost.values() for one in them])
        changed = []
        for run_id, executions in lost.items():
            for execution in executions:
                self._settle(replace(execution, fanout=left.counted(execution)))
            if run_id in open_runs:
                changed.append(self.settle_run(open_runs[run_id]))
        return changed

    def _settle(self, execution: Execution) -> None:
        from mlbench.project.signing import own_end
        from mlbench.runs.wire import msgspec

        written = own_end(execution.id, self._find("execution", execution.id))
        whole = written is not None and written.get("attempt", 1) >= execution.attempt  # not that of an earlier attempt
        if written is not None and whole and written.get("state") in ENDED:
            ended = msgspec.convert(written, Execution)
            self.put_execution(replace(ended, unseen=ended.state == "succeeded"), recorded=True)
            return
        failure = Failure(
            ename="ServiceError",
            evalue=f"The service ended while step {execution.step} was {execution.state}.",
            remedy="Run its cell again.",
        )
        self.put_execution(
            replace(execution, state="failed", reason="service-lost", failure=failure, ended=time.time_ns())
        )

    def _find(self, kind: str, identifier: str) -> Json | None:
        """Return a record; None for one that is damaged, which must not keep its store from being opened."""
        try:
            return self.blobs.find_record(kind, identifier)
        except StoreError as error:
            _log.warning("What became of %s cannot be told: %s", identifier, error)
            return None

    def settle_run(self, run: Run) -> Run:
        """Record what became of a run whose process has vanished, and return it: the end in its record, or a loss.

        What its kernel has left running is ended.
        """
        from mlbench.backends.owners import end_processes_of
        from mlbench.runs.wire import msgspec

        if run.kind != "interactive":
            end_processes_of(run.id)

        written = self._find("run", run.id)
        if written is not None and written.get("state") in ENDED:
            ended = msgspec.convert(written, Run)
            self.catalog.put_run(ended)
            return ended
        failed = next((one for one in self.steps(run.id) if one.state == "failed"), None)
        if run.kind == "interactive":
            state: State = "failed" if failed is not None else "succeeded"
            return self.end_run(
                run, state, reason=failed.reason if failed else None, failed_step=failed.step if failed else None
            )
        failure = Failure(
            ename="ServiceError",
            evalue="The process that ran this notebook ended without a word.",
            remedy="Run it again; if it happens again, look whether the machine ran out of memory.",
        )
        return self.end_run(
            run, "failed", reason="worker-lost", failure=failure, failed_step=failed.step if failed else None
        )


def _plain(record: Any) -> Json:
    from mlbench.runs.wire import msgspec

    plain: Json = msgspec.to_builtins(record)
    return plain


def _check_arguments(query: object, sort: object, limit: object) -> None:
    for name, text in (("query", query), ("sort", sort)):
        if text is not None and not isinstance(text, str):
            raise UsageError(
                f"{name} is a text, not {text!r:.60}.", 'As in runs("metrics.rmse < 12", sort="-started").'
            )
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise UsageError(f"limit is a whole number from 1, not {limit!r:.60}.")
