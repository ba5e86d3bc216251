"""What a data set is once it is in memory, and every check on the way in.

`ArrayDataset` is one split, `DataSplits` the three that a run needs. Pixels are uint8
(level k stands for k/255), so that a whole data set fits on a device; labels are int32.
Whatever is wrong with an array is a ValueError here, and nowhere further down.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


class DataNotFoundError(FileNotFoundError, ValueError):
    """No data where it was looked for; the message says where, and what to do."""


_LEVEL_TOLERANCE = 1e-3  # Of a level; float32 k/255 is off by 2e-5 of a level at most.


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset:
    """One split, checked when it is made.

    Attributes:
        images: uint8 `[size, height, width, channels]`.
        labels: int32 `[size]`.
        coarse_labels: int32 `[size]`, or None where the data set has none.
    """

    images: np.ndarray
    labels: np.ndarray
    coarse_labels: np.ndarray | None = None

    def __post_init__(self):
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                "images must be uint8 [size, height, width, channels], got "
                f"{self.images.dtype} {list(self.images.shape)}"
            )
        if self.images.size == 0:
            raise ValueError(f"images are empty: shape {list(self.images.shape)}")
        for name in ("labels", "coarse_labels"):
            labels = getattr(self, name)
            if labels is None and name == "coarse_labels":
                continue
            if labels.dtype != np.int32 or labels.shape != self.images.shape[:1]:
                raise ValueError(
                    f"{name} must be int32 [{len(self.images)}], one per image, got "
                    f"{labels.dtype} {list(labels.shape)}"
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.images.shape[1:]

    def take(self, indices: np.ndarray | slice) -> ArrayDataset:
        """Return the examples at `indices`, in that order."""
        coarse = self.coarse_labels
        return ArrayDataset(
            self.images[indices],
            self.labels[indices],
            None if coarse is None else coarse[indices],
        )

    def mean_image(self) -> np.ndarray:
        """Return the mean image, float32 `[height, width, channels]` in [0, 1]."""
        total = self.images.sum(axis=0, dtype=np.int64)
        return (total / (255.0 * len(self))).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class SourceData:
    """A data set as its source has it: no validation split yet.

    The attributes are those of `DataSplits`.
    """

    train: ArrayDataset
    test: ArrayDataset
    num_classes: int
    source: str
    num_coarse_classes: int | None = None
    label_names: tuple[str, ...] | None = None
    full_sizes: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class DataSplits:
    """The three splits of a data set.

    Attributes:
        name: as given to `load`.
        train: what parameters are fitted to.
        validation: held out of the training images; what recipes are chosen on.
        test: the data set's own test images, untouched; what is reported.
        num_classes: labels are 0 to num_classes - 1.
        source: where the images came from, for the record.
        num_coarse_classes: likewise for coarse labels; None where there are none.
        label_names: one name per class, or None.
        full_sizes: (training, test) images of the published data set; None where
            nothing can be missing (digits, a user's own arrays).
    """

    name: str
    train: ArrayDataset
    validation: ArrayDataset
    test: ArrayDataset
    num_classes: int
    source: str
    num_coarse_classes: int | None = None
    label_names: tuple[str, ...] | None = None
    full_sizes: tuple[int, int] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Images per split."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
        }

    @functools.cached_property
    def sha256(self) -> dict[str, str]:
        """The digest of each split: of its pixels, then of its labels."""
        return {
            name: hashlib.sha256(
                np.ascontiguousarray(split.images).tobytes()
                + split.labels.astype("<i4").tobytes()
            ).hexdigest()
            for name, split in (
                ("train", self.train),
                ("validation", self.validation),
                ("test", self.test),
            )
        }

    def describe(self) -> dict[str, Any]:
        """Return where the images come from and what tells them apart, plain data."""
        return {
            "name": self.name,
            "source": self.source,
            "sizes": self.sizes,
            "sha256": self.sha256,
            "is_subset": self.is_subset,
        }

    def differences(self, described: Mapping[str, Any]) -> str:
        """Say how these data differ from others.

        Args:
            described: what their `describe` returned; earlier records have no digests.

        Returns:
            A few words, empty where they are the same.
        """
        sizes, digests = described["sizes"], described.get("sha256", self.sha256)
        if sizes != self.sizes:
            return f"{sizes} images there, {self.sizes} now"
        changed = [name for name in digests if digests[name] != self.sha256[name]]
        others = f"as many, but other images or labels in {', '.join(changed)}"
        return others if changed else ""

    @property
    def is_subset(self) -> bool:
        """Whether images of the published data set are missing.

        Numbers from a subset are not results on the data set, and reports must say so.
        """
        if self.full_sizes is None:
            return False
        found = (len(self.train) + len(self.validation), len(self.test))
        return found != self.full_sizes

    def class_parents(self) -> np.ndarray:
        """Return the coarse label of each class, int32 `[num_classes]`.

        Raises:
            ValueError: no coarse labels, or a class with none or with several.
        """
        # All splits: a training set that was cut down may lack a class.
        splits = [self.train, self.validation, self.test]
        coarse = [s.coarse_labels for s in splits if s.coarse_labels is not None]
        if len(coarse) < len(splits):
            raise ValueError(f"{self.name} has no coarse labels")
        labels, coarse_labels = (
            np.concatenate(arrays) for arrays in ([s.labels for s in splits], coarse)
        )
        parents = np.full(self.num_classes, -1, np.int32)
        parents[labels] = coarse_labels
        unclear = np.flatnonzero(parents[labels] != coarse_labels)
        if unclear.size or parents.min() < 0:
            label = labels[unclear[0]] if unclear.size else np.argmin(parents)
            raise ValueError(
                f"class {label} of {self.name} must have exactly one coarse label"
            )
        return parents


def as_labels(labels: np.ndarray, name: str, num_classes: int | None) -> np.ndarray:
    """Check integer labels and return them as int32 `[size]`.

    Args:
        labels: what was read.
        name: what to call them in a message.
        num_classes: one more than the largest label; None where it is not yet known.

    Raises:
        ValueError: not integers, not one axis, negative, or too large.
    """
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise ValueError(
            f"{name} must be integers of shape [size], got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    largest = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    bad = np.flatnonzero((labels < 0) | (labels > largest))
    if bad.size:
        raise ValueError(
            f"{name}[{bad[0]}] = {labels[bad[0]]} is out of range; accepted: 0 to "
            f"{largest} ({bad.size} of {len(labels)} are out of range)"
        )
    return labels.astype(np.int32)


def as_image_batch(images: np.ndarray, name: str) -> np.ndarray:
    """Check shape, dtype and range; return `[size, height, width, channels]`.

    uint8 stays uint8, float32 and float64 stay what they are.

    Raises:
        ValueError: another rank or dtype, no image, or floats outside [0, 1].
    """
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{name} must be [size, height, width] or [size, height, width, channels], "
            f"got shape {list(images.shape)}"
        )
    if images.dtype not in (np.uint8, np.float32, np.float64):
        raise ValueError(
            f"{name} must be uint8, or float32 or float64 in [0, 1], got {images.dtype}"
        )
    if images.size == 0:
        raise ValueError(f"{name} holds no image: shape {list(images.shape)}")
    if images.dtype != np.uint8:
        _refuse(images, ~((images >= 0) & (images <= 1)), name, "accepted: 0 to 1, raw")
    return images[..., np.newaxis] if images.ndim == 3 else images


def as_levels(images: np.ndarray, name: str) -> np.ndarray:
    """Return images from `as_image_batch` as uint8, without loss.

    Raises:
        ValueError: a float image that is not made of multiples of 1/255.
    """
    if images.dtype == np.uint8:
        return images
    levels = np.round(images * 255)
    off_level = np.abs(images * 255 - levels) > _LEVEL_TOLERANCE
    _refuse(
        images,
        off_level,
        name,
        "accepted: multiples of 1/255, since data are kept as uint8; if rounding is "
        "meant, store np.round(images * 255).astype(np.uint8)",
    )
    return levels.astype(np.uint8)


def _refuse(images: np.ndarray, is_bad: np.ndarray, name: str, accepted: str) -> None:
    if is_bad.any():
        first = np.unravel_index(np.argmax(is_bad), images.shape)
        where = ", ".join(str(index) for index in first)
        raise ValueError(
            f"{name}[{where}] = {images[first]}; {accepted} "
            f"({np.count_nonzero(is_bad)} of {images.size} values are not)"
        )
