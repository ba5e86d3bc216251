"""Slices: a large batch is attacked a part at a time, so that memory stays bounded.

What an attack holds grows with the images that are attacked together: its own arrays
are small, but not what the model holds for a gradient. More than some hundred images at
once gain no speed, so a call takes any number of them and works on slices in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mmc_jax.attacks import keys
from mmc_jax.types import Array

MOST_IMAGES = 1024


def call_in_slices(
    core: Callable[..., Any], call: Any, numbers: Mapping[str, Any], **static: Any
) -> Any:
    """Call an attack's core, on slices of equal size if there are many images.

    The last slice is filled up with its last image, by fewer images than there are
    slices. An example's keys are its own, so that the slices do not change its result.

    Args:
      core: jitted, `core(call, numbers, **static)` -> an outcome with `images`.
      call: a `door.Call`.
      numbers: dynamic hyperparameters, scalars or `[batch]`.
      **static: static arguments of the core.

    Returns:
      The core's outcome.
    """
    if call.images.shape[0] <= MOST_IMAGES:
        return core(call, numbers, **static)
    settings = tuple(static.items())
    return _map_slices(call, numbers, core=core, static=settings, most=MOST_IMAGES)


@partial(jax.jit, static_argnames=("core", "static", "most"))
def _map_slices(
    call: Any,
    numbers: dict[str, Array],
    *,
    core: Callable[..., Any],
    static: tuple[tuple[str, Any], ...],
    most: int,
) -> Any:
    batch = call.images.shape[0]
    num_slices = -(-batch // most)
    size = -(-batch // num_slices)
    num_more = num_slices * size - batch

    def cut(leaf: Array) -> Array:
        if num_more:
            rest = ((0, 0),) * (leaf.ndim - 1)
            leaf = jnp.pad(leaf, ((0, num_more), *rest), mode="edge")
        # Every n-th image, so that images which lie on several devices stay there.
        return leaf.reshape(size, num_slices, *leaf.shape[1:]).swapaxes(0, 1)

    # As plain numbers: taking keys from an array counts as using them.
    each = keys.one_each(call.key, batch)
    impl, key_data = jax.random.key_impl(each), jax.random.key_data(each)
    scalars = {name: number for name, number in numbers.items() if not number.ndim}
    own = {name: number for name, number in numbers.items() if number.ndim}
    parts = jax.tree.map(cut, (key_data, call.images, call.labels, call.targets, own))

    def attack(part: Any) -> Any:
        key_data, images, labels, targets, own = part
        part_call = call._replace(
            key=jax.random.wrap_key_data(key_data, impl=impl),
            images=images,
            labels=labels,
            targets=targets,
        )
        return core(part_call, scalars | own, **dict(static))

    outcome = jax.lax.map(attack, parts)
    images = outcome.images.swapaxes(0, 1).reshape(-1, *call.images.shape[1:])
    return outcome.replace(images=images[:batch])
