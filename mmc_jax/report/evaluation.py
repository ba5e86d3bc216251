"""What one evaluation leaves: its record, as JSON, and its page."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmc_jax.diagnostics import Battery
from mmc_jax.evaluate import EvaluationRecord, inputs
from mmc_jax.report.curves import battery_section
from mmc_jax.report.page import Section
from mmc_jax.report.record_page import write_record_page


def write_evaluation(
    record: EvaluationRecord,
    origin: Mapping[str, Any],
    path: pathlib.Path,
    page: pathlib.Path,
    *,
    name: str,
    sections: Sequence[Section] = (),
    battery: Battery | None = None,
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

    Returns:
      The record, with what the battery found.
    """
    more: dict[str, Any] = {}
    if battery is not None:
        more["battery"] = battery.to_dict()
        findings = record.findings + battery.findings
        record = dataclasses.replace(record, findings=findings)
        sections = [*sections, battery_section({name: more["battery"]})]
    content = {**origin, **record.to_dict(), **more}
    inputs.write_json(content, path)
    title = f"{name} under attack"
    write_record_page(page, {name: content}, title=title, sections=sections)
    return record
