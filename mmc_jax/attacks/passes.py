"""Passes through the model: what an attack learns from running it.

A pass judges candidate images and, where asked, returns the gradient of the objective.
All that white-box attacks run goes through here, once: the forward pass, the gradient,
averaging over the samples of a randomised model, the fast lowering of convolution
gradients, and the rules for NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks.checks import describe
from mmc_jax.attacks.iterates import ON_TARGET, WRONG, Judgement, judge
from mmc_jax.attacks.keys import fold_each
from mmc_jax.lowering import canonical_convolutions
from mmc_jax.types import (
    Array,
    CoupledLogitsFn,
    LogitsFn,
    Objective,
    StochasticLogitsFn,
)

_HEADROOM = 64
"""Powers of two by which a gradient is lifted above the smallest normal number."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an attack tries to solve: the model, the labels and the objective."""

    logits_fn: LogitsFn | StochasticLogitsFn
    labels: Array
    targets: Array | None
    objective: Objective
    num_eot_samples: int
    aims: Array | None = None
    """`[batch]` classes that the objective is pulled towards, where any wrong class is
    a success; None: the targets."""

    @property
    def success_rank(self) -> int:
        """The rank from which an iterate counts as a success."""
        return WRONG if self.targets is None else ON_TARGET

    @property
    def num_samples(self) -> int:
        """Samples a pass averages over; a deterministic model needs one."""
        is_random = isinstance(self.logits_fn, StochasticLogitsFn)
        return self.num_eot_samples if is_random else 1


def forward_pass(problem: Problem, images: Array, keys: Array) -> Judgement:
    """Judge images by one forward pass, without a gradient.

    Args:
      problem: what is being solved.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.

    Returns:
      The judgement of `images`.
    """

    def sampled(sample: Array) -> tuple[Array, Array]:
        logits = _logits(problem.logits_fn, images, sample)
        return _evaluate(problem, logits), logits

    values, logits = _average(problem, sampled, keys)
    return judge(logits, values, problem.labels, problem.targets)


def gradient_pass(
    problem: Problem, images: Array, keys: Array
) -> tuple[Judgement, Array]:
    """Judge images and differentiate the objective, in one forward and one backward.

    Expectation over transformation (Athalye et al. 2018): objectives, logits and
    gradients of a randomised model are means over `num_eot_samples` samples.

    Args:
      problem: what is being solved.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.

    Returns:
      The judgement of `images`, and the gradient, like `images`, finite everywhere: a
      NaN entry is 0, an infinite one the largest finite number.
    """

    def sampled(sample: Array) -> tuple[tuple[Array, Array], Array]:
        found, gradient, exponent = _differentiate(problem, images, sample)
        return found, jnp.nan_to_num(jnp.ldexp(gradient, exponent), nan=0.0)

    (values, logits), gradient = _average(problem, sampled, keys)
    return judge(logits, values, problem.labels, problem.targets), gradient


def direction_pass(
    problem: Problem, images: Array, keys: Array
) -> tuple[Judgement, Array]:
    """Run `gradient_pass` for attacks that follow the gradient whatever its length.

    The length is another for each example. It is never so small that the gradient
    vanishes on its way through the model; that of `cross_entropy` does before, where
    the class leads by more than 130.

    Args:
      problem: what is being solved.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.

    Returns:
      The judgement of `images`, and the gradient times a positive number an example:
      1 of a mean over several samples, and of a `CoupledLogitsFn`.
    """
    if problem.num_samples > 1:
        return gradient_pass(problem, images, keys)
    (values, logits), gradient, _ = _differentiate(problem, images, fold_each(keys, 0))
    judged = judge(logits, values, problem.labels, problem.targets)
    return judged, jnp.nan_to_num(gradient, nan=0.0)


def judging_pass(
    problem: Problem, images: Array, keys: Array, *, with_gradient: Array
) -> tuple[Judgement, Array]:
    """Run `direction_pass`, or `forward_pass` with zeros for a gradient.

    Args:
      problem: what is being solved.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.
      with_gradient: scalar bool; False saves the backward pass.

    Returns:
      The judgement of `images`, and a gradient like `images`.
    """
    # As in `conditional`, the keys cross as plain numbers.
    impl, data = jax.random.key_impl(keys), jax.random.key_data(keys)

    def wrapped() -> Array:
        return jax.random.wrap_key_data(data, impl=impl)

    return jax.lax.cond(
        with_gradient,
        lambda: direction_pass(problem, images, wrapped()),
        lambda: (forward_pass(problem, images, wrapped()), jnp.zeros_like(images)),
    )


def logits_pass(problem: Problem, images: Array, keys: Array) -> Array:
    """Return logits by one forward pass, averaged over samples.

    Args:
      problem: what is being solved.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.

    Returns:
      `[batch, num_classes]`.
    """
    return _average(
        problem, lambda sample: _logits(problem.logits_fn, images, sample), keys
    )


def jacobian_pass(
    problem: Problem, images: Array, keys: Array, aims: Array
) -> tuple[Array, Array]:
    """Differentiate the objective for several aims: one forward, one backward an aim.

    Args:
      problem: what is being solved; `aims` stand in for its own.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.
      aims: `[num_aims, batch]` classes that the objective is pulled towards.

    Returns:
      Logits `[batch, num_classes]`, and gradients `[num_aims, *images.shape]`, finite
      as those of `gradient_pass`; means over samples both.
    """

    def sampled(sample: Array) -> tuple[Array, Array]:
        def differentiate(images: Array) -> tuple[Array, Array]:
            logits, pull_back = jax.vjp(
                lambda images: _logits(problem.logits_fn, images, sample), images
            )

            def towards(aim: Array) -> Array:
                outer = jax.grad(
                    lambda logits: jnp.sum(
                        problem.objective(logits, problem.labels, aim)
                    )
                )
                return pull_back(outer(logits))[0]

            return logits, jax.lax.map(towards, aims)

        logits, gradients = canonical_convolutions(differentiate)(images)
        return logits, jnp.nan_to_num(gradients, nan=0.0)

    return _average(problem, sampled, keys)


def num_classes(problem: Problem, images: Array, keys: Array) -> int:
    """Return the width of the logits, without running the model."""
    return jax.eval_shape(_logits, problem.logits_fn, images, keys).shape[1]


# Inlined, so that its one effect is that all passes of all attacks share one trace.
@partial(jax.jit, inline=True)
def _logits(
    logits_fn: LogitsFn | StochasticLogitsFn, images: Array, keys: Array
) -> Array:
    if isinstance(logits_fn, StochasticLogitsFn):
        logits = logits_fn(images, keys)
    else:
        logits = logits_fn(images)
    batch = images.shape[0]
    is_array = isinstance(logits, jax.Array | np.ndarray)
    if (
        not is_array
        or not jnp.issubdtype(logits.dtype, jnp.floating)
        or logits.ndim != 2
        or logits.shape[0] != batch
        or logits.shape[1] < 2
    ):
        raise ValueError(
            "logits_fn must return floating-point logits [batch, num_classes], batch = "
            f"{batch}, with at least 2 classes; got {describe(logits)}."
        )
    return logits.astype(jnp.float32)


def _evaluate(problem: Problem, logits: Array) -> Array:
    """Return the objective of each example."""
    aims = problem.targets if problem.aims is None else problem.aims
    values = problem.objective(logits, problem.labels, aims)
    if values.shape != problem.labels.shape:
        raise ValueError(
            f"objective must return [batch] = {problem.labels.shape}; got "
            f"{values.shape}."
        )
    return values.astype(jnp.float32)


def _differentiate(
    problem: Problem, images: Array, keys: Array
) -> tuple[tuple[Array, Array], Array, Array]:
    """Differentiate the objective without underflow, in two parts.

    The gradient of the logits starts from 2^64 rather than 1, and each example's goes
    on through the model with its largest entry in [1/2, 1). So neither part comes near
    denormal numbers, which XLA takes for zero, before the logits' gradient is below
    2^-190, and a model in float16 sees no infinite ones.

    Returns:
      (objective `[batch]`, logits); the gradient over 2^exponent, like `images`; the
      exponent, int32 `[batch, 1, 1, 1]`.
    """

    def run(images: Array) -> tuple[Array, Array, Array, Array]:
        logits, pull_back = jax.vjp(
            lambda images: _logits(problem.logits_fn, images, keys), images
        )
        values, towards_logits = jax.vjp(partial(_evaluate, problem), logits)
        seed = jnp.full_like(values, 2.0**_HEADROOM)
        (outer,) = towards_logits(seed)
        _, exponent = jnp.frexp(jnp.max(jnp.abs(outer), axis=1, keepdims=True))
        if isinstance(problem.logits_fn, CoupledLogitsFn):
            # Scaled one by one, the parts would not add up to the gradient of the sum.
            exponent = jnp.full_like(exponent, _HEADROOM)
        (gradient,) = pull_back(jnp.ldexp(outer, -exponent))
        return values, logits, gradient, exponent - _HEADROOM

    values, logits, gradient, exponent = canonical_convolutions(run)(images)
    return (values, logits), gradient, exponent[:, :, None, None]


def _average(problem: Problem, sampled: Callable[[Array], Any], keys: Array) -> Any:
    """Average `sampled(keys of a sample)` over samples, one in memory at a time."""
    if problem.num_samples == 1:
        return sampled(fold_each(keys, 0))

    def add(sample: Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, sampled(fold_each(keys, sample)))

    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sampled, keys)
    )
    total = jax.lax.fori_loop(0, problem.num_samples, add, zeros)
    return jax.tree.map(lambda leaf: leaf / problem.num_samples, total)
