"""What one evaluation leaves: its record, as JSON, and its page."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmc_jax.diagnostics import Battery
from mmc_jax.evaluate import EvaluationRecord, MinimumNormRecord, inputs
from mmc_jax.report.curves import battery_section, minimum_norm_section
from mmc_jax.report.page import Section
from mmc_jax.report.record_page import write_record_page

_NUM_RADII = 21


def write_evaluation(
    record: EvaluationRecord,
    origin: Mapping[str, Any],
    path: pathlib.Path,
    page: pathlib.Path,
    *,
    name: str,
    sections: Sequence[Section] = (),
    battery: Battery | None = None,
    distances: Mapping[str, MinimumNormRecord] | None = None,
) -> EvaluationRecord:
    """Write an evaluation's record and its page.

    Args:
      record: of the evaluation.
      origin: what it is of, and what made it; plain data.
      path: of the record.
      page: of the page.
      name: of the model.
      sections: of the page, before what each attack did.
      battery: what looked for gradient masking besides.
      distances: row -> what looked for the smallest distance besides; accuracy is drawn
        up to twice the radius of the record.

    Returns:
      The record, with what the battery found.
    """
    more: dict[str, Any] = {}
    if battery is not None:
        more["battery"] = battery.to_dict()
        findings = record.findings + battery.findings
        record = dataclasses.replace(record, findings=findings)
        sections = [*sections, battery_section({name: more["battery"]})]
    if distances:
        radii = np.unique(np.linspace(0, 2 * record.epsilon, _NUM_RADII)).tolist()
        found = {row: found.to_dict(epsilons=radii) for row, found in distances.items()}
        more["distances"] = found
        sections = [*sections, minimum_norm_section(found)]
    content = {**origin, **record.to_dict(), **more}
    inputs.write_json(content, path)
    title = f"{name} under attack"
    write_record_page(page, {name: content}, title=title, sections=sections)
    return record
