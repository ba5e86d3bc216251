"""Whether an objective has a gradient to follow."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks.objectives import resolve_objective
from mmc_jax.attacks.passes import Problem, direction_pass
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn


@functools.partial(jax.jit, static_argnames="objective")
def _has_zero_gradient(logits_fn, images, labels, targets, keys, objective):
    problem = Problem(logits_fn, labels, targets, objective, num_eot_samples=1)
    _, gradients = direction_pass(problem, images, keys)
    return jnp.all(gradients == 0, axis=tuple(range(1, images.ndim)))


def zero_gradient_fraction(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    *,
    objective: str | Objective,
    targets: Array | np.ndarray | None = None,
    key: Array | None = None,
    batch_size: int = 256,
) -> float:
    """Return the share of images on which the objective's gradient is exactly zero.

    The share of i with d objective(logits_fn(x_i), y_i, t_i) / d x_i = 0 in every
    pixel, as `pgd` and `apgd` compute it. It is taken at the clean images,
    misclassified ones included: a sign-gradient attack without a random start cannot
    move such an image at all.

    Args:
      logits_fn: the classifier, or a `StochasticLogitsFn`.
      images: float32 `[num, height, width, channels]` in [0, 1].
      labels: int `[num]`, the true labels.
      objective: a name in `attacks.objectives.OBJECTIVES`, or a function of that form.
      targets: int `[num]` for the targeted form of the objective.
      key: one key, for a `StochasticLogitsFn` alone.
      batch_size: images per gradient pass; the last batch is padded.

    Returns:
      A fraction in [0, 1].

    Raises:
      ValueError: for no images, labels of another length, an unknown objective, or a
        stochastic classifier without a key.

    Reference: Athalye, Carlini and Wagner, ICML 2018, on vanishing gradients as a form
    of gradient masking.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            "images and labels must have one positive length, got"
            f" {len(images)} and {len(labels)}"
        )
    if isinstance(logits_fn, StochasticLogitsFn) and key is None:
        raise ValueError("a StochasticLogitsFn needs a key, got None")
    objective = resolve_objective(objective)
    if not isinstance(logits_fn, jax.tree_util.Partial | StochasticLogitsFn):
        logits_fn = jax.tree_util.Partial(logits_fn)
    key = jax.random.key(0) if key is None else key
    batch_size = min(batch_size, len(images))
    count = 0
    for start in range(0, len(images), batch_size):
        real = np.arange(start, min(start + batch_size, len(images)))
        index = np.resize(real, batch_size)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(index))
        is_zero = _has_zero_gradient(
            logits_fn,
            jnp.asarray(images[index]),
            jnp.asarray(labels[index]),
            None if targets is None else jnp.asarray(targets[index]),
            keys,
            objective,
        )
        count += int(np.asarray(is_zero)[: len(real)].sum())
    return count / len(images)
