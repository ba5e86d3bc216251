"""Stochastic gradient descent on a linear model with the MMC loss, written out."""

from __future__ import annotations

import numpy as np


def learning_rate(
    epoch: int, *, initial: float = 0.01, boundaries: tuple[int, int] = (100, 150)
) -> float:
    """Return the rate of an epoch from 0 on: a tenth past 100, a hundredth past 150.

    Pang et al., ICLR 2020, Section 4 and its code: 101 epochs, then 50, then 49 on
    CIFAR; the boundaries are 30 and 40 on MNIST.
    """
    if epoch > boundaries[1]:
        return initial * 0.01
    if epoch > boundaries[0]:
        return initial * 0.1
    return initial


def convolution_penalty_gradient(kernel: np.ndarray) -> np.ndarray:
    """Return the gradient of 1e-4 ||w||^2: only convolution kernels have this penalty.

    He et al., CVPR 2016, Section 4.2 (weight decay 1e-4), in the form of the code of
    Pang et al., ICLR 2020: a penalty without 1/2 on convolutions alone.
    """
    return 2e-4 * kernel


def momentum_update(
    parameter: np.ndarray,
    velocity: np.ndarray,
    gradient: np.ndarray,
    *,
    rate: float,
    momentum: float = 0.9,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the next parameter and velocity: v <- m v - rate g, w <- w + v.

    Polyak 1964; Sutskever et al., ICML 2013, Equations (1) and (2): no look-ahead.
    """
    velocity = momentum * velocity - rate * gradient
    return parameter + velocity, velocity


def mmc_gradients(
    weights: np.ndarray,
    bias: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    centers: np.ndarray,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the batch's mean of 1/2 ||W x + b - mu_y||^2, and its gradients.

    Pang et al., ICLR 2020, the Max-Mahalanobis center loss. `weights` is
    `[feature_dim, num_pixels]`.
    """
    loss, by_weights, by_bias = 0.0, np.zeros_like(weights), np.zeros_like(bias)
    for image, label in zip(images, labels, strict=True):
        pixels = image.ravel()
        error = weights @ pixels + bias - centers[label]
        loss += 0.5 * float(error @ error) / len(images)
        by_weights += np.outer(error, pixels) / len(images)
        by_bias += error / len(images)
    return loss, by_weights, by_bias


def train_linear_mmc(
    weights: np.ndarray,
    bias: np.ndarray,
    batches: list[tuple[np.ndarray, np.ndarray]],
    centers: np.ndarray,
    *,
    rate: float,
    momentum: float = 0.9,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return the parameters after one step a batch, and each step's loss before it.

    Pang et al., ICLR 2020, Section 4: SGD with momentum 0.9, at a constant rate here.
    """
    weights_velocity, bias_velocity = np.zeros_like(weights), np.zeros_like(bias)
    losses = []
    for images, labels in batches:
        loss, by_weights, by_bias = mmc_gradients(
            weights, bias, images, labels, centers
        )
        weights, weights_velocity = momentum_update(
            weights, weights_velocity, by_weights, rate=rate, momentum=momentum
        )
        bias, bias_velocity = momentum_update(
            bias, bias_velocity, by_bias, rate=rate, momentum=momentum
        )
        losses.append(loss)
    return weights, bias, losses
