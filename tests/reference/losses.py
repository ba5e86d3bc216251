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


def absolute_mmc(features: np.ndarray, label: int, centers: np.ndarray) -> float:
    """Return the distance to the label's center.

    Pang et al., ICLR 2020, appendix: the absolute form of the MMC loss.
    """
    return math.sqrt(2.0 * mmc(features, label, centers))


def huber_mmc(
    features: np.ndarray, label: int, centers: np.ndarray, threshold: float
) -> float:
    """Return Huber's function of the distance to the label's center.

    Huber 1964: quadratic up to the threshold, from there on along the tangent.
    """
    distance = absolute_mmc(features, label, centers)
    if distance <= threshold:
        return 0.5 * distance**2
    return 0.5 * threshold**2 + threshold * (distance - threshold)


def elastic_mmc(
    features: np.ndarray,
    label: int,
    centers: np.ndarray,
    preset: np.ndarray,
    elasticity: float,
) -> float:
    """Return -log p(z | mu_y) - log p(mu_y), without the Gaussians' constants.

    Pang et al., ICLR 2020, appendix: z ~ N(mu_y, I) and mu_y ~ N(mu*_y, alpha I).
    """
    held = sum(
        (mu - fixed) ** 2 / elasticity
        for mu, fixed in zip(centers[label], preset[label], strict=True)
    )
    return mmc(features, label, centers) + 0.5 * held


def quadratic_logits(
    features: np.ndarray, means: np.ndarray, matrices: np.ndarray, biases: np.ndarray
) -> np.ndarray:
    """Return -(z - mu_k)^T Sigma_k (z - mu_k) + B_k for whole matrices Sigma_k.

    Pang et al., ICLR 2020, the quadratic logits of g-SCE.
    """
    logits = np.zeros(len(means))
    for k, (mean, matrix, bias) in enumerate(zip(means, matrices, biases, strict=True)):
        logits[k] = bias - (features - mean) @ matrix @ (features - mean)
    return logits


def generalized_softmax_cross_entropy(
    features: np.ndarray,
    label: int,
    means: np.ndarray,
    matrices: np.ndarray,
    biases: np.ndarray,
) -> float:
    """Return -log softmax of the quadratic logits at the label.

    Pang et al., ICLR 2020, the g-SCE loss.
    """
    logits = quadratic_logits(features, means, matrices, biases)
    return softmax_cross_entropy(logits, label)


def large_margin_gaussian_mixture(
    features: np.ndarray,
    label: int,
    centers: np.ndarray,
    variances: np.ndarray,
    margin: float,
    likelihood_weight: float,
) -> float:
    """Return -log of the posterior with a margin, and the likelihood term.

    Wan et al., CVPR 2018: posteriors in proportion to
    |Lambda_k|^(-1/2) exp(-d_k), the true class's distance times 1 + alpha.
    """
    weights, distances = [], []
    for k, (center, variance) in enumerate(zip(centers, variances, strict=True)):
        distance = 0.5 * float(np.sum((features - center) ** 2 / variance))
        distances.append(distance)
        grown = distance * (1.0 + margin) if k == label else distance
        weights.append(math.exp(-grown) / math.sqrt(float(np.prod(variance))))
    classification = -math.log(weights[label] / sum(weights))
    volume = 0.5 * math.log(float(np.prod(variances[label])))
    return classification + likelihood_weight * (distances[label] + volume)


def updated_centers(
    features: np.ndarray, labels: np.ndarray, centers: np.ndarray, rate: float
) -> np.ndarray:
    """Return the centers after one batch: the mean difference, with one more counted.

    Wen et al., ECCV 2016, Equation (4).
    """
    moved = centers.copy()
    for k in range(len(centers)):
        change, count = np.zeros(centers.shape[1]), 0
        for feature, label in zip(features, labels, strict=True):
            if label == k:
                change, count = change + centers[k] - feature, count + 1
        moved[k] = centers[k] - rate * change / (1 + count)
    return moved


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return exp(h_k / T) over their sum; Hinton et al. 2015, Equation (1)."""
    weights = [math.exp((h - max(logits)) / temperature) for h in logits]
    return np.array(weights) / sum(weights)


def smoothed_cross_entropy(logits: np.ndarray, label: int, smoothing: float) -> float:
    """Return the cross-entropy to (1 - s) of the label and s of the uniform law.

    Szegedy et al., CVPR 2016, Section 7.
    """
    loss = 0.0
    for k in range(len(logits)):
        share = (1.0 - smoothing) * (k == label) + smoothing / len(logits)
        loss += share * softmax_cross_entropy(logits, k)
    return loss


def kl_divergence(
    clean_logits: np.ndarray, adv_logits: np.ndarray, temperature: float = 1.0
) -> float:
    """Return sum_k p_k log(p_k / q_k) of the predictions p on x and q on x*."""
    clean, adv = softmax(clean_logits, temperature), softmax(adv_logits, temperature)
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(clean, adv, strict=True))


def trades(
    clean_logits: np.ndarray, adv_logits: np.ndarray, label: int, weight: float
) -> float:
    """Return CE(p(x), y) + beta KL(p(x) || p(x*)), beta = 1 / lambda.

    Zhang et al., ICML 2019, the loss of TRADES, after its inner maximisation.
    """
    clean = softmax_cross_entropy(clean_logits, label)
    return clean + weight * kl_divergence(clean_logits, adv_logits)


def boosted_cross_entropy(logits: np.ndarray, label: int) -> float:
    """Return -log p_y - log(1 - max_{k != y} p_k).

    Wang et al., ICLR 2020, the boosted cross-entropy of MART.
    """
    probabilities = softmax(logits)
    rival = max(p for k, p in enumerate(probabilities) if k != label)
    return -math.log(probabilities[label]) - math.log(1.0 - rival)


def mart(
    clean_logits: np.ndarray, adv_logits: np.ndarray, label: int, weight: float
) -> float:
    """Return BCE(p(x*), y) + lambda KL(p(x) || p(x*)) (1 - p_y(x)).

    Wang et al., ICLR 2020, the loss of MART, after its inner maximisation.
    """
    unsure = 1.0 - softmax(clean_logits)[label]
    divergence = kl_divergence(clean_logits, adv_logits)
    return boosted_cross_entropy(adv_logits, label) + weight * divergence * unsure
