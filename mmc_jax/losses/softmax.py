"""Softmax cross-entropy, alone and with the center loss."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mmc_jax.losses.mahalanobis import mmc_loss
from mmc_jax.losses.rows import (
    BoundLoss,
    Loss,
    check_number,
    check_shapes,
    check_smoothing,
    own_rows,
    read_centers,
    smoothed_cross_entropy,
)
from mmc_jax.types import Array, LossFn, ModelOutput, Variables


def center_loss(features: Array, labels: Array, centers: Array) -> Array:
    """Return half the squared distance of each example to its class's center.

    `L_C(z, y) = 1/2 ||z - mu_y||^2`. The equation is that of MMC; what differs is where
    the centers are: they follow the features (`updated_centers`). Alone it would draw
    all features to one point, so it is added to the cross-entropy of linear logits.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.

    Returns:
      The loss, `[batch]`, >= 0.

    Source: Wen, Zhang, Li and Qiao, "A Discriminative Feature Learning Approach for
    Deep Face Recognition", ECCV 2016, Equation (2).
    """
    return mmc_loss(features, labels, centers)


def updated_centers(
    features: Array,
    labels: Array,
    centers: Array,
    *,
    center_rate: float = 0.5,
    axis_name: str | None = None,
) -> Array:
    """Return the centers after one step towards the features of a batch.

    `mu_k <- mu_k - alpha sum_{i: y_i = k} (mu_k - z_i) / (1 + n_k)`, where n_k is how
    many examples of class k the batch has: not a step along the loss's gradient. A
    class without examples stays where it is.

    Args:
      features: z, float `[batch, feature_dim]`, of one device's share of the batch.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.
      center_rate: alpha, in [0, 1].
      axis_name: the mapped axis whose shares make up the batch; None outside `pmap`.

    Returns:
      mu, shaped and typed like `centers`.

    Examples:
      >>> features, labels = jnp.array([[4.0], [2.0], [9.0]]), jnp.array([0, 0, 1])
      >>> centers = jnp.array([[0.0], [9.0], [7.0]])
      >>> updated_centers(features, labels, centers, center_rate=0.5).tolist()
      [[1.0], [9.0], [7.0]]

    Source: Wen et al., ECCV 2016, Equation (4).
    """
    check_shapes(features, labels, centers)
    is_class = jax.nn.one_hot(labels, len(centers), dtype=centers.dtype)
    # Differences before the sum: with far centers, the difference of sums is rounding.
    differences = own_rows(centers, labels) - features
    sums = jnp.matmul(is_class.T, differences, precision=jax.lax.Precision.HIGHEST)
    counts = jnp.sum(is_class, axis=0)
    if axis_name is not None:
        sums, counts = jax.lax.psum((sums, counts), axis_name)
    return centers - center_rate * sums / (1.0 + counts)[:, None]


def _make_softmax(*, label_smoothing: float = 0.0) -> LossFn:
    check_smoothing(label_smoothing)

    def softmax(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        del variables
        return smoothed_cross_entropy(output.logits, labels, label_smoothing)

    return softmax


def _make_center(
    *,
    center_weight: float = 0.003,
    center_rate: float = 0.5,
    label_smoothing: float = 0.0,
) -> LossFn:
    """Bind the joint loss, `cross-entropy + center_weight * center_loss`."""
    check_number("center_weight", center_weight, positive=False)
    check_number("center_rate", center_rate, positive=False)
    check_smoothing(label_smoothing)
    if center_rate > 1:
        raise ValueError(f"center_rate must be in [0, 1], got {center_rate!r}")

    def center(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        (centers,) = read_centers(variables, "softmax_with_centers", "centers")
        classification = smoothed_cross_entropy(output.logits, labels, label_smoothing)
        pull = center_loss(output.features, labels, centers)
        return classification + center_weight * pull

    def update(
        output: ModelOutput, labels: Array, variables: Variables, axis_name: str | None
    ) -> Mapping[str, Array]:
        (centers,) = read_centers(variables, "softmax_with_centers", "centers")
        moved = updated_centers(
            output.features,
            labels,
            centers,
            center_rate=center_rate,
            axis_name=axis_name,
        )
        return {"centers": moved}

    return BoundLoss(center, update)


LOSSES = {
    "softmax": Loss("softmax", _make_softmax),
    "center": Loss("softmax_with_centers", _make_center),
}
