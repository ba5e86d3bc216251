"""Attack objectives: what an attack minimises, one number an example.

`logits` h is `[batch, num_classes]`, `labels` y are the true labels `[batch]`, and
`targets` t are `[batch]` or None (untargeted). Each objective returns `[batch]` and
reduces over nothing. Lower is better for the attacker, everywhere: attacks never flip
a sign.

All of them are invariant to a constant added to the logits of an example, up to that
constant itself: logits of a Mahalanobis head are never positive, so a mask is minus
infinity, not a number that happens to be small.

Which to use: on logits that are distances, `cross_entropy` saturates to a gradient of
exactly zero; the others do not. `relative` has those that compare with the clean image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmc_jax.attacks.relative import RELATIVE_OBJECTIVES
from mmc_jax.types import Array, Objective


def cross_entropy(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Return -CE(h, y), or CE(h, t) when targeted.

    CE(h, k) = log sum_j exp(h_j) - h_k, computed as log(1 + sum_{j!=k} exp(h_j - h_k)):
    in the gradient of the usual form, 1 - p_k becomes 0 as soon as p_k rounds to 1. On
    a softmax CNN on MNIST at linf 0.1, BIM-40 so leaves 26.5 %, with the usual form
    30.3. For distances to far-apart centers the sum itself underflows, and with it the
    gradient; where h_k is minus infinity there is none.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, or None.

    Returns:
      `[batch]`.

    Reference: Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples".
    """
    if targets is None:
        return -_surprise(logits, labels)
    return _surprise(logits, targets)


def margin(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Return h_y - max_{k!=y} h_k, or max_{k!=t} h_k - h_t when targeted.

    Negative means success.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, or None.

    Returns:
      `[batch]`.

    Reference: Carlini and Wagner 2017, "Towards Evaluating the Robustness of Neural
    Networks", their f_6 without the hinge.
    """
    if targets is None:
        return _entry(logits, labels) - _best_other(logits, labels)
    return _best_other(logits, targets) - _entry(logits, targets)


def own_class(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Return h_y, or -h_t when targeted.

    On a Mahalanobis head, h_k = -||z - mu_k||^2, this moves the features away from the
    center of their class or towards the target's: the MMC loss turned against itself.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, or None.

    Returns:
      `[batch]`.

    Reference: Pang et al. 2020, "Rethinking Softmax Cross-Entropy Loss for Adversarial
    Robustness", adaptive attack objectives of the first type.
    """
    if targets is None:
        return _entry(logits, labels)
    return -_entry(logits, targets)


def dlr(logits: Array, labels: Array, targets: Array | None = None) -> Array:
    """Return the difference of logits ratio.

    (h_y - max_{k!=y} h_k) / (h_(1) - h_(3)), or, when targeted,
    (h_y - h_t) / (h_(1) - (h_(3) + h_(4)) / 2), with h_(i) the i-th largest logit.
    Invariant to shifts and to positive rescaling of the logits. Where the denominator
    is zero the numerator is returned.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, or None.

    Returns:
      `[batch]`.

    Raises:
      ValueError: fewer than 3 classes (4 when targeted).

    Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with
    an Ensemble of Diverse Parameter-free Attacks", equations 6 and 7.
    """
    needed = 3 if targets is None else 4
    num_classes = logits.shape[-1]
    if num_classes < needed:
        kind = "dlr" if targets is None else "targeted dlr"
        raise ValueError(f"{kind} needs at least {needed} classes; got {num_classes}.")
    largest, _ = jax.lax.top_k(logits, needed)
    if targets is None:
        numerator = margin(logits, labels)
        spread = largest[:, 0] - largest[:, 2]
    else:
        numerator = _entry(logits, labels) - _entry(logits, targets)
        # Differences first: exact, however far from 0 the logits are.
        spread = (largest[:, :1] - largest[:, 2:]).mean(axis=1)
    return numerator / jnp.where(spread > 0, spread, 1.0)


def pairwise_margin(
    logits: Array, labels: Array, targets: Array | None = None
) -> Array:
    """Return h_y - h_t.

    On a Mahalanobis head with centers of equal norm this is 2 <z, mu_y - mu_t>: linear
    in the features, so it never saturates.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, required.

    Returns:
      `[batch]`.

    Raises:
      ValueError: no targets.

    Reference: Pang et al. 2020, adaptive attack objectives of the second type.
    """
    if targets is None:
        raise ValueError(
            "pairwise_margin needs targets [batch]; got None. Pass targets=..., or "
            "wrap the attack in with_random_targets."
        )
    return _entry(logits, labels) - _entry(logits, targets)


def standardized_margin(
    logits: Array, labels: Array, targets: Array | None = None
) -> Array:
    """Return the margin, or the pairwise margin, over the logits' standard deviation.

    (h_y - max_{k!=y} h_k) / s or, when targeted, (h_y - h_t) / s, where s^2 is the mean
    over classes of (h_k - mean h)^2. Invariant to shifts and to positive rescaling of
    the logits, like `dlr`, with the other classes all in the scale: while h_y leads,
    its descent also spreads them, which leads out of regions where the features are
    stuck. Where s is zero, or with two classes, the numerator is returned.

    Args:
      logits: `[batch, num_classes]`.
      labels: `[batch]` true labels.
      targets: `[batch]` target labels, or None.

    Returns:
      `[batch]`.
    """
    if targets is None:
        numerator = margin(logits, labels)
    else:
        numerator = _entry(logits, labels) - _entry(logits, targets)
    if logits.shape[-1] == 2:
        return numerator
    # Differences first: exact, however far from 0 the logits are.
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    centered = below - jnp.mean(below, axis=-1, keepdims=True)
    variance = jnp.mean(centered**2, axis=-1)
    is_flat = variance == 0
    spread = jnp.where(is_flat, 1.0, jnp.sqrt(jnp.where(is_flat, 1.0, variance)))
    return numerator / spread


OBJECTIVES: dict[str, Objective] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "own_class": own_class,
    "dlr": dlr,
    "pairwise_margin": pairwise_margin,
    "standardized_margin": standardized_margin,
}


def resolve_objective(objective: str | Objective) -> Objective:
    """Return the objective of that name, or the function itself.

    Args:
      objective: a key of `OBJECTIVES` or `RELATIVE_OBJECTIVES`, or any function with an
        objective's signature.

    Returns:
      The function; one of `RELATIVE_OBJECTIVES` says no when an attack calls it that
      does not compute the clean image's logits.

    Raises:
      ValueError: an unknown name, or neither a name nor a function.
    """
    known = OBJECTIVES | RELATIVE_OBJECTIVES
    if isinstance(objective, str) and objective in known:
        return known[objective]
    if isinstance(objective, str) or not callable(objective):
        raise ValueError(
            f"objective must be one of {', '.join(sorted(known))}, or a function "
            f"(logits, labels, targets) -> [batch]; got {objective!r}."
        )
    return objective


def _surprise(logits: Array, classes: Array) -> Array:
    """Return -log p of each example's class, under the softmax of the logits."""
    leads = logits - _entry(logits, classes)[:, None]
    others = jnp.where(_is_class(logits, classes), -jnp.inf, leads)
    lead = jax.nn.logsumexp(others, axis=-1)
    # A square, so that a gradient pass that starts from a large number multiplies it by
    # exp(-|lead| / 2) twice: by exp(-|lead|) at once it would be nothing.
    # And `where`, since `maximum` would halve the slope at a tie.
    ahead = jnp.where(lead >= 0, lead, 0)
    return ahead + jnp.log1p(jnp.exp(-jnp.abs(lead) / 2) ** 2)


def _is_class(logits: Array, classes: Array) -> Array:
    """Return the mask `[batch, num_classes]` of each example's class."""
    return classes[:, None] == jnp.arange(logits.shape[-1])[None, :]


def _entry(values: Array, classes: Array) -> Array:
    # A masked sum rather than a gather: its gradient is a select, not a scatter.
    return jnp.sum(jnp.where(_is_class(values, classes), values, 0), axis=-1)


def _best_other(logits: Array, classes: Array) -> Array:
    return jnp.max(jnp.where(_is_class(logits, classes), -jnp.inf, logits), axis=-1)
