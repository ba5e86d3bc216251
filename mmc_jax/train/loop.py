"""The training loop: the shell around the step.

It draws the order of the data, calls many steps at a time, writes what happened, keeps
checkpoints and stops on a loss that is not finite. Killed anywhere and started again,
it ends with the same parameters, bit for bit on one machine.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np
import tqdm
from absl import logging

from mmc_jax import data, parallel
from mmc_jax.checkpoint import Checkpointer
from mmc_jax.train import build, build_recipe
from mmc_jax.train.log import Log
from mmc_jax.train.step import (
    TrainState,
    create_train_state,
    make_multi_step,
    train_step,
)
from mmc_jax.train.validate import make_validate
from mmc_jax.train.workdir import count_steps, open_workdir


class NonFiniteLossError(RuntimeError):
    """Training has diverged; the last good checkpoint is kept."""


@dataclasses.dataclass
class Run:
    """What the loop works with."""

    config: ml_collections.ConfigDict
    train_data: data.ArrayDataset
    state: TrainState
    multi_step: Callable
    validate: Callable
    schedule: Callable
    steps_per_epoch: int
    devices: Sequence[jax.Device]

    @property
    def score_name(self) -> str:
        """The validation score that decides which checkpoint is best."""
        kind = "adversarial_accuracy" if self.config.attack else "accuracy"
        return f"validation_{kind}"

    @property
    def num_steps(self) -> int:
        """Steps in the whole run."""
        return self.steps_per_epoch * self.config.num_epochs


def train(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    progress: bool = True,
    report: Callable[[float], None] | None = None,
) -> TrainState:
    """Train what a config describes, going on from the work directory's checkpoint.

    Args:
      config: as the files under `configs/` return it.
      workdir: where everything is written.
      progress: whether to show a progress bar.
      report: told, after every call of the device, which fraction of the steps is done.

    Returns:
      The final state.

    Raises:
      ValueError: for a wrong config, or a work directory with another config's run.
      NonFiniteLossError: if the loss is not finite.
      checkpoint.CheckpointError: if a checkpoint cannot be written.
    """
    build.check_config(config)
    splits = load_data(config)
    workdir = open_workdir(workdir, config, splits)
    if splits.is_subset:
        logging.warning(
            "%s is a part of the published data set (%s): no result on it",
            config.dataset,
            splits.sizes,
        )
    run = prepare(config, splits)
    with Checkpointer(workdir / "checkpoints", keep=config.keep_checkpoints) as saved:
        restored = saved.restore(run.state)
        if restored is not None:
            run.state = restored[1]
            logging.warning("Going on from step %d in %s", restored[0], workdir)
        with Log(workdir, step=int(run.state.step)) as log:
            _run_epochs(run, saved, log, progress, report or _say_nothing)
    return run.state


def load_data(config: ml_collections.ConfigDict) -> data.DataSplits:
    """Load the data set of a config, cut to `max_train_images` where it asks.

    What is kept has every class in its proportion.

    Args:
      config: a checked config.

    Returns:
      The splits.

    Raises:
      ValueError: if the training set is smaller than one batch.
    """
    splits = data.load(
        config.dataset,
        data_dir=config.data_dir or None,
        validation_size=config.validation_size,
    )
    splits = data.with_fewer_to_train_on(splits, config.max_train_images)
    size = len(splits.train)
    if size < config.batch_size:
        raise ValueError(
            f"config.batch_size={config.batch_size} is more than the {size} training"
            f" images of {config.dataset}"
        )
    return splits


def prepare(config: ml_collections.ConfigDict, splits: data.DataSplits) -> Run:
    """Build a run at step 0.

    Args:
      config: a checked config.
      splits: its data.

    Returns:
      The run.
    """
    train_data = splits.train
    steps_per_epoch = count_steps(config, splits)
    model = build.create_model(
        config,
        splits.num_classes,
        class_parents=build.class_parents(config, splits),
        training=True,
    )
    state = create_train_state(
        model,
        build.make_optimizer(config, steps_per_epoch),
        jax.random.fold_in(jax.random.key(config.seed), 0),
        train_data.image_shape,
        mean_image=train_data.mean_image(),
        ema_decay=config.optimizer.ema_decay,
    )
    step_fn = functools.partial(
        train_step,
        loss_fn=build.make_loss(config),
        attack=build_recipe.make_attack(config, splits.num_classes),
        attack_scale=build_recipe.make_attack_scale(config, steps_per_epoch),
        crafting=build_recipe.make_crafting(config),
        recipe=build_recipe.make_recipe(config),
        weight_perturbation=build_recipe.make_weight_perturbation(
            config, steps_per_epoch
        ),
        augment=data.make_augment(**config.augment.to_dict()),
        axis_name=parallel.axis_name_for(config.parallel),
    )
    devices = jax.local_devices()[: config.num_devices or None]
    multi_step = parallel.parallelize(
        make_multi_step(step_fn),
        mode=config.parallel,
        devices=devices,
        batch_axes=(None, None, 1, 0, None, None),
        donate=0,
    )
    return Run(
        config=config,
        train_data=train_data,
        state=state,
        multi_step=multi_step,
        validate=make_validate(
            splits.validation,
            model,
            build_recipe.make_validation_attack(config, splits.num_classes),
            mode=config.parallel,
            devices=devices,
        ),
        schedule=build.make_schedule(config, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        devices=devices,
    )


def _say_nothing(done: float) -> None:
    del done


def _run_epochs(
    run: Run,
    saved: Checkpointer,
    log: Log,
    progress: bool,
    report: Callable[[float], None],
) -> None:
    """Take the steps that are left, an epoch and a call at a time."""
    config = run.config
    order_key, step_key = (
        jax.random.fold_in(jax.random.key(config.seed), purpose) for purpose in (1, 2)
    )
    dataset = parallel.replicate(data.to_device(run.train_data), run.devices)
    positions = np.arange(config.batch_size, dtype=np.int32)
    size = len(run.train_data)

    def call(indices, num_steps):
        """Run `num_steps` steps and wait for their mean metrics."""
        count = np.int32(num_steps)
        run.state, metrics = run.multi_step(
            run.state, dataset, indices, positions, count, step_key
        )
        return {name: float(value) for name, value in metrics.items()}

    call(_call_indices(np.arange(size), config, 0)[0], 0)  # compile before the clock
    start = int(run.state.step)
    bar = tqdm.tqdm(
        total=run.num_steps,
        initial=start,
        unit="step",
        disable=not progress,
        dynamic_ncols=True,
    )
    with bar:
        log.start_clock()
        for epoch in range(start // run.steps_per_epoch, config.num_epochs):
            order = np.asarray(data.epoch_permutation(order_key, epoch, size))
            for first in range(0, run.steps_per_epoch, config.steps_per_call):
                left = run.steps_per_epoch - first
                indices, count = _call_indices(order, config, first, left)
                metrics = call(indices, count)
                step = epoch * run.steps_per_epoch + first + count
                _check_finite(metrics, step, count, saved)
                metrics["learning_rate"] = float(run.schedule(step - 1))
                done = count * config.batch_size
                log.write(step, epoch + 1, metrics, num_examples=done)
                bar.set_postfix(loss=f"{metrics['loss']:.4g}", refresh=False)
                bar.update(count)
                report(step / run.num_steps)
            with log.stopped_clock():
                scores = run.validate(run.state.eval_variables)
            log.write(step, epoch + 1, scores)
            last = epoch + 1 == config.num_epochs
            if last or (epoch + 1) % config.checkpoint_every_epochs == 0:
                saved.save(step, run.state, score=scores[run.score_name])


def _call_indices(order, config, first, left=0):
    """Return one call's rows of example indices, padded, and how many count."""
    count = min(config.steps_per_call, left)
    rows = order[first * config.batch_size :][: count * config.batch_size]
    indices = np.zeros((config.steps_per_call, config.batch_size), np.int32)
    indices[:count] = rows.reshape(count, config.batch_size)
    return indices, count


def _check_finite(metrics, step, count, saved):
    if math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"]):
        return
    saved.wait()
    kept = saved.all_steps()
    raise NonFiniteLossError(
        f"the loss is {metrics['loss']} and the gradient norm"
        f" {metrics['gradient_norm']} between steps {step - count} and {step};"
        f" checkpoints kept: {kept or 'none'}. Lower config.optimizer.learning_rate"
        " or config.model.center_norm, or look at the data"
    )
