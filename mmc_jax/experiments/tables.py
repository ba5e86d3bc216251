"""The tables of a page: our numbers over seeds, the paper's, the strongest attack's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmc_jax.experiments.view import CLEAN, STRONGEST, View
from mmc_jax.report import (
    MISSING,
    Cell,
    Findings,
    Note,
    Section,
    Table,
    Text,
    published_cell,
    seeds_cell,
    share_cell,
)
from mmc_jax.report.page import Block

_WORST = "worst case of all attacks"
_NO_NUMBERS = "The paper has no numbers for this."


def accuracy_sections(view: View) -> list[Section]:
    """Return a section a radius: accuracies, what the strongest is made of, findings.

    Args:
      view: of an experiment.

    Returns:
      The sections.
    """
    return [_accuracy_section(view, radius) for radius in view.radii]


def _accuracy_section(view: View, radius: str) -> Section:
    models, columns = view.models_at(radius), view.plan.columns
    found = _Findings(view, radius, models)
    is_published = False
    header = ["model", _WORST]
    rows = {}
    for model in models:
        worst = shares_cell(view.worst_case(model, radius))
        marks = found.of_others(model, columns)
        worst = dataclasses.replace(worst, is_key=True, findings=marks)
        rows[model] = [Cell(view.plan.labels[model]), worst]
    for column in columns:
        published = {m: published_of(view, m, column, radius=radius) for m in models}
        header += [column, *(["the paper"] if any(published.values()) else [])]
        is_published |= any(published.values())
        for model, row in rows.items():
            clean = column == CLEAN
            shares = view.clean(model) if clean else view.row(model, radius, column)
            marks = found.of(model, column)
            row.append(dataclasses.replace(shares_cell(shares), findings=marks))
            if any(published.values()):
                row.append(_paper_cell(published[model]))
    caption = (
        f"{view.plan.dataset}, linf epsilon {radius}: accuracy in %, mean ± standard"
        " deviation over seeds (of one seed, the 95 % interval over its images); clean"
        " is of the whole test set, n how many images were attacked, a seed; the worst"
        " case is of the images that the strongest attack saw at every seed"
    )
    blocks: list[Block] = [Table(caption, header, [[*rows.values()]])]
    if not is_published:
        blocks.append(Text(_NO_NUMBERS))
    blocks += _strongest_blocks(view, radius, models)
    blocks += found.blocks()
    return Section(f"Accuracy, linf epsilon {radius}", blocks)


def shares_cell(shares: Sequence[Mapping[str, Any]]) -> Cell:
    """Return accuracies over seeds, and of how many images each is.

    Args:
      shares: what `Share.to_dict` returned, a seed each.

    Returns:
      The cell: with a standard deviation over several seeds, with the interval over
      the images of a single one; `MISSING` for none.
    """
    if not shares:
        return MISSING
    if len(shares) == 1:
        cell = share_cell(shares[0])
    else:
        cell = seeds_cell([share["value"] for share in shares])
    sizes = [share["total"] for share in shares]
    text = [f"{sizes[0]}"] if len(set(sizes)) == 1 else map(str, sizes)
    return dataclasses.replace(cell, details=(*cell.details, f"n {', '.join(text)}"))


def published_of(
    view: View, model: str, column: str, *, radius: str = ""
) -> tuple[float, str] | None:
    """Return the paper's number for a column, and how certain it is."""
    known = view.plan.published.get(model, {})
    return known.get(f"{column} {radius}", known.get(column))


def _paper_cell(published: tuple[float, str] | None) -> Cell:
    return MISSING if published is None else published_cell(*published)


def _strongest_blocks(view: View, radius: str, models: Sequence[str]) -> list[Block]:
    """Return what is left after each attack of the strongest's cascade."""
    cascades = {model: view.cascade(model, radius) for model in models}
    names = dict.fromkeys(n for found in cascades.values() for n in found if n != CLEAN)
    if not names:
        return []
    rows = [
        [
            Cell(view.plan.labels[model]),
            *(shares_cell(found.get(name, ())) for name in (CLEAN, *names)),
            shares_cell(view.worst_case(model, radius)),
        ]
        for model, found in cascades.items()
    ]
    header = ("model", CLEAN, *(f"after {name}" for name in names), "after all")
    caption = (
        "What the strongest attack is made of: % of its images left after each of its"
        " attacks in turn, and after all other attacks of this radius that are stored"
    )
    return [Table(caption, header, [rows])]


class _Findings:
    """The findings of the cells at a radius, numbered; seeds that agree share one."""

    def __init__(self, view: View, radius: str, models: Sequence[str]):
        self._messages: dict[tuple[str, str | None, str], tuple[str, list[int]]] = {}
        self._labels = view.plan.labels
        self._num_cells = sum(len(view.attacks(model, radius)) for model in models)
        for model in models:
            for cell in view.attacks(model, radius):
                for finding in cell["result"]["findings"]:
                    place = (model, finding["row"], finding["name"])
                    entry = self._messages.setdefault(place, (finding["message"], []))
                    entry[1].append(cell["identity"]["seed"])

    def of(self, model: str, row: str) -> tuple[int, ...]:
        places = enumerate(self._messages, start=1)
        return tuple(n for n, place in places if place[:2] == (model, row))

    def of_others(self, model: str, columns: Sequence[str]) -> tuple[int, ...]:
        """Return those of rows that have no column of their own."""
        places = enumerate(self._messages, start=1)
        return tuple(n for n, p in places if p[0] == model and p[1] not in columns)

    def blocks(self) -> list[Block]:
        if not self._num_cells:
            return []
        if not self._messages:
            return [Text("The diagnostics that ran found nothing to distrust.")]
        notes = [
            Note(number, name, self._where(model, row, seeds), message)
            for number, ((model, row, name), (message, seeds)) in enumerate(
                self._messages.items(), start=1
            )
        ]
        warning = (
            "The diagnostics distrust the numbers marked with !. They stand here as"
            " they were measured, and this is why they are not what they seem; of"
            " several seeds the first is quoted:"
        )
        return [Text(warning, is_warning=True), Findings(notes)]

    def _where(self, model: str, row: str | None, seeds: Sequence[int]) -> str:
        of_seeds = f"seed{'s' if len(set(seeds)) > 1 else ''}"
        named = ", ".join(map(str, dict.fromkeys(seeds)))
        return f"{self._labels[model]}, {row or 'all rows'}, {of_seeds} {named}"


def transformations_section(view: View) -> Section:
    """Return accuracy under noise and rotation, which no ball bounds.

    Args:
      view: of an experiment.

    Returns:
      The section.
    """
    header = ["model", "clean"]
    rows = {
        m: [Cell(n), shares_cell(view.clean(m))] for m, n in view.plan.labels.items()
    }
    for column in ("noise", "rotation"):
        published = {model: published_of(view, model, column) for model in rows}
        header += [column, *(["the paper"] if any(published.values()) else [])]
        for model, row in rows.items():
            row.append(shares_cell(view.row(model, "0", column)))
            if any(published.values()):
                row.append(_paper_cell(published[model]))
    for model, row in rows.items():
        row += worst_cells(view, model)
    caption = (
        f"{view.plan.dataset}: accuracy in % under Gaussian noise (sigma 0.05) and"
        " rotation (up to 30 degrees), and what the strongest attack leaves in a ball"
    )
    table = Table(caption, [*header, *worst_header(view)], [[*rows.values()]])
    return Section("Noise and rotation", [table])


def worst_header(view: View) -> list[str]:
    """Return the headings of the strongest attack, one a radius."""
    return [f"{STRONGEST} attack, linf {radius}" for radius in view.radii]


def worst_cells(view: View, model: str) -> list[Cell]:
    """Return what the strongest attack leaves of a model, one a radius."""
    return [shares_cell(view.worst_case(model, radius)) for radius in view.radii]
