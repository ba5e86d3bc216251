"""AutoAttack as one function: its parts, and the closed form on a matrix."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from configs.suites import SUITES
from mmc_jax import attacks
from mmc_jax.types import StochasticLogitsFn

NUM_CLASSES, BATCH = 5, 16
_generator = np.random.default_rng(3)
KERNEL = _generator.normal(size=(16, NUM_CLASSES))
IMAGES = _generator.uniform(0.3, 0.7, (BATCH, 4, 4, 1)).astype(np.float32)
LABELS = (IMAGES.reshape(BATCH, -1) @ KERNEL).argmax(axis=1).astype(np.int32)
EPSILON = 0.05


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


MODEL = Partial(matrix_logits, jnp.asarray(KERNEL, jnp.float32))


def run(**more):
    given = dict(epsilon=EPSILON) | more
    return attacks.auto_attack(MODEL, jax.random.key(0), IMAGES, LABELS, **given)


def can_be_broken():
    """A matrix loses epsilon ||w_y - w_k||_1 of a margin in linf, far from the box."""
    logits = IMAGES.reshape(BATCH, -1).astype(float) @ KERNEL
    broken = np.zeros(BATCH, bool)
    for other in range(NUM_CLASSES):
        normal = KERNEL[:, LABELS] - KERNEL[:, [other]]
        margin = logits[np.arange(BATCH), LABELS] - logits[:, other]
        reach = EPSILON * np.abs(normal).sum(axis=0)
        broken |= (LABELS != other) & (margin < reach)
    return broken


def test_a_matrix_is_broken_exactly_where_it_can_be():
    adv_images = np.asarray(run())
    expected = can_be_broken()
    assert 3 <= expected.sum() <= BATCH - 3
    predictions = np.asarray(MODEL(adv_images)).argmax(axis=1)
    np.testing.assert_array_equal(predictions != LABELS, expected)
    assert np.abs(adv_images - IMAGES).max() <= EPSILON * (1 + 1e-6)


def test_a_randomised_model_is_judged_by_means_of_samples():
    def noisy(images, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (NUM_CLASSES,)))(keys)
        return MODEL(images) + noise

    def accuracy(images):
        logits = np.asarray(MODEL(images))
        noise = np.random.default_rng(0).normal(size=(500, BATCH, NUM_CLASSES))
        return ((logits + noise).argmax(axis=-1) == LABELS).mean(axis=0)

    model, key = StochasticLogitsFn(noisy), jax.random.key(0)
    adv_images = attacks.auto_attack(
        model, key, IMAGES, LABELS, epsilon=EPSILON, version="rand"
    )
    # By one draw, a quarter of them would be wrong as they are, and left at that.
    clean, left = accuracy(IMAGES), accuracy(adv_images)
    assert 0.5 < clean.mean() < 0.9
    assert ((clean > 0.6) & (left > clean - 0.1)).sum() == 0
    assert left.mean() < clean.mean() - 0.2


def complete(row):
    """Return a row with the defaults of its attack."""
    parameters = inspect.signature(attacks.ATTACKS[row["name"]]).parameters
    return {name: entry.default for name, entry in parameters.items()} | row


def test_the_standard_version_spends_the_published_budgets():
    parts = attacks.auto_attack_parts("standard", norm="linf", num_classes=10)
    published = {
        "apgd-ce": dict(num_steps=100, num_restarts=1, objective="cross_entropy"),
        "apgd-t": dict(num_steps=100, num_restarts=1, num_targets=9, objective="dlr"),
        "fab-t": dict(num_steps=100, num_restarts=1, num_targets=9)
        | dict(alpha_max=0.1, overshoot=1.05, beta=0.9),
        "square": dict(num_queries=5000, num_restarts=1, initial_fraction=0.8)
        | dict(rescale_schedule=False, objective="margin"),
    }
    assert [*parts] == [*published]
    for part, expected in published.items():
        found = complete(parts[part])
        assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("suite", "version"), [("autoattack", "standard"), ("autoattack-mmc", "mmc")]
)
def test_the_suites_are_the_published_parts(suite, version):
    parts = attacks.auto_attack_parts(version, norm="linf", num_classes=10)
    assert list(SUITES[suite]) == list(parts)
    for name, row in SUITES[suite].items():
        assert complete(row) == complete(parts[name])


def test_plus_and_l1_spend_what_is_published():
    plus = attacks.auto_attack_parts("plus", norm="linf", num_classes=10)
    assert [*plus] == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    restarts = [plus[part]["num_restarts"] for part in ("apgd-ce", "apgd-dlr", "fab")]
    assert restarts == [5, 5, 5]
    l1 = attacks.auto_attack_parts("standard", norm="l1", num_classes=10)
    assert (l1["apgd-t"]["num_targets"], l1["fab-t"]["num_targets"]) == (5, 9)


def test_parts_follow_the_norm_and_the_number_of_classes():
    parts = attacks.auto_attack_parts("standard", norm="l1", num_classes=3)
    assert parts["apgd-ce"]["num_restarts"] == 5
    assert parts["apgd-t"]["num_targets"] == parts["fab-t"]["num_targets"] == 2
    assert parts["apgd-t"]["objective"] == "pairwise_margin"
    random = attacks.auto_attack_parts("rand", norm="linf", num_classes=2)
    assert [*random] == ["apgd-ce", "apgd-dlr"]
    assert random["apgd-dlr"]["objective"] == "margin"
    assert {part["num_eot_samples"] for part in random.values()} == {20}
    assert len(attacks.auto_attack_parts("plus", norm="l2", num_classes=10)) == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(version="strong"), "version must be one of standard, plus.*'strong'"),
        (dict(norm="l3"), "norm must be one of.*'l3'"),
        (dict(targets=LABELS), "auto_attack chooses its own targets"),
        (dict(epsilon=-0.1), "epsilon must be at least 0.*-0.1"),
    ],
)
def test_bad_input_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        run(**more)
