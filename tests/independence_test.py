"""An example's adversarial image is its own, whatever it is attacked together with.

Bit for bit on a matrix where an attack's steps are signs, squares or angles of a given
size. The others divide by sums over an example's pixels or classes, and XLA orders a
sum, that in a matrix's own gradient too, by the size of the batch: they agree to
rounding.
"""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax import data, evaluate
from tests.attack_cases import CASES, NUM_CLASSES, SHAPE, WITH_MODEL
from tests.attacks_test import KERNEL, linear_logits

NUM = 1000
BIT_FOR_BIT = {
    *("fgsm", "bim", "pgd", "mim", "apgd", "square", "gaussian_noise", "rotation")
}
CHOOSES_PIXELS = {"apgd_l1"}
"""What moves the pixels of the largest gradient: a rounding may choose another one."""
_generator = np.random.default_rng(11)
IMAGES = _generator.uniform(size=(NUM, *SHAPE)).astype(np.float32)
LABELS = (IMAGES.reshape(NUM, -1) @ np.asarray(KERNEL)).argmax(axis=1)
# Some are wrong, and done at the first look.
LABELS = np.where(np.arange(NUM) % 9 == 8, (LABELS + 1) % NUM_CLASSES, LABELS)
LABELS = LABELS.astype(np.int32)
ORDER = np.random.default_rng(0).permutation(NUM)
MATRIX = Partial(
    linear_logits,
    dict(kernel=KERNEL, shift=jnp.float32(0), nan_above=jnp.float32(2)),
)
_KEYS = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(5), NUM)))

pytestmark = [pytest.mark.verify, pytest.mark.needs_eight_devices]


@pytest.fixture
def few_steps(monkeypatch):
    """Give AutoAttack as one function, which takes no budgets, small ones."""
    module = importlib.import_module("mmc_jax.attacks.auto_attack")
    published = module.auto_attack_parts

    def parts(*args, **terms):
        budgets = {"square": dict(num_queries=40)}
        return {
            name: row | budgets.get(name, dict(num_steps=5))
            for name, row in published(*args, **terms).items()
        }

    monkeypatch.setattr(module, "auto_attack_parts", parts)


def attack_in_batches(
    case, batch_size, order, logits_fn=MATRIX, images=IMAGES, labels=LABELS
):
    """Attack all images in some order and batches; return them in their own order."""
    adv_images = np.empty_like(images)
    for (places,), mask in data.pad_batches(order, batch_size=batch_size):
        keys = jax.random.wrap_key_data(jnp.asarray(_KEYS[places]))
        some = case(logits_fn, keys, jnp.asarray(images[places]), labels[places])
        adv_images[places[mask]] = np.asarray(some)[mask]
    return adv_images


def attack_on_eight_devices(case):
    def split(array):
        return jnp.asarray(array).reshape(8, NUM // 8, *array.shape[1:])

    keys = jax.random.wrap_key_data(split(_KEYS))
    attack = jax.pmap(lambda *share: case(MATRIX, *share))
    return np.asarray(attack(keys, split(IMAGES), split(LABELS))).reshape(IMAGES.shape)


@pytest.mark.parametrize("name", CASES)
def test_neither_batch_nor_order_nor_devices_change_an_image(name, few_steps):
    case, in_order = CASES[name], np.arange(NUM)
    whole = attack_in_batches(case, NUM, in_order)
    found = {
        "64 at a time": attack_in_batches(case, 64, in_order),
        "7 at a time": attack_in_batches(case, 7, in_order),
        "shuffled": attack_in_batches(case, NUM, ORDER),
        "on eight devices": attack_on_eight_devices(case),
    }
    jax.clear_caches()
    for how, adv_images in found.items():
        farthest = np.abs(adv_images - whole).max(axis=(1, 2, 3))
        print(f"{name}, {how}: {(farthest > 0).sum()} differ, by {farthest.max():.1e}")
        if name in BIT_FOR_BIT or how == "shuffled":
            assert not farthest.any(), how
        num_astray = (farthest > 2e-6).sum()
        assert num_astray <= (NUM / 10 if name in CHOOSES_PIXELS else 0), how
        verdicts = [MATRIX(x).argmax(axis=1) == LABELS for x in (adv_images, whole)]
        assert (verdicts[0] != verdicts[1]).sum() <= NUM / 100, how


def cnn_logits(weights, images):
    first, second, last = weights
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(2, 2),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    hidden = jax.nn.relu(convolve(images, first))
    hidden = jax.nn.relu(convolve(hidden, second))
    return hidden.reshape(len(images), -1) @ last


@pytest.mark.parametrize("name", WITH_MODEL)
def test_on_a_cnn_verdicts_agree_where_images_may_not(name, few_steps):
    """A rounding may tip which of two candidates an attack takes."""
    case, num = CASES[name], 200
    generator = np.random.default_rng(2)
    sizes = ((3, 3, 1, 8), (3, 3, 8, 16), (64, NUM_CLASSES))
    weights = [generator.normal(size=s) / np.prod(s[:-1]) ** 0.5 for s in sizes]
    logits_fn = Partial(cnn_logits, [jnp.asarray(w, jnp.float32) for w in weights])
    images = generator.uniform(size=(num, 8, 8, 1)).astype(np.float32)
    labels = np.asarray(logits_fn(images)).argmax(axis=1).astype(np.int32)
    given = (np.arange(num), logits_fn, images, labels)
    whole, few, some = (attack_in_batches(case, n, *given) for n in (num, 7, 64))
    jax.clear_caches()
    verdicts = [
        np.asarray(logits_fn(adv_images)).argmax(axis=1) == labels
        for adv_images in (whole, few, some)
    ]
    for adv_images, verdict in zip((few, some), verdicts[1:], strict=True):
        farthest = np.abs(adv_images - whole).max(axis=(1, 2, 3))
        counts = (farthest > 1e-5).sum(), (verdict != verdicts[0]).sum()
        print(f"{name}: {counts[0]} images, {counts[1]} verdicts of {num} differ")
        assert counts[1] <= num / 100
        assert counts[0] <= num / 10


def judge(names, **changes):
    attacks = {
        name: {"name": case.name}
        | {
            k: v
            for k, v in case.hyperparameters.items()
            if k not in ("epsilon", "norm")
        }
        for name, case in CASES.items()
        if name in names
    }
    given = dict(images=IMAGES, labels=LABELS, batch_size=NUM) | changes
    return evaluate.robust_accuracy(
        MATRIX,
        attacks=attacks,
        key=jax.random.key(1),
        norm="linf",
        epsilon=0.1,
        mode="individual",
        keep_images=True,
        **given,
    )


def test_evaluations_agree_by_their_digests():
    whole = judge(BIT_FOR_BIT)
    assert 100 < whole.worst_case.count < whole.clean.count - 100
    expected = whole.to_dict()
    for changes in (dict(batch_size=7), dict(batch_size=64), dict(num_devices=8)):
        found = judge(BIT_FOR_BIT, **changes).to_dict()
        assert found["sha256"] == expected["sha256"], changes
        assert found["per_example"] == expected["per_example"], changes
    shuffled = judge(
        BIT_FOR_BIT, images=IMAGES[ORDER], labels=LABELS[ORDER], example_ids=ORDER
    )
    np.testing.assert_array_equal(shuffled.images, whole.images[ORDER])
    for ours, theirs in zip(shuffled.rows, whole.rows, strict=True):
        np.testing.assert_array_equal(ours.correct, theirs.correct[ORDER])
