"""Balls and boxes: where an attack may go, and where it starts.

`images` are the clean images `[batch, height, width, channels]` inside the box
`bounds`; `epsilon` is a scalar or `[batch]`, in the images' unit. The norms are over
all pixels and channels of an example.

Sums are rounded towards the clean image, so that a perturbation is no longer than the
one that was asked for, as float64 sees it, to within a rounding of `epsilon` itself.
The l1 norm adds in a tree, whose rounding error does not grow with the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.types import Array

# A number above this has a reciprocal that compilers may flush to zero.
_HUGE = 1e30
# The search for an l1 projection: how near is near enough, and when to stop.
_RELATIVE_SLACK = 1e-6
_MOST_HALVINGS = 20


def per_pixel(value: Array) -> Array:
    """Reshape a scalar or `[batch]` value so that it broadcasts over images.

    Args:
      value: scalar or `[batch]`.

    Returns:
      `[1 or batch, 1, 1, 1]`.
    """
    return jnp.reshape(value, (-1, 1, 1, 1))


def l2_norm(values: Array) -> Array:
    """Return each example's Euclidean norm.

    Scaled by the largest entry first, so that it neither overflows nor underflows.

    Args:
      values: `[batch, ...]`, at most 1e30 in size.

    Returns:
      `[batch, 1, ...]`.
    """
    axes = tuple(range(1, values.ndim))
    largest = jnp.max(jnp.abs(values), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale * jnp.sqrt(jnp.sum((values / scale) ** 2, axis=axes, keepdims=True))


def unit_vector(vectors: Array, *, order: int) -> Array:
    """Divide each example by its l1 or l2 norm; a zero vector stays zero.

    Args:
      vectors: `[batch, ...]`; entries beyond 1e30 count as 1e30, but not NaN.
      order: 1 or 2.

    Returns:
      Like `vectors`, with norm 1 or 0.
    """
    axes = tuple(range(1, vectors.ndim))
    vectors = jnp.clip(vectors, -_HUGE, _HUGE)
    largest = jnp.max(jnp.abs(vectors), axis=axes, keepdims=True)
    scaled = vectors / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sum(jnp.abs(scaled) ** order, axis=axes, keepdims=True) ** (1 / order)
    # With its largest entry at 1, a vector is at least 1 long, or zero.
    return scaled / jnp.maximum(length, 1.0)


def project(
    candidates: Array,
    images: Array,
    *,
    epsilon: ArrayLike,
    norm: str,
    bounds: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
) -> Array:
    """Project onto the ball around the clean images and the box.

    For linf and l1 this is the exact projection onto the intersection. For l2 it is the
    projection onto the ball, clipped to the box: it lies in both, since clipping
    towards a box that holds the center shortens every coordinate of the perturbation.

    l1, with d = candidate - clean and r the room to the box on the side of d:
    sign(d) clip(|d| - s, 0, r), for the least s >= 0 that makes it short enough.

    Args:
      candidates: `[batch, height, width, channels]`; NaN entries become the clean ones.
      images: clean images, inside the box.
      epsilon: radius, scalar or `[batch]`, at least 0.
      norm: one of `NORMS`.
      bounds: the box, (lowest, highest).

    Returns:
      Images like `images`, with norm at most epsilon and inside the box.

    Reference: for l1, Croce and Hein 2021, "Mind the box", proposition 2.1.
    """
    low, high = bounds
    radius = per_pixel(jnp.asarray(epsilon))
    delta = jnp.clip(candidates - images, -_HUGE, _HUGE)
    delta = jnp.where(jnp.isnan(delta), 0.0, delta)
    room = jnp.where(delta > 0, high - images, images - low)
    delta = _SHORTEN[norm](delta, radius, room)
    return jnp.clip(add_rounding_inward(images, delta), low, high)


def random_start(
    keys: Array,
    images: Array,
    *,
    epsilon: ArrayLike,
    norm: str,
    bounds: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
) -> Array:
    """Draw a point uniformly in the ball around each image, clipped to the box.

    linf: every pixel uniform in [-epsilon, epsilon] (Madry et al. 2018). l2: a normal
    direction, and the radius epsilon U^(1/d) that makes the d-dimensional ball uniform
    (Muller 1959). l1: Laplace draws over their norm plus one more exponential draw
    (Barthe et al. 2005), projected.

    Args:
      keys: `[batch]` typed keys, consumed.
      images: clean images, inside the box.
      epsilon: radius, scalar or `[batch]`, at least 0.
      norm: one of `NORMS`.
      bounds: the box, (lowest, highest).

    Returns:
      Images like `images`, with norm at most epsilon and inside the box.
    """
    unit = jax.vmap(lambda key: _DRAW[norm](key, images.shape[1:]))(keys)
    candidates = images + per_pixel(jnp.asarray(epsilon)) * unit
    return project(candidates, images, epsilon=epsilon, norm=norm, bounds=bounds)


def l1_norm(values: Array) -> Array:
    """Return each example's sum of sizes, to within a few roundings.

    Args:
      values: `[batch, ...]`.

    Returns:
      `[batch, 1, ...]`.
    """
    sizes = jnp.abs(values).reshape(values.shape[0], -1)
    # A sum in order may be off by a rounding an entry, one in a tree by one a level.
    while sizes.shape[1] > 1:
        half = -(-sizes.shape[1] // 2)
        rest = sizes.shape[1] - half
        sizes = sizes[:, :half].at[:, :rest].add(sizes[:, half:])
    return sizes.reshape((-1,) + (1,) * (values.ndim - 1))


def _shorten_linf(delta: Array, radius: Array, room: Array) -> Array:
    del room
    return jnp.clip(delta, -radius, radius)


def _shorten_l2(delta: Array, radius: Array, room: Array) -> Array:
    del room
    length = l2_norm(delta)
    too_long = length > radius
    return delta * jnp.where(too_long, radius / jnp.where(too_long, length, 1.0), 1.0)


def _shorten_l1(delta: Array, radius: Array, room: Array) -> Array:
    batch = delta.shape[0]
    sizes, room = jnp.abs(delta).reshape(batch, -1), room.reshape(batch, -1)
    shift = _find_shift(
        sizes, room, jnp.broadcast_to(radius.reshape(-1, 1), (batch, 1))
    )
    shortened = jnp.clip(sizes - shift, 0.0, room).reshape(delta.shape)
    # The shift is right to a few roundings: the length is made so.
    length = l1_norm(shortened)
    too_long = length > radius
    scale = jnp.where(too_long, radius / jnp.where(too_long, length, 1.0), 1.0)
    return jnp.sign(delta) * shortened * scale


def _find_shift(sizes: Array, room: Array, radius: Array) -> Array:
    """Return the least s >= 0 with sum clip(sizes - s, 0, room) <= radius.

    Sizes and room are `[batch, pixels]`, the rest `[batch, 1]`. The sum falls with s in
    straight pieces: Newton's method in a bracket, which every third step halves.
    """

    class Search(NamedTuple):
        step: Array
        low: Array
        high: Array
        shift: Array
        done: Array

    def narrow(search: Search) -> Search:
        left = sizes - search.shift
        excess = jnp.sum(jnp.clip(left, 0.0, room), axis=1, keepdims=True) - radius
        slope = jnp.sum((left > 0) & (left < room), axis=1, keepdims=True)
        low = jnp.where(excess > 0, search.shift, search.low)
        high = jnp.where(excess > 0, search.high, search.shift)
        newton = search.shift + excess / jnp.maximum(slope, 1)
        trusted = (newton > low) & (newton < high) & (search.step % 3 < 2)
        done = search.done | (jnp.abs(excess) <= _RELATIVE_SLACK * radius)
        done |= (search.shift == 0) & (excess <= 0)
        shift = jnp.where(trusted, newton, (low + high) / 2)
        shift = jnp.where(done, search.shift, shift)
        return Search(search.step + 1, low, high, shift, done)

    zero = jnp.zeros_like(radius)
    most = jnp.max(sizes, axis=1, keepdims=True)
    start = Search(jnp.int32(0), zero, most, zero, zero > 0)
    return jax.lax.while_loop(
        lambda search: (search.step < _MOST_HALVINGS * 3) & ~jnp.all(search.done),
        narrow,
        start,
    ).shift


def _draw_linf(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def _draw_l2(key: Array, shape: tuple[int, ...]) -> Array:
    direction_key, radius_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, (1, *shape))
    size = direction.size
    radius = jax.random.uniform(radius_key) ** (1 / size)
    return radius * unit_vector(direction, order=2)[0]


def _draw_l1(key: Array, shape: tuple[int, ...]) -> Array:
    inside_key, outside_key = jax.random.split(key)
    draws = jax.random.laplace(inside_key, shape)
    return draws / (jnp.sum(jnp.abs(draws)) + jax.random.exponential(outside_key))


_SHORTEN: dict[str, Callable[[Array, Array, Array], Array]] = {
    "linf": _shorten_linf,
    "l2": _shorten_l2,
    "l1": _shorten_l1,
}
_DRAW: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "linf": _draw_linf,
    "l2": _draw_l2,
    "l1": _draw_l1,
}
NORMS = tuple(_SHORTEN)


def add_rounding_inward(images: Array, delta: Array) -> Array:
    """Return images + delta, no pixel of it further away than delta says.

    Rounding to nearest may lengthen the perturbation of every pixel at once (think of a
    plain background), which adds up to far more than an ulp of an l2 norm.

    Args:
      images: clean images.
      delta: a perturbation like `images`.

    Returns:
      Images like `images`.
    """
    moved = images + delta
    too_far = jnp.abs(moved - images) > jnp.abs(delta)
    return jnp.where(too_far, jnp.nextafter(moved, images), moved)
