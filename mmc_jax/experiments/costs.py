"""What cells cost, in passes of the model for one image, before they are measured.

Upper bounds: attacks stop at success, and a cascade attacks ever fewer images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmc_jax.attacks.costs import Passes, passes_per_survivor
from mmc_jax.evaluate import inputs
from mmc_jax.evaluate.rows import Row, bind_rows

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


def attack_step_passes(attack: Mapping[str, Any]) -> Passes:
    """Return the passes an image that crafting takes in one step of training.

    Args:
      attack: of a config, empty for none.

    Returns:
      The passes.
    """
    if not attack:
        return Passes(0, 0)
    spec = {k: v for k, v in attack.items() if k not in ("warmup_epochs", "epsilon")}
    epsilon = float(attack["epsilon"])
    (row,) = bind_rows({"step": spec}, norm="linf", epsilon=epsilon, bounds=_BOX)
    return passes_per_survivor(row.attack_name, row.hyperparameters, num_classes=10)
