"""What the square attack draws, as an object that a test can share or script."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Draws(Protocol):
    """What the attack draws. Signs are arrays of +1.0 and -1.0, equally likely.

    `iteration` is 1 for the first proposal after the start. linf calls `stripes` once,
    then per proposal i `corner(i, 0, ...)` and `signs`. l2 and l1 call `tile_signs` and
    `tile_transposed` once, then per proposal `corner(i, 0, ...)`, `corner(i, 1, ...)`,
    `transposed` and `signs`.
    """

    def stripes(self, width: int, channels: int) -> np.ndarray:
        """Return the signs `[width, channels]` of the vertical stripes of the start."""

    def tile_signs(self, tiles: int, channels: int) -> np.ndarray:
        """Return the signs `[tiles, tiles, channels]` of the start's tiles."""

    def tile_transposed(self, tiles: int) -> np.ndarray:
        """Return which tiles `[tiles, tiles]` are transposed, each with chance 1/2."""

    def corner(
        self, iteration: int, window: int, rows: int, columns: int
    ) -> tuple[int, int]:
        """Return a window's first row in 0..rows - 1, and column in 0..columns - 1.

        Uniform. `window` is 0 for the window that gains, 1 for the one that is emptied
        (not in linf). The paper's ranges are rows = height - side + 1, and columns
        likewise.
        """

    def transposed(self, iteration: int) -> bool:
        """Return whether the bump of a proposal is transposed, with chance 1/2."""

    def signs(self, iteration: int, channels: int) -> np.ndarray:
        """Return the signs `[channels]` of a proposal."""


class NumpyDraws:
    """`Draws` from one numpy generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def _sign(self, *shape: int) -> np.ndarray:
        return 2.0 * self._generator.integers(0, 2, shape) - 1.0

    def stripes(self, width: int, channels: int) -> np.ndarray:
        """Return `[width, channels]` signs."""
        return self._sign(width, channels)

    def tile_signs(self, tiles: int, channels: int) -> np.ndarray:
        """Return `[tiles, tiles, channels]` signs."""
        return self._sign(tiles, tiles, channels)

    def tile_transposed(self, tiles: int) -> np.ndarray:
        """Return `[tiles, tiles]` of bool."""
        return self._sign(tiles, tiles) > 0.0

    def corner(
        self, iteration: int, window: int, rows: int, columns: int
    ) -> tuple[int, int]:
        """Return a uniform corner."""
        generator = self._generator
        return int(generator.integers(rows)), int(generator.integers(columns))

    def transposed(self, iteration: int) -> bool:
        """Return a fair coin."""
        return bool(self._generator.integers(2))

    def signs(self, iteration: int, channels: int) -> np.ndarray:
        """Return `[channels]` signs."""
        return self._sign(channels)
