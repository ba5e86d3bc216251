"""Losses that train a quadratic function, or a Gaussian, for each class."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from mmc_jax.centers import gaussian_logits, quadratic_logits
from mmc_jax.losses.rows import (
    Loss,
    check_number,
    check_shapes,
    own_rows,
    read_centers,
)
from mmc_jax.types import Array, LossFn, ModelOutput, Variables


def generalized_softmax_cross_entropy(
    features: Array, labels: Array, means: Array, scales: Array, biases: Array
) -> Array:
    """Return the cross-entropy of quadratic logits, the paper's g-SCE.

    `L_gSCE(z, y) = -log softmax(h)_y` with
    `h_k = -(z - mu_k)^T Sigma_k (z - mu_k) + B_k`.

    Linear logits `W z + b` are the case `mu_k = W_k / 2`, `Sigma_k = I`,
    `B_k = b_k + ||W_k||^2 / 4`, and MMLDA is that of preset means and no biases.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      means: mu, float `[num_classes, feature_dim]`.
      scales: sigma, float `[num_classes]` for `Sigma_k = sigma_k I`, or the diagonals
        of Sigma, `[num_classes, feature_dim]`.
      biases: B, float `[num_classes]`.

    Returns:
      The loss, `[batch]`, >= 0.

    Examples:
      >>> loss = generalized_softmax_cross_entropy(
      ...     jnp.array([[1.0, 0.0]]),
      ...     jnp.array([0]),
      ...     means=jnp.zeros((2, 2)),
      ...     scales=jnp.array([1.0, 3.0]),
      ...     biases=jnp.array([0.0, 2.0]),
      ... )
      >>> print(loss.round(4))
      [0.6931]

    Source: Pang et al., ICLR 2020, the definition of g-SCE and its quadratic logits.
    """
    check_shapes(features, labels, means)
    logits = quadratic_logits(features, means, scales, biases)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def large_margin_gaussian_mixture_loss(
    features: Array,
    labels: Array,
    centers: Array,
    *,
    log_variances: Array | None = None,
    margin: float = 0.1,
    likelihood_weight: float = 0.01,
) -> Array:
    """Return the large-margin Gaussian mixture loss (L-GM) of each example.

    With `d_k = 1/2 (z - mu_k)^T Lambda_k^-1 (z - mu_k)` and equal priors:

    `L = -log softmax(h)_y + lambda (d_y + 1/2 log|Lambda_y|)`, where
    `h_k = -(1 + alpha [k = y]) d_k - 1/2 log|Lambda_k|`.

    The margin is `alpha d_y`: it grows with the distance, as in the paper of L-GM. The
    paper of MMC writes it as a constant.

    Args:
      features: z, float `[batch, feature_dim]`.
      labels: y, integer `[batch]` in [0, num_classes).
      centers: mu, float `[num_classes, feature_dim]`.
      log_variances: the logarithms of the diagonals of Lambda, shaped like centers;
        None for Lambda = I.
      margin: alpha >= 0. The default is that of the authors' demo.
      likelihood_weight: lambda >= 0; likewise.

    Returns:
      The loss, `[batch]`.

    Examples:
      >>> loss = large_margin_gaussian_mixture_loss(
      ...     jnp.array([[0.0, 2.0]]),
      ...     jnp.array([0]),
      ...     jnp.array([[0.0, 0.0], [0.0, 4.0]]),
      ...     margin=0.0,
      ...     likelihood_weight=0.5,
      ... )
      >>> print(loss.round(4))
      [1.6931]

    Source: Wan, Zhong, Li and Chen, "Rethinking Feature Distribution for Loss Functions
    in Image Classification", CVPR 2018.
    """
    check_shapes(features, labels, centers)
    logits = gaussian_logits(features, centers, log_variances=log_variances)
    squares = jnp.square(features - own_rows(centers, labels))
    log_volume = jnp.zeros((), features.dtype)
    if log_variances is not None:
        own_log_variances = own_rows(log_variances, labels)
        squares = squares * jnp.exp(-own_log_variances)
        log_volume = 0.5 * jnp.sum(own_log_variances, axis=-1)
    distance = 0.5 * jnp.sum(squares, axis=-1)
    is_own = jax.nn.one_hot(labels, len(centers), dtype=logits.dtype)
    logits = logits - margin * distance[:, None] * is_own
    classification = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return classification + likelihood_weight * (distance + log_volume)


def _make_gsce() -> LossFn:
    def gsce(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        means, log_scales, biases = read_centers(
            variables, "quadratic", "centers", "log_scales", "biases"
        )
        return generalized_softmax_cross_entropy(
            output.features, labels, means, jnp.exp(log_scales), biases
        )

    return gsce


def _make_lgm(
    head: str, *, margin: float = 0.1, likelihood_weight: float = 0.01
) -> LossFn:
    check_number("margin", margin, positive=False)
    check_number("likelihood_weight", likelihood_weight, positive=False)
    names = ("centers", "log_variances") if head == "gaussian" else ("centers",)

    def lgm(output: ModelOutput, labels: Array, variables: Variables) -> Array:
        centers, *log_variances = read_centers(variables, head, *names)
        return large_margin_gaussian_mixture_loss(
            output.features,
            labels,
            centers,
            log_variances=log_variances[0] if log_variances else None,
            margin=margin,
            likelihood_weight=likelihood_weight,
        )

    return lgm


LOSSES = {
    "gsce": Loss("quadratic", _make_gsce),
    "lgm": Loss("gaussian", functools.partial(_make_lgm, "gaussian")),
    "lgm_identity": Loss(
        "unit_gaussian", functools.partial(_make_lgm, "unit_gaussian")
    ),
}
