"""Can a model's own confidence tell adversarial images from clean ones?

    cell = measure_detection(logits_fn, jax.random.key(0), images, labels,
                             epsilon=8 / 255, step_size=2 / 255)
    detection_section({"MMC": [cell]})

The area under the ROC curve of two scores: the largest logit, which for MMC is minus
the squared distance to the nearest center, and the largest softmax probability. Both
are applied alike to clean and to adversarial images. An attack that knows the first
score is among those that are run: a detector judged without one is not judged.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special, stats
from sklearn import metrics

from mmc_jax.evaluate import Share
from mmc_jax.evaluate.verdict import check_postconditions
from mmc_jax.experiments.figure_cells import (
    NORMAL_95,
    Cells,
    check_at_least,
    check_cells,
)
from mmc_jax.experiments.walks import batched, image_keys, pgd_iterate
from mmc_jax.report import style
from mmc_jax.report.cells import MISSING, Cell, Table, seeds_cell, share_cell
from mmc_jax.report.page import Block, Picture, Section, Text
from mmc_jax.types import Array, LogitsFn, Objective

_FIELDS = ("num_images", "epsilon", "step_size", "num_steps", "attacks")


def rival_logit(logits: Array, labels: Array, targets: Array | None) -> Array:
    """Return -max_{k != y} h_k: as certain of a wrong class as can be.

    Descending it raises the very score that a detector reads, the largest logit, and
    misclassifies on the way.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: must be None: it has no target.

    Returns:
      `[batch]`.

    Raises:
      ValueError: for targets.
    """
    if targets is not None:
        raise ValueError("rival_logit is untargeted: targets must be None")
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])[None, :]
    return -jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)


ATTACKS: dict[str, str | Objective] = {
    "PGD, cross-entropy": "cross_entropy",
    "PGD, own class": "own_class",
    "PGD, rival's logit (knows the detector)": rival_logit,
}
"""Name -> objective."""


def _largest_logit(logits: np.ndarray) -> np.ndarray:
    return logits.max(axis=1)


def _largest_probability(logits: np.ndarray) -> np.ndarray:
    """Rank as the largest softmax probability does, where that would round to 1.

    With h_1 the largest logit, p_1 = 1 / (1 + sum_{k > 1} exp(h_k - h_1)) rises with
    h_1 - log sum_{k > 1} exp(h_k), its log-odds.
    """
    ordered = np.sort(logits, axis=1)
    return ordered[:, -1] - special.logsumexp(ordered[:, :-1], axis=1)


SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "largest logit": _largest_logit,
    "largest probability": _largest_probability,
}
"""Name -> (logits float64 `[num, num_classes]` -> score `[num]`, large where clean)."""


def measure_detection(
    logits_fn: LogitsFn,
    key: Array,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epsilon: float,
    step_size: float,
    num_steps: int = 10,
) -> dict[str, Any]:
    """Measure how well scores tell clean images from linf PGD's adversarial ones.

    AUC = P(score of a clean image > score of an adversarial one), a tie being a half:
    1 tells them apart, 1/2 is guessing, and below that the adversarial images look
    cleaner than the clean ones. PGD returns its last iterate and stops at no success.

    Args:
      logits_fn: the model, which is attacked and gives the scores.
      key: typed key; not consumed. It draws the random starts.
      images: float32 `[num, height, width, channels]` in [0, 1], at least 2.
      labels: int `[num]`, the true labels.
      epsilon: radius, at least 0.
      step_size: length of a step, in the images' unit.
      num_steps: at least 1.

    Returns:
      Plain data: settings, and per attack the `accuracy` that it leaves and per score
      the `auc` of all images and of the `broken` ones alone (right clean, wrong
      attacked), each with `interval_95` and number `n`; None where fewer than 2 broke.

    Raises:
      ValueError: for fewer than 2 images, logits that are not finite, or an attack's
        image that leaves ball or box.

    Source: the authors' code, which applied the softmax to the adversarial half alone;
    intervals: DeLong et al., "Comparing the Areas under Two or More Correlated Receiver
    Operating Characteristic Curves", 1988, with an image's two scores as one
    observation: Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", 1997.
    """
    check_at_least("the number of images", len(images), 2)
    check_at_least("num_steps", num_steps, 1)
    labels = np.asarray(labels)
    keys = image_keys(key, len(images))
    clean = _logits(logits_fn, images)
    right = clean.argmax(axis=1) == labels
    found = {}
    for name, objective in ATTACKS.items():
        adv_images = pgd_iterate(
            logits_fn,
            keys,
            images,
            labels,
            objective=objective,
            epsilon=epsilon,
            step_size=step_size,
            num_steps=num_steps,
        )
        _check(adv_images, images, epsilon)
        attacked = _logits(logits_fn, adv_images)
        broken = right & (attacked.argmax(axis=1) != labels)
        found[name] = {
            "accuracy": Share(int(np.sum(right & ~broken)), len(labels)).to_dict(),
            "scores": {
                score: {
                    "all": _auc(rank(clean), rank(attacked)),
                    "broken": _auc(rank(clean)[broken], rank(attacked)[broken]),
                }
                for score, rank in SCORES.items()
            },
        }
    settings = dict(epsilon=epsilon, step_size=step_size, num_steps=num_steps)
    return {"num_images": len(labels), **settings, "attacks": found}


def _logits(logits_fn: LogitsFn, images: np.ndarray) -> np.ndarray:
    logits = batched(logits_fn, images).astype(np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite: they give no score")
    return logits


def _check(adv_images: np.ndarray, images: np.ndarray, epsilon: float) -> None:
    checked = check_postconditions(
        adv_images, images, norm="linf", epsilon=epsilon, bounds=(0.0, 1.0)
    )
    if not checked.hold.all():
        raise ValueError(
            f"{int((~checked.hold).sum())} images left the ball or the box"
        )


def _auc(clean: np.ndarray, attacked: np.ndarray) -> dict[str, Any] | None:
    """Return the AUC of an image's two scores, `[n]` each, with its 95 % interval."""
    num = len(clean)
    if num < 2:
        return None
    is_clean = np.repeat([1, 0], num)
    auc = float(metrics.roc_auc_score(is_clean, np.concatenate([clean, attacked])))
    # How often an image wins against all of the other kind, a tie being a half.
    together = stats.rankdata(np.concatenate([clean, attacked]))
    clean_wins = (together[:num] - stats.rankdata(clean)) / num
    attacked_wins = (together[num:] - stats.rankdata(attacked)) / num
    margin = NORMAL_95 * float(stats.sem(clean_wins - attacked_wins))
    low, high = max(auc - margin, 0.0), min(auc + margin, 1.0)
    return {"auc": auc, "interval_95": [low, high], "n": num}


def detection_section(cells: Cells) -> Section:
    """Return how well scores detect attacks, drawn and in numbers.

    Args:
      cells: model name -> what `measure_detection` returned, one a seed.

    Returns:
      The section.

    Raises:
      ValueError: for no cell, or one that is something else.
    """
    cells = check_cells(cells, "detection", _FIELDS)
    first = next(iter(cells.values()))[0]
    areas = [f"{score}, {whom}" for score in SCORES for whom in _WHOM]
    header = ("model", "attack", "accuracy left, %", *areas)
    rows = [
        [Cell(name), Cell(attack), *_numbers(found, attack)]
        for name, found in cells.items()
        for attack in ATTACKS
    ]
    caption = (
        f"Area under the ROC curve in %, {first['num_images']} clean images against"
        f" adversarial ones: linf {first['epsilon']:.4g}, {first['num_steps']} steps"
    )
    blocks: list[Block] = [
        Text(_EXPLANATION),
        Picture.drawn(functools.partial(_draw, cells), "detection.svg", "Areas"),
        Table(caption, header, [rows]),
    ]
    return Section("Detecting adversarial images", blocks)


_WHOM = ("all", "broken")
_EXPLANATION = (
    "100 tells clean and adversarial images apart, 50 is guessing, and below 50 the"
    " adversarial ones look cleaner. Of all images, and of those alone that the attack"
    " broke. The last attack raises the largest logit, the first score, of a wrong"
    " class; none was made for the second score, and none adapts further, so that"
    " detection is worth these numbers at most. An interval is over images, and has no"
    " width where all scores of one kind are above all of the other."
)


def _numbers(found: Sequence[Mapping[str, Any]], attack: str) -> list[Cell]:
    accuracies = [cell["attacks"][attack]["accuracy"] for cell in found]
    only = len(found) == 1
    left = (
        share_cell(accuracies[0])
        if only
        else seeds_cell([accuracy["value"] for accuracy in accuracies])
    )
    areas = []
    for score in SCORES:
        for whom in _WHOM:
            some = [cell["attacks"][attack]["scores"][score][whom] for cell in found]
            there = [area for area in some if area is not None]
            areas.append(_area_cell(there[0]) if only and there else _areas_cell(there))
    return [left, *areas]


def _area_cell(area: Mapping[str, Any]) -> Cell:
    cell = share_cell({"value": area["auc"], "interval_95": area["interval_95"]})
    return Cell(cell.text, cell.value, (*cell.details, f"n {area['n']}"), cell.interval)


def _areas_cell(areas: Sequence[Mapping[str, Any]]) -> Cell:
    return seeds_cell([area["auc"] for area in areas]) if areas else MISSING


def _draw(cells: Cells, path: pathlib.Path) -> None:
    size = (9.0, 1.4 + 0.55 * len(cells))
    with style.drawing(path, size, columns=len(SCORES)) as (figure, panels):
        for axes, score in zip(panels, SCORES, strict=True):
            _plot(axes, cells, score)
            axes.set_yticks(range(len(cells)), list(cells))
            axes.set(title=f"By the {score}", xlabel="AUC, all images (%)")
            axes.set(xlim=(-2, 102), ylim=(len(cells) - 0.5, -0.5))
        style.legend_below(figure, panels[0])


def _plot(axes: Any, cells: Cells, score: str) -> None:
    axes.axvline(50, color=style.GREY, linewidth=1, linestyle=":")
    for offset, (attack, _, kind) in enumerate(style.with_styles(ATTACKS)):
        for place, found in enumerate(cells.values()):
            height = place + 0.2 * (offset - 1)
            areas = [cell["attacks"][attack]["scores"][score]["all"] for cell in found]
            for area in areas:
                span = 100 * np.array(area["interval_95"])
                axes.plot(span, [height, height], color=kind["color"])
            axes.plot(
                [100 * area["auc"] for area in areas],
                [height] * len(areas),
                "oDs"[offset],
                color=kind["color"],
                markersize=5,
                label=None if place else attack,
            )
