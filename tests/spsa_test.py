"""SPSA: what it estimates and where, what it reaches, and what it costs."""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax.attacks import spsa
from mmc_jax.attacks.estimates import estimate_gradient
from mmc_jax.attacks.objectives import margin
from mmc_jax.attacks.passes import Problem, gradient_pass
from mmc_jax.types import StochasticLogitsFn

BATCH = 4


def keys(seed=0, batch=BATCH):
    return jax.random.split(jax.random.key(seed), batch)


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


def network_logits(weights, images):
    hidden, kernel = weights
    return jnp.tanh(images.reshape(len(images), -1) @ hidden) @ kernel


def network_call(generator, batch=BATCH):
    images = jnp.asarray(generator.uniform(size=(batch, 4, 4, 1)), jnp.float32)
    weights = [generator.normal(size=size) / 2 for size in ((16, 8), (8, 3))]
    weights = [jnp.asarray(array, jnp.float32) for array in weights]
    labels = jnp.arange(batch) % 3
    logits_fn = Partial(network_logits, weights)
    return (logits_fn, labels, (labels + 1) % 3), images


@functools.partial(jax.jit, static_argnames="images_a_pass")
def run_estimate(call, images, example_keys, num_pairs, images_a_pass):
    return estimate_gradient(
        Problem(*call, margin, 1),
        images,
        example_keys,
        delta=jnp.float32(0.01),
        num_pairs=num_pairs,
        images_a_pass=images_a_pass,
    )


def estimate(call, images, example_keys, num_pairs, images_a_pass=256):
    """Estimate the margin's gradient; `call` is logits_fn, labels and targets."""
    num_pairs = jnp.int32(num_pairs)
    found = run_estimate(call, images, example_keys, num_pairs, images_a_pass)
    return np.asarray(found).reshape(len(images), -1)


def cosine(one, other):
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(axis=-1) / lengths


# --- the estimate ---------------------------------------------------------------------


def test_the_estimate_is_the_gradient_with_many_samples(generator):
    call, images = network_call(generator)
    _, gradient = gradient_pass(Problem(*call, margin, 1), images, keys())
    gradient = np.asarray(gradient).reshape(BATCH, -1)
    few, many = (estimate(call, images, keys(), n) for n in (8, 2000))
    assert (cosine(many, gradient) > 0.98).all()
    assert (cosine(few, gradient) < 0.97).all()
    # Its size is right too, which Adam would hide.
    sizes = np.linalg.norm(many, axis=1) / np.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(sizes, 1.0, atol=0.1)


@pytest.mark.parametrize("num_pairs", [1, 7, 40])
def test_neither_the_chunks_nor_the_batch_change_the_estimate(generator, num_pairs):
    call, images = network_call(generator)
    whole = estimate(call, images, keys(), num_pairs)
    for images_a_pass in (1, 16):
        other = estimate(call, images, keys(), num_pairs, images_a_pass)
        np.testing.assert_allclose(other, whole, rtol=1e-3, atol=1e-4)
    logits_fn, labels, targets = call
    own = slice(2, 3)
    alone = (logits_fn, labels[own], targets[own])
    alone = estimate(alone, images[own], keys()[own], num_pairs)
    np.testing.assert_allclose(alone, whole[own], rtol=1e-3, atol=1e-4)


def test_directions_are_fair_signs_of_every_example_and_pixel_and_pair():
    # With J the sum of a pixel block, an estimate is the mean of v v^T: off the
    # diagonal it vanishes as pairs add up, as it would not if any two were tied.
    kernel = jnp.zeros((40, 2)).at[0, 0].set(1.0)
    call = (Partial(matrix_logits, kernel), jnp.zeros(64, int), None)
    images = jnp.full((64, 5, 8, 1), 0.5, jnp.float32)
    one, many = (estimate(call, images, keys(batch=64), n) for n in (1, 400))
    np.testing.assert_allclose(one[:, 0], 1.0, rtol=1e-3)
    np.testing.assert_allclose(np.abs(one), 1.0, rtol=1e-3)
    # 64 x 39 fair signs, and no two examples alike.
    assert abs(one[:, 1:].mean()) < 0.1
    assert np.linalg.matrix_rank(np.sign(one)) == 40
    assert np.abs(many[:, 1:]).max() < 5 / 400**0.5


def test_pairs_without_a_finite_objective_say_nothing():
    def cliff(images):
        first = images[:, 0, 0, 0]
        return jnp.stack([jnp.where(first > 0.5, jnp.inf, first), 0 * first], axis=1)

    images = jnp.full((BATCH, 2, 2, 1), 0.5, jnp.float32)
    call = (Partial(cliff), jnp.zeros(BATCH, int), None)
    np.testing.assert_array_equal(estimate(call, images, keys(), 8), 0.0)


def test_the_noise_of_a_randomised_model_cancels_in_a_pair():
    def noisy_logits(images, keys):
        noise = 1e3 * jax.vmap(jax.random.normal)(keys)
        pixel = images[:, 0, 0, 0] + noise
        return jnp.stack([pixel, jnp.zeros_like(pixel)], axis=1)

    images = jnp.full((BATCH, 1, 1, 1), 0.5, jnp.float32)
    logits_fn = StochasticLogitsFn(noisy_logits)
    call = (logits_fn, jnp.zeros(BATCH, int), None)
    found = estimate(call, images, keys(), 8)
    np.testing.assert_allclose(found, 1.0, atol=0.1)


# --- the attack -----------------------------------------------------------------------


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("norm", "dual", "share"), [("linf", 1, 1.0), ("l2", 2, 0.95)])
def test_is_exact_on_a_matrix(generator, norm, dual, share, random_start):
    # The best point of the ball lowers h_0 - h_1 by epsilon times the dual norm.
    kernel = generator.normal(size=(12, 2)).astype(np.float32)
    kernel[:, 0] += np.where(kernel[:, 0] > kernel[:, 1], 1, -1)
    images = jnp.full((BATCH, 2, 2, 3), 0.5, jnp.float32)
    epsilon = jnp.array([0.0, 0.01, 0.02, 0.2])
    adv_images = spsa(
        Partial(matrix_logits, jnp.asarray(kernel)),
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        targets=jnp.ones(BATCH, jnp.int32),
        epsilon=epsilon,
        num_steps=30,
        num_samples=512,
        learning_rate=0.05,
        norm=norm,
        objective="pairwise_margin",
        random_start=random_start,
        stop_on_success=False,
    )
    before, after = (
        matrix_logits(kernel, x) @ jnp.array([1.0, -1.0]) for x in (images, adv_images)
    )
    optimum = np.linalg.norm(kernel[:, 0] - kernel[:, 1], ord=dual) * epsilon
    lowered = before - after
    assert bool(jnp.all(lowered >= share * optimum - 2e-5))
    assert bool(jnp.all(lowered <= optimum + 2e-5))


num_images = collections.Counter()


def counted_logits(weights, images):
    jax.debug.callback(lambda batch: num_images.update(all=int(batch)), len(images))
    return matrix_logits(weights["kernel"], images) + weights["bias"][None, :]


@pytest.mark.parametrize(
    ("bias", "more", "expected"),
    [
        (9.0, dict(num_samples=128, num_steps=3), 1 + 3 * 129),
        (9.0, dict(num_samples=64, num_steps=2), 1 + 2 * 65),
        (-9.0, dict(num_samples=64, num_steps=2), 1),
        (-9.0, dict(num_samples=64, num_steps=2, stop_on_success=False), 131),
    ],
)
def test_runs_no_pass_in_vain(bias, more, expected):
    weights = dict(kernel=jnp.eye(4, 2), bias=jnp.array([bias, 0.0]))
    num_images.clear()
    spsa(
        Partial(counted_logits, weights),
        keys(),
        jnp.full((BATCH, 2, 2, 1), 0.5, jnp.float32),
        jnp.zeros(BATCH, jnp.int32),
        epsilon=0.1,
        **more,
    )
    jax.effects_barrier()
    assert num_images["all"] == expected * BATCH


def test_samples_come_in_pairs():
    images = jnp.full((1, 2, 2, 1), 0.5, jnp.float32)
    with pytest.raises(ValueError, match=r"num_samples must be even.* got 127"):
        spsa(
            Partial(matrix_logits, jnp.eye(4, 2)),
            jax.random.key(0),
            images,
            jnp.zeros(1, jnp.int32),
            epsilon=0.1,
            num_samples=127,
        )


# --- the steps ------------------------------------------------------------------------


def walk(kernel, shape, **more):
    """Descend on a matrix that nothing breaks, from the middle of a wide ball."""
    images = jnp.full((BATCH, *shape), 0.5)
    adv_images = spsa(
        Partial(matrix_logits, jnp.asarray(kernel, jnp.float32)),
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        epsilon=0.4,
        objective="own_class",
        random_start=False,
        stop_on_success=False,
        **more,
    )
    return np.asarray(adv_images - images).reshape(BATCH, -1)


def test_each_step_has_directions_of_its_own(generator):
    """With the same ones at every step, all pixels would go equally far."""
    kernel = generator.normal(size=(16, 2))
    moved = np.abs(walk(kernel, (4, 4, 1), num_samples=2, num_steps=6))
    assert (moved.max(axis=1) - moved.min(axis=1) > 0.01).all()
