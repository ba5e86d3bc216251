"""The outcome of one batch under one row's attack: what a journal holds a line of."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one batch; arrays over its images, padding left out."""

    row: str
    index: np.ndarray
    """int `[batch]`: the images' places in the data set."""
    correct: np.ndarray
    invalid: np.ndarray
    reached: np.ndarray | None
    violations: dict[str, int]
    largest_norm: float
    broken: np.ndarray
    """bool `[batch]`: robust until now, and broken by a row that a ball bounds."""
    correct_8_bits: np.ndarray
    """bool `[num_broken]`: given the true label again once rounded to 8 bits."""
    digests: np.ndarray
    """uint8 `[num_broken, 32]`: sha256 of each adversarial image."""
    images: np.ndarray | None
    """float32 `[num_broken, height, width, channels]`; None if not kept."""
    seconds: float
    elapsed: float
    """Seconds of the whole evaluation until now, those before a kill included."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "row": self.row,
            "index": self.index.tolist(),
            "correct": to_bits(self.correct),
            "invalid": to_bits(self.invalid),
            "reached": None if self.reached is None else to_bits(self.reached),
            "violations": self.violations,
            "largest_norm": self.largest_norm,
            "broken": to_bits(self.broken),
            "correct_8_bits": to_bits(self.correct_8_bits),
            "digests": self.digests.tobytes().hex(),
            "images": None if self.images is None else _encode(self.images),
            "seconds": self.seconds,
            "elapsed": self.elapsed,
        }

    @classmethod
    def from_dict(
        cls, plain: Mapping[str, Any], image_shape: tuple[int, ...]
    ) -> Outcome:
        """Return what `to_dict` made plain data of; images have that shape."""
        reached, images = plain["reached"], plain["images"]
        digests = np.frombuffer(bytes.fromhex(plain["digests"]), np.uint8)
        return cls(
            row=plain["row"],
            index=np.asarray(plain["index"], int),
            correct=from_bits(plain["correct"]),
            invalid=from_bits(plain["invalid"]),
            reached=None if reached is None else from_bits(reached),
            violations=plain["violations"],
            largest_norm=plain["largest_norm"],
            broken=from_bits(plain["broken"]),
            correct_8_bits=from_bits(plain["correct_8_bits"]),
            digests=digests.reshape(-1, 32),
            images=None if images is None else _decode(images, image_shape),
            seconds=plain["seconds"],
            elapsed=plain["elapsed"],
        )


def to_bits(flags: np.ndarray) -> str:
    """Return flags as a string of 0 and 1."""
    return "".join("1" if flag else "0" for flag in flags)


def from_bits(bits: str) -> np.ndarray:
    """Return the flags of a string of 0 and 1."""
    return np.frombuffer(bits.encode(), np.uint8) == ord("1")


def _encode(images: np.ndarray) -> str:
    return base64.b64encode(images.astype("<f4").tobytes()).decode()


def _decode(text: str, image_shape: tuple[int, ...]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(text), "<f4")
    return values.reshape(-1, *image_shape).astype(np.float32)
