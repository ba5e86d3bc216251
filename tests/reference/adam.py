"""Adam (Kingma and Ba, ICLR 2015, Algorithm 1), one array at a time."""

from __future__ import annotations

import numpy as np


class Adam:
    """The moments m and v, and the steps that they give."""

    def __init__(
        self,
        learning_rate: float,
        *,
        decays: tuple[float, float] = (0.9, 0.999),
        stabiliser: float = 1e-8,
    ) -> None:
        self.learning_rate = learning_rate
        self.decays = decays
        self.stabiliser = stabiliser
        self.count = 0
        self.first: float | np.ndarray = 0.0
        self.second: float | np.ndarray = 0.0

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """Return what to subtract from the variable: rate m^ / (sqrt(v^) + 1e-8)."""
        self.count += 1
        b1, b2 = self.decays
        self.first = b1 * self.first + (1.0 - b1) * gradient
        self.second = b2 * self.second + (1.0 - b2) * gradient**2
        mean = self.first / (1.0 - b1**self.count)
        square = self.second / (1.0 - b2**self.count)
        return self.learning_rate * mean / (np.sqrt(square) + self.stabiliser)
