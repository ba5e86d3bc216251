"""Passes that run only if anything hangs on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from mmc_jax.attacks.iterates import INVALID
from mmc_jax.attacks.passes import Problem, forward_pass
from mmc_jax.types import Array

_T = TypeVar("_T")


def return_unjudgeable(
    problem: Problem, images: Array, adv_images: Array, invalid: Array, keys: Array
) -> Array:
    """Return the clean image where the model cannot judge even that.

    Where `invalid` (the logits of `adv_images` have a NaN) and the clean logits are
    finite, the offending image stays, for the evaluation to see. The model runs only if
    something is invalid.
    """

    def check_clean(keys: Array) -> Array:
        hopeless = invalid & (forward_pass(problem, images, keys).rank == INVALID)
        return jnp.where(hopeless[:, None, None, None], images, adv_images)

    return if_needed(jnp.any(invalid), check_clean, keys, adv_images)


def if_needed(needed: Array, run: Callable[[Array], _T], keys: Array, known: _T) -> _T:
    """Return `run(keys)` if `needed`, else `known`, without running anything.

    Args:
      needed: scalar bool.
      run: from `[batch]` keys to a pytree like `known`.
      keys: `[batch]`, of this run alone.
      known: the answer otherwise.

    Returns:
      One of the two.
    """
    # Under vmap a cond becomes a select over all it closes over, and selecting between
    # a key and itself counts as reusing it: the keys cross as plain numbers.
    impl, data = jax.random.key_impl(keys), jax.random.key_data(keys)
    return jax.lax.cond(
        needed,
        lambda: run(jax.random.wrap_key_data(data, impl=impl)),
        lambda: known,
    )
