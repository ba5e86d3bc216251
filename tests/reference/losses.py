"""Training losses, for one example."""

from __future__ import annotations

import math

import numpy as np

from .centers import mahalanobis_logits


def softmax_cross_entropy(logits: np.ndarray, label: int) -> float:
    """Return -log softmax(logits)[label].

    Pang et al., ICLR 2020, the SCE loss.
    """
    largest = max(logits)
    total = sum(math.exp(h - largest) for h in logits)
    return largest + math.log(total) - logits[label]


def mmc(features: np.ndarray, label: int, centers: np.ndarray) -> float:
    """Return half the squared distance to the label's center.

    Pang et al., ICLR 2020, the Max-Mahalanobis center loss:
    L_MMC(Z(x), y) = 1/2 ||z - mu*_y||^2.
    """
    return 0.5 * sum(
        (z - mu) ** 2 for z, mu in zip(features, centers[label], strict=True)
    )


def mmlda(features: np.ndarray, label: int, centers: np.ndarray) -> float:
    """Return the cross-entropy of minus the squared distances to the centers.

    Pang, Du, Zhu, "Max-Mahalanobis Linear Discriminant Analysis Networks", ICML 2018,
    with logits -||z - mu*_k||^2 as in Pang et al., ICLR 2020.
    """
    return softmax_cross_entropy(mahalanobis_logits(features, centers), label)
