"""Hyperplanes: the shortest way to a linearised decision boundary inside the box.

Near a point z, the boundary between two classes is the hyperplane

    {z + d : <w, d> + v = 0},    v = h_y(z) - h_k(z),    w = its gradient at z.

Without a box it is |v| / ||w||_q away from z, where q is the dual of the norm. With a
box every pixel has only so much room, and what pixels at their limit cannot give, the
others must.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.types import Array

# Farther than any box: the pace at which every pixel is at its limit.
_FAR = 1e30


def lengths(vectors: Array, *, norm: str) -> Array:
    """Return the norm of each row.

    Args:
      vectors: `[..., size]`.
      norm: one of `NORMS`.

    Returns:
      `[...]`.
    """
    return _LENGTH[norm](vectors)


def hyperplane_distances(values: Array, normals: Array, *, norm: str) -> Array:
    """Return the distances to hyperplanes as if there were no box: |v| / ||w||_q.

    Args:
      values: v, `[...]`.
      normals: w, `[..., size]`.
      norm: that of the distance, one of `NORMS`.

    Returns:
      `[...]`; infinite where w is zero.
    """
    # Scaled by its largest entry, the dual norm neither overflows nor underflows.
    scale, scaled = _scale(normals)
    steepness = _LENGTH[_DUAL[norm]](scaled)
    steepness = jnp.where(steepness > 0, steepness, 1.0)
    distances = jnp.abs(values) / scale / steepness
    return jnp.where(jnp.all(normals == 0, axis=-1), jnp.inf, distances)


def shortest_way(
    points: Array,
    normals: Array,
    values: Array,
    *,
    norm: str,
    bounds: tuple[ArrayLike, ArrayLike],
) -> Array:
    """Return the shortest d with <w, d> + v = 0 and z + d in the box.

    Pixel i moves by t_i >= 0 against the sign of v w_i, at most to its limit r_i, such
    that sum_i |w_i| t_i = |v|. What minimises the norm of t has one free number:

    - linf: t_i = min(r_i, s);
    - l2: t_i = min(r_i, s |w_i|);
    - l1: t_i = r_i where |w_i| > s, 0 where |w_i| < s, a common share of r_i between.

    The sum is concave and piecewise linear in s for linf and l2, where Newton's method
    from below ends at the exact piece after a handful of steps; for l1 s is one of the
    |w_i|, found by bisection over the floats.

    Args:
      points: z, `[batch, size]`, inside the box.
      normals: w, `[batch, size]`, finite.
      values: v, `[batch]`, not NaN.
      norm: one of `NORMS`.
      bounds: the box, (lowest, highest).

    Returns:
      d, like `points`. Where the hyperplane misses the box, the way to the corner
      closest to it; pixels with w_i = 0 stay.

    Reference: Croce and Hein 2020, "Minimally Distorted Adversarial Examples with a
    Fast Adaptive Boundary Attack", section 3.1; Hein and Andriushchenko 2017, "Formal
    Guarantees on the Robustness of a Classifier against Adversarial Manipulation".
    """
    low, high = bounds
    scale, scaled = _scale(normals)
    demand = jnp.minimum(jnp.abs(values) / scale, _FAR)[:, None]
    heading = -jnp.sign(values)[:, None] * jnp.sign(scaled)
    room = jnp.where(heading > 0, high - points, points - low)
    room = jnp.where(heading == 0, 0.0, room)
    return heading * _AMOUNT[norm](jnp.abs(scaled), room, demand)


def _amount_at_pace(
    weights: Array, room: Array, demand: Array, *, by_weight: bool
) -> Array:
    """Return min(r, s u) with u the weights (l2) or 1 (linf), meeting the demand."""
    speeds = weights if by_weight else jnp.ones_like(weights)

    def advance(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        pace, _ = carry
        full = room <= pace * speeds
        rest = demand - _total(jnp.where(full, weights * room, 0.0))
        slope = _total(jnp.where(full, 0.0, weights * speeds))
        # With the same pixels at their limit as before, this is the same number.
        reached = jnp.where(slope > 0, rest / jnp.where(slope > 0, slope, 1.0), _FAR)
        return jnp.maximum(reached, pace), jnp.any(reached > pace)

    pace, _ = jax.lax.while_loop(
        lambda carry: carry[1], advance, (jnp.zeros_like(demand), jnp.bool_(True))
    )
    return jnp.minimum(room, pace * speeds)


def _amount_by_rank(weights: Array, room: Array, demand: Array) -> Array:
    """Return the rooms of the heaviest pixels, filled up until they meet the demand."""
    gains = weights * room
    # The bits of floats from 0 to 1, read as integers, are in the floats' order.
    ranks = jax.lax.bitcast_convert_type(weights, jnp.int32)
    one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32)

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = bracket
        middle = (below + above) // 2
        too_much = _total(jnp.where(ranks > middle, gains, 0.0)) > demand
        return jnp.where(too_much, middle, below), jnp.where(too_much, above, middle)

    bracket = (jnp.full(demand.shape, -1, jnp.int32), jnp.full(demand.shape, one))
    _, last = jax.lax.fori_loop(0, 31, halve, bracket)
    rest = demand - _total(jnp.where(ranks > last, gains, 0.0))
    capacity = _total(jnp.where(ranks == last, gains, 0.0))
    share = jnp.where(capacity > 0, rest / jnp.where(capacity > 0, capacity, 1.0), 0.0)
    share = jnp.where(ranks == last, jnp.clip(share, 0.0, 1.0), 0.0)
    return room * jnp.where(ranks > last, 1.0, share)


def _scale(normals: Array) -> tuple[Array, Array]:
    """Return each row's largest entry, `[...]`, and the row divided by it."""
    largest = jnp.max(jnp.abs(normals), axis=-1)
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale, normals / scale[..., None]


def _total(values: Array) -> Array:
    return jnp.sum(values, axis=-1, keepdims=True)


_LENGTH: dict[str, Callable[[Array], Array]] = {
    "linf": lambda vectors: jnp.max(jnp.abs(vectors), axis=-1),
    "l2": lambda vectors: jnp.sqrt(jnp.sum(vectors**2, axis=-1)),
    "l1": lambda vectors: jnp.sum(jnp.abs(vectors), axis=-1),
}
_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
_AMOUNT: dict[str, Callable[[Array, Array, Array], Array]] = {
    "linf": partial(_amount_at_pace, by_weight=False),
    "l2": partial(_amount_at_pace, by_weight=True),
    "l1": _amount_by_rank,
}
NORMS = tuple(_LENGTH)
