"""The project's conventions as rules over source text, run by `conventions_test.py`.

A rule takes a `Source` and yields `(line, what is wrong)`. To add one: write it here,
add it to `RULES`, and give it a row of bad source in `conventions_test.py`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator

Violation = tuple[int, str]
FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef

# A file imports only from smaller numbers, or from its own package. The whole numbers
# are the rows of the map in ARCHITECTURE.md; decimals order a row where one file of it
# builds on another.
LAYERS = {
    "__version__": 0,
    "types": 0,
    "command_line": 0,
    "lowering": 1,
    "spherical_codes": 1,
    "centers": 1.1,
    "losses": 1.2,
    "contours": 1,
    "density": 1.1,
    "sample_density": 1.2,
    "data": 1,
    "models": 2,
    "attacks": 2,
    "parallel": 3,
    "metrics": 3,
    "environment": 3,
    "timing": 3,
    "checkpoint_format": 3,
    "checkpoint": 3.1,
    "train": 4,
    "diagnostics": 4,
    "evaluate": 4.1,
    "report": 5,
    "experiments": 6,
    "__init__": 7,
}

# What other libraries call it -> what it is called here.
FORBIDDEN_ARGUMENTS = {
    "x": "images",
    "y": "labels",
    "z": "features",
    "adv_x": "adv_images",
    "x_adv": "adv_images",
    "rng": "key",
    "rngs": "keys",
    "rng_key": "key",
    "prng_key": "key",
    "eps": "epsilon",
    "eps_iter": "step_size",
    "alpha": "step_size",
    "nb_iter": "num_steps",
    "num_iter": "num_steps",
    "n_iter": "num_steps",
    "steps": "num_steps",
    "restarts": "num_restarts",
    "n_restarts": "num_restarts",
    "rand_init": "random_start",
    "clip_min": "bounds",
    "clip_max": "bounds",
    "kappa": "confidence",
    "n_queries": "num_queries",
    "n_classes": "num_classes",
    "nb_classes": "num_classes",
    "lr": "learning_rate",
    "mean_var": "center_norm",
    "mean_logits": "centers",
    "ord": "norm",
}

MAX_FILE_LINES = 300
MAX_BODY_LINES = 40
# The training loop reads best from top to bottom.
LONGER_BODIES = {"mmc_jax/train/loop.py": 100}

# Where the functions are the mathematics.
_NUMERICAL = (
    "attacks",
    "centers",
    "contours",
    "data",
    "density",
    "losses",
    "lowering",
    "sample_density",
)
_FUNCTION_TYPES = ("Callable", "LogitsFn", "Objective", "Attack", "LossFn")
# They return the function that they are given or that was named, and say how.
_NAMED_WITHOUT_MAKE = {
    "canonical_convolutions",
    "load_logits_fn",
    "parallelize",
    "resolve_objective",
    "with_random_targets",
}
# `types.Objective` takes targets by position, and None is untargeted.
_OPTIONAL_BY_POSITION = {("mmc_jax/attacks/objectives.py", "targets")}
_MAY_IMPORT_LINEN = ("mmc_jax/models/", "mmc_jax/train", "mmc_jax/evaluate")

_FORBIDDEN_TEXT = {
    r"#\s*noqa": "suppresses the linter",
    r"#\s*type:\s*ignore": "suppresses the type checker",
    r"\b(TODO|FIXME|XXX)\b": "leaves work undone",
    r"(?<![\w.])/(home|root|work|Users)/\w": "names a path of one machine",
    r"\bPRNGKey\b": "makes a key of the old kind: use jax.random.key",
    r"\bjax\._src\b": "uses a private part of jax",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """One file: its path from the repository's root, its text, and its neighbours."""

    path: str
    text: str
    modules: frozenset[str] = frozenset()
    """The dotted names of every module of the project, to resolve imports by."""
    exported: frozenset[str] = frozenset()
    """The dotted names that the packages' `__init__` files import."""

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """`mmc_jax/attacks/__init__.py` -> `mmc_jax.attacks`."""
        dotted = self.path.removesuffix(".py").replace("/", ".")
        return dotted.removesuffix(".__init__")

    @property
    def unit(self) -> str | None:
        """The row of ARCHITECTURE.md's table that a file of mmc_jax belongs to."""
        parts = self.path.removesuffix(".py").split("/")
        return parts[1] if parts[0] == "mmc_jax" else None

    @functools.cached_property
    def public_functions(self) -> list[tuple[FunctionDef, bool]]:
        """Public functions and methods of public classes; the flag says: a method."""
        found: list[tuple[FunctionDef, bool]] = []
        for node in self.tree.body:
            if isinstance(node, FunctionDef) and _is_public(node.name):
                found.append((node, False))
            if isinstance(node, ast.ClassDef) and _is_public(node.name):
                methods = [item for item in node.body if isinstance(item, FunctionDef)]
                found += [(item, True) for item in methods if _is_public(item.name)]
        return found

    @property
    def exported_functions(self) -> list[FunctionDef]:
        """Those that people import: not what files of one package only share."""
        is_door = self.module.count(".") <= 1 or self.module in self.exported
        return [
            function
            for function, is_method in self.public_functions
            if not is_method
            and (is_door or f"{self.module}.{function.name}" in self.exported)
        ]


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _arguments(function: FunctionDef, is_method: bool) -> list[ast.arg]:
    arguments = function.args
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    first = int(is_method and "staticmethod" not in decorators)
    named = [*arguments.posonlyargs, *arguments.args][first:] + arguments.kwonlyargs
    return named + [arg for arg in (arguments.vararg, arguments.kwarg) if arg]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything that a file imports."""
    is_package = source.path.endswith("__init__.py")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = source.module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def layers_only_go_down(source: Source) -> Iterator[Violation]:
    """Data, then arithmetic, then loops, then shells."""
    if source.unit is not None and source.unit not in LAYERS:
        yield 1, f"{source.unit!r} is in no row of LAYERS"
        return
    for line, name in imports(source):
        top, unit = [*name.split("."), "__init__"][:2]
        if top == "launch":
            yield line, f"imports {name}: nothing imports launch/"
        if top == "mmc_jax" and source.path.startswith("configs/"):
            yield line, f"imports {name}: configs are plain data"
        if top == "configs" and source.unit is not None:
            yield line, f"imports {name}: the library knows no config"
        if top == "mmc_jax" and source.unit not in (None, unit):
            row, imported = LAYERS[source.unit], LAYERS.get(unit)
            if imported is None:
                yield line, f"imports {name}, which is in no row of LAYERS"
            elif imported >= row:
                yield line, f"row {row} imports {name} of row {imported}"


def linen_stays_at_the_edge(source: Source) -> Iterator[Violation]:
    """Only models, and a few lines of train and evaluate, know Flax's modules."""
    if source.unit is None or source.path.startswith(_MAY_IMPORT_LINEN):
        return
    for line, name in imports(source):
        if name.startswith(("flax.linen", "flax.nnx")):
            yield line, f"imports {name}"


def tensorflow_is_optional(source: Source) -> Iterator[Violation]:
    """TensorFlow is imported where a data set is prepared, when it is prepared."""
    if source.unit is None:
        return
    at_top = {node.lineno for node in source.tree.body}
    for line, name in imports(source):
        if name.split(".")[0] == "tensorflow":
            if line in at_top or source.unit != "data":
                yield line, "imports tensorflow outside a function of mmc_jax/data"


def one_place_knows_of_devices(source: Source) -> Iterator[Violation]:
    """`jax.pmap` is called in `parallel.py` and nowhere else."""
    if source.unit in (None, "parallel"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "jax.pmap":
            yield node.lineno, "jax.pmap belongs in parallel.py"


def arguments_have_our_names(source: Source) -> Iterator[Violation]:
    """One concept, one name."""
    for function, is_method in source.public_functions:
        for argument in _arguments(function, is_method):
            if ours := FORBIDDEN_ARGUMENTS.get(argument.arg):
                message = f"{function.name}({argument.arg}): here it is {ours}"
                yield argument.lineno, message


def keys_come_before_images(source: Source) -> Iterator[Violation]:
    """A numerical function takes its key first, then the arrays."""
    if source.unit not in _NUMERICAL:
        return
    for function in source.exported_functions:
        names = [argument.arg for argument in _arguments(function, False)]
        drawn = [name for name in ("key", "keys") if name in names]
        if drawn and "images" in names[: names.index(drawn[0])]:
            yield function.lineno, f"{function.name}: images come before {drawn[0]}"


def options_are_keyword_only(source: Source) -> Iterator[Violation]:
    """Everything with a default stands behind the `*`."""
    if source.unit is None:
        return
    for function, is_method in source.public_functions:
        arguments = function.args
        optional = arguments.args[len(arguments.args) - len(arguments.defaults) :]
        for argument in optional:
            allowed = (source.path, argument.arg) in _OPTIONAL_BY_POSITION
            if not is_method and not allowed:
                message = f"{function.name}({argument.arg}=...) is not keyword-only"
                yield argument.lineno, message


def makers_say_so(source: Source) -> Iterator[Violation]:
    """A function that returns a function starts with `make_`."""
    if source.unit is None:
        return
    for function, is_method in source.public_functions:
        returned = ast.unparse(function.returns) if function.returns else ""
        kind = re.split(r"\W", returned.replace("types.", "").strip("'\""))[0]
        if kind in _FUNCTION_TYPES and not is_method:
            named = function.name.startswith("make_")
            if not named and function.name not in _NAMED_WITHOUT_MAKE:
                message = f"{function.name} returns a function: name it make_..."
                yield function.lineno, message


def everything_public_is_documented(source: Source) -> Iterator[Violation]:
    """A docstring; of what people import, with Args, Returns and Raises."""
    if not ast.get_docstring(source.tree):
        yield 1, "the module has no docstring"
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef) and _is_public(node.name):
            if not ast.get_docstring(node):
                yield node.lineno, f"class {node.name} has no docstring"
    for function, _ in source.public_functions:
        text = ast.get_docstring(function)
        if not text:
            yield function.lineno, f"{function.name} has no docstring"
        elif source.unit is not None and function in source.exported_functions:
            for section in _missing_sections(function, text):
                yield function.lineno, f"{function.name}'s docstring has no {section}"


def _missing_sections(function: FunctionDef, docstring: str) -> Iterator[str]:
    returned = ast.unparse(function.returns) if function.returns else "None"
    if _arguments(function, is_method=False) and "Args:" not in docstring:
        yield "Args:"
    if returned not in ("None", "NoReturn", "Never"):
        if not re.search(r"\b(Returns|Yields):", docstring):
            yield "Returns:"
    if "Raises:" not in docstring and any(map(_is_value_error, _own_nodes(function))):
        yield "Raises:"


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a function without the functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FunctionDef | ast.Lambda):
            yield child
            yield from _own_nodes(child)


def _is_value_error(node: ast.AST) -> bool:
    if not isinstance(node, ast.Raise) or node.exc is None:
        return False
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return ast.unparse(raised) == "ValueError"


def everything_public_is_typed(source: Source) -> Iterator[Violation]:
    """Every argument and every result of a public function has its type."""
    for function, is_method in source.public_functions:
        for argument in _arguments(function, is_method):
            if argument.annotation is None:
                yield argument.lineno, f"{function.name}({argument.arg}) has no type"
        if function.returns is None:
            yield function.lineno, f"{function.name} has no return type"


def files_and_functions_are_short(source: Source) -> Iterator[Violation]:
    """A file and a function that fit in the head."""
    num_lines = len(source.text.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield 1, f"{num_lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, FunctionDef):
            limit = LONGER_BODIES.get(source.path, MAX_BODY_LINES)
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if length > limit:
                message = f"the body of {node.name} has {length} lines, at most {limit}"
                yield node.lineno, message


def nothing_is_evaluated_or_hidden(source: Source) -> Iterator[Violation]:
    """No suppressions, unfinished work, machines' paths, old keys or private parts."""
    for line, text in enumerate(source.text.splitlines(), start=1):
        for pattern, reason in _FORBIDDEN_TEXT.items():
            if match := re.search(pattern, text):
                yield line, f"{match[0]!r} {reason}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
            yield node.lineno, f"calls {ast.unparse(node.func)}"


def attacks_never_train(source: Source) -> Iterator[Violation]:
    """An attack sees a model in inference mode, or examples depend on each other."""
    if source.unit != "attacks":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.keyword) and ast.unparse(node) == "train=True":
            yield node.value.lineno, "train=True in an attack"


Rule = Callable[[Source], Iterator[Violation]]

RULES: tuple[Rule, ...] = (
    layers_only_go_down,
    linen_stays_at_the_edge,
    tensorflow_is_optional,
    one_place_knows_of_devices,
    arguments_have_our_names,
    keys_come_before_images,
    options_are_keyword_only,
    makers_say_so,
    everything_public_is_documented,
    everything_public_is_typed,
    files_and_functions_are_short,
    nothing_is_evaluated_or_hidden,
    attacks_never_train,
)


def cycles(sources: list[Source]) -> list[str]:
    """Return every pair of modules of one package that import each other.

    Args:
        sources: the files of mmc_jax.

    Returns:
        "a <-> b" for modules that reach each other through imports, sorted.
    """
    reached: dict[str, set[str]] = {
        source.module: {_resolve(name, source) for _, name in imports(source)}
        for source in sources
    }
    for middle, start in itertools.product(reached, reached):
        if middle in reached[start]:
            reached[start] |= reached[middle]
    pairs = itertools.combinations(sorted(reached), 2)
    return [
        f"{one} <-> {other}"
        for one, other in pairs
        if other in reached[one] and one in reached[other]
    ]


def _resolve(name: str, source: Source) -> str:
    """The module that an imported name lives in: itself, or what it is part of."""
    return name if name in source.modules else name.rpartition(".")[0]
