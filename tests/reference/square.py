"""The square attack, linf and l2: Andriushchenko et al., ECCV 2020, Algorithms 1-3.

In l1, by "Mind the box" (ICML 2021), it is the l2 attack with lengths in l1. All
randomness comes through a `square_draws.Draws`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from .attacks import Objective, is_success
from .models import Model
from .projections import onto_ball_and_box
from .square_draws import Draws

# The paper halves p at these of 10 000 iterations; the public code at 500, too.
PAPER_HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
PUBLISHED_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A proposal and what became of it; `image` is the current one after it."""

    side: int
    proposed: np.ndarray
    value: float
    accepted: bool
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """The start, the proposals, the last image kept, and whether it succeeds."""

    start: np.ndarray
    start_value: float
    proposals: list[Proposal]
    image: np.ndarray
    success: bool


def fraction(
    iteration: int,
    initial: float,
    *,
    halvings: Sequence[int] = PAPER_HALVINGS,
    rescaled_to: int | None = None,
) -> float:
    """Return the fraction p of pixels in a square: halved after each of `halvings`.

    `rescaled_to` = N first maps the iteration to one of 10 000, as the paper does for
    another number of queries N. The paper says "at" those iterations: here, iteration
    10 is the last with the first p, in agreement with "after 10 iterations".
    """
    if rescaled_to is not None:
        iteration = iteration * 10_000 // rescaled_to
    return initial / 2.0 ** sum(iteration > at for at in halvings)


def side_length(share: float, height: int, width: int, *, l2: bool = False) -> int:
    """Return the closest positive integer to sqrt(p h w), a half upwards.

    The paper's images are squares. It is cut to the image here. `l2`: at least 3 and,
    if even, one more, in the public code; the paper has no such rule.
    """
    side = math.floor(math.sqrt(share * height * width) + 0.5)
    if l2:
        side = max(side, 3)
        side += 1 - side % 2
    return min(max(side, 1), height, width)


def bump(rows: int, columns: int) -> np.ndarray:
    """Return eta^(h1, h2), h1 >= h2: a pyramid of concentric squares.

    eta_{r,s} = sum_{k=0}^{M(r,s)} 1 / (n + 1 - k)^2, n = floor(h1 / 2),
    M(r,s) = n - max(|r - floor(h1/2) - 1|, |s - floor(h2/2) - 1|), r and s from 1.
    """
    n = rows // 2
    result = np.zeros((rows, columns))
    for r in range(1, rows + 1):
        for s in range(1, columns + 1):
            top = n - max(abs(r - rows // 2 - 1), abs(s - columns // 2 - 1))
            for k in range(top + 1):
                result[r - 1, s - 1] += 1.0 / (n + 1 - k) ** 2
    return result


def two_bumps(side: int, transposed: bool, order: int = 2) -> np.ndarray:
    """Return (eta^(h, k), -eta^(h, h-k)), k = floor(h / 2), of norm 1.

    The paper sets the two side by side, or one below the other (transposed).
    """
    half = side // 2
    both = np.concatenate([bump(side, half), -bump(side, side - half)], axis=1)
    return unit(both.T if transposed else both, order)


def power(array: np.ndarray, order: int) -> float:
    """Return the norm of that order, to the power of its order."""
    return float(np.sum(np.abs(array) ** order))


def unit(array: np.ndarray, order: int = 2) -> np.ndarray:
    """Return the array over its norm, or 0."""
    size = power(array, order) ** (1.0 / order)
    return array / size if size > 0.0 else np.zeros_like(array)


def start_linf(image: np.ndarray, epsilon: float, draws: Draws) -> np.ndarray:
    """Return the start: stripes of width 1, each channel +-epsilon, clipped."""
    height, width, channels = image.shape
    signs = draws.stripes(width, channels)
    moved = image.copy()
    for row in range(height):
        moved[row] += epsilon * signs
    return onto_ball_and_box(moved, image, epsilon, "linf")


def start_tiles(
    image: np.ndarray, epsilon: float, draws: Draws, order: int = 2, tiles: int = 5
) -> np.ndarray:
    """Return the start: 5 x 5 bumps, together of norm epsilon, clipped to the box.

    Open in the paper: the margins where 5 does not divide the size; here the tiles are
    centred and the margins 0. One sign per tile and channel, one turn per tile.
    """
    height, width, channels = image.shape
    side = min(height, width) // tiles
    top, left = (height - tiles * side) // 2, (width - tiles * side) // 2
    signs, turned = draws.tile_signs(tiles, channels), draws.tile_transposed(tiles)
    delta = np.zeros_like(image)
    for i in range(tiles):
        for j in range(tiles):
            tile = two_bumps(side, bool(turned[i, j]), order)
            rows = slice(top + i * side, top + (i + 1) * side)
            columns = slice(left + j * side, left + (j + 1) * side)
            for c in range(channels):
                delta[rows, columns, c] = signs[i, j, c] * tile
    moved = image + epsilon * unit(delta, order)
    return onto_ball_and_box(moved, image, epsilon, f"l{order}")


def propose_linf(
    here: np.ndarray, epsilon: float, side: int, iteration: int, draws: Draws
) -> np.ndarray:
    """Return the image with +-2 epsilon added in a square (Algorithm 2)."""
    height, width, channels = here.shape
    row, column = draws.corner(iteration, 0, height - side + 1, width - side + 1)
    signs = draws.signs(iteration, channels)
    moved = here.copy()
    moved[row : row + side, column : column + side] += 2.0 * epsilon * signs
    return moved


def propose_move(
    here: np.ndarray,
    image: np.ndarray,
    epsilon: float,
    side: int,
    iteration: int,
    draws: Draws,
    order: int = 2,
) -> np.ndarray:
    """Return the image with the budget of a second window moved to a first (Alg. 3).

    The first gets, per channel, the direction of its own perturbation plus a signed
    bump, both of norm 1, and as length what was in the two windows plus a c-th of the
    unused budget epsilon^p - ||x' - x||_p^p. Where they overlap, the first wins.
    """
    height, width, channels = here.shape
    delta = here - image
    corners = [
        draws.corner(iteration, window, height - side + 1, width - side + 1)
        for window in (0, 1)
    ]
    shape = two_bumps(side, draws.transposed(iteration), order)
    signs = draws.signs(iteration, channels)
    unused = max(epsilon**order - power(delta, order), 0.0)
    first, second = (np.zeros((height, width), bool) for _ in range(2))
    for mask, (row, column) in zip((first, second), corners, strict=True):
        mask[row : row + side, column : column + side] = True
    moved = delta.copy()
    for c in range(channels):
        own = delta[:, :, c][first].reshape(side, side)
        held = power(delta[:, :, c][first | second], order)
        length = (held + unused / channels) ** (1.0 / order)
        moved[:, :, c][second] = 0.0
        blended = unit(signs[c] * shape + unit(own, order), order)
        moved[:, :, c][first] = (length * blended).ravel()
    return image + moved


def square(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    norm: str,
    epsilon: float,
    num_queries: int,
    side_at: Callable[[int], int],
    draws: Draws,
) -> Result:
    """Search at random (Algorithm 1): the start and at most N - 1 proposals.

    A proposal, projected onto ball and box, replaces the current image if its objective
    (the margin, in the paper) is strictly lower. The search ends at a success, the
    start among them. `side_at(i)` is the square's side for proposal i = 1, 2, ...,
    such as `side_length(fraction(i, 0.8), height, width)`.
    """
    if norm == "linf":
        start = start_linf(image, epsilon, draws)
    else:
        start = start_tiles(image, epsilon, draws, int(norm[1]))
    here, success = start, is_success(model.logits(start), label, target)
    value, _ = objective(model.logits(start), label, target)
    start_value, proposals = value, []
    for iteration in range(1, num_queries):
        if success:
            break
        side = side_at(iteration)
        if norm == "linf":
            moved = propose_linf(here, epsilon, side, iteration, draws)
        else:
            window = (side, iteration, draws, int(norm[1]))
            moved = propose_move(here, image, epsilon, *window)
        moved = onto_ball_and_box(moved, image, epsilon, norm)
        logits = model.logits(moved)
        moved_value, _ = objective(logits, label, target)
        accepted = moved_value < value
        if accepted:
            here, value = moved, moved_value
            success = is_success(logits, label, target)
        proposals.append(Proposal(side, moved, moved_value, accepted, here))
    return Result(start, start_value, proposals, here, success)
