"""DeepFool: Moosavi-Dezfooli et al., CVPR 2016, Algorithm 2, in l2 and linf."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from .attacks import BOUNDS, is_success
from .fab import DUAL, linearised
from .linear import length
from .models import Model


@dataclasses.dataclass(frozen=True)
class Result:
    """`images` are x_0, x_1, ... before the overshoot, `classes` those walked to."""

    images: list[np.ndarray]
    classes: list[int]
    final: np.ndarray
    success: bool


def crossing(gradient: np.ndarray, value: float, norm: str) -> np.ndarray:
    """Return the shortest r with value + <w, r> = 0, the box left out of account.

    l2: |f| w / ||w||_2^2; linf: |f| sign(w) / ||w||_1; for f < 0 (the paper's
    extension to l_p, |f| |w|^(q-1) sign(w) / ||w||_q^q).
    """
    if norm == "l2":
        return -value * gradient / length(gradient, "l2") ** 2
    return -value * np.sign(gradient) / length(gradient, "l1")


def deep_fool(
    model: Model,
    image: np.ndarray,
    label: int,
    *,
    norm: str = "l2",
    num_steps: int = 50,
    overshoot: float = 0.02,
    num_candidates: int | None = None,
    stop_overshot: bool = False,
    clip_each_step: bool = False,
) -> Result:
    """Walk over the nearest linearised boundary until the class changes.

    x_{i+1} = x_i + r_i, r_i towards the k with the least |h_k - h_y| / ||grad||_q.
    The paper stops at the first misclassified x_i and returns x + (1 + overshoot)
    (x_i - x); `stop_overshot` asks, instead, whether that overshot image, within the
    box, is misclassified. `num_candidates` other classes, those with the largest logits
    at the image, take part (the public code; the paper takes all).

    Open in the paper: the box. The final image is clipped to it here, and x_i, too,
    with `clip_each_step`. The paper leaves the predicted class; here `label` is the
    class to leave, and an image that is misclassified already comes back. A linear
    boundary is met exactly, so that rounding decides whether x_1 has crossed it.
    """
    order = sorted(
        range(len(model.logits(image))), key=lambda k: -model.logits(image)[k]
    )
    others = [k for k in order if k != label][:num_candidates]
    images, classes = [image], []

    def overshot() -> np.ndarray:
        return np.clip(image + (1.0 + overshoot) * (images[-1] - image), *BOUNDS)

    def is_done() -> bool:
        judged = overshot() if stop_overshot else images[-1]
        return is_success(model.logits(judged), label, None)

    while len(classes) < num_steps and not is_done():
        best, best_distance, best_move = None, math.inf, np.zeros_like(image)
        for k in others:
            value, gradient = linearised(model, images[-1], label, k)
            size = length(gradient, DUAL[norm])
            if size > 0.0 and abs(value) / size < best_distance:
                best, best_distance = k, abs(value) / size
                best_move = crossing(gradient, value, norm)
        if best is None:
            break
        following = images[-1] + best_move
        classes.append(best)
        images.append(np.clip(following, *BOUNDS) if clip_each_step else following)
    final = overshot()
    return Result(images, classes, final, is_success(model.logits(final), label, None))
