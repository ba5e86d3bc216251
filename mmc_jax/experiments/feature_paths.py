"""The way that attacks take through two-dimensional features (the paper's Figure 3b).

    cell = measure_feature_paths(
        logits_fn, models.make_features_fn(model, variables), jax.random.key(0),
        images, labels, centers=variables["centers"]["centers"],
    )
    feature_paths_section({"MMC": [cell]})

PGD against MMC, adaptive and not. Where centers are far apart, cross-entropy on the
distances has no gradient: the non-adaptive attack then stays at its random start, and
the features with it. With many centers in a plane they are not, and it need not.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import distance

from mmc_jax.evaluate import Share
from mmc_jax.experiments.figure_cells import (
    Cells,
    check_at_least,
    check_cells,
    mean_with_interval,
    short,
)
from mmc_jax.experiments.walks import batched, image_keys, pgd_iterate, predict
from mmc_jax.report import style
from mmc_jax.report.cells import MISSING, Cell, Table, seeds_cell, share_cell
from mmc_jax.report.figures import plot_features
from mmc_jax.report.page import Block, Picture, Section, Text
from mmc_jax.types import Array, LogitsFn

ATTACKS = {
    "random start alone": None,
    "PGD, not adaptive": "cross_entropy",
    "PGD, adaptive": "own_class",
}
"""Name -> objective; None takes no step."""
_SETTINGS = ("num_images", "epsilon", "step_size", "num_steps")
_FOUND = ("scatter", "centers", "unit", "path_labels", "paths", "moved", "accuracy")
_DIGITS = 4


def measure_feature_paths(
    logits_fn: LogitsFn,
    features_fn: Callable[[Array], Array],
    key: Array,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    centers: Array | np.ndarray | None = None,
    epsilon: float = 0.3,
    step_size: float = 0.01,
    num_steps: int = 50,
    num_images: int = 1000,
    num_paths: int = 2,
    num_points: int = 2000,
) -> dict[str, Any]:
    """Measure how far linf PGD moves features, and follow it for a few images.

    What an image's features move is ||Z(x_n) - Z(x)|| after n steps. The points of a
    path are Z(x), Z(x_0) with x_0 the random start, and Z(x_1) to Z(x_n): x_k is what
    the attack returns after k steps from the same start, for it returns its last
    iterate and stops at no success.

    Args:
      logits_fn: the model under attack.
      features_fn: images -> features `[batch, 2]` of the same model, such as
        `models.make_features_fn` returns.
      key: typed key; not consumed. It draws the random starts.
      images: float32 `[num, height, width, channels]` in [0, 1], all for the scatter.
      labels: int `[num]`, the true labels.
      centers: `[num_classes, 2]` of the head; None where it has none, as softmax.
      epsilon: radius, at least 0.
      step_size: length of a step, in the images' unit.
      num_steps: n, at least 1.
      num_images: how many are attacked, from the first on; at least 2.
      num_paths: how many of these are followed: the first one of each class that the
        model classifies right.
      num_points: how many points of the scatter are kept, evenly.

    Returns:
      Plain data: settings, `scatter`, `paths`, and per attack `moved`, the mean
      distance with its 95 % interval, and `accuracy`, what the attack leaves. `unit`
      is half the distance of the closest two centers (class means, where there are
      none): features may have any scale.

    Raises:
      ValueError: for features that are not in the plane, or counts that are too small.

    Source: Pang et al., ICLR 2020, Figure 3 (b): epsilon 0.3, 50 steps of 0.01.
    """
    counts = dict(num_images=num_images, num_paths=num_paths, num_points=num_points)
    for name, count in counts.items():
        check_at_least(name, count, 2 if name == "num_images" else 1)
    check_at_least("num_steps", num_steps, 1)
    features = batched(features_fn, images)
    if features.ndim != 2 or features.shape[1] != 2:
        raise ValueError(f"features must be [num, 2], got {features.shape}")
    labels = np.asarray(labels)
    images = images[:num_images]
    keys = image_keys(key, len(images))
    some = _Examples(keys, images, labels[:num_images])

    def walk(objective: str | None, examples: _Examples, count: int) -> np.ndarray:
        return pgd_iterate(
            logits_fn,
            *examples,
            objective=objective or "cross_entropy",
            epsilon=epsilon,
            step_size=step_size,
            num_steps=count if objective else 0,
        )

    found = _measure(walk, logits_fn, features_fn, some, num_steps, num_paths)
    kept = slice(None, None, -(-len(features) // num_points))
    return {
        "num_images": len(some.labels),
        "epsilon": epsilon,
        "step_size": step_size,
        "num_steps": num_steps,
        "scatter": {
            "features": _plain(features[kept]),
            "labels": labels[kept].tolist(),
        },
        "centers": None if centers is None else np.asarray(centers).tolist(),
        "unit": _half_distance(features, labels, centers),
        **found,
    }


class _Examples(NamedTuple):
    keys: Array
    images: np.ndarray
    labels: np.ndarray

    def take(self, index: np.ndarray) -> _Examples:
        return _Examples(self.keys[index], self.images[index], self.labels[index])


def _measure(
    walk: Callable[[str | None, _Examples, int], np.ndarray],
    logits_fn: LogitsFn,
    features_fn: Callable[[Array], Array],
    examples: _Examples,
    num_steps: int,
    num_paths: int,
) -> dict[str, Any]:
    labels = examples.labels
    clean = batched(features_fn, examples.images)
    right = np.flatnonzero(predict(logits_fn, examples.images) == labels)
    firsts = np.sort(np.unique(labels[right], return_index=True)[1])[:num_paths]
    followed = examples.take(right[firsts])
    moved, accuracy, paths = {}, {}, {}
    for name, objective in ATTACKS.items():
        last = walk(objective, examples, num_steps)
        distances = np.linalg.norm(batched(features_fn, last) - clean, axis=1)
        moved[name] = mean_with_interval(distances)
        still = int(np.sum(predict(logits_fn, last) == labels))
        accuracy[name] = Share(still, len(labels)).to_dict()
        if objective is not None and len(right):
            points = [clean[right[firsts]]] + [
                batched(features_fn, walk(objective, followed, count))
                for count in range(num_steps + 1)
            ]
            paths[name] = _plain(np.stack(points, axis=1))
    path_labels = followed.labels.tolist()
    return dict(path_labels=path_labels, paths=paths, moved=moved, accuracy=accuracy)


def _plain(points: np.ndarray) -> list[Any]:
    return points.astype(np.float64).round(_DIGITS).tolist()


def _half_distance(
    features: np.ndarray, labels: np.ndarray, centers: Array | np.ndarray | None
) -> float:
    if centers is None:
        means = [features[labels == k].mean(axis=0) for k in np.unique(labels)]
        return float(distance.pdist(np.stack(means)).min()) / 2
    return float(distance.pdist(np.asarray(centers)).min()) / 2


def feature_paths_section(cells: Cells) -> Section:
    """Return how far attacks move features, drawn and in numbers.

    Args:
      cells: model name -> what `measure_feature_paths` returned, one a seed.

    Returns:
      The section; the pictures are of the first seed.

    Raises:
      ValueError: for no cell, or one that is something else.
    """
    cells = check_cells(cells, "feature paths", (*_SETTINGS, *_FOUND))
    first = next(iter(cells.values()))[0]
    blocks: list[Block] = [Text(_EXPLANATION.format(**first))]
    blocks += [_picture(name, found[0]) for name, found in cells.items()]
    rows = [
        [Cell(name), Cell(attack), *_numbers(found, attack)]
        for name, found in cells.items()
        for attack in ATTACKS
    ]
    header = ("model", "attack", "distance moved", "in units", "accuracy left, %")
    caption = (
        f"How far the features of {first['num_images']} images move, on average; a unit"
        " is half the distance of the closest two centers"
    )
    return Section(
        "Attacks in the feature plane", [*blocks, Table(caption, header, [rows])]
    )


_EXPLANATION = (
    "Features of test images, coloured by class, and the way that PGD takes them from a"
    " few clean images (star) to the last iterate (cross), at epsilon {epsilon:g} with"
    " {num_steps} steps of {step_size:g}. The adaptive attack minimises the logit of"
    " the true class, the other one minus the cross-entropy. The random start alone"
    " takes no gradient. None of them is the strongest attack, so that the accuracy"
    " left is an upper bound."
)


def _numbers(found: Sequence[Mapping[str, Any]], attack: str) -> list[Cell]:
    means = [cell["moved"][attack]["mean"] for cell in found]
    units = [
        cell["moved"][attack]["mean"] / cell["unit"] for cell in found if cell["unit"]
    ]
    if len(found) > 1:
        left = [cell["accuracy"][attack]["value"] for cell in found]
        return [
            seeds_cell(means, write=short),
            seeds_cell(units, write=short),
            seeds_cell(left),
        ]
    low, high = found[0]["moved"][attack]["interval_95"]
    interval = (f"[{short(low)}, {short(high)}]",)
    return [
        Cell(short(means[0]), value=means[0], details=interval),
        Cell(short(units[0]), value=units[0]) if units else MISSING,
        share_cell(found[0]["accuracy"][attack]),
    ]


def _picture(name: str, cell: Mapping[str, Any]) -> Picture:
    draw = functools.partial(_draw, name, cell)
    ends = [f"{attack}: {cell['moved'][attack]['mean']:.3g}" for attack in ATTACKS]
    return Picture.drawn(
        draw,
        "feature_paths.png",
        f"{name}: two-dimensional features, and paths of PGD",
        description=f"Features of {name} move, on average, by {'; '.join(ends)}.",
    )


def _draw(name: str, cell: Mapping[str, Any], path: pathlib.Path) -> None:
    walks = [attack for attack in ATTACKS if ATTACKS[attack] is not None]
    scatter, centers = cell["scatter"], cell["centers"]
    with style.drawing(path, (9.6, 5.0), columns=len(walks)) as (_, panels):
        for axes, attack in zip(panels, walks, strict=True):
            points = cell["paths"].get(attack)
            plot_features(
                axes,
                np.asarray(scatter["features"]),
                np.asarray(scatter["labels"]),
                centers=None if centers is None else np.asarray(centers),
                attack_paths=points and np.asarray(points),
                attack_labels=points and np.asarray(cell["path_labels"]),
            )
            for walk in points or ():
                axes.plot(*walk[0], "k*", markersize=10, zorder=8)
            axes.set_title(f"{name}, {attack}")
