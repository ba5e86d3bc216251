"""A running evaluation: which images a row attacks, and what has come of it.

The state is a handful of per-image arrays: what survived so far, and a `Ledger` a row.
It changes by `_apply` alone, to which it makes no difference whether an outcome was
just found or comes from the journal of a run that was killed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mmc_jax import data, diagnostics
from mmc_jax.environment import describe_environment, describe_key
from mmc_jax.evaluate.batch import VERDICT, attack_batch, fold_ids
from mmc_jax.evaluate.digests import digest_all, digest_each
from mmc_jax.evaluate.journal import Journal
from mmc_jax.evaluate.ledger import Ledger
from mmc_jax.evaluate.outcome import Outcome, to_bits
from mmc_jax.evaluate.progress import Progress
from mmc_jax.evaluate.record import EvaluationRecord, RowRecord
from mmc_jax.evaluate.rows import Row
from mmc_jax.evaluate.setting import Setting
from mmc_jax.evaluate.verdict import judge_logits, largest_distance


class Run:
    """One evaluation on its way; `robust_accuracy` drives it."""

    def __init__(
        self,
        setting: Setting,
        *,
        report: Callable[[Progress], None],
        journal: Journal | None,
    ):
        """Start with nothing judged and nothing attacked."""
        self.setting = setting
        self._report, self._journal = report, journal
        size, images = len(setting.examples), setting.examples.images
        self._started = time.perf_counter()
        self._resumed = 0
        self.clean_correct = np.zeros(size, bool)
        self.clean_invalid = np.zeros(size, bool)
        self.robust = np.zeros(size, bool)
        self.robust_8_bits = np.zeros(size, bool)
        self.images = images.copy() if setting.keep_images else None
        self.digests = digest_each(images)
        """uint8 `[num_examples, 32]`: of each worst image, clean ones at first."""
        self.ledgers: list[Ledger] = []
        self.findings: list[diagnostics.Finding] = []
        self.zero_gradient_fractions: dict[str, float] = {}

    def judge_clean(self) -> None:
        """Judge every image as it is."""
        setting, examples = self.setting, self.setting.examples
        logits = np.zeros((len(examples), setting.num_classes), np.float32)
        key = jax.random.fold_in(setting.key, VERDICT)
        for index, _ in self._batches(np.arange(len(examples))):
            keys = fold_ids(key, examples.ids[index])
            logits[index] = judge_logits(
                setting.logits_fn, examples.images[index], keys
            )
        self.clean_invalid = np.asarray(np.isnan(logits).any(axis=1))
        is_label = logits.argmax(axis=1) == examples.labels
        self.clean_correct = is_label & ~self.clean_invalid
        self.robust = self.clean_correct.copy()
        self.robust_8_bits = self.clean_correct.copy()
        self.findings += diagnostics.find_probabilities(logits)

    def resume(self) -> None:
        """Take over what the journal holds, or write its first record.

        Raises:
          ValueError: if the model judges the clean images otherwise than it did.
        """
        if self._journal is None:
            return
        clean = {"clean": to_bits(self.clean_correct)}
        records = self._journal.replay()
        before = next(records, None)
        if before is None:
            self._journal.append(clean)
        elif before != clean:
            raise ValueError(
                "the journal is of another model: the clean images are judged"
                " otherwise there"
            )
        shape = self.setting.examples.images.shape[1:]
        for record in records:
            outcome = Outcome.from_dict(record, shape)
            self._apply(outcome)
            self._started = time.perf_counter() - outcome.elapsed
        self._resumed = self._num_done()
        if self.ledgers:
            self._report_progress(self._chosen(self.ledgers[-1]))

    def run_row(self, row: Row) -> None:
        """Attack with one row the images that it should see and has not seen yet."""
        ledger = self._ledger(row.name)
        chosen = self._chosen(ledger)
        for index, num_real in self._batches(chosen):
            outcome = attack_batch(self.setting, row, index, num_real, self.robust)
            elapsed = time.perf_counter() - self._started
            outcome = dataclasses.replace(outcome, elapsed=elapsed)
            if self._journal is not None:
                self._journal.append(outcome.to_dict())
            self._apply(outcome)
            self._report_progress(chosen)
        ledger.complete = True

    def _ledger(self, name: str) -> Ledger:
        """Return the ledger of a row; begin it and those before it if need be."""
        rows = self.setting.rows
        place = [row.name for row in rows].index(name)
        for row in rows[len(self.ledgers) : place + 1]:
            self.ledgers.append(Ledger.empty(row, self.robust))
        return self.ledgers[place]

    def _chosen(self, ledger: Ledger) -> np.ndarray:
        """Return the places of the images that a row has yet to attack."""
        everything = self.setting.mode == "individual" or not ledger.row.in_worst_case
        return np.flatnonzero((self.robust | everything) & ~ledger.attacked)

    def _batches(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Cut indices into batches of one size, each with its unpadded size."""
        batch_size = self.setting.batch_size
        if len(chosen):
            for (index,), mask in data.pad_batches(chosen, batch_size=batch_size):
                yield index, int(mask.sum())

    def _apply(self, outcome: Outcome) -> None:
        """Write the outcome of a batch down: the one place where the state changes."""
        broken = outcome.index[outcome.broken]
        self.robust[broken] = False
        self.robust_8_bits[broken] = outcome.correct_8_bits
        self.digests[broken] = outcome.digests
        if self.images is not None:
            self.images[broken] = outcome.images
        self._ledger(outcome.row).add(outcome, self.robust)

    def _num_done(self) -> int:
        return sum(int(ledger.attacked.sum()) for ledger in self.ledgers)

    def _report_progress(self, chosen: np.ndarray) -> None:
        """Report; `chosen` are the images that were left to the row at its start."""
        ledger, done = self.ledgers[-1], self._num_done()
        total = done + int((~ledger.attacked[chosen]).sum())
        surviving = int(self.robust.sum())
        for row in self.setting.rows[len(self.ledgers) :]:
            cascades = self.setting.mode == "cascade" and row.in_worst_case
            total += surviving if cascades else len(self.robust)
        self._report(Progress(ledger.row.name, done, total, surviving, self._resumed))

    def diagnose(self) -> None:
        """Look for signs that the numbers are not what they seem."""
        setting, examples = self.setting, self.setting.examples
        rows = self._row_records()
        bounded = [row for row in rows if row.in_worst_case]
        for row in bounded:
            objective = row.hyperparameters.get("objective")
            targeted = diagnostics.aims_at_classes(row)
            label = diagnostics.objective_label(str(objective), targeted)
            if objective is not None and label not in self.zero_gradient_fractions:
                fraction = self._zero_gradient_fraction(objective, targeted)
                self.zero_gradient_fractions[label] = fraction
        self.findings += diagnostics.find_zero_gradients(
            bounded, self.zero_gradient_fractions
        )
        self.findings += diagnostics.find_objective_disagreement(
            bounded,
            num_examples=len(self.robust),
            num_clean_correct=int(self.clean_correct.sum()),
            cascade=setting.mode == "cascade",
        )
        self.findings += diagnostics.find_violations(rows)
        self.findings += diagnostics.find_stronger_rivals(
            rows,
            clean_correct=self.clean_correct,
            epsilon=largest_distance(setting.epsilon),
        )
        self.findings += diagnostics.find_too_few_classes(
            bounded, num_classes=setting.num_classes
        )
        few = slice(min(diagnostics.NUM_FOR_RANDOMNESS, setting.batch_size))
        randomness = diagnostics.measure_randomness(
            setting.logits_fn, examples.images[few], examples.labels[few], setting.key
        )
        self.findings += diagnostics.find_randomness(bounded, randomness)

    def _zero_gradient_fraction(self, objective: Any, targeted: bool) -> float:
        setting, labels = self.setting, self.setting.examples.labels
        return diagnostics.zero_gradient_fraction(
            setting.logits_fn,
            setting.examples.images,
            labels,
            objective=objective,
            targets=(labels + 1) % setting.num_classes if targeted else None,
            key=jax.random.fold_in(setting.key, VERDICT),
            batch_size=setting.batch_size,
        )

    def _row_records(self) -> list[RowRecord]:
        passes = self.setting.passes
        return [ledger.record(passes[ledger.row.name]) for ledger in self.ledgers]

    def record(self, *, complete: bool) -> EvaluationRecord:
        """Freeze what is known so far."""
        setting = self.setting
        return EvaluationRecord(
            mode=setting.mode,
            norm=setting.norm,
            epsilon=setting.epsilon,
            bounds=setting.bounds,
            num_classes=setting.num_classes,
            batch_size=setting.batch_size,
            num_devices=len(setting.devices),
            example_ids=setting.examples.ids,
            clean_correct=self.clean_correct,
            clean_invalid=self.clean_invalid,
            robust=self.robust,
            robust_8_bits=self.robust_8_bits,
            rows=tuple(self._row_records()),
            findings=tuple(self.findings),
            zero_gradient_fractions=self.zero_gradient_fractions,
            images=self.images,
            sha256=setting.sha256 | {"adv_images": digest_all(self.digests)},
            key=describe_key(setting.key),
            environment=describe_environment(),
            seconds=time.perf_counter() - self._started,
            complete=complete,
        )
