"""The contours of g-SCE: where a pair of classes has one value of the loss.

g-SCE is softmax cross-entropy on quadratic logits,

    `h_i(z) = -sigma_i ||z - mu_i||^2 + B_i`.

Of the wrong classes the paper keeps the likeliest, the rival y~. What is left is the
loss of a pair, and the features at which it is C form a hypersphere, or a hyperplane
where both scales are equal, as they are in softmax cross-entropy and in MMLDA.

Everything here is computed on the host in float64 and returns numpy arrays: radii are
differences of large numbers. `mmc_jax.density` builds on it.

Source: Pang et al., "Rethinking Softmax Cross-Entropy Loss for Adversarial Robustness",
ICLR 2020, the section on g-SCE and its proofs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class ClassPairs(NamedTuple):
    """Each example's true class and rival: `[batch]`, the means with `feature_dim`."""

    own_means: np.ndarray
    rival_means: np.ndarray
    own_scales: np.ndarray
    rival_scales: np.ndarray
    bias_gaps: np.ndarray
    """B_k - B_k~."""


def rival_classes(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the rival of each example's label: `y~ = argmax_{l != y} h_l`.

    Args:
      logits: h, `[batch, num_classes]`, without NaN, at least two classes.
      labels: y, integer `[batch]` in [0, num_classes).

    Returns:
      y~, int `[batch]`, never the label; the first of several that are largest.

    Raises:
      ValueError: if the shapes do not match, a logit is NaN or a label is of no class.

    Examples:
      >>> rival_classes([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]], [0, 1]).tolist()
      [2, 0]
    """
    table = np.array(logits, np.float64)
    if table.ndim != 2 or table.shape[1] < 2 or np.isnan(table).any():
        raise ValueError(
            "logits must be [batch, num_classes >= 2] without NaN, got"
            f" {list(table.shape)} with {np.isnan(table).sum()} NaN"
        )
    own = _classes("labels", labels, table.shape[1])
    if len(own) != len(table):
        raise ValueError(f"logits are of {len(table)} examples, labels of {len(own)}")
    wrong = np.arange(table.shape[1])[None] != own[:, None]
    # Not the label, even where every wrong class is at -inf.
    is_largest = table == table.max(axis=1, initial=-np.inf, where=wrong, keepdims=True)
    return np.argmax(is_largest & wrong, axis=1)


def linear_as_quadratic(
    kernel: ArrayLike, bias: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the quadratic logits whose softmax is that of linear ones.

    `W_i z + b_i = -||z - W_i / 2||^2 + b_i + ||W_i||^2 / 4 + ||z||^2`, where the last
    term, the same for every class, leaves softmax as it is.

    Args:
      kernel: W transposed, `[feature_dim, num_classes]`, as in a Flax `Dense`.
      bias: b, `[num_classes]`.

    Returns:
      Means `W_i / 2`, scales 1, biases `b_i + ||W_i||^2 / 4`, for `class_pairs`.

    Raises:
      ValueError: if the shapes do not match.

    Examples:
      >>> [part.tolist() for part in linear_as_quadratic([[2.0, -4.0]], [0.0, 1.0])]
      [[[1.0], [-2.0]], [1.0, 1.0], [1.0, 5.0]]
    """
    rows, bias = np.asarray(kernel, np.float64).T, np.asarray(bias, np.float64)
    if rows.ndim != 2 or bias.shape != rows.shape[:1]:
        raise ValueError(
            "kernel must be [feature_dim, num_classes] and bias [num_classes], got"
            f" {list(rows.T.shape)} and {list(bias.shape)}"
        )
    return rows / 2, np.ones_like(bias), bias + np.sum(rows**2, axis=1) / 4


def class_pairs(
    labels: ArrayLike,
    rivals: ArrayLike,
    means: ArrayLike,
    scales: ArrayLike,
    biases: ArrayLike,
) -> ClassPairs:
    """Look up what the logits of each example's label and rival are made of.

    Args:
      labels: y, integer `[batch]` in [0, num_classes).
      rivals: y~, as labels, each another class than the label.
      means: mu, `[num_classes, feature_dim]`.
      scales: sigma, `[num_classes]`, finite and > 0.
      biases: B, `[num_classes]`.

    Returns:
      The pairs, which every other function takes.

    Raises:
      ValueError: if shapes do not match, a class is none, a rival is the label, or a
        scale is not positive.
    """
    mu, sigma, b = (np.asarray(array, np.float64) for array in (means, scales, biases))
    if mu.ndim != 2 or sigma.shape != mu.shape[:1] or b.shape != mu.shape[:1]:
        raise ValueError(
            "means must be [num_classes, feature_dim], scales and biases"
            f" [num_classes], got {list(mu.shape)}, {list(sigma.shape)} and"
            f" {list(b.shape)}"
        )
    for wrong in sigma[~(np.isfinite(sigma) & (sigma > 0))][:1]:
        raise ValueError(f"scales must be finite and > 0, got {wrong}")
    own = _classes("labels", labels, len(mu))
    rival = _classes("rivals", rivals, len(mu))
    if own.shape != rival.shape:
        raise ValueError(f"{len(own)} labels, but {len(rival)} rivals")
    for label in own[own == rival][:1]:
        raise ValueError(f"a rival must not be the label, got {label} as both")
    return ClassPairs(mu[own], mu[rival], sigma[own], sigma[rival], b[own] - b[rival])


def pair_losses(features: ArrayLike, pairs: ClassPairs) -> np.ndarray:
    """Return the loss of each example as if only its label and its rival existed.

    `L_{y,y~}(z) = log(1 + exp(h_y~(z) - h_y(z)))`. With the rival of `rival_classes`
    it is below the whole g-SCE loss by at most log(num_classes - 1).

    Args:
      features: z, `[batch, feature_dim]`.
      pairs: as from `class_pairs`.

    Returns:
      `[batch]`, >= 0.

    Raises:
      ValueError: if the shapes do not match.
    """
    rows = np.asarray(features, np.float64)
    if rows.shape != pairs.own_means.shape:
        raise ValueError(
            f"features must be {list(pairs.own_means.shape)}, got {list(rows.shape)}"
        )
    own = pairs.own_scales * np.sum((rows - pairs.own_means) ** 2, axis=1)
    rival = pairs.rival_scales * np.sum((rows - pairs.rival_means) ** 2, axis=1)
    return np.logaddexp(0.0, own - rival - pairs.bias_gaps)


def contour_spheres(
    losses: ArrayLike, pairs: ClassPairs
) -> tuple[np.ndarray, np.ndarray]:
    """Return the hyperspheres on which pairs of unequal scales have given losses.

    With k = y and k~ = y~,

        M     = (sigma_k mu_k - sigma_k~ mu_k~) / (sigma_k - sigma_k~)
        B     = sigma_k sigma_k~ ||mu_k - mu_k~||^2 / (sigma_k - sigma_k~)^2
                + (B_k - B_k~) / (sigma_k - sigma_k~)
        r^2   = B + log(e^C - 1) / (sigma_k - sigma_k~)

    Args:
      losses: C, `[batch]`, finite and > 0, and on the side of `critical_losses` where
        there are features: not below it if sigma_k > sigma_k~, else not above.
      pairs: as from `class_pairs`.

    Returns:
      Centers M, `[batch, feature_dim]`, and squared radii, `[batch]`, >= 0.

    Raises:
      ValueError: if the shapes do not match, the scales of a pair are equal (a
        hyperplane: `contour_planes`), or no feature has the loss.
    """
    values = _losses(losses, len(pairs.bias_gaps))
    gaps = _unequal_scale_gaps(pairs)
    weighted = pairs.own_scales[:, None] * pairs.own_means
    weighted -= pairs.rival_scales[:, None] * pairs.rival_means
    squared_radii = (_log_expm1(values) - _log_expm1_of_critical(pairs)) / gaps
    for index in np.flatnonzero(~(squared_radii >= 0))[:1]:
        critical = np.logaddexp(0.0, _log_expm1_of_critical(pairs))[index]
        side = "least" if gaps[index] > 0 else "most"
        raise ValueError(
            f"no feature has the loss {values[index]} at example {index}: with these"
            f" scales it is at {side} {critical}"
        )
    return weighted / gaps[:, None], squared_radii


def critical_losses(pairs: ClassPairs) -> np.ndarray:
    """Return C*, the loss of a pair at the center of its contours.

    `C* = log(1 + exp(B_{k,k~} (sigma_k~ - sigma_k)))` with B of `contour_spheres`.

    If sigma_k > sigma_k~, C* is the least loss: it cannot reach 0. Otherwise it is the
    largest, and as the loss goes to 0 the radius goes to infinity, with |log C| as the
    order of its square.

    Args:
      pairs: as from `class_pairs`.

    Returns:
      C*, `[batch]`, > 0.

    Raises:
      ValueError: if the scales of a pair are equal: its loss takes every value from 0
        to infinity.
    """
    return np.logaddexp(0.0, _log_expm1_of_critical(pairs))


def contour_planes(
    losses: ArrayLike, pairs: ClassPairs
) -> tuple[np.ndarray, np.ndarray]:
    """Return the hyperplanes on which pairs of one scale sigma have given losses.

    `<2 sigma (mu_k - mu_k~), z> = sigma (||mu_k||^2 - ||mu_k~||^2) - (B_k - B_k~)
    - log(e^C - 1)`. At C = log 2 it is where the pair's logits are equal.

    Args:
      losses: C, `[batch]`, finite and > 0.
      pairs: as from `class_pairs`.

    Returns:
      Normals, `[batch, feature_dim]`, which point to the side of lower loss and are
      not of norm 1, and offsets, `[batch]`: the plane is `<normal, z> = offset`.

    Raises:
      ValueError: if the shapes do not match, the scales of a pair differ (a
        hypersphere: `contour_spheres`), its means are equal, or a loss is not > 0.
    """
    values = _losses(losses, len(pairs.bias_gaps))
    own, rival = pairs.own_scales, pairs.rival_scales
    for index in np.flatnonzero(own != rival)[:1]:
        raise ValueError(
            f"the scales of example {index} are {own[index]} and {rival[index]}: its"
            " contours are hyperspheres, see contour_spheres"
        )
    normals = 2 * own[:, None] * (pairs.own_means - pairs.rival_means)
    for index in np.flatnonzero(~np.any(normals, axis=1))[:1]:
        raise ValueError(f"both means of example {index} are equal")
    squares = np.sum(pairs.own_means**2, 1) - np.sum(pairs.rival_means**2, 1)
    return normals, own * squares - pairs.bias_gaps - _log_expm1(values)


def _unequal_scale_gaps(pairs: ClassPairs) -> np.ndarray:
    gaps = pairs.own_scales - pairs.rival_scales
    for index in np.flatnonzero(gaps == 0)[:1]:
        raise ValueError(
            f"both scales of example {index} are {pairs.own_scales[index]}: its"
            " contours are hyperplanes, see contour_planes"
        )
    return gaps


def _log_expm1_of_critical(pairs: ClassPairs) -> np.ndarray:
    """Return log(e^C* - 1) = -(sigma_k - sigma_k~) B_{k,k~}."""
    distances = np.sum((pairs.own_means - pairs.rival_means) ** 2, axis=1)
    products = pairs.own_scales * pairs.rival_scales
    return -(products * distances / _unequal_scale_gaps(pairs) + pairs.bias_gaps)


def _log_expm1(losses: np.ndarray) -> np.ndarray:
    return losses + np.log(-np.expm1(-losses))


def _classes(name: str, classes: ArrayLike, num_classes: int) -> np.ndarray:
    found = np.asarray(classes)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"{name} must be integers [batch], got {found.dtype} {list(found.shape)}"
        )
    for wrong in found[(found < 0) | (found >= num_classes)][:1]:
        raise ValueError(f"{name} must be in [0, {num_classes}), got {wrong}")
    return found


def _losses(losses: ArrayLike, batch: int) -> np.ndarray:
    values = np.asarray(losses, np.float64)
    if values.shape != (batch,):
        raise ValueError(f"losses must be [{batch}], got {list(values.shape)}")
    for wrong in values[~(np.isfinite(values) & (values > 0))][:1]:
        raise ValueError(f"losses must be finite and > 0, got {wrong}")
    return values
