"""What the losses share: a row of the table, what it makes, and its checks."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from mmc_jax.types import Array, LossFn, ModelOutput, Variables

CenterUpdate = Callable[[ModelOutput, Array, Variables, str | None], Mapping]
"""(output, labels `[batch]`, variables, axis_name) -> the next `centers` collection.

For losses whose centers follow the features by a rule of their own. Its sums over the
batch go over the devices of `axis_name` too, where there is one.
"""


@dataclasses.dataclass(frozen=True)
class BoundLoss:
    """A loss with its hyperparameters, as the train step calls it: a `LossFn`."""

    loss_fn: LossFn
    update_centers: CenterUpdate | None = None
    """How the step moves the centers; None where no rule of the loss's own does."""

    def __call__(
        self, output: ModelOutput, labels: Array, variables: Variables
    ) -> Array:
        """Return the loss, `[batch]`."""
        return self.loss_fn(output, labels, variables)


class Loss(NamedTuple):
    """A row of `LOSSES`."""

    head: str
    """The model head that the loss is defined on."""
    make: Callable[..., LossFn]
    """Return the loss with its hyperparameters, all of them keyword arguments with
    defaults, as the train step calls it."""


def check_shapes(features: Array, labels: Array, centers: Array) -> None:
    """Refuse arrays that are no features, labels and centers of one problem."""
    chex.assert_rank([features, labels, centers], [2, 1, 2])
    chex.assert_type([features, labels, centers], [float, int, float])
    chex.assert_equal_shape_prefix([features, labels], 1)
    chex.assert_axis_dimension(features, 1, centers.shape[1])


def own_rows(rows: Array, labels: Array) -> Array:
    """Return each example's row; NaN for a label that no class has."""
    return (
        jnp.asarray(rows)
        .at[labels]
        .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )


def smoothed_cross_entropy(
    logits: Array, labels: Array, label_smoothing: float
) -> Array:
    """Return the cross-entropy with labels that are smoothed.

    `-sum_k q_k log softmax(h)_k`, where `q_k = (1 - s) [k = y] + s / num_classes`.

    Args:
      logits: h, float `[batch, num_classes]`.
      labels: y, integer `[batch]`; NaN comes of one that no class has.
      label_smoothing: s, in [0, 1).

    Returns:
      The loss, `[batch]`, >= 0.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
    CVPR 2016, Section 7.
    """
    if not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = own_rows(jnp.eye(logits.shape[-1], dtype=logits.dtype), labels)
    smooth = optax.smooth_labels(one_hot, label_smoothing)
    return optax.softmax_cross_entropy(logits, smooth)


def check_smoothing(label_smoothing: float) -> None:
    """Refuse a share of the labels that is not in [0, 1).

    Raises:
      ValueError: naming it, its value and what is accepted.
    """
    check_number("label_smoothing", label_smoothing, positive=False)
    if label_smoothing >= 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")


def read_centers(
    variables: Variables, head: str, *names: str, collection: str = "centers"
) -> tuple[Array, ...]:
    """Return the named arrays of a collection that `head` keeps there.

    Raises:
      ValueError: if they are not there; it names the head that has them.
    """
    held = variables.get(collection, {})
    if not set(names) <= set(held):
        found = sorted(held) if held else f"only {sorted(variables)}"
        raise ValueError(
            f"this loss needs a model with head={head!r}, whose {collection!r}"
            f" collection holds {', '.join(names)}; found {found}"
        )
    return tuple(held[name] for name in names)


def check_number(name: str, value: float, *, positive: bool = True) -> None:
    """Refuse a hyperparameter that is no finite number > 0, or >= 0.

    Args:
      name: what it is called.
      value: what was given.
      positive: whether 0 is refused too.

    Raises:
      ValueError: naming it, its value and what is accepted.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= 0 and (value or not positive):
        return
    accepted = "> 0" if positive else ">= 0"
    raise ValueError(f"{name} must be finite and {accepted}, got {value!r}")
