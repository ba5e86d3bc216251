"""Closed forms for linear models in the box [0, 1]: what no attack can beat.

Every problem here has one answer, found by letting all pixels move towards the better
side at once, each until it meets the box, and stopping where the demand is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .models import LinearModel

NORMS = ("linf", "l2", "l1")


def length(delta: np.ndarray, norm: str) -> float:
    """Return ||delta|| in `linf`, `l2` or `l1`."""
    if norm == "linf":
        return max(abs(float(d)) for d in delta.ravel())
    if norm == "l2":
        return math.sqrt(sum(float(d) ** 2 for d in delta.ravel()))
    return sum(abs(float(d)) for d in delta.ravel())


def room(image: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return how far each pixel can move along sign(direction) inside the box."""
    upwards, downwards = 1.0 - image, image
    moved = np.where(direction > 0.0, upwards, downwards)
    return np.where(direction == 0.0, 0.0, moved)


def _crossing(
    total: Callable[[float], float], stops: list[float], needed: float
) -> float | None:
    """Return t with total(t) = needed, or None; total rises linearly between stops."""
    before = 0.0
    for stop in sorted(stops):
        low, high = total(before), total(stop)
        if high >= needed:
            share = (needed - low) / (high - low) if high > low else 0.0
            return before + share * (stop - before)
        before = stop
    return None


def minimum_perturbation(
    weights: np.ndarray, gain: float, image: np.ndarray, norm: str
) -> np.ndarray | None:
    """Return the shortest d with <w, d> = gain and image + d in the box, or None.

    Croce and Hein, ICML 2020 (FAB): the projection onto a
    hyperplane within the box. In linf every pixel with a weight moves by the same t,
    in l2 by t |w_i|, each until it meets the box. In l1 the pixels move one after the
    other, all the way, those of the largest |w_i| first (among equals, the first).

    The answer is unique but for pixels of weight 0, which stay here, and in l1 for
    equal |w_i|.
    """
    if gain == 0.0:
        return np.zeros_like(image)
    direction = math.copysign(1.0, gain) * weights.ravel()
    size, needed = np.abs(direction), abs(gain)
    rooms = room(image.ravel(), direction)
    if norm == "l1":
        moves = _fill_one_by_one(size, rooms, needed)
    else:
        rates = np.where(size > 0.0, 1.0, 0.0) if norm == "linf" else size
        stops = [r / v for r, v in zip(rooms, rates, strict=True) if v > 0.0]
        level = _crossing(
            lambda t: float(size @ np.minimum(t * rates, rooms)), stops, needed
        )
        moves = None if level is None else np.minimum(level * rates, rooms)
    if moves is None:
        return None
    return (np.sign(direction) * moves).reshape(image.shape)


def _fill_one_by_one(
    size: np.ndarray, rooms: np.ndarray, needed: float
) -> np.ndarray | None:
    moves = np.zeros_like(rooms)
    for i in sorted(range(len(size)), key=lambda i: -size[i]):
        if size[i] > 0.0:
            moves[i] = min(needed / size[i], rooms[i])
            needed -= size[i] * moves[i]
            if moves[i] < rooms[i]:
                return moves
    return None if needed > 0.0 else moves


def best_perturbation(
    weights: np.ndarray, image: np.ndarray, epsilon: float, norm: str
) -> np.ndarray:
    """Return the d that maximises <w, d>, ||d|| <= epsilon, image + d in the box.

    In linf every pixel goes min(epsilon, room). In l2 it goes min(t |w_i|, room) with
    the t that spends the budget. In l1 the largest |w_i| are served first: Croce and
    Hein, ICML 2021 ("Mind the box"), the steepest step in l1-ball and box.
    """
    direction = weights.ravel()
    size, rooms = np.abs(direction), room(image.ravel(), direction)
    if norm == "linf":
        moves = np.minimum(epsilon, rooms)
    elif norm == "l2":
        moves = spend_l2(size, rooms, epsilon)
    else:
        moves, left = np.zeros_like(rooms), epsilon
        for i in sorted(range(len(size)), key=lambda i: -size[i]):
            moves[i] = min(left, rooms[i])
            left -= moves[i]
    return (np.sign(direction) * moves).reshape(image.shape)


def spend_l2(size: np.ndarray, rooms: np.ndarray, epsilon: float) -> np.ndarray:
    """Return min(t size, rooms) of l2 length epsilon, or `rooms` if they are shorter.

    Squared, the length is a sum of t^2 size^2 and of constants between two stops.
    """
    stops = [r / s for r, s in zip(rooms, size, strict=True) if s > 0.0]
    squared = _crossing(
        lambda u: float(np.sum(np.minimum(math.sqrt(u) * size, rooms) ** 2)),
        [stop**2 for stop in stops],
        epsilon**2,
    )
    if squared is None:
        return np.where(size > 0.0, rooms, 0.0)
    return np.minimum(math.sqrt(squared) * size, rooms)


def pair_weights(model: LinearModel, label: int, other: int) -> np.ndarray:
    """Return w_y - w_k, along which h_y - h_k grows."""
    return model.weights[label] - model.weights[other]


def minimum_distance(
    model: LinearModel, image: np.ndarray, label: int, norm: str
) -> tuple[float, int]:
    """Return how near the closest misclassified image of the box is, and its class.

    The images with h_k >= h_y form a half-space, and the misclassified ones are the
    union over k. `(inf, -1)` if the whole box is classified right.
    """
    best = (math.inf, -1)
    logits = model.logits(image)
    for k in range(len(logits)):
        if k != label:
            gap = float(logits[label] - logits[k])
            weights = pair_weights(model, label, k)
            delta = minimum_perturbation(weights, min(-gap, 0.0), image, norm)
            if delta is not None:
                best = min(best, (length(delta, norm), k))
    return best


def best_attack(
    model: LinearModel, image: np.ndarray, label: int, epsilon: float, norm: str
) -> tuple[float, np.ndarray]:
    """Return the lowest margin h_y - max_k h_k in ball and box, and where it is."""
    best = (math.inf, image)
    for k in range(len(model.bias)):
        if k != label:
            weights = -pair_weights(model, label, k)
            moved = image + best_perturbation(weights, image, epsilon, norm)
            logits = model.logits(moved)
            gap = float(logits[label] - logits[k])
            if gap < best[0]:
                best = (gap, moved)
    return best
