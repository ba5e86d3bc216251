"""What a row of an evaluation gives away, as findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

ZERO_GRADIENT_LIMIT = 0.05
"""Share of images with an exactly zero gradient above which a row is marked."""
DISAGREEMENT_LIMIT = 0.10
"""Accuracy above the best other objective's by which a row is marked."""

_OWN_TARGETS = ("apgd_targeted", "multi_targeted")
"""Attacks that choose their targets: their objective is in its targeted form."""
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


def objective_label(objective: str, targeted: bool) -> str:
    """Name an objective in its targeted or untargeted form, as the record does.

    Args:
      objective: its name.
      targeted: which form.

    Returns:
      The label.
    """
    return f"{objective} (targeted)" if targeted else objective


def aims_at_classes(row: Row) -> bool:
    """Tell whether a row's objective is in its targeted form.

    Args:
      row: of an evaluation.

    Returns:
      Whether it attacks towards classes, random ones or those that it chooses itself.
    """
    return row.targeted or row.attack in _OWN_TARGETS


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
        label = objective_label(str(objective), aims_at_classes(row))
        fraction = fractions.get(label, 0.0)
        if fraction > ZERO_GRADIENT_LIMIT:
            findings.append(_zero_gradient(row.name, label, fraction))
    return findings


def find_objectives_without_gradient(fractions: Mapping[str, float]) -> list[Finding]:
    """Mark a model on which some objective has no gradient on over 5 % of the images.

    Args:
      fractions: `objective_label` -> `zero_gradient_fraction`.

    Returns:
      A `zero_gradient` finding per such objective, on the whole record.
    """
    return [
        _zero_gradient(None, label, fraction)
        for label, fraction in fractions.items()
        if fraction > ZERO_GRADIENT_LIMIT
    ]


def _zero_gradient(row: str | None, label: str, fraction: float) -> Finding:
    shows = "this row" if row is not None else "an attack with it"
    message = (
        f"the gradient of {label} is exactly zero on {fraction:.1%} of the"
        f" clean images: {shows} shows a missing gradient, not robustness"
    )
    numbers = {"objective": label, "zero_gradient_fraction": fraction}
    return Finding("zero_gradient", row, message, numbers)


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
