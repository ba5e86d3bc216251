"""The engine of the gradient sign family: projected steps, restarts, what to keep.

Every step is

    x <- project(x - step_size * direction(gradient of the objective at x))

where `direction` is the sign (linf) or the unit vector (l2) of the gradient, or of its
accumulated momentum, and `project` returns to the epsilon ball and to the box.

Read `descend` first: restarts outside, steps inside, one gradient a step. An example
that is done freezes, and the loops end when all have.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmc_jax.attacks import door, projections
from mmc_jax.attacks.passes import (
    CORRECT,
    INVALID,
    UNSEEN,
    Judgement,
    Problem,
    forward_pass,
    gradient_pass,
    if_needed,
    num_classes,
    return_unjudgeable,
)
from mmc_jax.types import Array, Objective


class Plan(NamedTuple):
    """What shapes the program of a descent; static."""

    norm: str
    objective: Objective
    random_start: bool
    keep: str
    stop_on_success: bool
    num_eot_samples: int


class _Setting(NamedTuple):
    """Everything that stays the same during the attack."""

    plan: Plan
    problem: Problem
    images: Array
    bounds: tuple[Array, Array]
    epsilon: Array
    step_size: Array
    num_steps: Array
    num_restarts: Array
    decay: Array | None


class _Kept(NamedTuple):
    """The iterate that would be returned if the attack ended now."""

    images: Array
    rank: Array
    objective: Array


class _Steps(NamedTuple):
    """State between two steps of one restart."""

    step: Array
    images: Array
    velocity: Array | None
    settled: Array
    """`[batch]`: CORRECT while moving, else the rank at which the example froze."""
    kept: _Kept


@partial(jax.jit, static_argnames="plan")
def descend(call: door.Call, numbers: dict[str, Array], *, plan: Plan) -> door.Outcome:
    """Run restarts of projected steps, and return the best or the last iterate.

    Args:
      call: the arguments common to all attacks.
      numbers: scalars `epsilon` (or `[batch]`), `step_size` (or `[batch]`),
        `relative_step` (added to `step_size`, in units of epsilon / num_steps),
        `num_steps`, `num_restarts` and, with momentum, `decay`.
      plan: what shapes the program.

    Returns:
      Adversarial images, in the ball and the box, and the number of classes.
    """
    keys = door.example_keys(call)
    setting = _prepare(call, numbers, plan)
    problem, images = setting.problem, setting.images

    def unfinished(state: tuple[Array, _Kept]) -> Array:
        index, kept = state
        done = jnp.all(_is_finished(setting, kept.rank))
        return (index < setting.num_restarts) & ~done

    def restart(state: tuple[Array, _Kept]) -> tuple[Array, _Kept]:
        index, kept = state
        return index + 1, _restart(setting, door.fold_each(keys, index), kept)

    nothing = _Kept(
        images,
        rank=jnp.full_like(call.labels, UNSEEN),
        objective=jnp.full(call.labels.shape, jnp.inf, jnp.float32),
    )
    _, kept = jax.lax.while_loop(unfinished, restart, (jnp.int32(0), nothing))
    spare_keys = door.fold_each(keys, setting.num_restarts)
    adv_images = return_unjudgeable(
        problem, images, kept.images, kept.rank == INVALID, spare_keys
    )
    return door.Outcome(adv_images, num_classes(problem, images, keys))


def _prepare(call: door.Call, numbers: dict[str, Array], plan: Plan) -> _Setting:
    # The door cannot check traced values: whatever they are, the loops below must end
    # and the images stay in the box.
    most = jnp.finfo(jnp.float32).max
    epsilon = jnp.where(numbers["epsilon"] >= 0, numbers["epsilon"], 0.0)
    epsilon = jnp.minimum(epsilon, most)
    steps = jnp.maximum(numbers["num_steps"], 1).astype(jnp.float32)
    step_size = numbers["step_size"] + numbers["relative_step"] * (epsilon / steps)
    step_size = jnp.nan_to_num(step_size, nan=0.0)
    return _Setting(
        plan=plan,
        problem=Problem(
            call.logits_fn,
            call.labels,
            call.targets,
            plan.objective,
            plan.num_eot_samples,
        ),
        images=door.clean_images(call),
        bounds=call.bounds,
        epsilon=epsilon,
        step_size=projections.per_pixel(step_size),
        num_steps=numbers["num_steps"],
        num_restarts=numbers["num_restarts"],
        decay=numbers.get("decay"),
    )


def _restart(setting: _Setting, keys: Array, kept: _Kept) -> _Kept:
    """Walk once from a fresh start; the keys are this restart's own."""
    plan, start = setting.plan, setting.images
    if plan.random_start:
        start = projections.random_start(
            door.fold_each(keys, 0),
            setting.images,
            epsilon=setting.epsilon,
            norm=plan.norm,
            bounds=setting.bounds,
        )
    steps = _Steps(
        step=jnp.int32(0),
        images=start,
        velocity=None if setting.decay is None else jnp.zeros_like(start),
        settled=jnp.where(_is_finished(setting, kept.rank), kept.rank, CORRECT),
        kept=kept,
    )
    steps = jax.lax.while_loop(
        lambda steps: (
            (steps.step < setting.num_steps) & jnp.any(steps.settled == CORRECT)
        ),
        lambda steps: _step(setting, keys, steps),
        steps,
    )
    last = _judge_last(setting, keys, steps)
    return _improve(setting, steps.kept, steps.images, last)


def _step(setting: _Setting, keys: Array, steps: _Steps) -> _Steps:
    plan = setting.plan
    step_keys = door.fold_each(keys, steps.step + 1)
    judged, gradient = gradient_pass(setting.problem, steps.images, step_keys)
    moving = steps.settled == CORRECT
    freezes = moving & _is_finished(setting, judged.rank)
    settled = jnp.where(freezes, judged.rank, steps.settled)
    kept = steps.kept
    if plan.keep == "best":
        kept = _improve(setting, kept, steps.images, judged)
    velocity, heading = None, gradient
    if setting.decay is not None:
        velocity = setting.decay * steps.velocity
        velocity = velocity + projections.unit_vector(gradient, order=1)
        heading = velocity
    moved = projections.project(
        steps.images - setting.step_size * _DIRECTION[plan.norm](heading),
        setting.images,
        epsilon=setting.epsilon,
        norm=plan.norm,
        bounds=setting.bounds,
    )
    still = projections.per_pixel(settled != CORRECT)
    return _Steps(
        step=steps.step + 1,
        images=jnp.where(still, steps.images, moved),
        velocity=velocity,
        settled=settled,
        kept=kept,
    )


def _judge_last(setting: _Setting, keys: Array, steps: _Steps) -> Judgement:
    """Judge where the walk ended, by a forward pass if anything hangs on it."""
    frozen = steps.settled != CORRECT
    known = Judgement(
        rank=steps.settled,
        objective=jnp.where(steps.settled == INVALID, -jnp.inf, 0.0),
    )
    wanted = setting.plan.keep == "best" or setting.num_restarts > 1
    judged = if_needed(
        wanted & ~jnp.all(frozen),
        lambda keys: forward_pass(setting.problem, steps.images, keys),
        door.fold_each(keys, setting.num_steps + 1),
        known,
    )
    return jax.tree.map(partial(jnp.where, frozen), known, judged)


def _improve(setting: _Setting, kept: _Kept, images: Array, judged: Judgement) -> _Kept:
    """Replace what is kept where the judged iterate is better."""
    same = judged.rank == kept.rank
    better = (judged.rank > kept.rank) | (same & (judged.objective < kept.objective))
    better &= ~_is_finished(setting, kept.rank)
    return _Kept(
        images=jnp.where(projections.per_pixel(better), images, kept.images),
        rank=jnp.where(better, judged.rank, kept.rank),
        objective=jnp.where(better, judged.objective, kept.objective),
    )


def _is_finished(setting: _Setting, rank: Array) -> Array:
    finished = rank == INVALID
    if setting.plan.stop_on_success:
        finished |= rank >= setting.problem.success_rank
    return finished


_DIRECTION = {
    "linf": jnp.sign,
    "l2": partial(projections.unit_vector, order=2),
}
