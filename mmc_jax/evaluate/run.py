"""A running evaluation: which images a row attacks, and what comes of it.

The state is a handful of per-image arrays: what survived so far, and a `Ledger` a row.
"""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import attacks, data, diagnostics
from mmc_jax.environment import describe_environment, describe_key
from mmc_jax.evaluate.checks import Examples
from mmc_jax.evaluate.progress import Progress
from mmc_jax.evaluate.record import EvaluationRecord, RowRecord, Share
from mmc_jax.evaluate.rows import Row
from mmc_jax.evaluate.verdict import check_postconditions, judge_logits
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_VERDICT = np.uint32(zlib.crc32(b"verdict"))


@jax.jit
def _fold_ids(key: Array, ids: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


@jax.jit
def _fold_each(keys: Array, number: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


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

    def record(self) -> RowRecord:
        """Freeze it."""
        row = self.row
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["row"]
        return RowRecord(
            name=row.name,
            attack=row.attack_name,
            hyperparameters=row.hyperparameters,
            targeted=row.targeted,
            in_worst_case=row.in_worst_case,
            **fields,
        )


@dataclasses.dataclass
class Run:
    """One evaluation on its way; `robust_accuracy` says what the arguments are."""

    logits_fn: LogitsFn | StochasticLogitsFn
    examples: Examples
    rows: list[Row]
    key: Array
    norm: str
    epsilon: float
    mode: str
    bounds: tuple[float, float]
    num_classes: int
    batch_size: int
    report: Callable[[Progress], None]
    images: np.ndarray | None
    """The worst image of each example, clean ones at first; None if not kept."""

    def __post_init__(self):
        """Start with nothing judged and nothing attacked."""
        size = len(self.examples)
        self.started = time.perf_counter()
        self.clean_correct = np.zeros(size, bool)
        self.clean_invalid = np.zeros(size, bool)
        self.robust = np.zeros(size, bool)
        self.ledgers: list[Ledger] = []
        self.findings: list[diagnostics.Finding] = []
        self.zero_gradient_fractions: dict[str, float] = {}

    def judge_clean(self) -> None:
        """Judge every image as it is."""
        logits = np.zeros((len(self.examples), self.num_classes), np.float32)
        key = jax.random.fold_in(self.key, _VERDICT)
        for index, _ in self._batches(np.arange(len(self.examples))):
            keys = _fold_ids(key, self.examples.ids[index])
            logits[index] = judge_logits(
                self.logits_fn, self.examples.images[index], keys
            )
        self.clean_invalid = np.asarray(np.isnan(logits).any(axis=1))
        is_label = logits.argmax(axis=1) == self.examples.labels
        self.clean_correct = is_label & ~self.clean_invalid
        self.robust = self.clean_correct.copy()
        self.findings += diagnostics.find_probabilities(logits)

    def run_row(self, row: Row) -> None:
        """Attack with one row the images that it should see."""
        everything = self.mode == "individual" or not row.in_worst_case
        chosen = np.flatnonzero(self.robust | everything)
        ledger = Ledger.empty(row, self.robust)
        self.ledgers.append(ledger)
        key = jax.random.fold_in(self.key, row.seed)
        started = time.perf_counter()
        for index, num_real in self._batches(chosen):
            self._run_batch(ledger, key, index, num_real)
            ledger.seconds = time.perf_counter() - started
            ledger.first_batch_seconds = ledger.first_batch_seconds or ledger.seconds
            ledger.running = Share(int(self.robust.sum()), len(self.robust))
            self._report_progress(len(chosen))
        ledger.complete = True

    def _batches(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Cut indices into batches of one size, each with its unpadded size."""
        if len(chosen):
            for (index,), mask in data.pad_batches(chosen, batch_size=self.batch_size):
                yield index, int(mask.sum())

    def _run_batch(
        self, ledger: Ledger, key: Array, index: np.ndarray, num_real: int
    ) -> None:
        """Attack a batch, check what comes back, judge it and write it down."""
        images, labels = self.examples.images[index], self.examples.labels[index]
        keys = _fold_ids(key, self.examples.ids[index])
        targets = None
        if ledger.row.targeted:
            targets = attacks.random_targets(keys, labels, self.num_classes)
        adv_images = self._attack(ledger.row, keys, images, labels, targets)
        holds = self._check(ledger, adv_images, images, num_real)
        judged = np.where(holds[:, None, None, None], adv_images, images)
        logits = judge_logits(self.logits_fn, judged, _fold_each(keys, _VERDICT))
        invalid = np.isnan(logits).any(axis=1)
        predictions = logits.argmax(axis=1)

        real, kept = index[:num_real], slice(num_real)
        correct = ((predictions == labels) & ~invalid)[kept]
        ledger.attacked[real] = True
        ledger.correct[real] = correct
        ledger.invalid[real] = invalid[kept]
        if ledger.reached is not None:
            reached = (predictions == np.asarray(targets)) & ~invalid & holds
            ledger.reached[real] = reached[kept]
        if ledger.row.in_worst_case:
            if self.images is not None:
                newly = self.robust[real] & ~correct
                self.images[real[newly]] = judged[kept][newly]
            self.robust[real] &= correct

    def _attack(
        self,
        row: Row,
        keys: Array,
        images: np.ndarray,
        labels: np.ndarray,
        targets: Array | None,
    ) -> np.ndarray:
        given = {} if targets is None else {"targets": targets}
        batch = (jnp.asarray(images), jnp.asarray(labels))
        # As the verdict sees it: an attack that stops at a success which only low
        # precision shows would leave its steps unspent.
        with jax.default_matmul_precision("highest"):
            return np.asarray(row.attack(self.logits_fn, keys, *batch, **given))

    def _check(
        self,
        ledger: Ledger,
        adv_images: np.ndarray,
        images: np.ndarray,
        num_real: int,
    ) -> np.ndarray:
        """Return which images count, `[batch]`, and count the real ones that do not."""
        bounded = ledger.row.in_worst_case
        found = check_postconditions(
            adv_images,
            images,
            norm=self.norm,
            epsilon=self.epsilon if bounded else None,
            bounds=self.bounds,
        )
        promises = {"nonfinite": found.finite, "outside_box": found.in_box}
        if ledger.row.takes_epsilon:
            # An attack that looks for the smallest distance promises no ball: beyond
            # it, the image has survived, and nothing is wrong with the attack.
            promises["outside_ball"] = found.in_ball
        for name, kept in promises.items():
            ledger.violations[name] += int((~kept[:num_real]).sum())
        largest = float(found.norms[:num_real].max())
        ledger.largest_norm = max(ledger.largest_norm, largest)
        return found.hold

    def _report_progress(self, num_chosen: int) -> None:
        done = sum(int(ledger.attacked.sum()) for ledger in self.ledgers)
        current = self.ledgers[-1]
        total = done + num_chosen - int(current.attacked.sum())
        surviving = int(self.robust.sum())
        for row in self.rows[len(self.ledgers) :]:
            cascades = self.mode == "cascade" and row.in_worst_case
            total += surviving if cascades else len(self.robust)
        self.report(Progress(current.row.name, done, total, surviving))

    def diagnose(self) -> None:
        """Look for signs that the numbers are not what they seem."""
        rows = [ledger.record() for ledger in self.ledgers]
        bounded = [row for row in rows if row.in_worst_case]
        labels = self.examples.labels
        for row in bounded:
            objective = row.hyperparameters.get("objective")
            label = diagnostics.objective_label(str(objective), row.targeted)
            if objective is None or label in self.zero_gradient_fractions:
                continue
            targets = (labels + 1) % self.num_classes if row.targeted else None
            self.zero_gradient_fractions[label] = diagnostics.zero_gradient_fraction(
                self.logits_fn,
                self.examples.images,
                labels,
                objective=objective,
                targets=targets,
                key=jax.random.fold_in(self.key, _VERDICT),
                batch_size=self.batch_size,
            )
        self.findings += diagnostics.find_zero_gradients(
            bounded, self.zero_gradient_fractions
        )
        self.findings += diagnostics.find_objective_disagreement(
            bounded,
            num_examples=len(self.examples),
            num_clean_correct=int(self.clean_correct.sum()),
            cascade=self.mode == "cascade",
        )
        self.findings += diagnostics.find_violations(rows)

    def record(self, *, complete: bool) -> EvaluationRecord:
        """Freeze what is known so far."""
        return EvaluationRecord(
            mode=self.mode,
            norm=self.norm,
            epsilon=self.epsilon,
            bounds=self.bounds,
            num_classes=self.num_classes,
            batch_size=self.batch_size,
            example_ids=self.examples.ids,
            clean_correct=self.clean_correct,
            clean_invalid=self.clean_invalid,
            robust=self.robust,
            rows=tuple(ledger.record() for ledger in self.ledgers),
            findings=tuple(self.findings),
            zero_gradient_fractions=self.zero_gradient_fractions,
            images=self.images,
            key=describe_key(self.key),
            environment=describe_environment(),
            seconds=time.perf_counter() - self.started,
            complete=complete,
        )
