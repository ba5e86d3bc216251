"""SPSA: descent along gradients that are estimated from scores alone.

    g = 1/n sum_i v_i (J(x + delta v_i) - J(x - delta v_i)) / (2 delta)

with n pairs of opposite directions v_i in {-1, 1}^d, independent fair signs for every
pixel, example, step and pair (simultaneous perturbation stochastic approximation, Spall
1992). Adam (Kingma and Ba 2015) turns g into a step, and the step is projected onto the
ball and the box.

Good for: models whose gradients vanish, shatter or are not there, with many samples: on
d pixels the estimate is a fair gradient only from about d samples on. `square` reaches
more with as many queries.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mmc_jax.attacks import checks, projections
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.conditional import return_unjudgeable
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.estimates import estimate_gradient
from mmc_jax.attacks.iterates import INVALID, Kept, keep_better, keep_nothing
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.objectives import resolve_objective
from mmc_jax.attacks.passes import (
    Problem,
    forward_pass,
    num_classes,
)
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn

_NORMS = ("linf", "l2")
# Images a forward pass: what memory is bounded by. CPUs are fastest with few.
_IMAGES_A_PASS = {"cpu": 256}
_IMAGES_A_PASS_ELSEWHERE = 2048
_DECAYS = (0.9, 0.999)
_OFFSET = 1e-9
# What keys are folded with: the start's, those of judging passes, the first step's.
_START, _PASSES, _STEPS = range(3)


class _Plan(NamedTuple):
    """What shapes the program; static."""

    norm: str
    objective: Objective
    random_start: bool
    stop_on_success: bool
    num_eot_samples: int
    images_a_pass: int


class _Constants(NamedTuple):
    """What an example's descent only reads; every leaf is `[batch, ...]`."""

    keys: Array
    labels: Array
    targets: Array | None
    images: Array
    epsilon: Array


class _State(NamedTuple):
    """Between two steps."""

    images: Array
    mean: Array
    """Adam's first moment, like `images`."""
    variance: Array
    """Adam's second moment, like `images`."""
    kept: Kept


def spsa(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    num_steps: int | Array = 10,
    num_samples: int | Array = 128,
    delta: float | Array = 0.01,
    learning_rate: float | Array = 0.01,
    norm: str = "linf",
    objective: str | Objective = "margin",
    random_start: bool = True,
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Descend along estimated gradients, with Adam: SPSA, without gradients.

    The module's docstring has the equation. Cost of a surviving image:
    1 + num_steps (num_samples + 1) forward passes, no backward pass; the ones are for
    judging the start and each iterate. Samples are evaluated in chunks, so that memory
    does not grow with their number.

    Samples may lie delta outside of the box, and the model is asked there: a clipped
    direction would bias the estimate.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `epsilon`.
      key: draws the start and the directions.
      images: clean images.
      labels: true labels.
      targets: target labels, or None. With targets the estimate is of the targeted
        objective; steps and rates mean the same.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0; scalar or `[batch]`.
      num_steps: Adam's steps, at least 1. Default 10.
      num_samples: forward passes an estimate, an even number: half of them are pairs
        (128 are 64 directions and their opposites). A traced odd one is rounded down.
        Default 128; the literature goes up to 8192.
      delta: length of a sample's step in every pixel, in the images' unit, positive.
        Default 0.01.
      learning_rate: of Adam, in the images' unit: the first step moves every pixel by
        about as much, whatever the objective's scale. Default 0.01.
      norm: `linf` or `l2`.
      objective: a name in `OBJECTIVES`, or such a function.
      random_start: start uniformly in the ball, not at the clean image.
      stop_on_success: freeze an example once it is misclassified (hits its target).
      num_eot_samples: samples averaged for a randomised model. The two of a pair see
        the same randomness.

    Returns:
      Adversarial images like `images`, in the ball and the box: of all iterates a
      success before any other, then the lowest objective.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Uesato et al. 2018, "Adversarial Risk and the Dangers of Evaluating
    Against Weak Attacks".
    """
    checks.check_choice("norm", norm, _NORMS)
    checks.check_flag("random_start", random_start)
    checks.check_flag("stop_on_success", stop_on_success)
    checks.check_count("num_eot_samples", num_eot_samples)
    if isinstance(num_samples, int | np.integer) and num_samples % 2:
        raise ValueError(
            f"num_samples must be even, for samples come in pairs; got {num_samples}."
        )
    numbers = {
        "epsilon": Number(epsilon, per_example=True),
        "num_steps": Number(num_steps, np.int32, lowest=1),
        "num_samples": Number(num_samples, np.int32, lowest=2),
        "delta": Number(delta, lowest=float(np.finfo(np.float32).tiny)),
        "learning_rate": Number(learning_rate),
    }
    plan = _Plan(
        norm,
        resolve_objective(objective),
        random_start,
        stop_on_success,
        num_eot_samples,
        _IMAGES_A_PASS.get(jax.default_backend(), _IMAGES_A_PASS_ELSEWHERE),
    )
    call = (logits_fn, key, images, labels, targets, bounds)
    return enter(_spsa, "spsa", call, numbers, plan=plan)


@partial(jax.jit, static_argnames="plan")
def _spsa(call: Call, numbers: dict[str, Array], *, plan: _Plan) -> Outcome:
    images = call.clean_images()
    # The door cannot check traced values: they stay in the box.
    epsilon = jnp.where(numbers["epsilon"] >= 0, numbers["epsilon"], 0.0)
    epsilon = jnp.minimum(epsilon, jnp.finfo(jnp.float32).max)
    descent = _Descent(
        plan,
        Problem(
            call.logits_fn,
            call.labels,
            call.targets,
            plan.objective,
            plan.num_eot_samples,
        ),
        call.bounds,
        numbers,
    )
    constants = _Constants(
        keys=call.example_keys(),
        labels=call.labels,
        targets=call.targets,
        images=images,
        epsilon=jnp.broadcast_to(epsilon, len(images)),
    )
    kept = loop_over_survivors(
        descent.step,
        descent.start(constants),
        constants,
        is_active=lambda state: ~descent.is_final(state.kept),
        num_steps=numbers["num_steps"],
        drop=plan.stop_on_success,
    ).kept
    spare_keys = fold_each(constants.keys, numbers["num_steps"] + _STEPS)
    adv_images = return_unjudgeable(
        descent.problem,
        images,
        kept.images,
        kept.judgement.rank == INVALID,
        spare_keys,
    )
    return Outcome(adv_images, num_classes(descent.problem, images, spare_keys))


@dataclasses.dataclass(frozen=True)
class _Descent:
    """One call of the attack, and what it does at every step."""

    plan: _Plan
    problem: Problem
    bounds: tuple[ArrayLike, ArrayLike]
    numbers: dict[str, Array]

    def is_final(self, kept: Kept) -> Array:
        """Return where nothing more is tried, `[batch]`."""
        rank = kept.judgement.rank
        is_final = rank == INVALID
        if self.plan.stop_on_success:
            is_final |= rank >= self.problem.success_rank
        return is_final

    def start(self, constants: _Constants) -> _State:
        """Judge where the descent starts."""
        images = constants.images
        if self.plan.random_start:
            images = projections.random_start(
                fold_each(constants.keys, _START),
                images,
                epsilon=constants.epsilon,
                norm=self.plan.norm,
                bounds=self.bounds,
            )
        still = jnp.zeros_like(images)
        state = _State(images, still, still, keep_nothing(constants.images))
        return self._judge(state, jnp.int32(0), constants)

    def step(self, number: Array, state: _State, constants: _Constants) -> _State:
        """Estimate the gradient, take Adam's step, and judge where it leads."""
        gradient = estimate_gradient(
            self._problem(constants),
            state.images,
            fold_each(constants.keys, _STEPS + number),
            delta=self.numbers["delta"],
            num_pairs=jnp.maximum(self.numbers["num_samples"] // 2, 1),
            images_a_pass=self.plan.images_a_pass,
        )
        first, second = _DECAYS
        mean = first * state.mean + (1 - first) * gradient
        variance = second * state.variance + (1 - second) * gradient**2
        age = (number + 1).astype(jnp.float32)
        heading = (mean / (1 - first**age)) / (
            jnp.sqrt(variance / (1 - second**age)) + _OFFSET
        )
        images = projections.project(
            state.images - self.numbers["learning_rate"] * heading,
            constants.images,
            epsilon=constants.epsilon,
            norm=self.plan.norm,
            bounds=self.bounds,
        )
        moved = _State(images, mean, variance, state.kept)
        return self._judge(moved, number + 1, constants)

    def _judge(self, state: _State, number: Array, constants: _Constants) -> _State:
        keys = fold_each(fold_each(constants.keys, _PASSES), number)
        judged = forward_pass(self._problem(constants), state.images, keys)
        is_final = self.is_final(state.kept)
        return state._replace(
            kept=keep_better(state.kept, state.images, judged, is_final)
        )

    def _problem(self, constants: _Constants) -> Problem:
        return dataclasses.replace(
            self.problem, labels=constants.labels, targets=constants.targets
        )
