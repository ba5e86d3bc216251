"""The stored cells of an experiment, as its page reads them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmc_jax.evaluate import Share
from mmc_jax.evaluate.outcome import from_bits
from mmc_jax.experiments import store
from mmc_jax.experiments.plan import Plan, Wanted
from mmc_jax.experiments.store import Cell

STRONGEST = "strongest"
"""How the cells of the strongest attack begin."""

CLEAN = "clean"
"""What stands before the first attack of a cascade."""


class View:
    """What is stored of a plan, and what is not."""

    def __init__(self, plan: Plan, folder: pathlib.Path):
        """Read every cell of `plan` that lies in `folder`."""
        self.plan, self.folder = plan, folder
        found = [(wanted, store.read(plan, wanted, folder)) for wanted in plan.wanted]
        self.missing = [wanted for wanted, cell in found if cell is None]
        self.cells = {wanted: cell for wanted, cell in found if cell is not None}
        self._by_model: dict[tuple[str, int], list[Cell]] = {}

    def named(self, group: str, cell: str) -> dict[int, Cell]:
        """Return the cells of that name of one model or group, by seed."""
        return {
            wanted.seed: content
            for wanted, content in self.cells.items()
            if wanted.group == group and wanted.cell == cell
        }

    def of_kind(self, kind: str) -> dict[str, list[Cell]]:
        """Return the cells of a kind by group, seed by seed."""
        found: dict[str, list[Cell]] = {}
        for wanted, content in self.cells.items():
            if wanted.kind == kind:
                found.setdefault(wanted.group, []).append(content)
        return found

    @property
    def radii(self) -> list[str]:
        """The radii that the plan attacks at, in order."""
        radii = {
            wanted.settings["epsilon"]: None
            for wanted in self.plan.wanted
            if wanted.kind == "attacks" and wanted.settings["epsilon"] != "0"
        }
        return [*radii]

    def models_at(self, radius: str) -> list[str]:
        """Return the models that the plan attacks at a radius."""
        models = {
            wanted.group: None
            for wanted in self.plan.wanted
            if wanted.kind == "attacks" and wanted.settings["epsilon"] == radius
        }
        return [*models]

    def clean(self, model: str) -> list[Mapping[str, Any]]:
        """Return clean accuracies on the whole test set, a share a seed."""
        cells = self.named(model, "clean").values()
        return [cell["result"]["accuracy"] for cell in cells]

    def row(self, model: str, radius: str, row: str) -> list[Mapping[str, Any]]:
        """Return what a row leaves at a radius, a share a seed."""
        return [
            cell["result"]["rows"][row]["accuracy"]
            for wanted, cell in self.cells.items()
            if wanted.group == model
            and wanted.kind == "attacks"
            and wanted.settings["epsilon"] == radius
            and row in cell["result"]["rows"]
        ]

    def attacks(self, model: str, radius: str) -> list[Cell]:
        """Return the plan's cells of attacks on a model at a radius."""
        return [
            cell
            for wanted, cell in self.cells.items()
            if wanted.group == model
            and wanted.kind == "attacks"
            and wanted.settings["epsilon"] == radius
        ]

    def worst_case(self, model: str, radius: str) -> list[Mapping[str, Any]]:
        """Return what is left of the images that the strongest attack saw.

        The worst case, image by image, of everything that is stored of attacks on the
        same weights at the same radius, other experiments' cells included. Of several
        seeds each counts alike: those images are judged that it saw at all of them.

        Args:
          model: its name.
          radius: such as `8/255`.

        Returns:
          A share a seed.
        """
        found = []
        for seed, cell in self._strongest(model, radius).items():
            left = from_bits(cell["result"]["per_example"]["worst_case"]).copy()
            for other in self._stored(model, seed):
                if _attacks_alike(other, cell):
                    after = [*images_left(other["result"]).values()][-1][: len(left)]
                    left[: len(after)] &= after
            found.append(left)
        return [_share(left[: _shared(found)]) for left in found]

    def cascade(self, model: str, radius: str) -> dict[str, list[Mapping[str, Any]]]:
        """Return what the strongest attack leaves, attack by attack in its turn.

        Args:
          model: its name.
          radius: such as `8/255`.

        Returns:
          `CLEAN`, and each attack -> shares of the images of `worst_case`, a seed each.
        """
        cells = self._strongest(model, radius).values()
        seeds = [images_left(cell["result"]) for cell in cells]
        shared = _shared([seed[CLEAN] for seed in seeds])
        return {
            name: [_share(seed[name][:shared]) for seed in seeds if name in seed]
            for name in dict.fromkeys(name for seed in seeds for name in seed)
        }

    def _strongest(self, model: str, radius: str) -> dict[int, Cell]:
        """Return the strongest attack's cells by seed.

        Where the plan asks for none, those that another experiment stored.
        """
        name = f"{STRONGEST}_{radius.replace('/', '-')}"
        if any((w.group, w.cell) == (model, name) for w in self.plan.wanted):
            return self.named(model, name)
        return {
            seed: cell
            for seed in self.plan.seeds
            for cell in self._stored(model, seed)
            if cell["identity"]["kind"] == "attacks"
            and cell["result"]["mode"] == "cascade"
            and cell["identity"]["settings"]["epsilon"] == radius
            and cell["identity"]["configs"]
            == self.plan.config_identity(model, seed=seed)
        }

    def _stored(self, model: str, seed: int) -> list[Cell]:
        """Return all that is stored of a model, whichever experiment asked for it."""
        place = model, seed
        if place not in self._by_model:
            folder = self.folder / "cells" / f"{model}_{seed}"
            self._by_model[place] = [*map(store.load, sorted(folder.glob("*.json")))]
        return self._by_model[place]


def images_left(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return which images are left, row by row in their order.

    Args:
      record: of `measures.measure_attacks`.

    Returns:
      `CLEAN` and each row that a ball bounds -> bool `[num_images]`: right as they are,
      and under all rows until then.
    """
    outcomes = record["per_example"]
    found = {CLEAN: from_bits(outcomes["clean"])}
    left = found[CLEAN]
    for name, row in outcomes["rows"].items():
        if record["rows"][name]["in_worst_case"]:
            left = left & ~(from_bits(row["attacked"]) & ~from_bits(row["correct"]))
            found[name] = left
    return found


def _shared(seeds: Sequence[np.ndarray]) -> int:
    """Return how many images, from the first on, all seeds have."""
    return min(map(len, seeds), default=0)


def _share(left: np.ndarray) -> Mapping[str, Any]:
    return Share(int(left.sum()), len(left)).to_dict()


def _attacks_alike(cell: Cell, other: Cell) -> bool:
    """Tell whether two cells attack the same weights, data and ball."""
    one, two = cell["identity"], other["identity"]
    return (
        one["kind"] == two["kind"] == "attacks"
        and one["settings"]["epsilon"] == two["settings"]["epsilon"]
        and cell["models"] == other["models"]
        and _data_alike(cell["data"], other["data"])
    )


def _data_alike(data: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two cells are of the same data, as far as they say: not all do."""
    digests = [each["sha256"] for each in (data, other) if "sha256" in each]
    same = len(digests) < 2 or digests[0] == digests[1]
    return same and data["sizes"] == other["sizes"]


def results(view: View, kind: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return what a kind found, by label, one a seed.

    Args:
      view: of an experiment.
      kind: a key of `kinds.KINDS`.

    Returns:
      Label -> results.
    """
    labels = view.plan.labels
    return {
        labels.get(group, group): [cell["result"] for cell in cells]
        for group, cells in view.of_kind(kind).items()
    }


def describe_missing(wanted: Wanted) -> str:
    """Return how a page names a cell that is not there."""
    return f"{wanted.group}, seed {wanted.seed}: {wanted.cell}"
