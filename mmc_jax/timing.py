"""Timing that a noisy machine cannot fool: side by side, in rounds.

What is compared runs in one process, in rounds: each round calls everything once, the
next round in reverse. A ratio is the median over the rounds of the ratio within a
round, so that a slow minute slows both sides; its interval comes from resampling the
rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

NUM_RESAMPLES = 10_000


def interleaved(
    fns: Mapping[str, Callable[[], Any]], *, pairs: int = 15
) -> dict[str, list[float]]:
    """Time functions in rounds, each once a round, every other round in reverse.

    Args:
      fns: name -> function; what it returns is waited for. Each runs once untimed
        first, to compile.
      pairs: rounds, at least 1.

    Returns:
      Name -> seconds, one number a round.

    Raises:
      ValueError: for fewer rounds than 1.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}")
    for fn in fns.values():
        _wait_for(fn())
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for index in range(pairs):
        for name in list(fns)[:: -1 if index % 2 else 1]:
            start = time.perf_counter()
            _wait_for(fns[name]())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait_for(result: Any) -> None:
    jax.block_until_ready(result)


def ratio_interval(
    seconds: Sequence[float], reference: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Compare two columns of one table of rounds.

    Args:
      seconds: one number a round.
      reference: what to divide by, from the same rounds.
      seed: of the resampling.

    Returns:
      (the median over the rounds of seconds / reference, and the lower and upper end of
      its 95 % percentile bootstrap interval).
    """
    ratios = np.asarray(seconds) / np.asarray(reference)
    generator = np.random.default_rng(seed)
    rounds = generator.integers(len(ratios), size=(NUM_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[rounds], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)
