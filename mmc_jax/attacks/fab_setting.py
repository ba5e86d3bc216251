"""What the parts of FAB share: the setting, the examples, distances and keys."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.attacks import boundaries, hyperplanes
from mmc_jax.attacks.passes import Problem
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

START, GRADIENT, VERDICT, CLEAN, SEARCH = range(5)
"""What an example's key is folded with, besides the numbers of the run and the step."""


class Setting(NamedTuple):
    """What is the same for all examples."""

    logits_fn: LogitsFn | StochasticLogitsFn
    norm: str
    bounds: tuple[ArrayLike, ArrayLike]
    num_eot_samples: int
    stops_in_ball: bool
    """Whether an example is done with the first adversarial image in its ball."""
    num_steps: Array
    num_restarts: Array
    alpha_max: Array
    overshoot: Array
    beta: Array


class Given(NamedTuple):
    """What is known of each example; every leaf is `[batch, ...]`."""

    images: Array
    labels: Array
    keys: Array
    epsilon: Array
    """Radius of the ball; infinite where every adversarial image counts."""
    aims: Array
    """`[batch, num_sets, num_aims]`: wrong classes whose boundaries a walk sees; one
    set after the other."""


def goes_on(setting: Setting, given: Given, distance: Array) -> Array:
    """Return which examples want a closer image than the one so far away."""
    if setting.stops_in_ball:
        return ~is_in_ball(setting, given, distance)
    return jnp.ones_like(distance, bool)


def is_in_ball(setting: Setting, given: Given, distance: Array) -> Array:
    """Return where a distance is within epsilon, also as float64 sees it."""
    # Sums in float32 are off by some roundings; the largest entry is not.
    size = given.images[0].size
    slack = math.sqrt(size) * 2.0**-23 if setting.norm != "linf" else 0.0
    return jnp.isfinite(distance) & (distance * (1 + slack) <= given.epsilon)


def distance_from_clean(setting: Setting, given: Given, points: Array) -> Array:
    """Return how far points are from their clean images, `[batch]`."""
    return hyperplanes.lengths(flat(points - given.images), norm=setting.norm)


def boundary_problem(setting: Setting, given: Given) -> Problem:
    """Return the problem that all passes solve."""
    return boundaries.boundary_problem(
        setting.logits_fn, given.labels, setting.num_eot_samples
    )


def flat(images: Array) -> Array:
    """Return `[batch, size]`."""
    return images.reshape(images.shape[0], -1)


def fold(keys: Array, purpose: int, run: Array, step: Array) -> Array:
    """Return keys of one purpose at each example's own run and step, `[batch]`."""

    def fold_one(key: Array, run: Array, step: Array) -> Array:
        key = jax.random.fold_in(key, purpose)
        return jax.random.fold_in(jax.random.fold_in(key, run), step)

    return jax.vmap(fold_one)(keys, run, step)
