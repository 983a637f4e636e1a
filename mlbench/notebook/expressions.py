"""Follow a cell's expressions, and what IPython makes of magics and shell lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from itertools import pairwise

from mlbench.notebook import evidence, scopes, syntax
from mlbench.notebook.scopes import FunctionNames
from mlbench.notebook.state import BUILTINS, Names, State, join

__all__ = ["Expressions", "calls"]


class Expressions(Names):
    """Follow expressions in the order in which Python evaluates them."""

    def block(self, body: Iterable[ast.stmt]) -> None:
        """Follow statements one after the other: see `mlbench.notebook.flow`."""
        raise NotImplementedError

    def statement(self, node: ast.stmt) -> None:
        """Follow one statement: see `mlbench.notebook.flow`."""
        raise NotImplementedError

    def children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child)
            elif isinstance(child, ast.stmt):
                self.statement(child)
            else:
                self.children(child)

    def expression(self, node: ast.expr) -> None:
        method = getattr(self, "at_" + type(node).__name__.lower(), None)
        if method is not None:
            method(node)
        else:
            self.children(node)

    def value(self, node: ast.expr) -> None:
        if isinstance(node, ast.Call):
            self.call(node, kept=True)
        else:
            self.expression(node)

    def condition(self, node: ast.expr) -> tuple[State | None, State | None]:
        """Follow a condition; return the states in which it is true and false."""
        if isinstance(node, ast.Constant):
            return (self.state, None) if node.value else (None, self.state)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yes, no = self.condition(node.operand)
            return no, yes
        if isinstance(node, ast.BoolOp):
            is_and = isinstance(node.op, ast.And)
            early: State | None = None
            for value in node.values:
                yes, no = self.condition(value)
                early = join(early, no if is_and else yes)
                self.state = yes if is_and else no
            return (self.state, early) if is_and else (early, self.state)
        self.expression(node)
        return self.state, self.state.copy() if self.state else None

    def lambda_names(self, node: ast.Lambda) -> FunctionNames:
        for default in scopes.defaults(node.args):
            self.expression(default)
        return scopes.function_names(node, self.imports)

    def at_constant(self, _node: ast.Constant) -> None:
        return

    def at_name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.read(node.id)
        elif not any(node.id in names for names in self.hidden):
            self.bind(node.id)

    def at_attribute(self, node: ast.Attribute) -> None:
        if node.attr in ("user_ns", "user_global_ns"):
            self.dynamic = True
        self.expression(node.value)

    def at_subscript(self, node: ast.Subscript) -> None:
        owner, key = node.value, node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(owner, ast.Name) and owner.id in ("Out", "_oh") and isinstance(key, int) and key > 0:
            self.read(f"_{key}")
            return
        if isinstance(key, str) and isinstance(node.ctx, ast.Load) and calls(owner, "globals", "locals", "vars"):
            self.read(key)
            return
        self.expression(owner)
        self.expression(node.slice)

    def at_namedexpr(self, node: ast.NamedExpr) -> None:
        self.value(node.value)
        self.bind(node.target.id)

    def at_binop(self, node: ast.BinOp) -> None:
        for operand in evidence.operands(node):
            self.expression(operand)

    def at_boolop(self, node: ast.BoolOp) -> None:
        yes, no = self.condition(node)
        self.state = join(yes, no)

    def at_compare(self, node: ast.Compare) -> None:
        self.expression(node.left)
        self.expression(node.comparators[0])
        before: State | None = None
        for comparator in node.comparators[1:]:
            before = join(before, self.state.copy() if self.state else None)
            self.expression(comparator)
        self.state = join(self.state, before) if before else self.state

    def at_ifexp(self, node: ast.IfExp) -> None:
        yes, no = self.condition(node.test)
        self.state = yes
        if yes is not None:
            self.expression(node.body)
        after, self.state = self.state, no
        if no is not None:
            self.expression(node.orelse)
        self.state = join(after, self.state)

    def at_lambda(self, node: ast.Lambda) -> None:
        self.use_hidden(self.lambda_names(node))

    def use_hidden(self, function: FunctionNames) -> None:
        """Take in a nested function that sees the variables of comprehensions around it."""
        for name in function.reads:
            if not any(name in names for names in self.hidden):
                self.read_global(name, set())
        for name in function.changes:
            self.changed(name)
        self.seen.note_use(function)

    def at_listcomp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.expression(node.generators[0].iter)
        klass, self.klass = self.klass, None  # the names of a class body are not seen inside
        names: set[str] = set()
        self.hidden.append(names)
        skipped: State | None = None
        aliases = self.aliases.copy()
        for place, generator in enumerate(node.generators):
            self.is_async = self.is_async or bool(generator.is_async)
            if place:
                self.expression(generator.iter)
            skipped = join(skipped, self.state.copy() if self.state else None)
            origins = frozenset(n.id for n in ast.walk(generator.iter) if isinstance(n, ast.Name)) - BUILTINS
            for target in ast.walk(generator.target):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    names.add(target.id)
                    self.aliases[target.id] = origins - {target.id}
            if not isinstance(generator.target, ast.Name):
                self.expression(generator.target)
            for test in generator.ifs:
                yes, no = self.condition(test)
                skipped = join(skipped, no)
                self.state = yes
        for part in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            if self.state is not None:
                self.expression(part)
        self.aliases = aliases
        self.hidden.pop()
        self.klass = klass
        self.state = join(self.state, skipped)

    at_setcomp = at_dictcomp = at_generatorexp = at_listcomp

    def at_await(self, node: ast.Await) -> None:
        self.is_async = True
        self.expression(node.value)

    def at_call(self, node: ast.Call) -> None:
        self.call(node)

    def call(self, node: ast.Call, *, kept: bool = False) -> None:
        self.expression(node.func)
        for argument in node.args:
            self.expression(argument)
        for keyword in node.keywords:
            self.expression(keyword.value)
        self.seen.note_call(node, imports=self.imports, constants=self.constants, changed=self.changed, kept=kept)
        magic = syntax.magic_call(node)
        if magic is not None:
            self.magic(node, *magic)
        elif isinstance(node.func, (ast.Name, ast.Attribute)):
            self._evaluates(node)

    def _evaluates(self, node: ast.Call) -> None:
        """Look into source texts: `eval("a + b")`, `exec("c = 1")`, `frame.query("size > @limit")`."""
        first = node.args[0] if node.args else None
        text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in ("query", "eval") and text is not None:
                for name in re.findall(r"@([A-Za-z_]\w*)", text):
                    self.read(name)
        elif node.func.id in ("eval", "exec"):  # type: ignore[attr-defined]
            if text is None:
                self.dynamic = True
            elif len(node.args) == 1:
                self._source(node, text, lines_above=0, strict=False)
        elif not node.args and node.func.id in ("globals", "locals", "vars", "dir"):  # type: ignore[attr-defined]
            self.dynamic = True

    def magic(self, node: ast.Call, method: str, texts: tuple[str, ...]) -> None:
        """Follow what IPython has made of a magic or a shell line."""
        if method in ("system", "getoutput", "getoutput_lines"):
            self.magics[id(node)] = "!"
            for text in texts:
                self._template(text)
        elif method == "run_line_magic" and texts:
            self.magics[id(node)] = "%" + texts[0]
            self._line_magic(node, texts[0], texts[1] if len(texts) > 1 else "")
        elif method == "run_cell_magic" and len(texts) == 3:
            self.magics[id(node)] = "%%" + texts[0]
            self._cell_magic(node, *texts)

    def _template(self, text: str) -> None:
        for name in syntax.template_names(text):
            self.read(name)

    def _line_magic(self, node: ast.Call, magic: str, line: str) -> None:
        if magic in syntax.PYTHON_MAGICS:
            code, names = syntax.strip_options(magic, line)
            for name in names:
                self.read(name)
            self._source(node, code, lines_above=0, strict=False, keeps=magic != "timeit")
            return
        self._template(line)
        if magic.startswith(("pinfo", "pdef", "pdoc", "psource", "pfile")):
            root = re.match(r"\s*([^\W\d]\w*)", line)
            if root:
                self.read(root[1])
        elif magic == "store" and not line.startswith("-"):
            for name in line.split():
                if name.isidentifier():
                    self.read(name)
        elif magic in ("run", "load", "rerun", "recall", "macro", "store"):
            self.dynamic = True

    def _cell_magic(self, node: ast.Call, magic: str, line: str, body: str) -> None:
        if magic in syntax.PYTHON_MAGICS:
            code, names = syntax.strip_options(magic, line)
            for name in names:
                self.read(name)
            before = self.state.copy() if self.state else None
            if magic == "timeit":
                self._source(node.args[1], code, lines_above=0, strict=False)  # its line sets up
            self._source(node, body, lines_above=1, strict=True)
            if magic == "timeit":
                self.state = before
            if magic == "capture" and code.isidentifier():
                self.bind(code)
            return
        self._template(line)
        words = line.split()
        if magic == "writefile" or magic == "file":
            self.seen.writes_paths.update(w for w in words if not w.startswith("-"))
        for option, value in pairwise(words):
            if option in ("-i", "--input"):
                for name in value.split(","):
                    self.read(name)
            elif option in ("-o", "--output", "--out", "--err", "--proc"):
                for name in value.split(","):
                    if name.isidentifier():
                        self.bind(name)
        if "sql" in magic or magic == "bigquery":
            for name in syntax.template_names(body):
                self.read(name)

    def _source(self, node: ast.AST, text: str, *, lines_above: int, strict: bool, keeps: bool = True) -> None:
        """Follow a text that is run as Python; what it binds is forgotten unless it `keeps` it."""
        tree = self.subtrees.get(id(node))
        if tree is None:
            try:
                tree = syntax.parse(text)
            except SyntaxError as error:
                if not strict:
                    return
                if error.lineno is not None:
                    error.lineno += lines_above
                raise
            self.subtrees[id(node)] = tree
        before = None if keeps or self.state is None else self.state.copy()
        self.block(tree.body)
        if before is not None:
            self.state = before


def calls(node: ast.expr, *names: str) -> bool:
    """Say whether an expression calls one of these functions, without an argument."""
    return isinstance(node, ast.Call) and not node.args and isinstance(node.func, ast.Name) and node.func.id in names
