"""Augmentation against scipy: sub-pixel shifts, flips, and draws by the example."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from mmc_jax import data


@functools.partial(jax.jit, static_argnums=0)
def _apply(augment, keys, images):
    return augment(keys, images)


def _textures(batch, height, width, channels=2):
    draws = np.random.default_rng(1).random((batch, height, width, channels))
    return draws.astype(np.float32)


def _ramps(batch, height, width):
    """Return images whose pixels hold their own coordinates, scaled to [0, 1]."""
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([rows / (height - 1), columns / (width - 1)], axis=-1)
    return np.broadcast_to(ramp.astype(np.float32), (batch, height, width, 2))


def _keys(batch, seed=0):
    return jax.random.split(jax.random.key(seed), batch)


def _read_off(augment, keys, height, width):
    """Read each example's (rows down, columns right, flipped) off moved coordinates."""
    moved = np.asarray(_apply(augment, keys, _ramps(len(keys), height, width)))
    rows = moved[:, height // 2, width // 2, 0] * (height - 1)
    columns = moved[:, height // 2, :, 1] * (width - 1)
    flipped = columns[:, width // 2] < columns[:, width // 2 - 1]
    columns = np.where(flipped[:, None], columns[:, ::-1], columns)
    return height // 2 - rows, width // 2 - columns[:, width // 2], flipped


@pytest.mark.parametrize(
    ("shape", "shift"), [((12, 20), 0.1), ((8, 8), 0.1), ((10, 10), 0.3)]
)
def test_equals_scipy(shape, shift):
    augment = data.make_augment(shift=shift, flip=True)
    keys, images = _keys(40), _textures(40, *shape)
    down, right, flipped = _read_off(augment, keys, *shape)
    found = np.asarray(_apply(augment, keys, images))
    for index, image in enumerate(images):
        offset = (down[index], right[index], 0)
        expected = scipy.ndimage.shift(
            image.astype(np.float64), offset, order=1, mode="nearest"
        )
        if flipped[index]:
            expected = expected[:, ::-1]
        np.testing.assert_allclose(found[index], expected, atol=3e-6 * max(shape))
    assert 0 < flipped.sum() < 40


def test_shifts_are_uniform_and_sub_pixel():
    batch, height, width = 2000, 10, 30
    augment = data.make_augment(shift=0.1)
    down, right, flipped = _read_off(augment, _keys(batch), height, width)
    for draws, limit in ((down, 0.1 * height), (right, 0.1 * width)):
        assert np.abs(draws).max() <= limit + 1e-4
        counts, _ = np.histogram(draws, bins=10, range=(-limit, limit))
        # Five standard deviations of a tenth of the draws.
        assert np.abs(counts - batch / 10).max() < 5 * np.sqrt(0.09 * batch)
        assert np.mean(np.abs(draws - np.round(draws)) > 0.01) > 0.9
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.1
    assert not flipped.any()


def test_flips_are_fair_and_independent_of_shifts():
    augment = data.make_augment(shift=0.1, flip=True)
    down, right, flipped = _read_off(augment, _keys(2000), 10, 10)
    assert abs(flipped.mean() - 0.5) < 0.06
    for draws in (down, right):
        assert abs(np.corrcoef(draws, flipped)[0, 1]) < 0.1


def test_flip_alone_mirrors_exactly():
    images = _textures(20, 5, 7)
    found = np.asarray(_apply(data.make_augment(shift=0, flip=True), _keys(20), images))
    flipped = (found != images).any(axis=(1, 2, 3))
    assert 0 < flipped.sum() < 20
    expected = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(found, expected)


def test_nothing_asked_changes_nothing():
    images = _textures(3, 6, 6)
    found = _apply(data.make_augment(shift=0, flip=False), _keys(3), images)
    np.testing.assert_array_equal(found, images)


def test_stays_in_the_box_and_keeps_flat_regions():
    augment = data.make_augment(shift=0.2, flip=True)
    extremes = (_textures(256, 9, 9, 1) > 0.5).astype(np.float32)
    found = np.asarray(_apply(augment, _keys(256), extremes))
    assert found.min() >= 0 and found.max() <= 1
    levels = np.arange(256, dtype=np.float32).reshape(-1, 1, 1, 1) / np.float32(255)
    flat = np.broadcast_to(levels, (256, 9, 9, 1))
    np.testing.assert_array_equal(_apply(augment, _keys(256), flat), flat)


def test_each_example_depends_on_its_own_key_alone():
    augment = jax.jit(data.make_augment(shift=0.1, flip=True))
    keys, images = _keys(16), jnp.asarray(_textures(16, 8, 8))
    whole = augment(keys, images)
    order = np.random.default_rng(0).permutation(16)[:6]
    some = augment(keys[order], images[order])
    np.testing.assert_allclose(some, whole[order], atol=1e-6)
    same = augment(_keys(16, seed=1).at[3].set(keys[3]), images)
    equal = [np.allclose(*pair, atol=1e-6) for pair in zip(same, whole, strict=True)]
    assert equal[3] and sum(equal) == 1


@pytest.mark.needs_eight_devices
def test_any_number_of_devices_gives_the_same_images():
    augment = data.make_augment(shift=0.1, flip=True)
    keys, images = _keys(16), jnp.asarray(_textures(16, 8, 8))
    shards = jax.pmap(augment)(keys.reshape(8, 2), images.reshape(8, 2, 8, 8, 2))
    whole = jax.jit(augment)(keys, images)
    np.testing.assert_allclose(shards.reshape(whole.shape), whole, atol=1e-7)


def test_leaves_its_keys_to_others():
    augment = data.make_augment(shift=0.1)
    keys, images = _keys(4), jnp.asarray(_textures(4, 8, 8))

    @jax.jit
    def twice(keys, images):
        # Under the key-reuse check this would raise if `augment` consumed its keys.
        first = augment(keys, images)
        return first, augment(keys, images), jax.vmap(jax.random.uniform)(keys)

    first, second, _ = twice(keys, images)
    np.testing.assert_array_equal(first, second)


def test_equal_settings_share_one_compilation():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def count(augment, images):
        traces.append(augment)
        return images

    for shift in (0.1, 0.1, np.float64(0.1), 0.2):
        count(data.make_augment(shift=shift), jnp.zeros(1))
    assert [augment.shift for augment in traces] == [0.1, 0.2]


@pytest.mark.parametrize("shift", [-0.1, 1.0, 1, float("nan"), "0.1", None, True])
def test_bad_shift_is_refused(shift):
    with pytest.raises(ValueError, match=r"shift must be a number in \[0, 1\)"):
        data.make_augment(shift=shift)


def test_bad_flip_is_refused():
    with pytest.raises(ValueError, match="flip must be True or False, got 1"):
        data.make_augment(flip=1)


@pytest.mark.parametrize(
    ("num_keys", "shape", "dtype"),
    [
        (3, (2, 6, 6, 1), np.float32),
        (2, (2, 6, 6), np.float32),
        (2, (2, 6, 6, 1), np.uint8),
    ],
)
def test_bad_arguments_are_refused(num_keys, shape, dtype):
    with pytest.raises(AssertionError):
        data.make_augment()(_keys(num_keys), jnp.zeros(shape, dtype))


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_jit_changes_nothing(self):
        augment = data.make_augment(shift=0.1, flip=True)
        keys, images = _keys(16), jnp.asarray(_textures(16, 8, 8))
        np.testing.assert_allclose(
            self.variant(augment)(keys, images),
            _apply(augment, keys, images),
            atol=1e-6,
        )
