"""From images to `ModelOutput`: mean subtraction, a backbone, and one of two heads.

`Classifier` is what every model of this package is. Its variables:

| collection | holds | who changes it |
|---|---|---|
| `params` | weights of `backbone` and, for the softmax head, `linear` | optimiser |
| `batch_stats` | running statistics of batch normalisation, where there is any | step |
| `preprocessing` | `mean` `[height, width, channels]`, zeros at init | training, once |
| `centers` | `centers` `[num_classes, feature_dim]`, Mahalanobis head only | nobody |
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmc_jax.centers import (
    mahalanobis_logits,
    max_mahalanobis_centers,
    random_centers,
)
from mmc_jax.types import Array, ModelOutput

HEADS = ("softmax", "mahalanobis")
CENTER_KINDS = ("optimal", "random")


class Classifier(nn.Module):
    """A backbone between the subtraction of the mean image and a head.

    Weights are float32 throughout; a backbone may compute in bfloat16, but features
    and logits are float32, since distances to centers do not survive 8 bits.
    """

    backbone: nn.Module
    """(images, train) -> z `[batch, feature_dim]`; has a field `feature_dim`."""
    num_classes: int
    head: str = "softmax"
    """One of `HEADS`: linear logits, or minus the squared distances to the centers."""
    center_norm: float = 10.0
    center_kind: str = "optimal"
    """One of `CENTER_KINDS`."""
    center_seed: int = 0

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
        if self.head == "mahalanobis":
            centers = self.variable("centers", "centers", self._make_centers)
            logits = mahalanobis_logits(features, centers.value)
        else:
            logits = nn.Dense(self.num_classes, name="linear")(features)
        return ModelOutput(features=features, logits=logits)

    def _make_centers(self) -> Array:
        sizes = self.num_classes, self.backbone.feature_dim
        if self.center_kind == "random":
            key = jax.random.key(self.center_seed)
            return random_centers(key, *sizes, center_norm=self.center_norm)
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
