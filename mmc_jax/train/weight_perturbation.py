"""Adversarial weight perturbation (AWP): the gradient is taken at worse weights."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mmc_jax.train.gradients import Differentiate, Trained
from mmc_jax.types import Array


def perturbed_weights(
    params: chex.ArrayTree, gradients: chex.ArrayTree, gamma: float | Array
) -> chex.ArrayTree:
    """Return the weights after one step up the loss, relative to each layer's size.

    `w + v` with `v = gamma ||w|| / ||g|| g` for every weight tensor of rank 2 or more;
    biases and scales stay, and so does a tensor without a gradient.

    Args:
      params: w, a tree of arrays.
      gradients: g, of the mean loss, a tree like it.
      gamma: the length of v relative to that of w, >= 0.

    Returns:
      A tree like `params`.

    Source: Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust
    Generalization", NeurIPS 2020, with one step.
    """

    def perturb(weight: Array, gradient: Array) -> Array:
        if weight.ndim < 2:
            return weight
        length = optax.tree.norm(gradient)
        unit = gradient / jnp.where(length > 0, length, 1.0)
        return weight + gamma * optax.tree.norm(weight) * unit

    return jax.tree.map(perturb, params, gradients)


def perturb(
    trained: Trained, differentiate: Differentiate, gamma: float | Array
) -> Trained:
    """Move the weights up the loss, or leave them, and save the pass, where gamma is 0.

    Centers that are trained stay where they are. What else the pass finds, such as
    running statistics, is dropped.

    Args:
      trained: the collections that the optimiser changes.
      differentiate: from `make_differentiate`.
      gamma: as in `perturbed_weights`.

    Returns:
      Collections like `trained`.
    """

    def climb() -> Trained:
        gradients, _ = differentiate(trained)
        params = perturbed_weights(trained["params"], gradients["params"], gamma)
        return {**trained, "params": params}

    return lax.cond(gamma > 0, climb, lambda: trained)
