"""How records came to be: the exact command, seeds, versions, digests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmc_jax.report.cells import MISSING, Cell, Table
from mmc_jax.report.comparison import Record
from mmc_jax.report.page import Block, Code, Section, Text

_NOT_RECORDED = "not recorded"
# What a reader asks of each record, and where the record says it.
_ASKED: dict[str, tuple[str, ...]] = {
    "seed of the training": ("config", "seed"),
    "seed of the attacks": ("seed",),
    "key of the attacks": ("key", "data"),
    "random numbers": ("key", "implementation"),
    "model": ("model",),
    "checkpoint": ("checkpoint",),
    "data": ("data",),
    "suite": ("suite",),
    "images": ("num_examples",),
    "norm": ("norm",),
    "epsilon": ("epsilon",),
    "pixels between": ("bounds",),
    "mode": ("mode",),
    "batch size": ("batch_size",),
    "devices": ("num_devices",),
    "seconds": ("seconds",),
}
_OPTIONAL = ("seed of the attacks", "model", "checkpoint", "data", "suite")


def origin_section(
    records: Mapping[str, Record], *, command: str | None = None
) -> Section:
    """Return what made the records: command, seeds, versions, digests.

    What a record does not hold is said to be missing.

    Args:
      records: model name -> record.
      command: what made them; by default the `command` that they hold.

    Returns:
      The section; facts that all records share stand in one column.
    """
    held = [record.get("command") for record in records.values()]
    commands = (
        [command] if command is not None else [*dict.fromkeys(filter(None, held))]
    )
    blocks: list[Block] = [Code(text) for text in commands]
    if not commands:
        blocks.append(Text("The command that made these records was not recorded."))
    blocks += _facts("Seeds and settings", records, _settings)
    if any(record.get("config") for record in records.values()):
        blocks += _facts("Training", records, _training)
    blocks += _facts("Versions", records, lambda record: record["environment"])
    if any("trained_in" in record for record in records.values()):
        blocks += _facts("Versions at training", records, _trained_in)
    return Section("How it was made", blocks)


def _training(record: Record) -> dict[str, Any]:
    return dict(_flatten(record.get("config") or {}, ""))


def _flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _trained_in(record: Record) -> Mapping[str, Any]:
    return record.get("trained_in", {})


def _settings(record: Record) -> dict[str, Any]:
    found = {name: _look_up(record, path) for name, path in _ASKED.items()}
    known = {
        name: value
        for name, value in found.items()
        if value is not None or name not in _OPTIONAL
    }
    digests = record.get("sha256") or {"images": None}
    return known | {f"sha256 of {name}": value for name, value in digests.items()}


def _look_up(record: Record, path: tuple[str, ...]) -> Any:
    value: Any = record
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _facts(
    caption: str,
    records: Mapping[str, Record],
    facts_of: Callable[[Record], Mapping[str, Any]],
) -> list[Table]:
    """Return what all records share in one table, where they differ in another."""
    facts = [facts_of(record) for record in records.values()]
    names = {name: None for found in facts for name in found}
    texts = {name: [_fact(found, name) for found in facts] for name in names}
    shared = [[Cell(n), Cell(t[0])] for n, t in texts.items() if len(set(t)) == 1]
    apart = [[Cell(n), *map(Cell, t)] for n, t in texts.items() if len(set(t)) > 1]
    whose = "all models" if len(records) > 1 else next(iter(records))
    tables = []
    if shared:
        tables.append(Table(caption, ("what", whose), [shared]))
    if apart:
        differ = f"{caption}, where models differ"
        tables.append(Table(differ, ("what", *records), [apart]))
    return tables


def _fact(found: Mapping[str, Any], name: str) -> str:
    """Return a fact; apart, one that does not apply and one that is not known."""
    if found and name not in found:
        return MISSING.text
    value = found.get(name)
    if value is None:
        return _NOT_RECORDED
    return value if value and isinstance(value, str) else json.dumps(value)
