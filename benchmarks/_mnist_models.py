"""The MNIST models that `mnist.py` kept, and the test images they are attacked on."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from mmc_jax import data, models, train
from mmc_jax.types import LogitsFn

_ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = _ROOT / "results" / "mnist"
"""Where the weights lie: `<loss>_<seed>.npz`, `<loss>_adversarial_<seed>.npz`."""


@dataclasses.dataclass(frozen=True)
class Victim:
    """A trained model, as `_peers.make_twin` and the attacks want it."""

    model: str
    """The name of its file."""
    logits_fn: LogitsFn
    variables: Any
    images: np.ndarray
    """Some test images, on which a torch twin is checked."""
    classifier: nn.Module
    """What the variables are of."""
    name: str = "cnn"
    """The architecture."""


def names() -> list[str]:
    """Return the models that are there, plain ones first."""
    found = (path.stem for path in FOLDER.glob("*.npz"))
    return sorted(found, key=lambda model: (is_adversarial(model), model))


def is_adversarial(model: str) -> bool:
    """Tell whether it was trained on adversarial images."""
    return "adversarial" in model


def radius(model: str) -> float:
    """Return the linf radius at which single attacks are compared."""
    return 0.3 if is_adversarial(model) else 0.1


def keep(workdir: pathlib.Path, path: pathlib.Path) -> None:
    """Keep a run's best model: its variables, flattened to `collection/.../name`.

    Later measurements attack these very weights; training is only reproducible bit for
    bit on one kind of machine.
    """
    if not path.exists():
        variables = jax.device_get(train.load(workdir)[1])
        np.savez_compressed(path, **traverse_util.flatten_dict(variables, sep="/"))


@functools.cache
def load(model: str, folder: pathlib.Path = FOLDER) -> Victim:
    """Return a model by the name of its file."""
    with np.load(folder / f"{model}.npz") as arrays:
        variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
    head = "mahalanobis" if "centers" in variables else "softmax"
    classifier = models.create("cnn", num_classes=10, head=head)
    logits_fn = models.make_logits_fn(classifier, variables)
    return Victim(model, logits_fn, variables, test_set()[0][:200], classifier)


@functools.cache
def test_set() -> tuple[np.ndarray, np.ndarray]:
    """Return the MNIST test images, float32 in [0, 1], and their labels, int32."""
    test = data.load("mnist").test
    return np.float32(test.images / 255), np.asarray(test.labels, np.int32)
