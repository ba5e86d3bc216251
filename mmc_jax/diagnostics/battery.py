"""The gradient-masking battery: sweeps that tell robustness from a missing gradient.

    battery = gradient_masking_battery(
        logits_fn, images, labels, jax.random.key(0), norm="linf", epsilon=8 / 255
    )
    battery.findings, battery.epsilon_curve

`dataclasses.replace(record, findings=record.findings + battery.findings)` puts what it
found into an evaluation's table, where it marks the worst case.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmc_jax.attacks.checks import make_logits_pytree
from mmc_jax.attacks.objectives import OBJECTIVES
from mmc_jax.diagnostics.bench import Bench, Left, check_ball, sweep
from mmc_jax.diagnostics.classifiers import (
    NUM_FOR_RANDOMNESS,
    Randomness,
    find_randomness,
    measure_randomness,
)
from mmc_jax.diagnostics.comparisons import find_strong_noise, find_stronger_black_box
from mmc_jax.diagnostics.curves import (
    AccuracyCurve,
    find_flat_loss,
    find_large_epsilon,
    find_unsettled_steps,
)
from mmc_jax.diagnostics.findings import (
    Finding,
    find_objectives_without_gradient,
    find_probabilities,
    objective_label,
)
from mmc_jax.diagnostics.gradients import zero_gradient_fraction
from mmc_jax.types import Array, Attack, LogitsFn, StochasticLogitsFn

_STEP_COUNTS = (1, 2, 5, 10, 20, 40)
_NUM_EPSILONS = 5
_NUM_DRAWS = 20
_TARGETED = ("pairwise_margin",)
_DLR_CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Battery:
    """What `gradient_masking_battery` found, and the curves behind it."""

    findings: tuple[Finding, ...]
    """Each on the whole record: `row` is None."""
    objective: str
    """What the sweeps minimised."""
    norm: str
    epsilon: float
    step_curve: AccuracyCurve
    """Accuracy at `epsilon` against the number of steps."""
    epsilon_curve: AccuracyCurve
    """Accuracy after the most steps against the radius, up to the whole box."""
    loss_curve: tuple[float, ...]
    """Mean objective over images right clean: clean, then as in `step_curve`.

    Empty if none is right.
    """
    noise_curve: AccuracyCurve
    """Accuracy at `epsilon` under the worst of so many random draws."""
    black_box_accuracy: float | None
    """Accuracy under the black-box attack; None if none was given."""
    zero_gradient_fractions: dict[str, float]
    """Objective -> share of clean images on which its gradient is exactly zero."""
    randomness: Randomness

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; a loss that is no number is None."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {
            "findings": [finding.to_dict() for finding in self.findings],
            "step_curve": self.step_curve.to_dict(),
            "epsilon_curve": self.epsilon_curve.to_dict(),
            "loss_curve": [v if math.isfinite(v) else None for v in self.loss_curve],
            "noise_curve": self.noise_curve.to_dict(),
            "zero_gradient_fractions": dict(self.zero_gradient_fractions),
            "randomness": dataclasses.asdict(self.randomness),
        }


def gradient_masking_battery(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    key: Array,
    *,
    norm: str,
    epsilon: float,
    objective: str = "margin",
    step_counts: Sequence[int] = _STEP_COUNTS,
    epsilons: Sequence[float] | None = None,
    num_draws: int = _NUM_DRAWS,
    black_box: Attack | None = None,
    num_eot_samples: int = 1,
    batch_size: int = 256,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Battery:
    """Look for gradient masking on a few hundred images.

    PGD on one objective, with more and more steps at `epsilon`, and with the most of
    them at larger and larger radii; random noise in the ball; the gradient of every
    objective at the clean image; five forwards. For at most
    sum(step_counts) + max(step_counts) * len(epsilons) gradients an image, fewer where
    images break.

    Args:
      logits_fn: the classifier, or a `StochasticLogitsFn`.
      images: float32 `[num, height, width, channels]` inside `bounds`.
      labels: int `[num]`, the true labels.
      key: one typed key; not consumed.
      norm: `linf` or `l2`.
      epsilon: radius, the one that robustness is claimed for.
      objective: a name in `attacks.OBJECTIVES` that needs no targets. The default
        judges the model; another one judges an attack with it.
      step_counts: numbers of steps, ascending, the last two a factor of two apart.
      epsilons: radii above `epsilon`, ascending; the last must span the box. None: five
        in geometric progression up to the whole box.
      num_draws: random points of the ball for each image; the worst one counts.
      black_box: an attack without gradients at the same norm and epsilon, such as
        `make_attack("square", norm=norm, epsilon=epsilon)`, or None.
      num_eot_samples: samples averaged for a randomised model.
      batch_size: images at a time.
      bounds: the box.

    Returns:
      Findings, and all curves.

    Raises:
      ValueError: for no images, step counts or radii that do not ascend, or what the
        attack refuses.

    Reference: Athalye, Carlini and Wagner, ICML 2018, section 3.1; Carlini et al. 2019,
    "On Evaluating Adversarial Robustness", section 4.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check(images, labels, epsilon, objective, step_counts)
    largest = check_ball(images.shape[1:], norm, epsilon, bounds=bounds)
    if epsilons is None:
        epsilons = np.geomspace(epsilon, largest, _NUM_EPSILONS + 1)[1:].tolist()
    _check_radii((0.0, epsilon, *epsilons), largest)
    bench = Bench(
        logits_fn=make_logits_pytree(logits_fn),
        images=images,
        labels=labels,
        key=key,
        norm=norm,
        bounds=bounds,
        objective=objective,
        num_eot_samples=num_eot_samples,
        batch_size=min(batch_size, len(images)),
    )
    left, logits = sweep(bench, (epsilon, *epsilons), step_counts, num_draws, black_box)
    few = slice(NUM_FOR_RANDOMNESS)
    black_box_left = left.by_black_box
    battery = Battery(
        findings=(),
        objective=objective,
        norm=norm,
        epsilon=float(epsilon),
        step_curve=_curve(step_counts, left.by_steps),
        epsilon_curve=_curve((0.0, epsilon, *epsilons), left.by_epsilon),
        loss_curve=_loss_curve(bench, logits, left.clean),
        noise_curve=_curve(range(1, num_draws + 1), left.by_draws),
        black_box_accuracy=(
            None if black_box_left is None else float(black_box_left.mean())
        ),
        zero_gradient_fractions=_zero_gradient_fractions(bench, logits[0].shape[1]),
        randomness=measure_randomness(bench.logits_fn, images[few], labels[few], key),
    )
    return dataclasses.replace(battery, findings=_judge(bench, battery, left, logits))


def _judge(
    bench: Bench, battery: Battery, left: Left, logits: list[np.ndarray]
) -> tuple[Finding, ...]:
    clean, *_, most_steps = logits
    return (
        *find_probabilities(clean),
        *find_randomness((), battery.randomness),
        *find_objectives_without_gradient(battery.zero_gradient_fractions),
        *find_flat_loss(
            bench.losses(clean),
            bench.losses(most_steps),
            was_right=left.clean,
            objective=bench.objective,
            num_steps=int(battery.step_curve.positions[-1]),
        ),
        *find_unsettled_steps(battery.step_curve),
        *find_large_epsilon(battery.epsilon_curve, num_classes=clean.shape[1]),
        *_compare(left, bench.objective),
    )


def _check(images, labels, epsilon, objective, step_counts):
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            "images and labels must have one positive length, got"
            f" {len(images)} and {len(labels)}"
        )
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon!r}")
    accepted = [name for name in OBJECTIVES if name not in _TARGETED]
    if objective not in accepted:
        raise ValueError(
            f"objective must be one of {', '.join(accepted)}, got {objective!r}"
        )
    _check_ascending("step_counts", (0, *step_counts))


def _check_radii(radii, largest):
    _check_ascending("epsilons", radii)
    if radii[-1] < largest * (1 - 1e-6):
        raise ValueError(
            f"epsilons must end at a radius that spans the box, {largest:.4g}, or"
            f" accuracy need not fall to chance; got {[*radii[2:]]}"
        )


def _check_ascending(name, values):
    if len(values) < 2 or [*values] != sorted(set(values)):
        raise ValueError(f"{name} must be positive and ascend, got {[*values[1:]]}")


def _curve(positions: Sequence[float], left: Sequence[np.ndarray]) -> AccuracyCurve:
    counts = tuple(int(flags.sum()) for flags in left)
    return AccuracyCurve(tuple(positions), counts, len(left[0]))


def _loss_curve(
    bench: Bench, logits: list[np.ndarray], clean: np.ndarray
) -> tuple[float, ...]:
    if not clean.any():
        return ()
    return tuple(float(bench.losses(each)[clean].mean()) for each in logits)


def _zero_gradient_fractions(bench: Bench, num_classes: int) -> dict[str, float]:
    fractions = {}
    for name in OBJECTIVES:
        if name == "dlr" and num_classes < _DLR_CLASSES:
            continue
        is_targeted = name in _TARGETED
        fractions[objective_label(name, is_targeted)] = zero_gradient_fraction(
            bench.logits_fn,
            bench.images,
            bench.labels,
            objective=name,
            targets=(bench.labels + 1) % num_classes if is_targeted else None,
            key=bench.key,
            batch_size=bench.batch_size,
        )
    return fractions


def _compare(left: Left, objective: str) -> list[Finding]:
    """Compare PGD with noise and, where there is one, with a black-box attack."""
    name = f"pgd, {objective}"
    findings = find_strong_noise(
        {name: left.clean & ~left.by_steps[-1]},
        left.clean & ~left.by_draws[-1],
        clean_correct=left.clean,
    )
    if left.by_black_box is not None:
        white_box = np.logical_and.reduce(left.by_steps)
        findings += find_stronger_black_box(
            {name: white_box}, {"black box": left.clean & ~left.by_black_box}
        )
    return [dataclasses.replace(finding, row=None) for finding in findings]
