"""The verdict on an image: what the model says of it, and whether it counts at all.

It shares no code with the attacks: the model runs again, at the highest matmul
precision, and norms are taken in float64 on the host.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_RELATIVE_SLACK = 1e-6
_ABSOLUTE_SLACK = 1e-7


@jax.jit
def _logits(logits_fn, images, keys):
    stochastic = isinstance(logits_fn, StochasticLogitsFn)
    logits = logits_fn(images, keys) if stochastic else logits_fn(images)
    return logits.astype(jnp.float32)


def judge_logits(
    logits_fn: LogitsFn | StochasticLogitsFn, images: Array | np.ndarray, keys: Array
) -> np.ndarray:
    """Return logits at the highest matmul precision, float32 on the host.

    Args:
      logits_fn: a `Partial` or a `StochasticLogitsFn`.
      images: `[batch, height, width, channels]`.
      keys: `[batch]`, drawn from by a `StochasticLogitsFn` alone.

    Returns:
      `[batch, num_classes]`.
    """
    with jax.default_matmul_precision("highest"):
        return np.asarray(_logits(logits_fn, jnp.asarray(images), keys))


def largest_distance(epsilon: float) -> float:
    """Return how far an image of the ball may lie: epsilon (1 + 1e-6) + 1e-7."""
    return epsilon * (1 + _RELATIVE_SLACK) + _ABSOLUTE_SLACK


@dataclasses.dataclass(frozen=True)
class Postconditions:
    """Which returned images keep what an attack promises; each is bool `[batch]`."""

    finite: np.ndarray
    in_box: np.ndarray
    in_ball: np.ndarray
    norms: np.ndarray
    """float64 `[batch]`; 0 where an image is not finite."""

    @property
    def hold(self) -> np.ndarray:
        """Finite, inside the box and inside the ball."""
        return self.finite & self.in_box & self.in_ball


def check_postconditions(
    adv_images: np.ndarray,
    images: np.ndarray,
    *,
    norm: str,
    epsilon: float | None,
    bounds: tuple[float, float],
) -> Postconditions:
    """Check returned images against the threat model, in float64.

    An image is in the ball if ||x' - x|| <= epsilon (1 + 1e-6) + 1e-7.

    Args:
      adv_images: what the attack returned, `[batch, height, width, channels]`.
      images: the clean ones.
      norm: `linf`, `l2` or `l1`.
      epsilon: the radius; None for a transformation, which no ball bounds.
      bounds: the box.

    Returns:
      One flag per image and promise.
    """
    flat = adv_images.astype(np.float64).reshape(len(images), -1)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    flat = np.where(finite[:, None], flat, bounds[0])
    in_box = np.asarray(((flat >= bounds[0]) & (flat <= bounds[1])).all(axis=1))
    delta = flat - images.astype(np.float64).reshape(len(images), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    norms = np.where(finite, np.linalg.norm(delta, ord=order, axis=1), 0.0)
    limit = np.inf if epsilon is None else largest_distance(epsilon)
    return Postconditions(finite, in_box, norms <= limit, norms)
