"""Balls and boxes: where an attack may go, and where it starts.

`images` are the clean images `[batch, height, width, channels]` inside the box
`bounds`; `epsilon` is a scalar or `[batch]`, in the images' unit. The norms are over
all pixels and channels of an example.

Sums are rounded towards the clean image, so that a perturbation is no longer than the
one that was asked for, as float64 sees it, to within a rounding of `epsilon` itself.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.types import Array

# A number above this has a reciprocal that compilers may flush to zero.
_HUGE = 1e30


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
    """Project onto the ball around the clean images, then clip to the box.

    For linf this is the exact projection onto the intersection. For l2 the result lies
    in both: clipping towards a box that holds the center shortens every coordinate of
    the perturbation.

    Args:
      candidates: `[batch, height, width, channels]`; NaN entries become the clean ones.
      images: clean images, inside the box.
      epsilon: radius, scalar or `[batch]`, at least 0.
      norm: one of `NORMS`.
      bounds: the box, (lowest, highest).

    Returns:
      Images like `images`, with norm at most epsilon and inside the box.
    """
    radius = per_pixel(jnp.asarray(epsilon))
    delta = jnp.clip(candidates - images, -_HUGE, _HUGE)
    delta = _SHORTEN[norm](jnp.where(jnp.isnan(delta), 0.0, delta), radius)
    return jnp.clip(_add_rounding_inward(images, delta), *bounds)


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
    (Muller 1959; Barthe et al. 2005).

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


def _shorten_linf(delta: Array, radius: Array) -> Array:
    return jnp.clip(delta, -radius, radius)


def _shorten_l2(delta: Array, radius: Array) -> Array:
    length = l2_norm(delta)
    too_long = length > radius
    return delta * jnp.where(too_long, radius / jnp.where(too_long, length, 1.0), 1.0)


def _draw_linf(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def _draw_l2(key: Array, shape: tuple[int, ...]) -> Array:
    direction_key, radius_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, (1, *shape))
    size = direction.size
    radius = jax.random.uniform(radius_key) ** (1 / size)
    return radius * unit_vector(direction, order=2)[0]


_SHORTEN: dict[str, Callable[[Array, Array], Array]] = {
    "linf": _shorten_linf,
    "l2": _shorten_l2,
}
_DRAW: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "linf": _draw_linf,
    "l2": _draw_l2,
}
NORMS = tuple(_SHORTEN)


def _add_rounding_inward(images: Array, delta: Array) -> Array:
    # Rounding to nearest may lengthen the perturbation of every pixel at once (think of
    # a plain background), which adds up to far more than an ulp of an l2 norm.
    moved = images + delta
    too_far = jnp.abs(moved - images) > jnp.abs(delta)
    return jnp.where(too_far, jnp.nextafter(moved, images), moved)
