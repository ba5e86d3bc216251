"""Attacks that look at no model: Gaussian noise and rotation.

They have an attack's signature, so that an evaluation can treat them as rows, but they
keep to no ball: `logits_fn`, `labels` and `targets` change nothing, and `logits_fn` may
be None. Images stay inside `bounds`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


def gaussian_noise(
    logits_fn: LogitsFn | StochasticLogitsFn | None,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    sigma: float | Array = 0.05,
) -> Array:
    """Add independent normal noise to every pixel, and clip: x + sigma n.

    Args:
      logits_fn: unused, may be None.
      key: draws the noise; one typed key, or one an example, `[batch]`.
      images: float32 `[batch, height, width, channels]` inside `bounds`.
      labels: unused, `[batch]`.
      targets: unused, `[batch]` or None.
      bounds: the box, (lowest, highest).
      sigma: standard deviation in the images' unit, at least 0; scalar or `[batch]`.
        Default 0.05.

    Returns:
      Noisy images like `images`, inside the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Pang et al. 2020, "Rethinking Softmax Cross-Entropy Loss for Adversarial
    Robustness", general-purpose transformations.
    """
    return enter(
        _add_noise,
        "gaussian_noise",
        (_no_model, key, images, labels, targets, bounds),
        {"sigma": Number(sigma, per_example=True)},
    )


def rotation(
    logits_fn: LogitsFn | StochasticLogitsFn | None,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    max_angle: float | Array = 30.0,
) -> Array:
    """Rotate each image by an angle uniform in [-max_angle, max_angle].

    Args:
      logits_fn: unused, may be None.
      key: draws the angles; one typed key, or one an example, `[batch]`.
      images: float32 `[batch, height, width, channels]` inside `bounds`.
      labels: unused, `[batch]`.
      targets: unused, `[batch]` or None.
      bounds: the box, (lowest, highest).
      max_angle: degrees in [0, 180]; scalar or `[batch]`. Default 30.

    Returns:
      Rotated images like `images`, inside the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Pang et al. 2020, "Rethinking Softmax Cross-Entropy Loss for Adversarial
    Robustness", general-purpose transformations.
    """
    return enter(
        _rotate_randomly,
        "rotation",
        (_no_model, key, images, labels, targets, bounds),
        {"max_angle": Number(max_angle, highest=180.0, per_example=True)},
    )


def rotate(images: Array, degrees: Array) -> Array:
    """Rotate images about their center, counter-clockwise as they are displayed.

    Bilinear; outside the image the nearest pixel counts.

    Args:
      images: `[batch, height, width, channels]`.
      degrees: `[batch]`.

    Returns:
      Like `images`, with values between the lowest and highest of each image.
    """
    _, height, width, _ = images.shape
    rows = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    rows, columns = jnp.meshgrid(rows, columns, indexing="ij")

    def rotate_plane(plane: Array, angle: Array) -> Array:
        # Where each output pixel comes from: the inverse rotation, rows pointing down.
        source_rows = jnp.cos(angle) * rows + jnp.sin(angle) * columns
        source_columns = jnp.cos(angle) * columns - jnp.sin(angle) * rows
        source = [source_rows + (height - 1) / 2, source_columns + (width - 1) / 2]
        return map_coordinates(plane, source, order=1, mode="nearest")

    over_channels = jax.vmap(rotate_plane, in_axes=(2, None), out_axes=2)
    return jax.vmap(over_channels)(images, jnp.deg2rad(degrees))


def _no_model(images: Array) -> Array:
    raise NotImplementedError("A transformation runs no model.")


@jax.jit
def _add_noise(call: Call, numbers: dict[str, Array]) -> Outcome:
    images = call.clean_images()
    draw = partial(jax.random.normal, shape=images.shape[1:])
    noise = jax.vmap(draw)(call.example_keys())
    sigma = jnp.reshape(numbers["sigma"], (-1, 1, 1, 1))
    return _boxed(call, images + sigma * noise)


@jax.jit
def _rotate_randomly(call: Call, numbers: dict[str, Array]) -> Outcome:
    draw = partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    turns = jax.vmap(draw)(call.example_keys())
    degrees = jnp.reshape(numbers["max_angle"], (-1,)) * turns
    return _boxed(call, rotate(call.clean_images(), degrees))


def _boxed(call: Call, images: Array) -> Outcome:
    # A traced NaN in a number makes everything NaN: those pixels stay clean.
    images = jnp.where(jnp.isnan(images), call.clean_images(), images)
    return Outcome(jnp.clip(images, *call.bounds))
