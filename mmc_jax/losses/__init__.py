"""The losses, (features or logits, labels, ...) -> `[batch]`, and their table.

The functions are the papers' equations and can be imported alone. A config names a
loss; `make_loss` turns the name and its hyperparameters into the `LossFn` that the
train step calls, and `head_of` says which model head the loss is defined on.

To add a loss: write its equation, its factory and its row in the `LOSSES` of one file
of this package (`mahalanobis`, `gaussian` or `softmax`); its hyperparameters are the
factory's keyword arguments.

`adversarial` has the losses of a clean and an attacked image at once, TRADES and MART,
which recipes put around any of these.

Softmax cross-entropy itself is optax's. `batch` is the leading axis and nothing here
reduces over it but `updated_centers`, which says so.
"""

from __future__ import annotations

import inspect
from typing import Any

from mmc_jax.losses import gaussian, mahalanobis, softmax
from mmc_jax.losses.adversarial import kl_divergence, mart_loss, trades_loss
from mmc_jax.losses.gaussian import (
    generalized_softmax_cross_entropy,
    large_margin_gaussian_mixture_loss,
)
from mmc_jax.losses.mahalanobis import (
    absolute_mmc_loss,
    elastic_mmc_loss,
    huber_mmc_loss,
    mmc_loss,
    mmlda_loss,
)
from mmc_jax.losses.rows import BoundLoss, Loss, check_number
from mmc_jax.losses.softmax import center_loss, updated_centers
from mmc_jax.types import Array, ModelOutput, Variables

__all__ = [
    "LOSSES",
    "BoundLoss",
    "Loss",
    "absolute_mmc_loss",
    "center_loss",
    "elastic_mmc_loss",
    "generalized_softmax_cross_entropy",
    "head_of",
    "hyperparameters_of",
    "huber_mmc_loss",
    "kl_divergence",
    "large_margin_gaussian_mixture_loss",
    "make_loss",
    "mart_loss",
    "mmc_loss",
    "mmlda_loss",
    "trades_loss",
    "updated_centers",
]

LOSSES: dict[str, Loss] = {
    name: rows[name]
    for rows in (softmax.LOSSES, mahalanobis.LOSSES, gaussian.LOSSES)
    for name in rows
}
"""Every loss that a config may name."""


def make_loss(
    name: str, *, loss_scale: float = 1.0, **hyperparameters: float
) -> BoundLoss:
    """Return the named loss as the train step calls it.

    Args:
      name: a key of `LOSSES`.
      loss_scale: a finite factor > 0. 2.0 on "mmc" is the authors' objective.
      **hyperparameters: the loss's own, by name (`hyperparameters_of`); each has a
        default.

    Returns:
      `loss_fn(output, labels, variables) -> [batch]`. Losses with centers read
      `variables["centers"]`; where they move them by a rule of their own, the result
      carries it.

    Raises:
      ValueError: if the name or a hyperparameter is unknown, or a value is not
        accepted.

    Examples:
      >>> import jax.numpy as jnp
      >>> loss_fn = make_loss("softmax", loss_scale=2.0)
      >>> output = ModelOutput(features=jnp.zeros((1, 3)), logits=jnp.zeros((1, 2)))
      >>> print(loss_fn(output, jnp.array([0]), {}).round(4))
      [1.3863]
    """
    known = hyperparameters_of(name)
    for given in hyperparameters:
        if given not in known:
            accepted = ", ".join(["loss_scale", *known])
            raise ValueError(
                f"loss {name!r} has no hyperparameter {given!r}; accepted: {accepted}"
            )
    check_number("loss_scale", loss_scale)
    loss_fn = _row(name).make(**hyperparameters)

    def scaled_loss_fn(
        output: ModelOutput, labels: Array, variables: Variables
    ) -> Array:
        return loss_scale * loss_fn(output, labels, variables)

    if isinstance(loss_fn, BoundLoss):
        return BoundLoss(scaled_loss_fn, loss_fn.update_centers)
    return BoundLoss(scaled_loss_fn)


def head_of(name: str) -> str:
    """Return the model head that the named loss needs.

    Args:
      name: a key of `LOSSES`.

    Returns:
      The `head` to pass to `models.create`.

    Raises:
      ValueError: if the name is unknown.
    """
    return _row(name).head


def hyperparameters_of(name: str) -> dict[str, Any]:
    """Return the named loss's own hyperparameters and their defaults.

    Args:
      name: a key of `LOSSES`.

    Returns:
      Name -> default, empty for a loss that has none.

    Raises:
      ValueError: if the name is unknown.

    Examples:
      >>> hyperparameters_of("lgm")
      {'margin': 0.1, 'likelihood_weight': 0.01}
    """
    parameters = inspect.signature(_row(name).make).parameters
    return {option: parameter.default for option, parameter in parameters.items()}


def _row(name: str) -> Loss:
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known losses: {', '.join(LOSSES)}")
    return LOSSES[name]
