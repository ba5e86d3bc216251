"""The page of one experiment, from the records that it saved.

    results = json.loads(pathlib.Path("runs/quickstart/results.json").read_text())
    write_record_page(
        "report.html", results["models"], title="Digits",
        curves=results["accuracy_vs_epsilon"], command=results["command"],
    )

`evaluation_section`, `curve_section`, `rows_section` and `origin_section` make its
parts, for pages with more on them.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmc_jax.report.cells import MISSING, Cell, Table, count_cell, share_cell
from mmc_jax.report.comparison import Record, compare, strongest_cell, strongest_row
from mmc_jax.report.figures import accuracy_vs_epsilon
from mmc_jax.report.origin import origin_section
from mmc_jax.report.page import Block, Findings, Picture, Section, Text, write_page
from mmc_jax.report.style import Path

Curves = Mapping[str, Mapping[str, Sequence[Any]]]
"""Name -> `epsilon`, `accuracy` and `interval_95`, of one length, fractions."""


def write_record_page(
    path: Path,
    records: Mapping[str, Record],
    *,
    title: str,
    lead: str = "",
    curves: Curves | None = None,
    sections: Sequence[Section] = (),
    command: str | None = None,
) -> pathlib.Path:
    """Write the page of records that stand side by side.

    Args:
      path: the file to write.
      records: model name -> what `EvaluationRecord.to_dict` returned.
      title: of the page.
      lead: a paragraph under it.
      curves: accuracies against epsilon, with their intervals.
      sections: more of them, such as pictures, before what each attack did.
      command: what made the records; by default the `command` in them.

    Returns:
      The path.

    Raises:
      ValueError: for no record, or records that differ in what they judged.
    """
    parts = [evaluation_section(records)]
    if curves:
        first = next(iter(records.values()))
        chance = 1 / first["num_classes"]
        parts.append(curve_section(curves, norm=first["norm"], chance=chance))
    parts += [
        *sections,
        rows_section(records),
        origin_section(records, command=command),
    ]
    return write_page(path, title=title, sections=parts, lead=lead)


def evaluation_section(
    records: Mapping[str, Record], *, title: str = "Accuracy under attack"
) -> Section:
    """Return what holds of each model, under which attack, and what to distrust.

    Args:
      records: model name -> record.
      title: of the section.

    Returns:
      The section.

    Raises:
      ValueError: for no record, or records that differ in what they judged.
    """
    comparison = compare(records)
    blocks: list[Block] = [
        Text(
            f"The evaluation of {name} was interrupted: its numbers are upper bounds.",
            is_warning=True,
        )
        for name, record in records.items()
        if not record["complete"]
    ]
    blocks += [_summary(records), comparison.table]
    if comparison.notes:
        warning = (
            "The diagnostics distrust the numbers marked with !. They stand here as"
            " they were measured, and this is why they are not what they seem:"
        )
        blocks += [Text(warning, is_warning=True), Findings(comparison.notes)]
    else:
        blocks.append(Text("The diagnostics that ran found nothing to distrust."))
    return Section(title, blocks)


def _summary(records: Mapping[str, Record]) -> Table:
    header = (
        "model",
        "clean",
        "worst case",
        "worst case on 8 bits",
        "strongest attack alone",
        "NaN on clean images",
        "findings",
    )
    rows = []
    for name, record in records.items():
        strongest = strongest_row(record)
        on_8_bits = record.get("worst_case_8_bits")
        rows.append(
            [
                Cell(name),
                share_cell(record["clean"]),
                share_cell(record["worst_case"]),
                MISSING if on_8_bits is None else share_cell(on_8_bits),
                MISSING if strongest is None else strongest_cell(*strongest),
                count_cell(record["num_invalid"]),
                count_cell(len(record["findings"])),
            ]
        )
    caption = "In short: accuracy in %; the worst case is of all attacks, by image"
    return _without_empty_columns(Table(caption, header, [rows]))


def _without_empty_columns(table: Table) -> Table:
    kept = [
        column
        for column in range(len(table.header))
        if any(row[column] != MISSING for row in table.rows)
    ]
    groups = [[[row[column] for column in kept] for row in g] for g in table.groups]
    return Table(table.caption, [table.header[column] for column in kept], groups)


def curve_section(
    curves: Curves, *, norm: str = "linf", chance: float | None = None
) -> Section:
    """Return accuracy against epsilon, drawn and in numbers.

    Args:
      curves: the accuracies and their intervals.
      norm: of epsilon.
      chance: accuracy of guessing.

    Returns:
      The section.
    """
    columns = {
        name: (curve["epsilon"], curve["accuracy"], curve["interval_95"])
        for name, curve in curves.items()
    }
    description = (
        "Accuracy under attack against its radius, with 95 % intervals as bands."
        " Accuracy that stays above chance at a large radius means too weak an attack."
    )
    picture = Picture.drawn(
        lambda path: accuracy_vs_epsilon(columns, path, norm=norm, chance=chance),
        "curves.svg",
        description,
    )
    points = {
        name: {
            epsilon: _point(value, interval)
            for epsilon, value, interval in zip(*curve, strict=True)
        }
        for name, curve in columns.items()
    }
    epsilons = sorted({epsilon for curve in points.values() for epsilon in curve})
    rows = [
        [
            Cell(f"{epsilon:.4g}", value=epsilon),
            *(curve.get(epsilon, MISSING) for curve in points.values()),
        ]
        for epsilon in epsilons
    ]
    caption = "The same in numbers: accuracy in %, in brackets the 95 % interval"
    table = Table(caption, (f"{norm} epsilon", *curves), [rows])
    return Section("Accuracy against epsilon", [picture, table])


def curve_of_records(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return accuracy against epsilon from evaluations of one model.

    Args:
      records: of the same images in the same norm, each at an epsilon of its own. Their
        worst cases are the points, and the clean accuracy that at epsilon 0.

    Returns:
      What `curve_section` takes for one name.

    Raises:
      ValueError: for no record, or records that differ in images or norm or share an
        epsilon.
    """
    if not records:
        raise ValueError("records are empty: there is no curve to draw")
    shares = {0.0: records[0]["clean"]}
    for record in records:
        for field in ("num_examples", "norm", "clean"):
            if record[field] != records[0][field]:
                raise ValueError(
                    f"records belong to no one curve: {field} is"
                    f" {records[0][field]!r} and {record[field]!r}"
                )
        if record["epsilon"] in shares:
            raise ValueError(f"two points of the curve at {record['epsilon']:.4g}")
        shares[record["epsilon"]] = record["worst_case"]
    epsilons = sorted(shares)
    return {
        "epsilon": epsilons,
        "accuracy": [shares[epsilon]["value"] for epsilon in epsilons],
        "interval_95": [shares[epsilon]["interval_95"] for epsilon in epsilons],
    }


def _point(value: float, interval: tuple[float, float]) -> Cell:
    return share_cell({"value": value, "interval_95": interval})


def rows_section(records: Mapping[str, Record]) -> Section:
    """Return what each attack did, with its settings and its cost, a table a model.

    Args:
      records: model name -> record.

    Returns:
      The section.
    """
    return Section(
        "What each attack did",
        [_attacks(name, record) for name, record in records.items() if record["rows"]],
    )


def _attacks(model: str, record: Record) -> Table:
    header = (
        "attack",
        "accuracy, %",
        "attacked",
        "broken",
        "NaN",
        "do not count",
        "reached target, %",
        "left so far, %",
        f"largest {record['norm']} distance",
        "forward + backward passes",
        "seconds",
        "settings",
    )
    rows = [_attack(name, row) for name, row in record["rows"].items()]
    caption = f"{model}, in the order of the attacks"
    return _without_empty_columns(Table(caption, header, [rows]))


def _attack(name: str, row: Record) -> list[Cell]:
    reached, passes = row["target_reached"], row.get("passes_per_survivor")
    settings = ", ".join(
        f"{key} {_setting(value)}" for key, value in row["hyperparameters"].items()
    )
    return [
        Cell(name),
        share_cell(row["accuracy"]),
        count_cell(row["num_attacked"]),
        count_cell(row["num_broken"]),
        count_cell(row["num_invalid"]),
        count_cell(sum(row["violations"].values())),
        MISSING if reached is None else share_cell(reached),
        share_cell(row["running_accuracy"]),
        Cell(f"{row['largest_norm']:.4g}", value=row["largest_norm"]),
        MISSING if passes is None else _passes(passes),
        Cell(f"{row['seconds']:.1f}", value=row["seconds"]),
        Cell(f"{row['attack']}: {settings}"),
    ]


def _passes(passes: Mapping[str, int]) -> Cell:
    text = f"{passes['forward']:,} + {passes['backward']:,}"
    return Cell(text, value=passes["forward"] + passes["backward"])


def _setting(value: Any) -> str:
    if value is None:
        return "by its rule"
    return value if isinstance(value, str) else json.dumps(value)
