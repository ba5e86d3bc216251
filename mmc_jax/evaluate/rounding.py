"""Rounding adversarial images to 8 bits without leaving the ball and the box."""

from __future__ import annotations

import numpy as np

from mmc_jax.evaluate.verdict import largest_distance

_NUM_LEVELS = 256


def round_to_8_bits(
    adv_images: np.ndarray,
    images: np.ndarray,
    *,
    norm: str,
    epsilon: float,
    bounds: tuple[float, float],
) -> np.ndarray:
    """Round images in a ball to 256 levels, the nearest ones that stay inside it.

    The levels are low + k (high - low) / 255, in float32. Every pixel x' takes its
    nearest level; if that leaves the ball, its next level towards the clean pixel x, or
    x itself if there is none up to x (images with 8 bits lie on levels). In linf this
    is decided pixel by pixel; in l2 and l1, where the image leaves the ball, as few
    pixels as needed step back, those first which that moves least.

    Args:
      adv_images: float32 `[num, height, width, channels]`, in the ball and the box.
      images: the clean ones.
      norm: `linf`, `l2` or `l1`.
      epsilon: radius of the ball.
      bounds: the box, (low, high).

    Returns:
      Images like `adv_images`, in the ball and the box.
    """
    low, high = bounds
    steps = np.arange(_NUM_LEVELS) * ((high - low) / (_NUM_LEVELS - 1))
    levels = (low + steps).astype(np.float32).astype(np.float64)
    given = adv_images.astype(np.float64).reshape(len(images), -1)
    clean = images.astype(np.float64).reshape(len(images), -1)
    index = np.rint((given - low) * ((_NUM_LEVELS - 1) / (high - low)))
    index = np.clip(index, 0, _NUM_LEVELS - 1).astype(int)
    nearest = levels[index]
    inward = _level_towards(clean, given, nearest, levels, index)
    radius = largest_distance(epsilon)
    if norm == "linf":
        outside = np.abs(nearest - clean) > radius
    else:
        order = {"l2": 2, "l1": 1}[norm]
        outside = _steps_back(given, clean, nearest, inward, radius, order)
    rounded = np.where(outside, inward, nearest)
    return rounded.astype(np.float32).reshape(adv_images.shape)


def _level_towards(clean, given, nearest, levels, index) -> np.ndarray:
    """Return the level between a pixel and its clean value nearest to the former."""
    falls = given < clean  # towards the clean value is up
    overshoots = np.where(falls, nearest < given, nearest > given)
    step = np.where(falls, 1, -1) * overshoots
    inward = levels[np.clip(index + step, 0, _NUM_LEVELS - 1)]
    passes = np.where(falls, inward > clean, inward < clean)
    return np.where(passes, clean, inward)


def _steps_back(given, clean, nearest, inward, radius, order) -> np.ndarray:
    """Return which pixels must take their inward level, `[num, pixels]`."""
    before = np.abs(nearest - clean) ** order
    gains = np.maximum(before - np.abs(inward - clean) ** order, 0.0)
    moves = np.abs(inward - given) - np.abs(nearest - given)
    ranked = np.argsort(np.where(gains > 0, moves, np.inf), axis=1, kind="stable")
    # A hair inside: sums in another order must not come out beyond the ball.
    excess = before.sum(axis=1) - (radius * (1 - 1e-9)) ** order
    gained = np.cumsum(np.take_along_axis(gains, ranked, axis=1), axis=1)
    needed = (gained - np.take_along_axis(gains, ranked, axis=1)) < excess[:, None]
    outside = np.zeros_like(needed)
    np.put_along_axis(outside, ranked, needed, axis=1)
    return outside & (gains > 0)
