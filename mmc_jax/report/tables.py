"""Records as text: one row an attack, one column a model, and what to distrust.

    print(render({"softmax": softmax_record, "mmc": mmc_record}))

The last row is always the worst case over all attacks that a ball bounds. A cell with a
finding carries a mark; the findings follow below the table in full. `comparison` says
what stands where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmc_jax.evaluate import EvaluationRecord
from mmc_jax.report.cells import MARK
from mmc_jax.report.comparison import compare

STYLES = ("text", "markdown")


def render(records: Mapping[str, EvaluationRecord], *, style: str = "text") -> str:
    """Render the records of one or several models side by side.

    Args:
      records: model name -> record. All must judge the same number of images in the
        same norm, epsilon and mode: other numbers do not belong side by side.
      style: `text` for a terminal, or `markdown`.

    Returns:
      Several lines, without a last line break.

    Raises:
      ValueError: for no record, records that differ in what they judged, or an unknown
        style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; accepted: {', '.join(STYLES)}")
    plain = {name: r.to_dict(per_example=False) for name, r in records.items()}
    comparison = compare(plain)
    table = comparison.table
    groups = [[[str(cell) for cell in row] for row in group] for group in table.groups]
    lines = [table.caption, "", *grid(table.header, groups, style)]
    if comparison.notes:
        lines += ["", "Findings: these numbers are not what they seem."]
    lines += [
        f"{MARK}{note.number} {note.name}: {note.where}: {note.message}"
        for note in comparison.notes
    ]
    return "\n".join(lines)


def grid(
    header: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], style: str
) -> list[str]:
    """Lay out cells in columns, groups of rows apart."""
    rows = [row for group in groups for row in group]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        if style == "markdown":
            return f"| {' | '.join(padded)} |"
        return "  ".join(padded).rstrip()

    if style == "markdown":
        rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
        return [line(header), rule, *map(line, rows)]
    rule = "-" * len("  ".join("-" * width for width in widths))
    lines = [line(header)]
    for group in groups:
        if group:
            lines += [rule, *map(line, group)]
    return lines
