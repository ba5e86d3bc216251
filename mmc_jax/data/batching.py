"""From a data set held on the device as uint8 to the batch of a step.

Training: `to_device` once; then, in one jitted loop, `epoch_permutation` once an epoch
and `to_batch` in every step. Evaluation: `pad_batches` on the host, whose masks make
every image count exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mmc_jax.data.arrays import ArrayDataset
from mmc_jax.types import Array, Batch

# XLA turns a division by 255 into a product with a rounded 1/255, which is off by a bit
# for every second level. 1/255 in two parts, the first so short that its product with
# a level is exact, gives the correctly rounded quotient, fused multiply-add or not.
_RECIPROCAL = np.float32(round(2**23 / 255) / 2**23)
_RECIPROCAL_REST = np.float32(1 / 255 - float(_RECIPROCAL))


@struct.dataclass
class DeviceDataset:
    """One split on the device; a pytree, so it goes into jitted functions as it is."""

    images: Array
    """uint8 `[size, height, width, channels]`."""
    labels: Array
    """int32 `[size]`."""


def to_device(dataset: ArrayDataset) -> DeviceDataset:
    """Copy a split to the default device.

    Args:
        dataset: the split; its coarse labels stay on the host.

    Returns:
        The same images (uint8) and labels, on the device.
    """
    return DeviceDataset(jnp.asarray(dataset.images), jnp.asarray(dataset.labels))


def to_float(images: Array) -> Array:
    """Turn levels into floats in [0, 1]: level / 255, bit for bit as numpy rounds it.

    Args:
        images: uint8, of any shape.

    Returns:
        float32 of that shape.
    """
    chex.assert_type(images, jnp.uint8)
    levels = images.astype(jnp.float32)
    return levels * _RECIPROCAL + levels * _RECIPROCAL_REST


def to_batch(dataset: DeviceDataset, indices: Array, positions: Array) -> Batch:
    """Gather a batch on the device.

    Args:
        dataset: where to gather from.
        indices: int32 `[batch]`, which examples; in range (not checked when traced).
        positions: int32 `[batch]`, their positions in the whole step's batch, by which
            random draws are keyed.

    Returns:
        The batch, its images float32 in [0, 1].
    """
    chex.assert_rank([indices, positions], 1)
    chex.assert_equal_shape([indices, positions])
    return Batch(
        images=to_float(jnp.take(dataset.images, indices, axis=0, mode="clip")),
        labels=jnp.take(dataset.labels, indices, axis=0, mode="clip"),
        positions=positions,
    )


def epoch_permutation(key: Array, epoch: Array | int, size: int) -> Array:
    """Draw the order in which an epoch goes through its examples.

    Args:
        key: one key for all epochs of a run; `epoch` is folded into it.
        epoch: from 0.
        size: number of training examples.

    Returns:
        A permutation of 0 to size - 1, int32 `[size]`.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), size)


def pad_batches(
    *columns: np.ndarray, batch_size: int
) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Cut columns into batches of one size, the last one filled up and masked.

    Args:
        *columns: arrays of one length (images, labels, ...), at least one example.
        batch_size: examples per batch, at least 1.

    Returns:
        Pairs of (one `[batch_size, ...]` array per column, mask). The mask, bool
        `[batch_size]`, is False where the last example was repeated to fill up.

    Raises:
        ValueError: no column, no example, lengths that differ, or a bad `batch_size`.
    """
    lengths = [len(column) for column in columns]
    if not lengths or lengths[0] == 0 or len(set(lengths)) != 1:
        raise ValueError(
            "columns must have one length, at least 1, in common; got lengths "
            f"{lengths}"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise ValueError(f"batch_size must be an int, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return _padded(columns, lengths[0], batch_size)


def _padded(columns, size, batch_size):
    for start in range(0, size, batch_size):
        positions = np.arange(start, start + batch_size)
        indices = np.minimum(positions, size - 1)
        yield tuple(column[indices] for column in columns), positions < size
