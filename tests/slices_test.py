"""Attacks on large batches: in slices, which change nothing but the memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax import attacks
from mmc_jax.attacks import slices

BATCH, SHAPE = 10, (2, 2, 1)
_generator = np.random.default_rng(0)
KERNEL = _generator.normal(size=(4, 3)).astype(np.float32)
IMAGES = _generator.uniform(size=(BATCH, *SHAPE)).astype(np.float32)
LABELS = (IMAGES.reshape(BATCH, -1) @ KERNEL).argmax(axis=1)
# Per example, so that a slice that took another's would show.
EPSILON = np.linspace(0.05, 0.5, BATCH)
KEY = jax.random.key(0)


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


def attack(key):
    """Return adversarial images, and the most images that the model saw at once."""
    seen = []

    def logits_fn(kernel, images):
        seen.append(len(images))
        return matrix_logits(kernel, images)

    model, targets = Partial(logits_fn, jnp.asarray(KERNEL)), (LABELS + 1) % 3
    more = dict(targets=targets, epsilon=EPSILON, num_steps=2)
    adv_images = attacks.pgd(model, key, IMAGES, LABELS, **more)
    return np.asarray(adv_images), max(seen)


@pytest.mark.parametrize("num_keys", [1, BATCH])
def test_slices_change_nothing_but_what_goes_through_at_once(num_keys, monkeypatch):
    key = jax.random.key(3)
    if num_keys > 1:
        key = jax.random.split(key, BATCH)
    whole, most = attack(key)
    assert most == BATCH
    assert np.abs(whole - IMAGES).max(axis=(1, 2, 3)).min() > 0.01
    monkeypatch.setattr(slices, "MOST_IMAGES", 4)
    sliced, most = attack(key)
    assert most == 4
    np.testing.assert_allclose(sliced, whole, rtol=0, atol=1e-6)


def test_slices_are_checked_and_composed_like_any_batch(monkeypatch):
    model = Partial(matrix_logits, jnp.asarray(KERNEL))

    @jax.jit
    def run(strengths):
        def attack(strength):
            return attacks.fgsm(model, KEY, IMAGES, LABELS, epsilon=strength)

        return jax.vmap(attack)(strengths)

    strengths = jnp.array([0.1, 0.3])
    whole = run(strengths)
    jax.clear_caches()
    monkeypatch.setattr(slices, "MOST_IMAGES", 3)
    np.testing.assert_allclose(run(strengths), whole, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="labels must be below .* 3 .*got 7"):
        attacks.fgsm(model, KEY, IMAGES, LABELS * 0 + 7, epsilon=0.1)
