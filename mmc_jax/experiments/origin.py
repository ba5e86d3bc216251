"""How the cells of a page came to be: command, models, settings, versions, no times.

Times differ from run to run and are in the cells: the same cells, and those of a run
that was killed and went on, make the same page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmc_jax.experiments.view import View
from mmc_jax.report import Cell, Code, Section, Table, Text
from mmc_jax.report.page import Block

_SHORT = 12
"""Characters of a digest that tell models apart."""


def origin_section(view: View) -> Section:
    """Return what made the cells of an experiment.

    Args:
      view: of the experiment.

    Returns:
      The section.
    """
    blocks: list[Block] = [
        Code(view.plan.command),
        *([_models(view)] if view.plan.configs else []),
        *_weights(view),
        *([_training(view)] if view.plan.configs else []),
        _measurements(view),
        *_versions(view),
    ]
    return Section("How it was made", blocks)


def _models(view: View) -> Table:
    """Return which seeds there are of each model, and which data they were cells of."""
    rows = []
    for model, label in view.plan.labels.items():
        cells = _cells_of(view, model)
        seeds = sorted({cell["identity"]["seed"] for cell in cells})
        sources = sorted({f"{c['data']['source']}, {_sizes(c)}" for c in cells})
        rows.append(
            [
                Cell(label),
                Cell(model),
                Cell(", ".join(map(str, seeds)) or "none yet"),
                Cell("; ".join(sources) or "-"),
            ]
        )
    return Table("Models", ("model", "its name", "seeds", "data"), [rows])


def _cells_of(view: View, model: str) -> list[Mapping[str, Any]]:
    return [cell for wanted, cell in view.cells.items() if model in wanted.members]


def _sizes(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{num:,} {name}" for name, num in cell["data"]["sizes"].items())


def _weights(view: View) -> Iterator[Block]:
    """Yield the digests of the models, and a warning where cells do not share one."""
    digests: dict[tuple[str, int], dict[str, None]] = {}
    for wanted, cell in view.cells.items():
        for model, digest in cell["models"].items():
            place = digests.setdefault((model, wanted.seed), {})
            place[digest[:_SHORT]] = None
    if not digests:
        return
    for (model, seed), found in digests.items():
        if len(found) > 1:
            yield Text(
                f"Cells of {view.plan.labels[model]}, seed {seed}, are of weights that"
                " differ: it was trained again in between. Their worst case counts"
                " attacks on the weights that the strongest attack saw.",
                is_warning=True,
            )
    seeds = sorted({seed for _, seed in digests})
    rows = [
        [
            Cell(label),
            *(
                Cell(", ".join(digests.get((model, seed), {"-": None})))
                for seed in seeds
            ),
        ]
        for model, label in view.plan.labels.items()
    ]
    header = ("model", *(f"seed {seed}" for seed in seeds))
    yield Table("Weights and program, the sha256's beginning", header, [rows])


def _training(view: View) -> Table:
    """Return every field of the configs, models that share a value in one column."""
    flat = {m: dict(_flatten(c.to_dict(), "")) for m, c in view.plan.configs.items()}
    names = {name: None for fields in flat.values() for name in fields}
    rows = []
    for name in names:
        if name in ("seed", "data_dir"):
            continue
        holders: dict[str, list[str]] = {}
        for model, fields in flat.items():
            value = _text(fields[name]) if name in fields else "-"
            holders.setdefault(value, []).append(view.plan.labels[model])
        shared = len(holders) == 1
        texts = [v if shared else f"{v} ({', '.join(m)})" for v, m in holders.items()]
        rows.append([Cell(name), Cell("; ".join(texts))])
    return Table("Training", ("config", "value"), [rows])


def _flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _measurements(view: View) -> Table:
    """Return what was asked for under each cell's name, and of which models."""
    asked: dict[tuple[str, str], dict[str, None]] = {}
    for wanted in view.plan.wanted:
        for entry, text in _settings(wanted.settings):
            place = (f"{wanted.cell}{entry}", f"{wanted.kind}: {text}")
            asked.setdefault(place, {})[f"{wanted.group}_{wanted.seed}"] = None
    num_all = len({f"{w.group}_{w.seed}" for w in view.plan.wanted})
    rows = [
        [
            Cell(name),
            Cell("all" if len(groups) == num_all else ", ".join(groups)),
            Cell(text),
        ]
        for (name, text), groups in asked.items()
    ]
    header = ("measurement", "of", "settings")
    return Table("Measurements, radii in pixels of [0, 1]", header, [rows])


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a line for the settings of a cell, and one for each attack in it."""
    plain = {name: value for name, value in settings.items() if name != "rows"}
    yield "", ", ".join(f"{n} {_text(v)}" for n, v in plain.items()) or "none"
    for row, attack in settings.get("rows", {}).items():
        yield f", {row}", ", ".join(f"{n} {_text(v)}" for n, v in attack.items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) and value else json.dumps(value)


def _versions(view: View) -> Iterator[Block]:
    """Yield what the measurements, and the trainings, ran on."""
    measured = [cell["environment"] for cell in view.cells.values()]
    trained = [e for c in view.cells.values() for e in c["trained_in"].values()]
    for caption, environments in (
        ("Versions at the measurements", measured),
        ("Versions at the trainings", trained),
    ):
        found: dict[str, dict[str, None]] = {}
        for environment in environments:
            for name, value in environment.items():
                if name != "time":
                    found.setdefault(name, {})[_text(value)] = None
        rows = [[Cell(n), Cell(" or ".join(sorted(v)))] for n, v in found.items()]
        if rows:
            yield Table(caption, ("what", "version"), [rows])
