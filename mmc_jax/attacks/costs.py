"""What an attack costs: the passes through the model that one image takes.

A pass is counted per image, and for an image that survives: nothing ends its attack
early. `backward` counts gradients with respect to the image, `forward` every run of the
model, those included that a gradient starts with. An evaluation's own verdict is not an
attack's cost. A new attack adds its formula to `PASSES`; a test counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Hyperparameters = Mapping[str, Any]


class Passes(NamedTuple):
    """Passes through the model for one image."""

    forward: int
    backward: int


def _one_gradient(given: Hyperparameters, num_classes: int) -> Passes:
    return Passes(1, 1)


def _descent(given: Hyperparameters, num_classes: int) -> Passes:
    """One gradient a step; one more forward pass a walk if where it ends is judged."""
    num_restarts = int(given.get("num_restarts", 1))
    judges_last = given["keep"] == "best" or num_restarts > 1
    gradients = num_restarts * int(given["num_steps"])
    return Passes(gradients + num_restarts * judges_last, gradients)


def _no_model(given: Hyperparameters, num_classes: int) -> Passes:
    return Passes(0, 0)


PASSES: dict[str, Callable[[Hyperparameters, int], Passes]] = {
    "bim": _descent,
    "fgsm": _one_gradient,
    "gaussian_noise": _no_model,
    "mim": _descent,
    "pgd": _descent,
    "rotation": _no_model,
}
"""Attack -> (hyperparameters, num_classes) -> passes for a deterministic model."""


def passes_per_survivor(
    attack_name: str,
    hyperparameters: Hyperparameters,
    *,
    num_classes: int,
    stochastic: bool = False,
) -> Passes:
    """Return the passes that an attack spends on one image that it does not break.

    Args:
      attack_name: a key of `PASSES`.
      hyperparameters: all that the formula needs, defaults included, as an evaluation's
        record states them.
      num_classes: the width of the logits.
      stochastic: whether the model is a `StochasticLogitsFn`, for which every pass is
        `num_eot_samples` of them.

    Returns:
      The passes.

    Raises:
      ValueError: an unknown attack, or a hyperparameter that is missing.
    """
    if attack_name not in PASSES:
        known = ", ".join(PASSES)
        raise ValueError(f"no cost is known of {attack_name!r}; known: {known}")
    try:
        passes = PASSES[attack_name](hyperparameters, num_classes)
    except KeyError as error:
        raise ValueError(
            f"the cost of {attack_name} depends on {error.args[0]!r}, which is missing"
        ) from error
    samples = int(hyperparameters.get("num_eot_samples", 1)) if stochastic else 1
    return Passes(samples * passes.forward, samples * passes.backward)
