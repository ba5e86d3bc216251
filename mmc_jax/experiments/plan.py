"""What an experiment is: models and cells as plain data, and where they lie.

    plan = Plan(**configs.experiments.expand("table1", "mnist", "smoke"))

A model is a config and a seed. A cell is one measurement of one model at one seed, or
of several together: its kind is a key of `kinds.KINDS`, its settings are that kind's
keyword arguments.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

# No number depends on these: not on where the data lie, and what a run may change.
_NOT_IDENTITY = (
    "data_dir",
    "num_devices",
    "parallel",
    "steps_per_call",
    "keep_checkpoints",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """A cell that an experiment asks for."""

    members: tuple[str, ...]
    """The models that it measures: one, several together, or none."""
    seed: int
    cell: str
    """Its name, of its own among those of its models."""
    kind: str
    settings: Mapping[str, Any]

    @property
    def group(self) -> str:
        """How its models are called together."""
        return "+".join(self.members) or "no-model"

    def path(self, folder: pathlib.Path) -> pathlib.Path:
        """Return its file below the folder of a data set and a scale."""
        return folder / "cells" / f"{self.group}_{self.seed}" / f"{self.cell}.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment on a data set at a scale, as `configs/experiments.py` expands it.

    `labels` and `configs` are by model; `left_out` says what the data cannot carry, and
    why; `published` is model -> column -> (number, how certain it is).
    """

    experiment: str
    title: str
    paper: str
    """Where the paper has it."""
    dataset: str
    scale: str
    about: str
    """What the scale is, in a few words."""
    is_trial: bool
    """Whether its numbers mean nothing."""
    labels: Mapping[str, str]
    left_out: Mapping[str, str]
    configs: Mapping[str, ml_collections.ConfigDict]
    cells: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    """Of its tables of accuracies."""
    more: Sequence[str]
    """Further sections, keys of `sections.SECTIONS` or of `kinds.KINDS`."""
    published: Mapping[str, Mapping[str, tuple[float, str]]]

    @functools.cached_property
    def wanted(self) -> list[Wanted]:
        """Every cell, seed by seed, so that one seed of everything comes first."""
        return [Wanted(**cell) for cell in self.cells]

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({wanted.seed for wanted in self.wanted})

    @property
    def command(self) -> str:
        """The command that makes its page."""
        return (
            f"python launch/reproduce.py --experiment={self.experiment}"
            f" --dataset={self.dataset} --scale={self.scale}"
        )

    def command_of(self, wanted: Wanted) -> str:
        """Return the command that makes one of its cells, wherever results lie."""
        command = f"{self.command} --seeds={wanted.seed}"
        # Models that are measured together cannot be chosen from.
        is_alone = len(wanted.members) == 1
        return f"{command} --models={wanted.members[0]}" if is_alone else command

    def config(self, model: str, seed: int) -> ml_collections.ConfigDict:
        """Return the config of a model at a seed."""
        config = copy.deepcopy(self.configs[model])
        config.seed = seed
        return config

    def folder(self, out: pathlib.Path) -> pathlib.Path:
        """Return where its page lies, and the cells that it shares with others."""
        return out / self.dataset / self.scale

    def workdir(self, runs: pathlib.Path, model: str, seed: int) -> pathlib.Path:
        """Return where a model is trained."""
        return runs / self.dataset / self.scale / f"{model}_{seed}"

    def config_identity(self, *models: str, seed: int) -> dict[str, Any]:
        """Return, by model, what is left of configs once nothing idle is in them."""
        return {model: plain_config(self.config(model, seed)) for model in models}

    def identity(self, wanted: Wanted) -> dict[str, Any]:
        """Return, as plain data, all that a cell's numbers depend on but the code."""
        identity = {
            "kind": wanted.kind,
            "settings": dict(wanted.settings),
            "seed": wanted.seed,
            "configs": self.config_identity(*wanted.members, seed=wanted.seed),
        }
        return json.loads(json.dumps(identity))


def plain_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return a config as plain data, without what no number depends on.

    Args:
      config: of a run.

    Returns:
      What JSON holds.
    """
    plain = json.loads(config.to_json())
    return {name: value for name, value in plain.items() if name not in _NOT_IDENTITY}
