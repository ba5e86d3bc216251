"""Attack objectives of one example, to be minimised, with gradients by the logits.

Each function returns `(value, gradient)`. `target=None` is the untargeted case. The
gradients are written out by hand from the formula in the docstring.
"""

from __future__ import annotations

import math

import numpy as np

from .losses import softmax_cross_entropy

ValueAndGradient = tuple[float, np.ndarray]


def _one_hot(index: int, size: int) -> np.ndarray:
    vector = np.zeros(size)
    vector[index] = 1.0
    return vector


def _best_other(logits: np.ndarray, index: int) -> int:
    """Return the class with the largest logit, `index` left out."""
    best = None
    for k in range(len(logits)):
        if k != index and (best is None or logits[k] > logits[best]):
            best = k
    assert best is not None
    return best


def cross_entropy(
    logits: np.ndarray, label: int, target: int | None = None
) -> ValueAndGradient:
    """Return -CE(h, y), or CE(h, t).

    Madry et al., ICLR 2018, Equation (2.1): the adversary maximises the training loss;
    Kurakin et al., ICLR 2017 workshop, Section 2.3, for the targeted form.
    """
    k = label if target is None else target
    exponentials = np.array([math.exp(h - max(logits)) for h in logits])
    gradient = exponentials / exponentials.sum() - _one_hot(k, len(logits))
    value = softmax_cross_entropy(logits, k)
    return (-value, -gradient) if target is None else (value, gradient)


def margin(
    logits: np.ndarray, label: int, target: int | None = None
) -> ValueAndGradient:
    """Return h_y - max_{k != y} h_k, or max_{k != t} h_k - h_t.

    Carlini and Wagner, IEEE S&P 2017, Section V-A, f_6 on logits, without its floor and
    with the untargeted form that exchanges the roles of the two terms.
    """
    size = len(logits)
    if target is None:
        other = _best_other(logits, label)
        gradient = _one_hot(label, size) - _one_hot(other, size)
    else:
        other = _best_other(logits, target)
        gradient = _one_hot(other, size) - _one_hot(target, size)
    return float(np.dot(gradient, logits)), gradient


def own_class(
    logits: np.ndarray, label: int, target: int | None = None
) -> ValueAndGradient:
    """Return h_y, or -h_t.

    Pang et al., ICLR 2020, Section 4 (adaptive objectives, first kind): with
    h_k = -||z - mu_k||^2 the adversary raises the distance to mu_y, or lowers the one
    to mu_t.
    """
    size = len(logits)
    sign, k = (1.0, label) if target is None else (-1.0, target)
    gradient = sign * _one_hot(k, size)
    return float(np.dot(gradient, logits)), gradient


def dlr(logits: np.ndarray, label: int, target: int | None = None) -> ValueAndGradient:
    """Return the difference of logits ratio, or its targeted form, negated to minimise.

    (h_y - max_{k != y} h_k) / (h_p1 - h_p3), or
    (h_y - h_t) / (h_p1 - (h_p3 + h_p4) / 2), with p the order of falling logits.
    Croce and Hein, ICML 2020, Section 4.
    """
    size = len(logits)
    order = sorted(range(size), key=lambda k: -logits[k])
    other = _best_other(logits, label) if target is None else target
    above = _one_hot(label, size) - _one_hot(other, size)
    below = _one_hot(order[0], size)
    if target is None:
        below -= _one_hot(order[2], size)
    else:
        below -= (_one_hot(order[2], size) + _one_hot(order[3], size)) / 2.0
    numerator, denominator = float(above @ logits), float(below @ logits)
    gradient = above / denominator - numerator * below / denominator**2
    return numerator / denominator, gradient


def pairwise_margin(logits: np.ndarray, label: int, target: int) -> ValueAndGradient:
    """Return h_y - h_t.

    Pang et al., ICLR 2020, Section 4 (adaptive objectives, second kind): the difference
    of the two MMC losses, up to the factor of the logits. There is no untargeted form.
    """
    gradient = _one_hot(label, len(logits)) - _one_hot(target, len(logits))
    return float(np.dot(gradient, logits)), gradient


def standardized_margin(
    logits: np.ndarray, label: int, target: int | None = None
) -> ValueAndGradient:
    """Return (h_y - max_{k != y} h_k) / s, or (h_y - h_t) / s.

    s is the standard deviation of the logits (over n, not n - 1), whose gradient is
    (h_k - mean) / (n s).
    """
    size = len(logits)
    other = _best_other(logits, label) if target is None else target
    above = _one_hot(label, size) - _one_hot(other, size)
    mean = sum(logits) / size
    spread = math.sqrt(sum((h - mean) ** 2 for h in logits) / size)
    spread_gradient = (logits - mean) / (size * spread)
    numerator = float(above @ logits)
    gradient = above / spread - numerator * spread_gradient / spread**2
    return numerator / spread, gradient
