"""Points on the unit sphere whose smallest angle is as large as possible.

`spherical_code` chooses among four arrangements, three of them exact; everything is
numpy in float64, on the host. The angle between the closest two of L points in d
dimensions:

| L | arrangement | smallest angle |
|---|---|---|
| up to d + 1 | regular simplex | arccos(-1 / (L - 1)) |
| d + 2 to 2 d | simplices in orthogonal subspaces | 90 degrees, which is optimal |
| any, d = 2 | regular polygon | 360 degrees / L |
| more than 2 d | found by descent from many starts | near the best known codes |
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

Energy = Callable[[np.ndarray], tuple[float, np.ndarray]]
Pair = tuple[np.ndarray, np.ndarray]

_SHARPNESS = (10.0, 100.0, 1e3, 1e4)
"""beta during the search: at first all pairs repel, in the end only the closest."""
_FINAL_SHARPNESS = (1e5,)
"""beta for the winner; the surrogate exceeds the largest cosine by log(L^2) / beta."""
_TIE = 1e-6
"""Codes whose largest cosines differ by less are equally good."""


def spherical_code(num_points: int, dim: int, *, seed: int = 0) -> np.ndarray:
    """Return unit vectors whose largest pairwise cosine is as small as possible.

    Args:
      num_points: at least 2.
      dim: at least 1, and at least 2 for more than two points.
      seed: of the random starts, >= 0; the exact arrangements ignore it.

    Returns:
      float64 `[num_points, dim]`, rows of norm 1.

    Examples:
      >>> octahedron = spherical_code(6, 3)
      >>> cosines = octahedron @ octahedron.T - 2 * np.eye(6)
      >>> float(cosines.max())
      0.0

    Source: Rankin, "The Closest Packing of Spherical Caps in n Dimensions", 1955, for
    the first two rows of the table above.
    """
    if num_points <= 2 * dim:
        return _orthogonal_simplices(num_points, dim)
    if dim == 2:
        return _regular_polygon(num_points)
    return _searched_code(num_points, dim, seed).copy()


def _regular_simplex(num_points: int) -> np.ndarray:
    """Return the unit simplex, `[num_points, num_points - 1]`, lower triangular."""
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

    m simplices that span all of dim have dim + m vertices. Their sizes are as equal as
    possible: dim + 1 points are the simplex, 2 dim points the cross-polytope.
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


@functools.lru_cache(maxsize=32)  # a model's init is traced, then run
def _searched_code(num_points: int, dim: int, seed: int) -> np.ndarray:
    """Descend from many starts, take the best end, and descend further from there.

    Starts and iterations shrink as the points grow in number, so that a search takes
    seconds, or half a minute for a thousand points.
    """
    generator = np.random.default_rng(seed)
    num_starts = int(np.clip(1e5 / num_points**2, 2, 32))
    codes = []
    for start in range(num_starts):
        points = generator.normal(size=(num_points, dim))
        if start % 2:
            # Many of the best codes come in opposite pairs, the 24-cell among them,
            # and descent keeps such pairs. It hardly ever finds them by itself.
            half = num_points // 2
            points[half : 2 * half] = -points[:half]
        # A soft start is not always best: every other pair of starts skips it.
        codes.append(_descend(points, _SHARPNESS[start // 2 % 2 :]))
    cosines = np.array([_max_cosine(code) for code in codes])
    # The first of those that tie, so that rounding does not decide which.
    winner = int(np.argmax(cosines <= cosines.min() + _TIE))
    return _descend(codes[winner], _FINAL_SHARPNESS)


def _descend(points: np.ndarray, sharpness: tuple[float, ...]) -> np.ndarray:
    """Minimise the largest cosine's surrogate at each sharpness in turn."""
    flat = points.ravel()
    max_iterations = int(np.clip(5e7 / len(points) ** 2, 50, 200))
    for beta in sharpness:
        energy = functools.partial(_soft_max_cosine, shape=points.shape, beta=beta)
        flat = _minimise(energy, flat, max_iterations)
    points = flat.reshape(points.shape)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _minimise(function: Energy, flat: np.ndarray, max_iterations: int) -> np.ndarray:
    """Minimise by L-BFGS with backtracking, until it stalls.

    SciPy's calls LAPACK for its tiny systems, which on several threads costs twenty
    times the search itself and lets their number decide the rounding.

    Source: Nocedal and Wright, "Numerical Optimization", algorithms 7.5 and 3.1.
    """
    value, gradient = function(flat)
    pairs: collections.deque[Pair] = collections.deque(maxlen=20)
    for _ in range(max_iterations):
        direction = -_inverse_hessian_times(gradient, pairs)
        slope = float(gradient @ direction)
        step = 1.0
        new_value, new_gradient = function(flat + direction)
        while new_value > value + 1e-4 * step * slope and step > 1e-9:
            step *= 0.5
            new_value, new_gradient = function(flat + step * direction)
        if new_value > value - 1e-12:
            break
        move, bend = step * direction, new_gradient - gradient
        if move @ bend > 0.0:
            pairs.append((move, bend))
        flat, value, gradient = flat + move, new_value, new_gradient
    return flat


def _inverse_hessian_times(vector: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """Apply the inverse Hessian that the (move, change of gradient) pairs suggest."""
    result = vector
    factors = []
    for move, bend in reversed(pairs):
        factors.append((move @ result) / (move @ bend))
        result = result - factors[-1] * bend
    if pairs:
        move, bend = pairs[-1]
        result = result * ((move @ bend) / (bend @ bend))
    for (move, bend), factor in zip(pairs, reversed(factors), strict=True):
        result = result + (factor - (bend @ result) / (move @ bend)) * move
    return result


def _soft_max_cosine(
    flat: np.ndarray, shape: tuple[int, int], beta: float
) -> tuple[float, np.ndarray]:
    """Return `log(sum_{i != j} exp(beta cos_ij)) / beta` and its gradient.

    The points may have any norm: only their directions count.
    """
    points = flat.reshape(shape)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    directions = points / norms
    cosines = _cosines(directions)
    largest = cosines.max()
    weights = np.exp(beta * (cosines - largest))
    total = weights.sum()
    gradient = 2.0 * (weights / total) @ directions
    radial = np.sum(gradient * directions, axis=1, keepdims=True)
    tangential = (gradient - radial * directions) / norms
    return largest + math.log(total) / beta, tangential.ravel()


def _cosines(directions: np.ndarray) -> np.ndarray:
    """Return all pairwise cosines, -inf on the diagonal."""
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines


def _max_cosine(directions: np.ndarray) -> float:
    return float(_cosines(directions).max())
