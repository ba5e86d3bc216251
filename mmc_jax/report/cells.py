"""What a table is made of, whether it becomes text or a page: cells, rows in groups.

Table(
    "MNIST, linf 0.1, accuracy in %",
    ("loss", "ours", "the paper", "the strongest attack"),
    [[[Cell("MMC"), seeds_cell([0.964, 0.97]), published_cell(0.93, "as printed"),
       share_cell(record.worst_case)]]],
)
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from mmc_jax.evaluate import Share

MARK = "!"
"""What a cell with a finding carries, followed by the finding's number."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    """The number or the name itself."""
    value: float | None = None
    """What the cell is sorted by; None sorts by text."""
    details: tuple[str, ...] = ()
    """What belongs beside it in smaller print, such as an interval."""
    interval: tuple[float, float] | None = None
    """Fractions, as `value` is then: a page draws both as a bar from 0 to 1."""
    findings: tuple[int, ...] = ()
    """The numbers of the findings that mark it."""
    is_published: bool = False
    """Whether it is somebody else's number, which a page sets apart."""
    is_key: bool = False
    """Whether it names a row that a reader should take away."""

    def __str__(self) -> str:
        """Return it on one line."""
        return " ".join([self.text, *self.details, *([self.mark] if self.mark else [])])

    @property
    def sort_key(self) -> str | None:
        """The value as JavaScript reads it; None for what sorts last."""
        if self.value is None or math.isnan(self.value):
            return None
        return repr(float(self.value)).replace("inf", "Infinity")

    @property
    def mark(self) -> str:
        """What marks it as having findings, or nothing."""
        return f"{MARK}{','.join(map(str, self.findings))}" if self.findings else ""


MISSING = Cell("-")
"""Stands where there is no number; sorted last."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows in groups: sorting a table on a page moves rows within their groups."""

    caption: str
    """What is counted, of what, in which unit."""
    header: Sequence[str]
    """A name per column; the first is that of the rows."""
    groups: Sequence[Sequence[Sequence[Cell]]]
    """Group, row, cell."""
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        """Refuse rows that the header does not fit."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row of {self.caption!r} has {len(row)} cells under"
                    f" {len(self.header)} headings: {', '.join(map(str, row))}"
                )

    @property
    def rows(self) -> list[Sequence[Cell]]:
        """All rows, whatever their group."""
        return [row for group in self.groups for row in group]

    def is_numeric(self, column: int) -> bool:
        """Return whether any cell of a column is a number."""
        return any(row[column].value is not None for row in self.rows)


def share_cell(share: Share | Mapping[str, Any]) -> Cell:
    """Return a share in percent with its interval.

    Args:
      share: an `evaluate.Share`, or what its `to_dict` gave.

    Returns:
      The cell; `MISSING` for a share out of nothing.
    """
    plain = share if isinstance(share, Mapping) else share.to_dict()
    if plain["value"] is None:
        return MISSING
    low, high = plain["interval_95"]
    return Cell(
        percent(plain["value"]),
        value=plain["value"],
        details=(f"[{percent(low)}, {percent(high)}]",),
        interval=(low, high),
    )


def seeds_cell(
    values: Sequence[float], *, write: Callable[[float], str] | None = None
) -> Cell:
    """Return mean and standard deviation over seeds, in percent.

    Args:
      values: a number per seed.
      write: how numbers other than fractions are written; None is in percent.

    Returns:
      The cell, which says how many seeds there were; without a deviation for one, and
      `MISSING` for none. The deviation is that of a sample: divided by n - 1.
    """
    if not values:
        return MISSING
    write = write or percent
    mean = statistics.fmean(values)
    text, num = write(mean), len(values)
    if num > 1:
        text += f" ± {write(statistics.stdev(values))}"
    return Cell(text, value=mean, details=(f"{num} seed{'s' if num > 1 else ''}",))


def published_cell(fraction: float | None, certainty: str) -> Cell:
    """Return somebody else's number, in percent, and how certain it is.

    Args:
      fraction: the number; None where there is none.
      certainty: in a few words: `as printed`, `read off a figure`, `recalled`; or why
        there is none.

    Returns:
      The cell.
    """
    text = MISSING.text if fraction is None else percent(fraction)
    return Cell(text, value=fraction, details=(certainty,), is_published=True)


def count_cell(count: int) -> Cell:
    """Return a count.

    Args:
      count: of anything.

    Returns:
      The cell.
    """
    return Cell(f"{count:,}", value=count)


def percent(fraction: float) -> str:
    """Return a fraction in percent, with one decimal and no sign.

    Args:
      fraction: of anything.

    Returns:
      The text.
    """
    return f"{100 * fraction:.1f}"
