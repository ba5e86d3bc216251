"""Transfer: adversarial images crafted on one model, scored on every other.

record = transfer_matrix(
    {"softmax": softmax, "mmc": mmc}, images, labels,
    dict(name="mim", num_steps=10, step_size=2 / 255, objective="margin"),
    jax.random.key(0), norm="linf", epsilon=8 / 255,
)
record.accuracy("softmax", "mmc"), record.findings
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmc_jax import diagnostics
from mmc_jax.environment import describe_environment, describe_key
from mmc_jax.evaluate import checks, crafting
from mmc_jax.evaluate.record import Share
from mmc_jax.evaluate.rows import Row, rehearse
from mmc_jax.evaluate.verdict import check_postconditions
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_PROMISES = {"nonfinite": "finite", "outside_box": "in_box", "outside_ball": "in_ball"}
"""Violation -> the flag of `Postconditions` that denies it."""


@dataclasses.dataclass(frozen=True)
class TransferRecord:
    """What images crafted on each model do to each."""

    names: tuple[str, ...]
    """The models, in order."""
    attack: str
    hyperparameters: dict[str, dict[str, Any]]
    """Model -> every hyperparameter of the attack on it, defaults included."""
    norm: str
    epsilon: float
    clean_correct: np.ndarray
    """bool `[num_models, num_examples]`."""
    correct: np.ndarray
    """bool `[num_models, num_models, num_examples]`: crafted on, scored on, image."""
    violations: dict[str, dict[str, int]]
    """Model crafted on -> returned images that do not count: clean in their place."""
    findings: tuple[diagnostics.Finding, ...]
    """`row` names the model crafted on, `numbers["scored_on"]` the one scored on."""
    key: dict[str, Any]
    environment: dict[str, Any]
    seconds: float

    @property
    def num_examples(self) -> int:
        """How many images were judged."""
        return self.clean_correct.shape[1]

    @property
    def accuracies(self) -> np.ndarray:
        """Fractions `[num_models, num_models]`, a row for each model crafted on."""
        return self.correct.mean(axis=2)

    def accuracy(self, crafted_on: str, scored_on: str) -> Share:
        """Return the accuracy of one model on images crafted on another or itself."""
        place = self.names.index(crafted_on), self.names.index(scored_on)
        return Share(int(self.correct[place].sum()), self.num_examples)

    def clean(self, name: str) -> Share:
        """Return a model's accuracy without an attack."""
        right = self.clean_correct[self.names.index(name)]
        return Share(int(right.sum()), self.num_examples)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "names": list(self.names),
            "attack": self.attack,
            "hyperparameters": {k: dict(v) for k, v in self.hyperparameters.items()},
            "norm": self.norm,
            "epsilon": self.epsilon,
            "num_examples": self.num_examples,
            "clean": {name: self.clean(name).to_dict() for name in self.names},
            "accuracy": {
                source: {
                    target: self.accuracy(source, target).to_dict()
                    for target in self.names
                }
                for source in self.names
            },
            "violations": {k: dict(v) for k, v in self.violations.items()},
            "findings": [finding.to_dict() for finding in self.findings],
            "key": dict(self.key),
            "environment": dict(self.environment),
            "seconds": self.seconds,
        }


def transfer_matrix(
    logits_fns: Mapping[str, LogitsFn | StochasticLogitsFn],
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    attack: Mapping[str, Any],
    key: Array,
    *,
    norm: str,
    epsilon: float,
    objectives: Mapping[str, str] | None = None,
    example_ids: Array | np.ndarray | None = None,
    batch_size: int = 256,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> TransferRecord:
    """Attack every model, and score every model on what came of it.

    accuracy[s, t] = mean_i [argmax h_t(x_i^s) = y_i], with x_i^s what the attack on
    model s returned. Images that leave the ball or the box do not count, as in
    `robust_accuracy`. The paper's rows are `mim` and `pgd`, 10 steps of 2/255, last
    iterate, without stopping: an attack that stops at its success on one model leaves
    least for the others.

    Args:
      logits_fns: model name -> classifier; all take the same images.
      images: float32 `[num, height, width, channels]` inside `bounds`.
      labels: int `[num]`, the true labels.
      attack: `dict(name=..., **hyperparameters)`, as a row of `robust_accuracy`.
      key: typed key; not consumed. Every model is attacked with the same draws.
      norm: `linf`, `l2` or `l1`.
      epsilon: radius of the ball.
      objectives: model name -> objective of the attack on it, where it differs: the
        paper crafts with cross-entropy on softmax, with `own_class` on MMC.
      example_ids: int `[num]`, distinct; None: 0 to num - 1.
      batch_size: images at a time; the last batch is padded, the padding not counted.
      bounds: the box.

    Returns:
      The record. A `black_box_stronger` finding says that images of another model
      break what the attack on the model itself leaves.

    Raises:
      ValueError: for anything not accepted above, before any work is done.

    Reference: Pang et al. 2020, "Rethinking Softmax Cross-Entropy Loss for Adversarial
    Robustness", the transfer experiment; Papernot et al. 2016, "Transferability in
    Machine Learning".
    """
    checks.check_settings(
        norm=norm, epsilon=epsilon, mode="individual", batch_size=batch_size, key=key
    )
    examples = checks.check_examples(images, labels, example_ids, bounds)
    names, objectives = [*logits_fns], objectives or {}
    if not names or set(objectives) - set(names):
        raise ValueError(
            "logits_fns must name at least one model, and objectives no other; got"
            f" {names} and {[*objectives]}"
        )
    models = [checks.as_pytree(logits_fn) for logits_fn in logits_fns.values()]
    size = min(batch_size, len(examples))
    plan = _Plan(models, examples, key, norm, float(epsilon), bounds, size)
    started = time.perf_counter()
    rows: list[Row] = []
    for name in names:
        change = {"objective": objectives[name]} if name in objectives else {}
        rows.append(plan.bind({**attack, **change}, len(rows)))
    clean_correct, correct, violations = plan.run(rows)
    return TransferRecord(
        names=tuple(names),
        attack=rows[0].attack_name,
        hyperparameters={
            name: row.hyperparameters for name, row in zip(names, rows, strict=True)
        },
        norm=norm,
        epsilon=float(epsilon),
        clean_correct=clean_correct,
        correct=correct,
        violations=dict(zip(names, violations, strict=True)),
        findings=tuple(_judge(names, clean_correct, correct)),
        key=describe_key(key),
        environment=describe_environment(),
        seconds=time.perf_counter() - started,
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What all attacks and verdicts of a matrix share."""

    logits_fns: list[jax.tree_util.Partial | StochasticLogitsFn]
    examples: checks.Examples
    key: Array
    norm: str
    epsilon: float
    bounds: tuple[float, float]
    batch_size: int

    def bind(self, attack: Mapping[str, Any], number: int) -> Row:
        """Bind and rehearse the attack on a model, by its number."""
        row = crafting.bind_attack(
            attack, norm=self.norm, epsilon=self.epsilon, bounds=self.bounds
        )
        checks.check_num_classes(self.logits_fns[number], self.examples)
        shape = (self.batch_size, *self.examples.images.shape[1:])
        rehearse([row], self.logits_fns[number], batch_shape=shape)
        return row

    def run(self, rows: list[Row]) -> tuple[np.ndarray, np.ndarray, list[dict]]:
        """Return what is right clean, what is right attacked, and violations."""
        num_models, num = len(rows), len(self.examples)
        clean_correct = np.zeros((num_models, num), bool)
        correct = np.zeros((num_models, num_models, num), bool)
        violations = [dict.fromkeys(_PROMISES, 0) for _ in rows]
        for index, real, kept in crafting.batches(self.examples, self.batch_size):
            images, labels = self.examples.images[index], self.examples.labels[index]
            keys = crafting.example_keys(self.key, rows[0], self.examples.ids[index])
            clean_correct[:, real] = self._score(keys, images, labels)[:, kept]
            for source, row in enumerate(rows):
                adv_images = self._craft(row, source, keys, index)
                checked = check_postconditions(
                    adv_images,
                    images,
                    norm=self.norm,
                    epsilon=self.epsilon if row.in_worst_case else None,
                    bounds=self.bounds,
                )
                for name, promise in _PROMISES.items():
                    broken = ~getattr(checked, promise)[kept]
                    violations[source][name] += int(broken.sum())
                judged = np.where(checked.hold[:, None, None, None], adv_images, images)
                correct[source][:, real] = self._score(keys, judged, labels)[:, kept]
        return clean_correct, correct, violations

    def _craft(
        self, row: Row, source: int, keys: Array, index: np.ndarray
    ) -> np.ndarray:
        logits_fn = self.logits_fns[source]
        adv_images, _ = crafting.craft(
            row,
            logits_fn,
            keys,
            self.examples.images[index],
            self.examples.labels[index],
            checks.check_num_classes(logits_fn, self.examples),
        )
        return adv_images

    def _score(self, keys: Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return which images each model gives its label, `[num_models, batch]`."""
        predictions = [crafting.judge(each, images, keys) for each in self.logits_fns]
        return np.stack(predictions) == labels


def _judge(
    names: list[str], clean_correct: np.ndarray, correct: np.ndarray
) -> list[diagnostics.Finding]:
    """Mark models that images of another break where their own attack fails."""
    findings = []
    for target, name in enumerate(names):
        broken = {
            other: clean_correct[target] & ~correct[source, target]
            for source, other in enumerate(names)
            if source != target
        }
        left = {f"on {name} itself": clean_correct[target] & correct[target, target]}
        for finding in diagnostics.find_stronger_black_box(left, broken):
            numbers = {**finding.numbers, "scored_on": name}
            findings.append(dataclasses.replace(finding, numbers=numbers))
    return findings
