"""From images to `ModelOutput`: mean subtraction, a backbone, and a head.

`Classifier` is what every model of this package is. Its variables:

| collection | holds | who changes it |
|---|---|---|
| `params` | weights of `backbone` and, for linear heads, `linear` | optimiser |
| `batch_stats` | running statistics of batch normalisation, where there is any | step |
| `preprocessing` | `mean` `[height, width, channels]`, zeros at init | training, once |
| `centers` | `centers` `[num_classes, feature_dim]`, and what a head adds | see below |
| `preset_centers` | `centers` as preset, elastic head only | nobody |

The heads, z the features and mu the centers:

| head | logits | mu at first | who moves mu |
|---|---|---|---|
| `softmax` | linear in z | none | |
| `softmax_with_centers` | linear in z | small, random | the loss's own rule |
| `mahalanobis` | `-||z - mu_k||^2` | preset | nobody |
| `elastic` | `-||z - mu_k||^2` | preset | optimiser |
| `quadratic` | `-sigma_k ||z - mu_k||^2 + B_k` | small, random | optimiser |
| `gaussian` | log-likelihood under N(mu_k, Lambda_k) | small, random | optimiser |
| `unit_gaussian` | log-likelihood under N(mu_k, I) | small, random | optimiser |

Preset centers are those of `CENTER_KINDS`; random ones are Glorot-uniform. `quadratic`
keeps the logarithms of sigma and the biases B beside mu, `gaussian` the logarithms of
the diagonal of Lambda: positive whatever the optimiser does, and 1 at first.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.centers import (
    gaussian_logits,
    hierarchical_centers,
    mahalanobis_logits,
    max_mahalanobis_centers,
    quadratic_logits,
    random_centers,
)
from mmc_jax.types import Array, ModelOutput

LINEAR_HEADS = ("softmax", "softmax_with_centers")
PRESET_HEADS = ("mahalanobis", "elastic")
GAUSSIAN_HEADS = ("quadratic", "gaussian", "unit_gaussian")
HEADS = (*LINEAR_HEADS, *PRESET_HEADS, *GAUSSIAN_HEADS)
CENTER_KINDS = ("optimal", "random", "hierarchical")


class Classifier(nn.Module):
    """A backbone between the subtraction of the mean image and a head.

    Weights are float32 throughout; a backbone may compute in bfloat16, but features
    and logits are float32, since distances to centers do not survive 8 bits.
    """

    backbone: nn.Module
    """(images, train) -> z `[batch, feature_dim]`; has a field `feature_dim`."""
    num_classes: int
    head: str = "softmax"
    """One of `HEADS`."""
    center_norm: float = 10.0
    center_kind: str = "optimal"
    """One of `CENTER_KINDS`."""
    center_seed: int = 0
    class_parents: tuple[int, ...] = ()
    """The parent of each class; hierarchical centers only."""
    child_center_norm: float = 1.0
    """Norm of a class's center seen from its parent's; likewise."""

    @property
    def trains_centers(self) -> bool:
        """Whether the optimiser changes the `centers` collection, all of it."""
        return self.head == "elastic" or self.head in GAUSSIAN_HEADS

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> ModelOutput:
        """Return features and logits of `images` `[batch, height, width, channels]`.

        Args:
          images: float, in [0, 1].
          train: whether batch normalisation uses (and updates) the batch's statistics.

        Raises:
          ValueError: if the images are not floats of the shape seen at init.
        """
        _check_images(images)
        mean = self.variable(
            "preprocessing", "mean", jnp.zeros, images.shape[1:], jnp.float32
        )
        if images.shape[1:] != mean.value.shape:
            raise ValueError(
                f"the model was initialised on images of shape {mean.value.shape}, "
                f"got {images.shape[1:]}"
            )
        features = self.backbone(images - mean.value[None], train)
        features = features.astype(jnp.float32)
        if self.head in PRESET_HEADS:
            centers = self._center("centers", self._make_centers)
            logits = mahalanobis_logits(features, centers)
            if self.head == "elastic":
                self.variable("preset_centers", "centers", self._make_centers)
        elif self.head in GAUSSIAN_HEADS:
            logits = self._gaussian_logits(features)
        else:
            logits = nn.Dense(self.num_classes, name="linear")(features)
            if self.head == "softmax_with_centers":
                self._center("centers", self._draw_centers)
        return ModelOutput(features=features, logits=logits)

    def _gaussian_logits(self, features: Array) -> Array:
        """Return the logits of the heads that train a Gaussian for each class."""
        centers = self._center("centers", self._draw_centers)
        if self.head == "unit_gaussian":
            return gaussian_logits(features, centers)
        if self.head == "gaussian":
            log_variances = self._center("log_variances", jnp.zeros, centers.shape)
            return gaussian_logits(features, centers, log_variances=log_variances)
        log_scales = self._center("log_scales", jnp.zeros, (self.num_classes,))
        biases = self._center("biases", jnp.zeros, (self.num_classes,))
        return quadratic_logits(features, centers, jnp.exp(log_scales), biases)

    def _center(self, name: str, init, *args) -> Array:
        return self.variable("centers", name, init, *args).value

    def _draw_centers(self) -> Array:
        shape = self.num_classes, self.backbone.feature_dim
        init = nn.initializers.glorot_uniform()
        return init(self.make_rng("params"), shape, jnp.float32)

    def _make_centers(self) -> Array:
        sizes = self.num_classes, self.backbone.feature_dim
        if self.center_kind == "random":
            key = jax.random.key(self.center_seed)
            return random_centers(key, *sizes, center_norm=self.center_norm)
        if self.center_kind == "hierarchical":
            return hierarchical_centers(
                np.asarray(self.class_parents),
                self.backbone.feature_dim,
                center_norms=(self.center_norm, self.child_center_norm),
            )
        return max_mahalanobis_centers(
            *sizes, center_norm=self.center_norm, seed=self.center_seed
        )


def _check_images(images: Array) -> None:
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    if images.ndim != 4 or not is_float:
        raise ValueError(
            "images must be floats in [0, 1], [batch, height, width, channels]; "
            f"got {images.dtype} of shape {images.shape}"
        )
