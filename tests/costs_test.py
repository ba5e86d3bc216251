"""The formulas for an attack's cost, against passes that are counted as they run."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mmc_jax import attacks
from mmc_jax.attacks.costs import PASSES, Passes, passes_per_survivor
from mmc_jax.types import StochasticLogitsFn

NUM_CLASSES = 5
IMAGES = jnp.full((1, 4, 4, 1), 0.5)
LABELS = jnp.array([2])


@dataclasses.dataclass(frozen=True)
class Case:
    """An attack with small hyperparameters, and whether it can be targeted."""

    name: str
    hyperparameters: dict[str, Any]
    targeted: bool = False

    @property
    def id(self) -> str:
        return "-".join([self.name, *map(str, self.hyperparameters.values())])


CASES = [
    Case("apgd", dict(epsilon=0.1, num_steps=5, num_restarts=2)),
    Case("apgd", dict(epsilon=0.1, num_steps=5, keep="last"), targeted=True),
    Case("apgd", dict(epsilon=0.1, num_steps=25, norm="l1")),
    Case("apgd_targeted", dict(epsilon=0.1, num_steps=5, num_targets=3)),
    Case("bim", dict(epsilon=0.1, num_steps=3)),
    Case("bim", dict(epsilon=0.1, num_steps=3, keep="last"), targeted=True),
    Case(
        "carlini_wagner",
        dict(num_steps=20, num_binary_search_steps=3, abort_early=False),
    ),
    Case(
        "elastic_net",
        dict(num_steps=20, num_binary_search_steps=2, abort_early=False),
    ),
    Case("deep_fool", dict(num_steps=4, num_candidates=3)),
    Case("fab", dict(num_steps=4, num_restarts=2)),
    Case("fab_targeted", dict(num_steps=4, num_targets=3, epsilon=0.1)),
    Case("fgsm", dict(epsilon=0.1)),
    Case("gaussian_noise", {}),
    Case("mim", dict(epsilon=0.1, num_steps=3, num_restarts=2, random_start=True)),
    Case("multi_targeted", dict(epsilon=0.1, num_steps=5, num_restarts=3)),
    Case("pgd", dict(epsilon=0.1, num_steps=4, num_restarts=3)),
    Case("pgd", dict(epsilon=0.1, num_steps=4, num_restarts=3, keep="last")),
    Case("pgd", dict(epsilon=0.1, num_steps=4, keep="last")),
    Case(
        "pgd",
        dict(epsilon=0.1, num_steps=4, num_restarts=2, objective="kl_divergence"),
    ),
    Case("rotation", {}),
    Case("spsa", dict(epsilon=0.1, num_steps=3, num_samples=128)),
    Case("square", dict(epsilon=0.1, num_queries=7, num_restarts=2)),
]


class Counter:
    """A model that nothing breaks, and that counts the images it is run on."""

    def __init__(self):
        self.forward = self.backward = 0

        @jax.custom_vjp
        def logits_fn(images):
            jax.debug.callback(self._count_forward, images)
            return self._logits(images)

        def run(images):
            logits, pull = jax.vjp(self._logits, images)
            jax.debug.callback(self._count_forward, images)
            return logits, pull

        def differentiate(pull, cotangents):
            jax.debug.callback(self._count_backward, cotangents)
            return pull(cotangents)

        logits_fn.defvjp(run, differentiate)
        self.logits_fn = logits_fn

    @staticmethod
    def _logits(images):
        weights = jnp.linspace(-1.0, 1.0, NUM_CLASSES)[None]
        score = images.mean(axis=(1, 2, 3))[:, None] * weights
        return score + 10.0 * jax.nn.one_hot(LABELS, NUM_CLASSES)

    def _count_forward(self, images):
        self.forward += len(images)

    def _count_backward(self, cotangents):
        self.backward += len(cotangents)

    def count(self, case: Case, logits_fn=None) -> Passes:
        """Run the attack, and return the passes that it took."""
        attack = attacks.make_attack(case.name, **case.hyperparameters)
        targets = {"targets": LABELS - 1} if case.targeted else {}
        logits_fn = self.logits_fn if logits_fn is None else logits_fn
        adv_images = attack(logits_fn, jax.random.key(0), IMAGES, LABELS, **targets)
        jax.block_until_ready(adv_images)
        jax.effects_barrier()
        return Passes(self.forward, self.backward)


def _complete(case: Case) -> dict[str, Any]:
    parameters = inspect.signature(attacks.ATTACKS[case.name]).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return defaults | case.hyperparameters


def test_every_attack_has_a_formula_and_a_case():
    assert set(PASSES) == set(attacks.ATTACKS)
    # AutoAttack's is the sum of its parts'.
    assert {case.name for case in CASES} == {*attacks.ATTACKS} - {"auto_attack"}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_the_formula_is_what_is_spent(case):
    expected = passes_per_survivor(case.name, _complete(case), num_classes=NUM_CLASSES)
    assert Counter().count(case) == expected


def test_auto_attack_costs_its_parts():
    given = dict(version="standard", norm="linf")
    spent = passes_per_survivor("auto_attack", given, num_classes=10)
    # APGD-CE, APGD-T and FAB-T over 9 targets, Square; 5 looks at images.
    forward = 101 + (1 + 9 * 101) + (1 + 9 * 101) + 5001 + 5
    assert spent == Passes(forward, 100 + 900 + 900)


def test_auto_attack_for_randomised_models_costs_the_samples_of_its_parts():
    given, options = dict(version="rand", norm="linf"), dict(num_classes=10)
    spent = passes_per_survivor("auto_attack", given, stochastic=True, **options)
    # Two APGD of 100 gradients and 101 looks, 3 looks at images, 20 samples each.
    assert spent == Passes(20 * (101 + 101 + 3), 20 * 200)
    spent = passes_per_survivor("auto_attack", given, **options)
    assert spent == Passes(101 + 101 + 3, 200)


def test_every_sample_of_a_randomised_model_is_spent():
    case = Case("pgd", dict(epsilon=0.1, num_steps=2, num_eot_samples=3))
    counter = Counter()
    logits_fn = StochasticLogitsFn(lambda images, keys: counter.logits_fn(images))
    options = dict(num_classes=NUM_CLASSES, stochastic=True)
    expected = passes_per_survivor("pgd", _complete(case), **options)
    assert expected == Passes(9, 6)
    assert counter.count(case, logits_fn) == expected


def test_what_is_not_known_is_said():
    with pytest.raises(
        ValueError, match="no cost is known of 'deepfake'; known: .*pgd"
    ):
        passes_per_survivor("deepfake", {}, num_classes=3)
    with pytest.raises(ValueError, match="cost of pgd depends on 'keep'"):
        passes_per_survivor("pgd", {"num_steps": 3}, num_classes=3)
