"""A small convolutional network for digits and MNIST."""

from __future__ import annotations

import flax.linen as nn

from mmc_jax.types import Array


class CNN(nn.Module):
    """Two strided 5x5 convolutions and two dense layers; no batch statistics.

    conv 5x5/2, 32 - ReLU - conv 5x5/2, 64 - ReLU - dense 256 - ReLU - dense
    `feature_dim`, which is z and linear: z must be able to reach any center.
    """

    feature_dim: int = 256
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Return z, `[batch, feature_dim]`."""
        del train
        init = nn.initializers.he_normal()
        hidden = images
        for width in (32, 64):
            hidden = nn.Conv(
                width, (5, 5), strides=(2, 2), kernel_init=init, dtype=self.dtype
            )(hidden)
            hidden = nn.relu(hidden)
        hidden = hidden.reshape((hidden.shape[0], -1))
        hidden = nn.relu(nn.Dense(256, kernel_init=init, dtype=self.dtype)(hidden))
        return nn.Dense(self.feature_dim, kernel_init=init, dtype=self.dtype)(hidden)
