"""One walk of the APGD family: a start, and then step after step by a rule.

Read `walk` first. A step judges and differentiates at the current iterate, freezes the
examples that are done, and lets the rule move the others: the step sizes and the moves
themselves are the rules' (`auto_step` for linf and l2, `sparse_step` for l1).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.attacks import auto_step, sparse_step
from mmc_jax.attacks.auto_step import Ball
from mmc_jax.attacks.iterates import (
    CORRECT,
    INVALID,
    UNSEEN,
    Judgement,
    Kept,
    keep_better,
)
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.passes import Problem, judging_pass
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn

_NUM_WANDERING = 2


class Plan(NamedTuple):
    """What shapes the program; static."""

    norm: str
    objective: Objective
    keep: str
    stop_on_success: bool
    num_eot_samples: int
    chooses_targets: bool = False
    """Whether every walk is pulled towards a wrong class of the attack's choice."""
    wanders: bool = False
    """Whether restarts after the first begin along a random direction of the logits."""

    @property
    def rule(self) -> Any:
        """The step rule, a module."""
        return sparse_step if self.norm == "l1" else auto_step


class Setting(NamedTuple):
    """What stays the same during the attack, and is no example's own."""

    plan: Plan
    logits_fn: LogitsFn | StochasticLogitsFn
    bounds: tuple[ArrayLike, ArrayLike]
    num_steps: Array
    num_runs: Array


class Examples(NamedTuple):
    """What stays the same during a walk: every leaf is `[batch, ...]`."""

    images: Array
    labels: Array
    targets: Array | None
    aims: Array | None
    epsilon: Array
    keys: Array
    weights: Array | None = None
    """Of the logits, the direction to wander along; None if the plan does not."""


class _Steps(NamedTuple):
    """State between two steps of a walk: every leaf is `[batch, ...]`."""

    state: Any
    """The rule's."""
    settled: Array
    """CORRECT while moving, else the rank at which the example froze."""
    judged: Judgement
    """Of the iterate judged last."""
    kept: Kept


def walk(
    setting: Setting, examples: Examples, restart: Array, width: int, kept: Kept
) -> Kept:
    """Walk once from a fresh start, and keep the best of it and of what was kept.

    Args:
      setting: the attack's.
      examples: the batch; the keys are this walk's own.
      restart: its number, from 0.
      width: number of classes.
      kept: from the walks before.

    Returns:
      What is kept now.
    """
    plan = setting.plan
    problem, ball = problem_of(setting, examples), _ball(setting, examples)
    num_wandering = jnp.int32(0)
    if plan.wanders:
        num_wandering = jnp.where(restart > 0, _NUM_WANDERING, 0)
        draw = partial(jax.random.uniform, shape=(width,), minval=-1.0, maxval=1.0)
        weights = jax.vmap(draw)(fold_each(examples.keys, 1))
        examples = examples._replace(weights=weights)
    start = plan.rule.draw_start(fold_each(examples.keys, 0), ball)
    final = is_final(plan, problem, kept)
    unknown = jnp.full(final.shape, jnp.inf, jnp.float32)
    correct = jnp.full(final.shape, CORRECT, jnp.int32)
    steps = _Steps(
        state=plan.rule.begin(ball, start, setting.num_steps),
        settled=jnp.where(final, kept.judgement.rank, CORRECT),
        judged=Judgement(correct, unknown),
        kept=kept,
    )
    # The last iterate is judged if anything hangs on it, by a forward pass.
    judges_last = (plan.keep == "best") | (setting.num_runs > 1)
    steps = loop_over_survivors(
        lambda number, steps, examples: _step(
            setting, steps, examples, number, number - num_wandering
        ),
        steps,
        examples,
        is_active=lambda steps: steps.settled == CORRECT,
        num_steps=num_wandering + setting.num_steps + judges_last,
        drop=plan.stop_on_success,
    )
    if plan.keep == "best":
        return steps.kept
    return keep_better(kept, steps.state.images, steps.judged, final)


def _step(
    setting: Setting, steps: _Steps, examples: Examples, number: Array, step: Array
) -> _Steps:
    """Take the pass of that number; `step` is below 0 while wandering."""
    plan, state, ball = setting.plan, steps.state, _ball(setting, examples)
    problem = problem_of(setting, examples, wandering=step < 0)
    is_last = step >= setting.num_steps
    judged, gradient = judging_pass(
        problem,
        state.images,
        fold_each(examples.keys, number + 2),
        with_gradient=~is_last,
    )
    after = plan.rule.advance(
        ball, state, step, setting.num_steps, judged.objective, gradient
    )
    if plan.wanders:
        after = jax.lax.cond(
            step < 0,
            lambda: plan.rule.wander(ball, state, setting.num_steps, gradient),
            lambda: after,
        )
    judged = _judge_early(setting, judged, step)
    moving = steps.settled == CORRECT
    freezes = moving & _ends(plan, problem, judged.rank)
    settled = jnp.where(freezes, judged.rank, steps.settled)
    still = per_pixel((settled != CORRECT) | is_last)
    kept = steps.kept
    if plan.keep == "best":
        kept = keep_better(kept, state.images, judged, is_final(plan, problem, kept))
    return _Steps(
        state=after._replace(images=jnp.where(still, state.images, after.images)),
        settled=settled,
        judged=jax.tree.map(partial(jnp.where, moving), judged, steps.judged),
        kept=kept,
    )


def _judge_early(setting: Setting, judged: Judgement, step: Array) -> Judgement:
    """Let objectives of another kind count for nothing, and all of a larger ball."""
    plan, (rank, objective) = setting.plan, judged
    if plan.wanders:
        objective = jnp.where(step < 0, jnp.inf, objective)
    if plan.norm == "l1":
        scale = sparse_step.scale_at(jnp.maximum(step, 0), setting.num_steps)
        rank = jnp.where(scale > 1, UNSEEN, rank)
        objective = jnp.where(scale > 1, jnp.inf, objective)
    return Judgement(rank, objective)


def problem_of(
    setting: Setting, examples: Examples, *, wandering: Array | None = None
) -> Problem:
    """Return what the passes need; while wandering, a weighted sum of the logits."""
    plan, objective = setting.plan, setting.plan.objective
    weights = examples.weights
    if wandering is not None and weights is not None:

        def objective(logits: Array, labels: Array, targets: Array | None) -> Array:
            along = jnp.sum(weights * logits, axis=1)
            return jnp.where(wandering, along, plan.objective(logits, labels, targets))

    return Problem(
        setting.logits_fn,
        examples.labels,
        examples.targets,
        objective,
        plan.num_eot_samples,
        examples.aims,
    )


def _ball(setting: Setting, examples: Examples) -> Ball:
    return Ball(examples.images, examples.epsilon, setting.plan.norm, setting.bounds)


def is_final(plan: Plan, problem: Problem, kept: Kept) -> Array:
    """Return for which examples the attack is over, `[batch]`."""
    return _ends(plan, problem, kept.judgement.rank)


def _ends(plan: Plan, problem: Problem, rank: Array) -> Array:
    """Return where an iterate of that rank ends the example's attack."""
    ends = rank == INVALID
    if plan.stop_on_success:
        ends |= rank >= problem.success_rank
    return ends
