"""The record of an evaluation: every number with its counts, and one bit per image.

Read `EvaluationRecord` first, then `RowRecord`. Accuracies are derived from the
per-image arrays, never stored apart from them, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mmc_jax import diagnostics, metrics
from mmc_jax.attacks.costs import Passes
from mmc_jax.evaluate.outcome import to_bits


@dataclasses.dataclass(frozen=True)
class Share:
    """A count out of a total, with its 95 % Wilson interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share as a fraction; NaN out of nothing."""
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval; (0, 1) out of nothing."""
        if not self.total:
            return (0.0, 1.0)
        low, high = metrics.wilson_interval(self.count, self.total)
        return (float(low), float(high))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        value = self.value if self.total else None
        return {
            "count": self.count,
            "total": self.total,
            "value": value,
            "interval_95": list(self.interval),
        }


@dataclasses.dataclass(frozen=True)
class RowRecord:
    """What one attack did."""

    name: str
    """The row's name, which also seeds it."""
    attack: str
    """The attack's name in `mmc_jax.attacks`."""
    hyperparameters: dict[str, Any]
    """Every hyperparameter, defaults included; None is the attack's documented rule."""
    targeted: bool
    """Whether each image was given a random wrong target."""
    in_worst_case: bool
    """False for noise and rotation, which no ball bounds."""
    passes: Passes
    """What one surviving image takes; the verdict's forward pass comes on top."""
    attacked: np.ndarray
    """bool `[num_examples]`: the images that this row attacked."""
    correct: np.ndarray
    """bool `[num_examples]`: attacked, and still given the true label."""
    invalid: np.ndarray
    """bool `[num_examples]`: attacked, and the returned image's logits hold a NaN."""
    reached: np.ndarray | None
    """bool `[num_examples]`: attacked, and given the target (targeted rows only)."""
    violations: dict[str, int]
    """Returned images that are `nonfinite`, `outside_box` or `outside_ball`."""
    largest_norm: float
    """The largest distance of a finite returned image, in the evaluation's norm."""
    running: Share
    """The worst-case accuracy over all images, this row and those before it."""
    seconds: float
    """Wall-clock time of the row, verdicts and compilation included."""
    first_batch_seconds: float
    """Its first batch alone, which holds the compilation."""
    complete: bool
    """False if the row was interrupted."""

    @property
    def num_attacked(self) -> int:
        """How many images the row attacked."""
        return int(self.attacked.sum())

    @property
    def num_correct(self) -> int:
        """How many of those kept the true label."""
        return int(self.correct.sum())

    @property
    def num_broken(self) -> int:
        """How many of those lost it (in a cascade: all of them had it before)."""
        return self.num_attacked - self.num_correct

    @property
    def accuracy(self) -> Share:
        """Accuracy on the images that this row attacked."""
        return Share(self.num_correct, self.num_attacked)

    @property
    def target_reached(self) -> Share | None:
        """Share of the attacked images that were given their target."""
        if self.reached is None:
            return None
        return Share(int(self.reached.sum()), self.num_attacked)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without the per-image arrays."""
        reached = self.target_reached
        return {
            "attack": self.attack,
            "hyperparameters": dict(self.hyperparameters),
            "targeted": self.targeted,
            "in_worst_case": self.in_worst_case,
            "passes_per_survivor": self.passes._asdict(),
            "num_attacked": self.num_attacked,
            "num_broken": self.num_broken,
            "num_invalid": int(self.invalid.sum()),
            "accuracy": self.accuracy.to_dict(),
            "running_accuracy": self.running.to_dict(),
            "target_reached": None if reached is None else reached.to_dict(),
            "violations": dict(self.violations),
            "largest_norm": self.largest_norm,
            "seconds": self.seconds,
            "first_batch_seconds": self.first_batch_seconds,
            "complete": self.complete,
        }


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """What `robust_accuracy` found, and under which conditions."""

    mode: str
    norm: str
    epsilon: float
    bounds: tuple[float, float]
    num_classes: int
    batch_size: int
    num_devices: int
    example_ids: np.ndarray
    """uint32 `[num_examples]`: what seeds each image."""
    clean_correct: np.ndarray
    """bool `[num_examples]`: the unattacked image is given the true label."""
    clean_invalid: np.ndarray
    """bool `[num_examples]`: the unattacked image's logits hold a NaN."""
    robust: np.ndarray
    """bool `[num_examples]`: right on the clean image and on every adversarial one."""
    robust_8_bits: np.ndarray
    """The same of the images that `sha256` is of, rounded to 8 bits in ball and box:
    no less robust, since a rounded image that fails is not looked for again."""
    rows: tuple[RowRecord, ...]
    findings: tuple[diagnostics.Finding, ...]
    zero_gradient_fractions: dict[str, float]
    """Objective -> share of clean images on which its gradient is exactly zero."""
    images: np.ndarray | None
    """The first adversarial image that broke each example, else the clean image."""
    sha256: dict[str, str]
    """Of the `model`, the clean `images`, the `labels`, and the `adv_images` as
    `images` has them if kept; how is said in `digests`."""
    key: dict[str, Any]
    environment: dict[str, Any]
    seconds: float
    complete: bool
    """False if the evaluation was interrupted: `robust` is then an upper bound."""

    @property
    def num_examples(self) -> int:
        """How many images were judged."""
        return len(self.robust)

    @property
    def clean(self) -> Share:
        """Accuracy without an attack."""
        return Share(int(self.clean_correct.sum()), self.num_examples)

    @property
    def worst_case(self) -> Share:
        """Accuracy under the worst, image by image, of all rows that a ball bounds."""
        return Share(int(self.robust.sum()), self.num_examples)

    @property
    def worst_case_8_bits(self) -> Share:
        """The worst case once the adversarial images are rounded to 8 bits."""
        return Share(int(self.robust_8_bits.sum()), self.num_examples)

    def row(self, name: str) -> RowRecord:
        """Return the row of that name, or raise a `ValueError` that lists them."""
        for row in self.rows:
            if row.name == name:
                return row
        known = ", ".join(row.name for row in self.rows)
        raise ValueError(f"no row {name!r} in this record; it has: {known}")

    def to_dict(self, *, per_example: bool = True) -> dict[str, Any]:
        """Return plain data for JSON; per-image bits are strings of 0 and 1.

        Args:
          per_example: include the worst-case matrix, two characters a row and image.

        Returns:
          a dictionary of strings, numbers, lists and dictionaries. The kept images are
          not in it.
        """
        plain: dict[str, Any] = {
            "complete": self.complete,
            "mode": self.mode,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "bounds": list(self.bounds),
            "num_examples": self.num_examples,
            "num_classes": self.num_classes,
            "batch_size": self.batch_size,
            "num_devices": self.num_devices,
            "clean": self.clean.to_dict(),
            "num_invalid": int(self.clean_invalid.sum()),
            "worst_case": self.worst_case.to_dict(),
            "worst_case_8_bits": self.worst_case_8_bits.to_dict(),
            "rows": {row.name: row.to_dict() for row in self.rows},
            "findings": [finding.to_dict() for finding in self.findings],
            "zero_gradient_fractions": dict(self.zero_gradient_fractions),
            "sha256": dict(self.sha256),
            "key": dict(self.key),
            "environment": dict(self.environment),
            "seconds": self.seconds,
        }
        if per_example:
            plain["per_example"] = self._per_example()
        return plain

    def _per_example(self) -> dict[str, Any]:
        rows = {
            row.name: {
                "attacked": to_bits(row.attacked),
                "correct": to_bits(row.correct),
            }
            for row in self.rows
        }
        return {
            "example_ids": self.example_ids.tolist(),
            "clean": to_bits(self.clean_correct),
            "worst_case": to_bits(self.robust),
            "worst_case_8_bits": to_bits(self.robust_8_bits),
            "rows": rows,
        }
