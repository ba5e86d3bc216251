"""Records side by side: one row an attack, one column a model, and what to distrust.

`compare` reads records as plain data, as `EvaluationRecord.to_dict` returns them and
JSON files keep them. `tables` makes text of what it returns, `record_page` a page.

The last row of the attacks is always the worst case over all that a ball bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmc_jax.report.cells import MISSING, Cell, Table, percent, share_cell

_FACTS = frozenset(
    ("complete", "clean", "worst_case", "rows", "findings", "num_classes")
    + ("num_invalid", "zero_gradient_fractions", "environment")
)
"""What a record must hold for its page, beside what it has to share with others."""

Record = Mapping[str, Any]
"""What `EvaluationRecord.to_dict` returns."""


@dataclasses.dataclass(frozen=True)
class Note:
    """One finding, with its number in the order of the records."""

    number: int
    name: str
    """The finding's name."""
    where: str
    """The model and the row that it concerns."""
    message: str
    """One sentence."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table of accuracies and the findings that its marks point to."""

    table: Table
    notes: tuple[Note, ...]


def compare(records: Mapping[str, Record]) -> Comparison:
    """Put the records of one or several models side by side.

    Args:
      records: model name -> record. All must judge the same number of images in the
        same norm, epsilon and mode: other numbers do not belong side by side.

    Returns:
      The table, whose groups are the attacks after the clean images, the worst case,
      what no ball bounds, and objectives without a gradient; and the findings.

    Raises:
      ValueError: for no record, something that is none, or records that differ in what
        they judged.
    """
    first = _check_comparable(records)
    found = _Findings(records)
    clean = [
        Cell("clean"),
        *(share_cell(record["clean"]) for record in records.values()),
    ]
    summary = [
        Cell("worst case", is_key=True),
        *(_worst(name, record, found) for name, record in records.items()),
    ]
    strongest = _strongest(records)
    groups = [
        [clean, *_attack_rows(records, found, in_worst_case=True)],
        [summary] if strongest is None else [strongest, summary],
        _attack_rows(records, found, in_worst_case=False),
        _zero_gradients(records),
    ]
    header = ("accuracy in %", *records)
    return Comparison(Table(_caption(first), header, groups), found.notes)


def _check_comparable(records: Mapping[str, Record]) -> Record:
    if not records:
        raise ValueError("records are empty: there is nothing to render")
    fields = ("num_examples", "norm", "epsilon", "mode")
    (first_name, first), *others = records.items()
    for name, record in records.items():
        missing = {*fields, *_FACTS} - set(record)
        if missing:
            lacks = ", ".join(sorted(missing))
            raise ValueError(
                f"{name!r} is no record of an evaluation: it lacks {lacks}"
            )
    for name, record in others:
        for field in fields:
            if first[field] != record[field]:
                raise ValueError(
                    f"records of {first_name!r} and {name!r} cannot stand side by side:"
                    f" {field} is {first[field]!r} and {record[field]!r}"
                )
    return first


def _caption(record: Record) -> str:
    how = {
        "cascade": "cascade: each row attacks what the rows above left, and shows what"
        " is left then",
        "individual": "every row attacks every image",
    }
    return (
        f"{record['num_examples']} images, {record['norm']}, epsilon"
        f" {record['epsilon']:.4g} ({how[record['mode']]}); in brackets the 95 %"
        " interval"
    )


def _attack_rows(
    records: Mapping[str, Record], found: _Findings, *, in_worst_case: bool
) -> list[list[Cell]]:
    names = {
        name: None
        for record in records.values()
        for name, row in record["rows"].items()
        if row["in_worst_case"] == in_worst_case
    }
    suffix = "" if in_worst_case else " (no ball)"
    return [
        [
            Cell(name + suffix),
            *(_row_cell(model, r, name, found) for model, r in records.items()),
        ]
        for name in names
    ]


def _row_cell(model: str, record: Record, name: str, found: _Findings) -> Cell:
    row = record["rows"].get(name)
    if row is None:
        return MISSING
    in_cascade = record["mode"] == "cascade" and row["in_worst_case"]
    cell = share_cell(row["running_accuracy" if in_cascade else "accuracy"])
    more = []
    if in_cascade:
        more.append(f"-{row['num_broken']}/{row['num_attacked']}")
    if row["target_reached"] is not None and row["num_attacked"]:
        more.append(f"(target {percent(row['target_reached']['value'])})")
    if not row["complete"]:
        more.append("(unfinished)")
    return dataclasses.replace(
        cell, details=(*cell.details, *more), findings=found.of(model, name)
    )


def _worst(model: str, record: Record, found: _Findings) -> Cell:
    cell = dataclasses.replace(
        share_cell(record["worst_case"]), findings=found.of(model, None)
    )
    if record["complete"]:
        return cell
    return dataclasses.replace(
        cell, text=f"at most {cell.text}", details=(*cell.details, "(unfinished)")
    )


def strongest_row(record: Record) -> tuple[str, Record] | None:
    """Return the name and the row of the strongest attack.

    Args:
      record: of an evaluation.

    Returns:
      The row of lowest accuracy; None in a cascade, where rows see different images.
    """
    if record["mode"] == "cascade":
        return None
    rows = {
        name: row
        for name, row in record["rows"].items()
        if row["in_worst_case"] and row["complete"] and row["num_attacked"]
    }
    return min(
        rows.items(), key=lambda named: named[1]["accuracy"]["value"], default=None
    )


def _strongest(records: Mapping[str, Record]) -> list[Cell] | None:
    found = [strongest_row(record) for record in records.values()]
    if all(named is None for named in found):
        return None
    cells = [MISSING if named is None else strongest_cell(*named) for named in found]
    return [Cell("strongest attack"), *cells]


def strongest_cell(name: str, row: Record) -> Cell:
    """Return the accuracy that the strongest attack leaves, and its name.

    Args:
      name: the row's.
      row: of a record.

    Returns:
      The cell.
    """
    accuracy = row["accuracy"]["value"]
    return Cell(percent(accuracy), value=accuracy, details=(f"by {name}",))


def _zero_gradients(records: Mapping[str, Record]) -> list[list[Cell]]:
    """Return a row for each objective that has no gradient somewhere."""
    fractions = [record["zero_gradient_fractions"] for record in records.values()]
    objectives = {name: None for f in fractions for name in f if f[name]}
    return [
        [
            Cell(f"zero gradient, {name}"),
            *(
                Cell(percent(f[name]), value=f[name]) if name in f else MISSING
                for f in fractions
            ),
        ]
        for name in objectives
    ]


class _Findings:
    """The findings of all records, numbered in their order."""

    def __init__(self, records: Mapping[str, Record]):
        found = [(m, f) for m, record in records.items() for f in record["findings"]]
        self._places = [(model, finding["row"]) for model, finding in found]
        self.notes = tuple(
            Note(
                number,
                finding["name"],
                f"{model}, {finding['row'] or 'all rows'}",
                finding["message"],
            )
            for number, (model, finding) in enumerate(found, start=1)
        )

    def of(self, model: str, row: str | None) -> tuple[int, ...]:
        places = enumerate(self._places, start=1)
        return tuple(number for number, place in places if place == (model, row))
