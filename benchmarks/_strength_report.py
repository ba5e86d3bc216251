"""The page of `strength.py`: what its cells say, paired image by image.

Sections that have nothing to say are left out; `-` stands for what is not there yet.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import _strength_cells as cells
import numpy as np
from _paired import (
    Table,
    common,
    holm,
    pair,
    read_table,
    right_at_first,
    smallest_distances,
    within,
)

from mmc_jax.metrics import wilson_interval

_SIGNIFICANT = 0.05
_DETERMINISTIC_BAR = 0.3
_AUTO_ATTACK_BAR = 0.2
_MEDIAN_BAR = 1.01


def write(out: pathlib.Path) -> str:
    """Return the page in Markdown, from every cell that lies under `out`."""
    table = read_table(out)
    sections = [
        _introduction(table),
        _auto_attack(table),
        _multi_targeted(table),
        _bounded(table),
        _random(table),
        _distances(table),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(table: Table) -> str:
    pieces = [p for cell in _all(table) for p in cell["pieces"]]
    versions: dict[str, set[str]] = {}
    for piece in pieces:
        for name, version in piece["versions"].items():
            versions.setdefault(name, set()).add(version)
    revisions = versions.pop("git_revision", set())
    used = ", ".join(f"{n} {' and '.join(sorted(v))}" for n, v in versions.items())
    lines = [
        "# Strength",
        "",
        "Made by `benchmarks/strength.py` from the cells beside it, which hold",
        "outcomes image by image, distances, settings, seeds and seconds. Models of",
        "`results/mnist`, the first MNIST test images, the same weights on both sides.",
        "Accuracies in percent under the attack: lower is stronger. `torchattacks` as",
        "AutoAttack is built from its parts with the published parameters. `n` is",
        "images that both sides have; differences are ours minus theirs, in points.",
        "",
        f"Versions: {used}; {len(revisions)} revisions of this repository.",
    ]
    others = sum(piece.get("disagreements", 0) for piece in pieces)
    lines.append(f"Verdicts on peers' images in which JAX and torch differ: {others}.")
    return "\n".join(lines)


def _all(table: Table) -> list[dict[str, Any]]:
    return [cell for group in table.values() for cell in group.values()]


def _percent(flags: np.ndarray | None) -> str:
    return "-" if flags is None or not len(flags) else f"{100 * flags.mean():.1f}"


def _markdown(header: Sequence[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _auto_attack(table: Table) -> str:
    rows = []
    for (model, row, threat), group in table.items():
        if row != cells.AUTO_ATTACK or "torchattacks" not in group:
            continue
        found = pair(group.get(cells.OURS), group["torchattacks"])
        low, high = wilson_interval(int(found["theirs"].sum()), found["n"])
        text, verdict = "-", ""
        if "difference" in found:
            text = f"{found['difference']:+.1f}"
            # Of 200 images one is half a point: there the interval decides.
            fine = found["difference"] <= _AUTO_ATTACK_BAR or (
                found["n"] < 1000 and found["ours"].mean() <= high
            )
            verdict = "met" if fine else "MISSED"
        rows.append(
            [
                model,
                threat,
                str(found["n"]),
                _percent(found["ours"]),
                f"{_percent(found['theirs'])} [{100 * low:.1f}, {100 * high:.1f}]",
                text,
                verdict,
            ]
        )
    header = ["model", "threat", "n", "mmc_jax", "torchattacks [95 %]", "diff.", "bar"]
    text = f"At most {_AUTO_ATTACK_BAR} points above; on 200 images, in the interval."
    return f"## AutoAttack, standard\n\n{text}\n\n{_markdown(header, rows)}"


def _multi_targeted(table: Table) -> str:
    rows = []
    for (model, row, threat), group in table.items():
        if row != "multi_targeted" or cells.OURS not in group:
            continue
        ours = group[cells.OURS]
        auto = table.get((model, cells.AUTO_ATTACK, threat), {})
        for implementation, other in auto.items():
            found = pair(ours, other)
            union = found["ours"] & found["theirs"]
            rows.append(
                [
                    model,
                    threat,
                    implementation,
                    str(found["n"]),
                    _percent(found["ours"]),
                    _percent(found["theirs"]),
                    _percent(union),
                ]
            )
    if not rows:
        return ""
    header = ["model", "threat", "AutoAttack of", "n", "alone", "AutoAttack", "both"]
    return f"## multi_targeted beside AutoAttack, seed 0\n\n{_markdown(header, rows)}"


def _bounded(table: Table) -> str:
    rows = []
    for (model, row, threat), group in table.items():
        kind = cells.ROWS[row].kind if row in cells.ROWS else ""
        distances = kind == "distance" and cells.ROWS[row].norm == "linf"
        if kind != "deterministic" and not distances:
            continue
        if distances:
            radius = 0.3 if "adversarial" in model else 0.1
            threat = f"linf {radius}"
            group = {name: within(cell, radius) for name, cell in group.items()}
        for name, cell in group.items():
            if name != cells.OURS:
                found = pair(group.get(cells.OURS), cell)
                verdict = _verdict(found, lambda d: d <= _DETERMINISTIC_BAR)
                rows.append(_bounded_row(model, row, threat, name, found, verdict))
    header = ["model", "attack", "threat", "peer", "n", "mmc_jax", "peer's", "diff."]
    text = f"At most {_DETERMINISTIC_BAR} points above the strongest peer."
    return f"## Deterministic attacks\n\n{text}\n\n{_markdown([*header, 'bar'], rows)}"


def _bounded_row(model, row, threat, name, found, verdict) -> list[str]:
    difference = f"{found['difference']:+.1f}" if "difference" in pair else "-"
    shown = [_percent(found["ours"]), _percent(found["theirs"]), difference, verdict]
    return [model, row, threat, name, str(found["n"]), *shown]


def _verdict(found: dict[str, Any], fine: Callable[[float], bool]) -> str:
    if "difference" not in found:
        return ""
    return "met" if fine(found["difference"]) else "MISSED"


def _random(table: Table) -> str:
    compared = []
    for (model, row, threat), group in table.items():
        if row in cells.ROWS and cells.ROWS[row].kind == "random":
            ours = group.get(cells.OURS)
            for name, cell in group.items():
                if name != cells.OURS:
                    compared.append((model, row, threat, name, pair(ours, cell)))
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
        "Unions of seeds. McNemar against the strongest of the peers that have most",
        f"images, adjusted by Holm over {len(judged)} cells: none significantly weaker",
        "at 5 %, and the mean difference at most 0.",
        "",
        _markdown(header, rows),
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


def _distances(table: Table) -> str:
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
    header = ["model", "attack", "norm", "peer", "n", "success", "peer's", "median"]
    header += ["peer's", "mean", "peer's", "ratio", "bar"]
    lines = [
        "## Smallest distances",
        "",
        "On images that are right without an attack. Failures count as infinite in the",
        "median; the mean is over successes. `elastic` is ||d||_2^2 + 0.01 ||d||_1.",
        f"C&W and EAD: median at most {_MEDIAN_BAR} times the peer's, with at least",
        "its success rate.",
        "",
        _markdown(header, rows),
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
    fooled = [np.isfinite(column).mean() for column in (ours, theirs)]
    if np.isinf(medians[1]):
        fine = fooled[0] >= fooled[1]
    else:
        fine = fooled[0] >= fooled[1] and ratio <= _MEDIAN_BAR
    return [*line, f"{ratio:.3f}", "met" if fine else "MISSED"]


def _success(distances: np.ndarray) -> str:
    return _percent(np.isfinite(distances))


def _median(distances: np.ndarray) -> str:
    return f"{np.median(distances):.4f}" if len(distances) else "-"


def _mean(distances: np.ndarray) -> str:
    fooled = distances[np.isfinite(distances)]
    return f"{fooled.mean():.4f}" if len(fooled) else "-"
