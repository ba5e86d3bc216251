"""The engine of FAB: walks along the decision boundary, towards the clean image.

A step from x, with the closest linearised boundary there (`hyperplanes`), the shortest
ways d to it from x and d_0 from the clean image x_0, is

    a = min(||d|| / (||d|| + ||d_0||), alpha_max)
    x <- clip((1 - a) (x + overshoot d) + a (x_0 + overshoot d_0))

and where that is adversarial, it is kept if it is the closest to x_0 so far, and the
walk steps back to x_0 + beta (x - x_0).

Read `_advance` first: one pass, then one step of every example. The logits of the pass
from which a step is taken say whether the step before it succeeded, so most steps cost
one forward and one backward pass a class. Only after a success the gradient is wanted
elsewhere: where enough successes are expected, a forward pass alone goes first.

Each example counts its own steps and runs, so a pass may find one stepping back and
another starting anew; what an example does never depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmc_jax.attacks import boundaries, hyperplanes
from mmc_jax.attacks.conditional import if_needed
from mmc_jax.attacks.fab_setting import (
    GRADIENT,
    START,
    VERDICT,
    Given,
    Setting,
    boundary_problem,
    distance_from_clean,
    flat,
    fold,
    goes_on,
)
from mmc_jax.attacks.passes import logits_pass
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array, StochasticLogitsFn

_FOREVER = jnp.iinfo(jnp.int32).max
# Radius that random starts are drawn from while none is known, in box widths.
_DEFAULT_RADIUS = {"linf": 0.3, "l2": 1.0, "l1": 5.0}


class State(NamedTuple):
    """Where each example is; every leaf is `[batch, ...]`."""

    points: Array
    """Where the next pass runs."""
    is_unjudged: Array
    """Whether a step led here whose success is not known yet."""
    succeeded: Array
    """Whether the last step that was judged led to an adversarial image."""
    step: Array
    """Steps done in this run."""
    run: Array
    """Runs done: restarts for each set of aims."""
    is_active: Array
    best: Array
    """The closest adversarial image, the clean one while none is known."""
    distance: Array
    """Of the best; infinite while none is known."""
    best_logits: Array


def walk(setting: Setting, given: Given, logits: Array) -> State:
    """Walk from every image that is classified right.

    Args:
      setting: what is the same for all examples.
      given: the examples.
      logits: those of the clean images, `[batch, num_classes]`.

    Returns:
      Where the walks ended, with the closest adversarial images met.
    """
    batch = given.images.shape[0]
    zeros = jnp.zeros(batch, jnp.int32)
    none = jnp.zeros(batch, bool)
    num_runs = given.aims.shape[1] * setting.num_restarts
    state = State(
        points=given.images,
        is_unjudged=none,
        succeeded=none,
        step=zeros,
        run=zeros,
        is_active=~boundaries.is_wrong(logits, given.labels) & (num_runs > 0),
        best=given.images,
        distance=jnp.full(batch, jnp.inf),
        best_logits=logits,
    )
    return loop_over_survivors(
        lambda _, state, given: _advance(setting, given, state),
        state,
        given,
        is_active=lambda state: state.is_active,
        num_steps=_FOREVER,
    )


def _advance(setting: Setting, given: Given, state: State) -> State:
    """Take one step of every example whose gradient is known after one pass."""
    problem = boundary_problem(setting, given)
    set_number = jnp.minimum(state.run // setting.num_restarts, given.aims.shape[1] - 1)
    aims = jnp.take_along_axis(given.aims, set_number[:, None, None], axis=1)[:, 0].T
    keys = fold(given.keys, GRADIENT, state.run, state.step)
    logits, values, normals = boundaries.linearise(problem, state.points, keys, aims)
    judged, moves, ends = _judge(setting, given, state, logits)
    steps = judged.is_active & ~moves
    stepped = _step(setting, given, state.points, values, normals)
    state = judged._replace(
        points=jnp.where(per_pixel(steps), stepped, judged.points),
        is_unjudged=steps,
        step=judged.step + steps,
    )
    # A forward pass costs about what a backward one does. Of the examples that it finds
    # stepping back or starting anew, it saves a pass with a backward an aim.
    likely = steps & (state.succeeded | (state.step >= setting.num_steps))
    pays = jnp.sum(likely) * (1 + aims.shape[0]) > jnp.sum(steps)
    if isinstance(setting.logits_fn, StochasticLogitsFn):
        # Samples must not depend on what other examples do.
        pays = jnp.bool_(True)
    state, _, ends_too = if_needed(
        pays,
        lambda keys: _judge(
            setting, given, state, logits_pass(problem, state.points, keys)
        ),
        fold(given.keys, VERDICT, state.run, state.step),
        (state, steps, jnp.zeros_like(ends)),
    )
    return _start_anew(setting, given, state, (ends | ends_too) & state.is_active)


def _judge(
    setting: Setting, given: Given, state: State, logits: Array
) -> tuple[State, Array, Array]:
    """Take note of the logits at the points.

    Returns:
      The state, where successes have stepped back; and bool `[batch]` twice: whether
      these logits were news that leave no step to take from here, and whether they
      ended the run.
    """
    heard = state.is_unjudged & state.is_active
    hit = heard & boundaries.is_wrong(logits, given.labels)
    distance = distance_from_clean(setting, given, state.points)
    better = hit & (distance < state.distance)
    state = state._replace(
        best=jnp.where(per_pixel(better), state.points, state.best),
        distance=jnp.where(better, distance, state.distance),
        best_logits=jnp.where(better[:, None], logits, state.best_logits),
    )
    ends = heard & (state.step >= setting.num_steps)
    run = state.run + ends
    is_active = state.is_active & (run < given.aims.shape[1] * setting.num_restarts)
    is_active &= goes_on(setting, given, state.distance)
    back = given.images + setting.beta * (state.points - given.images)
    points = jnp.where(per_pixel(hit), jnp.clip(back, *setting.bounds), state.points)
    state = state._replace(
        points=points,
        is_unjudged=state.is_unjudged & ~heard,
        succeeded=jnp.where(heard, hit & ~ends, state.succeeded),
        step=jnp.where(ends, 0, state.step),
        run=run,
        is_active=is_active,
    )
    return state, hit | ends, ends


def _start_anew(setting: Setting, given: Given, state: State, starts: Array) -> State:
    """Start at the clean image; in further restarts on a sphere around it."""
    is_random = starts & (state.run % setting.num_restarts > 0)
    state = state._replace(
        points=jnp.where(per_pixel(starts), given.images, state.points)
    )

    def draw(keys: Array) -> Array:
        directions = jax.vmap(
            lambda key: _DRAW[setting.norm](key, given.images.shape[1:])
        )
        radius = jnp.minimum(state.distance, given.epsilon)
        width = jnp.subtract(setting.bounds[1], setting.bounds[0])
        radius = jnp.where(
            jnp.isfinite(radius), radius, _DEFAULT_RADIUS[setting.norm] * width
        )
        candidates = given.images + per_pixel(radius / 2) * directions(keys)
        points = jnp.clip(candidates, *setting.bounds)
        return jnp.where(per_pixel(is_random), points, state.points)

    keys = fold(given.keys, START, state.run, state.step)
    return state._replace(
        points=if_needed(jnp.any(is_random), draw, keys, state.points)
    )


def _step(
    setting: Setting, given: Given, points: Array, values: Array, normals: Array
) -> Array:
    """Return the step's end, from `linearise`'s values and normals at the points."""
    _, value, normal = boundaries.closest(values, normals, norm=setting.norm)
    here, clean = flat(points), flat(given.images)
    value_at_clean = value + jnp.sum(normal * (clean - here), axis=1)
    ways = hyperplanes.shortest_way(
        jnp.concatenate([here, clean]),
        jnp.concatenate([normal, normal]),
        jnp.concatenate([value, value_at_clean]),
        norm=setting.norm,
        bounds=setting.bounds,
    )
    way, clean_way = jnp.split(ways, 2)
    length, clean_length = jnp.split(hyperplanes.lengths(ways, norm=setting.norm), 2)
    total = length + clean_length
    bias = length / jnp.where(total > 0, total, 1.0)
    bias = jnp.minimum(bias, setting.alpha_max)[:, None]
    ahead = here + setting.overshoot * way
    clean_ahead = clean + setting.overshoot * clean_way
    stepped = (1 - bias) * ahead + bias * clean_ahead
    return jnp.clip(stepped, *setting.bounds).reshape(points.shape)


def _draw_on_cube(key: Array, shape: tuple[int, ...]) -> Array:
    draws = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return draws / jnp.max(jnp.abs(draws))


def _draw_on_sphere(key: Array, shape: tuple[int, ...]) -> Array:
    draws = jax.random.normal(key, shape)
    return draws / jnp.sqrt(jnp.sum(draws**2))


def _draw_on_octahedron(key: Array, shape: tuple[int, ...]) -> Array:
    draws = jax.random.laplace(key, shape)
    return draws / jnp.sum(jnp.abs(draws))


_DRAW: dict[str, Callable[[Array, tuple[int, ...]], Array]] = {
    "linf": _draw_on_cube,
    "l2": _draw_on_sphere,
    "l1": _draw_on_octahedron,
}
