"""Counting: accuracy on true labels, worst cases over attacks, and intervals."""

from __future__ import annotations

import math

import numpy as np

from .models import Model


def is_correct(model: Model, images: np.ndarray, labels: np.ndarray) -> list[bool]:
    """Return, per image, whether the arg max is the true label.

    Targeted attacks are counted the same way: Pang et al., ICLR 2020, Section 4.
    """
    return [
        int(np.argmax(model.logits(image))) == int(label)
        for image, label in zip(images, labels, strict=True)
    ]


def worst_case(correct_rows: list[list[bool]]) -> list[bool]:
    """Return, per image, whether it is right under every attack.

    The per-example worst case of Carlini et al., "On Evaluating Adversarial
    Robustness", 2019, and of Croce and Hein, ICML 2020.
    """
    return [all(column) for column in zip(*correct_rows, strict=True)]


def is_adversarial(
    model: Model,
    image: np.ndarray,
    adv_image: np.ndarray,
    label: int,
    *,
    epsilon: float,
    norm: str,
) -> bool:
    """Return whether an image is misclassified, in the box and in the ball (float64).

    The definition of the threat model: Madry et al., ICLR 2018, Section 2.
    """
    delta = (adv_image.astype(np.float64) - image.astype(np.float64)).ravel()
    length = max(abs(delta)) if norm == "linf" else math.sqrt(sum(delta**2))
    inside = length <= epsilon * (1.0 + 1e-6) + 1e-7
    in_box = adv_image.min() >= 0.0 and adv_image.max() <= 1.0
    wrong = int(np.argmax(model.logits(adv_image))) != label
    return bool(inside and in_box and wrong)


def wilson_interval(count: int, total: int, z: float = 1.959963984540054) -> tuple:
    """Return the score interval of a proportion, at 95 % by default.

    Wilson, JASA 1927: the p that solve |count / total - p| = z sqrt(p (1 - p) / total).
    """
    share = count / total
    middle = share + z * z / (2.0 * total)
    spread = z * math.sqrt(
        share * (1.0 - share) / total + z * z / (4.0 * total * total)
    )
    scale = 1.0 + z * z / total
    return (middle - spread) / scale, (middle + spread) / scale
