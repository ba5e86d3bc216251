"""The conventions hold in every file, and each rule catches what it forbids."""

from __future__ import annotations

import importlib
import inspect
import json
import pathlib
import re
import shutil
import textwrap
import warnings

import jax
import jax.numpy as jnp
import pytest

from tests import convention_rules as rules
from tests.convention_rules import Source

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDERS = ("mmc_jax", "configs", "launch", "benchmarks")
_PATHS = sorted(
    path.relative_to(_ROOT).as_posix()
    for folder in _FOLDERS
    for path in (_ROOT / folder).rglob("*.py")
)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


_MODULES = frozenset(map(_module, _PATHS))


def _read(path: str, exported: frozenset[str] = frozenset()) -> Source:
    text = (_ROOT / path).read_text(encoding="utf-8")
    return Source(path, text, _MODULES, exported)


_EXPORTED = frozenset(
    name
    for path in _PATHS
    if path.endswith("__init__.py")
    for _, name in rules.imports(_read(path))
)


def _violations(source: Source, rule: rules.Rule) -> list[str]:
    return [f"{source.path}:{line} {message}" for line, message in rule(source)]


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule):
    found = [
        text for path in _PATHS for text in _violations(_read(path, _EXPORTED), rule)
    ]
    assert not found, "\n" + "\n".join(found)


# A path after a blank, a quote or an equals sign: base64 has slashes, too.
_LOCAL_PATH = re.compile(r"""[\s"'=(]/(?:home|mnt|opt|private|root|tmp|Users|work)/""")


@pytest.mark.parametrize("suffix", ["html", "json", "md"])
def test_no_result_names_a_local_path(suffix):
    paths = sorted((_ROOT / "results").rglob(f"*.{suffix}"))
    assert paths
    found = {
        path.relative_to(_ROOT): _LOCAL_PATH.search(path.read_text()) for path in paths
    }
    assert not [f"{path}: {match}" for path, match in found.items() if match]


def test_a_local_path_is_seen():
    assert _LOCAL_PATH.search('"command": "python x.py --out=/home/me/results"')
    assert not _LOCAL_PATH.search("base64,AAAA/tmp/BBBB runs/work/x")


def test_the_page_of_benchmarks_is_of_the_records_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    page = importlib.import_module("_benchmarks_page")
    committed = _ROOT / "results" / "benchmarks"
    shutil.copytree(committed, tmp_path, dirs_exist_ok=True)
    page.write_page(tmp_path)
    written = (tmp_path / "README.md").read_text()
    assert written == (committed / "README.md").read_text()
    record = json.loads((tmp_path / "memory.json").read_text())
    record["rows"][0]["met"] = False
    (tmp_path / "memory.json").write_text(json.dumps(record))
    page.write_page(tmp_path)
    assert "- memory: spsa by" in (tmp_path / "README.md").read_text()


def test_no_module_imports_itself_by_a_detour():
    assert not rules.cycles([_read(path) for path in _PATHS])


def test_the_rules_see_the_library():
    assert "mmc_jax/types.py" in _PATHS
    assert _read("mmc_jax/types.py").public_functions


def test_sections_are_asked_of_what_a_package_exports():
    path, text = "mmc_jax/attacks/door.py", _function("f() -> int")
    rule = rules.everything_public_is_documented
    for exported in ("mmc_jax.attacks.door.f", "mmc_jax.attacks.door"):
        source = Source(path, text, _MODULES, frozenset({exported}))
        assert _violations(source, rule)
    assert not _violations(Source(path, text, _MODULES), rule)


def _function(signature: str, body: str = "...", docstring: str = "Do.") -> str:
    return f'"""M."""\ndef {signature}:\n    """{docstring}"""\n    {body}\n'


_LONG_BODY = "\n    ".join(["count = 0"] * (rules.MAX_BODY_LINES + 1))

# (rule, path, bad source, what the message must say)
_BAD = [
    (
        rules.layers_only_go_down,
        "mmc_jax/losses.py",
        "from mmc_jax import models",
        "row 1.2 imports mmc_jax.models of row 2",
    ),
    (
        rules.layers_only_go_down,
        "mmc_jax/centers.py",
        "from .losses import mmc_loss",
        "row 1.1 imports mmc_jax.losses.mmc_loss of row 1.2",
    ),
    (
        rules.layers_only_go_down,
        "mmc_jax/attacks/pgd.py",
        "def f():\n    import mmc_jax.train.step",
        "row 2 imports mmc_jax.train.step of row 4",
    ),
    (
        rules.layers_only_go_down,
        "mmc_jax/attacks/pgd.py",
        "from ..report import tables",
        "row 2 imports mmc_jax.report.tables of row 5",
    ),
    (rules.layers_only_go_down, "mmc_jax/train/loop.py", "import mmc_jax", "of row 7"),
    (rules.layers_only_go_down, "mmc_jax/utils.py", "", "'utils' is in no row"),
    (
        rules.layers_only_go_down,
        "configs/mnist.py",
        "from mmc_jax import types",
        "configs are plain data",
    ),
    (
        rules.layers_only_go_down,
        "mmc_jax/train/loop.py",
        "from configs import digits",
        "the library knows no config",
    ),
    (
        rules.layers_only_go_down,
        "benchmarks/speed.py",
        "from launch import train",
        "nothing imports launch/",
    ),
    (
        rules.linen_stays_at_the_edge,
        "mmc_jax/attacks/pgd.py",
        "from flax import linen as nn",
        "imports flax.linen",
    ),
    (
        rules.tensorflow_is_optional,
        "mmc_jax/data/tfds_source.py",
        "import tensorflow as tf",
        "imports tensorflow",
    ),
    (
        rules.tensorflow_is_optional,
        "mmc_jax/train/loop.py",
        "def f():\n    import tensorflow as tf",
        "imports tensorflow",
    ),
    (
        rules.one_place_knows_of_devices,
        "mmc_jax/train/step.py",
        "step = jax.pmap(f)",
        "jax.pmap belongs in parallel.py",
    ),
    (
        rules.arguments_have_our_names,
        "mmc_jax/attacks/pgd.py",
        _function("f(images, *, eps)"),
        "f(eps): here it is epsilon",
    ),
    (
        rules.arguments_have_our_names,
        "mmc_jax/models/cnn.py",
        "class Model:\n    def encode(self, x): ...",
        "encode(x): here it is images",
    ),
    (
        rules.keys_come_before_images,
        "mmc_jax/centers.py",
        _function("f(logits_fn, images, key)"),
        "images come before key",
    ),
    (
        rules.options_are_keyword_only,
        "mmc_jax/centers.py",
        _function("f(key, center_norm=10.0)"),
        "f(center_norm=...) is not keyword-only",
    ),
    (
        rules.makers_say_so,
        "mmc_jax/losses.py",
        _function("loss(scale) -> types.LossFn"),
        "loss returns a function",
    ),
    (
        rules.makers_say_so,
        "mmc_jax/losses.py",
        _function("loss(scale) -> Callable[[Array], Array]"),
        "loss returns a function",
    ),
    (
        rules.everything_public_is_documented,
        "configs/mnist.py",
        "pass",
        "the module has no docstring",
    ),
    (
        rules.everything_public_is_documented,
        "configs/mnist.py",
        '"""M."""\ndef f(): ...',
        "f has no docstring",
    ),
    (
        rules.everything_public_is_documented,
        "configs/mnist.py",
        '"""M."""\nclass C: ...',
        "class C has no docstring",
    ),
    (
        rules.everything_public_is_documented,
        "mmc_jax/losses.py",
        _function("f(labels)"),
        "f's docstring has no Args:",
    ),
    (
        rules.everything_public_is_documented,
        "mmc_jax/losses.py",
        _function("f() -> int"),
        "f's docstring has no Returns:",
    ),
    (
        rules.everything_public_is_documented,
        "mmc_jax/losses.py",
        _function("f() -> None", body="raise ValueError('no')"),
        "f's docstring has no Raises:",
    ),
    (
        rules.everything_public_is_typed,
        "mmc_jax/losses.py",
        _function("f(labels) -> int"),
        "f(labels) has no type",
    ),
    (
        rules.everything_public_is_typed,
        "launch/train.py",
        _function("f(labels: int)"),
        "f has no return type",
    ),
    (
        rules.files_and_functions_are_short,
        "mmc_jax/losses.py",
        "\n" * (rules.MAX_FILE_LINES + 1),
        "301 lines, at most 300",
    ),
    (
        rules.files_and_functions_are_short,
        "mmc_jax/losses.py",
        _function("_f()", body=_LONG_BODY),
        "the body of _f has 41 lines, at most 40",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "mmc_jax/losses.py",
        "import numpy  # noqa: F401",
        "suppresses the linter",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "mmc_jax/losses.py",
        "f(1)  # type: ignore[arg-type]",
        "suppresses the type checker",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "mmc_jax/losses.py",
        "# TODO: later",
        "leaves work undone",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "configs/mnist.py",
        "path = '/home/someone/data'",
        "names a path of one machine",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "mmc_jax/losses.py",
        "key = jax.random.PRNGKey(0)",
        "use jax.random.key",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "mmc_jax/lowering.py",
        "from jax._src import core",
        "private part of jax",
    ),
    (
        rules.nothing_is_evaluated_or_hidden,
        "configs/mnist.py",
        "epsilon = eval('8/255')",
        "calls eval",
    ),
    (
        rules.attacks_never_train,
        "mmc_jax/attacks/pgd.py",
        "logits = model(images, train=True)",
        "train=True",
    ),
]


@pytest.mark.parametrize(
    ("rule", "path", "text", "message"),
    _BAD,
    ids=[f"{rule.__name__}-{message}" for rule, _, _, message in _BAD],
)
def test_rule_catches(rule, path, text, message):
    found = _violations(Source(path, text, _MODULES), rule)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")
    assert message in found[0]


def test_every_rule_is_shown_to_catch_something():
    assert {rule for rule, _, _, _ in _BAD} == set(rules.RULES)


def test_good_source_passes_every_rule():
    text = textwrap.dedent('''
        """Attacks. See ../README.md, https://example.org/home/page and runs/work/x."""
        from mmc_jax import types
        from mmc_jax.attacks import objectives
        from mmc_jax.centers import random_centers

        def pgd(
            logits_fn: types.LogitsFn,
            key: types.Array,
            images: types.Array,
            *,
            epsilon: float = 0.3,
        ) -> types.Array:
            """Return images.

            Args:
                images: images.

            Returns:
                images.

            Raises:
                ValueError: epsilon is negative.
            """
            if epsilon < 0:
                raise ValueError(f"epsilon={epsilon}")
            return images

        def _helper(x, lr=0.1):
            return x
    ''').lstrip()
    source = Source("mmc_jax/attacks/pgd.py", text, _MODULES)
    assert [found for rule in rules.RULES for found in _violations(source, rule)] == []


def test_cycles_are_found_through_a_detour():
    modules = frozenset({"mmc_jax.a.one", "mmc_jax.a.two", "mmc_jax.a.three"})
    texts = {
        "one": "from mmc_jax.a import two",
        "two": "from .three import name",
        "three": "def f():\n    from mmc_jax.a.one import name",
    }
    sources = [Source(f"mmc_jax/a/{name}.py", texts[name], modules) for name in texts]
    assert "mmc_jax.a.one <-> mmc_jax.a.three" in rules.cycles(sources)
    assert rules.cycles(sources[:2]) == []


# Positional arguments in this order, and options that must exist.
_ATTACK = ("logits_fn", "key", "images", "labels")
_LOSS = ("features", "labels", "centers")
_SURFACE = {
    "centers.max_mahalanobis_centers": (
        ("num_classes", "feature_dim"),
        ("center_norm", "seed"),
    ),
    "centers.random_centers": (("key", "num_classes", "feature_dim"), ("center_norm",)),
    "centers.mahalanobis_logits": (("features", "centers"), ()),
    "losses.mmc_loss": (_LOSS, ()),
    "losses.mmlda_loss": (_LOSS, ()),
    "losses.elastic_mmc_loss": ((*_LOSS, "preset_centers"), ("elasticity",)),
    "losses.center_loss": (_LOSS, ()),
    "losses.large_margin_gaussian_mixture_loss": (
        _LOSS,
        ("log_variances", "margin", "likelihood_weight"),
    ),
    "losses.generalized_softmax_cross_entropy": (
        ("features", "labels", "means", "scales", "biases"),
        (),
    ),
    "centers.hierarchical_centers": (("parents", "feature_dim"), ("center_norms",)),
    "models.create": (("name",), ("num_classes", "head", "feature_dim")),
    "models.make_logits_fn": (("model", "variables"), ()),
    "train.train_step": (("state", "batch", "key"), ("loss_fn", "attack", "axis_name")),
    "evaluate.robust_accuracy": (
        ("logits_fn", "images", "labels", "attacks", "key"),
        ("norm", "epsilon", "example_ids", "mode"),
    ),
    **{
        f"attacks.{name}": (_ATTACK, ("targets", "bounds", "epsilon"))
        for name in ("fgsm", "bim", "pgd", "mim", "fab", "fab_targeted")
    },
    "attacks.deep_fool": (_ATTACK, ("targets", "bounds", "num_steps", "norm")),
    **{
        f"attacks.{name}": (_ATTACK, ("targets", "bounds"))
        for name in ("gaussian_noise", "rotation")
    },
}


@pytest.mark.parametrize("name", _SURFACE)
def test_public_surface_is_as_promised(name):
    module, function = name.split(".")
    found = getattr(importlib.import_module(f"mmc_jax.{module}"), function)
    parameters = inspect.signature(found).parameters.values()
    positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert positional == _SURFACE[name][0]
    assert options >= set(_SURFACE[name][1])


def test_the_house_is_strict():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.uniform(key) + jax.random.normal(key)
    with pytest.raises(UserWarning, match="a warning"):
        warnings.warn("a warning", stacklevel=1)


@pytest.mark.needs_eight_devices
def test_eight_devices_exist():
    assert jax.device_count() == 8
