"""The table of attacks that the shared suite runs over: a row enrolls an attack."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from mmc_jax import attacks

NUM_CLASSES, BATCH, SHAPE = 5, 16, (4, 4, 1)


@dataclasses.dataclass(frozen=True)
class Case:
    """An attack, its hyperparameters, and what is true of it."""

    name: str
    hyperparameters: dict[str, Any]
    strength: str = "epsilon"
    """The hyperparameter that is 0 for an attack that does nothing."""
    norm: str | None = "linf"
    """The ball it keeps to; None for an attack that looks at no model."""
    is_random: bool = False
    chooses_targets: bool = False
    """Whether it refuses targets, since it chooses them."""
    solves_at_once: bool = False
    """Whether its first step already finds the best corner of a matrix's ball."""
    is_minimum_norm: bool = False
    """Whether it looks for the closest success: no ball bounds it."""
    adapts: bool = False
    """Whether its steps follow the objective and their number: a few more of them may
    do worse by chance, and so may the last iterate."""
    is_costly: bool = False
    """Whether it takes so long to compile that it is enrolled in `make verify` only."""

    @property
    def parameters(self):
        return {*inspect.signature(attacks.ATTACKS[self.name]).parameters}

    def __call__(self, logits_fn, key, images, labels, **more):
        attack = attacks.ATTACKS[self.name]
        return attack(logits_fn, key, images, labels, **(self.hyperparameters | more))


CASES = {
    "fgsm": Case("fgsm", dict(epsilon=0.1)),
    "bim": Case("bim", dict(epsilon=0.1, num_steps=4, objective="margin")),
    "pgd": Case(
        "pgd",
        dict(epsilon=0.1, step_size=0.03, num_steps=4, objective="dlr", num_restarts=2),
        is_random=True,
    ),
    "pgd_l2_last": Case(
        "pgd",
        dict(
            epsilon=0.5,
            step_size=0.2,
            num_steps=4,
            norm="l2",
            objective="own_class",
            keep="last",
            stop_on_success=False,
        ),
        norm="l2",
        is_random=True,
    ),
    "mim": Case("mim", dict(epsilon=0.1, step_size=0.03, num_steps=4)),
    "fab": Case(
        "fab", dict(epsilon=0.4, num_steps=5, num_restarts=2), chooses_targets=True
    ),
    "fab_targeted": Case(
        "fab_targeted",
        dict(epsilon=2.0, num_steps=5, norm="l2"),
        norm="l2",
        chooses_targets=True,
    ),
    "deep_fool": Case(
        "deep_fool",
        dict(num_steps=5, overshoot=0.02, norm="linf"),
        strength="overshoot",
        chooses_targets=True,
        is_minimum_norm=True,
    ),
    "apgd": Case(
        "apgd",
        dict(epsilon=0.1, num_steps=6, objective="margin", num_restarts=2),
        is_random=True,
        adapts=True,
        solves_at_once=True,
    ),
    "apgd_l2_last": Case(
        "apgd",
        dict(
            epsilon=0.5,
            num_steps=6,
            norm="l2",
            objective="own_class",
            keep="last",
            stop_on_success=False,
        ),
        norm="l2",
        is_random=True,
        adapts=True,
    ),
    "apgd_l1": Case(
        "apgd",
        dict(epsilon=0.15, num_steps=10, norm="l1", objective="dlr"),
        norm="l1",
        is_random=True,
        adapts=True,
    ),
    "apgd_targeted": Case(
        "apgd_targeted",
        dict(epsilon=0.1, num_steps=4, num_targets=2),
        is_random=True,
        chooses_targets=True,
        adapts=True,
        solves_at_once=True,
    ),
    "multi_targeted": Case(
        "multi_targeted",
        dict(epsilon=0.5, num_steps=4, num_restarts=2, norm="l2"),
        norm="l2",
        is_random=True,
        chooses_targets=True,
        adapts=True,
    ),
    "carlini_wagner": Case(
        "carlini_wagner",
        dict(
            num_binary_search_steps=4,
            num_steps=40,
            learning_rate=0.1,
            confidence=0.1,
        ),
        strength="confidence",
        norm="l2",
        is_minimum_norm=True,
    ),
    "elastic_net": Case(
        "elastic_net",
        dict(
            initial_const=0.1,
            num_binary_search_steps=4,
            num_steps=40,
            learning_rate=0.1,
            beta=1e-3,
            confidence=0.1,
        ),
        strength="confidence",
        norm="l2",
        is_minimum_norm=True,
    ),
    "spsa": Case(
        "spsa",
        dict(epsilon=0.1, learning_rate=0.03, num_steps=4, num_samples=64),
        is_random=True,
    ),
    "square": Case(
        "square", dict(epsilon=0.1, num_queries=40, num_restarts=2), is_random=True
    ),
    "square_l2_rescaled": Case(
        "square",
        dict(
            epsilon=0.4,
            num_queries=20,
            norm="l2",
            rescale_schedule=True,
            stop_on_success=False,
        ),
        norm="l2",
        is_random=True,
    ),
    "square_l1": Case(
        "square",
        dict(epsilon=0.4, num_queries=20, norm="l1", objective="cross_entropy"),
        norm="l1",
        is_random=True,
    ),
    "auto_attack": Case(
        "auto_attack",
        dict(epsilon=0.1),
        is_random=True,
        chooses_targets=True,
        is_costly=True,
    ),
    "gaussian_noise": Case(
        "gaussian_noise", dict(sigma=0.2), strength="sigma", norm=None, is_random=True
    ),
    "rotation": Case(
        "rotation",
        dict(max_angle=30.0),
        strength="max_angle",
        norm=None,
        is_random=True,
    ),
}


def rows(*names):
    """Return names to parametrize by; what is costly runs in `make verify`."""
    costly = {name for name in names if CASES[name].is_costly}
    return in_verify(names, costly)


def in_verify(names, costly):
    return [
        pytest.param(name, marks=pytest.mark.verify if name in costly else ())
        for name in names
    ]


# One of each kind, where the others would hardly show more; they run in `make verify`.
FIRST = ("pgd", "apgd", "fab", "square", "carlini_wagner", "gaussian_noise")
# One row an attack, where a second norm would show nothing new.
ONCE = [name for name, case in CASES.items() if case.name == name]
WITH_MODEL = [name for name, case in CASES.items() if case.norm]
WITH_STEPS = [
    name for name in WITH_MODEL if {"num_steps", "objective"} <= CASES[name].parameters
]
