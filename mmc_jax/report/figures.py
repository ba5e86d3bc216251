"""Figures of runs, attacks and features, written as PNG (or any suffix you name).

`training_curves`, `accuracy_vs_epsilon`, `image_triples` and `feature_map`: each draws
one file and returns its path. Matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmc_jax.report import style
from mmc_jax.report.pictures import image_triples
from mmc_jax.report.style import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["accuracy_vs_epsilon", "feature_map", "image_triples", "training_curves"]

_NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}
_MOST_POINTS = 3000


def training_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path
) -> pathlib.Path:
    """Draw loss and validation accuracy over wall-clock time, a colour a run.

    Args:
      histories: run name -> log lines in order, as `train.read_metrics` returns them:
        `time` in seconds and, where a line has them, `loss`, `validation_accuracy` and
        `validation_adversarial_accuracy` (fractions).
      path: the file to write.

    Returns:
      The path.

    Raises:
      ValueError: if there is no run, or a run has no line with a loss.
    """
    style.check_some(histories, "histories")
    for name, history in histories.items():
        if not any("loss" in line for line in history):
            raise ValueError(f"the history of {name!r} has no line with a loss")
    latest = max(line["time"] for lines in histories.values() for line in lines)
    divisor, unit = (60.0, "min") if latest > 180 else (1.0, "s")
    with style.drawing(path, (8.4, 3.4), columns=2) as (figure, (losses, accuracies)):
        for name, history, kind in style.with_styles(histories):
            seconds, values = _series(history, "loss")
            losses.plot(seconds / divisor, values, label=name, color=kind["color"])
            _plot_accuracies(accuracies, history, name, kind["color"], divisor)
        # Losses of different heads have different scales: MMC's is a squared distance.
        losses.set_yscale("log")
        losses.set(title="Training loss", ylabel="loss (log scale)")
        accuracies.set(title="Validation accuracy", ylabel="accuracy (%)")
        for axes in (losses, accuracies):
            axes.set_xlabel(f"training time ({unit})")
            axes.set_xlim(left=0)
        style.legend_below(figure, accuracies)
    return pathlib.Path(path)


def _plot_accuracies(
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    name: str,
    color: str,
    divisor: float,
) -> None:
    seconds, values = _series(history, "validation_accuracy")
    axes.plot(seconds / divisor, 100 * values, "o-", color=color, label=name)
    seconds, values = _series(history, "validation_adversarial_accuracy")
    if len(values):
        label = f"{name}, attacked"
        axes.plot(seconds / divisor, 100 * values, "s:", color=color, label=label)


def _series(
    history: Sequence[Mapping[str, Any]], metric: str
) -> tuple[np.ndarray, np.ndarray]:
    lines = [line for line in history if metric in line]
    times = np.array([line["time"] for line in lines], np.float64)
    return times, np.array([line[metric] for line in lines], np.float64)


def accuracy_vs_epsilon(
    curves: Mapping[
        str, tuple[Sequence[float], Sequence[float], Sequence[tuple[float, float]]]
    ],
    path: Path,
    *,
    norm: str = "linf",
    chance: float | None = None,
) -> pathlib.Path:
    """Draw accuracy against the radius of the attack, with its intervals as bands.

    Args:
      curves: name -> (epsilons, accuracies, intervals), of one length; accuracies and
        the (low, high) of intervals are fractions. Name the attack with the model.
      path: the file to write.
      norm: of epsilon, for the axis.
      chance: accuracy of guessing, drawn as a line; a curve that stays above it at a
        large epsilon was attacked too weakly.

    Returns:
      The path.

    Raises:
      ValueError: if there is no curve, or lengths differ.
    """
    style.check_some(curves, "curves")
    for name, columns in curves.items():
        lengths = [len(column) for column in columns]
        if len(lengths) != 3 or len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(
                f"curve {name!r} must have as many epsilons, accuracies and intervals,"
                f" at least one; got lengths {lengths}"
            )
    with style.drawing(path, (5.6, 3.9)) as (figure, (axes,)):
        for name, columns, kind in style.with_styles(curves):
            epsilons, accuracies, intervals = map(np.asarray, columns)
            low, high = 100 * intervals.T
            axes.fill_between(
                epsilons, low, high, color=kind["color"], alpha=0.15, linewidth=0
            )
            axes.plot(epsilons, 100 * accuracies, marker="o", label=name, **kind)
        if chance is not None:
            axes.axhline(
                100 * chance,
                color=style.GREY,
                linewidth=1,
                linestyle=":",
                label="chance",
            )
        axes.set(
            title="Accuracy under attack, with 95 % intervals",
            xlabel=f"{_NORMS.get(norm, norm)} radius $\\epsilon$, pixels in [0, 1]",
            ylabel="accuracy (%)",
            ylim=(-2, 102),
        )
        axes.set_xlim(left=0)
        style.legend_below(figure, axes)
    return pathlib.Path(path)


def feature_map(
    features: np.ndarray,
    labels: np.ndarray,
    path: Path,
    *,
    centers: np.ndarray | None = None,
    attack_paths: np.ndarray | None = None,
    attack_labels: np.ndarray | None = None,
    title: str = "Features",
) -> pathlib.Path:
    """Draw 2-D features around the centers of their classes.

    Args:
      features: `[num, 2]`; evenly thinned out where there are thousands.
      labels: int `[num]`, the true labels, which choose the colours.
      path: the file to write.
      centers: `[num_classes, 2]`, each marked with its class; None, as for a softmax
        head, marks the mean features of the classes instead.
      attack_paths: `[num_paths, num_points, 2]`, features of the iterates of attacks,
        from the clean image to the adversarial one.
      attack_labels: int `[num_paths]`, the true labels of those images.
      title: above the axes.

    Returns:
      The path.

    Raises:
      ValueError: if features are not 2-D points, or counts do not match.
    """
    with style.drawing(path, (5.2, 5.2)) as (_, (axes,)):
        plot_features(
            axes,
            features,
            labels,
            centers=centers,
            attack_paths=attack_paths,
            attack_labels=attack_labels,
        )
        axes.set(title=title)
    return pathlib.Path(path)


def plot_features(
    axes: Axes,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    centers: np.ndarray | None = None,
    attack_paths: np.ndarray | None = None,
    attack_labels: np.ndarray | None = None,
) -> None:
    """Plot what `feature_map` draws into axes of a figure with more on it.

    Args:
      axes: of Matplotlib.
      features: as in `feature_map`, like all below.
      labels: likewise.
      centers: likewise.
      attack_paths: likewise.
      attack_labels: likewise.

    Raises:
      ValueError: if features are not 2-D points, or counts do not match.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or features.shape[1] != 2 or not len(features):
        raise ValueError(f"features must be [num, 2], got {features.shape}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be [{len(features)}], got {labels.shape}")
    if (attack_paths is None) != (attack_labels is None):
        raise ValueError("attack_paths and attack_labels must be given together")
    if centers is None:
        classes = np.unique(labels)
        marks = {k: features[labels == k].mean(axis=0) for k in classes.tolist()}
    else:
        marks = dict(enumerate(np.asarray(centers)))
    kept = slice(None, None, -(-len(features) // _MOST_POINTS))
    axes.scatter(
        features[kept, 0],
        features[kept, 1],
        c=_class_colors(labels[kept]),
        s=7,
        alpha=0.55,
        linewidth=0,
    )
    if attack_paths is not None and attack_labels is not None:
        _draw_paths(axes, np.asarray(attack_paths), np.asarray(attack_labels))
    for label, mark in marks.items():
        _draw_mark(axes, label, mark)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="$z_1$", ylabel="$z_2$")


def _class_colors(labels: np.ndarray) -> list[str]:
    return [style.CLASS_COLORS[label % len(style.CLASS_COLORS)] for label in labels]


def _draw_paths(axes: Axes, paths: np.ndarray, labels: np.ndarray) -> None:
    for points, color in zip(paths, _class_colors(labels), strict=True):
        axes.plot(*points.T, color="white", linewidth=3, zorder=3)
        axes.plot(*points.T, color=color, linewidth=1.4, zorder=4)
        axes.plot(
            *points[-1],
            "X",
            color=color,
            markersize=7,
            markeredgecolor="black",
            zorder=5,
        )


def _draw_mark(axes: Axes, label: int, position: np.ndarray) -> None:
    (color,) = _class_colors(np.array([label]))
    ink = "black" if color in style.LIGHT_COLORS else "white"
    axes.plot(
        *position, "o", color=color, markersize=15, markeredgecolor="white", zorder=6
    )
    axes.annotate(
        str(label),
        (float(position[0]), float(position[1])),
        ha="center",
        va="center",
        color=ink,
        fontsize=9,
        fontweight="bold",
        zorder=7,
    )
