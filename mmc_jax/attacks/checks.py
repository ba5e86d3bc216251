"""What an attack accepts: shapes, dtypes, ranks and names, checked at every call.

Each check returns its argument cast, or raises a `ValueError` that shows what was given
and says what is accepted. None of them waits for the device: the values of device
arrays are `door`'s business.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT32_MAX = int(np.iinfo(np.int32).max)


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeric hyperparameter as the user gave it, and what is accepted."""

    value: Any
    dtype: type[np.floating] | type[np.integer] = np.float32
    lowest: float = 0.0
    highest: float = _FLOAT32_MAX
    per_example: bool = False
    """Whether `[batch]` values are accepted beside a scalar."""

    def cast(self, name: str, batch: int) -> Array | np.ndarray:
        """Return the value as an array of the dtype, on the host if it was there."""
        given = self.value
        if not isinstance(given, jax.Array):
            given = np.asarray(given)
        accepted = (jnp.integer,) if self.is_integer else (jnp.integer, jnp.floating)
        is_number = any(jnp.issubdtype(given.dtype, kind) for kind in accepted)
        shapes = ((), (batch,)) if self.per_example else ((),)
        if not is_number or given.shape not in shapes:
            kind = "an integer" if self.is_integer else "a number"
            also = f" or one an example, [{batch}]" if self.per_example else ""
            got = repr(self.value) if given.ndim == 0 else describe(given)
            raise ValueError(f"{name} must be {kind}{also}; got {got}.")
        if isinstance(given, np.ndarray):
            self.check_range(name, given.min(), given.max())
        return given.astype(self.dtype)

    def check_range(self, name: str, least: float, most: float) -> None:
        """Raise ValueError unless all values are finite and in range; NaN is not."""
        highest = min(self.highest, _INT32_MAX) if self.is_integer else self.highest
        if not (self.lowest <= least and most <= highest):
            got = f"{least:g}" if least == most else f"values {least:g} to {most:g}"
            top = "finite" if highest == _FLOAT32_MAX else f"at most {highest:g}"
            raise ValueError(
                f"{name} must be at least {self.lowest:g} and {top}; got {got}."
            )

    @property
    def is_integer(self) -> bool:
        """Whether only integers are accepted."""
        return issubclass(self.dtype, np.integer)


def make_logits_pytree(logits_fn: Any) -> LogitsFn | StochasticLogitsFn:
    """Return the model as a pytree of its weights, around a hashable function."""
    if isinstance(logits_fn, jax.tree_util.Partial | StochasticLogitsFn):
        return logits_fn
    if not callable(logits_fn):
        raise ValueError(
            "logits_fn must be a function images -> logits [batch, num_classes]; got "
            f"{describe(logits_fn)}."
        )
    try:
        hash(logits_fn)
    except TypeError:
        raise ValueError(
            f"logits_fn must be hashable; {type(logits_fn).__name__} is not. Use "
            "jax.tree_util.Partial(function, weights)."
        ) from None
    return jax.tree_util.Partial(logits_fn)


def check_images(images: Any) -> Array:
    """Return images, float32 `[batch, height, width, channels]`."""
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    if images.dtype != np.float32:
        divide = " / 255" if jnp.issubdtype(images.dtype, jnp.integer) else ""
        raise ValueError(
            f"images must be float32 in [0, 1]; got {describe(images)}. Convert them "
            f"with images.astype('float32'){divide}."
        )
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            "images must be [batch, height, width, channels], none of them 0; got "
            f"shape {images.shape}."
        )
    return jnp.asarray(images)


def check_key(key: Array, batch: int) -> None:
    """Check that `key` is one typed key or `[batch]` of them."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        legacy = dtype == np.uint32
        hint = " Legacy uint32 keys are not accepted." if legacy else ""
        raise ValueError(
            "key must be a typed key, jax.random.key(seed), or [batch] of them; got "
            f"{describe(key)}.{hint}"
        )
    if key.shape not in ((), (batch,)):
        raise ValueError(
            f"key must be one key or one an example, [{batch}]; got shape {key.shape}."
        )


def check_classes(name: str, classes: Any, batch: int) -> Array:
    """Return class numbers as int32 `[batch]`."""
    classes = classes if isinstance(classes, jax.Array) else np.asarray(classes)
    if classes.shape != (batch,) or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers [batch] = [{batch}], not one-hot; got "
            f"{describe(classes)}."
        )
    return jnp.asarray(classes, jnp.int32)


def check_bounds(bounds: Any) -> tuple[Array | np.ndarray, Array | np.ndarray]:
    """Return the box as two float32 scalars."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds must be a pair (lowest, highest); got {bounds!r}.")
    numbers = (Number(bound, lowest=-_FLOAT32_MAX) for bound in bounds)
    low, high = (number.cast("bounds", 0) for number in numbers)
    return low, high


def check_choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Check that `value` is one of the accepted strings."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}; got {value!r}.")


def check_no_targets(name: str, targets: Any) -> None:
    """Check that an attack that chooses its own targets is given none."""
    if targets is not None:
        raise ValueError(
            f"{name} chooses its own targets: targets must be None; got "
            f"{describe(targets)}."
        )


def check_flag(name: str, value: Any) -> None:
    """Check that `value` is a plain bool, since it shapes the program."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Check that `value` is a plain int of at least 1, since it shapes the program."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1; got {value!r}.")


def describe(value: Any) -> str:
    """Say what an argument is, in a few words, whatever it is."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
