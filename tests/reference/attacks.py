"""The gradient-sign family, one image at a time, from an explicit start.

Every attack walks down its objective (`objectives`), whose signs make that an attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .models import Model

Objective = Callable[[np.ndarray, int, int | None], tuple[float, np.ndarray]]

BOUNDS = (0.0, 1.0)


def direction(gradient: np.ndarray, norm: str) -> np.ndarray:
    """Return the steepest unit direction: sign(g), or g / ||g||_2 (0 for g = 0).

    Madry et al., ICLR 2018, Section 2.1; Dong et al., CVPR 2018.
    """
    if norm == "linf":
        return np.sign(gradient)
    length = math.sqrt(float(np.sum(gradient**2)))
    return gradient / length if length > 0.0 else np.zeros_like(gradient)


def project(
    moved: np.ndarray, image: np.ndarray, epsilon: float, norm: str
) -> np.ndarray:
    """Return `moved` brought back into the ball around `image`, then into the box.

    The box step cannot leave the ball, since `image` lies in the box. Kurakin et al.,
    ICLR 2017 workshop, Section 2.2 (Clip); Madry et al., ICLR 2018, Section 2.1.
    """
    delta = moved - image
    if norm == "linf":
        delta = np.clip(delta, -epsilon, epsilon)
    else:
        length = math.sqrt(float(np.sum(delta**2)))
        if length > epsilon:
            delta = delta * (epsilon / length)
    return np.clip(image + delta, *BOUNDS)


def is_success(logits: np.ndarray, label: int, target: int | None) -> bool:
    """Return whether the prediction is wrong, or is the target (Szegedy et al.)."""
    prediction = int(np.argmax(logits))
    return prediction != label if target is None else prediction == target


def objective_gradient(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the logits, the objective and its gradient by the image (chain rule)."""
    logits = model.logits(image)
    value, by_logits = objective(logits, label, target)
    return logits, value, model.input_gradient(image, by_logits)


def fgsm(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    epsilon: float,
    norm: str = "linf",
) -> np.ndarray:
    """Take one step of length epsilon, then clip to the box.

    Goodfellow et al., ICLR 2015, Section 4; Dong et al., CVPR 2018, for l2.
    """
    _, _, gradient = objective_gradient(model, objective, image, label, target)
    return np.clip(image - epsilon * direction(gradient, norm), *BOUNDS)


def trajectory(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    start: np.ndarray,
    epsilon: float,
    step_size: float,
    num_steps: int,
    norm: str = "linf",
    decay: float | None = None,
) -> list[np.ndarray]:
    """Return the start and the `num_steps` images after it.

    Without `decay`: x <- project(x - step_size * direction(g)); from `start = image`
    the basic iterative method (Kurakin et al., ICLR 2017 workshop, Section 2.2), from a
    random start projected gradient descent (Madry et al., ICLR 2018, Section 2.1).
    With `decay`: m <- decay * m + g / mean|g|, and the step follows m (Dong et al.,
    CVPR 2018, Algorithm 1; they divide by the sum, which only scales m).
    """
    images = [start]
    momentum = np.zeros_like(image)
    for _ in range(num_steps):
        _, _, gradient = objective_gradient(model, objective, images[-1], label, target)
        if decay is not None:
            size = float(np.mean(np.abs(gradient)))
            scaled = gradient / size if size > 0.0 else np.zeros_like(gradient)
            momentum = decay * momentum + scaled
            gradient = momentum
        moved = images[-1] - step_size * direction(gradient, norm)
        images.append(project(moved, image, epsilon, norm))
    return images


def choose(
    images: list[np.ndarray],
    model: Model,
    objective: Objective,
    label: int,
    target: int | None,
    *,
    keep: str,
    stop_on_success: bool = False,
) -> np.ndarray:
    """Return the iterate an attack hands back.

    `last` is the last one (Madry et al., ICLR 2018). `best` is the worst case over the
    visited points, the start among them (Carlini et al., "On Evaluating Adversarial
    Robustness", 2019): a success before any other, then a misclassified one, since
    under a targeted attack, too, accuracy counts the true label (Pang et al., ICLR
    2020, Section 4), then the lowest objective. `stop_on_success` hands back the first
    success.
    """
    ranked = []
    for index, image in enumerate(images):
        logits = model.logits(image)
        value, _ = objective(logits, label, target)
        success = is_success(logits, label, target)
        misclassified = is_success(logits, label, None)
        if success and stop_on_success:
            return image
        ranked.append((not success, not misclassified, value, index))
    return images[-1] if keep == "last" else images[min(ranked)[3]]
