"""From a config, plain data, to the objects that a run is made of; and its checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from mmc_jax import losses, models, parallel
from mmc_jax.attacks import OBJECTIVES, RELATIVE_OBJECTIVES
from mmc_jax.data import DataSplits
from mmc_jax.losses import BoundLoss
from mmc_jax.models.heads import PRESET_HEADS
from mmc_jax.train.build_recipe import check_recipe, make_attack
from mmc_jax.train.crafting import LABELS, STATISTICS
from mmc_jax.train.recipes import KINDS, RECIPES
from mmc_jax.types import Attack

OPTIMIZERS = ("sgd", "adam")

_OBJECTIVES = (*OBJECTIVES, *RELATIVE_OBJECTIVES)
_POSITIVE = (lambda v: v >= 1, "a whole number of at least 1")
_NOT_NEGATIVE = (lambda v: v >= 0, "a whole number of at least 0")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (bool, "the name of a data set, or the path of an .npz"),
    "validation_size": _POSITIVE,
    "seed": (lambda v: 0 <= v < 2**32, "a whole number from 0 to 2**32 - 1"),
    "parallel": (lambda v: v in parallel.MODES, f"one of {parallel.MODES}"),
    "num_devices": _NOT_NEGATIVE,
    "batch_size": _POSITIVE,
    "num_epochs": _POSITIVE,
    "steps_per_call": _POSITIVE,
    "checkpoint_every_epochs": _POSITIVE,
    "keep_checkpoints": _POSITIVE,
    "max_train_images": _NOT_NEGATIVE,
    "model.feature_dim": _NOT_NEGATIVE,
    "model.center_norm": (lambda v: 0 < v < math.inf, "a positive number"),
    "loss.name": (lambda v: v in losses.LOSSES, f"one of {tuple(losses.LOSSES)}"),
    "loss.loss_scale": (lambda v: 0 < v < math.inf, "a positive number"),
    "augment.shift": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "optimizer.name": (lambda v: v in OPTIMIZERS, f"one of {OPTIMIZERS}"),
    "optimizer.learning_rate": (lambda v: 0 < v < math.inf, "a positive number"),
    "optimizer.momentum": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "optimizer.conv_l2": (lambda v: 0 <= v < math.inf, "a number of at least 0"),
    "optimizer.boundaries": (
        lambda v: (
            list(v) == sorted(set(v)) and all(type(b) is int and b > 0 for b in v)
        ),
        "whole epochs of at least 1, each once, in rising order",
    ),
    "optimizer.ema_decay": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "attack.epsilon": (lambda v: 0 <= v <= 1, "a number in [0, 1], such as 8/255"),
    "attack.warmup_epochs": (lambda v: v >= 0, "a number of epochs of at least 0"),
    "attack.objective": (lambda v: v in _OBJECTIVES, f"one of {_OBJECTIVES}"),
    "attack.labels": (lambda v: v in LABELS, f"one of {LABELS}"),
    "attack.statistics": (lambda v: v in STATISTICS, f"one of {STATISTICS}"),
    "attack.clean_weight": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "attack.statistics_from": (lambda v: v in KINDS, f"one of {KINDS}"),
    "recipe.name": (lambda v: v in RECIPES, f"one of {tuple(RECIPES)}"),
    "weight_perturbation.gamma": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "weight_perturbation.warmup_epochs": _NOT_NEGATIVE,
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Check every value of a config before anything is built.

    Args:
      config: as the files under `configs/` return it.

    Raises:
      ValueError: for the first field that is missing or wrong; it names the field, the
        value and what is accepted.
    """
    for field, (accepts, accepted) in _RULES.items():
        if field.startswith("attack.") and field[7:] not in config.get("attack", {}):
            continue
        value = _get(config, field)
        try:
            accepted_value = bool(accepts(value))
        except TypeError:
            accepted_value = False
        if not accepted_value:
            raise ValueError(f"config.{field} must be {accepted}, got {value!r}")
    num_devices = config.num_devices or jax.local_device_count()
    if num_devices > jax.local_device_count():
        raise ValueError(
            f"config.num_devices={num_devices}, but only {jax.local_device_count()}"
            " are here; 0 takes all"
        )
    parallel.check_divisible(config.batch_size, num_devices)
    # Building is the check of what the other modules know best.
    try:
        make_loss(config)
    except ValueError as error:
        raise ValueError(f"config.loss: {error}") from error
    # The data's own parents are not here yet; any will do for the other fields.
    num_classes = 2 if config.model.feature_dim == 1 else 10
    create_model(config, num_classes, class_parents=(0, 1) * (num_classes // 2))
    head = losses.head_of(config.loss.name)
    if config.model.centers != "optimal" and head not in PRESET_HEADS:
        with_preset = [n for n in losses.LOSSES if losses.head_of(n) in PRESET_HEADS]
        raise ValueError(
            f"config.model.centers={config.model.centers!r} is for losses with preset"
            f" centers ({', '.join(with_preset)}), got config.loss.name="
            f"{config.loss.name!r}"
        )
    check_recipe(config)
    _rehearse(make_attack(config, num_classes=10))


def _rehearse(attack: Attack | None) -> None:
    """Trace an attack on a small model, so that it says now what it refuses."""
    if attack is None:
        return
    weights = jnp.zeros((16, 10))

    def attacked(key, images, labels):
        return attack(lambda x: x.reshape(len(x), 16) @ weights, key, images, labels)

    images, labels = np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32)
    try:
        jax.eval_shape(attacked, jax.random.key(0), images, labels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.attack: {error}") from error


def _get(config, field: str):
    for name in field.split("."):
        if name not in config:
            raise ValueError(f"config.{field} is missing")
        config = config[name]
    return config


def class_parents(
    config: ml_collections.ConfigDict, splits: DataSplits
) -> tuple[int, ...] | None:
    """Return the coarse label of each class where a config's centers need it.

    Args:
      config: a checked config.
      splits: its data.

    Returns:
      One for each class, or None where `model.centers` is not "hierarchical".

    Raises:
      ValueError: if the data set has no coarse labels.
    """
    if config.model.centers != "hierarchical":
        return None
    try:
        return tuple(splits.class_parents().tolist())
    except ValueError as error:
        raise ValueError(
            f"config.model.centers='hierarchical' cannot be had: {error}; accepted"
            " there: optimal, random"
        ) from error


def create_model(
    config: ml_collections.ConfigDict,
    num_classes: int,
    *,
    class_parents: Sequence[int] | None = None,
    training: bool = False,
) -> nn.Module:
    """Build the model that a config describes.

    Args:
      config: a checked config.
      num_classes: from the data set.
      class_parents: likewise, from `class_parents`; for hierarchical centers.
      training: whether it is for the train step, whose BatchNorm averages over the
        devices under `pmap`.

    Returns:
      A module with the head that the config's loss needs.

    Raises:
      ValueError: for an unknown architecture or a size that it cannot have.
    """
    options = config.model.to_dict()
    return models.create(
        options.pop("name"),
        num_classes=num_classes,
        head=losses.head_of(config.loss.name),
        feature_dim=options.pop("feature_dim") or None,
        center_seed=config.seed,
        class_parents=class_parents,
        axis_name=parallel.axis_name_for(config.parallel) if training else None,
        **options,
    )


def make_loss(config: ml_collections.ConfigDict) -> BoundLoss:
    """Build the loss that a config describes.

    Args:
      config: a checked config.

    Returns:
      (output, labels, variables) -> loss `[batch]`.

    Raises:
      ValueError: for an unknown loss, hyperparameter or value.
    """
    options = config.loss.to_dict()
    return losses.make_loss(options.pop("name"), **options)


def make_optimizer(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Build the optimiser: conv-only L2, then SGD with momentum or Adam.

    The penalty `conv_l2 * sum(w**2)` on convolution kernels enters as its gradient,
    `2 * conv_l2 * w`, before the momentum, as in the reference.

    Args:
      config: a checked config.
      steps_per_epoch: to turn epochs into steps.

    Returns:
      The transformation; its rate is `make_schedule`'s.
    """
    options = config.optimizer
    schedule = make_schedule(config, steps_per_epoch)
    if options.name == "sgd":
        rule = optax.sgd(schedule, momentum=options.momentum)
    else:
        rule = optax.adam(schedule, b1=options.momentum)
    penalty = optax.add_decayed_weights(2 * options.conv_l2, mask=_conv_kernels)
    return optax.chain(penalty, rule)


def make_schedule(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.Schedule:
    """Build the paper's schedule: the rate falls tenfold after each boundary.

    Args:
      config: a checked config, its boundaries in epochs.
      steps_per_epoch: to turn them into steps.

    Returns:
      step -> learning rate.
    """
    return optax.piecewise_constant_schedule(
        config.optimizer.learning_rate,
        {epoch * steps_per_epoch: 0.1 for epoch in config.optimizer.boundaries},
    )


def _conv_kernels(params):
    """Mark the convolution kernels, the only leaves of rank 4."""
    return jax.tree.map(lambda leaf: leaf.ndim == 4, params)
