"""The door: the thin Python layer that every attack is entered through.

An attack is a jitted core, `core(call, numbers, ...) -> Outcome`, and a public function
that hands its arguments to `enter`. The door wraps a plain callable as a pytree, casts
every number to one dtype (so that 1, 1.0 and numpy's 1.0 share a compilation), and
checks. Shapes, dtypes, ranks and names are checked always; values where they are
concrete, by one fused reduction and one transfer. It never calls `logits_fn`: the
number of classes that labels are checked against comes back from the core.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


class Call(NamedTuple):
    """What all attacks share, checked: a pytree, the first input of a core."""

    logits_fn: LogitsFn | StochasticLogitsFn | None
    key: Array
    images: Array
    labels: Array
    targets: Array | None
    bounds: tuple[Array, Array]
    salt: Array
    """The attack's own constant, folded into every key before anything is drawn."""


@struct.dataclass
class Outcome:
    """What a core returns."""

    images: Array
    num_classes: int | None = struct.field(pytree_node=False, default=None)
    """The width of the logits, for checking labels; None if no model was run."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A numeric hyperparameter as the user gave it, and what is accepted."""

    value: Any
    dtype: Any = np.float32
    lowest: float = 0.0
    highest: float = np.inf
    per_example: bool = False
    """Whether `[batch]` values are accepted beside a scalar."""


def enter(
    core: Callable[..., Outcome],
    name: str,
    call: tuple[Any, ...],
    numbers: Mapping[str, Number],
    **static: Any,
) -> Array:
    """Check and cast the arguments of an attack, run its core, return its images.

    Args:
      core: jitted, `core(call, numbers, **static) -> Outcome`.
      name: the attack's public name; its salt derives from it.
      call: logits_fn, key, images, labels, targets, bounds, as the user gave them.
      numbers: dynamic hyperparameters by name.
      **static: static arguments of the core.

    Returns:
      Adversarial images, like `images`.

    Raises:
      ValueError: any argument that the attack's documentation does not allow.
    """
    logits_fn, key, images, labels, targets, bounds = call
    images = _check_images(images)
    batch = images.shape[0]
    check_key(key, batch)
    labels = check_classes("labels", labels, batch)
    targets = None if targets is None else check_classes("targets", targets, batch)
    low, high = _check_bounds(bounds)
    cast = {key_: _cast_number(key_, spec, batch) for key_, spec in numbers.items()}
    data = dict(images=images, labels=labels, targets=targets, low=low, high=high)
    extremes = _survey({**data, **cast})
    _check_values(extremes, numbers)
    salt = np.uint32(zlib.crc32(name.encode()))
    checked = Call(
        _as_pytree(logits_fn), key, images, labels, targets, (low, high), salt
    )
    outcome = core(checked, cast, **static)
    _check_classes_known(extremes, outcome.num_classes)
    return outcome.images


def example_keys(call: Call) -> Array:
    """Return one key an example, `[batch]`, that no other attack derives.

    A scalar key stands for `fold_in(key, position)`.
    """
    return fold_each(
        keys_by_position(call.key, call.images.shape[0]), jnp.asarray(call.salt)
    )


def keys_by_position(key: Array, batch: int) -> Array:
    """Return `[batch]` keys: as given, or a scalar key folded with each position."""
    if key.ndim == 1:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def fold_each(keys: Array, data: Array | int) -> Array:
    """Fold the same number into every key, `[batch]`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def clean_images(call: Call) -> Array:
    """Return the images inside the box: unchanged, unless unchecked and out of it."""
    low, high = call.bounds
    return jnp.clip(jnp.where(jnp.isnan(call.images), low, call.images), low, high)


def check_key(key: Array, batch: int) -> None:
    """Raise ValueError unless `key` is one typed key or `[batch]` of them."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        hint = ""
        if dtype == np.uint32:
            hint = " Legacy uint32 keys are not accepted: use jax.random.key(seed)."
        raise ValueError(
            f"key must be a typed key (jax.random.key) or [batch] of them; got "
            f"{_describe(key)}.{hint}"
        )
    if key.shape not in ((), (batch,)):
        raise ValueError(
            f"key must be one key or one an example, [{batch}]; got shape {key.shape}."
        )


def check_classes(name: str, classes: Any, batch: int) -> Array:
    """Return class numbers as int32 `[batch]`; ValueError if they are not such."""
    classes = classes if isinstance(classes, jax.Array) else np.asarray(classes)
    if classes.shape != (batch,) or not jnp.issubdtype(classes.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers [batch] = [{batch}] (not one-hot); got "
            f"{_describe(classes)}."
        )
    return jnp.asarray(classes, jnp.int32)


def check_choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of the accepted strings."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}; got {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a plain bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False; got {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless `value`, a static count, is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1; got {value!r}.")


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def _as_pytree(
    logits_fn: LogitsFn | StochasticLogitsFn | None,
) -> LogitsFn | StochasticLogitsFn | None:
    if logits_fn is None or isinstance(
        logits_fn, jax.tree_util.Partial | StochasticLogitsFn
    ):
        return logits_fn
    if not callable(logits_fn):
        raise ValueError(
            "logits_fn must be a function images -> logits [batch, num_classes]; got "
            f"{_describe(logits_fn)}."
        )
    return jax.tree_util.Partial(logits_fn)


def _check_images(images: Any) -> Array:
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    if images.dtype != np.float32:
        divide = " / 255" if jnp.issubdtype(images.dtype, jnp.integer) else ""
        raise ValueError(
            f"images must be float32 in [0, 1]; got {_describe(images)}. Convert them "
            f"with images.astype('float32'){divide}."
        )
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            "images must be [batch, height, width, channels], none of them 0; got "
            f"shape {images.shape}."
        )
    return jnp.asarray(images)


def _check_bounds(bounds: Any) -> tuple[Array, Array]:
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(f"bounds must be a pair (lowest, highest); got {bounds!r}.")
    low, high = (_cast_number("bounds", Number(bound), 0) for bound in bounds)
    return low, high


def _cast_number(name: str, number: Number, batch: int) -> Array:
    value, dtype = number.value, np.dtype(number.dtype)
    given = value if isinstance(value, jax.Array) else np.asarray(value)
    kinds = "iu" if dtype.kind == "i" else "iuf"
    shapes = ((), (batch,)) if number.per_example else ((),)
    is_number = given.dtype.kind in kinds or given.dtype == jnp.bfloat16
    if not is_number or given.shape not in shapes:
        kind = "an integer" if dtype.kind == "i" else "a number"
        also = f" or one an example, [{batch}]" if number.per_example else ""
        got = repr(value) if given.ndim == 0 else _describe(given)
        raise ValueError(f"{name} must be {kind}{also}; got {got}.")
    return given.astype(dtype)


def _survey(arrays: Mapping[str, Array | None]) -> dict[str, tuple[float, float]]:
    """Return the (lowest, highest) of every concrete array, in one transfer.

    Also `clash`, whether any target equals its label.
    """
    concrete = {
        name: array
        for name, array in arrays.items()
        if array is not None and not isinstance(array, jax.core.Tracer)
    }
    on_device = {k: v for k, v in concrete.items() if isinstance(v, jax.Array)}
    extremes = {
        k: (v.min(), v.max()) for k, v in concrete.items() if k not in on_device
    }
    if on_device:
        # Constants met while tracing are concrete too: reduce them now.
        with jax.ensure_compile_time_eval():
            extremes |= jax.device_get(_reduce(on_device))
    return extremes


@jax.jit
def _reduce(arrays: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    extremes = {name: (jnp.min(a), jnp.max(a)) for name, a in arrays.items()}
    if "labels" in arrays and "targets" in arrays:
        clash = jnp.any(arrays["labels"] == arrays["targets"])
        extremes["clash"] = (clash, clash)
    return extremes


def _check_values(
    extremes: Mapping[str, tuple[float, float]], numbers: Mapping[str, Number]
) -> None:
    for name, number in numbers.items():
        least, most = extremes.get(name, (number.lowest, number.lowest))
        if not (number.lowest <= least and most <= number.highest and most < np.inf):
            raise ValueError(
                f"{name} must be finite, in [{number.lowest:g}, {number.highest:g}]; "
                f"got values from {least:g} to {most:g}."
            )
    low, high = (extremes.get(side, (None,))[0] for side in ("low", "high"))
    if low is not None and high is not None:
        if not -np.inf < low < high < np.inf:
            raise ValueError(
                "bounds must be finite, (lowest, highest) with lowest < highest; got "
                f"({low:g}, {high:g})."
            )
        least, most = extremes.get("images", (low, low))
        if not (low <= least and most <= high):
            raise ValueError(
                f"images must be finite and inside bounds ({low:g}, {high:g}); got "
                f"values from {least:g} to {most:g}."
            )
    for name in ("labels", "targets"):
        if name in extremes and extremes[name][0] < 0:
            raise ValueError(f"{name} must be at least 0; got {extremes[name][0]}.")
    if "clash" in extremes and extremes["clash"][0]:
        raise ValueError("targets must differ from labels; some are equal.")


def _check_classes_known(
    extremes: Mapping[str, tuple[float, float]], num_classes: int | None
) -> None:
    for name in ("labels", "targets"):
        if num_classes and name in extremes and extremes[name][1] >= num_classes:
            raise ValueError(
                f"{name} must be below the number of classes, {num_classes} (the width "
                f"of the logits); got {extremes[name][1]}."
            )
