"""The class centers mu of the Max-Mahalanobis losses, and the logits they define.

`max_mahalanobis_centers` is the paper's choice: all centers on a sphere, the closest
pair as far apart as can be. Up to twice as many classes as dimensions, and in the
plane, the best arrangement is known and written down exactly; beyond that
`mmc_jax.spherical_codes` searches for it. `random_centers` is the paper's ablation.

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
      ValueError: if a size is not an integer or too small, or the norm is not
        positive and finite.

    Examples:
      >>> print(max_mahalanobis_centers(3, 2, center_norm=1.0).round(3))
      [[ 1.     0.   ]
       [-0.5    0.866]
       [-0.5   -0.866]]

    Source: Pang et al., ICLR 2020, Algorithm 1, for the simplex; Rankin, "The Closest
    Packing of Spherical Caps in n Dimensions", 1955, for the bound of 90 degrees.
    """
    check_center_sizes(num_classes, feature_dim, center_norm)
    if num_classes <= 2 * feature_dim:
        points = _orthogonal_simplices(int(num_classes), int(feature_dim))
    elif feature_dim == 2:
        points = _regular_polygon(int(num_classes))
    else:
        raise NotImplementedError("spherical codes with num_classes > 2 feature_dim")
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


def mahalanobis_logits(features: Array, centers: Array) -> Array:
    """Return the logits of the Mahalanobis head.

    `h_k = -||z - mu_k||^2`

    These are the constants of the authors' code: neither the 1/2 of the Gaussian
    log-likelihood (and of the paper's MMC loss) nor a temperature. Softmax of these
    logits is therefore not the class posterior under unit covariance, but its argmax,
    the nearest center, is the same.

    The difference is squared as it stands, not expanded into
    `||z||^2 - 2 <z, mu_k> + ||mu_k||^2`: those terms are of size C_MM^2 and cancel
    where the example is near its center. At C_MM = 100 in float32 that leaves an
    absolute error of 1e-3 on CPU, and of 10 or more on accelerators whose matrix
    products round to bfloat16 or TF32 by default. XLA fuses broadcast, square and sum,
    so that no `[batch, num_classes, feature_dim]` array need be stored for it.

    Args:
      features: z, float `[batch, feature_dim]`.
      centers: mu, float `[num_classes, feature_dim]`.

    Returns:
      h, `[batch, num_classes]`, all <= 0.

    Examples:
      >>> centers = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
      >>> mahalanobis_logits(jnp.array([[3.0, 0.0]]), centers).tolist()
      [[-4.0, -16.0]]

    Source: Pang et al., ICLR 2020; the constants are those of the authors' code.
    """
    chex.assert_rank([features, centers], 2)
    chex.assert_type([features, centers], float)
    chex.assert_axis_dimension(features, 1, centers.shape[1])
    differences = features[:, None, :] - centers[None, :, :]
    return -jnp.sum(jnp.square(differences), axis=-1)


def check_center_sizes(
    num_classes: int, feature_dim: int, center_norm: float = 1.0
) -> None:
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


def _regular_simplex(num_points: int) -> np.ndarray:
    """Return the unit simplex, float64 `[num_points, num_points - 1]`."""
    cosine = -1.0 / (num_points - 1)
    points = np.zeros((num_points, num_points - 1))
    squared_norm = 0.0  # of the part of the lower rows that is already filled
    for column in range(num_points - 1):
        diagonal = math.sqrt(1.0 - squared_norm)
        below = (cosine - squared_norm) / diagonal
        points[column, column] = diagonal
        points[column + 1 :, column] = below
        squared_norm += below**2
    return points


def _orthogonal_simplices(num_points: int, dim: int) -> np.ndarray:
    """Return num_points <= 2 dim unit points: one simplex, or several at 90 degrees.

    m simplices that span all of dim have dim + m vertices. Sizes are as equal as
    possible; for 2 dim points this is the cross-polytope, for dim + 1 the simplex.
    """
    num_simplices = max(1, num_points - dim)
    points = np.zeros((num_points, dim))
    row = column = 0
    for group in np.array_split(np.arange(num_points), num_simplices):
        size = len(group)
        points[row : row + size, column : column + size - 1] = _regular_simplex(size)
        row, column = row + size, column + size - 1
    return points


def _regular_polygon(num_points: int) -> np.ndarray:
    angles = 2.0 * np.pi * np.arange(num_points) / num_points
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
