"""The elastic-net attack (EAD): Chen et al., AAAI 2018, Algorithm 1.

No random draws: it starts at the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .attacks import BOUNDS
from .carlini_wagner import Result, Round, hinge, is_confident, search_constant
from .linear import length
from .models import Model


def square_root_decay(initial: float, num_steps: int) -> list[float]:
    """Return initial sqrt(1 - k / N) for k = 0, ..., N - 1.

    The paper says "a square-root decay factor in k" without a formula; this reading,
    the polynomial decay of power 1/2 that ends at 0, is one; 1 / sqrt(k + 1) another.
    """
    return [initial * math.sqrt(1.0 - k / num_steps) for k in range(num_steps)]


def shrink(moved: np.ndarray, image: np.ndarray, beta: float) -> np.ndarray:
    """Return S_beta(z), pixel by pixel.

    min(z - beta, 1) where z - x > beta, max(z + beta, 0) where z - x < -beta, else x.
    """
    result = np.empty(image.size)
    low, high = BOUNDS
    for i, (z, x) in enumerate(zip(moved.ravel(), image.ravel(), strict=True)):
        if z - x > beta:
            result[i] = min(z - beta, high)
        elif z - x < -beta:
            result[i] = max(z + beta, low)
        else:
            result[i] = x
    return result.reshape(image.shape)


def score(delta: np.ndarray, beta: float, rule: str) -> float:
    """Return what decides between successes: `en` ||d||_2^2 + beta ||d||_1, or `l1`."""
    if rule == "en":
        return length(delta, "l2") ** 2 + beta * length(delta, "l1")
    return length(delta, "l1")


def elastic_net(
    model: Model,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    step_sizes: Sequence[float],
    beta: float,
    initial_constant: float,
    num_constants: int,
    rule: str,
    confidence: float = 0.0,
    accelerate: bool = True,
    judge_extrapolated: bool = False,
) -> Result:
    """Minimise c f(x') + ||x' - x||_2^2 + beta ||x' - x||_1 by (F)ISTA, for some c.

    y_0 = x_0 = x; x_{k+1} = S_beta(y_k - a_k grad g(y_k)), g = c f + ||. - x||_2^2;
    y_{k+1} = x_{k+1} + k/(k+3) (x_{k+1} - x_k), or x_{k+1} without `accelerate`. The
    threshold is beta, not a_k beta, as in the paper. y may leave the box; x may not.
    x_1, ..., x_N compete by `rule`; `best_distance` is the winner's score. The search
    for c is that of `carlini_wagner`.

    `judge_extrapolated` is not of the paper: y is clipped to the box, and y_0, ...,
    y_{N-1} compete, whose logits come with the gradients.
    """

    def run(constant: float) -> Round:
        previous, extrapolated = image, image
        images, losses = [], []
        best, best_score = None, math.inf
        for k, step_size in enumerate(step_sizes):
            judged = extrapolated
            _, by_logits = hinge(model.logits(extrapolated), label, target, confidence)
            gradient = 2.0 * (extrapolated - image)
            gradient = gradient + constant * model.input_gradient(
                extrapolated, by_logits
            )
            moved = shrink(extrapolated - step_size * gradient, image, beta)
            weight = k / (k + 3.0) if accelerate else 0.0
            extrapolated = moved + weight * (moved - previous)
            previous = moved
            if judge_extrapolated:
                extrapolated = np.clip(extrapolated, *BOUNDS)
            else:
                judged = moved
            logits, delta = model.logits(judged), judged - image
            value, _ = hinge(logits, label, target, confidence)
            images.append(judged)
            losses.append(constant * value + score(delta, beta, "en"))
            if is_confident(logits, label, target, confidence):
                if score(delta, beta, rule) < best_score:
                    best, best_score = judged, score(delta, beta, rule)
        return Round(constant, images, losses, best, best_score)

    return search_constant(
        run, initial_constant=initial_constant, num_constants=num_constants
    )
