"""Error over training time, loss by loss (the paper's Figure 3a).

    cell = measure_convergence(train.read_metrics("runs/mnist_mmc"))
    convergence_section({"MMC": [cell], "softmax": [other]})

The clock of a run's log counts training alone: neither compilation nor validation.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmc_jax.experiments.figure_cells import Cells, check_cells, short
from mmc_jax.report import style
from mmc_jax.report.cells import MISSING, Cell, Table, seeds_cell
from mmc_jax.report.page import Picture, Section, Text

_CURVE = ("metric", "tolerance", "time", "epoch", "error")
_ENDS = ("final_error", "seconds", "seconds_to_reach", "epochs_to_reach")


def measure_convergence(
    history: Sequence[Mapping[str, Any]],
    *,
    metric: str = "validation_accuracy",
    tolerance: float = 0.1,
) -> dict[str, Any]:
    """Measure how soon a run has come close to where it ends.

    The error is 1 - accuracy, the final error that of the last line. Close is an error
    of at most (1 + tolerance) times that, and so from then on to the end: a dip that
    does not last does not count.

    Args:
      history: log lines in order, as `train.read_metrics` returns them: `time` in
        seconds of training, `epoch`, and `metric` in some.
      metric: the accuracy to follow, a fraction.
      tolerance: at least 0.

    Returns:
      Plain data: the curve in `time`, `epoch` and `error`; `final_error`, `seconds` of
      the whole run, `seconds_to_reach` and `epochs_to_reach`.

    Raises:
      ValueError: if no line has the metric, one is no fraction, times do not ascend, or
        the tolerance is negative.

    Source: Pang et al., ICLR 2020, Figure 3 (a).
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance!r}")
    lines = [line for line in history if metric in line]
    if not lines:
        raise ValueError(f"the history has no line with {metric!r}")
    times = [float(line["time"]) for line in lines]
    epochs = [int(line["epoch"]) for line in lines]
    errors = [1.0 - float(line[metric]) for line in lines]
    if times != sorted(times):
        raise ValueError("the history's lines are not in the order of their time")
    if not all(0 <= error <= 1 for error in errors):
        raise ValueError(f"{metric} must be fractions, got {1 - np.array(errors)}")
    reached = _first_to_stay(errors, (1 + tolerance) * errors[-1])
    return {
        "metric": metric,
        "tolerance": float(tolerance),
        "time": times,
        "epoch": epochs,
        "error": errors,
        "final_error": errors[-1],
        "seconds": times[-1],
        "seconds_to_reach": times[reached],
        "epochs_to_reach": epochs[reached],
    }


def _first_to_stay(errors: Sequence[float], bound: float) -> int:
    """Return the first line from which on no error exceeds the bound."""
    above = [index for index, error in enumerate(errors) if error > bound]
    return above[-1] + 1 if above else 0


def convergence_section(cells: Cells) -> Section:
    """Return error over training time, drawn and in numbers.

    Beside the time to a run's own final error, which flatters a loss that ends badly,
    stands the time to one error for all: that of the worst model.

    Args:
      cells: model name -> what `measure_convergence` returned, one a seed.

    Returns:
      The section.

    Raises:
      ValueError: for no cell, one that is something else, or cells that do not measure
        the same.
    """
    cells = check_cells(cells, "convergence", (*_CURVE, *_ENDS))
    every = [cell for found in cells.values() for cell in found]
    asked = {(cell["metric"], cell["tolerance"]) for cell in every}
    if len(asked) > 1:
        raise ValueError(f"cells measure different things: {sorted(asked)}")
    ((metric, tolerance),) = asked
    finals = [
        statistics.fmean(cell["final_error"] for cell in found)
        for found in cells.values()
    ]
    common = (1 + tolerance) * max(finals)
    header = (
        "model",
        "final error, %",
        f"seconds to within {100 * tolerance:g} % of it",
        "epochs",
        f"seconds to an error of {100 * common:.2f} %",
        "seconds in all",
    )
    rows = [[Cell(name), *_numbers(found, common)] for name, found in cells.items()]
    caption = f"1 - {metric}, over seconds of training, compilation not counted"
    return Section(
        "Convergence",
        [
            Text(_EXPLANATION),
            Picture.drawn(
                functools.partial(_draw, cells), "convergence.svg", "Error over time"
            ),
            Table(caption, header, [rows]),
        ],
    )


_EXPLANATION = (
    "A line is a seed. An error counts as reached once no later one exceeds it; the log"
    " has one a validation, so that times are no finer than that. The common error is"
    " that of the model that ends worst, with the same tolerance."
)


def _numbers(found: Sequence[Mapping[str, Any]], common: float) -> list[Cell]:
    return [
        seeds_cell([cell["final_error"] for cell in found], write=_percent),
        seeds_cell([cell["seconds_to_reach"] for cell in found], write=short),
        seeds_cell([cell["epochs_to_reach"] for cell in found], write=short),
        _to_common(found, common),
        seeds_cell([cell["seconds"] for cell in found], write=short),
    ]


def _to_common(found: Sequence[Mapping[str, Any]], common: float) -> Cell:
    places = [(cell, _first_to_stay(cell["error"], common)) for cell in found]
    times = [cell["time"][place] for cell, place in places if place < len(cell["time"])]
    if len(times) < len(found):
        # A mean over those that arrive would reward the runs that do not.
        missing = f"{len(found) - len(times)} of {len(found)} seeds never"
        return Cell(MISSING.text, details=(missing,))
    return seeds_cell(times, write=short)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _draw(cells: Cells, path: pathlib.Path) -> None:
    latest = max(cell["seconds"] for found in cells.values() for cell in found)
    divisor, unit = (60.0, "min") if latest > 180 else (1.0, "s")
    with style.drawing(path, (6.4, 4.2)) as (figure, (axes,)):
        for name, found, kind in style.with_styles(cells):
            for seed, cell in enumerate(found):
                axes.plot(
                    np.array(cell["time"]) / divisor,
                    100 * np.array(cell["error"]),
                    marker="o",
                    linewidth=1.2,
                    label=None if seed else name,
                    **kind,
                )
        # An error of 0 has no place on a logarithmic axis.
        if min(min(cell["error"]) for found in cells.values() for cell in found) > 0:
            axes.set_yscale("log")
        axes.set(
            title="Error over training time",
            xlabel=f"training time ({unit})",
            ylabel="error (%)",
        )
        axes.set_xlim(left=0)
        style.legend_below(figure, axes)
