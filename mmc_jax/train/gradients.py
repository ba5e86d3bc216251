"""The gradient of a step: passes in training mode, one loss, means over devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from mmc_jax.train.recipes import Recipe
from mmc_jax.types import Array, LossFn, Metrics, ModelOutput, Variables

Trained = dict[str, Any]
"""The collections that the optimiser changes: `params`, and perhaps `centers`."""

Result = tuple[Trained, tuple[dict[str, ModelOutput], Any, Metrics]]
"""The gradient, and (kind -> output, updated collections, metrics).

All but the outputs, which are one device's own, are means over the whole batch.
"""

Differentiate = Callable[[Trained], Result]


def make_differentiate(
    model: nn.Module,
    variables: Variables,
    images: Mapping[str, Array],
    labels: Array,
    *,
    loss_fn: LossFn,
    recipe: Recipe,
    axis_name: str | None = None,
) -> Differentiate:
    """Return the function from what is trained to the gradient of a batch's mean loss.

    Args:
      model: from `models.create`.
      variables: the model's; what is trained stands in for its own there.
      images: `recipes.KINDS` -> one device's share of the images of that kind.
      labels: int32 `[batch]`.
      loss_fn: (output, labels, variables) -> `[batch]`.
      recipe: how the outputs become one loss.
      axis_name: the mapped axis to average over; None outside `pmap`.

    Returns:
      trained -> gradient, (outputs, updates, metrics); it may be called at several
      points of a step. `metrics` are `loss` and `accuracy` on adversarial images.
    """

    def mean_loss(trained: Trained) -> tuple[Array, tuple]:
        complete = {**variables, **trained}
        outputs, updates = {}, {}
        for kind in recipe.passes:
            outputs[kind], updates[kind] = model.apply(
                complete, images[kind], train=True, mutable=["batch_stats"]
            )
        losses = recipe.combine(loss_fn, outputs, labels, complete)
        chex.assert_shape(losses, labels.shape)
        correct = jnp.argmax(outputs["adversarial"].logits, -1) == labels
        metrics = {
            "loss": jnp.mean(losses),
            "accuracy": jnp.mean(correct, dtype=jnp.float32),
        }
        return metrics["loss"], (outputs, updates[recipe.statistics_from], metrics)

    def differentiate(trained: Trained) -> Result:
        gradients, (outputs, updates, metrics) = jax.grad(mean_loss, has_aux=True)(
            trained
        )
        if axis_name is not None:
            gradients, updates, metrics = lax.pmean(
                (gradients, updates, metrics), axis_name
            )
        return gradients, (outputs, updates, metrics)

    return differentiate
