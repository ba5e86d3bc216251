"""Records as text: one row an attack, one column a model, and what to distrust.

    print(render({"softmax": softmax_record, "mmc": mmc_record}))

The last row is always the worst case over all attacks that a ball bounds. A cell with a
finding carries a mark; the findings follow below the table in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmc_jax.diagnostics import Finding
from mmc_jax.evaluate import EvaluationRecord, RowRecord, Share

STYLES = ("text", "markdown")
MARK = "!"
"""What a cell with a finding carries, followed by the number of its footnote."""


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
    first = _check_comparable(records)
    notes = _Notes(records)
    header = ["accuracy in %", *records]
    body = [["clean", *(share_text(record.clean) for record in records.values())]]
    for name in _row_names(records, in_worst_case=True):
        cells = [
            _row_cell(model, record, name, notes) for model, record in records.items()
        ]
        body.append([name, *cells])
    worst = ["worst case", *(_worst(m, record, notes) for m, record in records.items())]
    strongest = _strongest(records)
    apart = [
        [
            f"{name} (no ball)",
            *(_row_cell(m, r, name, notes) for m, r in records.items()),
        ]
        for name in _row_names(records, in_worst_case=False)
    ]
    summary = [worst] if strongest is None else [strongest, worst]
    lines = [_title(first), ""]
    lines += grid(header, [body, summary, apart, _zero_gradients(records)], style)
    return "\n".join(lines + notes.lines())


def _check_comparable(records: Mapping[str, EvaluationRecord]) -> EvaluationRecord:
    if not records:
        raise ValueError("records are empty: there is nothing to render")
    (first_name, first), *others = records.items()
    for name, record in others:
        for field in ("num_examples", "norm", "epsilon", "mode"):
            ours, theirs = getattr(first, field), getattr(record, field)
            if ours != theirs:
                raise ValueError(
                    f"records of {first_name!r} and {name!r} cannot stand side by side:"
                    f" {field} is {ours!r} and {theirs!r}"
                )
    return first


def _title(record: EvaluationRecord) -> str:
    how = {
        "cascade": "cascade: each row attacks what the rows above left, and shows what"
        " is left then",
        "individual": "every row attacks every image",
    }
    return (
        f"{record.num_examples} images, {record.norm}, epsilon {record.epsilon:.4g}"
        f" ({how[record.mode]}); in brackets the 95 % interval"
    )


def _row_names(
    records: Mapping[str, EvaluationRecord], *, in_worst_case: bool
) -> list[str]:
    names: dict[str, None] = {}
    for record in records.values():
        for row in record.rows:
            if row.in_worst_case == in_worst_case:
                names.setdefault(row.name)
    return list(names)


def share_text(share: Share) -> str:
    """Return a share in percent with its interval, as it stands in a cell."""
    if not share.total:
        return "-"
    low, high = share.interval
    return f"{100 * share.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _row_cell(model: str, record: EvaluationRecord, name: str, notes: _Notes) -> str:
    found = [row for row in record.rows if row.name == name]
    if not found:
        return "-"
    (row,) = found
    cell = share_text(_shown(record, row))
    if record.mode == "cascade" and row.in_worst_case:
        cell += f" -{row.num_broken}/{row.num_attacked}"
    if row.target_reached is not None and row.num_attacked:
        cell += f" (target {100 * row.target_reached.value:.1f})"
    if not row.complete:
        cell += " (unfinished)"
    return cell + notes.marks(model, row.name)


def _shown(record: EvaluationRecord, row: RowRecord) -> Share:
    cascade = record.mode == "cascade" and row.in_worst_case
    return row.running if cascade else row.accuracy


def _worst(model: str, record: EvaluationRecord, notes: _Notes) -> str:
    bound = "" if record.complete else "at most "
    marks = notes.marks(model, None)
    if not record.complete:
        marks += " (unfinished)"
    return f"{bound}{share_text(record.worst_case)}{marks}"


def _strongest(records: Mapping[str, EvaluationRecord]) -> list[str] | None:
    rows = [record.strongest for record in records.values()]
    if all(row is None for row in rows):
        return None
    cells = (
        "-" if row is None else f"{100 * row.accuracy.value:.1f} by {row.name}"
        for row in rows
    )
    return ["strongest attack", *cells]


def _zero_gradients(records: Mapping[str, EvaluationRecord]) -> list[list[str]]:
    """Return a row for each objective that has no gradient somewhere."""
    fractions = [record.zero_gradient_fractions for record in records.values()]
    objectives = {name: None for f in fractions for name in f if f[name]}
    return [
        [
            f"zero gradient, {name}",
            *(f"{100 * f[name]:.1f}" if name in f else "-" for f in fractions),
        ]
        for name in objectives
    ]


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


class _Notes:
    """The footnotes: one per distinct finding, numbered in the order of the records."""

    def __init__(self, records: Mapping[str, EvaluationRecord]):
        self._found: list[tuple[str, Finding]] = [
            (model, finding)
            for model, record in records.items()
            for finding in record.findings
        ]

    def marks(self, model: str, row: str | None) -> str:
        numbers = [
            str(number)
            for number, (whose, finding) in enumerate(self._found, start=1)
            if whose == model and finding.row == row
        ]
        return f" {MARK}{','.join(numbers)}" if numbers else ""

    def lines(self) -> list[str]:
        if not self._found:
            return []
        return ["", "Findings: these numbers are not what they seem."] + [
            f"{MARK}{number} {finding.name}: {model}, {finding.row or 'all rows'}:"
            f" {finding.message}"
            for number, (model, finding) in enumerate(self._found, start=1)
        ]
