"""What an evaluation's page shows of the images themselves, and of their features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import models
from mmc_jax.evaluate import EvaluationRecord
from mmc_jax.report.figures import feature_map
from mmc_jax.report.page import Picture, Section, Text
from mmc_jax.report.pictures import image_triples
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_NUM_TRIPLES = 8
_NUM_POINTS = 1000


def picture_sections(
    record: EvaluationRecord,
    images: np.ndarray,
    labels: np.ndarray,
    logits_fn: LogitsFn | StochasticLogitsFn,
    *,
    loaded: Sequence[Any] | None = None,
    name: str = "the model",
) -> list[Section]:
    """Show what can be shown of an evaluation's images and of their features.

    Args:
      record: of the evaluation.
      images: the clean ones, `[num, height, width, channels]` in [0, 1].
      labels: int `[num]`, the true labels.
      logits_fn: the model.
      loaded: what `train.load` returned, where the model is one of ours.
      name: of the model.

    Returns:
      `triples_section`, where the record kept its images, and `features_section`.
    """
    sections = []
    if record.images is not None:
        sections.append(triples_section(record, images, labels, logits_fn, name=name))
    if loaded is not None:
        model, variables, *_ = loaded
        features_fn = models.make_features_fn(model, variables)
        centers = variables.get("centers", {}).get("centers")
        sections.append(
            features_section(
                features_fn, record, images, labels, centers=centers, name=name
            )
        )
    return sections


def triples_section(
    record: EvaluationRecord,
    images: np.ndarray,
    labels: np.ndarray,
    logits_fn: LogitsFn | StochasticLogitsFn,
    *,
    name: str = "the model",
) -> Section:
    """Show the first images that were broken: clean, adversarial, the difference.

    Args:
      record: of an evaluation that kept its images.
      images: the clean ones, `[num, height, width, channels]` in [0, 1].
      labels: int `[num]`, the true labels.
      logits_fn: the model, which is asked what it reads.
      name: of the model.

    Returns:
      The section: a sentence where nothing was broken, no block where the images have
      other than 1 or 3 channels.

    Raises:
      ValueError: for a record that kept no images, or is of other ones.
    """
    if record.images is None:
        raise ValueError("the record kept no images: evaluate with keep_images=True")
    if record.images.shape != np.shape(images):
        raise ValueError(
            f"images must be those of the record, {record.images.shape}, got"
            f" {np.shape(images)}"
        )
    if images.shape[-1] not in (1, 3):
        return Section("Adversarial images", [])
    broken = np.flatnonzero(record.clean_correct & ~record.robust)[:_NUM_TRIPLES]
    if not len(broken):
        text = Text(f"The attacks break no image of {name}.")
        return Section("Adversarial images", [text])
    adv_images = record.images[broken]
    draw = functools.partial(
        image_triples,
        images[broken],
        adv_images,
        labels[broken],
        _predict(logits_fn, adv_images),
    )
    caption = (
        f"{name}: the first clean images that an attack broke, the adversarial ones,"
        " and their difference, amplified"
    )
    return Section("Adversarial images", [Picture.drawn(draw, "triples.png", caption)])


def _predict(
    logits_fn: LogitsFn | StochasticLogitsFn, images: np.ndarray
) -> np.ndarray:
    batch = jnp.asarray(images)
    if isinstance(logits_fn, StochasticLogitsFn):
        keys = jax.random.split(jax.random.key(0), len(images))
        return np.argmax(logits_fn(batch, keys), axis=-1)
    return np.argmax(logits_fn(batch), axis=-1)


def features_section(
    features_fn: Callable[[Array], Array],
    record: EvaluationRecord,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    centers: Array | np.ndarray | None = None,
    name: str = "the model",
) -> Section:
    """Show features in a plane, and where attacks take some of them.

    Args:
      features_fn: images -> features, such as `models.make_features_fn` returns.
      record: of an evaluation; where it kept its images, lines lead from the features
        of the first broken ones to those of their adversarial images.
      images: the clean ones.
      labels: int `[num]`, the true labels.
      centers: `[num_classes, 2]`; None where the head has none.
      name: of the model.

    Returns:
      The section, without a block where features have other than two dimensions.
    """
    title = "Features"
    if jax.eval_shape(features_fn, jnp.asarray(images[:1])).shape != (1, 2):
        return Section(title, [])
    paths = None
    broken = np.flatnonzero(record.clean_correct & ~record.robust)[:_NUM_TRIPLES]
    if record.images is not None and len(broken):
        ends = (images[broken], record.images[broken])
        paths = np.stack([features_fn(jnp.asarray(end)) for end in ends], axis=1)
    draw = functools.partial(
        feature_map,
        np.asarray(features_fn(jnp.asarray(images[:_NUM_POINTS]))),
        labels[:_NUM_POINTS],
        centers=None if centers is None else np.asarray(centers),
        attack_paths=paths,
        attack_labels=None if paths is None else labels[broken],
        title=f"Features of {name}",
    )
    caption = "Features of clean images, and where attacks took the first broken ones"
    return Section(title, [Picture.drawn(draw, "features.png", caption)])
