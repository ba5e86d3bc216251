"""Sections of what is measured along a curve: smallest distances, and the battery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmc_jax.report.cells import MISSING, Cell, Table, count_cell, percent, share_cell
from mmc_jax.report.comparison import Note, Record
from mmc_jax.report.page import Block, Findings, Section, Text
from mmc_jax.report.record_page import curve_section

_DISTANCES = frozenset(
    ("attack", "norm", "num_examples", "num_misclassified", "num_failures")
    + ("success_rate", "median_distance", "mean_distance", "accuracy_curve")
)
_BATTERY = frozenset(
    ("findings", "objective", "norm", "epsilon", "step_curve", "epsilon_curve")
    + ("noise_curve", "black_box_accuracy", "zero_gradient_fractions")
)


def minimum_norm_section(records: Mapping[str, Record]) -> Section:
    """Return how far the nearest adversarial images are.

    Args:
      records: model name -> what `MinimumNormRecord.to_dict` returned, all in one norm;
        where all were given `epsilons`, accuracy against the radius is drawn.

    Returns:
      The section. A mean over successes alone can rise because an attack fails: the
      failures stand beside it.

    Raises:
      ValueError: for no record, something else, or records in several norms.
    """
    _check(records, _DISTANCES, "a minimum-norm record")
    (norm,) = _shared(records, "norm")
    header = (
        "model",
        "attack",
        "images",
        "wrong as they are",
        "broken, %",
        "failures",
        f"median {norm} distance",
        "mean",
    )
    rows = [
        [
            Cell(name),
            Cell(record["attack"]),
            count_cell(record["num_examples"]),
            count_cell(record["num_misclassified"]),
            share_cell(record["success_rate"]),
            count_cell(record["num_failures"]),
            _number(record["median_distance"]),
            _number(record["mean_distance"]),
        ]
        for name, record in records.items()
    ]
    caption = "Distances are over successes; what is wrong as it is needs no attack"
    blocks: list[Block] = [Table(caption, header, [rows])]
    curves = {
        name: _as_columns(record["accuracy_curve"])
        for name, record in records.items()
        if record["accuracy_curve"] is not None
    }
    if curves:
        blocks += curve_section(curves, norm=norm).blocks
    return Section("Smallest distances", blocks)


def battery_section(batteries: Mapping[str, Record]) -> Section:
    """Return the sweeps that tell robustness from a missing gradient.

    Args:
      batteries: model name -> what `Battery.to_dict` returned, all in one norm and at
        one epsilon.

    Returns:
      The section: accuracy against epsilon, drawn and in numbers; against the number
      of steps; what noise and a black box leave; and the findings in words.

    Raises:
      ValueError: for no battery, something else, or batteries that differ in what they
        swept.
    """
    _check(batteries, _BATTERY, "a gradient-masking battery")
    (norm,), (epsilon,) = _shared(batteries, "norm"), _shared(batteries, "epsilon")
    curves = {name: _as_columns(b["epsilon_curve"]) for name, b in batteries.items()}
    blocks: list[Block] = [
        *curve_section(curves, norm=norm).blocks,
        _steps(batteries, f"Accuracy in % at {norm} epsilon {epsilon:.4g}"),
        _rest(batteries),
    ]
    found = [(name, f) for name, b in batteries.items() for f in b["findings"]]
    notes = [
        Note(number, finding["name"], name, finding["message"])
        for number, (name, finding) in enumerate(found, start=1)
    ]
    if notes:
        blocks += [Text("What the sweeps found:", is_warning=True), Findings(notes)]
    else:
        blocks.append(Text("The sweeps found nothing to distrust."))
    return Section("Is it the gradient that is missing?", blocks)


def _steps(batteries: Mapping[str, Record], caption: str) -> Table:
    points: dict[float, dict[str, Cell]] = {}
    for name, battery in batteries.items():
        curve = _as_columns(battery["step_curve"])
        for steps, value, interval in zip(*curve.values(), strict=True):
            cell = share_cell({"value": value, "interval_95": interval})
            points.setdefault(steps, {})[name] = cell
    rows = [
        [Cell(f"{steps:g}", value=steps)]
        + [points[steps].get(name, MISSING) for name in batteries]
        for steps in sorted(points)
    ]
    return Table(f"{caption}, by the number of steps", ("steps", *batteries), [rows])


def _rest(batteries: Mapping[str, Record]) -> Table:
    objectives = {o: None for b in batteries.values() for o in _zeros(b)}
    rows = [
        [Cell("sweeps minimise"), *(Cell(b["objective"]) for b in batteries.values())],
        [Cell("under noise"), *(_noise(b) for b in batteries.values())],
        [
            Cell("under a black box"),
            *(_percent(b["black_box_accuracy"]) for b in batteries.values()),
        ],
    ]
    rows += [
        [
            Cell(f"zero gradient, {objective}"),
            *(_percent(_zeros(b).get(objective)) for b in batteries.values()),
        ]
        for objective in objectives
    ]
    return Table("Beside them, in %", ("what", *batteries), [rows])


def _zeros(battery: Record) -> Mapping[str, float]:
    return battery["zero_gradient_fractions"]


def _noise(battery: Record) -> Cell:
    curve = _as_columns(battery["noise_curve"])
    last = {"value": curve["accuracy"][-1], "interval_95": curve["interval_95"][-1]}
    return share_cell(last)


def _percent(fraction: float | None) -> Cell:
    return MISSING if fraction is None else Cell(percent(fraction), value=fraction)


def _number(value: float | None) -> Cell:
    return MISSING if value is None else Cell(f"{value:.4g}", value=value)


def _as_columns(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `AccuracyCurve.to_dict` gave under the names of `Curves`."""
    return {
        "epsilon": curve["positions"],
        "accuracy": curve["accuracies"],
        "interval_95": curve["intervals_95"],
    }


def _check(records: Mapping[str, Record], fields: frozenset[str], what: str) -> None:
    if not records:
        raise ValueError("records are empty: there is nothing to render")
    for name, record in records.items():
        if missing := fields - set(record):
            lacks = ", ".join(sorted(missing))
            raise ValueError(f"{name!r} is not {what}: it lacks {lacks}")


def _shared(records: Mapping[str, Record], field: str) -> list[Any]:
    values = list({record[field]: None for record in records.values()})
    if len(values) > 1:
        raise ValueError(f"records cannot stand side by side: {field} is {values}")
    return values
