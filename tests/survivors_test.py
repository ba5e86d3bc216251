"""The loop that drops finished examples: the same results as a loop that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax.attacks.survivors import loop_over_survivors


def count_down(drop, *, batch=64, num_steps=1000, log=None):
    """Each example counts its own number down to 0, adding its own constant."""
    remaining = jnp.asarray(np.random.default_rng(0).integers(0, 50, batch))
    gains = jnp.arange(batch, dtype=jnp.float32)

    def step(number, state, constants):
        remaining, total = state
        if log is not None:
            jax.debug.callback(lambda: log.append(len(remaining)))
        active = remaining > 0
        draw = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number)))
        gain = constants["gains"] + draw(constants["keys"])
        return remaining - active, total + jnp.where(active, gain, 0.0)

    constants = {"gains": gains, "keys": jax.random.split(jax.random.key(0), batch)}
    remaining, total = loop_over_survivors(
        step,
        (remaining, jnp.zeros(batch)),
        constants,
        is_active=lambda state: state[0] > 0,
        num_steps=num_steps,
        drop=drop,
    )
    return remaining, total


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("num_steps", [0, 5, 1000])
def test_dropping_changes_no_result(batch, num_steps):
    kept, dropped = (
        jax.jit(lambda drop=drop: count_down(drop, batch=batch, num_steps=num_steps))()
        for drop in (False, True)
    )
    np.testing.assert_array_equal(kept[0], dropped[0])
    np.testing.assert_array_equal(kept[1], dropped[1])


def test_the_batch_is_halved_as_examples_finish():
    sizes: list[int] = []
    jax.block_until_ready(count_down(True, log=sizes))
    jax.effects_barrier()
    start = np.random.default_rng(0).integers(0, 50, 64)
    num_active = np.array([(start > step).sum() for step in range(start.max())])
    expected = [next(s for s in (16, 32, 64) if s >= n) for n in num_active]
    assert sorted(sizes, reverse=True) == expected


def test_composes_with_vmap_over_the_number_of_steps():
    many = jax.vmap(lambda num_steps: count_down(True, num_steps=num_steps)[1])(
        jnp.array([0, 3, 1000])
    )
    for row, num_steps in zip(many, (0, 3, 1000), strict=True):
        plain = count_down(False, num_steps=num_steps)[1]
        np.testing.assert_array_equal(row, plain)
