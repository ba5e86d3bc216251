"""The sections of `strength.py`'s page on single attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _mnist_models
import _strength_cells as cells
import numpy as np
from _paired import (
    Table,
    common,
    holm,
    markdown,
    pair,
    percent,
    right_at_first,
    smallest_distances,
    within,
)

_SIGNIFICANT = 0.05
_DETERMINISTIC_BAR = 0.3
_MEDIAN_BAR = 1.01


def bounded(table: Table) -> str:
    """Compare what has no random start, and what FAB and DeepFool find in a radius."""
    rows = []
    for (model, row, threat), group in table.items():
        kind = cells.ROWS[row].kind if row in cells.ROWS else ""
        minimum = kind == "distance" and cells.ROWS[row].norm == "linf"
        if kind != "deterministic" and not minimum:
            continue
        if minimum:
            radius = _mnist_models.radius(model)
            threat = f"linf {radius}"
            group = {name: within(cell, radius) for name, cell in group.items()}
        for name, cell in group.items():
            if name != cells.OURS:
                found = pair(group.get(cells.OURS), cell)
                verdict = _verdict(found, lambda d: d <= _DETERMINISTIC_BAR)
                rows.append(_bounded_row(model, row, threat, name, found, verdict))
    if not rows:
        return ""
    header = ["model", "attack", "threat", "peer", "n", "mmc_jax", "peer's", "diff."]
    text = f"At most {_DETERMINISTIC_BAR} points above the strongest peer."
    return f"## Deterministic attacks\n\n{text}\n\n{markdown([*header, 'bar'], rows)}"


def _bounded_row(model, row, threat, name, found, verdict) -> list[str]:
    difference = f"{found['difference']:+.1f}" if "difference" in found else "-"
    shown = [percent(found["ours"]), percent(found["theirs"]), difference, verdict]
    return [model, row, threat, name, str(found["n"]), *shown]


def _verdict(found: dict[str, Any], fine: Callable[[float], bool]) -> str:
    if "difference" not in found:
        return ""
    return "met" if fine(found["difference"]) else "MISSED"


def random(table: Table) -> str:
    """Compare unions of seeds, by McNemar's test."""
    compared = []
    for (model, row, threat), group in table.items():
        if row in cells.ROWS and cells.ROWS[row].kind == "random":
            ours = group.get(cells.OURS)
            for name, cell in group.items():
                if name != cells.OURS:
                    compared.append((model, row, threat, name, pair(ours, cell)))
    if not compared:
        return ""
    rivals = _strongest(compared)
    judged = [found for *_, found in rivals.values() if "p" in found]
    adjusted = holm([found["p"] for found in judged])
    for found, value in zip(judged, adjusted, strict=True):
        found["holm"] = value
    rows = []
    for model, row, threat, name, found in compared:
        p, verdict = "-", ""
        if "holm" in found:
            weaker = found["difference"] > 0 and found["holm"] < _SIGNIFICANT
            p, verdict = f"{found['holm']:.3f}", "MISSED" if weaker else "met"
        cell = _bounded_row(model, row, threat, name, found, p)
        rows.append([*cell[:5], str(found["seeds"]), *cell[5:], verdict])
    header = ["model", "attack", "threat", "peer", "n", "seeds", "mmc_jax", "peer's"]
    header += ["diff.", "p (Holm)", "bar"]
    lines = [
        "## Attacks with random starts",
        "",
        "Unions of the seeds that both sides have, of five that are planned, and the",
        "same images. McNemar against the strongest of the peers that have most",
        f"images, adjusted by Holm over {len(judged)} cells: none significantly weaker",
        "at 5 %, and the mean difference at most 0.",
        "",
        markdown(header, rows),
    ]
    if judged:
        mean = np.mean([found["difference"] for found in judged])
        verdict = "met" if mean <= 0 else "MISSED"
        lines += ["", f"Mean difference over these cells: {mean:+.2f} ({verdict})."]
    return "\n".join(lines)


def _strongest(compared: list[tuple]) -> dict[tuple, tuple]:
    """Return, for each model and row, the peer that leaves least, of most images."""
    rivals: dict[tuple, tuple] = {}
    for entry in compared:
        *key, _, found = entry
        if found["n"] == 0:
            continue
        rank = (-found["n"], found["theirs"].mean())
        other = rivals.get(tuple(key))
        if other is None or rank < (-other[-1]["n"], other[-1]["theirs"].mean()):
            rivals[tuple(key)] = entry
    return rivals


def distances(table: Table) -> str:
    """Compare the smallest distances found, image by image."""
    rows = []
    for (model, row, _), group in table.items():
        if row not in cells.ROWS or cells.ROWS[row].kind != "distance":
            continue
        norm, ours = cells.ROWS[row].norm, group.get(cells.OURS)
        for name, cell in group.items():
            if name != cells.OURS:
                shared = [cell] if ours is None else [ours, cell]
                size = common(*shared)[1]
                right = np.logical_and.reduce(
                    [right_at_first(side, size) for side in shared]
                )
                columns = [
                    smallest_distances(side, norm, size)[right] for side in shared
                ]
                rows.append(_distance_row(model, row, norm, name, columns))
    if not rows:
        return ""
    header = ["model", "attack", "norm", "peer", "n", "success", "peer's", "median"]
    header += ["peer's", "mean", "peer's", "ratio", "bar"]
    lines = [
        "## Smallest distances",
        "",
        "On images that are right without an attack. Failures count as infinite in the",
        "median; the mean is over successes. `elastic` is ||d||_2^2 + 0.01 ||d||_1.",
        f"Median at most {_MEDIAN_BAR} times the peer's, with at least its success;",
        "in linf, what is found in a radius is judged instead, above. torchattacks'",
        "DeepFool ends on the boundary itself: JAX, the judge here, and torch differ",
        "on 57 of its 200 images.",
        "",
        markdown(header, rows),
    ]
    return "\n".join(lines)


def _distance_row(model, row, norm, name, columns) -> list[str]:
    theirs, ours = columns[-1], columns[0] if len(columns) == 2 else None
    line = [model, row, norm, name, str(len(theirs))]
    for statistic in (_success, _median, _mean):
        line += ["-" if ours is None else statistic(ours), statistic(theirs)]
    if ours is None or not len(theirs):
        return [*line, "-", ""]
    medians = np.median(ours), np.median(theirs)
    ratio = medians[0] / medians[1] if np.isfinite(medians).all() else np.nan
    if cells.ROWS[row].norm == "linf":
        return [*line, "-" if np.isnan(ratio) else f"{ratio:.3f}", ""]
    fooled = [np.isfinite(column).mean() for column in (ours, theirs)]
    fine = fooled[0] >= fooled[1]
    if np.isfinite(medians[1]):
        fine &= ratio <= _MEDIAN_BAR
    shown = "-" if np.isnan(ratio) else f"{ratio:.3f}"
    return [*line, shown, "met" if fine else "MISSED"]


def _success(distances: np.ndarray) -> str:
    return percent(np.isfinite(distances))


def _median(distances: np.ndarray) -> str:
    return f"{np.median(distances):.4f}" if len(distances) else "-"


def _mean(distances: np.ndarray) -> str:
    fooled = distances[np.isfinite(distances)]
    return f"{fooled.mean():.4f}" if len(fooled) else "-"
