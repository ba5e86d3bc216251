"""Adversarial images batch by batch, outside the cascade: crafted, checked, judged."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import attacks, data
from mmc_jax.attacks.keys import fold_each
from mmc_jax.evaluate.checks import Examples
from mmc_jax.evaluate.rows import Row, bind_rows
from mmc_jax.evaluate.verdict import judge_logits
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_VERDICT = np.uint32(zlib.crc32(b"verdict"))


def bind_attack(
    attack: Mapping[str, Any],
    *,
    norm: str,
    epsilon: float | None,
    bounds: tuple[float, float],
) -> Row:
    """Bind a single attack, given as a row of `robust_accuracy` is.

    Args:
      attack: `dict(name=..., **hyperparameters)`; its name becomes the row's.
      norm: of the ball.
      epsilon: its radius; None for an attack that is to look for the smallest distance.
      bounds: the box.

    Returns:
      The bound row.

    Raises:
      ValueError: if it cannot be bound.
    """
    is_named = isinstance(attack, Mapping) and "name" in attack
    name = str(attack["name"]) if is_named else "attack"
    (row,) = bind_rows({name: attack}, norm=norm, epsilon=epsilon, bounds=bounds)
    return row


def example_keys(key: Array, row: Row, ids: np.ndarray) -> Array:
    """Return the keys that `robust_accuracy` would give a row of that name, `[num]`."""
    own = jax.random.fold_in(key, row.seed)
    return jax.vmap(jax.random.fold_in, (None, 0))(own, jnp.asarray(ids))


def craft(
    row: Row,
    logits_fn: LogitsFn | StochasticLogitsFn,
    keys: Array,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Attack one batch, at the precision of the verdict.

    Args:
      row: the attack.
      logits_fn: from `checks.as_pytree`.
      keys: `[batch]`.
      images: `[batch, height, width, channels]`.
      labels: `[batch]`.
      num_classes: to draw targets from, if the row is targeted.

    Returns:
      What the attack returned, and the targets `[batch]` or None.
    """
    batch = (jnp.asarray(images), jnp.asarray(labels))
    given, drawn = {}, None
    if row.targeted:
        drawn = attacks.random_targets(keys, batch[1], num_classes)
        given["targets"] = drawn
    with jax.default_matmul_precision("highest"):
        adv_images = np.asarray(row.attack(logits_fn, keys, *batch, **given))
    return adv_images, None if drawn is None else np.asarray(drawn)


def judge(
    logits_fn: LogitsFn | StochasticLogitsFn, images: np.ndarray, keys: Array
) -> np.ndarray:
    """Return predictions int `[batch]` at the highest precision; -1 where one is NaN.

    Args:
      logits_fn: from `checks.as_pytree`.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, the row's; the verdict draws from them apart from the attack.

    Returns:
      A class, which is no class where the logits hold a NaN.
    """
    logits = judge_logits(logits_fn, images, fold_each(keys, _VERDICT))
    return np.where(np.isnan(logits).any(axis=1), -1, logits.argmax(axis=1))


def batches(
    examples: Examples, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, slice]]:
    """Cut examples into batches of one size.

    Args:
      examples: what to cut.
      batch_size: images at a time.

    Yields:
      Indices with padding, indices without, and the slice of a batch that is real.
    """
    everything = np.arange(len(examples))
    for (index,), mask in data.pad_batches(everything, batch_size=batch_size):
        real = slice(int(mask.sum()))
        yield index, index[real], real
