"""Gradients estimated from scores: mirrored differences in random directions."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks.passes import Problem, forward_pass
from mmc_jax.types import Array

# No more pairs at once, so that few samples fill whole passes of a small batch.
_MOST_PAIRS = 32


def estimate_gradient(
    problem: Problem,
    images: Array,
    keys: Array,
    *,
    delta: Array,
    num_pairs: Array,
    images_a_pass: int,
) -> Array:
    """Estimate the objective's gradient without differentiating.

    1/n sum_i v_i (J(x + delta v_i) - J(x - delta v_i)) / (2 delta), over n pairs of
    opposite samples whose directions v_i are fair signs, each example's its own.

    A pair's directions are keyed by its number, so that neither the batch's size nor
    the chunks' changes them.

    Args:
      problem: what is being solved.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, of this estimate alone.
      delta: length of a sample's step in every pixel, positive.
      num_pairs: half the forward passes, at least 1.
      images_a_pass: the most images that go through the model at once, unless there are
        more than half as many examples.

    Returns:
      The estimate, like `images`. Pairs whose objectives are not finite count as 0.
    """
    chunk = _pairs_a_pass(images_a_pass, len(images))

    def add(index: Array, total: Array) -> Array:
        pairs = index * chunk + jnp.arange(chunk)
        slopes, directions = _slopes(problem, images, keys, pairs, delta)
        slopes = jnp.where((pairs < num_pairs)[None, :], slopes, 0.0)
        return total + jnp.einsum("bp,bphwc->bhwc", slopes, directions)

    num_chunks = (num_pairs + chunk - 1) // chunk
    total = jax.lax.fori_loop(0, num_chunks, add, jnp.zeros_like(images))
    return total / num_pairs


def _slopes(
    problem: Problem, images: Array, keys: Array, pairs: Array, delta: Array
) -> tuple[Array, Array]:
    """Return difference quotients `[batch, pairs]`, and the pairs' directions."""
    (batch, *shape), num_pairs = images.shape, len(pairs)
    directions = jax.vmap(jax.vmap(partial(_draw_signs, shape=tuple(shape))))(
        _fold_all(keys, 2 * pairs)
    )
    steps = delta * directions
    samples = images[:, None, None] + jnp.stack([steps, -steps], axis=2)

    def repeat(values: Array) -> Array:
        return jnp.repeat(values, 2 * num_pairs, axis=0)

    repeated = dataclasses.replace(
        problem,
        labels=repeat(problem.labels),
        targets=jax.tree.map(repeat, problem.targets),
    )
    # Both of a pair see a randomised model alike, so that its noise cancels.
    pass_keys = jnp.repeat(_fold_all(keys, 2 * pairs + 1).reshape(-1), 2)
    judged = forward_pass(repeated, samples.reshape(-1, *shape), pass_keys)
    ahead, behind = jnp.moveaxis(judged.objective.reshape(batch, num_pairs, 2), 2, 0)
    slopes = (ahead - behind) / (2 * delta)
    return jnp.where(jnp.isfinite(slopes), slopes, 0.0), directions


def _pairs_a_pass(images_a_pass: int, batch: int) -> int:
    """Return how many pairs of every example go into a forward pass: a power of two."""
    most = min(max(images_a_pass // (2 * batch), 1), _MOST_PAIRS)
    return 1 << (most.bit_length() - 1)


def _fold_all(keys: Array, numbers: Array) -> Array:
    """Fold every number into every key, `[batch, numbers]`."""
    fold_numbers = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(fold_numbers, (0, None))(keys, numbers)


def _draw_signs(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw -1 or 1, one random bit each."""
    size = int(np.prod(shape))
    words = jax.random.bits(key, (-(-size // 32),))
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)[None, :]) % 2
    return jnp.where(bits.reshape(-1)[:size].reshape(shape) == 1, 1.0, -1.0)
