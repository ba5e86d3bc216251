"""Wrong inputs, and how they are checked: the rows stand in `bad_input*_test.py`.

To add a row: its id, a call that takes a scratch directory, the exception, and a
regular expression that the message matches. `.*` in it spans lines.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from mmc_jax import (
    attacks,
    data,
    evaluate,
)
from mmc_jax.train import build

KEY_SEED = 0
IMAGES = np.full((4, 4, 4, 1), 0.5, np.float32)
LABELS = np.array([0, 1, 2, 0], np.int32)
FEATURES = jnp.zeros((4, 6))
MEANS = jnp.ones((3, 6))


@dataclasses.dataclass(frozen=True)
class Row:
    """A wrong input."""

    id: str
    call: Callable[[pathlib.Path], Any]
    exception: type[Exception]
    regex: str


def three_logits(images):
    """Classify into three classes by the image's mean."""
    return images.mean((1, 2, 3))[:, None] * jnp.arange(3.0)[None, :]


def make_key():
    return jax.random.key(KEY_SEED)


def attack_good_images(attack=attacks.pgd, **changes):
    """Attack four good images with one thing changed."""
    arguments = dict(
        logits_fn=three_logits,
        key=make_key(),
        images=IMAGES,
        labels=LABELS,
        epsilon=0.1,
    )
    return attack(**(arguments | changes))


def judge_good_images(logits_fn=three_logits, images=IMAGES, labels=LABELS, **changes):
    arguments = dict(
        attacks={"a row": dict(name="fgsm")}, key=make_key(), norm="linf", epsilon=0.1
    )
    return evaluate.robust_accuracy(logits_fn, images, labels, **(arguments | changes))


def load_npz(directory: pathlib.Path, **changes):
    """Write a good data set with something changed (None: left out), and load it."""
    content = dict(
        train_images=np.zeros((30, 4, 4, 1), np.uint8),
        train_labels=np.arange(30) % 3,
        test_images=np.zeros((6, 4, 4, 1), np.uint8),
        test_labels=np.arange(6) % 3,
    )
    content |= changes
    path = directory / "mine.npz"
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return data.load(str(path))


def load_garbage(directory: pathlib.Path):
    path = directory / "garbage.npz"
    path.write_text("not a zip file")
    return data.load(path)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[1] = value
    return changed


def check_config(**changes):
    """Check the digits config with fields changed, written `section__name=value`."""
    config = digits.get_config()
    config.num_devices = 1
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    build.check_config(config)


def check(row: Row, tmp_path: pathlib.Path) -> None:
    """Check that the message names the value and what is accepted."""
    with pytest.raises(row.exception) as caught:
        row.call(tmp_path)
    message = str(caught.value)
    assert re.search(row.regex, message, re.DOTALL), message
