"""Rescaled logits: the same decisions, and a gradient where there was none.

On a Mahalanobis head h_k = -||z - mu_k||^2, and cross-entropy saturates: its gradient
is weighted by the softmax of the wrong classes, which float32 rounds to exactly zero.
An attack may run on other logits, as long as they decide alike:

    soft = make_tempered_logits_fn(logits_fn, 30.0)
    adv_images = pgd(soft, key, images, labels, epsilon=0.1)

Both functions return pytrees: neither new weights nor another temperature recompile.
Judge what comes back by the original `logits_fn`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks.checks import Number, make_logits_pytree
from mmc_jax.attacks.door import survey
from mmc_jax.types import Array, CoupledLogitsFn, LogitsFn, StochasticLogitsFn

_SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)


def make_tempered_logits_fn(
    logits_fn: LogitsFn | StochasticLogitsFn, temperature: float | Array
) -> LogitsFn | StochasticLogitsFn:
    """Divide logits by a temperature: h / T.

    The decision stays, and so does the sign of the gradient of `margin`, `own_class`
    and `pairwise_margin`; `dlr` does not change at all. `cross_entropy` does: at T near
    the distance between logits its softmax neither saturates nor forgets which wrong
    class is near.

    Args:
      logits_fn: the classifier, or a `StochasticLogitsFn`.
      temperature: T, positive; dynamic, and may be traced. MMC with centers of norm 10
        and 10 classes has centers at squared distances of 222, by which to choose it.

    Returns:
      The rescaled classifier, of the same kind: a `jax.tree_util.Partial` or a
      `StochasticLogitsFn`.

    Raises:
      ValueError: a temperature that is not positive and finite, or no classifier.

    Reference: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network";
    against saturated logits, Carlini and Wagner 2016, "Defensive Distillation is not
    Robust to Adversarial Examples".
    """
    number = Number(temperature, lowest=_SMALLEST_TEMPERATURE)
    divisor = number.cast("temperature", 0)
    for name, extremes in survey({"temperature": divisor}).items():
        number.check_range(name, *extremes)
    return _wrap(_divide, logits_fn, jnp.asarray(divisor))


def make_centered_logits_fn(
    logits_fn: LogitsFn | StochasticLogitsFn,
) -> LogitsFn | StochasticLogitsFn:
    """Subtract each example's mean logit: h - mean_k h_k.

    On a Mahalanobis head with centers of equal norm that sum to zero this is
    2 <z, mu_k>: ||z||^2 is gone, and with it what `own_class` would spend its steps on,
    for a z that grows without coming nearer to any other class. Objectives that ignore
    shifts (all others) keep their values. Half of the logits come out positive, which
    attacks of other libraries silently need.

    Args:
      logits_fn: the classifier, or a `StochasticLogitsFn`.

    Returns:
      The centered classifier, of the same kind: a `jax.tree_util.Partial` or a
      `StochasticLogitsFn`.

    Raises:
      ValueError: no classifier.

    Reference: Pang et al. 2020, "Rethinking Softmax Cross-Entropy Loss for Adversarial
    Robustness", of whose logits these are the linear part.
    """
    return _wrap(_center, logits_fn)


def _wrap(rescale, logits_fn, *numbers):
    inner = make_logits_pytree(logits_fn)
    is_coupled = isinstance(inner, CoupledLogitsFn)
    partial = CoupledLogitsFn if is_coupled else jax.tree_util.Partial
    outer = partial(rescale, inner, *numbers)
    is_random = isinstance(inner, StochasticLogitsFn)
    return StochasticLogitsFn(outer) if is_random else outer


def _divide(inner, temperature: Array, images: Array, *keys: Array) -> Array:
    logits = inner(images, *keys)
    return logits / temperature.astype(logits.dtype)


def _center(inner, images: Array, *keys: Array) -> Array:
    logits = inner(images, *keys)
    return logits - jnp.mean(logits, axis=-1, keepdims=True)
