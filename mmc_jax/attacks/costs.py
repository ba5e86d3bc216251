"""What an attack costs: the passes through the model that one image takes.

A pass is counted per image, and for an image that survives: nothing ends its attack
early. `backward` counts gradients with respect to the image, `forward` every run of the
model, those included that a gradient starts with. An evaluation's own verdict is not an
attack's cost. A new attack adds its formula to `PASSES`; a test counts them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mmc_jax.attacks.auto_attack import (
    AUTO_ATTACK_PARTS,
    NUM_SAMPLES,
    auto_attack_parts,
)
from mmc_jax.attacks.relative import RELATIVE_OBJECTIVES

Hyperparameters = Mapping[str, Any]


class Passes(NamedTuple):
    """Passes through the model for one image."""

    forward: int
    backward: int


def _one_gradient(given: Hyperparameters, num_classes: int) -> Passes:
    return Passes(1, 1)


def _descent(given: Hyperparameters, num_classes: int) -> Passes:
    """One gradient a step; one more forward pass a walk if where it ends is judged.

    And one if the objective compares with the clean image's logits.
    """
    num_restarts = int(given.get("num_restarts", 1))
    judges_last = given["keep"] == "best" or num_restarts > 1
    looks_first = given.get("objective") in RELATIVE_OBJECTIVES
    gradients = num_restarts * int(given["num_steps"])
    forward = looks_first + gradients + num_restarts * judges_last
    return Passes(forward, gradients)


def _apgd_targeted(given: Hyperparameters, num_classes: int) -> Passes:
    return _targeted(given, num_classes, extra_gradients=0)


def _multi_targeted(given: Hyperparameters, num_classes: int) -> Passes:
    """Two gradients more where a restart starts in a random direction of the logits."""
    later_restarts = int(given["num_restarts"]) - 1
    return _targeted(given, num_classes, extra_gradients=2 * later_restarts)


def _targeted(
    given: Hyperparameters, num_classes: int, *, extra_gradients: int
) -> Passes:
    """One forward pass ranks the targets; each is then walked to as by APGD."""
    targets = _num_targets(given, num_classes)
    num_restarts = int(given["num_restarts"])
    gradients = targets * (num_restarts * int(given["num_steps"]) + extra_gradients)
    return Passes(1 + gradients + targets * num_restarts, gradients)


def _num_targets(given: Hyperparameters, num_classes: int) -> int:
    asked = given["num_targets"]
    return num_classes - 1 if asked is None else min(int(asked), num_classes - 1)


def _square(given: Hyperparameters, num_classes: int) -> Passes:
    return Passes(int(given["num_restarts"]) * (1 + int(given["num_queries"])), 0)


def _spsa(given: Hyperparameters, num_classes: int) -> Passes:
    """Judge the start and every iterate, each by one pass more."""
    return Passes(1 + int(given["num_steps"]) * (int(given["num_samples"]) + 1), 0)


def _const_search(given: Hyperparameters, num_classes: int) -> Passes:
    """At most: an example that stalls stops its walk."""
    gradients = int(given["num_binary_search_steps"]) * int(given["num_steps"])
    return Passes(gradients, gradients)


def _fab(given: Hyperparameters, num_classes: int) -> Passes:
    """Walk along the boundaries to all classes; as `_fab_targeted` otherwise."""
    steps, runs = int(given["num_steps"]), int(given["num_restarts"])
    return Passes(1 + runs * (steps + 1), runs * steps * (num_classes - 1))


def _fab_targeted(given: Hyperparameters, num_classes: int) -> Passes:
    """Count an image that no step misclassifies; one that does may cost a pass more."""
    steps = int(given["num_steps"])
    runs = int(given["num_restarts"]) * _num_targets(given, num_classes)
    return Passes(1 + runs * (steps + 1), runs * steps)


def _deep_fool(given: Hyperparameters, num_classes: int) -> Passes:
    steps = int(given["num_steps"])
    candidates = min(int(given["num_candidates"]), num_classes - 1)
    return Passes(1 + 2 * steps, steps * candidates)


def _auto_attack(given: Hyperparameters, num_classes: int) -> Passes:
    """All parts, and a look at the clean image and at what each part returned."""
    parts = auto_attack_parts(
        given["version"], norm=given["norm"], num_classes=num_classes
    )
    spent = []
    for part in parts.values():
        parameters = inspect.signature(AUTO_ATTACK_PARTS[part["name"]]).parameters
        defaults = {name: entry.default for name, entry in parameters.items()}
        own = defaults | {"norm": given["norm"]} | part
        spent.append(PASSES[part["name"]](own, num_classes))
    forward = 1 + len(parts) + sum(passes.forward for passes in spent)
    return Passes(forward, sum(passes.backward for passes in spent))


def _num_samples(given: Hyperparameters) -> int:
    """Return how many samples a randomised model's passes are means of."""
    if given.get("version") == "rand":
        return NUM_SAMPLES
    return int(given.get("num_eot_samples", 1))


def _no_model(given: Hyperparameters, num_classes: int) -> Passes:
    return Passes(0, 0)


PASSES: dict[str, Callable[[Hyperparameters, int], Passes]] = {
    "apgd": _descent,
    "apgd_targeted": _apgd_targeted,
    "auto_attack": _auto_attack,
    "bim": _descent,
    "carlini_wagner": _const_search,
    "deep_fool": _deep_fool,
    "elastic_net": _const_search,
    "fab": _fab,
    "fab_targeted": _fab_targeted,
    "fgsm": _one_gradient,
    "gaussian_noise": _no_model,
    "mim": _descent,
    "multi_targeted": _multi_targeted,
    "pgd": _descent,
    "rotation": _no_model,
    "spsa": _spsa,
    "square": _square,
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
        `num_eot_samples` of them, in AutoAttack's version for it 20.

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
    samples = _num_samples(hyperparameters) if stochastic else 1
    return Passes(samples * passes.forward, samples * passes.backward)
