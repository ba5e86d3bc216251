"""The kinds of cell: how each is measured, and which section it may have of its own.

To add one: a function `measure(task, **settings)` that returns plain data, a row in
`KINDS`, its cells in `configs/measurements.py`, its word in an experiment's `measure`
in `configs/experiments.py` and, if it has a section of its own, its name in `more`.
A section is given label -> results, one a seed. `trains=False` is for what needs no
trained model: then `task.subject` has a config, and no weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmc_jax.attacks.costs import Passes
from mmc_jax.experiments import costs, figure_measures, measures
from mmc_jax.experiments.convergence import convergence_section
from mmc_jax.experiments.detection import detection_section
from mmc_jax.experiments.extra_cost import extra_cost_section
from mmc_jax.experiments.feature_paths import feature_paths_section
from mmc_jax.experiments.toy import toy_section
from mmc_jax.report import Section

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Label of a model -> what was measured of it, one a seed."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row of `KINDS`."""

    measure: Callable[..., dict[str, Any]]
    """(task, **settings) -> plain data."""
    section: Callable[[Results], Section] | None = None
    """Its own section of a page; None where tables of the experiment show it."""
    trains: bool = True
    """Whether it needs trained models."""
    passes: Callable[..., tuple[Passes, int]] | None = None
    """(num_classes, **settings) -> passes an image, and on how many images (0: all)."""


KINDS: dict[str, Kind] = {
    "clean": Kind(measures.measure_clean, passes=costs.clean_passes),
    "attacks": Kind(measures.measure_attacks, passes=costs.attack_passes),
    "minimum_norm": Kind(
        measures.measure_minimum_norm, passes=costs.minimum_norm_passes
    ),
    "transfer": Kind(measures.measure_transfer, passes=costs.transfer_passes),
    "convergence": Kind(figure_measures.measure_run, section=convergence_section),
    "extra_cost": Kind(
        figure_measures.measure_step, section=extra_cost_section, trains=False
    ),
    "feature_paths": Kind(figure_measures.measure_paths, section=feature_paths_section),
    "toy": Kind(
        figure_measures.measure_trackability, section=toy_section, trains=False
    ),
    "detection": Kind(figure_measures.measure_scores, section=detection_section),
}
"""Kind of a cell -> how it is measured."""
