"""Accuracy on the held-out validation images, clean and under the training attack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from mmc_jax import data, metrics, models, parallel
from mmc_jax.train.step import example_keys
from mmc_jax.types import Array, Attack, Variables

_BATCH_SIZE = 500


def eval_step(
    variables: Variables,
    images: Array,
    labels: Array,
    mask: Array,
    positions: Array,
    key: Array,
    *,
    model: nn.Module,
    attack: Attack | None = None,
    axis_name: str | None = None,
) -> dict[str, Array]:
    """Count what a model gets right in one padded batch, in inference mode.

    Args:
      variables: the model's.
      images: uint8 `[batch, height, width, channels]`.
      labels: int32 `[batch]`.
      mask: `[batch]`, 0 where an example is padding.
      positions: int32 `[batch]`, which key the attack's draws.
      key: typed key; not consumed.
      model: from `models.create`.
      attack: bound attack, or None.
      axis_name: the mapped axis to sum over; None outside `pmap`.

    Returns:
      `count`, `correct` and, with an attack, `adversarial_correct`.
    """
    images = data.to_float(images)
    logits_fn = models.make_logits_fn(model, variables)
    sums = metrics.accuracy_sums(logits_fn(images), labels, mask)
    if attack is not None:
        keys = example_keys(key, "attack", positions)
        adv_images = attack(logits_fn, keys, images, labels)
        attacked = metrics.accuracy_sums(logits_fn(adv_images), labels, mask)
        sums["adversarial_correct"] = attacked["correct"]
    return jax.lax.psum(sums, axis_name) if axis_name is not None else sums


def make_validate(
    dataset: data.ArrayDataset,
    model: nn.Module,
    attack: Attack | None,
    *,
    mode: str,
    devices: Sequence[jax.Device],
) -> Callable[[Variables], dict[str, float]]:
    """Compile the validation of a run.

    Args:
      dataset: the validation split.
      model: from `models.create`.
      attack: the attack that the config's is judged by, or None. Under it, it is the
        adversarial accuracy that decides which checkpoint is best.
      mode: `pmap` or `jit`.
      devices: where to run.

    Returns:
      variables -> `validation_accuracy` and, with an attack,
      `validation_adversarial_accuracy`, as fractions.
    """
    step = parallel.parallelize(
        functools.partial(
            eval_step,
            model=model,
            attack=attack,
            axis_name=parallel.axis_name_for(mode),
        ),
        mode=mode,
        devices=devices,
        batch_axes=(None, 0, 0, 0, 0, None),
    )
    per_device = -(-min(_BATCH_SIZE, len(dataset)) // len(devices))
    batch_size = per_device * len(devices)
    positions = np.arange(len(dataset), dtype=np.int32)
    batches = list(
        data.pad_batches(
            dataset.images, dataset.labels, positions, batch_size=batch_size
        )
    )
    key = jax.random.key(0)

    def validate(variables):
        totals: dict[str, float] = {}
        for (images, labels, batch_positions), mask in batches:
            sums = step(variables, images, labels, mask, batch_positions, key)
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + float(value)
        scores = {"validation_accuracy": totals["correct"] / totals["count"]}
        if attack is not None:
            scores["validation_adversarial_accuracy"] = (
                totals["adversarial_correct"] / totals["count"]
            )
        return scores

    return validate
