"""Three small classifiers whose input gradients are written out by hand."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from .centers import mahalanobis_logits


class Model(Protocol):
    """A classifier of one image."""

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return `[num_classes]`."""

    def input_gradient(self, image: np.ndarray, by_logits: np.ndarray) -> np.ndarray:
        """Return the image's gradient, from the gradient by the logits."""


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """h = W x + b: softmax regression (Pang et al., ICLR 2020, SCE with z = x)."""

    weights: np.ndarray
    bias: np.ndarray

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return W x + b."""
        return self.weights @ image.ravel() + self.bias

    def input_gradient(self, image: np.ndarray, by_logits: np.ndarray) -> np.ndarray:
        """Return W^T dh."""
        return (self.weights.T @ by_logits).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class LinearMahalanobisModel:
    """z = W x + b, h_k = -||z - mu_k||^2 (Pang et al., ICLR 2020)."""

    weights: np.ndarray
    bias: np.ndarray
    centers: np.ndarray

    def features(self, image: np.ndarray) -> np.ndarray:
        """Return z = W x + b."""
        return self.weights @ image.ravel() + self.bias

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return minus the squared distances to the centers."""
        return mahalanobis_logits(self.features(image), self.centers)

    def input_gradient(self, image: np.ndarray, by_logits: np.ndarray) -> np.ndarray:
        """Return W^T sum_k dh_k (-2)(z - mu_k)."""
        features = self.features(image)
        by_features = np.zeros_like(features)
        for k, center in enumerate(self.centers):
            by_features += by_logits[k] * -2.0 * (features - center)
        return (self.weights.T @ by_features).reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class TanhModel:
    """h = V tanh(W x + b) + c: a network with one hidden layer."""

    hidden_weights: np.ndarray
    hidden_bias: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return V tanh(W x + b) + c."""
        hidden = np.tanh(self.hidden_weights @ image.ravel() + self.hidden_bias)
        return self.weights @ hidden + self.bias

    def input_gradient(self, image: np.ndarray, by_logits: np.ndarray) -> np.ndarray:
        """Return W^T ((1 - tanh^2) * V^T dh)."""
        hidden = np.tanh(self.hidden_weights @ image.ravel() + self.hidden_bias)
        by_hidden = (1.0 - hidden**2) * (self.weights.T @ by_logits)
        return (self.hidden_weights.T @ by_hidden).reshape(image.shape)
