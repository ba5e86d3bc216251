"""One batch: attack it, check what comes back, judge it, round it to 8 bits."""

from __future__ import annotations

import functools
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import attacks, parallel
from mmc_jax.attacks import BoundAttack
from mmc_jax.evaluate.digests import digest_each
from mmc_jax.evaluate.outcome import Outcome
from mmc_jax.evaluate.rounding import round_to_8_bits
from mmc_jax.evaluate.rows import Row
from mmc_jax.evaluate.setting import Setting
from mmc_jax.evaluate.verdict import (
    Postconditions,
    check_postconditions,
    judge_logits,
)
from mmc_jax.types import Array

VERDICT = np.uint32(zlib.crc32(b"verdict"))
_VERDICT_8_BITS = np.uint32(zlib.crc32(b"verdict, 8 bits"))


@jax.jit
def fold_ids(key: Array, ids: Array) -> Array:
    """Return one key an image, `[batch]`, from one key and the images' ids."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


@jax.jit
def _fold_each(keys: Array, number: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def attack_batch(
    setting: Setting, row: Row, index: np.ndarray, num_real: int, robust: np.ndarray
) -> Outcome:
    """Attack one batch with one row.

    Args:
      setting: the evaluation.
      row: one of its rows.
      index: int `[batch_size]`, the images' places in the data set.
      num_real: how many of them count; the rest is padding.
      robust: bool `[num_examples]`, what has survived until now.

    Returns:
      What came of it, `elapsed` left at 0.
    """
    started = time.perf_counter()
    examples = setting.examples
    images, is_real = examples.images[index], np.arange(len(index)) < num_real
    labels = _spend_padding(setting, index, ~is_real & robust[index])
    keys = fold_ids(jax.random.fold_in(setting.key, row.seed), examples.ids[index])
    targets = None
    if row.targeted:
        targets = attacks.random_targets(keys, jnp.asarray(labels), setting.num_classes)
    adv_images = _attack(setting, row, keys, images, labels, targets)
    found = check_postconditions(
        adv_images,
        images,
        norm=setting.norm,
        epsilon=setting.epsilon if row.in_worst_case else None,
        bounds=setting.bounds,
    )
    holds = found.hold
    judged = np.where(holds[:, None, None, None], adv_images, images)
    logits = judge_logits(setting.logits_fn, judged, _fold_each(keys, VERDICT))
    invalid = np.isnan(logits).any(axis=1)
    predictions = logits.argmax(axis=1)
    correct = (predictions == labels) & ~invalid
    goals = labels if targets is None else np.asarray(targets)
    reached = (predictions == goals) & ~invalid & holds
    broken = is_real & robust[index] & ~correct & row.in_worst_case
    return Outcome(
        row=row.name,
        index=index[:num_real],
        correct=correct[:num_real],
        invalid=invalid[:num_real],
        reached=reached[:num_real] if row.targeted else None,
        violations=_violations(row, found, num_real),
        largest_norm=float(found.norms[:num_real].max()),
        broken=broken[:num_real],
        correct_8_bits=_judge_8_bits(setting, keys, index, judged, broken),
        digests=digest_each(judged[broken]),
        images=judged[broken] if setting.keep_images else None,
        seconds=time.perf_counter() - started,
        elapsed=0.0,
    )


def _spend_padding(
    setting: Setting, index: np.ndarray, is_spent: np.ndarray
) -> np.ndarray:
    """Return labels, wrong ones for padding that the model classifies right.

    An attack that stops at success finds it done at its first look, and drops it.
    """
    labels = setting.examples.labels[index]
    return np.where(is_spent, (labels + 1) % setting.num_classes, labels)


def _attack(
    setting: Setting,
    row: Row,
    keys: Array,
    images: np.ndarray,
    labels: np.ndarray,
    targets: Array | None,
) -> np.ndarray:
    # As the verdict sees it: an attack that stops at a success which only low precision
    # shows would leave its steps unspent.
    with jax.default_matmul_precision("highest"):
        if len(setting.devices) > 1:
            shared = _make_shared(row.attack, setting.devices)
            return shared(setting.replicated_logits_fn, keys, images, labels, targets)
        batch = (jnp.asarray(images), jnp.asarray(labels))
        given = {} if targets is None else {"targets": targets}
        return np.asarray(row.attack(setting.logits_fn, keys, *batch, **given))


@functools.lru_cache(maxsize=64)
def _make_shared(attack: BoundAttack, devices: tuple[jax.Device, ...]):
    def run(logits_fn, keys, images, labels, targets):
        given = {} if targets is None else {"targets": targets}
        return attack(logits_fn, keys, images, labels, **given)

    return parallel.make_shared(run, devices=devices)


def _violations(row: Row, found: Postconditions, num_real: int) -> dict[str, int]:
    promises = {"nonfinite": found.finite, "outside_box": found.in_box}
    if row.takes_epsilon:
        # An attack that looks for the smallest distance promises no ball: beyond it,
        # the image has survived, and nothing is wrong with the attack.
        promises["outside_ball"] = found.in_ball
    return {name: int((~kept[:num_real]).sum()) for name, kept in promises.items()}


def _judge_8_bits(
    setting: Setting,
    keys: Array,
    index: np.ndarray,
    judged: np.ndarray,
    broken: np.ndarray,
) -> np.ndarray:
    """Return which broken images are right again once rounded, `[num_broken]`."""
    if not broken.any():
        return np.zeros(0, bool)
    rounded = judged.copy()
    rounded[broken] = round_to_8_bits(
        judged[broken],
        setting.examples.images[index[broken]],
        norm=setting.norm,
        epsilon=setting.epsilon,
        bounds=setting.bounds,
    )
    keys = _fold_each(keys, _VERDICT_8_BITS)
    logits = judge_logits(setting.logits_fn, rounded, keys)
    is_label = logits.argmax(axis=1) == setting.examples.labels[index]
    return (is_label & ~np.isnan(logits).any(axis=1))[broken]
