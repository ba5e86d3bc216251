"""The section of the smallest distances, by Carlini and Wagner's attack."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mmc_jax.experiments.tables import published_of, worst_cells, worst_header
from mmc_jax.experiments.view import View
from mmc_jax.report import MISSING, Cell, Section, Table


def distances_section(view: View) -> Section:
    """Return the l2 distances that C&W finds.

    Args:
      view: of an experiment.

    Returns:
      The section.
    """
    names = {
        wanted.cell: None
        for wanted in view.plan.wanted
        if wanted.kind == "minimum_norm"
    }
    header = ["model"]
    rows = {model: [Cell(label)] for model, label in view.plan.labels.items()}
    for name in names:
        published = {model: published_of(view, model, name) for model in rows}
        is_published = any(published.values())
        header += [name, "not broken", *(["the paper"] if is_published else [])]
        for model, row in rows.items():
            cells = [cell["result"] for cell in view.named(model, name).values()]
            row += [distance_cell(cells), _failures_cell(cells)]
            if is_published:
                row.append(_distance_published(published[model]))
    for model, row in rows.items():
        row += worst_cells(view, model)
    caption = (
        f"{view.plan.dataset}: mean l2 distance, in pixels of [0, 1], at which C&W"
        " breaks an image, over those that it breaks; mean ± standard deviation over"
        " seeds. The median is over all that are right without an attack, those that it"
        " does not break farther away than any other. The paper counts them as 0"
    )
    table = Table(caption, [*header, *worst_header(view)], [[*rows.values()]])
    return Section("Distances by Carlini and Wagner's attack", [table])


def distance_cell(cells: Sequence[Mapping[str, Any]]) -> Cell:
    """Return the mean distance of broken images, and the median with the others.

    Args:
      cells: results of `measures.measure_minimum_norm`, a seed each.

    Returns:
      The cell; `MISSING` where nothing was broken.
    """
    found = [
        [
            d
            for d, hit in zip(cell["distances"], cell["success"], strict=True)
            if _is(hit)
        ]
        for cell in cells
    ]
    means = [statistics.fmean(distances) for distances in found if distances]
    if not means:
        return MISSING
    text = f"{statistics.fmean(means):.3f}"
    if len(means) > 1:
        text += f" ± {statistics.stdev(means):.3f}"
    median = statistics.median(
        [
            distance if _is(hit) else math.inf
            for cell in cells
            for distance, hit, right in zip(
                cell["distances"], cell["success"], cell["clean_correct"], strict=True
            )
            if _is(right)
        ]
    )
    sizes = dict.fromkeys(len(cell["distances"]) for cell in cells)
    details = (
        f"median {median:.3f}" if math.isfinite(median) else "median not reached",
        f"{len(cells)} seed{'s' if len(cells) > 1 else ''}",
        f"n {', '.join(map(str, sizes))}",
    )
    return Cell(text, value=statistics.fmean(means), details=details)


def _failures_cell(cells: Sequence[Mapping[str, Any]]) -> Cell:
    """Return how many images were right and stayed so, over all seeds."""
    if not cells:
        return MISSING
    count = sum(
        _is(right) and not _is(hit)
        for cell in cells
        for right, hit in zip(cell["clean_correct"], cell["success"], strict=True)
    )
    return Cell(f"{count}", value=count)


def _is(bit: str) -> bool:
    return bit == "1"


def _distance_published(published: tuple[float, str] | None) -> Cell:
    if published is None:
        return MISSING
    value, certainty = published
    return Cell(f"{value:.2f}", value=value, details=(certainty,), is_published=True)
