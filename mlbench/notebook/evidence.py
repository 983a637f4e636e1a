"""What the form of a call or an assignment gives away: changes in place, files written, generators drawn from.

Each rule here is a guess from the syntax, made so that the usual libraries are read rightly. Nothing depends on a guess
being complete: what it misses is found when the step has run (by fingerprints, audit hook and generator states).
"""

# ruff: noqa: SIM905 - lists of words read better as words
from __future__ import annotations

import ast
import fnmatch
import posixpath
import re
from collections.abc import Iterator, Mapping

__all__ = [
    "assigned_roots",
    "call_changes",
    "call_draws",
    "call_seeds",
    "call_writes",
    "dotted",
    "path_text",
    "paths_meet",
    "resolve_text",
    "root_name",
]

_CHANGERS = frozenset(
    """append extend insert remove pop clear sort reverse update setdefault popitem add discard intersection_update
    difference_update symmetric_difference_update appendleft extendleft popleft rotate subtract fit partial_fit
    fit_transform fit_predict fit_resample load_state_dict step backward zero_grad train eval put fill itemset setflags
    resize write writelines writerow writerows seek truncate __setitem__ __delitem__ __setattr__ set_params compile
    build load_weights set_weights shuffle seed send put_nowait add_node add_edge add_nodes_from add_edges_from
    register_buffer""".split()
)
# These return nothing where they change their object; where their value is kept, they are pandas' pure namesakes.
_RETURN_NOTHING = frozenset(
    """append extend insert remove clear sort reverse update add discard subtract put fill resize truncate eval train
    shuffle compile""".split()
)
# By convention these are modules, also where another cell imports them: settings of theirs are surroundings.
_MODULES = frozenset(
    "np numpy pd pandas plt sns mpl matplotlib torch tf os sys random math warnings logging mlbench".split()
)
_ARGUMENT_CHANGERS = {
    "random.shuffle": 0,
    "heapq.heappush": 0,
    "heapq.heappop": 0,
    "heapq.heapify": 0,
    "heapq.heapreplace": 0,
    "heapq.heappushpop": 0,
    "bisect.insort": 0,
    "bisect.insort_left": 0,
    "bisect.insort_right": 0,
    "np.random.shuffle": 0,
    "np.put": 0,
    "np.place": 0,
    "np.putmask": 0,
    "np.copyto": 0,
    "np.fill_diagonal": 0,
    "np.put_along_axis": 0,
    "operator.setitem": 0,
    "operator.delitem": 0,
    "setattr": 0,
    "delattr": 0,
    "next": 0,
}

_SEEDS = frozenset(
    """random.seed random.setstate np.random.seed np.random.set_state torch.manual_seed torch.random.manual_seed
    torch.cuda.manual_seed torch.cuda.manual_seed_all torch.set_rng_state tf.random.set_seed tf.set_random_seed
    tensorflow.random.set_seed keras.utils.set_random_seed tf.keras.utils.set_random_seed pl.seed_everything
    L.seed_everything transformers.set_seed pyro.set_rng_seed""".split()
)
_SEED_NAMES = frozenset({"seed_everything", "set_seed", "set_random_seed", "manual_seed"})
_NO_DRAW = {
    "random": frozenset({"seed", "setstate", "getstate", "Random", "SystemRandom"}),
    "numpy": frozenset(
        """seed set_state get_state default_rng Generator RandomState SeedSequence PCG64 PCG64DXSM MT19937 Philox SFC64
        BitGenerator""".split()
    ),
}
_TORCH_DRAWS = re.compile(
    r"torch\.(rand\w*|normal|bernoulli|multinomial|poisson|nn\.init\.\w+|nn\.(?!functional)[A-Z]\w*)"
)
_DRAWERS = frozenset({"sample", "train_test_split", "shuffle", "resample"})

_WRITERS = re.compile(r"(?:to|save|dump|write)_?[a-z0-9]*(?:_[a-z0-9]+)*|im_?(?:save|write)|urlretrieve|ExcelWriter")
_NOT_WRITERS = frozenset(
    """to write writelines writerow writerows writestr dumps to_dict to_numpy to_list tolist to_datetime to_numeric
    to_timedelta to_period to_timestamp to_frame to_series to_categorical to_device to_dense to_sparse to_flat_index
    to_pandas to_arrow to_records to_xarray to_julian_date to_pydatetime to_pytimedelta to_offset to_tensor to_coo
    to_csr to_bytes to_thread total tokenize token top topk""".split()
)
_PATH_KEYWORDS = frozenset(
    """path path_or_buf path_or_buffer fname filename file filepath file_path fp f excel_writer where dst buf out_file
    output output_path save_path save_directory""".split()
)
_COPIERS = frozenset(
    """shutil.copy shutil.copy2 shutil.copyfile shutil.copytree shutil.move os.rename os.replace os.link
    os.symlink""".split()
)
_MODE = re.compile(r"[rwaxbtU+]{1,4}")
_PATH_MAKERS = frozenset({"Path", "PurePath", "PosixPath", "pathlib.Path", "pathlib.PurePath", "os.path.join", "join"})
_LONGEST_PATH = 1024
_MOST_PARTS = 12


def root_name(node: ast.expr) -> str | None:
    """Return the name that a chain of attributes, items and calls of these hangs on.

    Examples
    --------
    >>> root_name(ast.parse("frame.loc[0].values", mode="eval").body)
    'frame'
    """
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def dotted(node: ast.expr) -> str | None:
    """Return a dotted name as text, `numpy` as `np`.

    Examples
    --------
    >>> dotted(ast.parse("numpy.random.seed", mode="eval").body)
    'np.random.seed'
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    parts.append("np" if node.id == "numpy" else node.id)
    return ".".join(reversed(parts))


def assigned_roots(target: ast.expr) -> Iterator[str]:
    """Yield the names whose values are changed by assigning to (or deleting) a target.

    Examples
    --------
    >>> list(assigned_roots(ast.parse("(a, b.c, *d['e']) = 1").body[0].targets[0]))
    ['b', 'd']
    """
    if isinstance(target, (ast.Tuple, ast.List)):
        for element in target.elts:
            yield from assigned_roots(element)
    elif isinstance(target, ast.Starred):
        yield from assigned_roots(target.value)
    elif isinstance(target, (ast.Attribute, ast.Subscript)):
        name = root_name(target)
        if name is not None and name not in _MODULES:
            yield name


def call_changes(call: ast.Call, *, kept: bool = False) -> Iterator[str]:
    """Yield the names that a call changes in place; `kept` says that its value is assigned.

    Examples
    --------
    >>> list(call_changes(ast.parse("np.add(a, b, out=c)", mode="eval").body))
    ['c']
    """
    function = call.func
    if isinstance(function, ast.Attribute):
        method = function.attr
        owner = root_name(function.value)
        if owner is not None and owner not in _MODULES:
            trailing = method.endswith("_") and not method.startswith("_") and not method.endswith("__")
            changes = trailing or (method in _CHANGERS and not (kept and method in _RETURN_NOTHING))
            if method in ("eval", "train") and call.args and not _is_constant(call.args[0], bool):
                changes = False  # frame.eval("a + b") is another thing than model.eval()
            if changes or any(k.arg == "inplace" and _is_constant(k.value, bool, value=True) for k in call.keywords):
                yield owner
    name = dotted(function)
    place = _ARGUMENT_CHANGERS.get(name) if name is not None else None
    if place is not None and len(call.args) > place:
        changed = root_name(call.args[place])
        if changed is not None:
            yield changed
    for keyword in call.keywords:
        if keyword.arg == "out":
            outs = keyword.value.elts if isinstance(keyword.value, ast.Tuple) else [keyword.value]
            for out in outs:
                changed = root_name(out)
                if changed is not None:
                    yield changed


def _is_constant(node: ast.expr, kind: type, *, value: object = None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, kind) and value in (None, node.value)


def call_seeds(call: ast.Call, imports: Mapping[str, str]) -> bool:
    """Say whether a call seeds a global generator; `imports` tells what a bare name was imported from.

    Examples
    --------
    >>> call_seeds(ast.parse("np.random.seed(1)", mode="eval").body, {})
    True
    >>> call_seeds(ast.parse("seed(1)", mode="eval").body, {"seed": "random:seed"})
    True
    """
    name = _imported(dotted(call.func), imports)
    return name is not None and (name in _SEEDS or name in _SEED_NAMES or name.rpartition(".")[2] in _SEED_NAMES)


def call_draws(call: ast.Call, imports: Mapping[str, str]) -> str | None:
    """Return the library from whose global generator a call seems to draw.

    Examples
    --------
    >>> call_draws(ast.parse("np.random.normal(size=3)", mode="eval").body, {})
    'numpy'
    """
    name = _imported(dotted(call.func), imports)
    if name is None:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "sample":
            return None if _has_state(call) else "numpy"
        return None
    root, _, rest = name.partition(".")
    if root == "random" and rest and "." not in rest and rest not in _NO_DRAW["random"]:
        return "random"
    if name.startswith("np.random."):
        drawn = name.removeprefix("np.random.")
        return "numpy" if drawn.partition(".")[0] not in _NO_DRAW["numpy"] else None
    if root == "torch":
        return "torch" if _TORCH_DRAWS.fullmatch(name) else None
    if name.rpartition(".")[2] in _DRAWERS and root != "random" and not _has_state(call):
        return "numpy"
    return None


def _has_state(call: ast.Call) -> bool:
    return any(
        k.arg in ("random_state", "rng", "seed") and not _is_constant(k.value, type(None)) for k in call.keywords
    )


def _imported(name: str | None, imports: Mapping[str, str]) -> str | None:
    """Spell a dotted name by where its first part was imported from."""
    if name is None:
        return None
    first, dot, rest = name.partition(".")
    origin = imports.get(first)
    if origin is None:
        return name
    full = origin.replace(":", ".") + dot + rest
    return re.sub(r"^numpy\b", "np", full)


def path_text(node: ast.expr, constants: Mapping[str, str] = {}) -> str | None:
    """Return the path (or any text) that an expression gives, with `{name}` for what only the kernel knows.

    Examples
    --------
    >>> path_text(ast.parse("Path('data') / 'clean.parquet'", mode="eval").body)
    'data/clean.parquet'
    >>> path_text(ast.parse("f'{folder}/clean.parquet'", mode="eval").body)
    '{folder}/clean.parquet'
    """
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = dotted(node)
        return None if name is None else constants.get(name, f"{{{name}}}")
    if isinstance(node, ast.JoinedStr):
        texts = [path_text(v.value if isinstance(v, ast.FormattedValue) else v, constants) for v in node.values]
        return "".join("{}" if t is None else t for t in texts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.Add)) and len(operands(node)) <= _MOST_PARTS:
        left = path_text(node.left, constants)
        right = path_text(node.right, constants)
        if left is None or right is None:
            return None
        return posixpath.join(left, right) if isinstance(node.op, ast.Div) else left + right
    if isinstance(node, ast.Call) and not node.keywords and node.args and dotted(node.func) in _PATH_MAKERS | {"str"}:
        texts = [path_text(a, constants) for a in node.args]
        return posixpath.join(*(t for t in texts if t is not None)) if None not in texts else None
    return None


def operands(node: ast.expr) -> list[ast.expr]:
    """Return the operands of a chain of binary operators, first to last: a sum of a thousand is a thousand deep.

    Examples
    --------
    >>> [ast.unparse(operand) for operand in operands(ast.parse("a + b * c + d", mode="eval").body)]
    ['a', 'b * c', 'd']
    """
    rights: list[ast.expr] = []
    while isinstance(node, ast.BinOp):
        rights.append(node.right)
        node = node.left
    return [node, *reversed(rights)]


def call_writes(call: ast.Call, constants: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths that a call seems to write (see `path_text`).

    Examples
    --------
    >>> list(call_writes(ast.parse("joblib.dump(model, 'model.joblib')", mode="eval").body, {}))
    ['{model}', 'model.joblib']
    """
    function = call.func
    name = str(getattr(function, "attr", None) or getattr(function, "id", ""))
    candidates: list[ast.expr] = []
    if name in ("open", "File"):
        candidates.extend(_opened(call, function))
    elif name in ("write_text", "write_bytes") and isinstance(function, ast.Attribute):
        candidates.append(function.value)
    elif name not in _NOT_WRITERS and _WRITERS.fullmatch(name):
        candidates.extend(a for a in call.args[:3] if not isinstance(a, ast.Starred))
        candidates.extend(k.value for k in call.keywords if k.arg in _PATH_KEYWORDS)
    elif dotted(function) in _COPIERS and len(call.args) > 1:
        candidates.append(call.args[1])
    elif name == "rename" and isinstance(function, ast.Attribute) and len(call.args) == 1:
        candidates.append(call.args[0])
    for candidate in candidates:
        text = path_text(candidate, constants)
        if text and could_be_path(text):
            yield text


def _opened(call: ast.Call, function: ast.expr) -> Iterator[ast.expr]:
    modes: list[ast.expr] = [k.value for k in call.keywords if k.arg == "mode"]
    first = call.args[0] if call.args else None
    mode: ast.expr | None
    if isinstance(function, ast.Attribute) and (
        first is None or (isinstance(first, ast.Constant) and _MODE.fullmatch(str(first.value)))
    ):
        path, mode = function.value, modes[0] if modes else first  # Path("x").open("w")
    elif first is not None:
        path, mode = first, modes[0] if modes else call.args[1] if len(call.args) > 1 else None
    else:
        return
    if isinstance(mode, ast.Constant) and isinstance(mode.value, str) and set(mode.value) & set("wax+"):
        yield path


def could_be_path(text: str) -> bool:
    r"""Say whether a text might name a file: one line, not too long, not blank.

    Examples
    --------
    >>> could_be_path("out/clean.parquet"), could_be_path("two\nlines")
    (True, False)
    """
    return 0 < len(text) <= _LONGEST_PATH and text.isprintable() and not text.isspace()


def resolve_text(text: str, constants: Mapping[str, str]) -> str | None:
    """Fill in the names that hold constants; None if nothing constant is left in the text.

    Examples
    --------
    >>> resolve_text("{folder}/clean.parquet", {"folder": "out"})
    'out/clean.parquet'
    >>> resolve_text("{model}", {}) is None
    True
    """
    filled = re.sub(r"\{([\w.]*)\}", lambda m: constants.get(m[1], m[0]), text)
    bare = re.sub(r"\{[\w.]*\}", "", filled)
    return filled if re.search(r"\w", bare) else None


def paths_meet(written: str, named: str) -> bool:
    """Say whether a path that is written may be what another cell names: itself, its folder or a pattern it fits.

    Examples
    --------
    >>> paths_meet("./out/a.csv", "out/a.csv"), paths_meet("out/a.csv", "out/*.csv"), paths_meet("out/a.csv", "out")
    (True, True, True)
    >>> paths_meet("out/a.csv", "{folder}/a.csv"), paths_meet("out/a.csv", "out/b.csv")
    (True, False)
    """
    one, two = _normal(written), _normal(named)
    if one == two or posixpath.dirname(one) == two:
        return True
    if any(c in two for c in "*?[") and fnmatch.fnmatchcase(one, two):
        return True
    if "{" in one or "{" in two:
        last_one, last_two = posixpath.basename(one), posixpath.basename(two)
        return last_one == last_two and "." in last_one and "{" not in last_one
    return False


def _normal(path: str) -> str:
    return posixpath.normpath(path.removeprefix("file://").replace("\\", "/"))
