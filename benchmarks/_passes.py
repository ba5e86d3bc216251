"""How often an attack runs the model: counted as it runs, not by its formula."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from mmc_jax.types import Array, LogitsFn


def count_passes(
    attack: Callable[[LogitsFn], Any], logits_fn: LogitsFn
) -> tuple[int, int]:
    """Run an attack on a model that counts.

    Args:
      attack: runs the attack on the `logits_fn` that it is given.
      logits_fn: the model.

    Returns:
      (images that went forward, images that went backward); what went backward went
      forward too, and is in both.
    """
    counts = {"forward": 0, "backward": 0}

    def add(direction: str, num: int, _: Any) -> None:
        counts[direction] += num

    def tell(direction: str, array: Array) -> None:
        # The argument makes `vmap` repeat the call.
        call = functools.partial(add, direction, array.shape[0])
        jax.debug.callback(call, array.ravel()[0])

    @jax.custom_vjp
    def tap(images: Array) -> Array:
        tell("forward", images)
        return images

    def forward(images: Array) -> tuple[Array, None]:
        return tap(images), None

    def backward(_: None, gradient: Array) -> tuple[Array]:
        tell("backward", gradient)
        return (gradient,)

    tap.defvjp(forward, backward)
    jax.block_until_ready(attack(lambda images: logits_fn(tap(images))))
    jax.effects_barrier()
    return counts["forward"], counts["backward"]
