"""From a config to what a step trains on: the attack, the recipe; and their checks."""

from __future__ import annotations

import ml_collections
import optax

from mmc_jax import attacks, losses
from mmc_jax.attacks.slices import MOST_IMAGES
from mmc_jax.models.heads import PRESET_HEADS
from mmc_jax.train.crafting import Crafting
from mmc_jax.train.recipes import Recipe
from mmc_jax.train.recipes import make_recipe as make_named_recipe
from mmc_jax.types import Attack

# Fields of `config.attack` that are not the attack's own hyperparameters.
_OF_THE_STEP = (
    "targeted",
    "warmup_epochs",
    "labels",
    "statistics",
    "clean_weight",
    "statistics_from",
)

# Attacks that take the same passes for every example, unless they stop on success.
_FIXED_PASSES = ("bim", "fgsm", "mim", "pgd")


_COMPARING = ("trades", "mart")
"""Recipes that compare predictions, by a weight and at a temperature."""


def check_recipe(config: ml_collections.ConfigDict) -> None:
    """Check what the fields of the attack and of the recipe ask of each other.

    Args:
      config: with its single fields checked.

    Raises:
      ValueError: naming the fields, their values and what is accepted.
    """
    name = config.recipe.name
    if name != "standard" and not config.attack:
        raise ValueError(
            f"config.recipe.name={name!r} needs an attack in training, and"
            " config.attack is empty: name one (adv=pgd), or use recipe 'standard'"
        )
    lacking = {"weight", "temperature"} - set(config.recipe)
    if name in _COMPARING and lacking:
        raise ValueError(
            f"config.recipe.name={name!r} needs config.recipe's"
            f" {', '.join(sorted(lacking))}, and an attack of its own: name it in the"
            f" string argument (--config=...:recipe={name}), which sets them"
        )
    clean_weight = config.attack.get("clean_weight", 0.0)
    if name != "standard" and clean_weight:
        raise ValueError(
            f"config.attack.clean_weight={clean_weight!r} is for the recipe 'standard';"
            f" with {name!r} it must be 0: config.recipe.weight balances clean images"
        )
    try:
        make_recipe(config)
    except ValueError as error:
        raise ValueError(f"config.recipe: {error}") from error
    if config.attack.get("statistics") == "batch":
        _check_batch_statistics(config)


def _check_batch_statistics(config: ml_collections.ConfigDict) -> None:
    """Refuse attacks whose examples or slices would take different passes."""
    accepted = {
        "attack.name": config.attack.name in _FIXED_PASSES,
        "attack.stop_on_success": config.attack.get("stop_on_success", False) is False,
        "batch_size": config.batch_size <= MOST_IMAGES,
    }
    for field, is_accepted in accepted.items():
        if not is_accepted:
            *_, name = field.split(".")
            value = config[name] if name == field else config.attack[name]
            raise ValueError(
                "config.attack.statistics='batch' is for whole batches that are"
                f" attacked to the end: one of {_FIXED_PASSES}, stop_on_success=False"
                f" and a batch_size of at most {MOST_IMAGES}; got"
                f" config.{field}={value!r}"
            )


def make_attack(config: ml_collections.ConfigDict, num_classes: int) -> Attack | None:
    """Build the training attack that a config describes.

    Args:
      config: its `attack` is empty for training on clean images.
      num_classes: from the data set.

    Returns:
      The bound attack, which draws random wrong targets where `attack.targeted`.

    Raises:
      ValueError: for an unknown attack or hyperparameter.
    """
    return _bind(config.attack.to_dict(), num_classes)


def make_validation_attack(
    config: ml_collections.ConfigDict, num_classes: int
) -> Attack | None:
    """Build the attack under which validation counts what is right.

    That of training, with the labels of the data and the model in inference mode. For
    TRADES and MART its objective is the margin: theirs compares with the clean
    prediction, or is blind without their temperature, and the count is of labels.

    Args:
      config: a checked config.
      num_classes: from the data set.

    Returns:
      The bound attack; None for training on clean images.
    """
    options = config.attack.to_dict()
    if options and config.recipe.name != "standard":
        options["objective"] = "margin"
    return _bind(options, num_classes)


def _bind(options: dict, num_classes: int) -> Attack | None:
    if not options:
        return None
    targeted = options.get("targeted", False)
    own = {name: value for name, value in options.items() if name not in _OF_THE_STEP}
    attack = attacks.make_attack(own.pop("name"), **own)
    return attacks.with_random_targets(attack, num_classes) if targeted else attack


def make_attack_scale(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule | None:
    """Build the factor on the training perturbation: a ramp over the first epochs.

    Args:
      config: a checked config.
      steps_per_epoch: to turn `attack.warmup_epochs` into steps.

    Returns:
      step -> factor, from 0 to 1; None where there is no ramp.
    """
    epochs = config.attack.get("warmup_epochs", 0)
    if not epochs:
        return None
    return optax.linear_schedule(0.0, 1.0, epochs * steps_per_epoch)


def make_weight_perturbation(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule | None:
    """Build the size of the adversarial weight perturbation: 0, then gamma.

    Args:
      config: a checked config.
      steps_per_epoch: to turn `weight_perturbation.warmup_epochs` into steps.

    Returns:
      step -> gamma; None where it is always 0.
    """
    options = config.weight_perturbation
    if not options.gamma:
        return None
    first = options.warmup_epochs * steps_per_epoch
    return optax.join_schedules(
        [optax.constant_schedule(0.0), optax.constant_schedule(options.gamma)], [first]
    )


def make_crafting(config: ml_collections.ConfigDict) -> Crafting:
    """Build how the training attack sees the model.

    Args:
      config: a checked config.

    Returns:
      The labels, the statistics and the temperature that it goes by.
    """
    return Crafting(
        labels=config.attack.get("labels", "true"),
        statistics=config.attack.get("statistics", "running"),
        temperature=_temperature(config),
    )


def make_recipe(config: ml_collections.ConfigDict) -> Recipe:
    """Build what a step trains on.

    Args:
      config: its `recipe`, and of its `attack` the weight of clean images and the
        images that running statistics follow.

    Returns:
      The recipe.

    Raises:
      ValueError: for an unknown recipe, hyperparameter or value.
    """
    options = config.recipe.to_dict()
    name = options.pop("name")
    if "temperature" in options:
        options["temperature"] = _temperature(config)
    if name == "standard":
        options["clean_weight"] = config.attack.get("clean_weight", 0.0)
    statistics_from = config.attack.get("statistics_from", "adversarial")
    return make_named_recipe(name, statistics_from=statistics_from, **options)


def _temperature(config: ml_collections.ConfigDict) -> float:
    """Return the recipe's temperature; where it is 0, the one that fits the logits.

    Trained by cross-entropy, logits fit a softmax as they are. A loss by the distance
    to preset centers takes features to the centers themselves, from where the next ones
    are at squared distances of 2 C^2 and more, as long as optimal centers are at most
    twice as many as the features' dimensions: over C^2 / 5 that is a margin of 10, as
    of a confident softmax model, instead of 200. Closer centers leave less of it. Of
    hierarchical centers the next ones are those of the same parent, and C is theirs.
    """
    given = config.recipe.get("temperature", 1.0)
    if given:
        return given
    name = config.loss.name
    if losses.head_of(name) in PRESET_HEADS and name != "mmlda":
        norm = config.model.get("child_center_norm", config.model.center_norm)
        return norm**2 / 5
    return 1.0
