"""The fast adaptive boundary attack: the nearest image of another class.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary
attack", ICML 2020, Algorithm 1; the form with one target class (FAB-T) is from
"Reliable evaluation of adversarial robustness ...", ICML 2020.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from .attacks import BOUNDS, is_success
from .linear import length
from .models import Model
from .projections import onto_hyperplane_and_box

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: from `image` over the linearised boundary to `other`.

    `delta` and `delta_original` lead from `image` and from the original image to the
    boundary, `alpha` weighs them, `made` is the point that they give, `adversarial`
    says whether it is misclassified, and `following` is where the next step starts.
    """

    image: np.ndarray
    other: int
    delta: np.ndarray
    delta_original: np.ndarray
    alpha: float
    made: np.ndarray
    adversarial: bool
    following: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """The steps of every restart, and the nearest misclassified image, or None.

    `nearest` is what the steps found, `searched` the same after the final search.
    """

    restarts: list[list[Step]]
    nearest: np.ndarray | None
    searched: np.ndarray | None


def linearised(
    model: Model, image: np.ndarray, label: int, other: int
) -> tuple[float, np.ndarray]:
    """Return h_k - h_y and its gradient by the image, k = `other`."""
    logits = model.logits(image)
    by_logits = np.zeros(len(logits))
    by_logits[other], by_logits[label] = 1.0, -1.0
    return float(by_logits @ logits), model.input_gradient(image, by_logits)


def nearest_boundary(
    model: Model, image: np.ndarray, label: int, norm: str
) -> int | None:
    """Return argmin_k |h_k - h_y| / ||grad h_k - grad h_y||_q, q dual to `norm`.

    The distance to the linearised boundary without the box. A
    class without a gradient is out of reach; None if all are.
    """
    best, best_distance = None, math.inf
    for k in range(len(model.logits(image))):
        if k != label:
            value, gradient = linearised(model, image, label, k)
            size = length(gradient, DUAL[norm])
            if size > 0.0 and abs(value) / size < best_distance:
                best, best_distance = k, abs(value) / size
    return best


def fab_step(
    model: Model,
    image: np.ndarray,
    original: np.ndarray,
    label: int,
    other: int,
    *,
    norm: str,
    alpha_max: float,
    overshoot: float,
    backward: float,
) -> Step:
    """Take one step of Algorithm 1.

    x' = clip((1 - a)(x + eta d) + a (x_o + eta d_o)), with d and d_o the projections of
    x and of the original x_o onto the linearised boundary within the box, and
    a = min(||d|| / (||d|| + ||d_o||), alpha_max). If x' is misclassified, the next step
    starts from (1 - beta) x_o + beta x'.

    Where both projections are 0 (no gradient), a is 0: the paper leaves it open.
    """
    value, gradient = linearised(model, image, label, other)
    delta = onto_hyperplane_and_box(gradient, value, image, norm)
    at_original = value + float(np.sum(gradient * (original - image)))
    delta_original = onto_hyperplane_and_box(gradient, at_original, original, norm)
    own, its = length(delta, norm), length(delta_original, norm)
    alpha = min(own / (own + its), alpha_max) if own + its > 0.0 else 0.0
    made = (1.0 - alpha) * (image + overshoot * delta)
    made = made + alpha * (original + overshoot * delta_original)
    made = np.clip(made, *BOUNDS)
    adversarial = is_success(model.logits(made), label, None)
    following = (1.0 - backward) * original + backward * made if adversarial else made
    return Step(
        image, other, delta, delta_original, alpha, made, adversarial, following
    )


def fab(
    model: Model,
    image: np.ndarray,
    label: int,
    target: int | None = None,
    *,
    norm: str,
    num_steps: int = 100,
    alpha_max: float = 0.1,
    overshoot: float = 1.05,
    backward: float = 0.9,
    epsilon: float = math.inf,
    draws: Sequence[np.ndarray] = (),
    num_search_steps: int = 3,
) -> Result:
    """Run Algorithm 1 from the image, and once more per draw.

    `target` fixes the boundary (FAB-T); success is any misclassification all the same.
    A draw, an array of the image's shape in any scale, is the direction of a further
    restart's start at distance min(u, epsilon) / 2 from the image, u the least distance
    found before. The paper does not say how the direction is distributed; the start is
    clipped to the box here.

    An image that is misclassified already comes back unchanged. A step without any
    boundary in reach stays where it is.
    """
    if is_success(model.logits(image), label, None):
        return Result([], image, image)
    nearest, distance = None, math.inf
    restarts: list[list[Step]] = []
    for draw in [None, *draws]:
        here = image
        if draw is not None:
            radius = min(distance, epsilon) / 2.0
            here = np.clip(image + radius * draw / length(draw, norm), *BOUNDS)
        steps: list[Step] = []
        for _ in range(num_steps):
            other = target
            if target is None:
                other = nearest_boundary(model, here, label, norm)
            if other is None:
                break
            step = fab_step(
                model,
                here,
                image,
                label,
                other,
                norm=norm,
                alpha_max=alpha_max,
                overshoot=overshoot,
                backward=backward,
            )
            steps.append(step)
            here = step.following
            found = length(step.made - image, norm)
            if step.adversarial and found < distance:
                nearest, distance = step.made, found
        restarts.append(steps)
    searched = nearest
    if nearest is not None:
        searched = final_search(model, image, nearest, label, num_search_steps)
    return Result(restarts, nearest, searched)


def final_search(
    model: Model,
    image: np.ndarray,
    adversarial: np.ndarray,
    label: int,
    num_search_steps: int,
) -> np.ndarray:
    """Walk back along the segment to the image: FAB, "final search".

    Between x_0 (right) and x_1 (wrong) the next point is where h_s - h_y, interpolated
    linearly, is 0; it replaces x_1 if it is misclassified, else x_0. s is the class of
    the `adversarial` image; the paper does not say whether it follows x_1.
    """
    other = int(np.argmax(model.logits(adversarial)))
    inner, outer = image, adversarial
    for _ in range(num_search_steps):
        low = linearised(model, inner, label, other)[0]
        high = linearised(model, outer, label, other)[0]
        if not low < 0.0 <= high:
            break
        share = low / (low - high)
        middle = inner + share * (outer - inner)
        if is_success(model.logits(middle), label, None):
            outer = middle
        else:
            inner = middle
    return outer
