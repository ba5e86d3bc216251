"""Attacks on the divergence from the clean prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax import attacks
from mmc_jax.attacks import slices
from mmc_jax.attacks.relative import kl_divergence
from mmc_jax.types import StochasticLogitsFn

from .reference import losses as reference

BATCH, NUM_CLASSES = 6, 4
_generator = np.random.default_rng(0)
IMAGES = jnp.asarray(_generator.uniform(size=(BATCH, 2, 2, 1)), jnp.float32)
KERNEL = jnp.asarray(3.0 * _generator.normal(size=(4, NUM_CLASSES)), jnp.float32)
LABELS = jnp.arange(BATCH, dtype=jnp.int32) % NUM_CLASSES
FIXED = dict(objective="kl_divergence", keep="last", stop_on_success=False)


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


MODEL = Partial(matrix_logits, KERNEL)


def divergences(adv_images):
    clean, adv = (np.asarray(MODEL(x), np.float64) for x in (IMAGES, adv_images))
    return np.array(
        [reference.kl_divergence(*row) for row in zip(clean, adv, strict=True)]
    )


def attack(logits_fn=MODEL, name="pgd", **more):
    return attacks.ATTACKS[name](
        logits_fn,
        jax.random.key(1),
        IMAGES,
        LABELS,
        **(FIXED | {"epsilon": 0.1} | more),
    )


def test_the_objective_is_minus_the_divergence_whatever_the_labels():
    clean, adv = 3.0 * _generator.normal(size=(2, BATCH, NUM_CLASSES))
    expected = [-reference.kl_divergence(*row) for row in zip(clean, adv, strict=True)]
    for offset in (0.0, -500.0):
        objective = kl_divergence.against(jnp.float32(clean + offset))
        for labels in (LABELS, LABELS[::-1]):
            actual = objective(jnp.float32(adv + offset), labels, None)
            np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["pgd", "mim"])
def test_an_attack_raises_the_divergence(name):
    more = dict(random_start=True, name=name)
    start = divergences(attack(num_steps=1, step_size=0.0, **more))
    end = divergences(attack(num_steps=5, **more))
    assert (end > start).all() and end.mean() > 1.5 * start.mean()
    # One step goes where the gradient by finite differences points.
    step = attack(num_steps=1, step_size=0.01, **more)
    begin = np.asarray(attack(num_steps=1, step_size=0.0, **more))
    for index in np.ndindex(4, 4):
        example, pixel = index
        nudge = np.zeros_like(begin)
        nudge.reshape(BATCH, -1)[example, pixel] = 1e-2
        by_difference = np.subtract(
            *(divergences(begin + sign * nudge)[example] for sign in (1, -1))
        )
        moved = np.asarray(step - begin).reshape(BATCH, -1)[example, pixel]
        assert moved == 0.0 or np.sign(moved) == np.sign(by_difference)
    assert np.abs(step - begin).max() == pytest.approx(0.01, abs=1e-6)


def test_the_best_iterate_is_the_farthest_prediction():
    more = dict(keep="best", num_steps=6, step_size=0.2)
    best, last = attack(**more), attack(**(more | {"keep": "last"}))
    # Among iterates that are right, or wrong, alike.
    predictions = [np.argmax(MODEL(found), axis=1) for found in (best, last)]
    alike = np.equal(*predictions)
    assert alike.any()
    assert (divergences(best) >= divergences(last) - 1e-5)[alike].all()


def test_it_composes_and_is_sliced_like_any_objective(monkeypatch):
    strengths = jnp.array([0.05, 0.2])

    def run(strength):
        return attack(epsilon=strength, num_steps=3)

    apart = np.stack([run(strength) for strength in strengths])
    together = jax.jit(jax.vmap(run))(strengths)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-6)
    monkeypatch.setattr(slices, "MOST_IMAGES", 4)
    np.testing.assert_allclose(run(strengths[0]), apart[0], rtol=0, atol=1e-6)


def test_a_randomised_model_is_compared_with_its_clean_mean():
    def noisy(images, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (NUM_CLASSES,)))(keys)
        return matrix_logits(KERNEL, images) + 1e-3 * noise

    adv_images = attack(StochasticLogitsFn(noisy), num_steps=5, num_eot_samples=2)
    np.testing.assert_allclose(
        divergences(adv_images), divergences(attack(num_steps=5)), rtol=0.1
    )


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("fgsm", {}, "'kl_divergence' needs pgd, or mim with random_start=True"),
        ("bim", {}, "'kl_divergence' needs pgd, or mim with random_start=True"),
        ("pgd", dict(random_start=False), "at the clean image its gradient is zero"),
        ("apgd", {}, "'kl_divergence' compares .* which only pgd and mim compute"),
        ("square", dict(num_queries=2), "'kl_divergence' compares .* only pgd and mim"),
        ("pgd", dict(targets=(LABELS + 1) % 4), "kl_divergence has no targeted form"),
    ],
)
def test_what_cannot_be_is_refused(name, more, message):
    options = dict(objective="kl_divergence", epsilon=0.1) | more
    with pytest.raises(ValueError, match=message):
        attacks.ATTACKS[name](MODEL, jax.random.key(0), IMAGES, LABELS, **options)
