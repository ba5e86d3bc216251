"""What cells cost, in passes of the model for one image, before they are measured.

Upper bounds: attacks stop at success, and a cascade attacks ever fewer images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from mmc_jax.attacks.binding import BoundAttack
from mmc_jax.attacks.costs import Passes, passes_per_survivor
from mmc_jax.attacks.targets import RandomlyTargeted
from mmc_jax.evaluate import inputs
from mmc_jax.evaluate.rows import Row, bind_rows
from mmc_jax.train import build_recipe

_BOX = (0.0, 1.0)
# Of an evaluation: the clean image; then, for each row, the verdict and that on 8 bits.
_VERDICTS = 2


def clean_passes(num_classes: int) -> tuple[Passes, int]:
    """Return the passes of `measures.measure_clean`, and that it takes all images."""
    return Passes(1, 0), 0


def attack_passes(
    num_classes: int,
    *,
    rows: Mapping[str, Mapping[str, Any]],
    epsilon: str,
    mode: str,
    num_images: int,
) -> tuple[Passes, int]:
    """Return the passes an image of `measures.measure_attacks`, and how many images."""
    radius = inputs.parse_number(epsilon, "epsilon")
    bound = bind_rows(rows, norm="linf", epsilon=radius, bounds=_BOX)
    return _total(bound, num_classes), num_images


def minimum_norm_passes(
    num_classes: int, *, attack: Mapping[str, Any], norm: str, num_images: int
) -> tuple[Passes, int]:
    """Return those of `measures.measure_minimum_norm`, and how many images."""
    rows = {"attack": attack}
    bound = bind_rows(rows, norm=norm, epsilon=math.inf, bounds=_BOX)
    return _total(bound, num_classes), num_images


def transfer_passes(
    num_classes: int,
    *,
    attack: Mapping[str, Any],
    epsilon: str,
    objectives: Mapping[str, str],
    num_images: int,
) -> tuple[Passes, int]:
    """Return those of `measures.measure_transfer`, and how many images."""
    rows = {name: {**attack, "objective": o} for name, o in objectives.items()}
    radius = inputs.parse_number(epsilon, "epsilon")
    bound = bind_rows(rows, norm="linf", epsilon=radius, bounds=_BOX)
    passes = _total(bound, num_classes)
    return passes._replace(forward=passes.forward + len(rows) ** 2), num_images


def _total(rows: list[Row], num_classes: int) -> Passes:
    spent = [
        passes_per_survivor(
            row.attack_name, row.hyperparameters, num_classes=num_classes
        )
        for row in rows
    ]
    return Passes(
        1 + sum(passes.forward + _VERDICTS for passes in spent),
        sum(passes.backward for passes in spent),
    )


def crafting_passes(config: ml_collections.ConfigDict) -> Passes:
    """Return the passes an image that the training attack takes in one step.

    Args:
      config: of a run.

    Returns:
      The passes; none where there is no attack.
    """
    attack = build_recipe.make_attack(config, num_classes=10)
    if attack is None:
        return Passes(0, 0)
    if isinstance(attack, RandomlyTargeted):
        attack = attack.attack
    assert isinstance(attack, BoundAttack)
    spec = {"name": attack.name, **dict(attack.hyperparameters)}
    epsilon = spec.pop("epsilon")
    (row,) = bind_rows({"step": spec}, norm="linf", epsilon=epsilon, bounds=_BOX)
    return passes_per_survivor(row.attack_name, row.hyperparameters, num_classes=10)
