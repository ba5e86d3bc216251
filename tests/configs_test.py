"""Every config, every argument that it documents, every field set wrong."""

from __future__ import annotations

import importlib
import itertools
import json
import pathlib
import re

import ml_collections
import numpy as np
import pytest

from configs import common
from mmc_jax import attacks, data, losses, models
from mmc_jax.train import build_recipe, check_config

_FOLDER = pathlib.Path(common.__file__).parent
_MODULES = {
    path.stem: importlib.import_module(f"configs.{path.stem}")
    for path in sorted(_FOLDER.glob("*.py"))
}
CONFIGS = {
    name: module.get_config
    for name, module in _MODULES.items()
    if hasattr(module, "get_config")
}
# What an argument accepts, as the library has it.
LOSSES = tuple(losses.LOSSES)
ADVERSARIES = ("none", "pgd", "mim", "bim", "fgsm")
MODELS = tuple(models.MODELS)


def checked(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Check a config as training on one device would, and return it."""
    config = ml_collections.ConfigDict(config)
    config.num_devices = 1
    check_config(config)
    return config


def assert_plain(tree, where="config"):
    """Plain data alone: what JSON holds, and tuples of it."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            assert_plain(value, f"{where}.{name}")
    elif isinstance(tree, tuple):
        for value in tree:
            assert_plain(value, where)
    else:
        assert type(tree) in (str, bool, int, float), f"{where} is {tree!r}"


def flatten(config: ml_collections.ConfigDict) -> dict[str, object]:
    """Return every field by its dotted name."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{name}.{below}": leaf for below, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def test_the_four_configs_are_here():
    assert set(CONFIGS) == {"digits", "mnist", "cifar10", "cifar100"}
    for name, get_config in CONFIGS.items():
        assert get_config().dataset == name
        assert name in data.DATASETS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_loss_with_every_attack_is_a_config(name):
    for loss, adv, targeted, runlocal in itertools.product(
        LOSSES, ADVERSARIES, ("", ",targeted"), ("", ",runlocal")
    ):
        trained = "" if adv == "none" else f",eps=8/255{targeted}"
        config = CONFIGS[name](f"loss={loss},adv={adv}{trained}{runlocal}")
        # Checking traces the attack: once each is enough.
        if adv == "none" or (loss == "mmc" and not runlocal):
            checked(config)
        assert config.loss.name == loss
        assert config.attack.get("name", "none") == adv
        if adv != "none":
            assert config.attack.epsilon == 8 / 255
            assert config.attack.targeted == bool(targeted)
        assert (config.max_train_images == 500) == bool(runlocal)
        assert_plain(config.to_dict())
        json.loads(config.to_json())
    with pytest.raises(AttributeError):
        config.lock().learning_rte = 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_model_is_a_config(name):
    for model in MODELS:
        assert checked(CONFIGS[name](f"model={model}")).model.name == model


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_in_the_header_is_a_config(name):
    found = re.findall(r"--config=configs/(\w+)\.py:(\S+)", _MODULES[name].__doc__)
    assert found, "the header shows no command"
    for config_name, arg in found:
        assert config_name == name
        checked(CONFIGS[name](arg))


def test_documented_arguments_are_those_that_exist():
    assert set(common.FLAGS) < set(common.ARGUMENTS)
    words = {
        name: set(re.split(r"\W+", text)) for name, text in common.ARGUMENTS.items()
    }
    assert set(LOSSES) <= words["loss"]
    assert set(ADVERSARIES) <= words["adv"]
    assert set(ADVERSARIES) - {"none"} <= set(attacks.ATTACKS)
    assert words["model"] & set(MODELS) == {"cnn", "resnet32_v2"}


def test_a_fraction_is_read_exactly():
    for text, value in {
        "8/255": 8 / 255,
        "0.3": 0.3,
        "1": 1.0,
        "0": 0.0,
        "3e-2": 0.03,
        "255/255": 1.0,
    }.items():
        config = CONFIGS["cifar10"](f"adv=pgd,eps={text}")
        assert config.attack.epsilon == value
        assert config.attack.step_size == value / 4
    default = CONFIGS["cifar10"]("adv=pgd").attack
    assert (default.epsilon, default.step_size, default.num_steps) == (
        8 / 255,
        2 / 255,
        10,
    )


def test_spaces_and_empty_items_do_no_harm():
    assert CONFIGS["mnist"](" loss=mmc, ,adv=pgd,").attack.name == "pgd"
    assert CONFIGS["mnist"]("") == CONFIGS["mnist"](None) == CONFIGS["mnist"]()


def test_each_attack_trains_with_what_it_has():
    names = {adv: CONFIGS["digits"](f"adv={adv}").attack for adv in ADVERSARIES}
    assert not names["none"]
    assert names["pgd"].num_steps == names["mim"].num_steps == 10
    assert "num_steps" not in names["fgsm"]
    assert CONFIGS["digits"]("adv=bim,runlocal").attack.num_steps == 2
    assert "num_steps" not in CONFIGS["digits"]("adv=fgsm,runlocal").attack
    for loss in LOSSES:
        attack = CONFIGS["digits"](f"adv=pgd,loss={loss}").attack
        by_distance = loss in ("mmc", "absolute_mmc", "huber_mmc", "elastic_mmc")
        expected = "own_class" if by_distance else "cross_entropy"
        assert attack.objective == expected
    scales = {
        loss: CONFIGS["digits"](f"loss={loss}").loss.loss_scale for loss in LOSSES
    }
    # Twice those that have the paper's one half, and no other.
    doubled = {loss for loss, scale in scales.items() if scale == 2.0}
    assert doubled == {"mmc", "huber_mmc", "elastic_mmc"}
    assert set(scales.values()) == {1.0, 2.0}


def test_hyperparameters_of_a_loss_are_fields_with_the_library_s_defaults():
    for loss in LOSSES:
        fields = CONFIGS["mnist"](f"loss={loss}").loss.to_dict()
        del fields["name"], fields["loss_scale"]
        assert fields == losses.hyperparameters_of(loss)


WRONG_HYPERPARAMETERS = {
    "softmax": ("label_smoothing", 1.5),
    "mmlda": ("label_smoothing", -0.5),
    "huber_mmc": ("threshold", 0.0),
    "elastic_mmc": ("elasticity", -2.5),
    "center": ("center_rate", 1.25),
    "lgm": ("margin", -0.75),
    "lgm_identity": ("likelihood_weight", np.nan),
}


@pytest.mark.parametrize("loss", WRONG_HYPERPARAMETERS)
def test_a_wrong_hyperparameter_is_named_with_its_value(loss):
    field, value = WRONG_HYPERPARAMETERS[loss]
    config = CONFIGS["digits"](f"loss={loss}")
    config.loss[field] = value
    with pytest.raises(ValueError, match=rf"config\.loss: {field} must be .*{value}"):
        checked(config)
    del config.loss[field]
    config.loss.sharpness = 1.0
    with pytest.raises(ValueError, match=rf"config\.loss: .*'sharpness'.*{field}"):
        checked(config)


def test_recipes_and_choices_are_chosen_by_arguments():
    sound = dict(
        labels="true",
        statistics="running",
        clean_weight=0.0,
        statistics_from="adversarial",
    )
    papers = dict(labels="predicted", statistics="batch", statistics_from="clean")
    for name, get_config in CONFIGS.items():
        for arg, expected in (("", sound), (",papers_choices", sound | papers)):
            config = get_config(f"loss=mmc,adv=pgd{arg}")
            assert config.attack.to_dict().items() >= expected.items(), name
            assert config.recipe.to_dict() == dict(name="standard")
            assert config.weight_perturbation.gamma == 0.0
        for recipe, weight in (("trades", 6.0), ("mart", 5.0)):
            config = get_config(f"loss=mmc,adv=pgd,recipe={recipe},awp")
            assert config.recipe.to_dict() == dict(
                name=recipe, weight=weight, temperature=0.0
            )
            assert config.weight_perturbation.gamma == 0.005
            objective = {"trades": "kl_divergence", "mart": "cross_entropy"}[recipe]
            assert config.attack.objective == objective
    for adv in ("pgd", "mim"):
        checked(CONFIGS["digits"](f"loss=mmc,adv={adv},recipe=trades"))


def test_one_feature_carries_two_classes():
    # How many classes there are is in the data, which a check does not see.
    config = CONFIGS["digits"]("loss=mmc")
    config.model.feature_dim = 1
    checked(config)


def test_the_temperature_of_hierarchical_centers_fits_the_next_ones():
    config = checked(CONFIGS["cifar100"]("loss=mmc,centers=hierarchical,adv=pgd"))
    config.recipe = ml_collections.ConfigDict(dict(name="trades", temperature=0.0))
    assert config.model.center_norm == 10 and config.model.child_center_norm == 1
    assert build_recipe.make_crafting(config).temperature == 0.2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("recipe", ["standard", "trades", "mart"])
@pytest.mark.parametrize("choices", ["", ",papers_choices,awp"])
def test_every_loss_with_every_recipe_is_a_config(loss, recipe, choices):
    arg = f"loss={loss},adv=pgd,recipe={recipe}{choices}"
    config = checked(CONFIGS["mnist"](arg))
    assert build_recipe.make_recipe(config).reads[-1] == "adversarial"
    is_papers = bool(choices)
    crafting = build_recipe.make_crafting(config)
    assert crafting.labels == ("predicted" if is_papers else "true")
    assert crafting.statistics == ("batch" if is_papers else "running")
    # Losses by the distance to preset centers, and recipes that compare.
    by_distance = loss in ("mmc", "absolute_mmc", "huber_mmc", "elastic_mmc")
    compares = recipe != "standard"
    assert crafting.temperature == (20.0 if by_distance and compares else 1.0)
    statistics_from = build_recipe.make_recipe(config).statistics_from
    assert statistics_from == ("clean" if is_papers else "adversarial")


def test_validation_judges_by_the_attack_of_training_or_by_the_margin():
    def attacks_of(arg):
        config = CONFIGS["digits"](arg)
        return (
            build_recipe.make_attack(config, 10),
            build_recipe.make_validation_attack(config, 10),
        )

    assert attacks_of("loss=mmc") == (None, None)
    for arg in ("loss=mmc,adv=pgd", "loss=softmax,adv=pgd,targeted,papers_choices"):
        training, validation = attacks_of(arg)
        assert training == validation
    for recipe in ("trades", "mart"):
        training, validation = attacks_of(f"loss=mmc,adv=pgd,recipe={recipe}")
        own = dict(training.hyperparameters)
        assert own["objective"] in ("kl_divergence", "cross_entropy")
        assert dict(validation.hyperparameters) == own | {"objective": "margin"}


def test_the_weight_perturbation_starts_after_its_warm_up():
    config = CONFIGS["digits"]("adv=pgd")
    assert build_recipe.make_weight_perturbation(config, 10) is None
    config = CONFIGS["digits"]("adv=pgd,awp")
    config.weight_perturbation.warmup_epochs = 2
    schedule = build_recipe.make_weight_perturbation(config, 10)
    np.testing.assert_allclose([schedule(step) for step in (0, 19)], 0.0)
    np.testing.assert_allclose([schedule(step) for step in (20, 99)], 0.005)


WRONG_RECIPES = [
    ("recipe=trades", {}, r"recipe.name='trades' needs an attack .*adv=pgd"),
    ("recipe=mart,awp", {}, r"recipe.name='mart' needs an attack .*'standard'"),
    ("recipe=trades,adv=pgd,targeted", {}, "kl_divergence has no targeted form"),
    ("recipe=trades,adv=fgsm", {}, "config.attack: .*needs pgd, or mim with"),
    (
        "recipe=mart,adv=pgd",
        {"attack.clean_weight": 0.5},
        r"clean_weight=0.5 is for the recipe 'standard'.*'mart'.*recipe.weight",
    ),
    ("recipe=mart,adv=pgd", {"recipe.weight": -1.5}, "recipe: weight .*got -1.5"),
    ("recipe=mart,adv=pgd", {"recipe.weight": np.nan}, "recipe: weight .*got nan"),
    ("recipe=trades,adv=pgd", {"recipe.temperature": -2.0}, "temperature .*got -2.0"),
    ("adv=pgd", {"recipe.name": "mart"}, r"'mart' needs .*temperature, weight.*=mart"),
    (
        "adv=pgd,papers_choices",
        {"attack.stop_on_success": True},
        r"statistics='batch' is for .*fgsm.*config.attack.stop_on_success=True",
    ),
    (
        "adv=pgd,papers_choices",
        {"batch_size": 1025},
        r"statistics='batch' is for .*at most 1024; got config.batch_size=1025",
    ),
    ("adv=square,papers_choices", {}, r"'batch' is for .*config.attack.name='square'"),
    ("papers_choices", {}, r"describe an attack .* adv=NAME is missing"),
    ("adv=pgd,awp=1", {}, r"'awp=1' must be written awp$"),
]


@pytest.mark.parametrize(("arg", "changes", "message"), WRONG_RECIPES)
def test_a_recipe_that_does_not_fit_is_named(arg, changes, message):
    with pytest.raises(ValueError, match=message):
        config = CONFIGS["digits"](arg)
        config.update_from_flattened_dict(changes)
        checked(config)


def test_centers_are_chosen_by_an_argument():
    assert CONFIGS["mnist"]("loss=mmc").model.centers == "optimal"
    for loss in ("mmc", "mmlda", "elastic_mmc"):
        config = checked(CONFIGS["mnist"](f"loss={loss},centers=random"))
        assert config.model.centers == "random"
        assert "child_center_norm" not in config.model
    config = checked(CONFIGS["cifar100"]("loss=mmc,centers=hierarchical"))
    assert (config.model.center_norm, config.model.child_center_norm) == (10.0, 1.0)
    config.model.child_center_norm = 0.0
    with pytest.raises(ValueError, match="center_norm must be finite and > 0, got 0.0"):
        checked(config)


ACCEPTED = ".*".join(common.ARGUMENTS)
WRONG_ARGUMENTS = {
    "nonsense": rf"unknown config argument 'nonsense'; accepted: {ACCEPTED}",
    "lossy=mmc": rf"unknown config argument 'lossy=mmc'; accepted: {ACCEPTED}",
    "LOSS=mmc": r"unknown config argument 'LOSS=mmc'; accepted: loss",
    "epsilon=8/255": r"unknown config argument 'epsilon=8/255'; .*eps \(radius",
    "loss=mmc,loss=softmax": r"config argument 'loss' is given twice",
    "loss=mmc,loss=mmc": r"config argument 'loss' is given twice",
    "runlocal,runlocal": r"config argument 'runlocal' is given twice",
    "loss": r"config argument 'loss' must be written loss=VALUE",
    "eps": r"config argument 'eps' must be written eps=VALUE",
    "runlocal=true": r"config argument 'runlocal=true' must be written runlocal$",
    "adv=pgd,targeted=1": r"config argument 'targeted=1' must be written targeted$",
    "adv=pgd,eps=2": r"eps='2' must be a number in \[0, 1\] such as 8/255 or 0.03",
    "adv=pgd,eps=8": r"eps='8' must be a number in \[0, 1\]",
    "adv=pgd,eps=-1/255": r"eps='-1/255' must be a number in \[0, 1\]",
    "adv=pgd,eps=abc": r"eps='abc' must be a number in \[0, 1\] such as 8/255",
    "adv=pgd,eps=8/0": r"eps='8/0' must be a number in \[0, 1\]",
    "adv=pgd,eps=nan": r"eps='nan' must be a number in \[0, 1\]",
    "adv=pgd,eps=inf": r"eps='inf' must be a number in \[0, 1\]",
    "adv=pgd,eps=": r"eps='' must be a number in \[0, 1\]",
    "eps=8/255": r"'eps=8/255' describe an attack .* adv=NAME is missing; .*pgd",
    "targeted": r"'targeted' describe an attack .* adv=NAME is missing; .*pgd",
    "loss=hinge": r"config\.loss\.name must be one of .*mmlda.*, got 'hinge'",
    "loss=": r"config\.loss\.name must be one of .*mmlda.*, got ''",
    "adv=deepfool": r"unknown attack 'deepfool'; known are apgd, .*bim, .*fgsm, .*pgd",
    "loss=mmc,centers=best": r"unknown centers 'best'; accepted: optimal, random, hier",
    "loss=lgm,centers=random": r"centers='random' is for losses .*mmlda.*name='lgm'",
    "model=vgg16": r"unknown model 'vgg16'; accepted: cnn, resnet20_v1,",
    "model=": r"unknown model ''; accepted: cnn, resnet20_v1,",
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("arg", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named_with_what_is_accepted(name, arg):
    with pytest.raises(ValueError) as caught:
        checked(CONFIGS[name](arg))
    assert re.search(WRONG_ARGUMENTS[arg], str(caught.value), re.IGNORECASE)


WRONG_FIELDS = {
    "dataset": [""],
    "validation_size": [0, -5],
    "seed": [-1, 2**32],
    "parallel": ["xmap", ""],
    "num_devices": [-1, 1000],
    "batch_size": [0, -50, "many"],
    "num_epochs": [0],
    "steps_per_call": [0],
    "checkpoint_every_epochs": [0],
    "keep_checkpoints": [0],
    "max_train_images": [-1],
    "model.name": ["vgg16"],
    "model.feature_dim": [-1],
    "model.center_norm": [0.0, -10.0, np.inf, np.nan],
    "model.centers": ["best"],
    "model.dtype": ["float16"],
    "loss.name": ["hinge"],
    "loss.loss_scale": [0.0, -1.0, np.inf, np.nan],
    "attack.name": ["deepfool"],
    "attack.epsilon": [-0.1, 8.0, np.nan],
    "attack.step_size": [-0.1, np.nan],
    "attack.num_steps": [0, -1, 2.5],
    "attack.objective": ["hinge"],
    "attack.keep": ["first"],
    "attack.stop_on_success": ["no"],
    "attack.warmup_epochs": [-1],
    "attack.labels": ["guessed", ""],
    "attack.statistics": ["none", True],
    "attack.clean_weight": [-0.1, 1.0, np.nan],
    "attack.statistics_from": ["both"],
    "recipe.name": ["hat", ""],
    "weight_perturbation.gamma": [-0.1, 1.0, np.nan],
    "weight_perturbation.warmup_epochs": [-1],
    "augment.shift": [-0.1, 1.0],
    "optimizer.name": ["rmsprop"],
    "optimizer.learning_rate": [0.0, -0.1, np.inf, np.nan],
    "optimizer.momentum": [-0.1, 1.0],
    "optimizer.conv_l2": [-1.0, np.inf, np.nan],
    "optimizer.boundaries": [(20, 10), (10, 10), (0,), 5, ("a",)],
    "optimizer.ema_decay": [-0.1, 1.0],
}


# Strings and flags: the type that the field keeps on the command line is all of it.
ANY_VALUE = {"data_dir", "augment.flip", "attack.targeted"}


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_a_wrong_field_is_named_with_its_value(field):
    for value in WRONG_FIELDS[field]:
        config = CONFIGS["digits"]("loss=mmc,adv=pgd")
        with config.ignore_type():
            config.update_from_flattened_dict({field: value})
        with pytest.raises(ValueError) as caught:
            check_config(config) if field == "num_devices" else checked(config)
        section, _, name = f".{field}".rpartition(".")
        message = str(caught.value)
        assert (section.strip(".") if name == "name" else name) in message, message
        assert repr(value) in message, message
        assert re.search("one of|must be|accepted|known|room for|only", message)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_every_config_has_a_wrong_value(name):
    fields = set(flatten(CONFIGS[name]("loss=mmc,adv=pgd")))
    assert fields == set(WRONG_FIELDS) | ANY_VALUE


def test_a_field_that_is_missing_is_named():
    for field in ("seed", "batch_size", "loss.loss_scale", "optimizer.momentum"):
        config = CONFIGS["digits"]()
        *sections, name = field.split(".")
        del (config[sections[0]] if sections else config)[name]
        with pytest.raises(ValueError, match=rf"^config\.{field} is missing$"):
            checked(config)


def test_a_batch_is_shared_by_all_devices_or_refused():
    config = CONFIGS["digits"]()
    config.num_devices = 2
    check_config(config)
    config.num_devices = 4
    with pytest.raises(ValueError, match="batch size 50 .* 4 devices"):
        check_config(config)
