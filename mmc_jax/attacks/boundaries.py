"""Boundaries between the label and wrong classes, linearised at a point.

The boundary to class k is where h_y - h_k = 0. One forward pass and one backward pass a
boundary give the hyperplanes (`hyperplanes`) that stand for them near a point.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmc_jax.attacks import hyperplanes
from mmc_jax.attacks.objectives import pairwise_margin
from mmc_jax.attacks.passes import Problem, jacobian_pass
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


def boundary_problem(
    logits_fn: LogitsFn | StochasticLogitsFn, labels: Array, num_eot_samples: int
) -> Problem:
    """Return the problem whose objective, for an aim k, is h_y - h_k."""
    return Problem(logits_fn, labels, None, pairwise_margin, num_eot_samples)


def linearise(
    problem: Problem, points: Array, keys: Array, aims: Array
) -> tuple[Array, Array, Array]:
    """Linearise boundaries, in one forward pass and one backward pass an aim.

    Args:
      problem: from `boundary_problem`.
      points: images, `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone.
      aims: k, `[num_aims, batch]`.

    Returns:
      The logits `[batch, num_classes]`, the values h_y - h_k `[num_aims, batch]`, and
      their gradients `[num_aims, batch, size]`.
    """
    logits, gradients = jacobian_pass(problem, points, keys, aims)
    values = margins(logits, problem.labels, aims)
    return logits, values, gradients.reshape(*aims.shape, -1)


def margins(logits: Array, labels: Array, aims: Array) -> Array:
    """Return h_y - h_k for every aim k, `[num_aims, batch]`; a NaN counts as 0."""
    values = jax.vmap(pairwise_margin, (None, None, 0))(logits, labels, aims)
    return jnp.nan_to_num(values, nan=0.0)


def closest(values: Array, normals: Array, *, norm: str) -> tuple[Array, Array, Array]:
    """Choose the closest of several hyperplanes, as if there were no box.

    Args:
      values: `[num_aims, batch]`.
      normals: `[num_aims, batch, size]`.
      norm: that of the distance.

    Returns:
      Its distance `[batch]`, infinite where there is no gradient at all; its value
      `[batch]`; and its normal `[batch, size]`.
    """
    distances = hyperplanes.hyperplane_distances(values, normals, norm=norm)
    chosen = jnp.argmin(distances, axis=0)[None]
    normal = jnp.take_along_axis(normals, chosen[..., None], axis=0)[0]
    value = jnp.take_along_axis(values, chosen, axis=0)[0]
    return jnp.min(distances, axis=0), value, normal


def is_wrong(logits: Array, labels: Array) -> Array:
    """Return where the class is not the label; logits with a NaN have no class."""
    invalid = jnp.any(jnp.isnan(logits), axis=1)
    return (jnp.argmax(logits, axis=1) != labels) | invalid


def likely_wrong_classes(logits: Array, labels: Array, count: int) -> Array:
    """Return the wrong classes with the largest logits, at most `count`, in order.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]`.
      count: at least 1.

    Returns:
      int32 `[batch, min(count, num_classes - 1)]`.
    """
    num_classes = logits.shape[1]
    is_label = labels[:, None] == jnp.arange(num_classes)[None, :]
    # All numbers come before the label, even minus infinity, and a NaN changes nothing.
    ranking = jnp.where(is_label, -jnp.inf, jnp.nan_to_num(logits, nan=0.0))
    _, ranked = jax.lax.top_k(ranking, min(count, num_classes - 1))
    return ranked
