"""The engine of the APGD family: walks over restarts and targets.

Read `_attack` first: one walk (`apgd_walk`) a restart and target, on the survivors of
all before.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks import checks
from mmc_jax.attacks.apgd_walk import (
    Examples,
    Plan,
    Setting,
    is_final,
    problem_of,
    walk,
)
from mmc_jax.attacks.boundaries import likely_wrong_classes
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.conditional import return_unjudgeable
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.iterates import INVALID, Kept, judge, keep_nothing
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.passes import (
    Problem,
    logits_pass,
    num_classes,
)
from mmc_jax.types import Array

NORMS = ("linf", "l2", "l1")
# Three times this is finite, and nobody's radius.
_MOST_EPSILON = 1e30


def enter_apgd(
    name: str,
    call: tuple[Any, ...],
    given: dict[str, Any],
    plan: Plan,
) -> Array:
    """Check the hyperparameters of the family, and run the engine behind the door.

    Args:
      name: the attack's public name.
      call: what all attacks share, as the user gave it.
      given: epsilon, num_steps, num_restarts, and num_targets if the plan chooses them
        (None is all wrong classes).
      plan: what shapes the program.

    Returns:
      Adversarial images, in the ball and the box.

    Raises:
      ValueError: an argument out of what the attack documents.
    """
    checks.check_choice("norm", plan.norm, NORMS)
    checks.check_choice("keep", plan.keep, ("best", "last"))
    checks.check_flag("stop_on_success", plan.stop_on_success)
    checks.check_count("num_eot_samples", plan.num_eot_samples)
    if plan.chooses_targets and call[4] is not None:
        raise ValueError(
            f"{name} chooses its own targets; got targets. Use apgd, which takes them."
        )
    num_targets = given.get("num_targets", 1)
    all_targets = np.iinfo(np.int32).max
    numbers = {
        "epsilon": Number(given["epsilon"], per_example=True),
        "num_steps": Number(given["num_steps"], np.int32, lowest=1),
        "num_restarts": Number(given["num_restarts"], np.int32, lowest=1),
        "num_targets": Number(
            all_targets if num_targets is None else num_targets, np.int32, lowest=1
        ),
    }
    return enter(_attack, name, call, numbers, plan=plan)


@partial(jax.jit, static_argnames="plan")
def _attack(call: Call, numbers: dict[str, Array], *, plan: Plan) -> Outcome:
    setting, examples = _prepare(call, numbers, plan)
    problem, images, keys = (
        problem_of(setting, examples),
        examples.images,
        examples.keys,
    )
    width = num_classes(problem, images, keys)
    num_targets, order, kept = jnp.int32(1), None, keep_nothing(images)
    if plan.chooses_targets:
        num_targets = jnp.clip(numbers["num_targets"], 1, width - 1)
        order, kept = _rank_targets(problem, examples)
        setting = setting._replace(num_runs=num_targets * setting.num_runs)
        # Some target for the objective, where a pass is run for its logits alone.
        problem = dataclasses.replace(problem, aims=order[:, 0])

    def unfinished(carry: tuple[Array, Kept]) -> Array:
        index, kept = carry
        return (index < setting.num_runs) & ~jnp.all(is_final(plan, problem, kept))

    def run(carry: tuple[Array, Kept]) -> tuple[Array, Kept]:
        index, kept = carry
        own = examples._replace(keys=fold_each(keys, index + 1))
        if order is not None:
            own = own._replace(aims=order[:, index % num_targets])
        return index + 1, walk(setting, own, index // num_targets, width, kept)

    _, kept = jax.lax.while_loop(unfinished, run, (jnp.int32(0), kept))
    adv_images = return_unjudgeable(
        problem,
        images,
        kept.images,
        kept.judgement.rank == INVALID,
        fold_each(keys, setting.num_runs + 1),
    )
    return Outcome(adv_images, width)


def _prepare(
    call: Call, numbers: dict[str, Array], plan: Plan
) -> tuple[Setting, Examples]:
    # The door cannot check traced values: whatever they are, the loops must end.
    epsilon = jnp.where(numbers["epsilon"] >= 0, numbers["epsilon"], 0.0)
    epsilon = jnp.minimum(epsilon, _MOST_EPSILON)
    setting = Setting(
        plan=plan,
        logits_fn=call.logits_fn,
        bounds=call.bounds,
        num_steps=jnp.maximum(numbers["num_steps"], 0),
        num_runs=numbers["num_restarts"],
    )
    examples = Examples(
        images=call.clean_images(),
        labels=call.labels,
        targets=call.targets,
        aims=None,
        epsilon=jnp.broadcast_to(epsilon, call.labels.shape),
        keys=call.example_keys(),
    )
    return setting, examples


def _rank_targets(problem: Problem, examples: Examples) -> tuple[Array, Kept]:
    """Return the wrong classes, likeliest first, `[batch, num_classes - 1]`.

    Also what to keep of the clean images, which have been judged on the way.
    """
    logits = logits_pass(problem, examples.images, fold_each(examples.keys, 0))
    order = likely_wrong_classes(logits, examples.labels, logits.shape[1] - 1)
    # Any other iterate of the same rank replaces the clean image.
    unknown = jnp.full(examples.labels.shape, jnp.inf, jnp.float32)
    judged = judge(logits, unknown, examples.labels, None)
    return order, Kept(examples.images, judged)
