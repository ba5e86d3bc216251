"""Keys: randomness that belongs to an example, not to its place in a batch.

An attack folds its salt into the keys that it was given before it draws anything, and
then the index of the restart, the step and the sample. So the same keys may go to
several attacks, and `[batch]` keys make results independent of batch size and order.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.types import Array


def salt(name: str) -> int:
    """Return the constant that a name's draws are keyed by."""
    return zlib.crc32(name.encode())


def salted(key: Array, salt: ArrayLike, batch: int) -> Array:
    """Return one key an example, `[batch]`, with the salt folded in.

    Args:
      key: `[batch]` keys, or one that stands for `fold_in(key, position)`.
      salt: uint32 scalar.
      batch: number of examples.

    Returns:
      `[batch]` keys; `key` itself is not consumed.
    """
    return fold_each(one_each(key, batch), salt)


def one_each(key: Array, batch: int) -> Array:
    """Return `[batch]` keys, or what one key stands for, `fold_in(key, position)`."""
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def fold_each(keys: Array, data: ArrayLike) -> Array:
    """Fold the same number into every key, `[batch]`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)
