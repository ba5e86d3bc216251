"""Attacks by name, random targets, and the door's rules for what it cannot see."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax import attacks
from mmc_jax.attacks import make_attack, random_targets, with_random_targets

BATCH, NUM_CLASSES = 12, 4
KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
IMAGES = jnp.full((BATCH, 4, 4, 1), 0.5, jnp.float32)
LABELS = jnp.arange(BATCH) % NUM_CLASSES

num_calls = 0


def matrix_logits(kernel, images):
    global num_calls
    num_calls += 1
    return images.reshape(len(images), -1) @ kernel


LOGITS_FN = Partial(matrix_logits, KERNEL)


def test_a_bound_attack_is_the_attack_with_its_hyperparameters():
    bound = make_attack("fgsm", epsilon=0.1, objective="margin", bounds=[0.0, 1.0])
    key = jax.random.key(0)
    expected = attacks.fgsm(
        LOGITS_FN, key, IMAGES, LABELS, epsilon=0.1, objective="margin"
    )
    np.testing.assert_array_equal(bound(LOGITS_FN, key, IMAGES, LABELS), expected)
    assert bound.name == "fgsm"


def test_equal_attacks_are_equal_static_arguments():
    first = make_attack("pgd", epsilon=0.1, num_steps=3)
    second = make_attack("pgd", num_steps=3, epsilon=0.1)
    assert first == second and hash(first) == hash(second)
    assert first != make_attack("pgd", epsilon=0.1, num_steps=4)
    assert first != make_attack("bim", epsilon=0.1, num_steps=3)
    assert pickle.loads(pickle.dumps(first)) == first
    pair = [with_random_targets(attack, 4) for attack in (first, second)]
    assert pair[0] == pair[1] and hash(pair[0]) == hash(pair[1])
    assert pair[0] != with_random_targets(first, 5)


def test_random_targets_are_uniform_and_wrong():
    count = 4096
    labels = jnp.arange(count) % NUM_CLASSES
    targets = np.asarray(random_targets(jax.random.key(0), labels, NUM_CLASSES))
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(counts, (np.asarray(labels), targets), 1)
    assert (np.diag(counts) == 0).all()
    expected = count / NUM_CLASSES / (NUM_CLASSES - 1)
    off_diagonal = counts[~np.eye(NUM_CLASSES, dtype=bool)]
    assert np.abs(off_diagonal - expected).max() < 5 * np.sqrt(expected)


def test_random_targets_belong_to_the_example():
    key_data = np.asarray(
        jax.random.key_data(jax.random.split(jax.random.key(1), BATCH))
    )

    def draw(which):
        keys = jax.random.wrap_key_data(key_data[which])
        return random_targets(keys, LABELS[which], NUM_CLASSES)

    order = np.random.default_rng(0).permutation(BATCH)
    whole = draw(np.arange(BATCH))
    np.testing.assert_array_equal(draw(order), whole[order])


def test_random_targets_are_what_the_attack_aims_at():
    key = jax.random.key(2)
    bound = make_attack("fgsm", epsilon=0.1, objective="pairwise_margin")

    @jax.jit
    def attack_both_ways(key):
        targets = random_targets(key, LABELS, NUM_CLASSES)
        attack = with_random_targets(bound, NUM_CLASSES)
        return (
            attack(LOGITS_FN, key, IMAGES, LABELS),
            bound(LOGITS_FN, key, IMAGES, LABELS, targets=targets),
        )

    found, expected = attack_both_ways(key)
    moved = jnp.abs(found - IMAGES).max(axis=(1, 2, 3))
    np.testing.assert_allclose(moved, 0.1, rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_door_never_calls_the_model():
    key = jax.random.key(0)
    attacks.fgsm(LOGITS_FN, key, IMAGES, LABELS, epsilon=0.1)
    before = num_calls
    attacks.fgsm(LOGITS_FN, key, IMAGES, LABELS, epsilon=0.2)
    with pytest.raises(ValueError, match="epsilon"):
        attacks.fgsm(LOGITS_FN, key, IMAGES[:5], LABELS[:5], epsilon=-1.0)
    assert num_calls == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(epsilon=-0.1), "epsilon must be at least 0"),
        (dict(epsilon=jnp.float32(-0.1)), "epsilon must be at least 0"),
        (dict(labels=LABELS + 9), "labels must be below the number of classes, 4"),
        (dict(labels=LABELS - 1), "labels must be at least 0; got -1"),
        (dict(targets=LABELS), "targets must differ from labels"),
    ],
)
def test_what_is_concrete_is_checked_while_tracing(changes, message):
    arguments = dict(labels=LABELS, epsilon=0.1, targets=None) | changes

    def attack(images):
        return attacks.fgsm(LOGITS_FN, jax.random.key(0), images, **arguments)

    with pytest.raises(ValueError, match=message):
        jax.jit(attack)(IMAGES)
    with pytest.raises(ValueError, match=message):
        jax.vmap(attack)(IMAGES[None])


def test_traced_images_out_of_the_box_come_back_inside():
    images = IMAGES.at[0].set(jnp.nan).at[1].set(-jnp.inf).at[2].set(7.0)
    for bound in (make_attack("fgsm", epsilon=0.1), make_attack("rotation")):
        run = jax.jit(bound)
        adv_images = run(LOGITS_FN, jax.random.key(0), images, LABELS)
        assert bool(jnp.all((adv_images >= 0) & (adv_images <= 1)))
