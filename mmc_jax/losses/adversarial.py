"""Losses of a clean and an attacked image at once: TRADES and MART.

Both are written here on the logits of any head, through p = softmax(h / T). On logits
that are distances, h_k = -||z - mu_k||^2, the softmax at T = 1 is saturated long before
z arrives at its center, and a divergence of two saturated softmaxes has no gradient;
linear logits, and all that are trained by cross-entropy, want T = 1.

The first term of each is whatever loss is trained: with the cross-entropy they are the
papers' losses.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax

from mmc_jax.types import Array


def kl_divergence(
    clean_logits: Array, adv_logits: Array, *, temperature: float = 1.0
) -> Array:
    """Return the divergence of the adversarial prediction from the clean one.

    `KL(p(x) || p(x*)) = sum_k p_k(x) log(p_k(x) / p_k(x*))` with `p = softmax(h / T)`.

    Args:
      clean_logits: h(x), float `[batch, num_classes]`.
      adv_logits: h(x*), likewise.
      temperature: T > 0.

    Returns:
      The divergence, `[batch]`, >= 0 up to rounding.

    Examples:
      >>> clean, adv = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
      >>> round(kl_divergence(clean, adv).item(), 4)
      0.1438
    """
    chex.assert_rank([clean_logits, adv_logits], 2)
    chex.assert_equal_shape([clean_logits, adv_logits])
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(adv_logits / temperature),
        jax.nn.log_softmax(clean_logits / temperature),
    )


def trades_loss(
    clean_losses: Array,
    clean_logits: Array,
    adv_logits: Array,
    *,
    weight: float = 6.0,
    temperature: float = 1.0,
) -> Array:
    """Return the loss of TRADES.

    `L = loss(x, y) + beta KL(p(x) || p(x*))`: right on the clean image, and the same on
    the attacked one. The gradient goes through both predictions.

    Args:
      clean_losses: loss(x, y), `[batch]`; the paper's is the cross-entropy.
      clean_logits: h(x), float `[batch, num_classes]`.
      adv_logits: h(x*), likewise.
      weight: beta >= 0, the paper's 1 / lambda.
      temperature: T > 0 of the predictions.

    Returns:
      The loss, `[batch]`.

    Examples:
      >>> clean, adv = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
      >>> round(trades_loss(jnp.array([1.0]), clean, adv, weight=2.0).item(), 4)
      1.2877

    Source: Zhang, Yu, Jiao, Xing, El Ghaoui and Jordan, "Theoretically Principled
    Trade-off between Robustness and Accuracy", ICML 2019.
    """
    divergence = kl_divergence(clean_logits, adv_logits, temperature=temperature)
    chex.assert_equal_shape([clean_losses, divergence])
    return clean_losses + weight * divergence


def mart_loss(
    adv_losses: Array,
    clean_logits: Array,
    adv_logits: Array,
    labels: Array,
    *,
    weight: float = 5.0,
    temperature: float = 1.0,
) -> Array:
    """Return the loss of MART.

    `L = loss(x*, y) - log(1 - max_{k != y} p_k(x*))
    + lambda KL(p(x) || p(x*)) (1 - p_y(x))`: the attacked image is to be right by a
    margin, and predictions are to agree the more, the less sure the clean one is. With
    the cross-entropy -log p_y(x*), the first two terms are the paper's boosted one.

    Args:
      adv_losses: loss(x*, y), `[batch]`.
      clean_logits: h(x), float `[batch, num_classes]`.
      adv_logits: h(x*), likewise.
      labels: y, integer `[batch]` in [0, num_classes).
      weight: lambda >= 0.
      temperature: T > 0 of the predictions.

    Returns:
      The loss, `[batch]`.

    Examples:
      >>> clean, adv = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
      >>> losses, labels = jnp.array([1.0]), jnp.array([0])
      >>> round(mart_loss(losses, clean, adv, labels, weight=2.0).item(), 4)
      2.5301

    Source: Wang, Zou, Yi, Bailey, Ma and Gu, "Improving Adversarial Robustness Requires
    Revisiting Misclassified Examples", ICLR 2020.
    """
    divergence = kl_divergence(clean_logits, adv_logits, temperature=temperature)
    chex.assert_equal_shape([adv_losses, labels, divergence])
    is_own = jax.nn.one_hot(labels, clean_logits.shape[-1], dtype=bool)
    clean_probabilities = jax.nn.softmax(clean_logits / temperature)
    misclassified = 1.0 - jnp.sum(jnp.where(is_own, clean_probabilities, 0.0), axis=-1)
    return (
        adv_losses
        + _margin_term(adv_logits / temperature, is_own)
        + weight * divergence * misclassified
    )


def _margin_term(logits: Array, is_own: Array) -> Array:
    """Return -log(1 - max_{k != y} p_k), as a difference of sums of exponentials."""
    rival = jnp.argmax(jnp.where(is_own, -jnp.inf, logits), axis=-1)
    is_rival = jax.nn.one_hot(rival, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(is_rival, -jnp.inf, logits), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - others
