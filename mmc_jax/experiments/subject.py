"""What a cell measures: a trained model, its data, and a place for unfinished work."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from mmc_jax import data, train
from mmc_jax.evaluate import checks, digests, inputs
from mmc_jax.experiments.plan import plain_config
from mmc_jax.types import Array, LogitsFn, Variables

_TRAINED = "trained.json"
_LOCK = "training.lock"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model of an experiment, trained or not; read from the disk when it is used."""

    name: str
    config: ml_collections.ConfigDict
    workdir: pathlib.Path

    def is_trained(self, splits: data.DataSplits) -> bool:
        """Tell whether its training is known to be done.

        Args:
          splits: the data at hand.

        Returns:
          Whether a run by this very config, on these data, has ended.

        Raises:
          ValueError: for a damaged record; it names the file.
        """
        path = self.workdir / _TRAINED
        if not path.exists():
            return False
        splits = data.with_fewer_to_train_on(splits, self.config.max_train_images)
        return _read(path) == plain_config(self.config) and not splits.differences(
            self.run["data"]
        )

    def train(self, report: Callable[[float], None]) -> None:
        """Train it, going on from its last checkpoint.

        Args:
          report: told which fraction of the steps is done.

        Raises:
          ValueError: if its work directory holds the run of another config, or of
            other data, or another process trains there.
        """
        self.workdir.mkdir(parents=True, exist_ok=True)
        with (self.workdir / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"another process trains in {self.workdir}; the same command goes"
                    " on once it is done"
                ) from error
            train.train(self.config, self.workdir, progress=False, report=report)
            inputs.write_json(plain_config(self.config), self.workdir / _TRAINED)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Variables, LogitsFn, Any]:
        return train.load(self.workdir)

    @property
    def model(self) -> Any:
        """The Flax module, of the checkpoint that is best by validation."""
        return self._loaded[0]

    @property
    def variables(self) -> Variables:
        """Its variables."""
        return self._loaded[1]

    @property
    def logits_fn(self) -> LogitsFn:
        """The classifier that attacks take."""
        return self._loaded[2]

    @property
    def run(self) -> dict[str, Any]:
        """What its training recorded: config, data, versions."""
        return _read(self.workdir / "run.json")

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of its program and weights."""
        shape = tuple(self.run["image_shape"])
        return digests.digest_model(checks.as_pytree(self.logits_fn), shape)


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove {path.parent} to train anew"
        ) from error


@dataclasses.dataclass(frozen=True)
class Task:
    """What a measurement works on; kinds take it first, their settings by keyword."""

    subjects: Mapping[str, Subject]
    """By model name: one, several that are measured together, or none."""
    splits: data.DataSplits
    seed: int
    batch_size: int
    journal: pathlib.Path
    """Where unfinished work is kept; removed when the cell is written."""
    progress: Callable[[float], None]
    """Told which fraction is done."""

    @property
    def subject(self) -> Subject:
        """The one model."""
        (subject,) = self.subjects.values()
        return subject

    @property
    def key(self) -> Array:
        """Seeds every draw of the measurement."""
        return jax.random.key(self.seed)

    def test(self, num_images: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return test images, float32 in [0, 1], and labels: so many, or 0 for all."""
        split = self.splits.test
        images = split.images[: num_images or None].astype(np.float32)
        return images / np.float32(255), split.labels[: num_images or None]
