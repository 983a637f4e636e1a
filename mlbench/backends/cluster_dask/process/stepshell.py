"""The IPython shell of a step's process: runs one cell as a kernel would, and sends what it shows to the supervisor."""

from __future__ import annotations

import ast
import base64
import builtins
import getpass
import io
import linecache
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from mlbench.backends.cluster_dask.channel import Channel
from mlbench.core.errors import UsageError
from mlbench.core.records import Failure, Json
from mlbench.runs.transcript import fitting, shortened, text_of

__all__ = ["ZMQInteractiveShell", "make_shell", "open_stream"]

_WIDGETS: Final = "application/vnd.jupyter.widget-"
_OF_THE_SHELL: Final = ("In", "Out", "_ih", "_oh", "_dh", "_", "__", "___")


class _Publisher(DisplayPublisher):
    """Displays become messages."""

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *_: Any,
        transient: Mapping[str, Any] | None = None,
        update: bool = False,
        **__: Any,
    ) -> None:
        self.shell.say(
            {
                "output_type": "update_display_data" if update else "display_data",
                "data": _as_json(data),
                "metadata": _plain(metadata or {}),
                "transient": _plain(transient or {}),
            }
        )

    def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002  IPython's signature
        self.shell.say({"output_type": "clear_output", "wait": wait})


class _Hook(DisplayHook):
    """The last expression's value becomes an `execute_result`."""

    shell: Any

    def quiet(self) -> bool:
        """Say whether the cell ends in a semicolon; the history, where IPython looks, has no cells here."""
        ends_so: Callable[[str], bool] = self.semicolon_at_end_of_expression
        return bool(ends_so(self.shell.source))

    def write_output_prompt(self) -> None:
        """Leave the prompt out: a front end draws its own."""

    def write_format_data(self, format_dict: Mapping[str, Any], md_dict: Mapping[str, Any] | None = None) -> None:
        self.shell.say(
            {
                "output_type": "execute_result",
                "execution_count": None,
                "data": _as_json(format_dict),
                "metadata": _plain(md_dict or {}),
            }
        )


class _Compiler(CachingCompiler):
    """Code of the cell counts its lines as the user sees them, the `%%step` line included."""

    step = ""
    source = ""
    bound: set[str] = set()  # noqa: RUF012  replaced when a cell is entered
    imported: set[str] = set()  # noqa: RUF012  likewise: modules, and names in them that may be modules too

    def enter(self, step: str, source: str) -> None:
        """Expect a cell's code, of which nothing is known yet."""
        self.step, self.source, self.bound, self.imported = step, source, set(), set()

    def code_name(self) -> str:
        """Return the file name that the cell's code objects carry: the same on every run, so that pickles are."""
        return f"<step {self.step}>"

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        return (
            self.code_name() if raw_code in self.source else super().get_code_name(raw_code, transformed_code, number)
        )

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        name = str(super().cache(transformed_code, number, raw_code))
        if name == self.code_name():
            # A part of the cell, such as what stands below `%%capture`, has its place in the whole.
            place = self.source.rfind(raw_code or transformed_code)
            self._above = 1 + self.source.count("\n", 0, max(place, 0))
            above = [f"%%step {self.step}\n", *self.source.splitlines(keepends=True)][: self._above]
            lines = [*above, *(f"{line}\n" for line in transformed_code.splitlines())]
            linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
        return name

    def ast_parse(self, source: str, filename: str = "<unknown>", symbol: str = "exec") -> ast.AST:
        above = self._above if filename == self.code_name() else 0
        try:
            tree = super().ast_parse(source, filename, symbol)
        except SyntaxError as error:
            move_down(error, above)
            raise
        for node in ast.walk(tree):
            self.bound.update(_bound_by(node))
            self.imported.update(_imported_by(node))
        return ast.increment_lineno(tree, above)

    def format_code_name(self, name: str) -> tuple[str, str] | None:
        """Return how a traceback calls a piece of code: `step train`, or `cell` for a helper of a plain cell."""
        if name == self.code_name():
            return "step", self.step
        other = _STEP_FILE.fullmatch(name)
        if other:
            return "step", other[1]
        expression = _FOREACH_FILE.fullmatch(name)
        if expression:
            return "--foreach", expression[1]
        return ("notebook", "cell") if _KERNEL_FILE.search(name) else None

    _above = 1


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a piece of a cell binds for all to see."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.Global):
        yield from node.names
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def _imported_by(node: ast.AST) -> Iterator[str]:
    """Yield the modules that a piece of a cell imports, and names in them that may be modules too."""
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        yield node.module
        yield from (f"{node.module}.{one.name}" for one in node.names)


_STEP_FILE: Final = re.compile(r"<step (.+)>")
_FOREACH_FILE: Final = re.compile(r"<foreach (.+)>")
_KERNEL_FILE: Final = re.compile(r"[/\\]ipykernel_\d+[/\\]\d+\.py$|<ipython-input-\d+-")


def move_down(error: SyntaxError, lines: int) -> None:
    """Let a syntax error say its line in the cell as written."""
    if error.lineno is not None:
        error.lineno += lines
    if error.end_lineno is not None:
        error.end_lineno += lines


class ZMQInteractiveShell(InteractiveShell):
    """A kernel's shell without a kernel.

    Its name is that of the kernel's: libraries look at it to tell a notebook from a terminal, and what they show in a
    step must be what they show in the kernel.
    """

    display_pub_class = Type(_Publisher)
    displayhook_class = Type(_Hook)
    compiler_class = Type(_Compiler)

    compile: Any
    loop: Any
    source = ""
    failure: Failure | None = None
    _say: Callable[[Json], None] | None = None
    _process = 0

    def say(self, message: Json) -> None:
        """Send one output, after the text that was written before it."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._say is None or os.getpid() != self._process:
            # In a process that the step forked: only what is written to its output is seen.
            shown = message.get("data", {}).get("text/plain")
            if shown is not None:
                print(shown, flush=True)  # noqa: T201
        else:
            self._say(message)

    def enter(self, step: str, source: str, namespace: dict[str, Any], say: Callable[[Json], None]) -> None:
        """Make a namespace the one that code runs in, and `__main__`'s."""
        self.source, self._say, self._process = source, say, os.getpid()
        self.compile.enter(step, source)
        namespace["__name__"] = "__main__"
        namespace["__builtins__"] = builtins
        namespace.setdefault("__doc__", None)
        for name in _OF_THE_SHELL:
            namespace.setdefault(name, [] if name in ("In", "_ih", "_dh") else {} if name in ("Out", "_oh") else "")
        namespace.setdefault("get_ipython", self.get_ipython)
        main = _Main(namespace)
        sys.modules["__main__"] = main  # type: ignore[assignment]
        self.user_module = main
        self.user_ns = namespace
        self.user_ns_hidden.update({name: namespace[name] for name in (*_OF_THE_SHELL, "get_ipython")})

    def move(self) -> None:
        """Be at home in this process, which has been forked from the one that entered the names."""
        self._process = os.getpid()

    def enable_gui(self, gui: str | None = None) -> None:
        """Do nothing: there is no window here, and asking for one must not stop a cell that runs in the kernel."""

    def ask_exit(self) -> None:
        """End the cell as `sys.exit()` does."""
        raise SystemExit

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException | None, stb: list[str]) -> None:
        """Keep the traceback as the cell's failure, and show it."""
        lines, text = [shortened(line) for line in stb], text_of(evalue) if evalue is not None else etype.__name__
        self.failure = Failure(ename=etype.__name__, evalue=text, traceback=tuple(lines))
        self.say({"output_type": "error", "ename": etype.__name__, "evalue": text, "traceback": lines})

    def rehearse(self, *sources: str) -> None:
        """Run cells for nothing, so that what they load need not be loaded again, here or in what is forked."""
        main = sys.modules["__main__"]
        output = sys.stdout
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            sys.stdout = nowhere
            try:
                for source in sources:
                    self.enter("rehearsal", source, {}, _unheard)
                    self.run(source)
                    self.loop.close()
            finally:
                sys.stdout = output
        sys.modules["__main__"] = main
        self.failure = None
        linecache.cache.pop(self.compile.code_name(), None)

    def run(self, source: str) -> BaseException | None:
        """Run a cell; return what it raised, if it did.

        As in a kernel, the cell runs inside an event loop: `await` works, and so does `asyncio.create_task`.
        """
        import asyncio

        transform: Callable[[str], str] = self.transform_cell
        transformed: str | None = source
        problem = None
        try:
            transformed = transform(source)
        except Exception:  # noqa: BLE001  shown by IPython as the cell's error
            problem = sys.exc_info()
            if isinstance(problem[1], SyntaxError):
                move_down(problem[1], 1)
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        result = self.loop.run_until_complete(
            self.run_cell_async(
                source, store_history=False, transformed_cell=transformed, preprocessing_exc_tuple=problem
            )
        )
        self.events.trigger("post_execute")
        self.events.trigger("post_run_cell", result)
        error: BaseException | None = result.error_before_exec or result.error_in_exec
        return error

    def compile_cell(self, source: str) -> list[types.CodeType]:
        """Return the code of a cell, to be run many times: its statements, then what it shows.

        Raises
        ------
        SyntaxError
            With its line in the cell as written.
        """
        transform: Callable[[str], str] = self.transform_cell
        try:
            transformed = transform(source)
        except SyntaxError as error:
            move_down(error, 1)
            raise
        name = self.compile.cache(transformed, 0, raw_code=source)
        change: Callable[[ast.Module], ast.Module] = self.transform_ast
        tree = change(self.compile.ast_parse(transformed, filename=name))
        whole: list[tuple[ast.Module | ast.Interactive, str]] = []
        statements = list(tree.body)
        shown = _shown_of(statements, self.ast_node_interactivity)
        if statements[: len(statements) - shown]:
            whole.append((ast.Module(statements[: len(statements) - shown], []), "exec"))
        whole += [(ast.Interactive([one]), "single") for one in statements[len(statements) - shown :]]
        awaits = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if self.autoawait else 0
        codes: list[types.CodeType] = []
        for part, mode in whole:
            with self.compile.extra_flags(awaits):
                codes.append(self.compile(part, name, mode))
        return codes


def _shown_of(statements: list[ast.stmt], interactivity: str) -> int:
    """Return how many of a cell's last statements show their value; an assignment may get one after it."""
    if not statements or interactivity == "none":
        return 0
    if interactivity == "all":
        return len(statements)
    last = statements[-1]
    if interactivity == "last_expr_or_assign" and isinstance(last, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        target = last.targets[0] if isinstance(last, ast.Assign) and len(last.targets) == 1 else None
        target = last.target if not isinstance(last, ast.Assign) else target
        if isinstance(target, ast.Name):
            statements.append(ast.copy_location(ast.Expr(ast.Name(target.id, ast.Load())), last))
            ast.fix_missing_locations(statements[-1])
            return 1
    return 1 if interactivity == "last" or isinstance(last, ast.Expr) else 0


class _Main:
    """`__main__` with a dictionary that was there before it: functions of the notebook have it as their globals."""

    __spec__ = None

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.__dict__ = namespace


def _unheard(_: Json) -> None:
    """Take what a rehearsal shows."""


def make_shell() -> ZMQInteractiveShell:
    """Return the one shell of this process, and of those that it forks."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryAccessor.enabled = False
    config.InteractiveShell.banner1 = ""
    shell: ZMQInteractiveShell = ZMQInteractiveShell.instance(config=config)
    builtins.input = _no_input
    getpass.getpass = _no_password
    return shell


def _no_input(prompt: object = "", /) -> str:
    raise UsageError(
        f"input({str(prompt)!r}) can't be answered in a step, which runs in a process of its own.",
        "Make the value a parameter of the notebook, or ask for it in a plain cell.",
    )


def _no_password(prompt: object = "Password: ", stream: object = None) -> str:  # noqa: ARG001  as getpass has them
    raise UsageError(
        f"getpass({str(prompt)!r}) can't be answered in a step, which runs in a process of its own.",
        "Take it from `mlbench.secret(NAME)`, which is never stored.",
    )


class _Pipe(io.RawIOBase):
    """A descriptor that is written to at once and whole."""

    def __init__(self, descriptor: int, channel: Channel) -> None:
        super().__init__()
        self.name = {1: "<stdout>", 2: "<stderr>"}.get(descriptor, str(descriptor))
        self._descriptor = descriptor
        self._channel = channel

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        self._channel.about_to_write(self._descriptor)
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            left = left[os.write(self._descriptor, left) :]
        return size


def open_stream(descriptor: int, channel: Channel) -> io.TextIOWrapper:
    """Return a text stream whose every write is in the pipe when it returns, in order with all others."""
    return io.TextIOWrapper(
        _Pipe(descriptor, channel),
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        write_through=True,
    )


def _as_json(data: Mapping[str, Any]) -> Json:
    """Return a display's forms as JSON has them: images in base64, no widgets, which would need a kernel."""
    return {
        kind: base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else _plain(value)
        for kind, value in fitting(data).items()
        if not kind.startswith(_WIDGETS)
    }


def _plain(value: Any) -> Any:
    from mlbench.runs.wire import msgspec

    return msgspec.to_builtins(value, str_keys=True, enc_hook=_described)


def _described(value: Any) -> Any:
    """Return a value that JSON lacks: a NumPy number as a number, the rest as text."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        return item()
    return str(value)
