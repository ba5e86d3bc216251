"""g-SCE with quadratic logits, for one example."""

from __future__ import annotations

import math

import numpy as np

from .losses import softmax_cross_entropy


def quadratic_logits(
    features: np.ndarray, means: np.ndarray, scales: np.ndarray, biases: np.ndarray
) -> np.ndarray:
    """Return h_i = -(z - mu_i)^T Sigma_i (z - mu_i) + B_i with Sigma_i = sigma_i I.

    Pang et al., ICLR 2020, the quadratic logits of g-SCE.
    """
    logits = []
    for mean, scale, bias in zip(means, scales, biases, strict=True):
        offset = features - mean
        logits.append(-(offset @ (scale * np.eye(len(mean))) @ offset) + bias)
    return np.array(logits)


def gsce(
    features: np.ndarray,
    label: int,
    means: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
) -> float:
    """Return -log softmax(h)_y of the quadratic logits.

    Pang et al., ICLR 2020, the g-SCE loss.
    """
    return softmax_cross_entropy(
        quadratic_logits(features, means, scales, biases), label
    )


def pair_loss(
    features: np.ndarray,
    label: int,
    rival: int,
    means: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
) -> float:
    """Return the cross-entropy of two classes alone, the first of which is true.

    Pang et al., ICLR 2020, L_{y,y~}(z) = log(1 + exp(h_y~ - h_y)).
    """
    logits = quadratic_logits(features, means, scales, biases)
    gap = logits[rival] - logits[label]
    return max(gap, 0.0) + math.log1p(math.exp(-abs(gap)))
