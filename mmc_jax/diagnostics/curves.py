"""Curves that a sound attack bends: accuracy over its steps and over its radius, loss.

Each `find_` judges numbers that were measured elsewhere; `battery` measures them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmc_jax import metrics
from mmc_jax.diagnostics.findings import Finding

STEPS_LIMIT = 0.05
"""Share of the images by which accuracy may change where it should have settled."""
FLAT_LIMIT = 0.10
"""Share of images with a flat loss above which an attack is marked."""
FLAT_FALL = 1e-3
"""A loss is flat if it falls by at most this part of its value on the clean image."""


@dataclasses.dataclass(frozen=True)
class AccuracyCurve:
    """Accuracy on the same images against something that grows, with intervals."""

    positions: tuple[float, ...]
    """Numbers of steps, or radii, ascending."""
    counts: tuple[int, ...]
    """Images that keep their label at each."""
    total: int
    """Images judged at each."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Fractions."""
        return tuple(count / self.total for count in self.counts)

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """Their 95 % Wilson intervals."""
        return tuple(metrics.wilson_interval(n, self.total) for n in self.counts)

    def columns(
        self,
    ) -> tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, float], ...]]:
        """Return what `report.accuracy_vs_epsilon` draws."""
        return self.positions, self.accuracies, self.intervals

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "positions": list(self.positions),
            "counts": list(self.counts),
            "total": self.total,
            "accuracies": list(self.accuracies),
            "intervals_95": [list(interval) for interval in self.intervals],
        }


def find_unsettled_steps(curve: AccuracyCurve) -> list[Finding]:
    """Judge accuracy against the number of an attack's steps.

    It must not rise by more than 5 points above an earlier value (`more_steps_hurt`),
    and the last point must not lie more than 5 points below the one before it
    (`more_steps_help`). Halve or double: the last two points should be a factor of two
    apart.

    Args:
      curve: over numbers of steps.

    Returns:
      At most one finding of each name.
    """
    findings = []
    counts, steps = np.array(curve.counts), curve.positions
    accuracies = curve.accuracies
    limit = STEPS_LIMIT * curve.total
    rises = counts - np.minimum.accumulate(counts)
    worst = int(rises.argmax())
    if rises[worst] > limit:
        best = int(counts[:worst].argmin())
        message = (
            f"{accuracies[worst]:.1%} accurate after {steps[worst]:g} steps, where"
            f" {steps[best]:g} leave {accuracies[best]:.1%}: the attack loses its way"
        )
        rise = accuracies[worst] - accuracies[best]
        numbers = {"rise": rise, "num_steps": steps[worst]}
        findings.append(Finding("more_steps_hurt", None, message, numbers))
    if len(steps) > 1 and counts[-2] - counts[-1] > limit:
        fall = accuracies[-2] - accuracies[-1]
        message = (
            f"accuracy still falls by {100 * fall:.1f} points from {steps[-2]:g} to"
            f" {steps[-1]:g} steps: the attack has not converged, give it more"
        )
        numbers = {"fall": fall, "num_steps": steps[-1]}
        findings.append(Finding("more_steps_help", None, message, numbers))
    return findings


def find_large_epsilon(curve: AccuracyCurve, *, num_classes: int) -> list[Finding]:
    """Judge accuracy where the ball is as large as the box.

    There an image may become any other, so that no classifier is more accurate than
    chance under an attack that works.

    Args:
      curve: over radii, up to the largest that matters.
      num_classes: chance is one of them.

    Returns:
      A `large_epsilon` finding, or none.

    Reference: Carlini et al. 2019, "On Evaluating Adversarial Robustness".
    """
    accuracy, epsilon, chance = (
        curve.accuracies[-1],
        curve.positions[-1],
        1 / num_classes,
    )
    if accuracy <= chance:
        return []
    message = (
        f"still {accuracy:.1%} accurate at epsilon {epsilon:g}, where an image may turn"
        f" into any other and chance is {chance:.1%}: the attack fails, not the images"
    )
    numbers = {"accuracy": accuracy, "epsilon": epsilon, "chance": chance}
    return [Finding("large_epsilon", None, message, numbers)]


def find_flat_loss(
    before: np.ndarray,
    after: np.ndarray,
    *,
    was_right: np.ndarray,
    objective: str,
    num_steps: int,
) -> list[Finding]:
    """Judge how far an attack brought its own objective down.

    An image's loss is flat if it fell by at most a thousandth of |its clean value|.

    Args:
      before: `[num]`, the minimised objective on the clean images.
      after: `[num]`, on the best image that the attack found.
      was_right: bool `[num]`, which of them are classified right clean; the others
        need no attack and do not count.
      objective: its name, for the message.
      num_steps: how many steps it took, for the message.

    Returns:
      A `flat_loss` finding if more than 10 % are flat, or none.
    """
    before, after = before[was_right], after[was_right]
    if not len(before):
        return []
    is_flat = ~(before - after > FLAT_FALL * np.abs(before))
    share = float(is_flat.mean())
    if share <= FLAT_LIMIT:
        return []
    message = (
        f"in {num_steps:g} steps {objective} falls by less than {FLAT_FALL:.1%} on"
        f" {share:.1%} of the images: the attack finds no way down"
    )
    numbers = {"objective": objective, "flat_fraction": share, "num_steps": num_steps}
    return [Finding("flat_loss", None, message, numbers)]
