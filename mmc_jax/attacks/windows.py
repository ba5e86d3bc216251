"""Windows: what the Square attack proposes, given its random draws.

All examples of a batch share the side of their windows, which only the step decides;
each has a corner and signs of its own. Windows are comparisons of coordinates, so that
a proposal is a few elementwise operations: nothing is sliced, gathered or scattered.

`images` are the clean images `[batch, height, width, channels]`, `current` the best
candidates so far, `corners` int32 `[batch, 2]` (row, column), `signs` +1 or -1.

Inside, images are `[batch, height, width * channels]`, since few channels in the
innermost place cost XLA on CPU ten times as much; what is one number a channel is
repeated along the width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mmc_jax.attacks.projections import add_rounding_inward, per_pixel
from mmc_jax.types import Array

# Queries of 10,000 after which the windows lose half of their area.
_HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000], np.int32)
_SCHEDULED_QUERIES = 10_000


class Moves(NamedTuple):
    """What an l1 or l2 proposal draws: it moves mass from one window to another."""

    filled: Array
    """`[batch, 2]`: corner of the window that gains."""
    emptied: Array
    """`[batch, 2]`: corner of the window that loses."""
    signs: Array
    """float32 `[batch, channels]`."""
    transposed: Array
    """bool `[batch]`: whether the two halves lie above each other."""


def side_length(
    query: Array,
    shape: tuple[int, ...],
    *,
    initial_fraction: Array,
    num_queries: Array | None,
    smallest: int,
) -> Array:
    """Return the windows' side: the integer nearest to sqrt(p height width).

    p is `initial_fraction`, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and
    8000 queries.

    Args:
      query: number of the query, from 0.
      shape: (height, width, ...).
      initial_fraction: of the area, in [0, 1].
      num_queries: if given, the halvings are rescaled from 10,000 queries to as many.
      smallest: the side is at least that, but no window is larger than the image.

    Returns:
      int32 scalar.
    """
    halvings: Array | np.ndarray = _HALVINGS
    if num_queries is not None:
        # Rounded up; in two parts, so that nothing overflows.
        whole, rest = jnp.divmod(num_queries, _SCHEDULED_QUERIES)
        halvings = whole * _HALVINGS - (-rest * _HALVINGS) // _SCHEDULED_QUERIES
    num_halvings = jnp.sum(query >= halvings).astype(jnp.float32)
    area = initial_fraction * 0.5**num_halvings * (shape[0] * shape[1])
    largest = min(shape[0], shape[1])
    side = jnp.round(jnp.sqrt(area)).astype(jnp.int32)
    return jnp.clip(side, min(smallest, largest), largest)


def paint(
    current: Array, low: Array, high: Array, corners: Array, signs: Array, side: Array
) -> Array:
    """Paint one window with the highest or the lowest values that are allowed.

    Adding 2 epsilon sign and projecting onto the ball and the box comes to this.

    Args:
      current: best candidates so far.
      low: clean images - epsilon, in the box.
      high: clean images + epsilon, in the box.
      corners: `[batch, 2]`.
      signs: bool `[batch, channels]`: True for `high`.
      side: of the window.

    Returns:
      Candidates like `current`.
    """
    filled = _window(current.shape, corners, side)
    color = jnp.where(_along_width(signs, current.shape), _flat(high), _flat(low))
    return jnp.where(filled, color, _flat(current)).reshape(current.shape)


def stripes(low: Array, high: Array, signs: Array) -> Array:
    """Paint every column one color, as the linf attack starts.

    Args:
      low: clean images - epsilon, in the box.
      high: clean images + epsilon, in the box.
      signs: bool `[batch, width, channels]`: True for `high`.

    Returns:
      Candidates like `low`.
    """
    return jnp.where(signs[:, None, :, :], high, low)


def move_mass(
    current: Array,
    images: Array,
    moves: Moves,
    side: Array,
    *,
    epsilon: Array,
    order: int,
    bounds: tuple[ArrayLike, ArrayLike],
) -> Array:
    """Empty one window, and spend its mass and what was left of epsilon in another.

    With nu the perturbation, W1 the filled and W2 the emptied window, for channel i of
    c, in the norm of the given order p:

        temp     = sign_i eta / ||eta|| + nu_(W1,i) / ||nu_(W1,i)||
        avail^p  = ||nu_(W1 and W2,i)||^p + (epsilon^p - ||nu||^p) / c
        nu_(W2,i) <- 0,  nu_(W1,i) <- avail temp / ||temp||

    The sum of all channels' norms^p stays epsilon^p at most, so that clipping to the
    box is the projection onto ball and box.

    Args:
      current: best candidates so far.
      images: clean images.
      moves: what was drawn.
      side: of the windows.
      epsilon: radius, `[batch]`.
      order: 1 or 2.
      bounds: the box, (lowest, highest).

    Returns:
      Candidates like `current`.
    """
    shape, flat = images.shape, _flat(images)
    filled = _window(shape, moves.filled, side)
    emptied = _window(shape, moves.emptied, side)
    nu = _flat(current) - flat
    budget = epsilon[:, None] ** order
    spent = jnp.sum(_mass(nu, shape, order), axis=1, keepdims=True)
    unspent = jnp.maximum(budget - spent, 0.0) / shape[3]
    freed = _mass(jnp.where(filled | emptied, nu, 0.0), shape, order)
    available = _along_width(_root(freed + unspent, order), shape)
    bumps = jnp.where(filled, _bumps(shape, moves, side), 0.0)
    temp = _along_width(moves.signs, shape) * _normalized(bumps, shape, order)
    temp += _normalized(jnp.where(filled, nu, 0.0), shape, order)
    temp = available * _normalized(temp, shape, order)
    moved = jnp.where(filled, temp, jnp.where(emptied, 0.0, nu))
    return jnp.clip(add_rounding_inward(flat, moved), *bounds).reshape(shape)


def grid_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the side of a start's tiles, and how many rows and columns of them.

    Five along the shorter side of an image, as many as fit along the longer one.
    """
    shorter = min(shape[0], shape[1])
    side = max(shorter // 5, 1)
    rows, columns = (min(5 * n // shorter, n // side) for n in shape[:2])
    return side, rows, columns


def tiles(
    images: Array,
    signs: Array,
    transposed: Array,
    *,
    epsilon: Array,
    order: int,
    bounds: tuple[ArrayLike, ArrayLike],
) -> Array:
    """Add a grid of windows, rescaled to length epsilon: how l1 and l2 start.

    Args:
      images: clean images.
      signs: float32 `[batch, rows, columns, channels]`, by `grid_shape`.
      transposed: bool `[batch, rows, columns]`.
      epsilon: radius, `[batch]`.
      order: 1 or 2.
      bounds: the box, (lowest, highest).

    Returns:
      Candidates like `images`.
    """
    side, rows, columns = grid_shape(images.shape[1:])
    tile = _tile(side)
    spare = images.shape[1] - side * rows, images.shape[2] - side * columns
    margins = [(size // 2, size - size // 2) for size in spare]
    one = jnp.where(transposed[:, :, None, :, None], tile.T[:, None, :], tile[:, None])
    pattern = one[..., None] * signs[:, :, None, :, None, :]
    pattern = pattern.reshape(-1, rows * side, columns * side, images.shape[-1])
    delta = jnp.pad(pattern, [(0, 0), *margins, (0, 0)])
    mass = jnp.sum(_mass(_flat(delta), images.shape, order), axis=1)
    delta *= per_pixel(epsilon / _root(mass, order))
    return jnp.clip(add_rounding_inward(images, delta), *bounds)


def _window(shape: tuple[int, ...], corners: Array, side: Array) -> Array:
    """Return the mask `[batch, height, width * channels]` of each example's window."""
    rows, columns = _offsets(shape, corners)
    rows, columns = ((line >= 0) & (line < side) for line in (rows, columns))
    return rows[:, :, None] & columns[:, None, :]


def _offsets(shape: tuple[int, ...], corners: Array) -> tuple[Array, Array]:
    """Return coordinates from the corner on, of rows and of columns * channels."""
    columns = np.repeat(np.arange(shape[2]), shape[3])
    rows = jnp.arange(shape[1])[None, :] - corners[:, :1]
    return rows, jnp.asarray(columns)[None, :] - corners[:, 1:]


def _bumps(shape: tuple[int, ...], moves: Moves, side: Array) -> Array:
    """Return eta, alike in all channels, and right inside the filled window only.

    eta is a positive bump of half the window beside a negative one. A bump is
    sum_(k=0)^M 1 / (n + 1 - k)^2 with n = side // 2 and M = n - the distance from its
    center, in the maximum norm: F(n + 1) - F(distance), where F sums 1 / j^2. F grows,
    so that F of the larger distance is the larger F: all but one maximum is of lines.
    """
    sums = jnp.asarray(_inverse_squares(max(shape[1:3]) + 2))
    rows, columns = _offsets(shape, moves.filled)
    transposed = moves.transposed[:, None]
    row_heights, row_signs = _lines(sums, rows, side, ~transposed)
    column_heights, column_signs = _lines(sums, columns, side, transposed)
    taken = jnp.maximum(row_heights[:, :, None], column_heights[:, None, :])
    signs = row_signs[:, :, None] * column_signs[:, None, :]
    return signs * (sums[side // 2 + 1] - taken)


def _lines(
    sums: Array, offsets: Array, side: Array, is_long: Array
) -> tuple[Array, Array]:
    """Return F(distance from the bump's center) along one axis, and the bump's sign."""
    half = side // 2
    is_first = (offsets < half) | is_long
    split = jnp.where(is_first, half // 2, half + (side - half) // 2)
    center = jnp.where(is_long, half, split)
    distance = jnp.minimum(jnp.abs(offsets - center), len(sums) - 1)
    heights = jax.lax.optimization_barrier(sums[distance])
    return heights, jnp.where(is_first, 1.0, -1.0)


def _tile(side: int) -> np.ndarray:
    """Return eta `[side, side]`, halves side by side."""
    sums = _inverse_squares(side + 2)
    half = side // 2
    along, across = np.indices((side, side))
    center = np.where(across < half, half // 2, half + (side - half) // 2)
    distance = np.maximum(np.abs(along - half), np.abs(across - center))
    sign = np.where(across < half, 1, -1)
    return (sign * (sums[half + 1] - sums[distance])).astype(np.float32)


def _inverse_squares(length: int) -> np.ndarray:
    """Return F(0), ..., F(length - 1)."""
    terms = 1 / np.arange(1, length, dtype=np.float64) ** 2
    return np.concatenate([[0.0], np.cumsum(terms)]).astype(np.float32)


def _flat(images: Array) -> Array:
    return images.reshape(*images.shape[:2], -1)


def _along_width(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat `[batch, channels]` as `[batch, 1, width * channels]`."""
    return jnp.tile(values, (1, shape[2]))[:, None, :]


def _normalized(values: Array, shape: tuple[int, ...], order: int) -> Array:
    """Divide every channel by its norm; a zero one stays zero."""
    length = _root(_mass(values, shape, order), order)
    return values * _along_width(1 / jnp.where(length > 0, length, 1.0), shape)


def _mass(values: Array, shape: tuple[int, ...], order: int) -> Array:
    """Return the norms `[batch, channels]`, to the power of their order."""
    # XLA on CPU would compute what it sums over one number at a time, masks and all.
    powers = jax.lax.optimization_barrier(jnp.abs(values) ** order)
    return jnp.sum(jnp.sum(powers, axis=1).reshape(-1, *shape[2:]), axis=1)


def _root(mass: Array, order: int) -> Array:
    return mass if order == 1 else jnp.sqrt(mass)
