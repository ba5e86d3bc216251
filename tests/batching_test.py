"""From uint8 on the device to batches, and padding that counts every image once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import data


def _dataset(size=10):
    images = np.random.default_rng(0).integers(0, 256, (size, 4, 4, 1), np.uint8)
    return data.ArrayDataset(images, np.arange(size, dtype=np.int32))


@pytest.mark.parametrize("transform", [jax.jit, lambda fn: fn], ids=["jit", "eager"])
def test_levels_become_exactly_numpys_floats(transform):
    levels = np.arange(256, dtype=np.uint8)
    found = transform(data.to_float)(jnp.asarray(levels))
    expected = levels.astype(np.float32) / np.float32(255)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


def test_levels_must_be_uint8():
    with pytest.raises(AssertionError):
        data.to_float(jnp.zeros((2, 2), jnp.int32))


def test_batches_are_gathered_inside_a_loop():
    dataset = _dataset()
    held = data.to_device(dataset)
    assert held.images.dtype == jnp.uint8
    order = jnp.asarray([[3, 1], [4, 1], [9, 0]], jnp.int32)
    positions = jnp.asarray([6, 7], jnp.int32)

    @jax.jit
    def gather(held, order):
        def body(carry, indices):
            return carry, data.to_batch(held, indices, positions)

        return jax.lax.scan(body, 0, order)[1]

    batches = gather(held, order)
    expected = dataset.images[np.asarray(order)] / np.float32(255)
    np.testing.assert_array_equal(batches.images, expected)
    np.testing.assert_array_equal(batches.labels, order)
    np.testing.assert_array_equal(batches.positions, [[6, 7]] * 3)


def test_indices_and_positions_must_match():
    held = data.to_device(_dataset())
    with pytest.raises(AssertionError):
        data.to_batch(held, jnp.arange(3), jnp.arange(2))
    with pytest.raises(AssertionError):
        data.to_batch(held, jnp.zeros((2, 2), int), jnp.zeros((2, 2), int))


def test_epochs_are_permutations_of_their_own(key):
    orders = [np.asarray(data.epoch_permutation(key, epoch, 50)) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert not any(
        np.array_equal(orders[one], orders[other])
        for one, other in ((0, 1), (0, 2), (1, 2))
    )
    traced = jax.jit(data.epoch_permutation, static_argnums=2)(key, 1, 50)
    np.testing.assert_array_equal(traced, orders[1])
    other_run = data.epoch_permutation(jax.random.key(1), 0, 50)
    assert not np.array_equal(other_run, orders[0])


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_padding_counts_every_example_once(batch_size):
    dataset = _dataset()
    images, labels, sizes = [], [], []
    for (some_images, some_labels), mask in data.pad_batches(
        dataset.images, dataset.labels, batch_size=batch_size
    ):
        sizes.append((len(some_images), len(some_labels), len(mask)))
        images.append(some_images[mask])
        labels.append(some_labels[mask])
        # Padding is real data, so that a model or an attack meets nothing unusual.
        np.testing.assert_array_equal(some_images, dataset.images[some_labels])
    np.testing.assert_array_equal(np.concatenate(images), dataset.images)
    np.testing.assert_array_equal(np.concatenate(labels), dataset.labels)
    assert set(sizes) == {(batch_size,) * 3}
    assert len(sizes) == -(-10 // batch_size)


@pytest.mark.parametrize(
    ("columns", "batch_size", "message"),
    [
        ((), 4, r"got lengths \[\]"),
        ((np.zeros(0),), 4, r"got lengths \[0\]"),
        ((np.zeros(3), np.zeros(4)), 4, r"got lengths \[3, 4\]"),
        ((np.zeros(3),), 0, "batch_size must be at least 1, got 0"),
        ((np.zeros(3),), 2.0, "batch_size must be an int, got 2.0"),
    ],
)
def test_bad_columns_are_refused_at_the_call(columns, batch_size, message):
    with pytest.raises(ValueError, match=message):
        data.pad_batches(*columns, batch_size=batch_size)
