"""EAD, the elastic-net attack on deep networks.

    adv_images = elastic_net(logits_fn, jax.random.key(0), images, labels)

It looks for the closest misclassified image, and has no radius: `const_search` is the
search over c that it shares with C&W, this file is the walk for one c.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mmc_jax.attacks import checks
from mmc_jax.attacks.const_search import Ground, Method, Plan, enter_search
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


class _Walk(NamedTuple):
    """Where FISTA is, like images."""

    images: Array
    extrapolated: Array


def _start(ground: Ground) -> _Walk:
    return _Walk(ground.images, ground.images)


def _locate(ground: Ground, walk: _Walk) -> Array:
    return walk.extrapolated


def _measure(ground: Ground, delta: Array) -> tuple[Array, Array]:
    penalty, _ = _norms(ground, delta)
    return penalty, penalty


def _measure_l1(ground: Ground, delta: Array) -> tuple[Array, Array]:
    return _norms(ground, delta)


def _norms(ground: Ground, delta: Array) -> tuple[Array, Array]:
    l1 = jnp.sum(jnp.abs(delta), axis=(1, 2, 3))
    return jnp.sum(delta**2, axis=(1, 2, 3)) + ground.numbers["beta"] * l1, l1


def _move(ground: Ground, number: Array, walk: _Walk, gradient: Array) -> _Walk:
    numbers = ground.numbers
    rate = numbers["learning_rate"] * jnp.sqrt(1 - number / numbers["num_steps"])
    delta = walk.extrapolated - rate * gradient - ground.images
    shrunk = delta - jnp.clip(delta, -numbers["beta"], numbers["beta"])
    images = jnp.clip(ground.images + shrunk, *ground.bounds)
    momentum = number / (number + 3.0)
    extrapolated = images + momentum * (images - walk.images)
    return _Walk(images, jnp.clip(extrapolated, *ground.bounds))


_METHODS = {
    "en": Method(_start, _locate, _measure, _move),
    "l1": Method(_start, _locate, _measure_l1, _move),
}


def elastic_net(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    beta: float | Array = 1e-2,
    decision_rule: str = "en",
    confidence: float | Array = 0.0,
    initial_const: float | Array = 1e-3,
    num_binary_search_steps: int | Array = 9,
    num_steps: int | Array = 1000,
    learning_rate: float | Array = 1e-2,
    abort_early: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Find a close and sparse misclassified image: the elastic-net attack, EAD.

    FISTA minimises, with d = x' - x,

        ||d||_2^2 + beta ||d||_1 + c max(margin(x') + confidence, 0)

    for `num_binary_search_steps` values of c an example, as C&W does. A step goes from
    the extrapolated y, at rate a_k = learning_rate sqrt(1 - k / num_steps), to

        x_{k+1} = clip(x + S(y_k - a_k gradient(y_k) - x)),
        y_{k+1} = clip(x_{k+1} + k / (k + 3) (x_{k+1} - x_k)),

    where the gradient is of all but the l1 norm, and S moves every entry by beta
    towards 0 and no further. Every walk starts at the clean image. Of all iterates that
    succeed the closest is returned; where none does, the clean image.

    Good for sparse perturbations and for l1. It costs num_binary_search_steps *
    num_steps gradients, and no forward pass of its own; less where an example stalls,
    and one gradient in all for an example that is misclassified as it is.

    Two things differ from the paper. It is y, clipped, that is judged, since its logits
    come with the gradient; judging x would cost a second forward pass a step. A stalled
    example stops by itself, not its batch.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `bounds`.
      key: only a randomised model needs it.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      beta: weight of the l1 norm and threshold of S, at least 0. Default 0.01.
      decision_rule: which success is the closest: `en`, by ||d||_2^2 + beta ||d||_1, or
        `l1`, by ||d||_1.
      confidence: the margin, in logits, by which a success must be wrong (or on
        target), at least 0. Default 0: any success counts.
      initial_const: the first c, from 1e-10 to 1e10. Default 0.001, as in the paper.
      num_binary_search_steps: values of c, at least 1. Default 9, as in the paper.
      num_steps: gradients a value of c, at least 1. Default 1000, as in the paper.
      learning_rate: of the first step, at least 0. Default 0.01, as in the paper.
      abort_early: let an example rest until the next c once its loss is above 0.9999
        times that of num_steps / 10 steps before. False for a fixed cost.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the box, at any distance.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Chen et al. 2018, "EAD: Elastic-Net Attacks to Deep Neural Networks via
    Adversarial Examples"; FISTA: Beck and Teboulle 2009.
    """
    checks.check_choice("decision_rule", decision_rule, tuple(_METHODS))
    return enter_search(
        "elastic_net",
        (logits_fn, key, images, labels, targets, bounds),
        dict(
            beta=beta,
            confidence=confidence,
            initial_const=initial_const,
            num_binary_search_steps=num_binary_search_steps,
            num_steps=num_steps,
            learning_rate=learning_rate,
        ),
        Plan(_METHODS[decision_rule], abort_early, num_eot_samples),
    )
