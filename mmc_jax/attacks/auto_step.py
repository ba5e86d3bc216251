"""Auto-PGD's step rule for linf and l2: when to halve the step, and where to go next.

A rule is four functions, `draw_start`, `begin`, `wander` and `advance`, of a `Ball` and
of a state whose leaves are `[batch, ...]`: the engine (`apgd_engine`) judges and
differentiates at `state.images`, and `advance` moves on. `sparse_step` is another rule.

With f the minimised objective and N the number of steps, a step is

    z        = P(x_k - eta d(gradient of f at x_k))
    x_{k+1}  = P(x_k + a (z - x_k) + (1 - a) (x_k - x_{k-1})),  a = 0.75, at first 1

where d is the sign (linf) or the unit vector (l2). The step eta begins at 2 epsilon. At
the checkpoints w_j = ceil(p_j N) it is halved, and x_{k+1} replaced by the best point
so far, if fewer than 0.75 (w_j - w_{j-1}) of the steps since the last of them lowered
f, or if neither eta nor the lowest f has changed since then.

Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with an
Ensemble of Diverse Parameter-free Attacks", section 3 and algorithm 1.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mmc_jax.attacks import projections
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.types import Array

_MOMENTUM = 0.75
_ENOUGH = 0.75
# p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), in hundredths:
# integers, since 0.22 * 100 in floating point is more than 22.
_PERCENTS = np.array([0, 22, 41, 57, 70, 80, 87, 93, 99])


class Ball(NamedTuple):
    """Where an attack may go."""

    images: Array
    epsilon: Array
    """`[batch]`."""
    norm: str
    bounds: tuple[ArrayLike, ArrayLike]

    def project(self, candidates: Array, *, scale: ArrayLike = 1.0) -> Array:
        """Project onto the ball of radius `scale` epsilon, and the box."""
        return projections.project(
            candidates,
            self.images,
            epsilon=scale * self.epsilon,
            norm=self.norm,
            bounds=self.bounds,
        )


class AutoStep(NamedTuple):
    """What the rule knows at x_k; but `images`, all is about points judged before."""

    images: Array
    """x_k."""
    previous: Array
    """x_{k-1}."""
    objective: Array
    """f at x_{k-1}."""
    best_images: Array
    best_gradient: Array
    best_objective: Array
    step_size: Array
    num_decreases: Array
    """Steps that lowered f since the last checkpoint."""
    halved: Array
    """Whether the step was halved there."""
    best_at_checkpoint: Array


def checkpoints(num_steps: Array) -> Array:
    """Return w_0 = 0 to w_8 for a dynamic number of steps, exactly."""
    whole, rest = num_steps // 100, num_steps % 100
    return whole * _PERCENTS + (rest * _PERCENTS + 99) // 100


def draw_start(keys: Array, ball: Ball) -> Array:
    """Draw a start on the ball's surface, clipped to the box.

    linf: uniform, scaled until one pixel touches the surface; l2: a uniform direction.

    Args:
      keys: `[batch]` typed keys, consumed.
      ball: where to start.

    Returns:
      Images like those of the ball.
    """
    shape = ball.images.shape[1:]
    if ball.norm == "linf":
        draw = partial(jax.random.uniform, shape=shape, minval=-1.0, maxval=1.0)
        noise = jax.vmap(draw)(keys)
        noise /= jnp.max(jnp.abs(noise), axis=(1, 2, 3), keepdims=True)
    else:
        noise = jax.vmap(partial(jax.random.normal, shape=shape))(keys)
        noise = projections.unit_vector(noise, order=2)
    return ball.project(ball.images + per_pixel(ball.epsilon) * noise)


def begin(ball: Ball, start: Array, num_steps: Array) -> AutoStep:
    """Return the state before anything is judged, at a start in the ball."""
    del num_steps
    unknown = jnp.full(start.shape[0], jnp.inf, jnp.float32)
    return AutoStep(
        images=start,
        previous=start,
        objective=unknown,
        best_images=start,
        best_gradient=jnp.zeros_like(start),
        best_objective=unknown,
        step_size=2 * ball.epsilon,
        num_decreases=jnp.zeros(start.shape[0], jnp.int32),
        halved=jnp.zeros(start.shape[0], bool),
        best_at_checkpoint=unknown,
    )


def wander(ball: Ball, state: AutoStep, num_steps: Array, gradient: Array) -> AutoStep:
    """Take one plain step down any gradient, before the walk begins."""
    del num_steps
    images = _move(ball, state, gradient)
    return state._replace(images=images, previous=images)


def _move(ball: Ball, state: AutoStep, gradient: Array) -> Array:
    """Return z: one plain step down the gradient, projected."""
    if ball.norm == "linf":
        direction = jnp.sign(gradient)
    else:
        direction = projections.unit_vector(gradient, order=2)
    return ball.project(state.images - per_pixel(state.step_size) * direction)


def advance(
    ball: Ball,
    state: AutoStep,
    step: Array,
    num_steps: Array,
    objective: Array,
    gradient: Array,
) -> AutoStep:
    """Take in f and its gradient at x_step, and move on to x_{step + 1}.

    The paper decides at its iteration k in W, when x_{k+1} has been judged, by what was
    known at x_k: here that is `step` k + 1.

    Args:
      ball: where to stay.
      state: the last one.
      step: from 0.
      num_steps: N.
      objective: f at `state.images`, `[batch]`.
      gradient: that of f there.

    Returns:
      The next state.
    """
    marks = checkpoints(num_steps)
    decides = jnp.any(step - 1 == marks[1:])
    interval = step - 1 - jnp.max(jnp.where(marks < step - 1, marks, 0))
    stuck = ~state.halved & (state.best_objective == state.best_at_checkpoint)
    too_few = state.num_decreases < _ENOUGH * interval
    halve = decides & (too_few | stuck)

    better = objective < state.best_objective
    best_images = jnp.where(per_pixel(better), state.images, state.best_images)
    best_gradient = jnp.where(per_pixel(better), gradient, state.best_gradient)
    best_objective = jnp.where(better, objective, state.best_objective)
    images = jnp.where(per_pixel(halve), best_images, state.images)
    gradient = jnp.where(per_pixel(halve), best_gradient, gradient)
    objective = jnp.where(halve, best_objective, objective)
    decreased = (objective < state.objective) & (step > 0)

    here = state._replace(
        images=images, step_size=jnp.where(halve, 0.5, 1.0) * state.step_size
    )
    share = jnp.where(step > 0, _MOMENTUM, 1.0)
    onwards = share * (_move(ball, here, gradient) - images)
    onwards += (1 - share) * (images - state.previous)
    is_mark = decides | (step == 0)
    return AutoStep(
        images=ball.project(images + onwards),
        previous=images,
        objective=objective,
        best_images=best_images,
        best_gradient=best_gradient,
        best_objective=best_objective,
        step_size=here.step_size,
        num_decreases=jnp.where(decides, 0, state.num_decreases) + decreased,
        halved=jnp.where(decides, halve, state.halved),
        best_at_checkpoint=jnp.where(
            decides,
            state.best_objective,
            jnp.where(is_mark, objective, state.best_at_checkpoint),
        ),
    )
