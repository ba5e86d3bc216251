"""The work directory: what a run leaves behind, and how to read a model back.

run.json        the resolved config, data set, seed, versions, git revision
metrics.jsonl   one line a log step
tensorboard/    the same for TensorBoard
checkpoints/    the last ones, and the best by validation
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from mmc_jax import data, models
from mmc_jax.checkpoint import Checkpointer
from mmc_jax.environment import describe_environment
from mmc_jax.train import build
from mmc_jax.train.step import TrainState, create_train_state
from mmc_jax.types import LogitsFn, Variables

# A run may go on under other values of these: no step that is taken depends on them.
_MAY_CHANGE = (
    "data_dir",
    "num_devices",
    "parallel",
    "steps_per_call",
    "num_epochs",
    "checkpoint_every_epochs",
    "keep_checkpoints",
)

# Fields that earlier records lack, at what they have always been: where a record or a
# config has none, it is the same run.
_ADDED = {
    "attack.labels": "true",
    "attack.statistics": "running",
    "attack.clean_weight": 0.0,
    "attack.statistics_from": "adversarial",
    "loss.label_smoothing": 0.0,
    "recipe.name": "standard",
    "weight_perturbation.gamma": 0.0,
    "weight_perturbation.warmup_epochs": 0,
}


def count_steps(config: ml_collections.ConfigDict, splits: data.DataSplits) -> int:
    """Return how many steps an epoch has: of whole batches alone.

    Args:
      config: the resolved config.
      splits: its data.
    """
    return len(splits.train) // config.batch_size


def open_workdir(
    workdir: str | pathlib.Path,
    config: ml_collections.ConfigDict,
    splits: data.DataSplits,
) -> pathlib.Path:
    """Make a work directory, or check that the run in it is the same one.

    A run that has saved no checkpoint yet is not there: its record is replaced.

    Args:
      workdir: its path.
      config: the resolved config.
      splits: its data.

    Returns:
      The path.

    Raises:
      ValueError: if another config was used there, it names the fields that differ;
        if the data were other ones; if that run is longer than this one; or if there
        are checkpoints that nothing says the run of.
    """
    path = pathlib.Path(workdir)
    record, plain = path / "run.json", json.loads(config.to_json())
    with Checkpointer(path / "checkpoints") as saved:
        steps = saved.all_steps()
    if steps and not record.exists():
        raise ValueError(
            f"{path} holds checkpoints and no run.json, which says of what run they"
            " are; remove its checkpoints/, or use another work directory"
        )
    if steps:
        _check_same_run(path, json.loads(record.read_text()), plain, splits)
        _check_length(path, max(steps), config, splits)
    path.mkdir(parents=True, exist_ok=True)
    content = {
        "config": plain,
        "seed": config.seed,
        "num_classes": splits.num_classes,
        "class_parents": build.class_parents(config, splits),
        "image_shape": splits.train.image_shape,
        "data": splits.describe(),
        "environment": describe_environment(),
    }
    # Written whole or not at all: a killed run must find a readable record.
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(record)
    return path


def _check_same_run(
    path: pathlib.Path,
    recorded: dict[str, Any],
    config: dict[str, Any],
    splits: data.DataSplits,
) -> None:
    """Refuse a recorded run of another config, or on other data."""
    before = _ADDED | _flatten(recorded["config"])
    now = _ADDED | _flatten(config)
    differing = [
        f"config.{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in _MAY_CHANGE
    ]
    if differing:
        raise ValueError(
            f"{path} holds a run with another config ({'; '.join(differing)});"
            " use that config, or another work directory"
        )
    if how := splits.differences(recorded["data"]):
        raise ValueError(
            f"{path} holds a run on other data ({how}); use those data, or another work"
            " directory"
        )


def _check_length(
    path: pathlib.Path,
    step: int,
    config: ml_collections.ConfigDict,
    splits: data.DataSplits,
) -> None:
    """Refuse to give a longer run's model for that of a shorter one."""
    wanted = config.num_epochs * count_steps(config, splits)
    if step > wanted:
        raise ValueError(
            f"{path} holds a run of {step} steps, and num_epochs={config.num_epochs} is"
            f" {wanted}; ask for more epochs, or use another work directory"
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def load(
    workdir: str | pathlib.Path, *, checkpoint: str = "best"
) -> tuple[nn.Module, Variables, LogitsFn, ml_collections.ConfigDict]:
    """Read a trained model back from its work directory.

    Args:
      workdir: where `launch/train.py` wrote it.
      checkpoint: `best` by validation, or `last`.

    Returns:
      The model, its variables (the moving averages where they are kept), its
      `logits_fn` for the attacks, and its config.

    Raises:
      FileNotFoundError: if there is no run or no checkpoint there.
      ValueError: if `checkpoint` is neither `best` nor `last`.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint must be 'best' or 'last', got {checkpoint!r}")
    path = pathlib.Path(workdir)
    if not (path / "run.json").is_file():
        raise FileNotFoundError(f"no run.json in {path}: not a work directory of ours")
    record = json.loads((path / "run.json").read_text())
    config = ml_collections.ConfigDict(record["config"])
    model = build.create_model(
        config,
        record["num_classes"],
        class_parents=record.get("class_parents"),
    )
    template = jax.eval_shape(
        lambda: create_train_state(
            model,
            build.make_optimizer(config, steps_per_epoch=1),
            jax.random.key(0),
            tuple(record["image_shape"]),
            ema_decay=config.optimizer.ema_decay,
        )
    )
    with Checkpointer(path / "checkpoints", keep=config.keep_checkpoints) as saved:
        restored = saved.restore(template, best=checkpoint == "best")
    if restored is None:
        raise FileNotFoundError(f"no checkpoint in {path}: the run saved none yet")
    state: TrainState = restored[1]
    variables = jax.tree.map(jnp.asarray, state.eval_variables)
    return model, variables, models.make_logits_fn(model, variables), config
