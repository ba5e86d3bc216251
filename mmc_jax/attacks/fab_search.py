"""The end of FAB: a search between the adversarial and the clean image."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mmc_jax.attacks import boundaries
from mmc_jax.attacks.fab_setting import (
    SEARCH,
    Given,
    Setting,
    boundary_problem,
    distance_from_clean,
    fold,
    goes_on,
)
from mmc_jax.attacks.fab_walk import State
from mmc_jax.attacks.passes import logits_pass
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array

_NUM_STEPS = 3
# Of the largest logit: what two programs may differ by.
_ROUNDING = 16 * 2.0**-23


class _Bracket(NamedTuple):
    """A bracket of the boundary: an adversarial image, and one nearer that is not."""

    outer: Array
    outer_logits: Array
    inner: Array
    inner_logits: Array
    distance: Array
    """Of the outer image."""
    is_active: Array


def search_back(
    setting: Setting, given: Given, logits: Array, state: State
) -> tuple[Array, Array]:
    """Search between the best and the clean image by the rule of false position.

    Args:
      setting: what is the same for all examples.
      given: the examples.
      logits: those of the clean images, `[batch, num_classes]`.
      state: where the walks ended.

    Returns:
      The closest adversarial images known now, and their distances.
    """
    start = _Bracket(
        outer=state.best,
        outer_logits=state.best_logits,
        inner=given.images,
        inner_logits=logits,
        distance=state.distance,
        is_active=goes_on(setting, given, state.distance)
        & jnp.isfinite(state.distance),
    )
    found = loop_over_survivors(
        lambda number, state, given: _search(setting, given, number, state),
        start,
        given,
        is_active=lambda state: state.is_active,
        num_steps=_NUM_STEPS,
        # So few passes are not worth compiling for several sizes.
        drop=False,
    )
    return found.outer, found.distance


def _search(setting: Setting, given: Given, number: Array, state: _Bracket) -> _Bracket:
    problem = boundary_problem(setting, given)
    aim = jnp.argmax(state.outer_logits, axis=1)[None]
    outer = boundaries.margins(state.outer_logits, given.labels, aim)[0]
    inner = boundaries.margins(state.inner_logits, given.labels, aim)[0]
    share = outer / jnp.where(inner == outer, 1.0, outer - inner)
    share = per_pixel(jnp.clip(jnp.nan_to_num(share), 0.0, 1.0))
    points = state.outer + share * (state.inner - state.outer)
    points = jnp.clip(points, *setting.bounds)
    numbers = jnp.full(points.shape[0], number)
    keys = fold(given.keys, SEARCH, numbers, numbers)
    logits = logits_pass(problem, points, keys)
    wrong = _is_clearly_wrong(logits, given.labels)
    hit, miss = state.is_active & wrong, state.is_active & ~wrong
    distance = jnp.where(
        hit, distance_from_clean(setting, given, points), state.distance
    )
    return _Bracket(
        outer=jnp.where(per_pixel(hit), points, state.outer),
        outer_logits=jnp.where(hit[:, None], logits, state.outer_logits),
        inner=jnp.where(per_pixel(miss), points, state.inner),
        inner_logits=jnp.where(miss[:, None], logits, state.inner_logits),
        distance=distance,
        is_active=state.is_active & goes_on(setting, given, distance),
    )


def _is_clearly_wrong(logits: Array, labels: Array) -> Array:
    """Return where the class is not the label, by more than rounding."""
    # On a straight stretch the search lands on the boundary itself, where the next
    # program to run the model may see the other class.
    is_label = labels[:, None] == jnp.arange(logits.shape[1])[None, :]
    doubt = _ROUNDING * jnp.max(jnp.abs(logits), axis=1, keepdims=True)
    return boundaries.is_wrong(jnp.where(is_label, logits + doubt, logits), labels)
