"""Outcomes of `strength.py`, paired image by image and seed by seed.

Everything is compared on the images and seeds that both sides have. Of attacks with
random starts an image counts as broken if any of the seeds broke it.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Group = dict[str, dict[str, Any]]
"""Implementation -> its cell."""
Table = dict[tuple[str, str, str], Group]
"""(model, row, threat) -> the cells that are compared."""
CROSS_ENTROPY_CHANGED = "2026-11-24T19:29"
"""When cross-entropy came to be taken by differences of logits, which is stronger."""
_BETA = 0.01


def read_table(out: pathlib.Path) -> Table:
    """Return every cell that lies under `out`."""
    table: Table = {}
    for path in sorted(out.glob("*/*.json")):
        cell = json.loads(path.read_text())
        threat = path.stem.split("__")[1].replace("_", " ")
        key = (cell["model"], cell["row"], threat)
        table.setdefault(key, {})[cell["implementation"]] = cell
    return table


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down rule."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the exact two-sided p-value of McNemar's test on paired outcomes."""
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if only_ours + only_theirs == 0:
        return 1.0
    return float(stats.binomtest(only_ours, only_ours + only_theirs).pvalue)


def seeds_of(cell: dict[str, Any]) -> dict[int, int]:
    """Return seed -> how many of the first images it has, without a gap."""
    counts: dict[int, int] = {}
    for piece in sorted(cell["pieces"], key=lambda p: (p["seed"], p["first"])):
        if piece["first"] == counts.get(piece["seed"], 0):
            counts[piece["seed"]] = piece["last"]
    return counts


def outcome(cell: dict[str, Any], seeds: set[int], size: int) -> np.ndarray:
    """Return which of the first images are still right after all seeds, `[size]`."""
    left = np.ones(size, bool)
    for piece in cell["pieces"]:
        if piece["seed"] in seeds and piece["first"] < size:
            bits = np.array([bit == "1" for bit in piece["correct"]])
            place = slice(piece["first"], min(piece["last"], size))
            left[place] &= bits[: place.stop - place.start]
    return left


def common(*cells_: dict[str, Any]) -> tuple[set[int], int]:
    """Return the seeds of all cells, and how many images each has of all of those."""
    counts = [seeds_of(cell) for cell in cells_]
    seeds = set.intersection(*(set(count) for count in counts))
    # A seed that has only just begun would take images from the comparison.
    longest = max((min(c[s] for c in counts) for s in seeds), default=0)
    seeds = {s for s in seeds if min(c[s] for c in counts) == longest}
    return seeds, longest


def pair(ours: dict[str, Any] | None, theirs: dict[str, Any]) -> dict[str, Any]:
    """Return both sides' outcomes on what they share; ours may be missing."""
    seeds, size = common(*(cell for cell in (ours, theirs) if cell is not None))
    found = outcome(theirs, seeds, size)
    mine = None if ours is None else outcome(ours, seeds, size)
    result = {"seeds": len(seeds), "n": size, "theirs": found, "ours": mine}
    if mine is not None and size:
        result["difference"] = 100 * float(mine.mean() - found.mean())
        result["p"] = mcnemar(mine, found)
    return result


def within(cell: dict[str, Any] | None, radius: float) -> dict[str, Any] | None:
    """Return a cell of distances as if it had been asked for a radius, linf."""
    if cell is None:
        return None
    pieces = []
    for piece in cell["pieces"]:
        norms = np.array(piece["distances"]["linf"])
        fooled = np.array([bit == "0" for bit in piece["correct"]])
        fooled &= norms <= radius * (1 + 1e-6) + 1e-7
        wrong = np.array([bit == "0" for bit in piece["clean"]])
        bits = "".join("0" if flag else "1" for flag in fooled | wrong)
        pieces.append({**piece, "correct": bits})
    return {**cell, "pieces": pieces}


def smallest_distances(cell: dict[str, Any], norm: str, size: int) -> np.ndarray:
    """Return the distance of every image, infinite where the attack failed, `[size]`.

    Args:
      cell: of a row that looks for the smallest distance.
      norm: `linf`, `l2`, `l1`, or `elastic`, ||d||_2^2 + 0.01 ||d||_1.
      size: how many of the first images.
    """
    found = np.full(size, np.inf)
    for piece in sorted(cell["pieces"], key=lambda p: p["first"]):
        norms = {name: np.array(value) for name, value in piece["distances"].items()}
        norms["elastic"] = norms["l2"] ** 2 + _BETA * norms["l1"]
        fooled = np.array([bit == "0" for bit in piece["correct"]])
        place = slice(piece["first"], min(piece["last"], size))
        values = np.where(fooled, norms[norm], np.inf)
        found[place] = values[: max(place.stop - place.start, 0)]
    return found


def right_at_first(cell: dict[str, Any], size: int) -> np.ndarray:
    """Return which of the first images are right without an attack, `[size]`."""
    clean = [{**piece, "correct": piece["clean"]} for piece in cell["pieces"]]
    return outcome({**cell, "pieces": clean}, {0}, size)


def percent(flags: np.ndarray | None) -> str:
    """Return the share of `flags` with one decimal, `-` of none."""
    return "-" if flags is None or not len(flags) else f"{100 * flags.mean():.1f}"


def markdown(header: Sequence[str], rows: list[list[str]]) -> str:
    """Return a table; its header and its rows are texts."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
