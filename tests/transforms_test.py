"""Noise and rotation, which look at no model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from mmc_jax.attacks import gaussian_noise, rotation
from mmc_jax.attacks.transforms import rotate

BATCH = 8
LABELS = jnp.zeros(BATCH, jnp.int32)


def _smooth_images(height=9, width=12, channels=2):
    noise = np.random.default_rng(0).uniform(size=(BATCH, height, width, channels))
    return np.float32(scipy.ndimage.gaussian_filter(noise, (0, 1, 1, 0)))


def test_rotates_as_scipy_does():
    images = _smooth_images()
    degrees = np.linspace(-180, 180, BATCH).astype(np.float32)
    rotated = jax.jit(rotate)(images, degrees)
    for image, angle, found in zip(images, degrees, rotated, strict=True):
        expected = scipy.ndimage.rotate(
            image, angle, axes=(1, 0), reshape=False, order=1, mode="nearest"
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_no_angle_and_a_full_turn_change_nothing():
    images = _smooth_images(8, 8)
    for degrees in (0.0, 360.0):
        rotated = rotate(images, jnp.full(BATCH, degrees))
        np.testing.assert_allclose(rotated, images, rtol=0, atol=1e-5)


def test_a_quarter_turn_is_counter_clockwise():
    images = _smooth_images(8, 8)
    rotated = rotate(images, jnp.full(BATCH, 90.0))
    expected = np.rot90(images, axes=(1, 2))
    np.testing.assert_allclose(rotated, expected, rtol=0, atol=1e-5)


def test_angles_are_uniform_up_to_the_largest():
    # A horizontal ramp shows its angle: the slope along the rows is proportional to
    # the sine.
    count = 256
    ramp = jnp.broadcast_to(
        jnp.linspace(0.3, 0.7, 9)[None, None, :, None], (1, 9, 9, 1)
    )
    images = jnp.tile(ramp, (count, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), count)
    labels = jnp.zeros(count, jnp.int32)
    for max_angle in (30.0, 10.0):
        rotated = rotation(None, keys, images, labels, max_angle=max_angle)
        down = rotated[:, 5, 4, 0] - rotated[:, 3, 4, 0]
        angles = np.rad2deg(np.arcsin(np.clip(down / 0.1, -1, 1)))
        assert np.abs(angles).max() <= max_angle + 0.01
        ranks = (np.arange(count) + 0.5) / count
        uniform = (np.sort(angles) / max_angle + 1) / 2
        assert np.abs(uniform - ranks).max() < 1.95 / np.sqrt(count)


def test_noise_is_normal_with_the_deviation_asked_for():
    images = jnp.full((BATCH, 32, 32, 3), 0.5, jnp.float32)
    sigma = jnp.array([0.0, 0.01, 0.05, 0.05, 0.05, 0.05, 0.1, 0.1])
    keys = jax.random.split(jax.random.key(1), BATCH)
    noise = gaussian_noise(None, keys, images, LABELS, sigma=sigma) - images
    deviation = np.asarray(noise).std(axis=(1, 2, 3))
    np.testing.assert_allclose(deviation, sigma, rtol=0.05)
    within = np.mean(np.abs(noise[2:6]) < 0.05)
    assert within == pytest.approx(0.6827, abs=0.01)
    default = gaussian_noise(None, keys, images, LABELS) - images
    np.testing.assert_allclose(default[2:6], noise[2:6], rtol=0, atol=1e-6)


def test_noise_is_clipped_to_the_box():
    images = jnp.zeros((BATCH, 8, 8, 1))
    noisy = gaussian_noise(
        None, jax.random.key(0), images, LABELS, sigma=5.0, bounds=(-1.0, 2.0)
    )
    assert noisy.min() == -1.0 and noisy.max() == 2.0


def test_the_model_is_not_looked_at():
    def logits_fn(images):
        raise AssertionError("was called")

    for attack in (gaussian_noise, rotation):
        images = jnp.asarray(_smooth_images())
        key = jax.random.key(0)
        expected = attack(None, key, images, LABELS)
        found = attack(logits_fn, key, images, LABELS)
        np.testing.assert_array_equal(found, expected)
