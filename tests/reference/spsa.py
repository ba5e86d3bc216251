"""SPSA: Uesato et al., ICML 2018, Algorithm 1, with Adam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .adam import Adam
from .attacks import Objective, project
from .models import Model


def estimate(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    signs: np.ndarray,
    delta: float,
) -> np.ndarray:
    """Return the mean over v of (J(x + delta v) - J(x - delta v)) / (2 delta) v.

    v runs over `signs`, `[num_pairs, *image.shape]`, of +1 and -1, for which 1/v = v.
    The points x +- delta v may leave the box: the paper does not clip them.
    """
    total = np.zeros_like(image)
    for v in signs:
        above, _ = objective(model.logits(image + delta * v), label, target)
        below, _ = objective(model.logits(image - delta * v), label, target)
        total += (above - below) / (2.0 * delta) * v
    return total / len(signs)


def spsa(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    start: np.ndarray,
    signs: Sequence[np.ndarray],
    epsilon: float,
    delta: float = 0.01,
    learning_rate: float = 0.01,
    stabiliser: float = 1e-8,
) -> list[np.ndarray]:
    """Return the start and one image per element of `signs` (one step each).

    x <- P(x - Adam(estimate)), P onto the linf ball and the box. Algorithm 1 writes
    plain descent; the experiments use Adam. Its moments run through all steps; they see
    the gradient estimate, not the projected step.
    """
    images, adam = [start], Adam(learning_rate, stabiliser=stabiliser)
    for pairs in signs:
        gradient = estimate(model, objective, images[-1], label, target, pairs, delta)
        moved = images[-1] - adam.step(gradient)
        images.append(project(moved, image, epsilon, "linf"))
    return images
