"""What a rival gives away that has no gradient: queries, transfer, noise.

An attack with gradients knows more than any of them. Where one of them breaks what it
leaves, the gradients are masked, or the attack was too weak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mmc_jax.diagnostics.findings import Finding, Row

BLACK_BOX_LIMIT = 0.002
"""Share of all images beyond which a black-box attack breaks too much: AutoAttack's."""
NOISE_LIMIT = 0.01
"""Share of all images that noise must break to be compared at all."""

_BLACK_BOX = ("spsa", "square")
_NOISE = ("gaussian_noise",)


class JudgedRow(Row, Protocol):
    """A row with what became of every image; `evaluate.RowRecord` is one."""

    @property
    def in_worst_case(self) -> bool:
        """Whether a ball bounds it."""

    @property
    def attacked(self) -> np.ndarray:
        """Bool `[num]`: the images that it attacked."""

    @property
    def correct(self) -> np.ndarray:
        """Bool `[num]`: attacked, and still right."""

    @property
    def largest_norm(self) -> float:
        """The largest distance of a returned image."""


def find_stronger_black_box(
    left: Mapping[str, np.ndarray], broken: Mapping[str, np.ndarray]
) -> list[Finding]:
    """Mark each black-box attack that breaks what every white-box attack leaves.

    Args:
      left: white-box attack -> bool `[num]`, attacked in vain.
      broken: black-box attack -> bool `[num]`, right clean and wrong after it.

    Returns:
      A `black_box_stronger` finding for each black-box attack that breaks more than
      0.2 % of all images among those left.

    Reference: Croce and Hein, ICML 2020, whose code warns from 0.2 points on; Athalye,
    Carlini and Wagner, ICML 2018.
    """
    if not left:
        return []
    findings = []
    left_by_all = np.logical_and.reduce([*left.values()])
    for name, flags in broken.items():
        count, total = int((flags & left_by_all).sum()), len(flags)
        if count <= BLACK_BOX_LIMIT * total:
            continue
        message = (
            f"breaks {count} of {total} images that every white-box attack on them"
            f" leaves ({', '.join(left)}): their gradients mislead, or they are too"
            " weak"
        )
        numbers = {"count": count, "total": total, "left_by": [*left]}
        findings.append(Finding("black_box_stronger", name, message, numbers))
    return findings


def find_strong_noise(
    broken: Mapping[str, np.ndarray],
    broken_by_noise: np.ndarray,
    *,
    clean_correct: np.ndarray,
) -> list[Finding]:
    """Mark each attack that breaks no more images than noise in the same ball.

    Args:
      broken: attack -> bool `[num]`, right clean and wrong after it.
      broken_by_noise: bool `[num]`, right clean and wrong under noise.
      clean_correct: bool `[num]`; an attack that breaks all of them is not marked.

    Returns:
      A `noise_as_strong` finding per marked attack; none where noise breaks 1 % of the
      images or less, which is too little to compare with.

    Reference: Carlini et al. 2019, "On Evaluating Adversarial Robustness".
    """
    noise, total = int(broken_by_noise.sum()), len(broken_by_noise)
    if noise <= NOISE_LIMIT * total:
        return []
    findings = []
    for name, flags in broken.items():
        count = int(flags.sum())
        if count > noise or count == clean_correct.sum():
            continue
        message = (
            f"breaks {count} of {total} images, random noise in the same ball {noise}:"
            " it gains nothing from its gradients"
        )
        numbers = {"count": count, "count_by_noise": noise, "total": total}
        findings.append(Finding("noise_as_strong", name, message, numbers))
    return findings


def find_stronger_rivals(
    rows: Sequence[JudgedRow], *, clean_correct: np.ndarray, epsilon: float
) -> list[Finding]:
    """Compare the rows of one evaluation with its black-box and noise rows.

    In a cascade a row sees only what those before it left. A black-box row is compared
    with the white-box rows that attacked what it broke: those before it, there. Noise
    is compared with all that a row and those before it broke: an upper bound on the
    row's own strength.

    Args:
      rows: of an evaluation, transformations included.
      clean_correct: bool `[num]`.
      epsilon: radius of the ball, rounding included; noise counts only inside.

    Returns:
      `black_box_stronger` and `noise_as_strong` findings.
    """
    bounded = [row for row in rows if row.in_worst_case]
    white_box = [row for row in bounded if row.attack not in _BLACK_BOX]
    findings = []
    for row in bounded:
        if row.attack in _BLACK_BOX:
            broken = clean_correct & row.attacked & ~row.correct
            left = {
                other.name: other.attacked & other.correct
                for other in white_box
                if (other.attacked & broken).any()
            }
            findings += find_stronger_black_box(left, {row.name: broken})
    for row in rows:
        if row.attack in _NOISE and row.largest_norm <= epsilon:
            findings += find_strong_noise(
                {other.name: clean_correct & ~other.correct for other in white_box},
                clean_correct & ~row.correct,
                clean_correct=clean_correct,
            )
    return findings
