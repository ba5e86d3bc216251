"""Sums over batches, and what may be said of a share: the only file that knows either.

A step returns sums and counts; whoever has all of them adds and divides once, so that
a padded last batch weighs what it should.
"""

from __future__ import annotations

import math

import chex
import jax.numpy as jnp
from scipy import stats

from mmc_jax.types import Array


def correct(logits: Array, labels: Array) -> Array:
    """Tell which examples are classified right: argmax_k h_k = y.

    Args:
      logits: `[batch, num_classes]`.
      labels: int `[batch]`, the true labels.

    Returns:
      bool `[batch]`; False where the logits hold a NaN, whose argmax means nothing.
    """
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    has_nan = jnp.any(jnp.isnan(logits), axis=-1)
    return (jnp.argmax(logits, axis=-1) == labels) & ~has_nan


def accuracy_sums(logits: Array, labels: Array, mask: Array) -> dict[str, Array]:
    """Count what is right among the examples that are not padding.

    Args:
      logits: `[batch, num_classes]`.
      labels: int `[batch]`.
      mask: `[batch]`, 0 or False where an example is padding.

    Returns:
      `correct` and `count`, int32 scalars: add them over batches, then divide.
    """
    counted = mask.astype(bool)
    return {
        "correct": jnp.sum(correct(logits, labels) & counted, dtype=jnp.int32),
        "count": jnp.sum(counted, dtype=jnp.int32),
    }


def wilson_interval(
    successes: int, total: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    With p = successes / n and z the normal quantile of (1 + confidence) / 2,

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
      successes: a count, 0 to `total`.
      total: n, at least 1.
      confidence: in (0, 1).

    Returns:
      (low, high), fractions; exactly 0 or 1 at the ends.

    Raises:
      ValueError: if the counts or the confidence are out of range.

    Source: Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 1927.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(
            f"need 0 <= successes <= total and total >= 1, got {successes} of {total}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    quantile = float(stats.norm.ppf((1 + confidence) / 2))
    share, shrink = successes / total, quantile**2 / total
    middle = share + shrink / 2
    spread = quantile * math.sqrt(share * (1 - share) / total + shrink / (4 * total))
    low, high = ((middle + sign * spread) / (1 + shrink) for sign in (-1, 1))
    return (
        0.0 if successes == 0 else low,
        1.0 if successes == total else high,
    )
