"""What the measurements behind figures share: their cells, checks and numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Cells = Mapping[str, Sequence[Mapping[str, Any]]]
"""Model name -> what was measured, one dictionary a seed."""
NORMAL_95 = float(stats.norm.ppf(0.975))


def check_cells(cells: Cells, what: str, fields: Collection[str]) -> Cells:
    """Refuse cells that are not what a section shows.

    Args:
      cells: model name -> one dictionary a seed.
      what: they should measure.
      fields: that each dictionary must have.

    Returns:
      The cells, without models that have none.

    Raises:
      ValueError: if there is no cell at all, or one lacks a field.
    """
    filled = {name: found for name, found in cells.items() if found}
    if not filled:
        raise ValueError(f"cells are empty: no measurement of {what} to show")
    for name, found in filled.items():
        for seed, cell in enumerate(found):
            missing = [field for field in fields if field not in cell]
            if missing:
                raise ValueError(
                    f"cell {seed} of {name!r} is no measurement of {what}: it lacks"
                    f" {', '.join(missing)}"
                )
    return filled


def check_at_least(name: str, value: int, lowest: int) -> None:
    """Refuse a count that is too small.

    Args:
      name: of the argument.
      value: given.
      lowest: accepted.

    Raises:
      ValueError: if it is no int of at least `lowest`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} must be an int of at least {lowest}, got {value!r}")


def mean_with_interval(values: np.ndarray) -> dict[str, Any]:
    """Return a mean and its 95 % interval, by the normal approximation.

    Args:
      values: `[num]`, at least 2.

    Returns:
      `mean` and `interval_95`.
    """
    mean, margin = float(values.mean()), NORMAL_95 * float(stats.sem(values))
    return {"mean": mean, "interval_95": [mean - margin, mean + margin]}


def short(number: float) -> str:
    """Return a number with three digits, or all before the point if they are more."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
