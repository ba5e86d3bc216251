"""Sample density: how many features lie in a volume, by theorem and by count.

The paper's density around a feature z of loss C is that of the shell between two
contours of the loss,

    `SD(z) = Delta N / Vol({z' : L(z', y) in [C, C + Delta C]})`.

`gsce_log_density` and `mmc_log_density` are its Theorems 1 and 2. As printed, they
divide by the contour's surface alone; the volume of the shell also has its thickness,
dr/dC, in it, which changes the exponent of the radius from d - 1 to d - 2. Both forms
are here. They are averages over shells: nothing says that the samples spread evenly
over theirs. `mmc_jax.sample_density` measures.

All is in natural logarithms: a ball of 256 dimensions and radius 10 has the volume
e^240, one of radius 0.1 e^-939.

Everything is computed on the host in float64, and returns numpy arrays.

Source: Pang et al., "Rethinking Softmax Cross-Entropy Loss for Adversarial Robustness",
ICLR 2020, the definition of sample density, Theorems 1 and 2.
"""

from __future__ import annotations

import math
import numbers
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mmc_jax.contours import ClassPairs, contour_spheres

Volume = Literal["exact", "printed"]
"""Of a shell: with its thickness, or its surface alone, as the theorems are printed."""


def log_shell_volume(
    inner_radii: ArrayLike, outer_radii: ArrayLike, feature_dim: int
) -> np.ndarray:
    """Return the log volume between concentric hyperspheres.

    `log V_d + log(r_out^d - r_in^d)` with `V_d = pi^(d/2) / Gamma(d/2 + 1)`, exact
    also for shells much thinner than their radius.

    Args:
      inner_radii: r_in, >= 0; 0 is a whole ball.
      outer_radii: r_out, finite, > r_in.
      feature_dim: d, at least 1.

    Returns:
      Of the shape that the radii broadcast to.

    Raises:
      ValueError: if the radii are not so, or the dimension is no positive integer.

    Examples:
      >>> print(np.exp(log_shell_volume(0.0, [1.0, 2.0], 2)).round(4))
      [ 3.1416 12.5664]
    """
    check_count("feature_dim", feature_dim)
    inner, outer = np.broadcast_arrays(
        np.asarray(inner_radii, np.float64), np.asarray(outer_radii, np.float64)
    )
    is_shell = (inner >= 0) & (outer > inner) & (outer < np.inf)
    for radii in zip(inner[~is_shell], outer[~is_shell], strict=True):
        raise ValueError(
            f"radii must be 0 <= inner < outer < inf, got {radii[0]} and {radii[1]}"
        )
    with np.errstate(divide="ignore"):
        log_ratio = np.log1p(-(outer - inner) / outer)
    hollow = np.log(-np.expm1(feature_dim * log_ratio))
    return _log_unit_ball(feature_dim) + feature_dim * np.log(outer) + hollow


def mmc_log_density(
    losses: ArrayLike, rates: ArrayLike, feature_dim: int, *, volume: Volume = "exact"
) -> np.ndarray:
    """Return the log sample density of Theorem 2, for features trained with MMC.

    With S the surface of the unit sphere, C = r^2 / 2 and dr = dC / r,

        exact:   `SD = N_k p_k(C) / (S (2C)^((d-2)/2))`
        printed: `SD  ~ N_k p_k(C) / C^((d-1)/2)`

    Args:
      losses: C of `mmc_loss`, with the paper's 1/2; finite and > 0.
      rates: N_k p_k(C), the class's examples per unit of loss, finite and >= 0.
      feature_dim: d, at least 1.
      volume: "exact", or "printed", which is up to a constant: compare differences.

    Returns:
      log SD, of the shape that losses and rates broadcast to; -inf at a rate of 0.

    Raises:
      ValueError: if an argument is not among what is accepted.

    Examples:
      >>> print(mmc_log_density([1.0, 2.0], 1.0, 3, volume="printed").round(4))
      [ 0.     -0.6931]
    """
    _check_volume(volume)
    check_count("feature_dim", feature_dim)
    values, log_rates = np.asarray(losses, np.float64), _log_rates(rates)
    for wrong in values[~(np.isfinite(values) & (values > 0))][:1]:
        raise ValueError(f"losses must be finite and > 0, got {wrong}")
    if volume == "printed":
        return log_rates - (feature_dim - 1) / 2 * np.log(values)
    log_surface = _log_unit_ball(feature_dim) + math.log(feature_dim)
    return log_rates - log_surface - (feature_dim - 2) / 2 * np.log(2 * values)


def gsce_log_density(
    losses: ArrayLike, rates: ArrayLike, pairs: ClassPairs, *, volume: Volume = "exact"
) -> np.ndarray:
    """Return the log sample density of Theorem 1, for features trained with g-SCE.

    With r the radius of the pair's contour (`contour_spheres`), S the surface of the
    unit sphere, and dr/dC = 1 / (2 r |sigma_k - sigma_k~| (1 - e^-C)),

        exact:   `SD = 2 |sigma_k - sigma_k~| (1 - e^-C) N_{k,k~} p_{k,k~}(C)
                       / (S r^(d-2))`
        printed: `SD ~ N_{k,k~} p_{k,k~}(C) / r^(d-1)`

    Pairs of equal scale, and so all of softmax cross-entropy and MMLDA, are refused:
    their shells lie between hyperplanes and have no finite volume.

    Args:
      losses: C, `[batch]`, as `contour_spheres` takes them.
      rates: N_{k,k~} p_{k,k~}(C), the pair's examples per unit of loss, `[batch]`,
        finite and >= 0.
      pairs: as from `class_pairs`.
      volume: "exact", or "printed", which is up to a constant: compare differences.

    Returns:
      log SD, `[batch]`; -inf at a rate of 0; at a radius of 0 inf, if d > 2.

    Raises:
      ValueError: as `contour_spheres`, or if rates or volume are not as said.
    """
    _check_volume(volume)
    log_rates = _log_rates(rates)
    centers, squared_radii = contour_spheres(losses, pairs)
    if log_rates.shape != squared_radii.shape:
        raise ValueError(
            f"rates must be {list(squared_radii.shape)}, got {list(log_rates.shape)}"
        )
    feature_dim = centers.shape[1]
    # (d - 2) log r, also where both are 0.
    exponent = (feature_dim - (1 if volume == "printed" else 2)) / 2
    densities = log_rates - special.xlogy(exponent, squared_radii)
    if volume == "printed":
        return densities
    gaps = np.abs(pairs.own_scales - pairs.rival_scales)
    thickness = np.log(2 * gaps) + np.log(-np.expm1(-np.asarray(losses, np.float64)))
    return densities + thickness - _log_unit_ball(feature_dim) - math.log(feature_dim)


def _log_unit_ball(feature_dim: int) -> float:
    return feature_dim / 2 * math.log(math.pi) - math.lgamma(feature_dim / 2 + 1)


def _log_rates(rates: ArrayLike) -> np.ndarray:
    values = np.asarray(rates, np.float64)
    for wrong in values[~(np.isfinite(values) & (values >= 0))][:1]:
        raise ValueError(f"rates must be finite and >= 0, got {wrong}")
    with np.errstate(divide="ignore"):
        return np.log(values)


def _check_volume(volume: str) -> None:
    if volume not in get_args(Volume):
        raise ValueError(f"volume must be 'exact' or 'printed', got {volume!r}")


def check_count(name: str, value: int) -> None:
    """Refuse what is no integer >= 1.

    Args:
      name: what it is called.
      value: what was given.

    Raises:
      ValueError: naming it, its value and what is accepted.
    """
    is_integer = isinstance(value, numbers.Integral)
    if isinstance(value, bool) or not is_integer or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
