"""Targets for targeted attacks: a random wrong class for every example."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mmc_jax.attacks import checks, keys
from mmc_jax.attacks.door import survey
from mmc_jax.types import Array, Attack, LogitsFn, StochasticLogitsFn

_SALT = keys.salt("random_targets")


def random_targets(key: Array, labels: Array, num_classes: int) -> Array:
    """Draw a class other than the label, uniformly, for every example.

    Args:
      key: one typed key, or one an example, `[batch]`; may also be given to an attack.
      labels: `[batch]` true labels, below `num_classes`.
      num_classes: at least 2.

    Returns:
      int32 `[batch]`.

    Raises:
      ValueError: a bad key, labels that are not integers `[batch]` below
        `num_classes` (checked where they are concrete), too few classes.
    """
    _check_num_classes(num_classes)
    batch = len(labels) if jnp.ndim(labels) else 0
    labels = checks.check_classes("labels", labels, batch)
    checks.check_key(key, batch)
    least, most = survey({"labels": labels}).get("labels", (0, 0))
    if least < 0 or most >= num_classes:
        raise ValueError(
            f"labels must be from 0 to {num_classes - 1}; got values from {least} to "
            f"{most}."
        )
    return _draw(key, labels, jnp.int32(num_classes))


@dataclasses.dataclass(frozen=True)
class RandomlyTargeted:
    """An attack that draws its targets; see `with_random_targets`."""

    attack: Attack
    num_classes: int

    def __call__(
        self,
        logits_fn: LogitsFn | StochasticLogitsFn,
        key: Array,
        images: Array,
        labels: Array,
        **hyperparameters: Any,
    ) -> Array:
        """Attack towards a random wrong class."""
        targets = random_targets(key, labels, self.num_classes)
        return self.attack(
            logits_fn, key, images, labels, targets=targets, **hyperparameters
        )


def with_random_targets(attack: Attack, num_classes: int) -> RandomlyTargeted:
    """Make an attack draw a uniform wrong class for every example.

    Args:
      attack: from `make_attack`, or an attack function, that accepts `targets`.
      num_classes: at least 2.

    Returns:
      The attack without its `targets` argument: deterministic in the key, hashable if
      `attack` is, and equal when equal.

    Raises:
      ValueError: too few classes, or no attack.
    """
    _check_num_classes(num_classes)
    if not callable(attack):
        raise ValueError(f"attack must be a function; got {attack!r}.")
    return RandomlyTargeted(attack, num_classes)


def _check_num_classes(num_classes: int) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise ValueError(f"num_classes must be an int; got {num_classes!r}.")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got {num_classes}.")


@jax.jit
def _draw(key: Array, labels: Array, num_classes: Array) -> Array:
    own = keys.salted(key, jnp.uint32(_SALT), labels.shape[0])
    offsets = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_classes))(own)
    return (labels + offsets) % num_classes
