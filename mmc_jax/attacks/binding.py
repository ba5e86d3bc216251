"""Attacks as plain data: a name and hyperparameters, for configs and records."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_CALL = ("logits_fn", "key", "images", "labels", "targets")


@dataclasses.dataclass(frozen=True)
class BoundAttack:
    """An attack with its hyperparameters: hashable, and equal when equal."""

    attack: Callable[..., Array]
    hyperparameters: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """The attack's public name."""
        return self.attack.__name__

    def __call__(
        self,
        logits_fn: LogitsFn | StochasticLogitsFn,
        key: Array,
        images: Array,
        labels: Array,
        *,
        targets: Array | None = None,
    ) -> Array:
        """Return adversarial images, shaped and typed like `images`."""
        return self.attack(
            logits_fn,
            key,
            images,
            labels,
            targets=targets,
            **dict(self.hyperparameters),
        )


def bind(
    attacks: Mapping[str, Callable[..., Array]],
    name: str,
    hyperparameters: Mapping[str, Any],
) -> BoundAttack:
    """Bind hyperparameters to the attack of that name.

    Args:
      attacks: the known attacks by name.
      name: a key of `attacks`.
      hyperparameters: keyword arguments of that attack, plain data only.

    Returns:
      An attack `(logits_fn, key, images, labels, *, targets=None) -> adv_images`.

    Raises:
      ValueError: an unknown name or hyperparameter, a required one missing, or a value
        that is not plain data.
    """
    if name not in attacks:
        known = ", ".join(sorted(attacks))
        raise ValueError(f"Unknown attack {name!r}; known are {known}.")
    parameters = inspect.signature(attacks[name]).parameters
    accepted = [parameter for parameter in parameters if parameter not in _CALL]
    for given in hyperparameters:
        if given not in accepted:
            raise ValueError(
                f"{name} has no hyperparameter {given!r}; accepted are "
                f"{', '.join(accepted)}."
            )
    for needed in accepted:
        required = parameters[needed].default is inspect.Parameter.empty
        if required and needed not in hyperparameters:
            raise ValueError(f"{name} needs the hyperparameter {needed!r}.")
    frozen = {key: _plain(key, value) for key, value in hyperparameters.items()}
    return BoundAttack(attacks[name], tuple(sorted(frozen.items())))


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool | numbers.Real):
        return value
    if isinstance(value, tuple | list):
        return tuple(_plain(name, entry) for entry in value)
    raise ValueError(
        f"{name} must be plain data (a number, a string, a bool, None or a tuple of "
        f"these); got {type(value).__name__}."
    )
