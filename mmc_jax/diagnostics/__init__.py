"""Signs that a robustness number is not what it seems, each a named `Finding`.

| finding | what it says |
|---|---|
| `zero_gradient` | the row's objective has no gradient to follow on many images |
| `objective_disagreement` | another objective, same budget, breaks far more images |
| `box_or_ball_violation` | the row's attack returned images that do not count |
| `probabilities_as_logits` | the model seems to end in a softmax |

The first is the trap of the MMC loss. Cross-entropy over distance logits
-||z - mu_k||^2 saturates: float32 rounds the wrong classes' probabilities to exactly
zero, the gradient vanishes, and PGD never leaves its starting point. The model looks
robust and is not.

`gradients` measures, `findings` judges what `mmc_jax.evaluate` found.
"""

from mmc_jax.diagnostics.findings import (
    Finding,
    find_objective_disagreement,
    find_probabilities,
    find_violations,
    find_zero_gradients,
    objective_label,
)
from mmc_jax.diagnostics.gradients import zero_gradient_fraction

__all__ = [
    "Finding",
    "find_objective_disagreement",
    "find_probabilities",
    "find_violations",
    "find_zero_gradients",
    "objective_label",
    "zero_gradient_fraction",
]
