"""Auto-PGD's step rule for l1: sparse steps, and a ball that shrinks to size.

The same functions as in `auto_step`. With f the minimised objective, a step is

    x_{i+1} = P(x_i - eta s / ||s||_1),  s = sign of the gradient's k largest entries

and P the exact projection onto ball and box. Every ceil(0.04 N) steps the sparsity k
becomes that of the best perturbation so far over 1.5. If it is then 0.95 to 1 times the
last k, eta is divided by 1.5, down to a tenth of its first value, the radius; else eta
is reset to the radius, and x_i to the best point.

The radius is 3 epsilon for the first 30 % of the steps, 2 epsilon for the next 30 %,
and epsilon for the rest. Each part ends by projecting its best point onto the next
ball, where the next part starts, with k from that point's sparsity; at the very start k
is 0.2 of all entries.

Reference: Croce and Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on
image classifiers", section 4.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmc_jax.attacks.auto_step import Ball
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.types import Array

_FIRST_SHARE = 0.2
_SPARSER = 1.5
_SHORTER = 1.5
_SHORTEST = 0.1
_SAME_SPARSITY = 0.95
_PIXELS = (1, 2, 3)


class SparseStep(NamedTuple):
    """What the rule knows at x_i; but `images`, all is about points judged before."""

    images: Array
    best_images: Array
    best_gradient: Array
    best_objective: Array
    step_size: Array
    sparsity: Array
    """k, float `[batch]`."""


def scale_at(step: Array, num_steps: Array) -> Array:
    """Return the radius at a step, in epsilons: 3, 2 or 1."""
    left = (10 * step < 3 * num_steps).astype(jnp.float32)
    return 1.0 + left + (10 * step < 6 * num_steps)


def draw_start(keys: Array, ball: Ball) -> Array:
    """Draw a normal perturbation, which `begin` projects."""
    draw = partial(jax.random.normal, shape=ball.images.shape[1:])
    return ball.images + jax.vmap(draw)(keys)


def begin(ball: Ball, start: Array, num_steps: Array) -> SparseStep:
    """Return the state before anything is judged."""
    scale = scale_at(jnp.int32(0), num_steps)
    start = ball.project(start, scale=scale)
    batch, *shape = start.shape
    return SparseStep(
        images=start,
        best_images=start,
        best_gradient=jnp.zeros_like(start),
        best_objective=jnp.full(batch, jnp.inf, jnp.float32),
        step_size=scale * ball.epsilon,
        sparsity=jnp.full(batch, _FIRST_SHARE * math.prod(shape), jnp.float32),
    )


def wander(
    ball: Ball, state: SparseStep, num_steps: Array, gradient: Array
) -> SparseStep:
    """Take one plain step down any gradient, before the walk begins."""
    scale = scale_at(jnp.int32(0), num_steps)
    return state._replace(images=ball.project(_leap(state, gradient), scale=scale))


def advance(
    ball: Ball,
    state: SparseStep,
    step: Array,
    num_steps: Array,
    objective: Array,
    gradient: Array,
) -> SparseStep:
    """Take in f and its gradient at x_step, and move on.

    Args:
      ball: where to be at last.
      state: the last one.
      step: from 0.
      num_steps: N.
      objective: f at `state.images`, `[batch]`.
      gradient: that of f there.

    Returns:
      The next state.
    """
    scale, next_scale = scale_at(step, num_steps), scale_at(step + 1, num_steps)
    radius = scale * ball.epsilon
    better = objective < state.best_objective
    best_images = jnp.where(per_pixel(better), state.images, state.best_images)
    best_gradient = jnp.where(per_pixel(better), gradient, state.best_gradient)
    sparsity = _sparsity(ball, best_images)
    same = (sparsity >= _SAME_SPARSITY * state.sparsity) & (sparsity <= state.sparsity)
    shorter = jnp.maximum(state.step_size / _SHORTER, _SHORTEST * radius)
    decides = _decides(step, num_steps)
    restarts = per_pixel(decides & ~same)
    here = state._replace(
        images=jnp.where(restarts, best_images, state.images),
        step_size=jnp.where(decides, jnp.where(same, shorter, radius), state.step_size),
        sparsity=jnp.where(decides, sparsity, state.sparsity),
    )
    leap = _leap(here, jnp.where(restarts, best_gradient, gradient))
    shrinks = next_scale != scale
    images = ball.project(jnp.where(shrinks, best_images, leap), scale=next_scale)
    best_objective = jnp.where(better, objective, state.best_objective)
    return SparseStep(
        images=images,
        best_images=best_images,
        best_gradient=best_gradient,
        best_objective=jnp.where(shrinks, jnp.inf, best_objective),
        step_size=jnp.where(shrinks, next_scale * ball.epsilon, here.step_size),
        sparsity=jnp.where(shrinks, _sparsity(ball, images), here.sparsity),
    )


def _decides(step: Array, num_steps: Array) -> Array:
    """Return whether k and eta change, every so many steps of a part."""
    starts = jnp.array([0, -(-3 * num_steps // 10), -(-6 * num_steps // 10)])
    since = step - jnp.max(jnp.where(starts <= step, starts, 0))
    every = jnp.maximum((4 * num_steps + 99) // 100, 1)
    return (since > 0) & (since % every == 0)


def _sparsity(ball: Ball, images: Array) -> Array:
    """Return the k that a perturbation calls for."""
    num_moved = jnp.sum(images != ball.images, axis=_PIXELS)
    return jnp.maximum(num_moved / _SPARSER, 1.0)


def _leap(state: SparseStep, gradient: Array) -> Array:
    """Return x - eta s / ||s||_1, not projected."""
    largest = jnp.abs(gradient) >= per_pixel(_rank(gradient, state.sparsity))
    direction = jnp.where(largest, jnp.sign(gradient), 0.0)
    length = jnp.sum(jnp.abs(direction), axis=_PIXELS)
    return (
        state.images - per_pixel(state.step_size / jnp.maximum(length, 1)) * direction
    )


def _rank(gradient: Array, count: Array) -> Array:
    """Return the size of each example's `count`-th largest entry, `[batch]`.

    By halving: sizes are ordered like their bits, read as integers. Sorting costs more.
    """
    bits = jax.lax.bitcast_convert_type(jnp.abs(gradient), jnp.int32)
    wanted = jnp.floor(count)

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + (high - low) // 2
        enough = jnp.sum(bits >= per_pixel(middle), axis=_PIXELS) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    zero = jnp.zeros(gradient.shape[0], jnp.int32)
    most = jnp.full_like(zero, jnp.iinfo(jnp.int32).max)
    low, _ = jax.lax.fori_loop(0, 31, halve, (zero, most))
    return jax.lax.bitcast_convert_type(low, jnp.float32)
