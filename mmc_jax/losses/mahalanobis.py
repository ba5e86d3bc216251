"""Losses by the distance to class centers: MMC, its variants, and MMLDA."""

from __future__ import annotations

import chex
import jax.numpy as jnp
import optax

from mmc_jax.centers import mahalanobis_logits
from mmc_jax.losses.rows import (
    Loss,
    check_number,
    check_shapes,
    check_smoothing,
    own_rows,
    read_centers,
    smoothed_cross_entropy,
)
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
    return 0.5 * _squared_distance(features, labels, centers)


def absolute_mmc_loss(features: Array, labels: Array, centers: Array) -> Array:
    """Return the distance of each example to its center.

    `L(z, y) = ||z - mu_y||`: every example pulls alike, however far it is. The gradient
    at the center itself, where there is none, is 0.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.

    Returns:
      The loss, `[batch]`, >= 0.

    Examples:
      >>> features, centers = jnp.array([[3.0, 4.0]]), jnp.zeros((2, 2))
      >>> absolute_mmc_loss(features, jnp.array([0]), centers).tolist()
      [5.0]

    Source: Pang et al., ICLR 2020, appendix, on other forms than the squared error.
    """
    check_shapes(features, labels, centers)
    return optax.safe_norm(features - own_rows(centers, labels), 0.0, axis=-1)


def huber_mmc_loss(
    features: Array, labels: Array, centers: Array, *, threshold: float = 1.0
) -> Array:
    """Return the Huber function of each example's distance to its center.

    With `r = ||z - mu_y||`: `r^2 / 2` up to the threshold t, `t (r - t / 2)` beyond it.
    The squared form near the center, and the absolute one far away.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.
      threshold: t, a distance > 0.

    Returns:
      The loss, `[batch]`, >= 0.

    Examples:
      >>> features, centers = jnp.array([[3.0, 4.0], [0.6, 0.8]]), jnp.zeros((2, 2))
      >>> huber_mmc_loss(features, jnp.array([0, 1]), centers, threshold=2.0).tolist()
      [8.0, 0.5]

    Source: Huber, "Robust Estimation of a Location Parameter", 1964; Pang et al., ICLR
    2020, appendix.
    """
    distances = absolute_mmc_loss(features, labels, centers)
    return optax.huber_loss(distances, delta=threshold)


def elastic_mmc_loss(
    features: Array,
    labels: Array,
    centers: Array,
    preset_centers: Array,
    *,
    elasticity: float = 1.0,
) -> Array:
    """Return the MMC loss to trained centers that are held by the preset ones.

    `L_EMC(z, y) = 1/2 ||z - mu_y||^2 + 1 / (2 alpha) ||mu_y - mu*_y||^2`: minus the
    log-likelihood of z ~ N(mu_y, I) and mu_y ~ N(mu*_y, alpha I). The gradient moves
    the centers mu; towards alpha = 0 this is MMC.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`, trained.
      preset_centers: mu*, float `[num_classes, feature_dim]`, fixed.
      elasticity: alpha > 0, a squared distance.

    Returns:
      The loss, `[batch]`, >= 0.

    Examples:
      >>> features, centers = jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 0.0]])
      >>> elastic_mmc_loss(
      ...     features, jnp.array([0]), centers, jnp.zeros((1, 2)), elasticity=4.0
      ... ).tolist()
      [1.0]

    Source: Pang et al., ICLR 2020, appendix, the elastic Max-Mahalanobis center loss.
    """
    chex.assert_equal_shape([centers, preset_centers])
    pull = _squared_distance(own_rows(centers, labels), labels, preset_centers)
    return mmc_loss(features, labels, centers) + 0.5 / elasticity * pull


def mmlda_loss(
    features: Array, labels: Array, centers: Array, *, label_smoothing: float = 0.0
) -> Array:
    """Return the Max-Mahalanobis linear discriminant loss of each example.

    `L_MMLDA(z, y) = -log softmax(h)_y` with `h_k = -||z - mu_k||^2`: cross-entropy on
    the same logits that MMC predicts by.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.
      label_smoothing: the share of each label that goes to all classes, in [0, 1).

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
    check_shapes(features, labels, centers)
    logits = mahalanobis_logits(features, centers)
    return smoothed_cross_entropy(logits, labels, label_smoothing)


def _squared_distance(features: Array, labels: Array, centers: Array) -> Array:
    check_shapes(features, labels, centers)
    return jnp.sum(jnp.square(features - own_rows(centers, labels)), axis=-1)


def _make_mmc() -> LossFn:
    def mmc(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        (centers,) = read_centers(variables, "mahalanobis", "centers")
        return mmc_loss(output.features, labels, centers)

    return mmc


def _make_absolute_mmc() -> LossFn:
    def absolute_mmc(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        (centers,) = read_centers(variables, "mahalanobis", "centers")
        return absolute_mmc_loss(output.features, labels, centers)

    return absolute_mmc


def _make_huber_mmc(*, threshold: float = 1.0) -> LossFn:
    check_number("threshold", threshold)

    def huber_mmc(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        (centers,) = read_centers(variables, "mahalanobis", "centers")
        return huber_mmc_loss(output.features, labels, centers, threshold=threshold)

    return huber_mmc


def _make_elastic_mmc(*, elasticity: float = 1.0) -> LossFn:
    check_number("elasticity", elasticity)

    def elastic_mmc(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        (centers,) = read_centers(variables, "elastic", "centers")
        (preset,) = read_centers(
            variables, "elastic", "centers", collection="preset_centers"
        )
        return elastic_mmc_loss(
            output.features, labels, centers, preset, elasticity=elasticity
        )

    return elastic_mmc


def _make_mmlda(*, label_smoothing: float = 0.0) -> LossFn:
    check_smoothing(label_smoothing)

    def mmlda(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        (centers,) = read_centers(variables, "mahalanobis", "centers")
        return mmlda_loss(
            output.features, labels, centers, label_smoothing=label_smoothing
        )

    return mmlda


LOSSES = {
    "mmc": Loss("mahalanobis", _make_mmc),
    "mmlda": Loss("mahalanobis", _make_mmlda),
    "absolute_mmc": Loss("mahalanobis", _make_absolute_mmc),
    "huber_mmc": Loss("mahalanobis", _make_huber_mmc),
    "elastic_mmc": Loss("elastic", _make_elastic_mmc),
}
