"""The engine of the gradient sign family: projected steps, restarts, what to keep.

Every step is

    x <- project(x - step_size * direction(gradient of the objective at x))

where `direction` is the sign (linf) or the unit vector (l2) of the gradient, or of its
accumulated momentum, and `project` returns to the epsilon ball and to the box.

Read `_descend` first: restarts outside, steps inside, one gradient a step. An example
that is done freezes, and the loops end when all have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mmc_jax.attacks import checks, projections
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.conditional import if_needed, return_unjudgeable
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.iterates import (
    CORRECT,
    INVALID,
    Judgement,
    Kept,
    keep_better,
    keep_nothing,
)
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.passes import (
    Problem,
    direction_pass,
    forward_pass,
    num_classes,
)
from mmc_jax.attacks.relative import RelativeObjective, fix_objective
from mmc_jax.types import Array, Objective, StochasticLogitsFn


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
    bounds: tuple[ArrayLike, ArrayLike]
    epsilon: Array
    step_size: Array
    num_steps: Array
    num_restarts: Array
    decay: Array | None


class _Steps(NamedTuple):
    """State between two steps of one restart."""

    step: Array
    images: Array
    velocity: Array | None
    settled: Array
    """`[batch]`: CORRECT while moving, else the rank at which the example froze."""
    kept: Kept


def enter_descent(
    name: str,
    call: tuple[Any, ...],
    given: dict[str, Any],
    plan: Plan,
    default_step: float,
) -> Array:
    """Check the hyperparameters of the family, and run the engine behind the door.

    Args:
      name: the attack's public name.
      call: what all attacks share, as the user gave it.
      given: epsilon, num_steps, and where the attack has them step_size (None is
        `default_step` epsilon / num_steps), num_restarts and decay.
      plan: what shapes the program.
      default_step: in units of epsilon / num_steps.

    Returns:
      Adversarial images, in the ball and the box.

    Raises:
      ValueError: an argument out of what the attack documents.
    """
    checks.check_choice("norm", plan.norm, tuple(_DIRECTION))
    checks.check_choice("keep", plan.keep, ("best", "last"))
    checks.check_flag("random_start", plan.random_start)
    checks.check_flag("stop_on_success", plan.stop_on_success)
    checks.check_count("num_eot_samples", plan.num_eot_samples)
    if isinstance(plan.objective, RelativeObjective) and not plan.random_start:
        raise ValueError(
            f"objective={plan.objective.name!r} needs pgd, or mim with random_start="
            "True: at the clean image its gradient is zero."
        )
    num_restarts = given.get("num_restarts", 1)
    # A default relative to epsilon is a second number, not a second program.
    is_default = given.get("step_size") is None
    step_size = 0.0 if is_default else given["step_size"]
    numbers = {
        "epsilon": Number(given["epsilon"], per_example=True),
        "step_size": Number(step_size, per_example=True),
        "relative_step": Number(default_step if is_default else 0.0),
        "num_steps": Number(given["num_steps"], np.int32, lowest=1),
        "num_restarts": Number(num_restarts, np.int32, lowest=1),
    }
    if "decay" in given:
        numbers["decay"] = Number(given["decay"])
    is_random = plan.random_start or isinstance(call[0], StochasticLogitsFn)
    if (
        isinstance(num_restarts, int | np.integer)
        and num_restarts > 1
        and not is_random
    ):
        raise ValueError(
            f"num_restarts={num_restarts} needs random_start=True: restarts from the "
            "clean image are all the same."
        )
    return enter(_descend, name, call, numbers, plan=plan)


@partial(jax.jit, static_argnames="plan")
def _descend(call: Call, numbers: dict[str, Array], *, plan: Plan) -> Outcome:
    keys = call.example_keys()
    setting = _prepare(call, numbers, plan, keys)
    problem, images = setting.problem, setting.images

    def unfinished(state: tuple[Array, Kept]) -> Array:
        index, kept = state
        return (index < setting.num_restarts) & ~jnp.all(_is_final(setting, kept))

    def restart(state: tuple[Array, Kept]) -> tuple[Array, Kept]:
        index, kept = state
        return index + 1, _restart(setting, fold_each(keys, index), kept)

    _, kept = jax.lax.while_loop(
        unfinished, restart, (jnp.int32(0), keep_nothing(images))
    )
    spare_keys = fold_each(keys, setting.num_restarts)
    adv_images = return_unjudgeable(
        problem, images, kept.images, kept.judgement.rank == INVALID, spare_keys
    )
    return Outcome(adv_images, num_classes(problem, images, keys))


def _prepare(
    call: Call, numbers: dict[str, Array], plan: Plan, keys: Array
) -> _Setting:
    # The door cannot check traced values: whatever they are, the loops below must end
    # and the images stay in the box.
    most = jnp.finfo(jnp.float32).max
    epsilon = jnp.where(numbers["epsilon"] >= 0, numbers["epsilon"], 0.0)
    epsilon = jnp.minimum(epsilon, most)
    steps = jnp.maximum(numbers["num_steps"], 1).astype(jnp.float32)
    step_size = numbers["step_size"] + numbers["relative_step"] * (epsilon / steps)
    step_size = jnp.nan_to_num(step_size, nan=0.0)
    images = call.clean_images()
    problem = Problem(
        call.logits_fn,
        call.labels,
        call.targets,
        plan.objective,
        plan.num_eot_samples,
    )
    # Beyond the keys of all restarts and of the last look at the clean images.
    first_keys = fold_each(keys, numbers["num_restarts"] + 1)
    return _Setting(
        plan=plan,
        problem=fix_objective(problem, images, first_keys),
        images=images,
        bounds=call.bounds,
        epsilon=epsilon,
        step_size=projections.per_pixel(step_size),
        num_steps=numbers["num_steps"],
        num_restarts=numbers["num_restarts"],
        decay=numbers.get("decay"),
    )


def _restart(setting: _Setting, keys: Array, kept: Kept) -> Kept:
    """Walk once from a fresh start; the keys are this restart's own."""
    plan, start = setting.plan, setting.images
    if plan.random_start:
        start = projections.random_start(
            fold_each(keys, 0),
            setting.images,
            epsilon=setting.epsilon,
            norm=plan.norm,
            bounds=setting.bounds,
        )
    steps = _Steps(
        step=jnp.int32(0),
        images=start,
        velocity=None if setting.decay is None else jnp.zeros_like(start),
        settled=jnp.where(_is_final(setting, kept), kept.judgement.rank, CORRECT),
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
    return _keep(setting, steps.kept, steps.images, last)


def _step(setting: _Setting, keys: Array, steps: _Steps) -> _Steps:
    plan = setting.plan
    step_keys = fold_each(keys, steps.step + 1)
    judged, gradient = direction_pass(setting.problem, steps.images, step_keys)
    moving = steps.settled == CORRECT
    freezes = moving & _ends(setting, judged.rank)
    settled = jnp.where(freezes, judged.rank, steps.settled)
    kept = steps.kept
    if plan.keep == "best":
        kept = _keep(setting, kept, steps.images, judged)
    heading, velocity = gradient, steps.velocity
    if velocity is not None and setting.decay is not None:
        gradient = projections.unit_vector(gradient, order=1)
        heading = velocity = setting.decay * velocity + gradient
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
        fold_each(keys, setting.num_steps + 1),
        known,
    )
    return jax.tree.map(partial(jnp.where, frozen), known, judged)


def _keep(setting: _Setting, kept: Kept, images: Array, judged: Judgement) -> Kept:
    return keep_better(kept, images, judged, _is_final(setting, kept))


def _is_final(setting: _Setting, kept: Kept) -> Array:
    return _ends(setting, kept.judgement.rank)


def _ends(setting: _Setting, rank: Array) -> Array:
    """Return where an iterate of that rank ends the example's attack."""
    ends = rank == INVALID
    if setting.plan.stop_on_success:
        ends |= rank >= setting.problem.success_rank
    return ends


_DIRECTION: dict[str, Callable[[Array], Array]] = {
    "linf": jnp.sign,
    "l2": partial(projections.unit_vector, order=2),
}
