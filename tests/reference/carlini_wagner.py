"""The l2 attack of Carlini and Wagner, IEEE S&P 2017, Sections V and VI-A.

No random draws: it starts at the image. (Section VI-A also proposes several random
starts near it, which the public code leaves out.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .adam import Adam
from .attacks import BOUNDS, is_success
from .models import Model
from .objectives import margin


@dataclasses.dataclass(frozen=True)
class Round:
    """One constant c: its loss at every image judged, and the best success, or None."""

    constant: float
    images: list[np.ndarray]
    losses: list[float]
    best: np.ndarray | None
    best_distance: float


@dataclasses.dataclass(frozen=True)
class Result:
    """The rounds of the search for c, and the nearest success of all of them."""

    rounds: list[Round]
    best: np.ndarray | None
    best_distance: float


def hinge(
    logits: np.ndarray, label: int, target: int | None, confidence: float
) -> tuple[float, np.ndarray]:
    """Return f = max(margin, -confidence), and its gradient by the logits (f_6)."""
    value, gradient = margin(logits, label, target)
    if value > -confidence:
        return value, gradient
    return -confidence, np.zeros_like(gradient)


def is_confident(
    logits: np.ndarray, label: int, target: int | None, confidence: float
) -> bool:
    """Return whether the attack's aim is met by a margin of at least `confidence`."""
    value, _ = margin(logits, label, target)
    return is_success(logits, label, target) and value <= -confidence


def search_constant(
    run: Callable[[float], Round], *, initial_constant: float, num_constants: int
) -> Result:
    """Search for the constant c by bisection (Section V, "choosing the constant c").

    A success makes c an upper bound, a failure a lower one. The next c lies half-way;
    without an upper bound it is ten times the last, which is the public code's rule:
    the paper gives none.
    """
    lower, upper, constant = 0.0, math.inf, initial_constant
    rounds: list[Round] = []
    best, best_distance = None, math.inf
    for _ in range(num_constants):
        done = run(constant)
        rounds.append(done)
        if done.best is not None and done.best_distance < best_distance:
            best, best_distance = done.best, done.best_distance
        if done.best is not None:
            upper = min(upper, constant)
        else:
            lower = max(lower, constant)
        constant = 10.0 * constant if upper == math.inf else (lower + upper) / 2.0
    return Result(rounds, best, best_distance)


def carlini_wagner(
    model: Model,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    num_steps: int,
    learning_rate: float,
    initial_constant: float,
    num_constants: int,
    confidence: float = 0.0,
    shrink: float = 0.999999,
    widening: float = 1.0,
    judge_last: bool = True,
    abort_early: bool = False,
) -> Result:
    """Minimise ||x' - x||_2^2 + c f(x') over w, x' = (tanh(w) + 1) / 2.

    Every round starts anew from w = arctanh(shrink (2x - 1)), with Adam's moments at 0;
    the paper does not give `shrink`, which keeps w finite. `widening` is not of the
    paper: tanh covers a box so many times as wide, x' is clipped to the box, and the
    gradient passes through the clip as if it were not there. A round makes `num_steps`
    steps and judges x'_0 (the image itself, up to `shrink`) to x'_N, or without
    `judge_last` to x'_{N-1}: x'_N costs a forward pass that the gradients do not need.
    `abort_early`, of the public code: after each tenth of the steps, stop if the loss
    is above 0.9999 times what it was a tenth before.
    """

    def run(constant: float) -> Round:
        variable = np.arctanh(shrink * (2.0 * image - 1.0) / widening)
        adam = Adam(learning_rate)
        images, losses = [], []
        best, best_distance = None, math.inf
        tenth, last_loss = max(num_steps // 10, 1), math.inf
        for i in range(num_steps + 1 if judge_last else num_steps):
            moved = np.clip((widening * np.tanh(variable) + 1.0) / 2.0, *BOUNDS)
            logits, distance = model.logits(moved), float(np.sum((moved - image) ** 2))
            value, by_logits = hinge(logits, label, target, confidence)
            images.append(moved)
            losses.append(distance + constant * value)
            if is_confident(logits, label, target, confidence):
                if distance < best_distance:
                    best, best_distance = moved, distance
            if abort_early and i % tenth == 0:
                if losses[-1] > 0.9999 * last_loss:
                    break
                last_loss = losses[-1]
            gradient = 2.0 * (moved - image)
            gradient = gradient + constant * model.input_gradient(moved, by_logits)
            variable = variable - adam.step(
                gradient * widening * (1.0 - np.tanh(variable) ** 2) / 2.0
            )
        return Round(constant, images, losses, best, math.sqrt(best_distance))

    return search_constant(
        run, initial_constant=initial_constant, num_constants=num_constants
    )
