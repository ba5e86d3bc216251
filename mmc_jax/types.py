"""The vocabulary: the types and signatures that all of mmc_jax is written in.

Conventions, everywhere outside a model: `batch` is the leading axis; images are
float32 `[batch, height, width, channels]` with values in [0, 1]; labels are int32
`[batch]`; keys are typed (`jax.random.key`); nothing reduces over the batch before
the train step does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from flax import struct

Array = jax.Array

Variables = Mapping[str, Any]
"""A Flax variable dictionary: `params` and, per model, `batch_stats`, `centers`, ..."""

LogitsFn = Callable[[Array], Array]
"""images `[batch, height, width, channels]` in [0, 1] -> logits `[batch, num_classes]`.

Deterministic. As a `jax.tree_util.Partial` its weights are dynamic: new weights do not
recompile an attack.
"""

Objective = Callable[[Array, Array, "Array | None"], Array]
"""(logits `[batch, num_classes]`, labels `[batch]`, targets `[batch]`) -> `[batch]`.

Minimised by every attack; `targets` may be None, which means untargeted.
"""

Metrics = dict[str, Array]
"""Name -> scalar."""


class Attack(Protocol):
    """What every attack looks like once its hyperparameters are bound."""

    def __call__(
        self,
        logits_fn: LogitsFn | StochasticLogitsFn,
        key: Array,
        images: Array,
        labels: Array,
        *,
        targets: Array | None = None,
    ) -> Array:
        """Return adversarial images, shaped and typed like `images`."""
        ...


@jax.tree_util.register_pytree_node_class
class StochasticLogitsFn:
    """A randomised classifier: `fn(images, keys) -> logits`, one key an example.

    Attacks give it a fresh key per step and per sample. `fn` may be a plain callable
    or, for dynamic weights, a `jax.tree_util.Partial`.
    """

    def __init__(self, fn: Callable[[Array, Array], Array]):
        if not isinstance(fn, jax.tree_util.Partial):
            fn = jax.tree_util.Partial(fn)
        self.fn = fn

    def __call__(self, images: Array, keys: Array) -> Array:
        """Return logits `[batch, num_classes]` for `keys` `[batch]`."""
        return self.fn(images, keys)

    def tree_flatten(self) -> tuple[tuple[jax.tree_util.Partial], None]:
        """Split into the pytree `fn` and no static data."""
        return (self.fn,), None

    @classmethod
    def tree_unflatten(
        cls, aux_data: None, children: tuple[jax.tree_util.Partial]
    ) -> StochasticLogitsFn:
        """Rebuild without looking at the child, which may be a placeholder."""
        del aux_data
        instance = object.__new__(cls)
        (instance.fn,) = children
        return instance


@struct.dataclass
class ModelOutput:
    """What a model returns."""

    features: Array
    """z, `[batch, feature_dim]`: the penultimate output."""
    logits: Array
    """`[batch, num_classes]`."""


LossFn = Callable[[ModelOutput, Array, Variables], Array]
"""(output, labels `[batch]`, variables) -> loss `[batch]`."""


@struct.dataclass
class Batch:
    """Examples of one step, or one device's share of them."""

    images: Array
    """float32 `[batch, height, width, channels]` in [0, 1]."""
    labels: Array
    """int32 `[batch]`."""
    positions: Array
    """int32 `[batch]`: each example's position in the whole step's batch.

    Random draws are keyed by it, so that any number of devices gives the same step.
    """


class CoupledLogitsFn(jax.tree_util.Partial):
    """A `Partial` whose logits of one example depend on the others in the batch.

    A network in training mode is one: batch normalisation couples its examples. The
    attacks follow the gradient of the sum of all objectives; of other classifiers they
    may scale each example's own gradient, which is the same direction.
    """


jax.tree_util.register_pytree_node(
    CoupledLogitsFn,
    lambda fn: ((fn.args, fn.keywords), fn.func),
    lambda func, children: CoupledLogitsFn(func, *children[0], **children[1]),
)
