"""Models and PGD on many images: what an attack does on its way, not what it keeps."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import data
from mmc_jax.attacks.gradient_sign import pgd
from mmc_jax.types import Array, LogitsFn, Objective

_BATCH = 1000


@jax.jit
def _call(fn: jax.tree_util.Partial, images: Array) -> Array:
    return fn(images)


def batched(fn: Callable[[Array], Array], images: np.ndarray) -> np.ndarray:
    """Run a model on many images, some at a time, at the highest matmul precision.

    Args:
      fn: images -> `[batch, ...]`; a `Partial` compiles once for all weights.
      images: `[num, height, width, channels]`.

    Returns:
      `[num, ...]` on the host.
    """
    model = fn if isinstance(fn, jax.tree_util.Partial) else jax.tree_util.Partial(fn)
    batches = data.pad_batches(images, batch_size=min(_BATCH, len(images)))
    with jax.default_matmul_precision("highest"):
        return np.concatenate(
            [np.asarray(_call(model, batch))[mask] for (batch,), mask in batches]
        )


def predict(logits_fn: Callable[[Array], Array], images: np.ndarray) -> np.ndarray:
    """Return the class of each image; -1, which is none, where a logit is NaN.

    Args:
      logits_fn: the model.
      images: `[num, height, width, channels]`.

    Returns:
      int `[num]`.
    """
    logits = batched(logits_fn, images)
    return np.where(np.isnan(logits).any(axis=1), -1, logits.argmax(axis=1))


def image_keys(key: Array, num_images: int) -> Array:
    """Return a key an image, which does not depend on how many there are.

    Args:
      key: typed key; not consumed.
      num_images: at least 1.

    Returns:
      keys `[num_images]`.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_images))


def pgd_iterate(
    logits_fn: LogitsFn,
    keys: Array,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    objective: str | Objective,
    epsilon: float,
    step_size: float,
    num_steps: int,
) -> np.ndarray:
    """Return where linf PGD is after so many steps from its random start.

    It stops at no success and returns its last iterate, so that fewer steps with the
    same keys are the first ones of more.

    Args:
      logits_fn: the model.
      keys: `[num]`, not consumed.
      images: float32 `[num, height, width, channels]` in [0, 1].
      labels: int `[num]`, the true labels.
      objective: a name in `attacks.OBJECTIVES`, or such a function.
      epsilon: radius, at least 0.
      step_size: length of a step.
      num_steps: at least 0; 0 is the random start itself.

    Returns:
      `[num, height, width, channels]`.
    """
    # PGD takes at least one step; one of length 0 stays where it starts.
    with jax.default_matmul_precision("highest"):
        adv_images = pgd(
            logits_fn,
            keys,
            jnp.asarray(images),
            jnp.asarray(labels),
            epsilon=epsilon,
            step_size=step_size if num_steps else 0.0,
            num_steps=max(num_steps, 1),
            objective=objective,
            keep="last",
            stop_on_success=False,
        )
    return np.asarray(adv_images)
