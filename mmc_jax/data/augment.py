"""Augmentation on the device: random sub-pixel shifts and horizontal flips.

The paper's recipe: shift by a uniform, continuous offset of up to 10 % of height and of
width, bilinear, edge pixels repeated; flip with probability one half. Here it works on
raw pixels in [0, 1], before the model subtracts its mean image, so that the attack's
box stays true. Every draw comes from the example's own key: neither batch size nor the
number of devices changes a result.

    augment = make_augment(shift=0.1, flip=True)
    images = augment(keys, images)
"""

from __future__ import annotations

import dataclasses
import math
from numbers import Real

import chex
import jax
import jax.numpy as jnp

from mmc_jax.types import Array

_AUGMENT = 0x4155474D  # Folded into every key, so that callers may use it elsewhere.


@dataclasses.dataclass(frozen=True)
class Augment:
    """`augment(keys, images) -> images`; equal and hashable by its two settings."""

    shift: float
    flip: bool

    def __call__(self, keys: Array, images: Array) -> Array:
        """Return augmented images, shaped like `images`.

        Args:
            keys: typed keys `[batch]`, one an example.
            images: float32 `[batch, height, width, channels]` in [0, 1].
        """
        chex.assert_rank([keys, images], [1, 4])
        chex.assert_type(images, jnp.float32)
        chex.assert_equal_shape_prefix([keys, images], 1)
        if not self.shift and not self.flip:
            return images
        return jax.vmap(self._augment_one)(keys, images)

    def _augment_one(self, key: Array, image: Array) -> Array:
        draws = jax.random.uniform(jax.random.fold_in(key, _AUGMENT), (3,))
        if self.shift:
            height, width, _ = image.shape
            down, right = self.shift * (2 * draws[:2] - 1)
            image = _shift(image, down * height, axis=0, limit=self.shift * height)
            image = _shift(image, right * width, axis=1, limit=self.shift * width)
        if self.flip:
            image = jnp.where(draws[2] < 0.5, image[:, ::-1], image)
        return image


def make_augment(*, shift: float = 0.1, flip: bool = False) -> Augment:
    """Make the augmentation that a train step applies.

    Args:
        shift: largest shift, as a fraction of height and of width, in [0, 1); the
            offset is uniform in [-shift, shift). 0 means none.
        flip: whether to mirror left and right with probability 1/2. The paper's code
            does, even for digits.

    Returns:
        (keys `[batch]`, images float32 `[batch, height, width, channels]`) -> images.

    Raises:
        ValueError: `shift` is not a number in [0, 1), or `flip` not a bool.
    """
    if isinstance(shift, bool) or not isinstance(shift, Real) or not 0 <= shift < 1:
        raise ValueError(f"shift must be a number in [0, 1), got {shift!r}")
    if not isinstance(flip, bool):
        raise ValueError(f"flip must be True or False, got {flip!r}")
    return Augment(float(shift), flip)


def _shift(image: Array, offset: Array, *, axis: int, limit: float) -> Array:
    """Return `image` moved by `offset` pixels along `axis`, |offset| <= limit.

    out[i] = (1 - t) image[j] + t image[j + 1] with j + t = i - offset, indices clamped
    to the image. t is the same for all i, so one slice of the padded image will do.
    """
    margin = math.floor(limit) + 1
    padding = [(0, 0)] * image.ndim
    padding[axis] = (margin, margin)
    whole = jnp.floor(-offset)
    size = image.shape[axis]
    window = jax.lax.dynamic_slice_in_dim(
        jnp.pad(image, padding, mode="edge"),
        whole.astype(jnp.int32) + margin,
        size + 1,
        axis,
    )
    near = jax.lax.slice_in_dim(window, 0, size, axis=axis)
    far = jax.lax.slice_in_dim(window, 1, size + 1, axis=axis)
    # This form leaves a constant region exactly as it was, and stays within [0, 1].
    return near + (-offset - whole) * (far - near)
