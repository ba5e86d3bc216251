"""What the parity tests share: a model in both forms that records what it is shown."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks import keys
from tests.reference.models import TanhModel

BATCH, NUM_CLASSES, HIDDEN = 6, 5, 8
SMALL, LARGE = (4, 4, 2), (11, 13, 2)

seen: list[np.ndarray] = []


def taped_logits(hidden_weights, hidden_bias, weights, bias, images):
    """Record the images, and return the logits of a `TanhModel`."""
    jax.debug.callback(lambda images: seen.append(np.asarray(images)), images)
    flat = images.reshape(len(images), -1)
    hidden = jnp.tanh(flat @ hidden_weights.T + hidden_bias[None, :])
    return hidden @ weights.T + bias[None, :]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model in both forms, images with pixels on the box, labels and targets."""

    model: TanhModel
    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray

    def run(self, attack, *, targeted=False, rows=slice(None), **more):
        """Return what an attack returns, and the images that the model saw."""
        arrays = dataclasses.astuple(self.model)
        logits_fn = jax.tree_util.Partial(
            taped_logits, *(jnp.asarray(array, jnp.float32) for array in arrays)
        )
        seen.clear()
        adv_images = attack(
            logits_fn,
            example_keys(rows),
            jnp.asarray(self.images[rows], jnp.float32),
            jnp.asarray(self.labels[rows], jnp.int32),
            targets=jnp.asarray(self.targets[rows], jnp.int32) if targeted else None,
            **more,
        )
        jax.effects_barrier()
        return np.asarray(adv_images), list(seen)

    def rows(self, targeted=False):
        """Yield index, image, label and target."""
        for i, (image, label, target) in enumerate(
            zip(self.images, self.labels, self.targets, strict=True)
        ):
            yield i, image, int(label), int(target) if targeted else None


def example_keys(rows=slice(None)):
    return jax.random.split(jax.random.key(0), BATCH)[rows]


def salted(name):
    return keys.salted(example_keys(), jnp.uint32(keys.salt(name)), BATCH)


@functools.cache
def case(shape, steepness=4.0, seed=0):
    generator = np.random.default_rng(seed)
    size = int(np.prod(shape))
    model = TanhModel(
        steepness * generator.normal(size=(HIDDEN, size)) / np.sqrt(size),
        generator.normal(size=HIDDEN),
        generator.normal(size=(NUM_CLASSES, HIDDEN)),
        generator.normal(size=NUM_CLASSES),
    )
    images = np.clip(generator.uniform(-0.12, 1.12, (BATCH, *shape)), 0.0, 1.0)
    images = images.astype(np.float32).astype(np.float64)
    logits = np.array([model.logits(image) for image in images])
    labels = np.argmax(logits, axis=1)
    labels[0] = np.argsort(logits[0])[-2]  # One is misclassified from the start.
    targets = (labels + 1 + np.arange(BATCH) % (NUM_CLASSES - 1)) % NUM_CLASSES
    return Case(model, images, labels, targets)


def likely_wrong_classes(model, image, label):
    order = np.argsort(-model.logits(image))
    return [int(k) for k in order if k != label]


def close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
