"""Survivors: loops that drop the examples that are done.

A jitted program has fixed shapes, so an example that is done would go on costing as
much as the others. Here the batch is halved when half of it is done: the loop's body is
compiled for a few sizes, and a gather and a scatter lead from each to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.types import Array

_State = TypeVar("_State")
_Constants = TypeVar("_Constants")

# Each size is one more compilation of the body; below the smallest one a pass through a
# model costs hardly less.
_NUM_SIZES = 4
_SMALLEST = 16


def loop_over_survivors(
    step: Callable[[Array, _State, _Constants], _State],
    state: _State,
    constants: _Constants,
    *,
    is_active: Callable[[_State], Array],
    num_steps: ArrayLike,
    drop: bool = True,
) -> _State:
    """Repeat a step until its count is reached or no example is active any more.

    The step must treat examples independently. It may be given an example that is not
    active, and has to leave such a one as it is.

    Args:
      step: (number of the step, from 0; state; constants) -> state.
      state: a pytree; every leaf is `[batch, ...]`. Typed keys are allowed.
      constants: another, which the step only reads.
      is_active: state -> bool `[batch]`.
      num_steps: at most so many steps.
      drop: halve the batch as examples finish. False if they all take every step.

    Returns:
      The last state of every example, in the order given.
    """
    state, wrap_state = _unwrap(state)
    constants, wrap_constants = _unwrap(constants)
    batch = jax.tree.leaves(state)[0].shape[0]
    sizes = _sizes(batch) if drop else [batch]
    places = jnp.arange(batch)
    number, part, part_constants = jnp.int32(0), state, constants

    def body(carry: tuple[Array, Any], constants: Any) -> tuple[Array, Any]:
        number, part = carry
        after = step(number, wrap_state(part), wrap_constants(constants))
        return number + 1, _unwrap(after)[0]

    for size, smaller in zip(sizes, [*sizes[1:], 0], strict=True):
        if size < batch:
            active = is_active(wrap_state(part))
            chosen = jnp.argsort(~active, stable=True)[:size]
            places = places[chosen]
            part, part_constants = _take((part, part_constants), chosen)

        def goes_on(carry: tuple[Array, Any], smaller: int = smaller) -> Array:
            number, part = carry
            num_active = jnp.sum(is_active(wrap_state(part)))
            return (number < num_steps) & (num_active > smaller)

        def advance(
            carry: tuple[Array, Any], constants: Any = part_constants
        ) -> tuple[Array, Any]:
            return body(carry, constants)

        number, part = jax.lax.while_loop(goes_on, advance, (number, part))
        state = jax.tree.map(
            lambda whole, part, places=places: whole.at[places].set(part), state, part
        )
    return wrap_state(state)


def _sizes(batch: int) -> list[int]:
    sizes = [batch]
    while len(sizes) < _NUM_SIZES and sizes[-1] > _SMALLEST:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _take(tree: Any, chosen: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], tree)


def _unwrap(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Turn typed keys into plain numbers; also return the way back.

    Gathering or selecting keys counts as using them, and using them twice is an error.
    """
    leaves, structure = jax.tree.flatten(tree)
    impls = [
        jax.random.key_impl(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else None
        for leaf in leaves
    ]
    plain = [
        leaf if impl is None else jax.random.key_data(leaf)
        for leaf, impl in zip(leaves, impls, strict=True)
    ]

    def wrap(plain_tree: Any) -> Any:
        wrapped = [
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip(jax.tree.leaves(plain_tree), impls, strict=True)
        ]
        return jax.tree.unflatten(structure, wrapped)

    return jax.tree.unflatten(structure, plain), wrap
