"""The gradient sign family: closed forms, what is kept, and what a pass costs.

That the iterates themselves are right, `reference_test.py` shows.
"""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax.attacks import bim, fgsm, mim, pgd
from mmc_jax.attacks.objectives import margin
from mmc_jax.types import StochasticLogitsFn

BATCH = 4
KEY_SEED = 0


def _key():
    return jax.random.key(KEY_SEED)


# --- a matrix, far from the box -------------------------------------------------------

KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)), jnp.float32)
GRAY = jnp.full((BATCH, 8, 8, 1), 0.5, jnp.float32)
LABELS = jnp.argmax(GRAY.reshape(BATCH, -1) @ KERNEL, axis=1)
TARGETS = (LABELS + 1) % 3


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_fgsm_is_exact_on_a_matrix(norm, dual):
    # The steepest direction lowers h_y - h_t by epsilon times the dual norm.
    logits_fn = Partial(matrix_logits, KERNEL)
    epsilon = jnp.array([0.0, 0.01, 0.02, 0.4])
    more = dict(targets=TARGETS, objective="pairwise_margin")
    adv_images = fgsm(
        logits_fn, _key(), GRAY, LABELS, epsilon=epsilon, norm=norm, **more
    )
    difference = np.asarray(KERNEL[:, LABELS[0]] - KERNEL[:, TARGETS[0]], np.float64)
    lowered = np.linalg.norm(difference, ord=dual) * epsilon
    before, after = (
        (h := logits_fn(images))[:, LABELS[0]] - h[:, TARGETS[0]]
        for images in (GRAY, adv_images)
    )
    np.testing.assert_allclose(before - after, lowered, rtol=1e-4, atol=2e-5)


def test_the_default_step_is_in_units_of_epsilon():
    logits_fn = Partial(matrix_logits, KERNEL)
    clean_start = functools.partial(pgd, random_start=False)
    for attack, units in ((bim, 2.5), (clean_start, 2.5), (mim, 1.0)):
        default, explicit, tiny = (
            attack(logits_fn, _key(), GRAY, LABELS, epsilon=0.1, num_steps=5, **more)
            for more in (
                {},
                dict(step_size=units * 0.1 / 5),
                dict(step_size=1e-4),
            )
        )
        np.testing.assert_allclose(default, explicit, rtol=0, atol=1e-6)
        assert float(jnp.abs(tiny - explicit).max()) > 1e-3


def test_traced_step_counts_that_make_no_sense_end_at_once():
    logits_fn = Partial(matrix_logits, KERNEL)

    @jax.jit
    def attack(num_steps, num_restarts):
        more = dict(epsilon=0.1, num_steps=num_steps, num_restarts=num_restarts)
        return mim(logits_fn, _key(), GRAY, LABELS, **more)

    np.testing.assert_array_equal(attack(5, -1), GRAY)
    np.testing.assert_array_equal(attack(-5, 1), GRAY)
    assert bool(jnp.any(attack(5, 1) != GRAY))


# --- one pixel, walked upwards by 0.05 a step -----------------------------------------


def pixel_logits(weights, images):
    """Class 1 wins where the pixel is within 0.02 of `peak`; class 2 is a signpost."""
    pixel = images[:, 0, 0, 0]
    second = 0.02 - jnp.abs(pixel - weights["peak"])
    signpost = -100 - (pixel - weights["summit"]) ** 2
    logits = jnp.stack([jnp.zeros_like(pixel), second, signpost], axis=1)
    return jnp.where((pixel > weights["nan_above"])[:, None], jnp.nan, logits)


def towards_the_summit(logits, labels, targets):
    return -logits[:, 2]


PIXEL = jnp.full((1, 1, 1, 1), 0.5, jnp.float32)
WALK = dict(epsilon=0.25, step_size=0.05, objective=towards_the_summit)


def _walk(keep, stop_on_success, num_steps=5, labels=(0,), **weights):
    weights = {"peak": 0.6, "summit": 2.0, "nan_above": 2.0} | weights
    weights = {name: jnp.float32(value) for name, value in weights.items()}
    more = dict(WALK, keep=keep, stop_on_success=stop_on_success, num_steps=num_steps)
    labels = jnp.asarray(labels)
    adv_images = bim(Partial(pixel_logits, weights), _key(), PIXEL, labels, **more)
    return adv_images.item()


@pytest.mark.parametrize(
    ("keep", "stop_on_success", "changes", "expected"),
    [
        # A success on the way, and lower objectives beyond it.
        ("last", False, {}, 0.75),
        ("last", True, {}, 0.6),
        ("best", False, {}, 0.6),
        ("best", True, {}, 0.6),
        # No success: the lowest objective, overshot by the last step.
        ("best", False, dict(peak=3, summit=0.61, num_steps=3), 0.6),
        ("best", True, dict(peak=3, summit=0.61, num_steps=3), 0.6),
        ("last", False, dict(peak=3, summit=0.61, num_steps=3), 0.65),
        # The final iterate counts too.
        ("best", True, dict(num_steps=2), 0.6),
        # A success at the start.
        ("best", True, dict(labels=(1,)), 0.5),
        ("last", True, dict(labels=(1,)), 0.5),
        # Logits that are NaN from 0.65 on: the first such image comes back.
        ("best", False, dict(peak=3, nan_above=0.62), 0.65),
        ("best", True, dict(peak=3, nan_above=0.62), 0.65),
        ("last", False, dict(nan_above=0.62), 0.65),
        ("last", False, dict(nan_above=0.73), 0.75),
        ("best", False, dict(nan_above=0.73), 0.75),
        ("best", True, dict(nan_above=0.62), 0.6),
        # NaN at the clean image as well.
        ("best", True, dict(nan_above=0.1), 0.5),
        ("last", False, dict(nan_above=0.1), 0.5),
    ],
)
def test_keeps_and_stops(keep, stop_on_success, changes, expected):
    reached = _walk(keep, stop_on_success, **changes)
    assert reached == pytest.approx(expected, abs=1e-6)


def test_a_broken_start_is_returned_unless_the_clean_image_is_broken_too():
    def attack(nan_above):
        weights = {"peak": 3.0, "summit": 2.0, "nan_above": nan_above}
        weights = {name: jnp.float32(value) for name, value in weights.items()}
        more = dict(WALK, num_steps=1, stop_on_success=False)
        logits_fn = Partial(pixel_logits, weights)
        return pgd(logits_fn, jax.random.key(2), PIXEL, jnp.array([0]), **more).item()

    start = attack(0.5)
    assert 0.5 < start <= 0.75
    assert attack(0.4) == 0.5
    assert attack(2.0) != start


# --- restarts, passes, gradients that are not numbers, randomised models --------------


def _digits_like(seed):
    generator = np.random.default_rng(seed)
    images = jnp.asarray(generator.uniform(size=(16, 8, 8, 1)), jnp.float32)
    hidden = jnp.asarray(generator.normal(size=(64, 16)) / 4, jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(16, 3)), jnp.float32)
    return images, (hidden, kernel)


def network_logits(weights, images):
    hidden, kernel = weights
    return jnp.sin(3 * (images.reshape(len(images), -1) @ hidden)) @ kernel


@pytest.mark.parametrize("keep", ["best", "last"])
def test_restarts_return_the_best_of_them(keep):
    images, weights = _digits_like(1)
    logits_fn = Partial(network_logits, weights)
    labels = jnp.argmax(logits_fn(images), axis=1)
    more = dict(epsilon=0.02, step_size=0.01, num_steps=3, keep=keep)
    more |= dict(objective="margin", stop_on_success=False)
    reached = [
        margin(
            logits_fn(pgd(logits_fn, _key(), images, labels, num_restarts=n, **more)),
            labels,
        )
        for n in (1, 2, 8)
    ]
    assert bool(jnp.all(reached[1] <= reached[0]))
    assert bool(jnp.all(reached[2] <= reached[1]))
    assert bool(jnp.any(reached[2] < reached[0] - 0.05))


num_passes = collections.Counter()


def _count_pass(_):
    num_passes["all"] += 1


def counted_logits(kernel, images):
    jax.debug.callback(_count_pass, images[0, 0, 0, 0])
    broken = images[:, 0, 0, 0] > 0.99
    logits = matrix_logits(kernel, images)
    return jnp.where(broken[:, None], jnp.nan, logits)


@pytest.mark.parametrize(
    ("attack", "hyperparameters", "labels", "expected"),
    [
        (fgsm, {}, LABELS, 1),
        (bim, dict(keep="last", stop_on_success=False), LABELS, 7),
        (bim, dict(keep="best", stop_on_success=False), LABELS, 8),
        (pgd, dict(keep="last", stop_on_success=False, num_restarts=3), LABELS, 24),
        (pgd, dict(keep="best", stop_on_success=True, num_restarts=3), LABELS, 24),
        (pgd, dict(keep="best", stop_on_success=True, num_restarts=3), TARGETS, 1),
        # A model without randomness needs no second sample.
        (fgsm, dict(num_eot_samples=4), LABELS, 1),
        # One more pass, over the clean images, where the logits have a NaN.
        (fgsm, dict(images=GRAY.at[0].set(1.0)), LABELS, 2),
        (bim, dict(keep="last", images=GRAY.at[0].set(1.0)), LABELS, 8),
    ],
)
def test_runs_no_pass_in_vain(attack, hyperparameters, labels, expected):
    more = dict(epsilon=1e-4) | hyperparameters
    images = more.pop("images", GRAY)
    if attack is not fgsm:
        more["num_steps"] = 7
    num_passes.clear()
    attack(Partial(counted_logits, KERNEL), _key(), images, labels, **more)
    jax.effects_barrier()
    assert num_passes["all"] == expected


def test_a_gradient_that_is_no_number_counts_as_zero():
    def logits_fn(images):
        # At 0 the gradient of the masked root is NaN, and the logits are finite.
        corner = images[:, 0, 0, 0]
        root = jnp.where(corner > 0, jnp.sqrt(corner), 0.0)
        return matrix_logits(KERNEL, images) + root[:, None] * jnp.arange(3.0)[None, :]

    images = GRAY.at[:, 0, 0, 0].set(0.0)
    more = dict(epsilon=0.1, norm="l2", objective="margin")
    adv_images = fgsm(logits_fn, _key(), images, LABELS, **more)
    moved = jnp.abs(adv_images - images).reshape(BATCH, -1)
    assert bool(jnp.all(moved[:, 0] == 0) & jnp.all(moved[:, 1:] > 0))


def noisy_logits(kernel, images, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, kernel.shape))(keys)
    flat = images.reshape(len(images), 1, -1)
    return (flat @ (kernel[None] + 4 * noise))[:, 0]


def test_a_randomised_model_gets_fresh_keys_and_samples_average():
    logits_fn = StochasticLogitsFn(Partial(noisy_logits, KERNEL))
    keys = jax.random.split(jax.random.key(5), BATCH)
    more = dict(epsilon=0.01, targets=TARGETS, objective="pairwise_margin")

    def directions(attack=fgsm, **changes):
        adv_images = attack(logits_fn, keys, GRAY, LABELS, **(more | changes))
        return jnp.sign(adv_images - GRAY).reshape(BATCH, -1)

    one, again, many = directions(), directions(), directions(num_eot_samples=64)
    np.testing.assert_array_equal(one, again)
    # Examples that are alike differ by their keys alone.
    assert bool(jnp.any(one[0] != one[1]))
    true = jnp.sign(KERNEL[:, TARGETS[0]] - KERNEL[:, LABELS[0]])[None, :]
    assert float(jnp.mean(one == true)) < 0.75
    assert float(jnp.mean(many == true)) > 0.85
    # Were the noise the same at every step, the steps would all go one way.
    fixed = dict(keep="last", stop_on_success=False, step_size=0.001)
    walk = jnp.abs(
        bim(logits_fn, keys, GRAY, LABELS, num_steps=8, **fixed, **more) - GRAY
    )
    assert float(jnp.mean(walk > 0.0075)) < 0.5


# --- the trap -------------------------------------------------------------------------


def distance_logits(centers, images):
    features = images.reshape(len(images), -1)[:, :3]
    return -jnp.sum((features[:, None, :] - centers[None, :, :]) ** 2, axis=-1)


def test_cross_entropy_stands_still_on_distances_and_margin_does_not():
    # Images at their centers, which are far apart for a softmax in float32.
    centers = 20.0 * jnp.eye(3)
    labels = jnp.arange(3)
    images = jnp.zeros((3, 4)).at[:, :3].set(centers).reshape(3, 2, 2, 1)
    more = dict(bounds=(-40.0, 40.0), epsilon=15.0, step_size=2.0, num_steps=40)
    logits_fn = Partial(distance_logits, centers)
    stuck = bim(logits_fn, _key(), images, labels, **more)
    np.testing.assert_array_equal(stuck, images)
    freed = bim(logits_fn, _key(), images, labels, objective="margin", **more)
    assert bool(jnp.all(jnp.argmax(logits_fn(freed), axis=1) != labels))
