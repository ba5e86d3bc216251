"""The class centers mu of the Max-Mahalanobis losses, and the logits they define.

`max_mahalanobis_centers` is the paper's choice: all centers on a sphere, the closest
pair as far apart as can be (`mmc_jax.spherical_codes` has the arrangements).
`random_centers` is the paper's ablation, `hierarchical_centers` its tree of classes.

Centers are made on the host in float64, so that they come out the same on any device
and also while JAX is tracing. They are made once, at a model's init, and from then on
live in its variables: an optimised code may come out rotated on another machine.
"""

from __future__ import annotations

import math
import numbers

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.spherical_codes import spherical_code
from mmc_jax.types import Array


def max_mahalanobis_centers(
    num_classes: int, feature_dim: int, *, center_norm: float = 10.0, seed: int = 0
) -> Array:
    """Return centers whose closest two are as far apart as possible.

    `mu = argmin max_{i != j} <mu_i, mu_j>` subject to `||mu_k|| = center_norm`.

    With L classes in d dimensions:
    - L <= d + 1: the regular simplex, every `<mu_i, mu_j> = -center_norm^2 / (L - 1)`;
    - d = 2: the regular polygon;
    - d + 2 <= L <= 2d: L - d simplices in orthogonal subspaces. No arrangement does
      better than their 90 degrees;
    - else: the best spherical code that an optimiser finds, in seconds.

    Args:
      num_classes: L, at least 2.
      feature_dim: d, at least 1, and at least 2 for more than two classes.
      center_norm: C_MM, finite and > 0.
      seed: of the optimiser's random starts; the exact cases ignore it.

    Returns:
      mu, float32 `[num_classes, feature_dim]`. The simplex is lower triangular: row k
      ends in column k.

    Raises:
      ValueError: if a size or the seed is not an integer or too small, or the norm is
        not positive and finite.

    Examples:
      >>> centers = max_mahalanobis_centers(3, 2, center_norm=2.0)
      >>> print((centers @ centers.T).round(1))
      [[ 4. -2. -2.]
       [-2.  4. -2.]
       [-2. -2.  4.]]

    Source: Pang et al., ICLR 2020, Algorithm 1, for the simplex; Rankin, "The Closest
    Packing of Spherical Caps in n Dimensions", 1955, for the bound of 90 degrees.
    """
    check_center_sizes(num_classes, feature_dim, center_norm)
    _check_integer("seed", seed, minimum=0)
    points = spherical_code(int(num_classes), int(feature_dim), seed=int(seed))
    return jnp.asarray(float(center_norm) * points, dtype=jnp.float32)


def random_centers(
    key: Array, num_classes: int, feature_dim: int, *, center_norm: float = 10.0
) -> Array:
    """Return independent centers, uniform on the sphere of radius `center_norm`.

    Args:
      key: typed PRNG key; consumed.
      num_classes: at least 2.
      feature_dim: at least 1, and at least 2 for more than two classes.
      center_norm: C_MM, finite and > 0.

    Returns:
      mu, float32 `[num_classes, feature_dim]`.

    Raises:
      ValueError: as `max_mahalanobis_centers`.

    Source: Pang et al., ICLR 2020, the ablation "MMC-10 (rand)".
    """
    check_center_sizes(num_classes, feature_dim, center_norm)
    shape = int(num_classes), int(feature_dim)
    directions = jax.random.normal(key, shape, dtype=jnp.float32)
    norms = jnp.linalg.norm(directions, axis=1, keepdims=True)
    return float(center_norm) * directions / norms


def hierarchical_centers(
    parents: np.ndarray, feature_dim: int, *, center_norms: tuple[float, float]
) -> Array:
    """Return the centers of a tree of classes with two levels.

    `mu_k = mu_p^(1, P) + mu_j^(2, S_p)`: the center of class k's parent p among all P
    parents, with norm C_1, and that of k as the j-th of p's S_p children, with norm
    C_2. An only child sits on its parent.

    Args:
      parents: int `[num_classes]`, the parent of each class, every one of 0 to P - 1
        occurring; a data set's own coarse labels (`DataSplits.class_parents`).
      feature_dim: at least 1.
      center_norms: (C_1, C_2), positive, C_2 well below C_1.

    Returns:
      mu, float32 `[num_classes, feature_dim]`; not of one norm.

    Raises:
      ValueError: if parents are not such integers, there are not two norms, or as
        `max_mahalanobis_centers`.

    Examples:
      >>> parents = np.array([0, 1, 1])
      >>> print(hierarchical_centers(parents, 1, center_norms=(10.0, 1.0)).ravel())
      [ 10.  -9. -11.]

    Source: Pang et al., ICLR 2020, appendix, hierarchical Max-Mahalanobis centers.
    """
    parents = np.asarray(parents)
    if parents.ndim != 1 or not np.issubdtype(parents.dtype, np.integer):
        raise ValueError(
            "parents must be integers [num_classes], got"
            f" {parents.dtype} {list(parents.shape)}"
        )
    names, sizes = np.unique(parents, return_counts=True)
    if not np.array_equal(names, np.arange(len(names))):
        raise ValueError(
            f"parents must be 0 to their number - 1, each occurring, got {names}"
        )
    if len(center_norms) != 2:
        raise ValueError(f"center_norms must be two norms, got {center_norms!r}")
    coarse, fine = center_norms
    check_center_sizes(len(names), feature_dim, coarse)
    centers = _code(len(names), feature_dim, coarse)[parents]
    for parent, size in zip(names, sizes, strict=True):
        centers[parents == parent] += _code(size, feature_dim, fine)
    return jnp.asarray(centers, dtype=jnp.float32)


def _code(num_points: int, feature_dim: int, norm: float) -> np.ndarray:
    """Return a code of that norm, in float64 on the host; one point is the origin."""
    check_center_sizes(max(num_points, 2), feature_dim, norm)
    if num_points == 1:
        return np.zeros((1, feature_dim))
    return norm * spherical_code(int(num_points), int(feature_dim))


def mahalanobis_logits(features: Array, centers: Array) -> Array:
    """Return the logits of the Mahalanobis head.

    `h_k = -||z - mu_k||^2 = -(||z||^2 - 2 <z, mu_k> + ||mu_k||^2)`

    These are the constants of the authors' code: neither the 1/2 of the Gaussian
    log-likelihood (and of the paper's MMC loss) nor a temperature. Softmax of these
    logits is therefore not the class posterior under unit covariance, but its argmax,
    the nearest center, is the same.

    The right-hand form is computed. Its terms cancel near a center, which leaves an
    error of some 1e-7 C_MM^2 in float32 (2e-5 at C_MM = 10, 3e-3 at 100; a logit may so
    come out above 0). The differences that decide a class or an attack are of size
    C_MM^2, where float32 holds no more digits in either form, and `mmc_loss`, which
    needs the own distance itself, takes it from the difference. In exchange nothing of
    shape `[batch, num_classes, feature_dim]` arises: with 100 classes, 256 dimensions
    and a batch of 128, value and gradient cost a tenth on a CPU. The product must not
    be rounded to bfloat16 or TF32, the default on accelerators: that would leave errors
    of up to C_MM^2 / 100.

    Args:
      features: z, float `[batch, feature_dim]`.
      centers: mu, float `[num_classes, feature_dim]`.

    Returns:
      h, `[batch, num_classes]`, <= 0 up to rounding.

    Examples:
      >>> centers = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
      >>> mahalanobis_logits(jnp.array([[3.0, 0.0]]), centers).tolist()
      [[-4.0, -16.0]]

    Source: Pang et al., ICLR 2020; the constants are those of the authors' code.
    """
    chex.assert_rank([features, centers], 2)
    chex.assert_type([features, centers], float)
    chex.assert_axis_dimension(features, 1, centers.shape[1])
    products = jnp.matmul(features, centers.T, precision=jax.lax.Precision.HIGHEST)
    squared_features = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    squared_centers = jnp.sum(jnp.square(centers), axis=-1)[None, :]
    return 2.0 * products - squared_features - squared_centers


def quadratic_logits(
    features: Array, means: Array, scales: Array, biases: Array
) -> Array:
    """Return the quadratic logits of the paper's g-SCE.

    `h_k = -(z - mu_k)^T Sigma_k (z - mu_k) + B_k`, computed as `mahalanobis_logits` is,
    without anything of shape `[batch, num_classes, feature_dim]`.

    Args:
      features: z, float `[batch, feature_dim]`.
      means: mu, float `[num_classes, feature_dim]`.
      scales: sigma, float `[num_classes]` for `Sigma_k = sigma_k I`, or the diagonals
        of Sigma, `[num_classes, feature_dim]`.
      biases: B, float `[num_classes]`.

    Returns:
      h, `[batch, num_classes]`.

    Examples:
      >>> means, biases = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0.0, 9.0])
      >>> features = jnp.array([[3.0, 0.0]])
      >>> quadratic_logits(features, means, jnp.array([1.0, 2.0]), biases).tolist()
      [[-4.0, -17.0]]

    Source: Pang et al., ICLR 2020, the quadratic logits of g-SCE.
    """
    chex.assert_type([features, means, scales, biases], float)
    chex.assert_shape(biases, means.shape[:1])
    if scales.ndim == 1:
        chex.assert_equal_shape([scales, biases])
        distances = -mahalanobis_logits(features, means)
        return biases[None, :] - scales[None, :] * distances
    chex.assert_equal_shape([scales, means])
    chex.assert_shape(features, (None, means.shape[1]))
    highest = jax.lax.Precision.HIGHEST
    scaled = scales * means
    squares = jnp.matmul(jnp.square(features), scales.T, precision=highest)
    products = jnp.matmul(features, scaled.T, precision=highest)
    offsets = biases - jnp.sum(scaled * means, axis=-1)
    return 2.0 * products - squares + offsets[None, :]


def gaussian_logits(
    features: Array, centers: Array, *, log_variances: Array | None = None
) -> Array:
    """Return the log-likelihood of each class's Gaussian, up to a constant.

    `h_k = -1/2 (z - mu_k)^T Lambda_k^-1 (z - mu_k) - 1/2 log|Lambda_k|`

    Args:
      features: z, float `[batch, feature_dim]`.
      centers: mu, float `[num_classes, feature_dim]`.
      log_variances: the logarithms of the diagonals of Lambda, shaped like centers;
        None for Lambda = I.

    Returns:
      h, `[batch, num_classes]`.

    Examples:
      >>> gaussian_logits(jnp.array([[3.0]]), jnp.array([[1.0], [3.0]])).tolist()
      [[-2.0, 0.0]]

    Source: Wan et al., CVPR 2018, the logits of the Gaussian mixture at test time.
    """
    if log_variances is None:
        return 0.5 * mahalanobis_logits(features, centers)
    scales = 0.5 * jnp.exp(-log_variances)
    biases = -0.5 * jnp.sum(log_variances, axis=-1)
    return quadratic_logits(features, centers, scales, biases)


def check_center_sizes(num_classes: int, feature_dim: int, center_norm: float) -> None:
    """Refuse sizes and norms for which no centers exist.

    Args:
      num_classes: an integer >= 2.
      feature_dim: an integer >= 1, and >= 2 for more than two classes.
      center_norm: finite and > 0.

    Raises:
      ValueError: naming the argument, its value and what is accepted.
    """
    _check_integer("num_classes", num_classes, minimum=2)
    _check_integer("feature_dim", feature_dim, minimum=1)
    if feature_dim == 1 and num_classes > 2:
        raise ValueError(
            "feature_dim=1 has room for two centers only, got "
            f"num_classes={num_classes}; use feature_dim >= 2"
        )
    is_number = isinstance(center_norm, numbers.Real)
    if isinstance(center_norm, bool) or not is_number:
        raise ValueError(f"center_norm must be a number > 0, got {center_norm!r}")
    if not (math.isfinite(center_norm) and center_norm > 0):
        raise ValueError(f"center_norm must be finite and > 0, got {center_norm!r}")


def _check_integer(name: str, value: int, *, minimum: int) -> None:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
