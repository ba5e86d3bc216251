"""Which c the search of C&W and EAD tries next, an example at a time."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.types import Array

SMALLEST_CONST, LARGEST_CONST = 1e-10, 1e10


class Search(NamedTuple):
    """The binary search over c, all `[batch]`."""

    const: Array
    """The c to try next."""
    failed: Array
    """The largest that failed; 0 before any did."""
    succeeded: Array
    """The smallest that succeeded; infinite before any did."""


def start_search(initial_const: ArrayLike, batch: int) -> Search:
    """Return the search before its first step.

    Args:
      initial_const: the first c, a scalar.
      batch: number of examples.

    Returns:
      A search in which nothing has failed or succeeded yet.
    """
    const = jnp.full(batch, initial_const, jnp.float32)
    return Search(const, jnp.zeros(batch), jnp.full(batch, jnp.inf))


def narrow(search: Search, success: Array) -> Search:
    """Take note of whether c succeeded, and choose the next.

    Ten times c until the first success; then the middle between the largest c that
    failed and the smallest that succeeded.

    Args:
      search: before.
      success: bool `[batch]`.

    Returns:
      The search with its next c.

    Reference: Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural
    Networks", section V.C, and their code.
    """
    const, failed, succeeded = search
    failed = jnp.where(success, failed, jnp.maximum(failed, const))
    succeeded = jnp.where(success, jnp.minimum(succeeded, const), succeeded)
    middle = (failed + succeeded) / 2
    larger = jnp.minimum(10 * const, LARGEST_CONST)
    return Search(jnp.where(jnp.isfinite(succeeded), middle, larger), failed, succeeded)
