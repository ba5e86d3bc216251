"""The measurements behind the paper's figures, as kinds of cell take them.

Each hands what a task has to the function of the file beside this one that measures.
"""

from __future__ import annotations

from typing import Any

from mmc_jax.evaluate import inputs
from mmc_jax.experiments.convergence import measure_convergence
from mmc_jax.experiments.detection import measure_detection
from mmc_jax.experiments.extra_cost import measure_extra_cost
from mmc_jax.experiments.feature_paths import measure_feature_paths
from mmc_jax.experiments.subject import Task
from mmc_jax.experiments.toy import measure_toy
from mmc_jax.models import make_features_fn
from mmc_jax.train import read_metrics


def measure_run(task: Task, **settings: Any) -> dict[str, Any]:
    """Return how soon the run of the one model converged."""
    return measure_convergence(read_metrics(task.subject.workdir), **settings)


def measure_step(task: Task, **settings: Any) -> dict[str, Any]:
    """Return what the train step costs, on images shaped like those of the data."""
    height, width, channels = task.splits.train.image_shape
    return measure_extra_cost(
        task.key,
        image_shape=(height, width, channels),
        num_classes=task.splits.num_classes,
        **settings,
    )


def measure_paths(task: Task, **settings: Any) -> dict[str, Any]:
    """Return where the test images' features are, and how attacks move them."""
    subject = task.subject
    return measure_feature_paths(
        subject.logits_fn,
        make_features_fn(subject.model, subject.variables),
        task.key,
        *task.test(),
        centers=subject.variables.get("centers", {}).get("centers"),
        **settings,
    )


def measure_scores(
    task: Task, *, epsilon: str, num_images: int, **settings: Any
) -> dict[str, Any]:
    """Return how well scores of the one model tell attacked images from clean ones."""
    return measure_detection(
        task.subject.logits_fn,
        task.key,
        *task.test(num_images),
        epsilon=inputs.parse_number(epsilon, "epsilon"),
        **settings,
    )


def measure_trackability(task: Task, **settings: Any) -> dict[str, Any]:
    """Return the ways of class means and centers; it needs neither model nor data."""
    return measure_toy(task.key, **settings)
