"""The nearest point of a ball within the box [0, 1], in l2, one image at a time."""

from __future__ import annotations

import numpy as np

from . import linear
from .attacks import BOUNDS, project


def onto_ball_and_box(
    moved: np.ndarray, image: np.ndarray, epsilon: float, norm: str
) -> np.ndarray:
    """Return the point z of ball and box with the least ||z - moved||_2.

    With v = moved - image:

    * linf: both sets are boxes, so the two clips are exact;
    * l2: z - image = clip(t v) with the largest t <= 1 that fits the ball (the
      stationarity condition (z - moved) + lambda (z - image) = 0, t = 1/(1 + lambda));
    * l1: |z_i - image_i| = min(max(|v_i| - lambda, 0), room_i) with the least
      lambda >= 0 that fits the ball: Croce and Hein, ICML 2021 ("Mind the box").
    """
    if norm == "linf":
        return project(moved, image, epsilon, norm)
    nearest = np.clip(moved, *BOUNDS)
    if linear.length(nearest - image, norm) <= epsilon:
        return nearest
    direction = (moved - image).ravel()
    size, rooms = np.abs(direction), linear.room(image.ravel(), direction)
    if norm == "l2":
        moves = linear.spend_l2(size, rooms, epsilon)
    else:
        moves = _shrink_l1(size, rooms, epsilon)
    return image + (np.sign(direction) * moves).reshape(image.shape)


def _shrink_l1(size: np.ndarray, rooms: np.ndarray, epsilon: float) -> np.ndarray:
    """Return min(max(size - lambda, 0), rooms), whose sum is epsilon.

    The sum falls linearly in lambda between the places where a pixel leaves its bound
    or arrives at 0; it exceeds epsilon at lambda = 0.
    """

    def moves_at(threshold: float) -> np.ndarray:
        return np.minimum(np.maximum(size - threshold, 0.0), rooms)

    stops = {float(s) for s in size} | {float(s) for s in size - rooms} | {0.0}
    after = max(stops)
    for stop in sorted(stops, reverse=True):
        low, high = float(moves_at(after).sum()), float(moves_at(stop).sum())
        if high >= epsilon:
            share = (epsilon - low) / (high - low) if high > low else 0.0
            return moves_at(after + share * (stop - after))
        after = stop
    raise AssertionError("the ball holds the point already")


def onto_hyperplane_and_box(
    weights: np.ndarray, value: float, image: np.ndarray, norm: str
) -> np.ndarray:
    """Return d: image + d is the point of {value + <w, d> = 0} in the box nearest.

    `value` is the linear function at `image`. Where the hyperplane misses the box, d
    leads to the corner at which the linear function comes nearest to 0: pixels of
    weight 0 stay. Croce and Hein, ICML 2020 (FAB).
    """
    delta = linear.minimum_perturbation(weights, -value, image, norm)
    if delta is not None:
        return delta
    direction = -np.sign(value) * weights
    return np.sign(direction) * linear.room(image, direction)
