"""The paper's residual networks, v1 (basic blocks) and v2 (pre-activation bottlenecks).

Both have a stem, three stages of `num_blocks` blocks, each after the first at half the
resolution, a global average, and a linear layer to z, which softmax models have too.
The names count layers by v1's rule, 6 n + 2; v2 of the same n is 9 n + 2 deep:

| name | n = `num_blocks` | z by default |
|---|---|---|
| resnet20, resnet32, resnet110 | 3, 5, 18 | 64 in v1, 256 in v2 |

They follow the authors' Keras code in what it does differently from He et al.:
convolutions have a bias, batch normalisation has momentum 0.99 and epsilon 1e-3,
shortcuts no normalisation, and v2 takes its bottleneck widths from the stage before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from mmc_jax.types import Array

Layer = Callable[..., Array]


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the input, ReLU."""

    width: int
    stride: int
    conv: Callable[..., Layer]
    norm: Callable[..., Layer]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Return the block's output, smaller by `stride`, `width` channels."""
        strides = (self.stride, self.stride)
        hidden = self.conv(self.width, (3, 3), strides=strides)(images)
        hidden = nn.relu(self.norm()(hidden))
        hidden = self.norm()(self.conv(self.width, (3, 3))(hidden))
        if self.stride != 1:
            images = self.conv(self.width, (1, 1), strides=strides)(images)
        return nn.relu(images + hidden)


class BottleneckBlock(nn.Module):
    """Three times BN-ReLU-conv (1x1, 3x3, 1x1), plus the raw input."""

    width: int
    """Of the first two convolutions."""
    out_width: int
    stride: int
    is_network_input: bool
    """The network's very first block, whose input the stem has just normalised."""
    is_stage_input: bool
    """A stage's first block, where a 1x1 convolution fits the shortcut."""
    conv: Callable[..., Layer]
    norm: Callable[..., Layer]

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Return the block's output; nothing follows the addition."""
        strides = (self.stride, self.stride)
        hidden = images
        if not self.is_network_input:
            hidden = nn.relu(self.norm()(hidden))
        hidden = self.conv(self.width, (1, 1), strides=strides)(hidden)
        hidden = self.conv(self.width, (3, 3))(nn.relu(self.norm()(hidden)))
        hidden = self.conv(self.out_width, (1, 1))(nn.relu(self.norm()(hidden)))
        if self.is_stage_input:
            images = self.conv(self.out_width, (1, 1), strides=strides)(images)
        return images + hidden


class ResNet(nn.Module):
    """A residual network of `6 n + 2` (v1) or `9 n + 2` (v2) layers up to z."""

    num_blocks: int
    """n, blocks a stage."""
    version: int
    """1 or 2."""
    feature_dim: int
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Return z, `[batch, feature_dim]`."""
        init = nn.initializers.he_normal()
        conv = functools.partial(nn.Conv, kernel_init=init, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.99,
            epsilon=1e-3,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        hidden = nn.relu(norm()(conv(16, (3, 3))(images)))
        if self.version == 1:
            hidden = self._basic_stages(hidden, conv, norm)
        else:
            hidden = self._bottleneck_stages(hidden, conv, norm)
        pooled = jnp.mean(hidden, axis=(1, 2))
        return nn.Dense(self.feature_dim, kernel_init=init, dtype=self.dtype)(pooled)

    def _basic_stages(
        self, hidden: Array, conv: Callable[..., Layer], norm: Callable[..., Layer]
    ) -> Array:
        for stage, width in enumerate((16, 32, 64)):
            for block in range(self.num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = BasicBlock(width, stride, conv, norm)(hidden)
        return hidden

    def _bottleneck_stages(
        self, hidden: Array, conv: Callable[..., Layer], norm: Callable[..., Layer]
    ) -> Array:
        for stage, (width, out_width) in enumerate(((16, 64), (64, 128), (128, 256))):
            for block in range(self.num_blocks):
                hidden = BottleneckBlock(
                    width,
                    out_width,
                    stride=2 if stage > 0 and block == 0 else 1,
                    is_network_input=stage == 0 and block == 0,
                    is_stage_input=block == 0,
                    conv=conv,
                    norm=norm,
                )(hidden)
        return nn.relu(norm()(hidden))
