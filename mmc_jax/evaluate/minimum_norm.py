"""The minimum-norm view: how far away the nearest adversarial image is, per image.

    record = minimum_norm(
        logits_fn, images, labels, dict(name="carlini_wagner"), jax.random.key(0),
        norm="l2",
    )
    record.median_distance, record.num_failures, record.accuracy_curve([0.5, 1.0])

One run gives accuracy at every radius: an image is robust at epsilon if its distance is
larger. A failure has no distance; it is never counted as one of 0.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmc_jax.diagnostics import AccuracyCurve
from mmc_jax.environment import describe_environment, describe_key
from mmc_jax.evaluate import checks, crafting
from mmc_jax.evaluate.record import Share
from mmc_jax.evaluate.rows import Row, rehearse
from mmc_jax.evaluate.verdict import check_postconditions
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


@dataclasses.dataclass(frozen=True)
class MinimumNormRecord:
    """What one run of a minimum-norm attack found."""

    attack: str
    hyperparameters: dict[str, Any]
    """Every hyperparameter, defaults included."""
    targeted: bool
    norm: str
    bounds: tuple[float, float]
    example_ids: np.ndarray
    """uint32 `[num_examples]`: what seeds each image."""
    clean_correct: np.ndarray
    """bool `[num_examples]`: right as it is. The others are at distance 0, apart."""
    success: np.ndarray
    """bool `[num_examples]`: right clean, then wrong; at the target, if targeted."""
    distances: np.ndarray
    """float64 `[num_examples]`: of what broke the label; infinite where nothing did."""
    violations: dict[str, int]
    """Returned images that are `nonfinite` or `outside_box`: failures."""
    key: dict[str, Any]
    environment: dict[str, Any]
    seconds: float

    @property
    def num_examples(self) -> int:
        """How many images were judged."""
        return len(self.distances)

    @property
    def num_misclassified(self) -> int:
        """How many were wrong as they are: no attack needed."""
        return int((~self.clean_correct).sum())

    @property
    def num_failures(self) -> int:
        """How many the attack could not break."""
        return int((self.clean_correct & ~self.success).sum())

    @property
    def success_rate(self) -> Share:
        """Share of images broken, of those right clean."""
        return Share(int(self.success.sum()), int(self.clean_correct.sum()))

    @property
    def median_distance(self) -> float:
        """Median over successes; NaN if there is none."""
        found = self.distances[self.success]
        return float(np.median(found)) if len(found) else float("nan")

    @property
    def mean_distance(self) -> float:
        """Mean over successes; NaN if there is none."""
        found = self.distances[self.success]
        return float(found.mean()) if len(found) else float("nan")

    def accuracy_curve(self, epsilons: Sequence[float]) -> AccuracyCurve:
        """Return accuracy at radii: the share of images at a larger distance.

        An upper bound of robust accuracy, as every attack's is.

        Args:
          epsilons: radii, ascending, at least 0.

        Returns:
          Accuracies with Wilson intervals; `report.accuracy_vs_epsilon` draws its
          `columns()`.

        Raises:
          ValueError: for radii that do not ascend.
        """
        radii = [float(epsilon) for epsilon in epsilons]
        if not radii or radii[0] < 0 or radii != sorted(set(radii)):
            raise ValueError(f"epsilons must be at least 0 and ascend, got {radii}")
        counts = tuple(int((self.distances > radius).sum()) for radius in radii)
        return AccuracyCurve(tuple(radii), counts, self.num_examples)

    def to_dict(self, *, epsilons: Sequence[float] = ()) -> dict[str, Any]:
        """Return plain data for JSON.

        Args:
          epsilons: radii of an `accuracy_curve` to include.

        Returns:
          A dictionary of strings, numbers, lists and dictionaries; a distance is None
          where there is none.
        """
        found = bool(self.success.any())
        return {
            "attack": self.attack,
            "hyperparameters": dict(self.hyperparameters),
            "targeted": self.targeted,
            "norm": self.norm,
            "bounds": list(self.bounds),
            "num_examples": self.num_examples,
            "num_misclassified": self.num_misclassified,
            "num_failures": self.num_failures,
            "success_rate": self.success_rate.to_dict(),
            "median_distance": self.median_distance if found else None,
            "mean_distance": self.mean_distance if found else None,
            "accuracy_curve": (
                self.accuracy_curve(epsilons).to_dict() if len(epsilons) else None
            ),
            "violations": dict(self.violations),
            "key": dict(self.key),
            "environment": dict(self.environment),
            "seconds": self.seconds,
            "per_example": {
                "example_ids": self.example_ids.tolist(),
                "clean_correct": self.clean_correct.tolist(),
                "success": self.success.tolist(),
                "distances": [
                    distance if np.isfinite(distance) else None
                    for distance in self.distances.tolist()
                ],
            },
        }


def minimum_norm(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    attack: Mapping[str, Any],
    key: Array,
    *,
    norm: str,
    example_ids: Array | np.ndarray | None = None,
    batch_size: int = 256,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> MinimumNormRecord:
    """Run an attack that looks for the smallest distance, and measure what it finds.

    Every returned image is judged afresh, at the highest matmul precision, and its
    distance taken in float64. It counts only if it is finite and inside the box.

    Args:
      logits_fn: as for `robust_accuracy`, like what is not explained here.
      images: float32 `[num, height, width, channels]` inside `bounds`.
      labels: int `[num]`, the true labels.
      attack: `dict(name=..., **hyperparameters)`, an attack that needs no `epsilon`;
        `targeted=True` gives each image a random wrong target.
      key: typed key; not consumed. Draws are those of a row of `robust_accuracy` with
        the attack's name.
      norm: `linf`, `l2` or `l1`: what distances are measured in, and what the attack is
        told to minimise if it can be told.
      example_ids: int `[num]`, distinct; None: 0 to num - 1.
      batch_size: images at a time; the last batch is padded, the padding not counted.
      bounds: the box.

    Returns:
      The record.

    Raises:
      ValueError: for anything not accepted above, before any work is done.

    Reference: Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural
    Networks"; Carlini et al. 2019, "On Evaluating Adversarial Robustness", on reporting
    failures.
    """
    checks.check_settings(
        norm=norm, epsilon=0.0, mode="individual", batch_size=batch_size, key=key
    )
    examples = checks.check_examples(images, labels, example_ids, bounds)
    logits_fn = checks.as_pytree(logits_fn)
    num_classes = checks.check_num_classes(logits_fn, examples)
    row = crafting.bind_attack(attack, norm=norm, epsilon=np.inf, bounds=bounds)
    if row.needs_epsilon or not row.in_worst_case:
        raise ValueError(
            f"{row.attack_name} looks for no smallest distance: minimum_norm wants an"
            " attack that does without epsilon"
        )
    # Given one, be it infinite, FAB would be done with its first success.
    row = crafting.bind_attack(attack, norm=norm, epsilon=None, bounds=bounds)
    batch_size = min(batch_size, len(examples))
    rehearse([row], logits_fn, batch_shape=(batch_size, *examples.images.shape[1:]))
    started = time.perf_counter()
    found = _run(row, logits_fn, examples, key, norm, bounds, num_classes, batch_size)
    return MinimumNormRecord(
        attack=row.attack_name,
        hyperparameters=row.hyperparameters,
        targeted=row.targeted,
        norm=norm,
        bounds=bounds,
        example_ids=examples.ids,
        key=describe_key(key),
        environment=describe_environment(),
        seconds=time.perf_counter() - started,
        **found,
    )


def _run(
    row: Row,
    logits_fn: jax.tree_util.Partial | StochasticLogitsFn,
    examples: checks.Examples,
    key: Array,
    norm: str,
    bounds: tuple[float, float],
    num_classes: int,
    batch_size: int,
) -> dict[str, Any]:
    clean_correct = np.zeros(len(examples), bool)
    success = np.zeros(len(examples), bool)
    distances = np.full(len(examples), np.inf)
    violations = {"nonfinite": 0, "outside_box": 0}
    for index, real, kept in crafting.batches(examples, batch_size):
        images, labels = examples.images[index], examples.labels[index]
        keys = crafting.example_keys(key, row, examples.ids[index])
        was_right = crafting.judge(logits_fn, images, keys) == labels
        adv_images, targets = crafting.craft(
            row, logits_fn, keys, images, labels, num_classes
        )
        checked = check_postconditions(
            adv_images, images, norm=norm, epsilon=None, bounds=bounds
        )
        violations["nonfinite"] += int((~checked.finite[kept]).sum())
        violations["outside_box"] += int((~checked.in_box[kept]).sum())
        judged = np.where(checked.hold[:, None, None, None], adv_images, images)
        predictions = crafting.judge(logits_fn, judged, keys)
        broken = was_right & checked.hold & (predictions != labels)
        reached = broken if targets is None else broken & (predictions == targets)
        lengths = np.where(broken, checked.norms, np.inf)
        clean_correct[real] = was_right[kept]
        success[real] = reached[kept]
        distances[real] = np.where(was_right, lengths, 0.0)[kept]
    return dict(
        clean_correct=clean_correct,
        success=success,
        distances=distances,
        violations=violations,
    )
