"""The section of transfer: accuracy on images crafted on another model."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmc_jax.diagnostics import find_stronger_black_box
from mmc_jax.evaluate import Share
from mmc_jax.evaluate.outcome import from_bits
from mmc_jax.experiments.tables import shares_cell
from mmc_jax.experiments.view import View
from mmc_jax.report import (
    Cell,
    Findings,
    Note,
    Picture,
    Section,
    Table,
    Text,
    transfer_heat_map,
)
from mmc_jax.report.page import Block


def transfer_sections(view: View) -> list[Section]:
    """Return a section for each attack and radius: a map, and the same in numbers.

    Args:
      view: of an experiment.

    Returns:
      The sections.
    """
    names = {w.cell: w for w in view.plan.wanted if w.kind == "transfer"}
    sections = []
    for name, wanted in names.items():
        cells = view.named(wanted.group, name)
        if cells:
            results = [cell["result"] for cell in cells.values()]
            attack = wanted.settings["attack"]
            title = (
                f"{attack['name'].upper()}, {attack['num_steps']} steps, linf epsilon"
                f" {wanted.settings['epsilon']}"
            )
            radius = wanted.settings["epsilon"]
            strongest = [
                shares_cell(view.worst_case(model, radius)) for model in wanted.members
            ]
            blocks = _blocks(
                view.plan.labels, wanted.members, results, title, strongest
            )
            sections.append(Section(title, blocks))
    return sections


def _blocks(
    labels: Mapping[str, str],
    models: Sequence[str],
    results: Sequence[Mapping[str, Any]],
    title: str,
    strongest: Sequence[Cell],
) -> list[Block]:
    shown = [labels[model] for model in models]
    shares = {
        (source, target): [_share(r["correct"][source][target]) for r in results]
        for source in models
        for target in models
    }
    clean = [shares_cell([_share(r["clean"][m]) for r in results]) for m in models]
    rows = [
        [Cell(labels[source]), *(shares_cell(shares[source, t]) for t in models)]
        for source in models
    ]
    means = np.array(
        [
            [np.mean([share["value"] for share in shares[source, t]]) for t in models]
            for source in models
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "transfer.svg"
        picture = Picture.from_file(
            transfer_heat_map(means, shown, path, title=title),
            "Accuracy in %, mean over seeds: dark is robust",
        )
    caption = (
        f"{title}: accuracy in % of the model of each column on images crafted on that"
        " of each row; last, what the strongest attack on itself leaves, where another"
        " experiment has measured that"
    )
    last = [Cell("strongest attack", is_key=True), *strongest]
    header = ("crafted on \\ scored on", *shown)
    table = Table(caption, header, [[[Cell("clean"), *clean]], rows, [last]])
    notes = [*_notes(labels, models, results)]
    if not notes:
        return [picture, table]
    warning = "Here images of another model break what its own attack leaves:"
    return [picture, table, Text(warning, is_warning=True), Findings(notes)]


def _share(bits: str) -> dict[str, Any]:
    return Share(bits.count("1"), len(bits)).to_dict()


def _notes(labels, models, results):
    """Yield a note for each model whose own attack is weaker than another's images."""
    number = 0
    for target in models:
        clean = np.concatenate([from_bits(r["clean"][target]) for r in results])
        correct = {
            source: np.concatenate(
                [from_bits(r["correct"][source][target]) for r in results]
            )
            for source in models
        }
        own = {target: clean & correct.pop(target)}
        broken = {labels[s]: clean & ~flags for s, flags in correct.items()}
        for finding in find_stronger_black_box(own, broken):
            number += 1
            where = f"{labels[target]}, crafted on {finding.row}, all seeds"
            yield Note(number, finding.name, where, finding.message)
