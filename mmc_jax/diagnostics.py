"""Signs that a robustness number is not what it seems, each a named `Finding`.

| finding | what it says |
|---|---|
| `zero_gradient` | the row's objective has no gradient to follow on many images |
| `objective_disagreement` | another objective, same budget, breaks far more images |
| `box_or_ball_violation` | the row's attack returned images that do not count |
| `probabilities_as_logits` | the model seems to end in a softmax |

The first is the trap of the MMC loss. Cross-entropy over distance logits
-||z - mu_k||^2 saturates: float32 rounds the wrong classes' probabilities to exactly
zero, the gradient vanishes, and PGD never leaves its starting point. The model looks
robust and is not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks.objectives import resolve_objective
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn

ZERO_GRADIENT_LIMIT = 0.05
"""Share of images with an exactly zero gradient above which a row is marked."""
DISAGREEMENT_LIMIT = 0.10
"""Accuracy above the best other objective's by which a row is marked."""

_BUDGET = ("num_steps", "num_restarts", "num_eot_samples", "num_queries")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One sign, with the numbers behind it."""

    name: str
    """One of the names in the module's table."""
    row: str | None
    """The row that it marks; None where it concerns the whole record."""
    message: str
    """One sentence for the reader of the table."""
    numbers: dict[str, Any]
    """What the sentence rests on."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)


class Row(Protocol):
    """What is asked of an evaluation's row; `evaluate.RowRecord` has it all."""

    @property
    def name(self) -> str:
        """The row's name."""

    @property
    def attack(self) -> str:
        """The attack's name."""

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """Every hyperparameter with its value."""

    @property
    def targeted(self) -> bool:
        """Whether it attacks towards random wrong classes."""

    @property
    def num_attacked(self) -> int:
        """How many images it attacked."""

    @property
    def num_broken(self) -> int:
        """How many of those lost their label."""

    @property
    def violations(self) -> Mapping[str, int]:
        """Returned images per broken promise."""


@functools.partial(jax.jit, static_argnames="objective")
def _has_zero_gradient(logits_fn, images, labels, targets, keys, objective):
    def total(images):
        stochastic = isinstance(logits_fn, StochasticLogitsFn)
        logits = logits_fn(images, keys) if stochastic else logits_fn(images)
        return objective(logits, labels, targets).sum()

    gradients = jax.grad(total)(images)
    return jnp.all(gradients == 0, axis=tuple(range(1, images.ndim)))


def zero_gradient_fraction(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    objective: str | Objective,
    targets: Array | np.ndarray | None = None,
    key: Array | None = None,
    batch_size: int = 256,
) -> float:
    """Return the share of images on which the objective's gradient is exactly zero.

    The share of i with d objective(logits_fn(x_i), y_i, t_i) / d x_i = 0 in every
    pixel, in the precision in which attacks run. It is taken at the clean images,
    misclassified ones included: a sign-gradient attack without a random start cannot
    move such an image at all.

    Args:
      logits_fn: the classifier, or a `StochasticLogitsFn`.
      images: float32 `[num, height, width, channels]` in [0, 1].
      labels: int `[num]`, the true labels.
      objective: a name in `attacks.objectives.OBJECTIVES`, or a function of that form.
      targets: int `[num]` for the targeted form of the objective.
      key: one key, for a `StochasticLogitsFn` alone.
      batch_size: images per gradient pass; the last batch is padded.

    Returns:
      A fraction in [0, 1].

    Raises:
      ValueError: for no images, labels of another length, an unknown objective, or a
        stochastic classifier without a key.

    Reference: Athalye, Carlini and Wagner, ICML 2018, on vanishing gradients as a form
    of gradient masking.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            "images and labels must have one positive length, got"
            f" {len(images)} and {len(labels)}"
        )
    if isinstance(logits_fn, StochasticLogitsFn) and key is None:
        raise ValueError("a StochasticLogitsFn needs a key, got None")
    objective = resolve_objective(objective)
    if not isinstance(logits_fn, jax.tree_util.Partial | StochasticLogitsFn):
        logits_fn = jax.tree_util.Partial(logits_fn)
    key = jax.random.key(0) if key is None else key
    batch_size = min(batch_size, len(images))
    count = 0
    for start in range(0, len(images), batch_size):
        real = np.arange(start, min(start + batch_size, len(images)))
        index = np.resize(real, batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(index))
        is_zero = _has_zero_gradient(
            logits_fn,
            jnp.asarray(images[index]),
            jnp.asarray(labels[index]),
            None if targets is None else jnp.asarray(targets[index]),
            keys,
            objective,
        )
        count += int(np.asarray(is_zero)[: len(real)].sum())
    return count / len(images)


def objective_label(objective: str, targeted: bool) -> str:
    """Name an objective in its targeted or untargeted form, as the record does."""
    return f"{objective} (targeted)" if targeted else objective


def find_zero_gradients(
    rows: Sequence[Row], fractions: Mapping[str, float]
) -> list[Finding]:
    """Mark each row whose objective has no gradient on more than 5 % of the images.

    Args:
      rows: of an evaluation.
      fractions: `objective_label` -> `zero_gradient_fraction`.

    Returns:
      A `zero_gradient` finding per marked row.
    """
    findings = []
    for row in rows:
        objective = row.hyperparameters.get("objective")
        label = objective_label(str(objective), row.targeted)
        fraction = fractions.get(label, 0.0)
        if fraction > ZERO_GRADIENT_LIMIT:
            message = (
                f"the gradient of {label} is exactly zero on {fraction:.1%} of the"
                " clean images: this row shows a missing gradient, not robustness"
            )
            numbers = {"objective": label, "zero_gradient_fraction": fraction}
            findings.append(Finding("zero_gradient", row.name, message, numbers))
    return findings


def find_objective_disagreement(
    rows: Sequence[Row], *, num_examples: int, num_clean_correct: int, cascade: bool
) -> list[Finding]:
    """Mark each row that is over 10 points above the best other objective.

    Rows are compared with those of the same attack, budget (steps, restarts, samples,
    queries) and goal (targeted or not) and another objective. In a cascade each row
    sees only what the rows before it left, so only bounds on a row's own accuracy are
    known: at least the running accuracy, at most clean accuracy less what it broke.
    A row is marked when the bounds alone show the disagreement.

    Args:
      rows: of an evaluation, in order.
      num_examples: how many images it judged.
      num_clean_correct: how many of them are right without an attack.
      cascade: whether each row attacked only the survivors of those before it.

    Returns:
      An `objective_disagreement` finding per marked row.
    """
    groups: dict[tuple, list[tuple[Row, float, float]]] = {}
    for row in rows:
        if row.hyperparameters.get("objective") is None:
            continue
        start = num_clean_correct if cascade else row.num_attacked
        low = (row.num_attacked - row.num_broken) / num_examples
        high = (start - row.num_broken) / num_examples
        groups.setdefault(_budget(row), []).append((row, low, high))
    findings = []
    for group in groups.values():
        for row, low, _ in group:
            others = [
                (other_high, other)
                for other, _, other_high in group
                if other.hyperparameters["objective"]
                != row.hyperparameters["objective"]
            ]
            best, other = min(others, key=lambda pair: pair[0], default=(low, row))
            if low - best > DISAGREEMENT_LIMIT:
                findings.append(_disagreement(row, low, other, best))
    return findings


def _disagreement(row: Row, accuracy: float, other: Row, best: float) -> Finding:
    message = (
        f"{accuracy:.1%} accurate, where {other.name} with the same budget leaves"
        f" {best:.1%} or less: {row.hyperparameters['objective']} is the wrong"
        " objective for this model"
    )
    numbers = {"accuracy": accuracy, "other_row": other.name, "other_accuracy": best}
    return Finding("objective_disagreement", row.name, message, numbers)


def _budget(row: Row) -> tuple:
    sizes = tuple(repr(row.hyperparameters.get(name)) for name in _BUDGET)
    return (row.attack, row.targeted, *sizes)


def find_violations(rows: Sequence[Row]) -> list[Finding]:
    """Mark each row whose attack returned images that do not count as adversarial.

    Args:
      rows: of an evaluation.

    Returns:
      A `box_or_ball_violation` finding per marked row.
    """
    findings = []
    for row in rows:
        broken = {name: count for name, count in row.violations.items() if count}
        if broken:
            counts = ", ".join(f"{count} {name}" for name, count in broken.items())
            message = (
                f"of {row.num_attacked} returned images some do not count"
                f" ({counts}): they were judged as if the attack had failed"
            )
            numbers = {**broken, "num_attacked": row.num_attacked}
            findings.append(
                Finding("box_or_ball_violation", row.name, message, numbers)
            )
    return findings


def find_probabilities(logits: np.ndarray) -> list[Finding]:
    """Mark a model whose every output is non-negative and sums to one.

    Args:
      logits: `[num, num_classes]`, of the clean images.

    Returns:
      A `probabilities_as_logits` finding, or none.
    """
    values = np.asarray(logits, np.float64)
    in_range = (values >= 0).all() and (values <= 1).all()
    if not in_range or np.abs(values.sum(-1) - 1.0).max() > 1e-3:
        return []
    message = (
        "every output lies in [0, 1] and sums to 1, like probabilities: attacks need"
        " the values before the softmax, and are weaker on these"
    )
    numbers = {"smallest": float(values.min()), "largest": float(values.max())}
    return [Finding("probabilities_as_logits", None, message, numbers)]
