"""The losses, (features or logits, labels, ...) -> `[batch]`, and their table.

The functions are the paper's equations and can be imported alone. A config names a
loss; `make_loss` turns the name into the `LossFn` that the train step calls, and
`head_of` says which model head the loss is defined on.

To add a loss: write its equation, its factory and its row in `LOSSES`, all here.

Softmax cross-entropy itself is optax's. `batch` is the leading axis and nothing here
reduces over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax.numpy as jnp
import optax

from mmc_jax.centers import mahalanobis_logits
from mmc_jax.types import Array, LossFn, ModelOutput, Variables


def mmc_loss(features: Array, labels: Array, centers: Array) -> Array:
    """Return the Max-Mahalanobis center loss of each example.

    `L_MMC(z, y) = 1/2 ||z - mu_y||^2`

    The 1/2 is the paper's. The authors' code leaves it out, so their learning rate is
    reproduced by `make_loss("mmc", loss_scale=2.0)`.

    Only the example's own center enters: the cost does not grow with the number of
    classes.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes). A label outside gives NaN
        rather than some other class's center.
      centers: mu, float `[num_classes, feature_dim]`.

    Returns:
      The loss, `[batch]`, >= 0.

    Examples:
      >>> features = jnp.array([[3.0, 0.0], [0.0, 2.0]])
      >>> centers = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
      >>> mmc_loss(features, jnp.array([0, 1]), centers).tolist()
      [2.0, 2.5]

    Source: Pang et al., "Rethinking Softmax Cross-Entropy Loss for Adversarial
    Robustness", ICLR 2020, the definition of L_MMC.
    """
    _check_shapes(features, labels, centers)
    own_center = (
        jnp.asarray(centers)
        .at[labels]
        .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )
    return 0.5 * jnp.sum(jnp.square(features - own_center), axis=-1)


def mmlda_loss(features: Array, labels: Array, centers: Array) -> Array:
    """Return the Max-Mahalanobis linear discriminant loss of each example.

    `L_MMLDA(z, y) = -log softmax(h)_y` with `h_k = -||z - mu_k||^2`: cross-entropy on
    the same logits that MMC predicts by.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.

    Returns:
      The loss, `[batch]`, >= 0.

    Examples:
      >>> features = jnp.array([[0.0, 5.0]])
      >>> centers = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
      >>> print(mmlda_loss(features, jnp.array([0]), centers).round(4))
      [0.6931]

    Source: Pang, Du and Zhu, "Max-Mahalanobis Linear Discriminant Analysis Networks",
    ICML 2018, with identity covariance and equal priors; the logits carry no 1/2, as
    in the authors' code.
    """
    _check_shapes(features, labels, centers)
    logits = mahalanobis_logits(features, centers)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class Loss(NamedTuple):
    """A row of `LOSSES`."""

    head: Literal["softmax", "mahalanobis"]
    """The model head that the loss is defined on."""
    make: Callable[..., LossFn]
    """Return the loss as the train step calls it."""


def make_loss(name: str, *, loss_scale: float = 1.0) -> LossFn:
    """Return the named loss as the train step calls it.

    Args:
      name: a key of `LOSSES`.
      loss_scale: a finite factor > 0. 2.0 on "mmc" is the authors' objective.

    Returns:
      `loss_fn(output, labels, variables) -> [batch]`. Losses of the Mahalanobis head
      read `variables["centers"]["centers"]`.

    Raises:
      ValueError: if the name is unknown or the factor is not positive and finite.

    Examples:
      >>> loss_fn = make_loss("softmax", loss_scale=2.0)
      >>> output = ModelOutput(features=jnp.zeros((1, 3)), logits=jnp.zeros((1, 2)))
      >>> print(loss_fn(output, jnp.array([0]), {}).round(4))
      [1.3863]
    """
    loss_fn = _row(name).make()
    if not (math.isfinite(loss_scale) and loss_scale > 0):
        raise ValueError(f"loss_scale must be finite and > 0, got {loss_scale!r}")

    def scaled_loss_fn(
        output: ModelOutput, labels: Array, variables: Variables
    ) -> Array:
        return loss_scale * loss_fn(output, labels, variables)

    return scaled_loss_fn


def head_of(name: str) -> str:
    """Return the model head, "softmax" or "mahalanobis", that the named loss needs.

    Args:
      name: a key of `LOSSES`.

    Returns:
      The `head` to pass to `models.create`.

    Raises:
      ValueError: if the name is unknown.
    """
    return _row(name).head


def _row(name: str) -> Loss:
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known losses: {', '.join(LOSSES)}")
    return LOSSES[name]


def _check_shapes(features: Array, labels: Array, centers: Array) -> None:
    chex.assert_rank([features, labels, centers], [2, 1, 2])
    chex.assert_type([features, labels, centers], [float, int, float])
    chex.assert_equal_shape_prefix([features, labels], 1)
    chex.assert_axis_dimension(features, 1, centers.shape[1])


def _centers(variables: Variables) -> Array:
    if "centers" not in variables:
        raise ValueError(
            "this loss needs a model with head='mahalanobis': variables has no "
            f"'centers' collection, only {sorted(variables)}"
        )
    return variables["centers"]["centers"]


def _make_softmax() -> LossFn:
    def softmax(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        del variables
        return optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)

    return softmax


def _make_mmc() -> LossFn:
    def mmc(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        return mmc_loss(output.features, labels, _centers(variables))

    return mmc


def _make_mmlda() -> LossFn:
    def mmlda(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        return mmlda_loss(output.features, labels, _centers(variables))

    return mmlda


LOSSES: dict[str, Loss] = {
    "softmax": Loss("softmax", _make_softmax),
    "mmc": Loss("mahalanobis", _make_mmc),
    "mmlda": Loss("mahalanobis", _make_mmlda),
}
"""Every loss that a config may name."""
