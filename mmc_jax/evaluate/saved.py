"""Adversarial images on disk, for another tool to judge."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from mmc_jax.evaluate.record import EvaluationRecord
from mmc_jax.types import Array


def save_images(
    record: EvaluationRecord,
    labels: Array | np.ndarray,
    path: str | os.PathLike[str],
) -> None:
    """Write the worst-case images of a record to an `.npz`, whole or not at all.

    It holds `adv_images`, float32 `[num, height, width, channels]`, the clean image
    where nothing broke it; `labels` and `example_ids`, integers `[num]`; `norm`,
    `epsilon` and `bounds`; and `sha256`, of the images as `digests` says.

    Args:
      record: of an evaluation with `keep_images=True`.
      labels: its true labels, `[num]`.
      path: the file, whatever its ending; missing directories are made.

    Raises:
      ValueError: if the record kept no images.
    """
    if record.images is None:
        raise ValueError("the record kept no images: evaluate with keep_images=True")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            adv_images=record.images,
            labels=np.asarray(labels),
            example_ids=record.example_ids,
            norm=record.norm,
            epsilon=record.epsilon,
            bounds=np.asarray(record.bounds),
            sha256=record.sha256["adv_images"],
        )
    partial.replace(path)
