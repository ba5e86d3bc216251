"""Carlini and Wagner's l2 attack.

    adv_images = carlini_wagner(logits_fn, jax.random.key(0), images, labels)

It looks for the closest misclassified image, and has no radius: `const_search` is the
search over c that it shares with EAD, this file is the walk for one c.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mmc_jax.attacks.const_search import Ground, Method, Plan, enter_search
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

# Of the box, for tanh: at the edge of the image's own box arctanh is infinite.
_WIDENING = 2.0
# Of Adam's two moments.
_DECAYS = (0.9, 0.999)
_TINY = 1e-8


class _Walk(NamedTuple):
    """Where Adam is, like images."""

    offset: Array
    """From the clean image, in the space that tanh maps to the box."""
    mean: Array
    square: Array


def _start(ground: Ground) -> _Walk:
    zeros = jnp.zeros_like(ground.images)
    return _Walk(zeros, zeros, zeros)


def _to_tanh(ground: Ground) -> tuple[Array, Array]:
    low, high = (jnp.asarray(bound) for bound in ground.bounds)
    radius = (high - low) / 2
    clean = (ground.images - low) / radius - 1
    return clean / _WIDENING, _WIDENING * radius


def _locate(ground: Ground, walk: _Walk) -> Array:
    # tanh(w + offset) - tanh(w), which is exactly 0 at the start.
    clean, radius = _to_tanh(ground)
    moved = jnp.tanh(walk.offset)
    delta = radius * (1 - clean) * (1 + clean) * moved / (1 + clean * moved)
    return jnp.clip(ground.images + delta, *ground.bounds)


def _measure(ground: Ground, delta: Array) -> tuple[Array, Array]:
    squared = jnp.sum(jnp.square(delta), axis=(1, 2, 3))
    return squared, squared


def _move(ground: Ground, number: Array, walk: _Walk, gradient: Array) -> _Walk:
    clean, radius = _to_tanh(ground)
    moved = jnp.tanh(walk.offset)
    # tanh' = 1 - tanh^2 at w + offset, by the theorem of addition.
    slope = (1 - clean) * (1 + clean) * (1 - moved**2) / (1 + clean * moved) ** 2
    gradient = gradient * radius * slope
    decay_mean, decay_square = _DECAYS
    mean = decay_mean * walk.mean + (1 - decay_mean) * gradient
    square = decay_square * walk.square + (1 - decay_square) * gradient**2
    count = number + 1.0
    step = mean / (1 - decay_mean**count)
    step /= jnp.sqrt(square / (1 - decay_square**count)) + _TINY
    return _Walk(walk.offset - ground.numbers["learning_rate"] * step, mean, square)


_METHOD = Method(_start, _locate, _measure, _move)


def carlini_wagner(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float | Array = 0.0,
    initial_const: float | Array = 1e-2,
    num_binary_search_steps: int | Array = 9,
    num_steps: int | Array = 1000,
    learning_rate: float | Array = 1e-2,
    abort_early: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Find the closest misclassified image in l2: the attack of Carlini and Wagner.

    Adam minimises, over w,

        ||x'(w) - x||_2^2 + c max(margin(x'(w)) + confidence, 0),
        x'(w) = tanh(w) mapped to the box,

    for `num_binary_search_steps` values of c an example: ten times larger until the
    first success, then bisection. Every walk starts at the clean image. Of all iterates
    that succeed, the closest is returned; where none does, the clean image.

    Good for small distances, also where gradients of a cross-entropy vanish, if there
    is time. It costs num_binary_search_steps * num_steps gradients, and no forward pass
    of its own; less where an example stalls, and one gradient in all for an example
    that is misclassified as it is.

    Two things differ from the paper. tanh covers a box twice as wide as `bounds`, and
    x' is clipped to `bounds`: in a box that ends 1e-6 beyond the pixels', as usual,
    those on its edge (most of MNIST) spend hundreds of steps where tanh is flat. A
    stalled example stops by itself, not its batch.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `bounds`.
      key: only a randomised model needs it.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      confidence: the margin, in logits, by which a success must be wrong (or on
        target), at least 0. Default 0: any success counts.
      initial_const: the first c, from 1e-10 to 1e10. Default 0.01, as in Pang et al.
        2020 and CleverHans.
      num_binary_search_steps: values of c, at least 1. Default 9, as in the paper.
      num_steps: gradients a value of c, at least 1. Default 1000, as in Pang et al.;
        the paper has 10,000. On MNIST models 200 at a rate of 0.03 come as near as 1000
        at 0.005 (median: softmax +0.2 %, MMC -2.9 %); at 0.1 they end farther away,
        softmax by 14 %, Center loss by 28 %, MMC by 2 %.
      learning_rate: of Adam, at least 0. Default 0.01, as in the paper.
      abort_early: let an example rest until the next c once its loss is above 0.9999
        times that of num_steps / 10 steps before. False for a fixed cost.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the box, at any distance.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural
    Networks"; Adam: Kingma and Ba 2015.
    """
    return enter_search(
        "carlini_wagner",
        (logits_fn, key, images, labels, targets, bounds),
        dict(
            confidence=confidence,
            initial_const=initial_const,
            num_binary_search_steps=num_binary_search_steps,
            num_steps=num_steps,
            learning_rate=learning_rate,
        ),
        Plan(_METHOD, abort_early, num_eot_samples),
    )
