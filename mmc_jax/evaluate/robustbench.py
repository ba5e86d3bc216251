"""What RobustBench's leaderboard asks for, as its JSON entries write it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmc_jax.evaluate.record import EvaluationRecord, RowRecord, Share

# AutoAttack's standard version: attack, and the hyperparameters that make it this part.
_APGD = {"num_steps": 100, "keep": "best"}
_PARTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("apgd", {"objective": "cross_entropy", **_APGD}),
    ("apgd_targeted", _APGD),
    ("fab_targeted", {"num_steps": 100}),
    ("square", {"num_queries": 5000}),
)
_NUM_TARGETS = 9
"""Of both targeted parts, or as many as there are."""


def robustbench_entry(
    record: EvaluationRecord,
    *,
    name: str,
    link: str,
    authors: str,
    venue: str,
    architecture: str,
    dataset: str,
    additional_data: bool,
    number_forward_passes: int = 1,
    reported: str | None = None,
    footnote: str | None = None,
) -> dict[str, Any]:
    """Return a leaderboard entry, `model_info/<dataset>/<threat>/<name>.json`.

    Accuracies are strings, in percent with two decimals. `autoattack_acc` is the union
    of the four parts of AutoAttack's standard version, and null unless the record has
    them all, with their published budgets, on every image that the others leave.
    `external` is the worst case over all rows, and null where that is AutoAttack's.
    `unreliable` is true if the record holds any finding.

    Args:
      record: of a complete evaluation.
      name: the title of the paper.
      link: to it.
      authors: of it.
      venue: such as `ICLR 2020`.
      architecture: such as `ResNet-32`.
      dataset: such as `cifar10`.
      additional_data: whether it was trained on more than the training set.
      number_forward_passes: how many runs of the network one prediction takes.
      reported: the accuracy that the paper claims, in percent; None is the worst case.
      footnote: shown below the table, or None.

    Returns:
      The entry, plain data.

    Raises:
      ValueError: if the evaluation was interrupted.
    """
    if not record.complete:
        raise ValueError("the evaluation was interrupted: its accuracy is a bound only")
    auto_attack, worst = _auto_attack(record), _percent(record.worst_case)
    standard = None if auto_attack is None else _percent(auto_attack)
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": number_forward_passes,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": format_epsilon(record.epsilon),
        "clean_acc": _percent(record.clean),
        "reported": worst if reported is None else reported,
        "autoattack_acc": standard,
        "external": None if worst == standard else worst,
        "unreliable": bool(record.findings),
        "footnote": footnote,
    }


def format_epsilon(epsilon: float) -> str:
    """Write a radius as RobustBench does: `8/255` if it is a level, else `0.5`.

    Args:
      epsilon: the radius.

    Returns:
      The text.
    """
    decimal, levels = f"{epsilon:.6g}", round(epsilon * 255)
    is_decimal = abs(float(decimal) - epsilon) < 1e-9
    is_level = abs(levels / 255 - epsilon) < 1e-9
    return f"{levels}/255" if is_level and not is_decimal else decimal


def _percent(share: Share) -> str:
    return f"{100 * share.value:.2f}"


def _auto_attack(record: EvaluationRecord) -> Share | None:
    """Return the accuracy under AutoAttack's four parts, if it can be known."""
    names = [_part(row, record.num_classes) for row in record.rows]
    if not {attack for attack, _ in _PARTS} <= set(names):
        return None
    robust = record.clean_correct.copy()
    for row, name in zip(record.rows, names, strict=True):
        if name is not None:
            if not row.attacked[robust].all():
                return None  # another row of the cascade took some away before
            robust &= row.correct
    return Share(int(np.sum(robust)), record.num_examples)


def _part(row: RowRecord, num_classes: int) -> str | None:
    """Return the name of the part of AutoAttack that a row is, if any."""
    num_targets = row.hyperparameters.get("num_targets")
    if num_targets is not None and num_targets < min(_NUM_TARGETS, num_classes - 1):
        return None
    for attack, needed in _PARTS:
        given = {name: row.hyperparameters.get(name) for name in needed}
        if (row.attack, row.targeted, given) == (attack, False, needed):
            return attack
    return None
