"""Sample density as it is measured: how many features lie in a volume, by count.

The paper defines sample density as a count per volume. Around a class's center three
estimates of it, each with a confidence interval: in shells, in the ball that holds a
share of the samples, and, without any center, from each sample's nearest neighbours.
`mmc_jax.density` has what the theorems say of it.

All is in natural logarithms. A log density in d dimensions changes by d log 2 when all
lengths double: to compare models, divide distances and features by a length of their
own, such as half the distance between the closest centers.

Everything is computed on the host in float64, and returns numpy arrays or floats.

Source: Pang et al., "Rethinking Softmax Cross-Entropy Loss for Adversarial Robustness",
ICLR 2020, the definition of sample density; each estimate's own source is with it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import spatial, special, stats

from mmc_jax.density import check_count, log_shell_volume


class Interval(NamedTuple):
    """An estimate and its confidence interval; floats, or arrays of one shape."""

    value: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float


def shell_log_density(
    distances: ArrayLike,
    edges: ArrayLike,
    feature_dim: int,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Count the samples in shells around a center, per volume.

    `log SD = log(n / Vol(shell))` for n of all samples. The interval is that of Clopper
    and Pearson for the share in the shell: it covers the expected density at least as
    often as it says, empty shells included.

    Args:
      distances: of each sample from the center, `[batch]`, finite and >= 0. For MMC
        they are sqrt(2C).
      edges: of the shells, `[num_shells + 1]`, increasing from >= 0. A shell has its
        lower edge, the last one both.
      feature_dim: d, at least 1.
      confidence: in (0, 1), of each shell's interval by itself.

    Returns:
      log SD, `[num_shells]`; -inf where there is no sample. Divided by a number of
      classes or samples, it is the density of one.

    Raises:
      ValueError: if an argument is not among what is accepted.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated
    in the case of the binomial", Biometrika 1934.
    """
    _check_confidence(confidence)
    radii, limits = _distances(distances), np.asarray(edges, np.float64)
    if limits.ndim != 1 or len(limits) < 2:
        raise ValueError(f"edges must be two or more, got {edges!r}")
    volumes = log_shell_volume(limits[:-1], limits[1:], feature_dim)
    counts, total = np.histogram(radii, limits)[0], len(radii)
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, np.maximum(counts, 1), total - counts + 1)
    high = stats.beta.isf(tail, counts + 1, np.maximum(total - counts, 1))
    shares = np.where(counts == 0, 0, low), np.where(counts == total, 1, high)
    with np.errstate(divide="ignore"):
        bounds = [np.log(total * share) - volumes for share in shares]
        return Interval(np.log(counts) - volumes, *bounds)


def ball_radius(
    distances: ArrayLike, *, share: float = 0.5, confidence: float = 0.95
) -> Interval:
    """Return the radius of the ball around a center that holds a share of the samples.

    The interval lies between order statistics of the distances, whose ranks are
    quantiles of a binomial: it assumes nothing of their distribution.

    Args:
      distances: of each sample from the center, `[batch]`, finite and >= 0.
      share: in (0, 1).
      confidence: in (0, 1).

    Returns:
      Three floats; low is 0 and high is infinite where there are too few samples.

    Raises:
      ValueError: if an argument is not among what is accepted.

    Examples:
      >>> ball_radius([3.0, 1.0, 2.0, 4.0], confidence=0.8)
      Interval(value=2.0, low=1.0, high=4.0)

    Source: David and Nagaraja, "Order Statistics", 2003, section 7.1.
    """
    _check_confidence(confidence)
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    ordered = np.sort(_distances(distances))
    padded, total = np.concatenate([[0.0], ordered, [np.inf]]), len(ordered)
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    low, high = (int(stats.binom.ppf(tail, total, share)) for tail in tails)
    ranks = math.ceil(share * total), low, high + 1
    return Interval(*(padded[rank].item() for rank in ranks))


def ball_log_density(
    distances: ArrayLike,
    feature_dim: int,
    *,
    share: float = 0.5,
    confidence: float = 0.95,
) -> Interval:
    """Return the log density within the ball that holds a share of the samples.

    `log(share N / (V_d r^d))` with r of `ball_radius`, whose interval it inherits.

    Args:
      distances: of each sample from the center, `[batch]`, finite and >= 0.
      feature_dim: d, at least 1.
      share: in (0, 1).
      confidence: in (0, 1).

    Returns:
      Three floats; inf for a ball of radius 0.

    Raises:
      ValueError: if an argument is not among what is accepted.
    """
    unit = log_shell_volume(0.0, 1.0, feature_dim)
    radius = ball_radius(distances, share=share, confidence=confidence)
    log_count = math.log(share * np.size(distances))
    with np.errstate(divide="ignore"):
        value, high, low = log_count - feature_dim * np.log(np.array(radius))
    return Interval(*(float(bound - unit) for bound in (value, low, high)))


def neighbour_log_density(
    features: ArrayLike, *, num_neighbours: int = 5, confidence: float = 0.95
) -> Interval:
    """Return the log density around each sample, from its nearest neighbours.

    `log SD = log N + psi(k) - psi(N) - log(V_d r_k^d)`, r_k the distance of the k-th
    nearest other sample: unbiased where the density is even within r_k, as is the
    interval then exact, for the mass within r_k is distributed as Beta(k, N - k). In
    many dimensions no sample is enough for that, and the bias is large: compare with
    samples of known density and equal number.

    Args:
      features: z, `[batch, feature_dim]`, finite, more than num_neighbours of them.
      num_neighbours: k, at least 1.
      confidence: in (0, 1), of each sample's interval by itself.

    Returns:
      log SD, `[batch]`; inf where k others coincide with the sample.

    Raises:
      ValueError: if an argument is not among what is accepted.

    Source: Loftsgaarden and Quesenberry, "A nonparametric estimate of a multivariate
    density function", 1965; Kozachenko and Leonenko, 1987, for the bias.
    """
    _check_confidence(confidence)
    check_count("num_neighbours", num_neighbours)
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or len(rows) <= num_neighbours:
        raise ValueError(
            f"features must be [batch > {num_neighbours}, feature_dim], got"
            f" {list(rows.shape)}"
        )
    for wrong in rows[~np.isfinite(rows)][:1]:
        raise ValueError(f"features must be finite, got {wrong}")
    total, feature_dim = rows.shape
    # The sample itself is among the k + 1 nearest.
    farthest = spatial.cKDTree(rows).query(rows, [num_neighbours + 1])[0][:, 0]
    with np.errstate(divide="ignore"):
        volumes = feature_dim * np.log(farthest)
    volumes += log_shell_volume(0.0, 1.0, feature_dim)
    mass = stats.beta(num_neighbours, total - num_neighbours)
    log_masses = (
        special.digamma(num_neighbours) - special.digamma(total),
        math.log(mass.ppf((1 - confidence) / 2)),
        math.log(mass.ppf((1 + confidence) / 2)),
    )
    return Interval(*(math.log(total) + log_mass - volumes for log_mass in log_masses))


def _distances(distances: ArrayLike) -> np.ndarray:
    values = np.asarray(distances, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"distances must be [batch >= 1], got {list(values.shape)}")
    for wrong in values[~(np.isfinite(values) & (values >= 0))][:1]:
        raise ValueError(f"distances must be finite and >= 0, got {wrong}")
    return values


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
