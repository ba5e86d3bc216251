"""Classifiers that an attack takes for something else: randomised, or too narrow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks import auto_attack_parts
from mmc_jax.diagnostics.findings import Finding, Row
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

RANDOMNESS_LIMIT = 1e-4
"""Relative change of the logits from which a classifier counts as randomised."""

NUM_FOR_RANDOMNESS = 32
"""Images that suffice to see it."""

_NUM_FORWARDS = 5
_STAND_INS = ("margin", "pairwise_margin")


@dataclasses.dataclass(frozen=True)
class Randomness:
    """How much the logits of the same images differ from one forward to the next."""

    is_declared: bool
    """Whether the classifier is a `StochasticLogitsFn`."""
    largest_change: float
    """Largest ||h - h'|| / ||h|| of any image, with the mean logit taken away."""
    num_correct: tuple[int, ...]
    """Images classified right in each forward."""

    @property
    def is_random(self) -> bool:
        """Whether any forward differs from the first, as AutoAttack judges it."""
        changes = len(set(self.num_correct)) > 1
        return changes or self.largest_change > RANDOMNESS_LIMIT


def measure_randomness(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    key: Array,
) -> Randomness:
    """Run a classifier five times on the same images, and compare.

    It runs outside `jit`: a classifier that draws from a generator of Python's or
    numpy's is random there, and frozen as it was traced inside an attack. Give it few
    images, a batch at most.

    Args:
      logits_fn: the classifier; a `StochasticLogitsFn` gets other keys every time.
      images: float32 `[num, height, width, channels]`, a batch at most.
      labels: int `[num]`.
      key: one typed key; not consumed.

    Returns:
      What was measured.

    Reference: Croce and Hein, ICML 2020: the check for randomised defences in their
    code, five forwards, 1e-4.
    """
    images = jnp.asarray(images)
    forwards = []
    for number in range(_NUM_FORWARDS):
        if isinstance(logits_fn, StochasticLogitsFn):
            keys = jax.random.split(jax.random.fold_in(key, number), len(images))
            logits = logits_fn(images, keys)
        else:
            logits = logits_fn(images)
        forwards.append(np.asarray(logits, np.float64))
    centered = [logits - logits.mean(axis=1, keepdims=True) for logits in forwards]
    changes = np.linalg.norm(np.stack(centered) - centered[0], axis=2)
    sizes = np.maximum(np.linalg.norm(centered[0], axis=1), np.finfo(np.float32).tiny)
    right = [(logits.argmax(axis=1) == np.asarray(labels)).sum() for logits in forwards]
    return Randomness(
        is_declared=isinstance(logits_fn, StochasticLogitsFn),
        largest_change=float(np.nan_to_num(changes / sizes).max()),
        num_correct=tuple(map(int, right)),
    )


def find_randomness(rows: Sequence[Row], randomness: Randomness) -> list[Finding]:
    """Mark attacks that take a randomised classifier for a deterministic one.

    Args:
      rows: of an evaluation.
      randomness: from `measure_randomness`.

    Returns:
      If the classifier is random, a `randomised` finding on the whole record where it
      was not declared, else one per row that averages over no samples
      (`num_eot_samples` is 1 or unknown, but for AutoAttack's version for it).
    """
    if not randomness.is_random:
        return []
    numbers = {
        "largest_change": randomness.largest_change,
        "num_correct": [*randomness.num_correct],
    }
    if not randomness.is_declared:
        message = (
            f"{_NUM_FORWARDS} forwards on the same images differ, by up to"
            f" {randomness.largest_change:.1e} of the logits: attacks took it for"
            " deterministic; make it a StochasticLogitsFn"
        )
        return [Finding("randomised", None, message, numbers)]
    return [
        Finding(
            "randomised",
            row.name,
            "attacks a randomised classifier by single samples: set num_eot_samples",
            numbers,
        )
        for row in rows
        if row.hyperparameters.get("num_eot_samples", 1) == 1
        and row.hyperparameters.get("version") != "rand"
    ]


def find_too_few_classes(rows: Sequence[Row], *, num_classes: int) -> list[Finding]:
    """Mark AutoAttack where classes are too few for the difference of logits ratio.

    DLR divides by the difference of the largest and the third largest logit; in its
    targeted form also by that of the fourth. With fewer classes its numerator stands in
    for it, as `auto_attack_parts` says. Elsewhere DLR itself refuses them.

    Args:
      rows: of an evaluation.
      num_classes: width of the logits.

    Returns:
      A `too_few_classes` finding per such row.

    Reference: Croce and Hein, ICML 2020, equations 6 and 7.
    """
    findings = []
    for row in rows:
        if row.attack != "auto_attack":
            continue
        version, norm = (row.hyperparameters[name] for name in ("version", "norm"))
        parts = auto_attack_parts(version, norm=norm, num_classes=num_classes)
        stand_ins = [
            f"{part['objective']} in {name}"
            for name, part in parts.items()
            if part.get("objective") in _STAND_INS
        ]
        if stand_ins:
            message = (
                f"{num_classes} classes are too few for the difference of logits ratio:"
                f" its numerator stands in, {' and '.join(stand_ins)}"
            )
            numbers = {"num_classes": num_classes}
            findings.append(Finding("too_few_classes", row.name, message, numbers))
    return findings
