"""Relative objectives: those that compare with the logits of the clean image.

An objective sees logits, labels and targets, and nothing of the clean image. A
`RelativeObjective` needs that image's logits first: PGD and MIM compute them once, by
one forward pass, and fix them with `fix_objective`. Elsewhere it refuses to be called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax

from mmc_jax.attacks.passes import Problem, logits_pass
from mmc_jax.types import Array, Objective


@dataclasses.dataclass(frozen=True)
class RelativeObjective:
    """An untargeted objective that compares with the clean image's logits."""

    name: str
    compare: Callable[[Array, Array], Array]
    """(logits, clean_logits), both `[batch, num_classes]` -> `[batch]`, minimised."""

    def __call__(self, logits: Array, labels: Array, targets: Array | None) -> Array:
        """Refuse: the clean logits are not known yet."""
        raise ValueError(
            f"objective={self.name!r} compares with the clean image's logits, which"
            " only pgd and mim compute."
        )

    def against(self, clean_logits: Array) -> Objective:
        """Return the objective that compares with these logits."""

        def objective(logits: Array, labels: Array, targets: Array | None) -> Array:
            del labels
            if targets is not None:
                raise ValueError(f"{self.name} has no targeted form: give no targets.")
            return self.compare(logits, clean_logits)

        return objective


def _minus_divergence(logits: Array, clean_logits: Array) -> Array:
    return -optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(clean_logits, axis=-1)
    )


kl_divergence = RelativeObjective("kl_divergence", _minus_divergence)
"""-KL(p(x) || p(x*)), with p the softmax of the logits of clean and adversarial image.

Its gradient at the clean image is exactly zero, so that it needs a random start; and
like that of cross-entropy it vanishes where the softmax saturates, as on logits that
are distances: these want a temperature.

Reference: Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and
Accuracy" (TRADES), the inner maximisation.
"""

RELATIVE_OBJECTIVES: dict[str, RelativeObjective] = {"kl_divergence": kl_divergence}


def fix_objective(problem: Problem, images: Array, keys: Array) -> Problem:
    """Fix a relative objective by one forward pass; leave any other problem alone.

    Args:
      problem: what is being solved.
      images: the clean ones, `[batch, height, width, channels]`.
      keys: `[batch]`, of this pass alone; used by a randomised model only.

    Returns:
      The problem, with an objective that can be called.
    """
    if not isinstance(problem.objective, RelativeObjective):
        return problem
    clean_logits = logits_pass(problem, images, keys)
    return dataclasses.replace(
        problem, objective=problem.objective.against(clean_logits)
    )
