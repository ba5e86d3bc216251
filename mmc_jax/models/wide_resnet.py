"""Wide residual networks, WRN-28-10 and WRN-34-10, as adversarial training uses them.

`depth = 6 n + 4`: a 3x3 stem of 16, three stages of n pre-activation blocks of widths
160, 320 and 640 at full, half and quarter resolution, batch normalisation, ReLU and a
global average, all without biases, as published. Below either head there is one more
layer than published, linear, to z: an average of ReLUs is never negative, and centers
are.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016; without dropout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from mmc_jax.types import Array

Layer = Callable[..., Array]


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, plus the input.

    Where the width changes, the first BN-ReLU is before the branching and a 1x1
    convolution fits the shortcut.
    """

    width: int
    stride: int
    conv: Callable[..., Layer]
    norm: Callable[..., Layer]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Return the block's output, smaller by `stride`, `width` channels."""
        strides = (self.stride, self.stride)
        hidden = nn.relu(self.norm()(images))
        shortcut = images
        if images.shape[-1] != self.width:
            shortcut = self.conv(self.width, (1, 1), strides=strides)(hidden)
        hidden = self.conv(self.width, (3, 3), strides=strides)(hidden)
        hidden = nn.relu(self.norm()(hidden))
        return shortcut + self.conv(self.width, (3, 3))(hidden)


class WideResNet(nn.Module):
    """A wide residual network of `6 n + 4` layers, and the linear layer to z."""

    num_blocks: int
    """n, blocks a stage."""
    feature_dim: int
    widen_factor: int = 10
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Return z, `[batch, feature_dim]`."""
        init = nn.initializers.he_normal()
        conv = functools.partial(
            nn.Conv, use_bias=False, kernel_init=init, dtype=self.dtype
        )
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        hidden = conv(16, (3, 3))(images)
        for stage, width in enumerate((16, 32, 64)):
            for block in range(self.num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = WideBlock(width * self.widen_factor, stride, conv, norm)(
                    hidden
                )
        pooled = jnp.mean(nn.relu(norm()(hidden)), axis=(1, 2))
        return nn.Dense(self.feature_dim, kernel_init=init, dtype=self.dtype)(pooled)
