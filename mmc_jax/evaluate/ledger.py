"""The ledger of a row: its outcomes so far, added up."""

from __future__ import annotations

import dataclasses

import numpy as np

from mmc_jax.attacks.costs import Passes
from mmc_jax.evaluate.outcome import Outcome
from mmc_jax.evaluate.record import RowRecord, Share
from mmc_jax.evaluate.rows import Row


@dataclasses.dataclass
class Ledger:
    """What is known of a row so far; arrays over all images."""

    row: Row
    attacked: np.ndarray
    correct: np.ndarray
    invalid: np.ndarray
    reached: np.ndarray | None
    violations: dict[str, int]
    running: Share
    largest_norm: float = 0.0
    seconds: float = 0.0
    first_batch_seconds: float = 0.0
    complete: bool = False

    @classmethod
    def empty(cls, row: Row, robust: np.ndarray) -> Ledger:
        """Return the ledger of a row that has not attacked anything."""
        return cls(
            row=row,
            attacked=np.zeros_like(robust),
            correct=np.zeros_like(robust),
            invalid=np.zeros_like(robust),
            reached=np.zeros_like(robust) if row.targeted else None,
            violations={"nonfinite": 0, "outside_box": 0, "outside_ball": 0},
            running=Share(int(robust.sum()), len(robust)),
        )

    def add(self, outcome: Outcome, robust: np.ndarray) -> None:
        """Write down the outcome of a batch, and what is robust after it."""
        index = outcome.index
        self.attacked[index] = True
        self.correct[index] = outcome.correct
        self.invalid[index] = outcome.invalid
        if self.reached is not None:
            self.reached[index] = outcome.reached
        for name, count in outcome.violations.items():
            self.violations[name] += count
        self.largest_norm = max(self.largest_norm, outcome.largest_norm)
        self.running = Share(int(robust.sum()), len(robust))
        self.first_batch_seconds = self.first_batch_seconds or outcome.seconds
        self.seconds += outcome.seconds

    def record(self, passes: Passes) -> RowRecord:
        """Freeze it; `passes` are what one surviving image takes."""
        row = self.row
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["row"]
        return RowRecord(
            name=row.name,
            attack=row.attack_name,
            hyperparameters=row.hyperparameters,
            targeted=row.targeted,
            in_worst_case=row.in_worst_case,
            passes=passes,
            **fields,
        )
