"""The verifier: does what was saved hold? A second opinion on an evaluation.

It shares no code with the attacks, nor with the evaluation's own verdict: it imports
nothing of this project but types, takes norms in float64 numpy one image at a time, and
reads the files that `save_images` and `launch/evaluate.py` write for itself. A test
holds it to that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class SavedImages:
    """What a file of adversarial images holds."""

    adv_images: np.ndarray
    labels: np.ndarray
    example_ids: np.ndarray
    norm: str
    epsilon: float
    bounds: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Verification:
    """What the verifier found; arrays over the images, in the file's order."""

    example_ids: np.ndarray
    clean_correct: np.ndarray
    robust: np.ndarray
    """Right on the clean image and on the saved one, if that counts."""
    margins: np.ndarray
    """The label's logit less the largest other one, on the saved image."""
    norms: np.ndarray
    """float64; NaN where an image is not finite."""
    num_nonfinite: int
    num_outside_box: int
    num_outside_ball: int
    sha256: str
    disagreements: list[str]
    """With the record, each in a sentence; see `compare`."""

    @property
    def holds(self) -> bool:
        """Whether every image is in the ball and the box and nothing disagrees."""
        broken = self.num_nonfinite + self.num_outside_box + self.num_outside_ball
        return not broken and not self.disagreements

    def __str__(self) -> str:
        """Return a few lines."""
        num = len(self.robust)
        largest = np.nanmax(self.norms, initial=0.0)
        return "\n".join(
            [
                f"clean accuracy  {self.clean_correct.sum()} of {num},"
                f" {100 * self.clean_correct.mean():.2f} %",
                f"robust accuracy {self.robust.sum()} of {num},"
                f" {100 * self.robust.mean():.2f} %",
                f"largest norm    {largest:.9g}; {self.num_outside_ball} outside the"
                f" ball, {self.num_outside_box} outside the box,"
                f" {self.num_nonfinite} not finite",
                f"sha256          {self.sha256}",
                *(f"DISAGREES: {sentence}" for sentence in self.disagreements),
            ]
        )


def read_images(path: str | os.PathLike[str]) -> SavedImages:
    """Read a file of `save_images`.

    Args:
      path: the `.npz`.

    Returns:
      Its content.

    Raises:
      ValueError: if it is no such file.
    """
    names = [field.name for field in dataclasses.fields(SavedImages)]
    try:
        with np.load(path, allow_pickle=False) as content:
            found = {name: content[name] for name in names if name in content}
    except (TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz of adversarial images") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    low, high = (float(bound) for bound in found["bounds"])
    return SavedImages(
        adv_images=found["adv_images"],
        labels=found["labels"],
        example_ids=found["example_ids"],
        norm=str(found["norm"]),
        epsilon=float(found["epsilon"]),
        bounds=(low, high),
    )


def verify_images(
    logits_fn: LogitsFn,
    saved: SavedImages,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    record: Mapping[str, Any] | None = None,
) -> Verification:
    """Judge saved adversarial images afresh.

    An image counts if it is finite, in the box and, in float64, within
    epsilon (1 + 1e-6) + 1e-7 of the clean one; else the clean one stands for it.

    Args:
      logits_fn: the classifier, deterministic.
      saved: from `read_images`.
      images: the clean images of the saved ones, `[num, height, width, channels]`, from
        the data set itself.
      labels: their true labels, `[num]`.
      record: what the evaluation wrote, to compare with.

    Returns:
      What holds and what does not.

    Raises:
      ValueError: for images or labels that are not those of the file, or a randomised
        classifier, which gives no verdict twice.
    """
    if isinstance(logits_fn, StochasticLogitsFn):
        raise ValueError("a randomised classifier gives no verdict twice")
    images, labels = np.asarray(images), np.asarray(labels)
    if images.shape != saved.adv_images.shape:
        raise ValueError(
            f"the clean images are {list(images.shape)}, the saved ones"
            f" {list(saved.adv_images.shape)}"
        )
    if not np.array_equal(labels, saved.labels):
        raise ValueError("the labels of the file are not those of the clean images")
    checks = [
        _examine(adv_image, image, saved)
        for adv_image, image in zip(saved.adv_images, images, strict=True)
    ]
    norms, finite, in_box, in_ball = (np.array(c) for c in zip(*checks, strict=True))
    counts = finite & in_box & in_ball
    judged = np.where(counts[:, None, None, None], saved.adv_images, images)
    clean_correct, _ = _judge(logits_fn, images, labels)
    correct, margins = _judge(logits_fn, judged, labels)
    found = Verification(
        example_ids=saved.example_ids,
        clean_correct=clean_correct,
        robust=clean_correct & correct,
        margins=margins,
        norms=norms,
        num_nonfinite=int((~finite).sum()),
        num_outside_box=int((~in_box).sum()),
        num_outside_ball=int((~in_ball).sum()),
        sha256=_sha256(saved.adv_images),
        disagreements=[],
    )
    if record is None:
        return found
    return dataclasses.replace(found, disagreements=compare(found, saved, record))


def compare(
    found: Verification, saved: SavedImages, record: Mapping[str, Any]
) -> list[str]:
    """Say where a verification and the record of the evaluation disagree.

    Args:
      found: from `verify_images`.
      saved: what was verified.
      record: what `launch/evaluate.py` wrote, or `EvaluationRecord.to_dict()`.

    Returns:
      A sentence for each disagreement.

    Raises:
      ValueError: if the record is none.
    """
    lacking = {"norm", "epsilon", "sha256", "per_example"} - record.keys()
    if lacking:
        raise ValueError(f"the record lacks {', '.join(sorted(lacking))}")
    said = [
        f"{name} is {record[name]} in the record, {getattr(saved, name)} in the file"
        for name in ("norm", "epsilon")
        if record[name] != getattr(saved, name)
    ]
    if record["sha256"]["adv_images"] != found.sha256:
        said.append("the images are not those of the record: their sha256 differs")
    bits = record["per_example"]
    verdicts = dict(zip(bits["example_ids"], bits["worst_case"], strict=True))
    for number, robust, margin in zip(
        found.example_ids.tolist(), found.robust, found.margins, strict=True
    ):
        if verdicts.get(number) != str(int(robust)):
            ours = "robust" if robust else "broken"
            theirs = {"1": "robust", "0": "broken", None: "missing"}[
                verdicts.get(number)
            ]
            said.append(
                f"image {number} is {ours}, in the record {theirs}; the label's margin"
                f" is {margin:.3g}"
            )
    return said


def _examine(adv_image, image, saved) -> tuple[float, bool, bool, bool]:
    """Return the norm of one image, and whether it is finite, in box and in ball."""
    delta = adv_image.astype(np.float64) - image.astype(np.float64)
    if not np.isfinite(adv_image).all():
        return float("nan"), False, True, True
    norm = {
        "linf": lambda: np.max(np.abs(delta)),
        "l2": lambda: np.sqrt(np.sum(delta * delta)),
        "l1": lambda: np.sum(np.abs(delta)),
    }[saved.norm]()
    low, high = saved.bounds
    in_box = adv_image.min() >= low and adv_image.max() <= high
    in_ball = norm <= saved.epsilon * (1 + 1e-6) + 1e-7
    return float(norm), True, bool(in_box), bool(in_ball)


def _judge(logits_fn, images, labels) -> tuple[np.ndarray, np.ndarray]:
    """Return which images are given their label, and the label's margins."""
    run = jax.jit(logits_fn)
    correct, margins = np.zeros(len(images), bool), np.zeros(len(images))
    for first in range(0, len(images), _BATCH_SIZE):
        part = images[first : first + _BATCH_SIZE]
        filled = np.zeros((_BATCH_SIZE, *part.shape[1:]), np.float32)
        filled[: len(part)] = part
        with jax.default_matmul_precision("highest"):
            logits = np.asarray(run(filled), np.float64)[: len(part)]
        for place, row in enumerate(logits, start=first):
            label = labels[place]
            correct[place] = not np.isnan(row).any() and row.argmax() == label
            margins[place] = row[label] - np.delete(row, label).max()
    return correct, margins


def _sha256(images: np.ndarray) -> str:
    whole = hashlib.sha256()
    for image in images:
        whole.update(hashlib.sha256(image.astype("<f4").tobytes()).digest())
    return whole.hexdigest()
