"""Class centers: Algorithm 1 of the paper, and ways to measure any set of centers."""

from __future__ import annotations

import math

import numpy as np


def simplex_centers(
    num_classes: int, feature_dim: int, center_norm: float
) -> np.ndarray:
    """Generate the optimal centers for at most `feature_dim + 1` classes.

    Pang et al., "Rethinking Softmax Cross-Entropy Loss for Adversarial Robustness",
    ICLR 2020, Algorithm 1 (GenerateOptMeans).
    """
    means = np.zeros((num_classes, feature_dim))
    means[0, 0] = 1.0
    for i in range(1, num_classes):
        for j in range(i):
            inner = float(np.dot(means[i], means[j]))
            means[i, j] = -(1.0 + inner * (num_classes - 1)) / (
                means[j, j] * (num_classes - 1)
            )
        if i < feature_dim:
            means[i, i] = math.sqrt(abs(1.0 - float(np.dot(means[i], means[i]))))
    return center_norm * means


def polygon(num_classes: int, center_norm: float) -> np.ndarray:
    """Return the vertices of a regular polygon: the best centers in two dimensions.

    Pang et al., ICLR 2020: the optimal centers maximise the minimal angle between them.
    """
    rows = []
    for k in range(num_classes):
        angle = 2.0 * math.pi * k / num_classes
        rows.append([center_norm * math.cos(angle), center_norm * math.sin(angle)])
    return np.array(rows)


def minimum_angle(centers: np.ndarray) -> float:
    """Return the smallest angle between two centers, in degrees.

    The criterion of Pang et al., ICLR 2020: the optimal centers minimise the
    largest inner product of two of them, at equal norms.
    """
    smallest = 180.0
    for i in range(len(centers)):
        for j in range(i):
            norms = np.linalg.norm(centers[i]) * np.linalg.norm(centers[j])
            cosine = float(np.dot(centers[i], centers[j])) / float(norms)
            angle = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
            smallest = min(smallest, angle)
    return smallest


def mahalanobis_logits(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return minus the squared distances of one example's features to the centers.

    The logits of Max-Mahalanobis LDA with identity covariance and equal priors, without
    its factor 1/2: Pang, Du, Zhu, ICML 2018, and Pang et al., ICLR 2020.
    """
    logits = np.zeros(len(centers))
    for k, center in enumerate(centers):
        for z, mu in zip(features, center, strict=True):
            logits[k] -= (z - mu) ** 2
    return logits
