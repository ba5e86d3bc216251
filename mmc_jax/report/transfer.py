"""Transfer between models: a table, and a heat map of the same numbers."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from mmc_jax.evaluate import TransferRecord
from mmc_jax.report import style as house
from mmc_jax.report.cells import MARK, Cell, Table, share_cell
from mmc_jax.report.comparison import Note, Record
from mmc_jax.report.page import Block, Findings, Picture, Section, Text
from mmc_jax.report.style import Path
from mmc_jax.report.tables import STYLES, grid

_DARK = 0.5


def render_transfer(record: TransferRecord, *, style: str = "text") -> str:
    """Render a transfer matrix: a row a model crafted on, a column a model scored on.

    Args:
      record: from `evaluate.transfer_matrix`.
      style: `text` for a terminal, or `markdown`.

    Returns:
      Several lines, without a last line break; what has a finding is marked, and
      explained below.

    Raises:
      ValueError: for an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; accepted: {', '.join(STYLES)}")
    marks = {
        (finding.row, finding.numbers["scored_on"]): f" {MARK}{number}"
        for number, finding in enumerate(record.findings, start=1)
    }
    header = ["crafted on \\ scored on", *record.names]
    clean = ["clean", *(str(share_cell(record.clean(name))) for name in record.names)]
    body = [
        [
            source,
            *(
                str(share_cell(record.accuracy(source, target)))
                + marks.get((source, target), "")
                for target in record.names
            ),
        ]
        for source in record.names
    ]
    title = (
        f"accuracy in %, {record.attack}, {record.num_examples} images, {record.norm},"
        f" epsilon {record.epsilon:.4g}; in brackets the 95 % interval"
    )
    lines = [title, "", *grid(header, [[clean], body], style)]
    if record.findings:
        lines += ["", "Findings: these numbers are not what they seem."]
    lines += [
        f"{MARK}{number} {finding.name}: {finding.row} on"
        f" {finding.numbers['scored_on']}: {finding.message}"
        for number, finding in enumerate(record.findings, start=1)
    ]
    return "\n".join(lines)


_FACTS = frozenset(
    ("names", "attack", "num_examples", "norm", "epsilon", "clean", "accuracy")
    + ("findings",)
)


def transfer_section(record: Record) -> Section:
    """Return a transfer matrix, drawn and in numbers.

    Args:
      record: what `TransferRecord.to_dict` returned.

    Returns:
      The section: a heat map, a table with intervals, and the findings in words.

    Raises:
      ValueError: for something that is no such record.
    """
    if missing := _FACTS - set(record):
        lacks = ", ".join(sorted(missing))
        raise ValueError(f"this is no record of a transfer: it lacks {lacks}")
    names, accuracy = record["names"], record["accuracy"]
    notes = [
        Note(number, f["name"], _where(f), f["message"])
        for number, f in enumerate(record["findings"], start=1)
    ]
    marks = {note.where: note.number for note in notes}
    clean = [Cell("clean"), *(share_cell(record["clean"][name]) for name in names)]
    body = [
        [Cell(source)]
        + [_marked(accuracy[source][t], marks.get(f"{source} on {t}")) for t in names]
        for source in names
    ]
    caption = (
        f"Accuracy in %, {record['attack']}, {record['num_examples']} images,"
        f" {record['norm']}, epsilon {record['epsilon']:.4g}; a row is crafted on"
    )
    table = Table(caption, ("crafted on", *names), [[clean], body])
    values = [[accuracy[s][t]["value"] for t in names] for s in names]
    draw = functools.partial(transfer_heat_map, np.array(values), names)
    blocks: list[Block] = [Picture.drawn(draw, "transfer.svg", "Transfer"), table]
    if notes:
        warning = "A model that images of another break was attacked too weakly:"
        blocks += [Text(warning, is_warning=True), Findings(notes)]
    return Section("Transfer between models", blocks)


def _where(finding: Record) -> str:
    return f"{finding['row']} on {finding['numbers']['scored_on']}"


def _marked(share: Record, number: int | None) -> Cell:
    findings = () if number is None else (number,)
    return dataclasses.replace(share_cell(share), findings=findings)


def transfer_heat_map(
    accuracies: np.ndarray,
    names: Sequence[str],
    path: Path,
    *,
    title: str = "Accuracy (%) on images crafted on another model",
) -> pathlib.Path:
    """Draw a transfer matrix; each cell also carries its number.

    Args:
      accuracies: fractions `[num_models, num_models]`, a row for each model crafted on.
      names: of the models.
      path: the file to write.
      title: above the map.

    Returns:
      The path.

    Raises:
      ValueError: if the matrix is not square, or names do not match it.
    """
    accuracies = np.asarray(accuracies, np.float64)
    size = len(names)
    if not size or accuracies.shape != (size, size):
        raise ValueError(
            "accuracies must be [num_models, num_models], a name each; got"
            f" {accuracies.shape} and {size} names"
        )
    with house.drawing(path, (1.6 + size, 1.4 + 0.8 * size)) as (_, (axes,)):
        axes.imshow(accuracies, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), accuracy in np.ndenumerate(accuracies):
            axes.text(
                column,
                row,
                f"{100 * accuracy:.1f}",
                ha="center",
                va="center",
                color="white" if accuracy > _DARK else "black",
                fontweight="bold" if row == column else "normal",
            )
        axes.set_xticks(range(size), names)
        axes.set_yticks(range(size), names)
        axes.set(title=title, xlabel="scored on", ylabel="crafted on")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    return pathlib.Path(path)
