"""Rows: attacks given as plain data, bound to the evaluation's threat model."""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks import ATTACKS, BoundAttack, make_attack
from mmc_jax.attacks.costs import Passes, passes_per_survivor
from mmc_jax.types import LogitsFn, StochasticLogitsFn

TRANSFORMATIONS = ("gaussian_noise", "rotation")
"""Attacks without a ball: rows of their own, never in the worst case."""

_EVALUATION_WIDE = ("norm", "epsilon", "bounds")
_NOT_HYPERPARAMETERS = ("logits_fn", "key", "images", "labels", "targets", "bounds")


@dataclasses.dataclass(frozen=True)
class Row:
    """One attack, bound and ready to run."""

    name: str
    attack_name: str
    attack: BoundAttack
    hyperparameters: dict[str, Any]
    """All of them, defaults included."""
    targeted: bool
    takes_epsilon: bool
    """False for noise, rotation, and what always looks for the smallest distance."""
    needs_epsilon: bool
    """False, too, for FAB, which looks for the smallest distance where it has none."""

    @property
    def in_worst_case(self) -> bool:
        """Whether a ball bounds the attack."""
        return self.attack_name not in TRANSFORMATIONS

    @property
    def seed(self) -> np.uint32:
        """What is folded into the evaluation's key for this row."""
        return np.uint32(zlib.crc32(self.name.encode()))

    def passes(
        self, logits_fn: LogitsFn | StochasticLogitsFn, num_classes: int
    ) -> Passes:
        """Return what the attack spends on one image that survives it."""
        return passes_per_survivor(
            self.attack_name,
            self.hyperparameters,
            num_classes=num_classes,
            stochastic=isinstance(logits_fn, StochasticLogitsFn),
        )


def bind_rows(
    attacks: Mapping[str, Mapping[str, Any]],
    *,
    norm: str,
    epsilon: float | None,
    bounds: tuple[float, float],
) -> list[Row]:
    """Bind every row's attack to its hyperparameters and to the threat model.

    Args:
      attacks: row name -> `dict(name=..., **hyperparameters)`.
      norm: of the ball.
      epsilon: its radius; None for attacks that do without.
      bounds: the box.

    Returns:
      The rows, in order.

    Raises:
      ValueError: for a row that cannot be bound; it names the row.
    """
    if not isinstance(attacks, Mapping) or not attacks:
        raise ValueError(
            "attacks must map at least one row name to dict(name=..., ...), got"
            f" {attacks!r}"
        )
    settings = {"norm": norm, "epsilon": epsilon, "bounds": bounds}
    rows = [_bind_row(name, spec, settings) for name, spec in attacks.items()]
    by_seed: dict[int, str] = {}
    for row in rows:
        other = by_seed.setdefault(int(row.seed), row.name)
        if other != row.name:
            raise ValueError(
                f"rows {other!r} and {row.name!r} have the same crc32 and would share"
                " their randomness; rename one"
            )
    return rows


def _bind_row(row_name: str, spec: Mapping[str, Any], settings: dict[str, Any]) -> Row:
    where = f"row {row_name!r}"
    if not isinstance(row_name, str):
        raise ValueError(f"{where}: a row's name must be a string")
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ValueError(
            f"{where} names no attack: it must be dict(name=..., ...), got {spec!r}"
        )
    spec = dict(spec)
    attack_name, targeted = spec.pop("name"), spec.pop("targeted", False)
    if not isinstance(targeted, bool):
        raise ValueError(f"{where}: targeted must be True or False, got {targeted!r}")
    if attack_name not in ATTACKS:
        known = ", ".join(ATTACKS)
        raise ValueError(f"{where}: unknown attack {attack_name!r}; known: {known}")
    given = [name for name in _EVALUATION_WIDE if name in spec]
    if given:
        raise ValueError(
            f"{where} sets {', '.join(given)}: that belongs to the whole evaluation,"
            " since all rows are judged in one ball and box"
        )
    accepted = inspect.signature(ATTACKS[attack_name]).parameters
    spec |= {name: value for name, value in settings.items() if name in accepted}
    try:
        attack = make_attack(attack_name, **spec)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    hyperparameters = {
        name: _plain(spec.get(name, parameter.default))
        for name, parameter in accepted.items()
        if name not in _NOT_HYPERPARAMETERS
    }
    return Row(
        name=row_name,
        attack_name=attack_name,
        attack=attack,
        hyperparameters=hyperparameters,
        targeted=targeted,
        takes_epsilon="epsilon" in accepted,
        needs_epsilon="epsilon" in accepted and accepted["epsilon"].default is not None,
    )


def _plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def rehearse(
    rows: list[Row],
    logits_fn: LogitsFn | StochasticLogitsFn,
    *,
    batch_shape: tuple[int, ...],
) -> None:
    """Trace every row's attack, so that a bad row is refused before the first runs.

    Nothing is computed, and tracing is not lost time: jit keeps what it traced.

    Args:
      rows: from `bind_rows`.
      logits_fn: from `checks.as_pytree`.
      batch_shape: of the images that the attacks will be given.

    Raises:
      ValueError: for a hyperparameter that its attack does not accept, or an attack
        that returns something else than such images; it names the row.
    """
    images = jax.ShapeDtypeStruct(batch_shape, jnp.float32)
    classes = jax.ShapeDtypeStruct(batch_shape[:1], jnp.int32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_shape[0]))
    for row in rows:
        given = {"targets": classes} if row.targeted else {}
        try:
            with jax.default_matmul_precision("highest"):
                returned = jax.eval_shape(
                    row.attack, logits_fn, keys, images, classes, **given
                )
        except ValueError as error:
            raise ValueError(f"row {row.name!r}: {error}") from error
        if (returned.shape, returned.dtype) != (images.shape, images.dtype):
            raise ValueError(
                f"row {row.name!r}: {row.attack_name} returns {returned.dtype}"
                f" {list(returned.shape)} for {images.dtype} {list(images.shape)}"
            )
