"""What stays the same during an evaluation."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from mmc_jax import parallel
from mmc_jax.attacks.costs import Passes
from mmc_jax.environment import describe_environment, describe_key
from mmc_jax.evaluate import digests
from mmc_jax.evaluate.checks import Examples
from mmc_jax.evaluate.rows import Row
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_VERSIONS = ("mmc_jax", "source_sha256", "jax", "jaxlib", "platform")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One evaluation, checked; `robust_accuracy` says what the fields are."""

    logits_fn: LogitsFn | StochasticLogitsFn
    examples: Examples
    rows: list[Row]
    passes: dict[str, Passes]
    """By row, what one surviving image takes."""
    key: Array
    norm: str
    epsilon: float
    mode: str
    bounds: tuple[float, float]
    num_classes: int
    batch_size: int
    """A multiple of the number of devices."""
    devices: tuple[jax.Device, ...]
    keep_images: bool
    sha256: dict[str, str]
    """`model`, `images` and `labels`: digests as in `digests`."""

    @functools.cached_property
    def replicated_logits_fn(self) -> LogitsFn | StochasticLogitsFn:
        """The classifier with its weights on every device."""
        return parallel.replicate(self.logits_fn, self.devices)

    def identity(self) -> dict[str, Any]:
        """Return, as plain data, all that outcomes depend on: what a journal is of.

        Batch size and devices are not in it: results do not depend on them.
        """
        environment = describe_environment()
        versions = {name: environment[name] for name in _VERSIONS}
        return {
            **{f"{name} (sha256)": digest for name, digest in self.sha256.items()},
            "example_ids (sha256)": digests.digest_integers(self.examples.ids),
            "key": describe_key(self.key),
            "norm": self.norm,
            "epsilon": self.epsilon,
            "bounds": list(self.bounds),
            "mode": self.mode,
            "keep_images": self.keep_images,
            "rows": [row.name for row in self.rows],
            "attacks": {
                row.name: {
                    "name": row.attack_name,
                    "targeted": row.targeted,
                    **row.hyperparameters,
                }
                for row in self.rows
            },
            "versions": versions | {"device": jax.devices()[0].device_kind},
        }
