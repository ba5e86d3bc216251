"""What is left of an experiment will take so long, and so much memory.

One architecture is timed once: a step of training, and a forward and a gradient pass.
The passes of attacks come from `costs`; heads, all small, count as alike.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmc_jax import data, models, parallel
from mmc_jax.attacks.costs import Passes
from mmc_jax.evaluate.cost import PassTimes, format_seconds, time_passes
from mmc_jax.experiments.costs import crafting_passes
from mmc_jax.experiments.kinds import KINDS
from mmc_jax.experiments.plan import Wanted
from mmc_jax.experiments.run import Work, cell_name, training_name
from mmc_jax.experiments.subject import Subject
from mmc_jax.train import build, loop

_MOST_STEPS = 3
# An attack is compiled for four sizes of its batch.
_PROGRAMS = 4


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is left, at most: attacks stop at success, cascades attack ever fewer."""

    training: Mapping[str, float]
    """`training_name` -> seconds."""
    measuring: Mapping[str, float]
    """`cell_name` -> seconds; 0 for what cannot be estimated."""
    unknown: tuple[str, ...]
    """Kinds of cell that cannot be estimated."""
    memory_bytes: int | None
    """On the device: the training images, and one gradient pass over a batch."""

    def __str__(self) -> str:
        """Return one sentence."""
        train, measure = sum(self.training.values()), sum(self.measuring.values())
        memory = "unknown memory"
        if self.memory_bytes is not None:
            memory = f"at least {self.memory_bytes / 2**20:.0f} MiB on the device"
        text = (
            f"About {format_seconds(train)} to train and at most about"
            f" {format_seconds(measure)} to measure, with {memory}"
        )
        if self.unknown:
            text += f"; not counted are cells of {', '.join(self.unknown)}"
        return text + "."


@dataclasses.dataclass(frozen=True)
class _Pace:
    """How fast an architecture is here."""

    step_seconds: float
    passes: PassTimes
    batch_size: int
    """Of the passes."""

    def seconds(self, passes: Passes, num_images: int) -> float:
        """Return the time of so many passes an image."""
        batches = math.ceil(num_images / self.batch_size)
        return batches * (
            passes.forward * self.passes.forward_seconds
            + passes.backward * self.passes.backward_seconds
        )


def estimate_work(work: Work, splits: data.DataSplits, *, batch_size: int) -> Estimate:
    """Time every architecture that is left to work on, and add up.

    Args:
      work: what is missing.
      splits: the data.
      batch_size: images attacked at a time.

    Returns:
      The estimate.
    """
    paces: dict[tuple[Any, ...], _Pace] = {}

    def pace_of(config: ml_collections.ConfigDict) -> _Pace:
        key = (config.model.name, config.model.feature_dim, config.batch_size)
        if key not in paces:
            paces[key] = _time(config, splits, batch_size)
        return paces[key]

    training = {
        training_name(subject): _training_seconds(
            subject, pace_of(subject.config), splits
        )
        for subject in work.untrained
    }
    compiled: set[tuple[Any, ...]] = set()
    measuring = {}
    for wanted in work.missing:
        configs = [work.plan.config(model, wanted.seed) for model in wanted.members]
        found = [(config, pace_of(config)) for config in configs]
        measuring[cell_name(wanted)] = sum(
            _measuring_seconds(wanted, config, pace, splits, compiled) / len(found)
            for config, pace in found
        )
    unknown = {w.kind: None for w in work.missing if KINDS[w.kind].passes is None}
    memory = [pace.passes.memory_bytes for pace in paces.values()]
    known = [size for size in memory if size is not None]
    data_bytes = splits.train.images.nbytes
    return Estimate(
        training, measuring, (*unknown,), max(known) + data_bytes if known else None
    )


def _time(
    config: ml_collections.ConfigDict, splits: data.DataSplits, batch_size: int
) -> _Pace:
    """Time a plain step, and passes over a batch of the model as it starts."""
    plain = ml_collections.ConfigDict(config)
    plain.attack = ml_collections.ConfigDict()
    cut = loop.load_data(plain)
    run = loop.prepare(plain, cut)
    dataset = parallel.replicate(data.to_device(run.train_data), run.devices)
    positions = np.arange(plain.batch_size, dtype=np.int32)
    indices = np.zeros((plain.steps_per_call, plain.batch_size), np.int32)
    key = jax.random.key(0)

    def take(num_steps: int) -> None:
        run.state, metrics = run.multi_step(
            run.state, dataset, indices, positions, np.int32(num_steps), key
        )
        jax.block_until_ready(metrics)

    num_steps = min(_MOST_STEPS, plain.steps_per_call)
    take(num_steps)
    started = time.perf_counter()
    take(num_steps)
    step_seconds = (time.perf_counter() - started) / num_steps
    model = build.create_model(
        plain, splits.num_classes, class_parents=build.class_parents(plain, splits)
    )
    logits_fn = models.make_logits_fn(model, run.state.eval_variables)
    size = min(batch_size, len(splits.test))
    images = jnp.zeros((size, *splits.train.image_shape))
    return _Pace(step_seconds, time_passes(logits_fn, images), size)


def _training_seconds(subject: Subject, pace: _Pace, splits: data.DataSplits) -> float:
    """Return steps, crafting in them, and the validation of every epoch."""
    config = subject.config
    size = config.max_train_images or len(splits.train)
    crafting = crafting_passes(config)
    epoch = size // config.batch_size * pace.step_seconds
    epoch += pace.seconds(crafting, size)
    validation = Passes(1 + crafting.forward, crafting.backward)
    return config.num_epochs * (
        epoch + pace.seconds(validation, len(splits.validation))
    )


def _measuring_seconds(
    wanted: Wanted,
    config: ml_collections.ConfigDict,
    pace: _Pace,
    splits: data.DataSplits,
    compiled: set[tuple[Any, ...]],
) -> float:
    """Return passes, and the programs that no cell before it has compiled."""
    kind = KINDS[wanted.kind]
    if kind.passes is None:
        return 0.0
    passes, num_images = kind.passes(splits.num_classes, **wanted.settings)
    attacks = [*wanted.settings.get("rows", {}).values()]
    attacks += [wanted.settings["attack"]] if "attack" in wanted.settings else []
    programs = {
        (config.loss.name, config.model.name, config.model.centers, a["name"])
        + (a.get("targeted", False), a.get("objective"))
        for a in attacks
    }
    new = programs - compiled
    compiled |= new
    return (
        pace.seconds(passes, num_images or len(splits.test))
        + len(new) * _PROGRAMS * pace.passes.compile_seconds
    )
