"""The page of `results/benchmarks`: what its records say, and which bars they miss."""

from __future__ import annotations

import json
import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

from _paired import CROSS_ENTROPY_CHANGED, markdown

_INTRODUCTION = """\
# Benchmarks

Made by the scripts of `benchmarks/` from the records beside it, which hold the seconds
of every round (but for lowering and memory), seeds and versions. A ratio is the median
over interleaved rounds, 15 where nothing else is said, of contender to reference, with
a bootstrap 95 % interval: below 1 the contender is faster. A bar is met if the lower
end of the interval reaches it. The floor of an attack is as many calls of one jitted
`value_and_grad` (or forward pass) as the attack makes passes.
"""

_NOTES = {
    "attacks": (
        "Where torch is faster, our attack still takes no longer than its passes alone"
        " (the floor): it is torch's passes that are faster. On two cores its whole"
        " attacks take 0.66 of the floor on ResNet-20, 0.88 to 0.90 on the small CNN."
    ),
    "auto_attack": (
        "On one core. The whole misses its bar where images survive: both sides then"
        " make nearly the same passes, 5,000 forward ones an image for Square alone. In"
        " the rows of Square one of ours takes 87 microseconds on softmax_0, one of"
        " torchattacks' 103, which is about what the core can do: only fewer passes"
        " could halve it. On mmc_0 other work disturbed the three rounds: the smallest"
        " ratio meets the bar, the median hardly, and quiet rounds may not. In SPSA"
        " torchattacks draws twice our samples: at equal queries the ratio is half of"
        " what stands here."
    ),
    "lowering": (
        "What `mmc_jax.canonical_convolutions` is for: XLA's convolutions inside loops."
    ),
}
"""Record -> what its numbers alone do not say."""


def write_page(folder: pathlib.Path) -> None:
    """Write README.md beside the records of a folder, from all of them."""
    records = {
        path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")
    }
    sections = [_section(name, records[name]) for name in sorted(records)]
    page = "\n".join([_INTRODUCTION, _missed(records), *sections])
    (folder / "README.md").write_text(page)


def _missed(records: Mapping[str, Any]) -> str:
    rows = [
        f"- {name}: {case}, {row['name']} {_ratio(row)} of {row['reference']},"
        f" bar {row['bar']}"
        for name in sorted(records)
        for case, row in _compared(records[name])
        if row.get("met") is False
    ]
    rows += [
        f"- memory: {_case(row)}, {row['peak_mib']:.0f} MiB"
        for row in records.get("memory", {}).get("rows", ())
        if not row["met"]
    ]
    return "\n".join(["Bars that are missed:", "", *(rows or ["- none"]), ""])


def _section(name: str, record: Mapping[str, Any]) -> str:
    machine, environment = record["machine"], record["environment"]
    cores = machine["cores"]
    about = (
        f"`{record['command']}`, revision {_short(environment['git_revision'])},"
        f" {environment['time'][:10]}; {machine['processor']}, {cores}"
        f" core{'s' if cores > 1 else ''}, load before"
        f" {machine['load_average_before'][0]}; jax {environment['jax']}"
    )
    for peer, version in record.get("peers", {}).items():
        about += f", {peer} {version}"
    if environment["time"] < CROSS_ENTROPY_CHANGED:
        about += ". Before cross-entropy was taken by differences of logits"
    texts = [f"{about}.", *([_NOTES[name]] if name in _NOTES else [])]
    paragraphs = [textwrap.fill(text, 88, break_on_hyphens=False) for text in texts]
    table = _memory(record) if name == "memory" else _ratios(record)
    return "\n\n".join([f"## {name}", *paragraphs, table]) + "\n"


def _short(revision: str) -> str:
    """Return a revision in few letters, and the `+` of one with changes."""
    return revision[:8] + revision[40:]


def _ratios(record: Mapping[str, Any]) -> str:
    rows = [
        [case, row["name"], row["reference"], _ratio(row), _bar(row)]
        for case, row in _compared(record)
    ]
    return markdown(("case", "contender", "reference", "ratio [95 %]", "bar"), rows)


def _memory(record: Mapping[str, Any]) -> str:
    bar = record["bar_mib"]
    rows = [
        [
            _case(row),
            f"{row['peak_mib']:.0f}",
            f"{row['above_mib']:.0f}",
            f"{bar:.0f}: {_verdict(row)}",
        ]
        for row in record["rows"]
    ]
    header = ("case", "peak, MiB", "above what loading takes", "bar for the peak")
    return markdown(header, rows)


def _case(row: Mapping[str, Any]) -> str:
    unit = "samples" if row["attack"] == "spsa" else "steps and queries"
    return (
        f"{row['attack']} by `{row['through']}`, {row['num_images']} images,"
        f" {row['effort']} {unit}"
    )


def _compared(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every row that compares, and its case."""
    tables = [
        table
        for value in record.values()
        if isinstance(value, list)
        for table in value
        if isinstance(table, dict) and {"case", "rows"} <= {*table}
    ]
    return [(_name(table), row) for table in tables for row in table["rows"]]


def _name(table: Mapping[str, Any]) -> str:
    rounds = f", {table['pairs']} rounds" if "pairs" in table else ""
    return f"{table['case']}{rounds}"


def _ratio(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _bar(row: Mapping[str, Any]) -> str:
    return f"{row['bar']}: {_verdict(row)}" if "bar" in row else ""


def _verdict(row: Mapping[str, Any]) -> str:
    return "met" if row["met"] else "MISSED"
