"""Models: `create` one by name, and `make_logits_fn` to hand it to an attack.

>>> import jax, jax.numpy as jnp
>>> from mmc_jax import models
>>> model = models.create("cnn", num_classes=10, head="mahalanobis")
>>> images = jnp.zeros((2, 8, 8, 1))
>>> variables = model.init(jax.random.key(0), images)
>>> output = model.apply(variables, images)
>>> output.features.shape, output.logits.shape
((2, 256), (2, 10))
>>> logits_fn = models.make_logits_fn(model, variables)
>>> logits_fn(images).shape
(2, 10)

Each backbone has a file; `heads` has what they share, from mean image to logits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import numpy as np

from mmc_jax.centers import check_center_sizes, hierarchical_centers
from mmc_jax.models.cnn import CNN
from mmc_jax.models.heads import CENTER_KINDS, HEADS, Classifier
from mmc_jax.models.resnet import ResNet
from mmc_jax.models.wide_resnet import WideResNet
from mmc_jax.types import Array, ModelOutput, Variables

DTYPES = ("float32", "bfloat16")


class Backbone(NamedTuple):
    """A row of `MODELS`."""

    make: Callable[..., nn.Module]
    """(feature_dim, dtype, axis_name) -> module from images to features."""
    feature_dim: int
    """The default."""


def _make_cnn(*, feature_dim: int, dtype: str, axis_name: str | None) -> nn.Module:
    del axis_name  # there are no batch statistics to synchronise
    return CNN(feature_dim=feature_dim, dtype=dtype)


MODELS: dict[str, Backbone] = {
    "cnn": Backbone(_make_cnn, 256),
    "resnet20_v1": Backbone(functools.partial(ResNet, num_blocks=3, version=1), 64),
    "resnet32_v1": Backbone(functools.partial(ResNet, num_blocks=5, version=1), 64),
    "resnet110_v1": Backbone(functools.partial(ResNet, num_blocks=18, version=1), 64),
    "resnet20_v2": Backbone(functools.partial(ResNet, num_blocks=3, version=2), 256),
    "resnet32_v2": Backbone(functools.partial(ResNet, num_blocks=5, version=2), 256),
    "resnet110_v2": Backbone(functools.partial(ResNet, num_blocks=18, version=2), 256),
    "wide_resnet_28_10": Backbone(functools.partial(WideResNet, num_blocks=4), 640),
    "wide_resnet_34_10": Backbone(functools.partial(WideResNet, num_blocks=5), 640),
}
"""Every model that a config may name."""


def create(
    name: str,
    *,
    num_classes: int,
    head: str = "softmax",
    feature_dim: int | None = None,
    center_norm: float = 10.0,
    centers: str = "optimal",
    center_seed: int = 0,
    class_parents: Sequence[int] | np.ndarray | None = None,
    child_center_norm: float = 1.0,
    dtype: str = "float32",
    axis_name: str | None = None,
) -> Classifier:
    """Return the named model: `model.apply(variables, images, train) -> ModelOutput`.

    Models are hashable, and equal if made with equal arguments.

    Args:
      name: a key of `MODELS`.
      num_classes: at least 2, and no more than 2 where feature_dim is 1.
      head: one of `HEADS`: among them "softmax", linear logits, and "mahalanobis",
        minus the squared distances to fixed centers. The table of all is in
        `mmc_jax/models/heads.py`; `losses.head_of` says which one a loss needs.
      feature_dim: size of z, the linear layer below either head; None is the
        architecture's own.
      center_norm: C_MM, norm of the centers, finite and > 0.
      centers: "optimal" (`max_mahalanobis_centers`), "random" (`random_centers`) or
        "hierarchical" (`hierarchical_centers`): where preset centers lie.
      center_seed: seed of the centers, where they have one.
      class_parents: int `[num_classes]`, the parent of each class
        (`DataSplits.class_parents`); for hierarchical centers, which need it.
      child_center_norm: norm of a class's center seen from its parent's, whose norm is
        center_norm; finite and > 0.
      dtype: "float32" or "bfloat16", what the backbone computes in. Weights, features
        and logits are float32.
      axis_name: the mapped axis over which batch normalisation averages its
        statistics while training under `pmap`.

    Returns:
      The module. `make_logits_fn` turns it into what attacks take.

    Raises:
      ValueError: if an argument is not among what is accepted.
    """
    _check_choice("model", name, tuple(MODELS))
    _check_choice("head", head, HEADS)
    _check_choice("centers", centers, CENTER_KINDS)
    _check_choice("dtype", dtype, DTYPES)
    backbone = MODELS[name]
    if feature_dim is None:
        feature_dim = backbone.feature_dim
    check_center_sizes(num_classes, feature_dim, center_norm)
    parents: tuple[int, ...] = ()
    if centers == "hierarchical":
        if class_parents is not None:
            parents = tuple(np.asarray(class_parents).tolist())
        if len(parents) != num_classes:
            raise ValueError(
                "centers='hierarchical' needs class_parents, one parent for each of"
                f" the {num_classes} classes, got {class_parents!r}"
            )
        # Making them is the check; the model makes them again at its init.
        hierarchical_centers(
            np.asarray(parents),
            feature_dim,
            center_norms=(center_norm, child_center_norm),
        )
    return Classifier(
        backbone=backbone.make(
            feature_dim=feature_dim, dtype=dtype, axis_name=axis_name
        ),
        num_classes=num_classes,
        head=head,
        center_norm=center_norm,
        center_kind=centers,
        center_seed=center_seed,
        class_parents=parents,
        child_center_norm=child_center_norm,
    )


def make_logits_fn(model: nn.Module, variables: Variables) -> jax.tree_util.Partial:
    """Return the model in inference mode as the `logits_fn` that attacks take.

    Args:
      model: a module whose output has `.logits`, such as `create` returns.
      variables: its variables; they stay a dynamic part of the result, so other
        variables neither retrace nor recompile what is jitted over it.

    Returns:
      images `[batch, height, width, channels]` -> logits `[batch, num_classes]`. Two
      results for equal models share compilations.
    """
    return jax.tree_util.Partial(_Inference(model, "logits"), variables)


def make_features_fn(model: nn.Module, variables: Variables) -> jax.tree_util.Partial:
    """Return what the model's head reads, in inference mode.

    Args:
      model: a module whose output has `.features`, such as `create` returns.
      variables: its variables, a dynamic part of the result.

    Returns:
      images `[batch, height, width, channels]` -> features `[batch, feature_dim]`.
    """
    return jax.tree_util.Partial(_Inference(model, "features"), variables)


@dataclasses.dataclass(frozen=True)
class _Inference:
    """The static part of a `logits_fn`, equal and hashed by its model."""

    model: nn.Module
    field: str
    """Of `ModelOutput`."""

    def __call__(self, variables: Variables, images: Array) -> Array:
        output = self.model.apply(variables, images, train=False)
        return getattr(cast(ModelOutput, output), self.field)


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"unknown {name} {value!r}; accepted: {', '.join(accepted)}")
