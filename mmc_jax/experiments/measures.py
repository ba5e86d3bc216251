"""The measurements that need no more than `mmc_jax.evaluate`; see `kinds`.

Each goes on after a kill from the journal of its task, and leaves out of its result
what its cell says anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmc_jax import data
from mmc_jax.evaluate import (
    Progress,
    Share,
    checks,
    inputs,
    minimum_norm,
    robust_accuracy,
    transfer_matrix,
)
from mmc_jax.evaluate.journal import Journal
from mmc_jax.evaluate.outcome import to_bits
from mmc_jax.evaluate.verdict import judge_logits
from mmc_jax.experiments.subject import Task

_CLEAN_BATCH = 500
# Images between two lines of a journal, for attacks that are slow and that are not.
_CHUNK = 25
_LARGE_CHUNK = 250


def measure_clean(task: Task) -> dict[str, Any]:
    """Return accuracy on all test images, unattacked.

    Args:
      task: of one model.

    Returns:
      `accuracy`, a share, and `correct`, a bit an image.
    """
    images, labels = task.test()
    logits_fn = checks.as_pytree(task.subject.logits_fn)
    correct = np.zeros(len(labels), bool)
    places = np.arange(len(labels))
    size = min(_CLEAN_BATCH, len(labels))
    keys = jax.random.split(task.key, size)
    for (index,), mask in data.pad_batches(places, batch_size=size):
        logits = judge_logits(logits_fn, images[index], keys)
        right = (logits.argmax(axis=1) == labels[index]) & ~np.isnan(logits).any(axis=1)
        correct[index[mask]] = right[mask]
    share = Share(int(correct.sum()), len(correct))
    return {"accuracy": share.to_dict(), "correct": to_bits(correct)}


def measure_attacks(
    task: Task,
    *,
    rows: Mapping[str, Mapping[str, Any]],
    epsilon: str,
    mode: str,
    num_images: int,
) -> dict[str, Any]:
    """Return what attacks in one ball leave: a record of `robust_accuracy`.

    Args:
      task: of one model.
      rows: row name -> attack.
      epsilon: linf radius, such as `8/255`.
      mode: `individual` or `cascade`.
      num_images: from the first on; 0: all.

    Returns:
      The record as plain data, images' outcomes included.
    """
    images, labels = task.test(num_images)

    def report(state: Progress) -> None:
        task.progress(state.done / max(state.total, 1))

    record = robust_accuracy(
        task.subject.logits_fn,
        images,
        labels,
        rows,
        task.key,
        norm="linf",
        epsilon=inputs.parse_number(epsilon, "epsilon"),
        mode=mode,
        batch_size=task.batch_size,
        num_devices=jax.local_device_count(),
        journal=task.journal,
        progress=report,
    )
    plain = record.to_dict()
    del plain["per_example"]["example_ids"]  # the first ones, in order
    return plain


def measure_minimum_norm(
    task: Task, *, attack: Mapping[str, Any], norm: str, num_images: int
) -> dict[str, Any]:
    """Return the distances at which an attack breaks images, one an image.

    Args:
      task: of one model.
      attack: one without epsilon.
      norm: what distances are measured in.
      num_images: from the first on; 0: all.

    Returns:
      `clean_correct` and `success`, a bit an image; `distances`, None where there is
      none, 0 where the image was misclassified as it is.
    """

    def measure(images, labels, places):
        record = minimum_norm(
            task.subject.logits_fn,
            images,
            labels,
            attack,
            task.key,
            norm=norm,
            example_ids=places,
            batch_size=_CHUNK,
        )
        plain = record.to_dict()["per_example"]
        return {
            "clean_correct": to_bits(record.clean_correct),
            "success": to_bits(record.success),
            "distances": plain["distances"],
        }

    parts = [*_in_chunks(task, num_images, measure)]
    return {
        "num_images": sum(len(part["distances"]) for part in parts),
        "clean_correct": "".join(part["clean_correct"] for part in parts),
        "success": "".join(part["success"] for part in parts),
        "distances": [one for part in parts for one in part["distances"]],
    }


def measure_transfer(
    task: Task,
    *,
    attack: Mapping[str, Any],
    epsilon: str,
    objectives: Mapping[str, str],
    num_images: int,
) -> dict[str, Any]:
    """Return how every model does on images crafted on every model.

    Args:
      task: of several models.
      attack: in an linf ball.
      epsilon: its radius, such as `8/255`.
      objectives: model -> the attack's objective on it.
      num_images: from the first on; 0: all.

    Returns:
      `clean`: model -> bits; `correct`: crafted on -> scored on -> bits.
    """
    names = [*task.subjects]

    def measure(images, labels, places):
        record = transfer_matrix(
            {name: subject.logits_fn for name, subject in task.subjects.items()},
            images,
            labels,
            attack,
            task.key,
            norm="linf",
            epsilon=inputs.parse_number(epsilon, "epsilon"),
            objectives=objectives,
            example_ids=places,
            batch_size=_LARGE_CHUNK,
        )
        return {
            "clean": [to_bits(row) for row in record.clean_correct],
            "correct": [[to_bits(bits) for bits in row] for row in record.correct],
        }

    parts = [*_in_chunks(task, num_images, measure, size=_LARGE_CHUNK)]
    clean = ["".join(bits) for bits in zip(*(p["clean"] for p in parts), strict=True)]
    return {
        "num_images": len(clean[0]),
        "clean": dict(zip(names, clean, strict=True)),
        "correct": {
            source: {
                target: "".join(part["correct"][row][column] for part in parts)
                for column, target in enumerate(names)
            }
            for row, source in enumerate(names)
        },
    }


def _in_chunks(
    task: Task,
    num_images: int,
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, Any]],
    *,
    size: int = _CHUNK,
) -> Iterator[dict[str, Any]]:
    """Yield what is found chunk by chunk of the images, those of a journal first."""
    images, labels = task.test(num_images)
    with Journal(task.journal, {"num_images": len(images), "size": size}) as journal:
        before = [*journal.replay()]
        yield from before
        for first in range(len(before) * size, len(images), size):
            places = np.arange(first, min(first + size, len(images)))
            found = measure(images[places], labels[places], places)
            journal.append(found)
            task.progress((places[-1] + 1) / len(images))
            yield found
