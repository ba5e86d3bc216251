"""What is refused before any work is done: bad examples, settings, classifiers."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_A_KEY = "jax.random.key(0)"
NORMS = ("linf", "l2", "l1")
MODES = ("cascade", "individual")


@dataclasses.dataclass(frozen=True)
class Examples:
    """A checked data set, on the host."""

    images: np.ndarray
    """float32 `[num, height, width, channels]`."""
    labels: np.ndarray
    """int32 `[num]`."""
    ids: np.ndarray
    """uint32 `[num]`, each once."""

    def __len__(self) -> int:
        return len(self.labels)


def check_examples(
    images: Any, labels: Any, example_ids: Any, bounds: tuple[float, float]
) -> Examples:
    """Check a whole data set and bring it to the host.

    Args:
      images: as for `robust_accuracy`, like the others.
      labels: the true labels.
      example_ids: None numbers the images.
      bounds: the box.

    Returns:
      The examples.

    Raises:
      ValueError: for a wrong shape, dtype or value; it names the first one.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.float32 or images.ndim != 4:
        raise ValueError(
            "images must be float32 [num, height, width, channels], got"
            f" {images.dtype} {list(images.shape)}"
        )
    if not len(images):
        raise ValueError("images are empty: nothing to judge")
    _check_pixels(images, bounds)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be integers of shape [{len(images)}], one per image, got"
            f" {labels.dtype} {list(labels.shape)}"
        )
    if (labels < 0).any():
        first = int(np.argmax(labels < 0))
        raise ValueError(f"labels[{first}] = {labels[first]}; accepted: 0 or more")
    ids = _check_ids(example_ids, len(images))
    return Examples(images, labels.astype(np.int32), ids)


def _check_pixels(images: np.ndarray, bounds: tuple[float, float]) -> None:
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds must be a pair (lowest, highest), got {bounds!r}")
    lower, upper = bounds
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise ValueError(f"bounds must be two finite numbers in order, got {bounds}")
    low, high = float(images.min()), float(images.max())  # NaN if any pixel is
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int((~np.isfinite(images)).sum())
        raise ValueError(f"images hold {count} values that are NaN or infinite")
    if low < lower or high > upper:
        raise ValueError(
            f"images span [{low:g}, {high:g}], outside the box [{lower:g}, {upper:g}]:"
            " they look normalised or unscaled. Give raw images in the box, and let"
            " logits_fn normalise them, so that epsilon keeps its meaning"
        )


def _check_ids(example_ids: Any, num_examples: int) -> np.ndarray:
    if example_ids is None:
        return np.arange(num_examples, dtype=np.uint32)
    ids = np.asarray(example_ids)
    if not np.issubdtype(ids.dtype, np.integer) or ids.shape != (num_examples,):
        raise ValueError(
            f"example_ids must be integers of shape [{num_examples}], got"
            f" {ids.dtype} {list(ids.shape)}"
        )
    if ids.min() < 0 or ids.max() >= 2**32:
        raise ValueError(
            f"example_ids span {ids.min()} to {ids.max()}; accepted: 0 to 2**32 - 1"
        )
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < num_examples:
        twice = unique[counts > 1]
        raise ValueError(
            f"example_ids must differ: {len(twice)} occur more than once, such as"
            f" {twice[0]}"
        )
    return ids.astype(np.uint32)


def check_settings(
    *, norm: str, epsilon: float, mode: str, batch_size: int, key: Array
) -> None:
    """Check everything that is neither data nor an attack.

    Args:
      norm: as for `robust_accuracy`, like the others.
      epsilon: radius of the ball.
      mode: `cascade` or `individual`.
      batch_size: images at a time.
      key: typed key; not consumed.

    Raises:
      ValueError: for the first value that is not accepted.
    """
    for name, value, accepted in (("norm", norm, NORMS), ("mode", mode, MODES)):
        if value not in accepted:
            raise ValueError(
                f"unknown {name} {value!r}; accepted: {', '.join(accepted)}"
            )
    given = np.asarray(epsilon)
    is_number = given.ndim == 0 and given.dtype.kind in "iuf"
    if not is_number or not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon must be a finite number >= 0, got {epsilon!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral):
        raise ValueError(f"batch_size must be a whole number, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    is_typed = isinstance(key, jax.Array) and jnp.issubdtype(
        key.dtype, jax.dtypes.prng_key
    )
    if not is_typed or key.ndim:
        raise ValueError(f"key must be one typed key, such as {_A_KEY}, got {key!r}")


def check_devices(num_devices: int) -> tuple[jax.Device, ...]:
    """Return the first local devices.

    Args:
      num_devices: how many.

    Raises:
      ValueError: if it is not between 1 and what there is.
    """
    devices = jax.local_devices()
    is_count = isinstance(num_devices, numbers.Integral) and num_devices >= 1
    if isinstance(num_devices, bool) or not is_count or num_devices > len(devices):
        raise ValueError(
            f"num_devices must be 1 to {len(devices)}, the local devices, got"
            f" {num_devices!r}"
        )
    return tuple(devices[:num_devices])


def as_pytree(
    logits_fn: LogitsFn | StochasticLogitsFn,
) -> jax.tree_util.Partial | StochasticLogitsFn:
    """Make a classifier that jitted functions take as an argument.

    Args:
      logits_fn: a function, a `Partial` or a `StochasticLogitsFn`.

    Returns:
      The latter two as they are; a function with its weights baked in.

    Raises:
      ValueError: if it is none of them.
    """
    if isinstance(logits_fn, jax.tree_util.Partial | StochasticLogitsFn):
        return logits_fn
    if not callable(logits_fn):
        raise ValueError(
            "logits_fn must be a function from images to logits, got"
            f" {type(logits_fn).__name__}"
        )
    return jax.tree_util.Partial(logits_fn)


def check_num_classes(
    logits_fn: LogitsFn | StochasticLogitsFn, examples: Examples
) -> int:
    """Check the shape of a classifier's logits, and the labels against it.

    Args:
      logits_fn: from `as_pytree`; it is traced, not run.
      examples: what it is to judge.

    Returns:
      The number of classes.

    Raises:
      ValueError: if the classifier does not take such images, logits are not
        `[batch, num_classes]`, or a label is too large.
    """
    images = jax.ShapeDtypeStruct((1, *examples.images.shape[1:]), jnp.float32)
    given: tuple[Any, ...] = (images,)
    if isinstance(logits_fn, StochasticLogitsFn):
        given += (jax.eval_shape(lambda: jax.random.key(0)[None]),)
    try:
        shape = jax.eval_shape(logits_fn, *given).shape
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"logits_fn takes no batch of images {list(images.shape[1:])} as a function"
            f" of JAX must: {error}"
        ) from error
    if len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
        raise ValueError(
            "logits_fn must return [batch, num_classes] with at least two classes, got"
            f" {list(shape)} for a batch of 1"
        )
    num_classes = shape[1]
    if examples.labels.max() >= num_classes:
        first = int(np.argmax(examples.labels >= num_classes))
        raise ValueError(
            f"labels[{first}] = {examples.labels[first]}; logits_fn has {num_classes}"
            f" classes, accepted: 0 to {num_classes - 1}"
        )
    return num_classes
