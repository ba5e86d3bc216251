"""The door: the thin Python layer that every attack is entered through.

An attack is a jitted core, `core(call, numbers, ...) -> Outcome`, and a public function
that hands its arguments to `enter`. The door wraps a plain callable as a pytree, casts
every number to one dtype (so that 1, 1.0 and numpy's 1.0 share a compilation), and
checks. Shapes, dtypes, ranks and names are checked always; values where they are
concrete, by one fused reduction and one transfer. It never calls `logits_fn`: the
number of classes that labels are checked against comes back from the core. A large
batch goes through it in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike

from mmc_jax.attacks import checks, keys
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.slices import call_in_slices
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_Extremes = Mapping[str, tuple[Any, Any]]
"""Lowest and highest value, by argument, of those that are concrete."""


class Call(NamedTuple):
    """What all attacks share, checked: a pytree, the first input of a core."""

    logits_fn: LogitsFn | StochasticLogitsFn
    key: Array
    images: Array
    labels: Array
    targets: Array | None
    bounds: tuple[ArrayLike, ArrayLike]
    salt: ArrayLike

    def clean_images(self) -> Array:
        """Return the images in the box, as they are unless traced and out of it."""
        low, high = self.bounds
        return jnp.clip(jnp.where(jnp.isnan(self.images), low, self.images), low, high)

    def example_keys(self) -> Array:
        """Return this attack's own keys, one an example, `[batch]`."""
        return keys.salted(self.key, self.salt, self.images.shape[0])


@struct.dataclass
class Outcome:
    """What a core returns."""

    images: Array
    num_classes: int | None = struct.field(pytree_node=False, default=None)
    """The width of the logits, for checking labels; None if no model was run."""


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
      name: the attack's public name, from which its salt derives.
      call: logits_fn, key, images, labels, targets, bounds, as the user gave them.
      numbers: dynamic hyperparameters by name.
      **static: static arguments of the core.

    Returns:
      Adversarial images, like `images`.

    Raises:
      ValueError: any argument that the attack's documentation does not allow.
    """
    if jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{name} computes in float32, and jax_enable_x64 is on: call it within"
            " jax.enable_x64(False)"
        )
    logits_fn, key, images, labels, targets, bounds = call
    logits_fn = checks.make_logits_pytree(logits_fn)
    images = checks.check_images(images)
    batch = images.shape[0]
    checks.check_key(key, batch)
    labels = checks.check_classes("labels", labels, batch)
    if targets is not None:
        targets = checks.check_classes("targets", targets, batch)
    low, high = checks.check_bounds(bounds)
    cast = {name: number.cast(name, batch) for name, number in numbers.items()}
    data = dict(images=images, labels=labels, targets=targets, low=low, high=high)
    extremes = survey({**data, **cast})
    for given, number in numbers.items():
        if given in extremes:
            number.check_range(given, *extremes[given])
    _check_box(extremes)
    _check_classes(extremes)
    checked = Call(
        logits_fn=logits_fn,
        key=key,
        images=images,
        labels=labels,
        targets=targets,
        bounds=(low, high),
        salt=np.uint32(keys.salt(name)),
    )
    outcome = call_in_slices(core, checked, cast, **static)
    _check_classes_known(extremes, outcome.num_classes)
    return outcome.images


def survey(arguments: Mapping[str, Any]) -> _Extremes:
    """Return the extremes of all concrete arguments, in one transfer.

    `clash`, if both are concrete, is the first class that is target and label of one
    example, and -1 if there is none.
    """
    concrete = {
        name: argument
        for name, argument in arguments.items()
        if argument is not None and not isinstance(argument, jax.core.Tracer)
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
        clashes = arrays["labels"] == arrays["targets"]
        first = arrays["labels"][jnp.argmax(clashes)]
        clash = jnp.where(jnp.any(clashes), first, -1)
        extremes["clash"] = (clash, clash)
    return extremes


def _check_box(extremes: _Extremes) -> None:
    if "low" not in extremes or "high" not in extremes:
        return
    low, high = extremes["low"][0], extremes["high"][0]
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            "bounds must be finite, (lowest, highest) with lowest < highest; got "
            f"({low:g}, {high:g})."
        )
    least, most = extremes.get("images", (low, high))
    if not (low <= least and most <= high):
        raise ValueError(
            f"images must be finite and inside bounds ({low:g}, {high:g}); got values "
            f"from {least:g} to {most:g}."
        )


def _check_classes(extremes: _Extremes) -> None:
    for name in ("labels", "targets"):
        if name in extremes and extremes[name][0] < 0:
            raise ValueError(f"{name} must be at least 0; got {extremes[name][0]}.")
    if "clash" in extremes and extremes["clash"][0] >= 0:
        clash = extremes["clash"][0]
        raise ValueError(
            f"targets must differ from labels; class {clash} is both for one example."
        )


def _check_classes_known(extremes: _Extremes, num_classes: int | None) -> None:
    if num_classes is None:
        return
    for name in ("labels", "targets"):
        if name in extremes and extremes[name][1] >= num_classes:
            raise ValueError(
                f"{name} must be below the number of classes, {num_classes} (the width "
                f"of the logits); got {extremes[name][1]}."
            )
