"""Which iterate an attack keeps: ranks, judgements, and comparing two of them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mmc_jax.types import Array

UNSEEN, CORRECT, WRONG, ON_TARGET, INVALID = range(-1, 4)
"""Ranks of an iterate: a higher one is kept before any lower one.

Wrong beats correct whatever the objective says; a targeted attack prefers the target to
any other wrong class. Logits with a NaN outrank all, so that they reach the user.
"""


class Judgement(NamedTuple):
    """What is known of one iterate."""

    rank: Array
    """int32 `[batch]`."""
    objective: Array
    """float32 `[batch]`, lower is better; never NaN."""


class Kept(NamedTuple):
    """The iterate that would be returned if the attack ended now."""

    images: Array
    judgement: Judgement


def judge(
    logits: Array, objective: Array, labels: Array, targets: Array | None
) -> Judgement:
    """Rank an iterate by its logits.

    Args:
      logits: `[batch, num_classes]`.
      objective: `[batch]`; NaN counts as the worst value.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, or None.

    Returns:
      Its judgement; the objective of invalid logits is the best of all, so that the
      first one met is kept.
    """
    predictions = jnp.argmax(logits, axis=1)
    rank = jnp.where(predictions == labels, CORRECT, WRONG)
    if targets is not None:
        rank = jnp.where(predictions == targets, ON_TARGET, rank)
    invalid = jnp.any(jnp.isnan(logits), axis=1)
    objective = jnp.where(jnp.isnan(objective), jnp.inf, objective.astype(jnp.float32))
    return Judgement(
        rank=jnp.where(invalid, INVALID, rank).astype(jnp.int32),
        objective=jnp.where(invalid, -jnp.inf, objective),
    )


def keep_nothing(images: Array) -> Kept:
    """Return a start that any judged iterate replaces, holding the clean images."""
    batch = images.shape[0]
    unseen = jnp.full(batch, UNSEEN, jnp.int32)
    return Kept(images, Judgement(unseen, jnp.full(batch, jnp.inf, jnp.float32)))


def keep_better(kept: Kept, images: Array, judged: Judgement, final: Array) -> Kept:
    """Replace what is kept where the judged images are better and it is not final."""
    before = kept.judgement
    same = judged.rank == before.rank
    better = (judged.rank > before.rank) | (
        same & (judged.objective < before.objective)
    )
    better &= ~final
    return Kept(
        jnp.where(better[:, None, None, None], images, kept.images),
        Judgement(
            jnp.where(better, judged.rank, before.rank),
            jnp.where(better, judged.objective, before.objective),
        ),
    )
