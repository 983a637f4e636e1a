"""What runs in the process of a fan-out's items: load everything once, then run the cell for each item.

The process itself runs no item. It forks one that runs them one after the other, each in the same names as they were at
the start; if that one dies, in whatever way, the next fork goes on behind the item that it died of. Items that take
long, and all once it turns out that they change in place what they were given, are run in a fork each. Where a process
that has loaded the inputs can't be forked any more, since they brought threads, it runs the items itself and ends
where a fork would have: its supervisor starts another. One in which no item has run goes on with the next chunk.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import signal
import sys
import traceback
from dataclasses import replace
from typing import Any, Final, NoReturn

from mlbench.backends.blobs import open_blobs, rest
from mlbench.backends.cluster_dask import processors
from mlbench.backends.cluster_dask.channel import Channel, MarkedChannel, PipeEnd, widen
from mlbench.backends.cluster_dask.process.foreach import Items, evaluate, keep, what_to_do
from mlbench.backends.cluster_dask.process.itemrunner import LONG, Runner, flush_c, show
from mlbench.backends.cluster_dask.process.pools import end_pools
from mlbench.backends.cluster_dask.process.stepprocess import Step
from mlbench.backends.cluster_dask.process.stepserver import end_with_parent
from mlbench.backends.cluster_dask.process.stepshell import ZMQInteractiveShell, open_stream
from mlbench.core.errors import StoreError, UsageError
from mlbench.core.messages import Chunk, StepTask
from mlbench.core.records import Failure
from mlbench.runs import randomness
from mlbench.runs.generators import AFTER, Generators
from mlbench.runs.wire import msgspec

__all__ = ["main"]

_SHORT: Final = 0.05


def main(task: StepTask, given: Channel) -> None:
    """Run the chunk of a task, and further ones of the same fan-out that may come."""
    channel = MarkedChannel(given.detach(), task.execution)
    sys.stdout, sys.stderr = open_stream(1, channel), open_stream(2, channel)
    faulthandler.enable(file=2)
    process = _Process(task, channel)
    while process.run(task):
        _flush()
        try:
            task = channel.await_next(StepTask)
        except OSError:  # there are none
            _end()
            return
    _say_over(channel)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    flush_c()


def _say_over(channel: MarkedChannel, **more: Any) -> None:
    _flush()
    channel.send({"op": "over", **more})
    _end()


def _end() -> None:
    end_pools()
    atexit._run_exitfuncs()


class _Process:
    """The process that loads everything, once."""

    def __init__(self, task: StepTask, channel: MarkedChannel) -> None:
        assert task.chunk is not None
        self._task = task
        self._chunk: Chunk = task.chunk
        self._channel = channel
        self._step = Step(task, channel)
        self._blobs = open_blobs(task.store, make=False)
        self._shell: ZMQInteractiveShell = ZMQInteractiveShell.instance()
        self._loaded: tuple[Runner, Items] | None = None

    def run(self, task: StepTask) -> bool:
        """Evaluate the `--foreach`, or run items whose values are known; say whether it could run another chunk."""
        assert task.chunk is not None
        self._task, self._chunk = task, task.chunk
        if self._loaded is None:
            self._loaded = self._load()
        else:
            self._loaded[0].take(task)
        if self._loaded is None:
            return False
        runner, items = self._loaded
        if self._chunk.spread is not None and not self._chunk.spread.labels:
            labels = [items.label(number) for number in self._chunk.numbers]
            self._channel.tell({"op": "labels", "labels": labels})
        return self._run_all(runner)

    def _load(self) -> tuple[Runner, Items] | None:
        namespace = self._enter()
        if namespace is None:
            return None
        if self._chunk.spread is None:
            self._evaluate(namespace)
            if self._chunk.seconds != 0:
                self._channel.send({"op": "parted", "apart": False})
            return None
        try:
            items = Items(self._chunk.spread, self._blobs, namespace)
        except Exception as refusal:  # noqa: BLE001  whatever stops a step before its first line is its failure
            self._refuse(self._step.refused(refusal))
            return None
        try:
            codes = self._shell.compile_cell(self._task.source)
        except Exception:  # noqa: BLE001  it is said as the cell itself says it
            self._refuse(self._step.failure(self._shell.run(self._task.source), self._shell.failure))
            return None
        return Runner(self._task, self._channel, self._step, namespace, items, codes), items

    def _enter(self) -> dict[str, Any] | None:
        variables = {name: one for name, one in processors.SINGLE.items() if name not in os.environ}
        os.environ.update(variables)  # a library that starts threads now keeps the process from being forked
        try:
            return self._step.enter()
        except Exception as refusal:  # noqa: BLE001  whatever stops a step before its first line is its failure
            self._refuse(self._step.refused(refusal))
            return None
        finally:
            for name in variables:
                os.environ.pop(name, None)
            processors.find()

    def _refuse(self, failure: Failure) -> None:
        self._channel.send({"op": "refused", "failure": msgspec.to_builtins(failure)})

    def _evaluate(self, namespace: dict[str, Any]) -> None:
        task = self._task
        processors.share(task.threads, os.environ)
        if task.random:
            randomness.restore(task.random)
        after = None
        try:
            found = evaluate(task.foreach, namespace, self._chunk.most_items)
            spread = keep(task.foreach, found, self._blobs)
            if task.random and task.seeded:
                Generators(task.random).set_to(AFTER)
                after = self._blobs.put(randomness.to_bytes(randomness.read_states()))
        except (UsageError, StoreError) as refusal:
            self._refuse(self._step.refused(refusal))
        except BaseException as error:  # noqa: BLE001  an expression may raise, and exit
            show(self._shell, error, whole=True)
            said = self._step.failure(error, self._shell.failure)
            self._refuse(replace(said, line=1, remedy=what_to_do(error, task.foreach)))  # the line of `%%step`
        else:
            self._channel.send({"op": "spread", "spread": msgspec.to_builtins(spread), "after": after})

    # --- forks -------------------------------------------------------------------------------------------------------

    def _run_all(self, runner: Runner) -> bool:
        """Run the chunk's items; say whether none has run in this process itself."""
        rest()  # a store's threads are not in a fork
        forks = _can_fork()
        left = list(range(len(self._chunk.numbers)))
        apart = self._chunk.apart or runner.changes
        long, strikes = False, 0
        if not apart and (len(left) > 1 or runner.doubts):
            runner.watch()
        gc.freeze()  # what is loaded stays for all, and its memory is shared with forks as long as nobody touches it
        if self._chunk.at_once is not None:
            self._channel.await_turn()
        runner.set_clock()
        while left and not (runner.begun_any and runner.late()) and not runner.given_up:
            places = left[:1] if apart or long else left
            progress = runner.progress
            progress.reset()
            if not forks:
                self._run_here(runner, left, places, apart=apart)
                return False
            over = self._fork(runner, places, strikes)
            if over:
                left = left[progress.kept :]
                if progress.changed:
                    left = [*runner.run_again(), *left]
                    apart = True
                long = progress.seconds > LONG or (long and progress.seconds > _SHORT)
                strikes = 0
            elif progress.begun >= 0 or strikes:
                runner.unsure += places[progress.clean + 1 : progress.kept]
                left = left[max(progress.begun, 0) + 1 :]
                strikes = 0
            else:
                strikes += 1
        return True

    def _run_here(self, runner: Runner, left: list[int], places: list[int], *, apart: bool) -> None:
        self._channel.send({"op": "child", "pid": None, "first": self._chunk.numbers[places[0]]})
        runner.begin()
        draws = runner.run(places)
        progress = runner.progress
        self._channel.send({"op": "drew", "draws": draws})
        if progress.kept < len(left) and not runner.late():
            self._channel.send({"op": "parted", "apart": apart or progress.changed or progress.seconds > LONG})

    def _fork(self, runner: Runner, places: list[int], strikes: int) -> bool:
        """Run items in a process of their own; say whether it came to its end."""
        numbers = self._chunk.numbers
        ours, theirs = os.pipe()
        widen(theirs)
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            self._be_forked(runner, ours, theirs, places)
        os.close(theirs)
        os.close(ours)
        with contextlib.suppress(OSError):
            os.setpgid(process, process)
        runner.begun_any = True
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        progress = runner.progress
        if not progress.over:  # what it has started goes with it
            with contextlib.suppress(OSError):
                os.killpg(process, signal.SIGKILL)
        _, status, used = os.wait4(process, 0)
        begun = progress.begun
        self._channel.send(
            {
                "op": "ended",
                "status": os.waitstatus_to_exitcode(status),
                "peak": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
                "cpu": used.ru_utime + used.ru_stime,
                "begun": numbers[places[begun]] if begun >= 0 else numbers[places[0]] if strikes else None,
                "over": progress.over,
            }
        )
        return progress.over

    def _be_forked(self, runner: Runner, ours: int, connection: int, places: list[int]) -> NoReturn:
        code = 70
        try:
            os.setpgid(0, 0)
            end_with_parent(signal.SIGKILL)
            hello = {"op": "child", "pid": os.getpid(), "first": self._chunk.numbers[places[0]]}
            self._channel.move(PipeEnd(connection), hello, (ours,))
            os.close(ours)
            runner.begin()
            draws = runner.run(places)
            runner.progress.end()
            _say_over(self._channel, draws=draws)
            code = 0
        except BaseException:  # noqa: BLE001  the last stop: say it where the items' output goes
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)


def _can_fork() -> bool:
    """Say whether a fork of this process works as it does: it has one thread, and nothing on a GPU."""
    if not sys.platform.startswith("linux"):
        return False
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch, "cuda", None) is not None and torch.cuda.is_initialized():
        return False
    if _threads() > 1:
        # OpenBLAS ends its threads when a process is forked, and starts them again where they are needed.
        process = os.fork()
        if process == 0:
            os._exit(0)
        os.waitpid(process, 0)
    return _threads() <= 1


def _threads() -> int:
    """Return how many threads this process has that a fork would not have (Linux)."""
    count = 0
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm", encoding="utf-8") as file:
            count += file.read().strip() != "jemalloc_bg_thd"  # it knows of forks
    return count
