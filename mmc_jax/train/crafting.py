"""The adversarial images of a train step, and how their attack sees the model."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from mmc_jax import attacks, models
from mmc_jax.types import (
    Array,
    Attack,
    CoupledLogitsFn,
    LogitsFn,
    StochasticLogitsFn,
    Variables,
)

LABELS = ("true", "predicted")
STATISTICS = ("running", "batch")


@dataclasses.dataclass(frozen=True)
class Crafting:
    """What a training attack goes by; the defaults are the sound choices."""

    labels: str = "true"
    """One of `LABELS`: the data's, or the model's own prediction on the clean image,
    which is also the class that random targets then avoid."""
    statistics: str = "running"
    """One of `STATISTICS`, those of batch normalisation: the model in inference mode,
    or in training mode, on all devices' images, whose own updates are dropped."""
    temperature: float = 1.0
    """What the logits are divided by, > 0; no prediction depends on it."""


SOUND = Crafting()


def craft(
    attack: Attack,
    crafting: Crafting,
    model: nn.Module,
    variables: Variables,
    keys: Array,
    images: Array,
    labels: Array,
    *,
    axis_name: str | None = None,
) -> Array:
    """Attack one device's share of a step's images.

    Args:
      attack: bound attack. With the batch's statistics, one in which no example ends
        before the others, or devices would wait for each other for ever.
      crafting: how it sees the model.
      model: from `models.create`.
      variables: the model's.
      keys: `[batch]`, consumed.
      images: clean images, float32 `[batch, height, width, channels]`.
      labels: true labels, int32 `[batch]`.
      axis_name: the mapped axis that the model averages statistics over; None outside
        `pmap`.

    Returns:
      Adversarial images, like `images`.
    """
    logits_fn: LogitsFn | StochasticLogitsFn
    if crafting.statistics == "batch":
        logits_fn = CoupledLogitsFn(_TrainingLogits(model, axis_name), variables)
    else:
        logits_fn = models.make_logits_fn(model, variables)
    if crafting.labels == "predicted":
        labels = jnp.argmax(logits_fn(images), axis=-1).astype(labels.dtype)
    if crafting.temperature != 1:
        logits_fn = attacks.make_tempered_logits_fn(logits_fn, crafting.temperature)
    return attack(logits_fn, keys, images, labels)


@dataclasses.dataclass(frozen=True)
class _TrainingLogits:
    """A model in training mode, as the static part of a `logits_fn`."""

    model: nn.Module
    axis_name: str | None

    def __call__(self, variables: Variables, images: Array) -> Array:
        output, _ = self.model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        if self.axis_name is None:
            return output.logits
        # NaN anywhere is NaN everywhere: an attack that ended on one device alone would
        # leave the others waiting for its statistics.
        is_broken = jnp.any(jnp.isnan(output.logits)).astype(jnp.int32)
        any_broken = lax.pmax(is_broken, self.axis_name) > 0
        return jnp.where(any_broken, jnp.nan, output.logits)
