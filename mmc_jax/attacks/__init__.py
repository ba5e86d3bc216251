"""Adversarial attacks: jitted functions of a `logits_fn`, a key, images, labels.

    from mmc_jax import attacks

    adv_images = attacks.pgd(logits_fn, key, images, labels, epsilon=8 / 255)

Every attack is `attack(logits_fn, key, images, labels, *, targets=None,
bounds=(0, 1), ...) -> adv_images`, and composes under `jit`, `vmap`, `pmap` and `scan`;
`gradient_sign` explains the arguments that all share. In reading order:

- `objectives`: what is minimised; `relative`: compared with the clean image;
  `projections`: where an attack may go.
- `door`, `checks`, `slices`: how an attack is entered; `keys`: randomness per example;
  `passes`: running the model; `iterates`: what is kept; `descent`: the engine.
- `apgd`: apgd, apgd_targeted, multi_targeted; by `apgd_engine` and the step rules
  `auto_step` and `sparse_step`.
- `fab`: fab, fab_targeted, by `fab_setting`, `fab_walk` and `fab_search`; `deep_fool`;
  both by `boundaries` and `hyperplanes`.
- `gradient_sign`: fgsm, bim, pgd, mim; `transforms`: gaussian_noise, rotation.
- from scores alone: `square`, by `random_search` and `windows`; `spsa`, by `estimates`.
- `const_search`: the engine of `carlini_wagner` and `elastic_net`; `auto_attack`.
- `targets`: random targets; `rescaling`: logits with a temperature, or centered;
  `binding`: attacks as plain data; `costs`: in passes.

A new attack is one file, its name in this one, and its cost in `costs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmc_jax.attacks import objectives, projections
from mmc_jax.attacks.apgd import apgd, apgd_targeted, multi_targeted
from mmc_jax.attacks.auto_attack import auto_attack, auto_attack_parts
from mmc_jax.attacks.binding import BoundAttack, bind
from mmc_jax.attacks.carlini_wagner import carlini_wagner
from mmc_jax.attacks.deep_fool import deep_fool
from mmc_jax.attacks.elastic_net import elastic_net
from mmc_jax.attacks.fab import fab, fab_targeted
from mmc_jax.attacks.gradient_sign import bim, fgsm, mim, pgd
from mmc_jax.attacks.objectives import OBJECTIVES
from mmc_jax.attacks.relative import RELATIVE_OBJECTIVES
from mmc_jax.attacks.rescaling import (
    make_centered_logits_fn,
    make_tempered_logits_fn,
)
from mmc_jax.attacks.spsa import spsa
from mmc_jax.attacks.square import square
from mmc_jax.attacks.targets import random_targets, with_random_targets
from mmc_jax.attacks.transforms import gaussian_noise, rotation
from mmc_jax.types import Array

ATTACKS: dict[str, Callable[..., Array]] = {
    attack.__name__: attack
    for attack in (
        apgd,
        apgd_targeted,
        auto_attack,
        bim,
        carlini_wagner,
        deep_fool,
        elastic_net,
        fab,
        fab_targeted,
        fgsm,
        gaussian_noise,
        mim,
        multi_targeted,
        pgd,
        rotation,
        spsa,
        square,
    )
}

__all__ = [
    "ATTACKS",
    "OBJECTIVES",
    "RELATIVE_OBJECTIVES",
    "BoundAttack",
    "auto_attack_parts",
    "make_attack",
    "make_centered_logits_fn",
    "make_tempered_logits_fn",
    "objectives",
    "projections",
    "random_targets",
    "with_random_targets",
    *ATTACKS,
]


def make_attack(name: str, **hyperparameters: Any) -> BoundAttack:
    """Bind an attack by name: `make_attack("pgd", epsilon=8 / 255, num_steps=10)`.

    Args:
      name: a key of `ATTACKS`.
      **hyperparameters: that attack's keyword arguments, `targets` excepted; plain data
        only, an objective by its name in `OBJECTIVES`.

    Returns:
      An attack `(logits_fn, key, images, labels, *, targets=None) -> adv_images`,
      usable as a static argument: hashable, and equal when equal.

    Raises:
      ValueError: an unknown name or hyperparameter (the message lists the known ones),
        a required one missing, or a value that is not plain data.
    """
    return bind(ATTACKS, name, hyperparameters)
