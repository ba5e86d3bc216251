"""C&W and EAD: closed forms, the search over c, what is returned, and what it costs."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax.attacks import carlini_wagner, elastic_net
from mmc_jax.attacks.consts import LARGEST_CONST, narrow, start_search
from mmc_jax.attacks.objectives import margin
from mmc_jax.types import StochasticLogitsFn

BATCH, SIZE, NUM_CLASSES = 8, 16, 4
BOTH = pytest.mark.parametrize("attack", [carlini_wagner, elastic_net])


def _key():
    return jax.random.key(0)


# --- the sequence of c ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        # Ten times larger until the first success, then the middle.
        ("FFSFSF", [0.01, 0.1, 1.0, 0.55, 0.775, 0.6625, 0.71875]),
        ("SSF", [0.01, 0.005, 0.0025, 0.00375]),
        ("FSSS", [0.01, 0.1, 0.055, 0.0325, 0.02125]),
        ("F" * 13, [*(0.01 * 10**k for k in range(13)), LARGEST_CONST]),
    ],
)
def test_const_grows_tenfold_and_is_then_bisected(outcomes, expected):
    # Beside it, an example of the opposite outcomes.
    search, tried = start_search(0.01, 2), []
    for outcome in outcomes:
        tried.append(search.const[0])
        success = outcome == "S"
        search = narrow(search, jnp.array([success, not success]))
    tried.append(search.const[0])
    np.testing.assert_allclose(tried, expected, rtol=1e-6)


# --- closed forms ---------------------------------------------------------------------

_generator = np.random.default_rng(0)
KERNEL = _generator.normal(size=(SIZE, NUM_CLASSES)).astype(np.float32)
PAIR = _generator.normal(size=(SIZE, 2)).astype(np.float32)
# Of equal norm and distance, like MMC's: the runner-up is the closest class.
_rotation = np.linalg.qr(_generator.normal(size=(SIZE, SIZE)))[0]
CENTERS = 2 * _rotation[:NUM_CLASSES].astype(np.float32)
IMAGES = _generator.uniform(size=(BATCH, 4, 4, 1)).astype(np.float32)
GRAY = 0.4 + 0.2 * IMAGES
# Pixels that lie on the bounds, as in a black background, can move one way only.
IMAGES[:4] = np.clip(np.round(4 * IMAGES[:4] - 1.5), 0, 1)


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


def distance_logits(centers, images):
    features = images.reshape(len(images), -1)
    return -jnp.sum((features[:, None, :] - centers[None, :, :]) ** 2, axis=-1)


MODELS = {
    "pair": Partial(matrix_logits, jnp.asarray(PAIR)),
    "matrix": Partial(matrix_logits, jnp.asarray(KERNEL)),
    "mahalanobis": Partial(distance_logits, jnp.asarray(CENTERS)),
}
NORMALS = {
    "pair": PAIR.T.astype(float),
    "matrix": KERNEL.T.astype(float),
    "mahalanobis": 2 * CENTERS.astype(float),
}


def predict(logits_fn, images=IMAGES):
    return jnp.argmax(logits_fn(images), axis=1)


def measure(delta, beta=0.0, kind="en"):
    delta = np.asarray(delta, np.float64).reshape(len(delta), -1)
    l1 = np.abs(delta).sum(axis=1)
    return l1 if kind == "l1" else (delta**2).sum(axis=1) + beta * l1


def closest(name, clean, labels, *, beta=0.0, kind="en", targets=None):
    """The smallest distance to the bisecting hyperplanes within the box, by duality.

    delta minimises beta |delta|_1 + |delta|_2^2 - multiplier <normal, delta>, pixel by
    pixel; for l1 the steepest pixels go all the way.
    """
    images = clean.reshape(BATCH, -1).astype(float)
    logits = np.asarray(MODELS[name](clean), float)
    found = np.full(BATCH, np.inf)
    for i, label in enumerate(np.asarray(labels)):
        others = range(NUM_CLASSES) if targets is None else [int(targets[i])]
        for other in others:
            if other == label or other >= logits.shape[1]:
                continue
            normal = NORMALS[name][other] - NORMALS[name][label]
            gap = logits[i, label] - logits[i, other]
            room = np.where(normal > 0, 1 - images[i], -images[i])
            if room @ normal < gap:
                continue
            if kind == "l1":
                order = np.argsort(-np.abs(normal))
                gains = np.cumsum((room * normal)[order])
                last = np.searchsorted(gains, gap)
                used = np.abs(room[order][: last + 1])
                rest = (gains[last] - gap) / np.abs(normal[order][last])
                found[i] = min(found[i], used.sum() - rest)
                continue
            low, high = 0.0, 1e6
            for _ in range(200):
                multiplier = (low + high) / 2
                length = np.maximum(multiplier * np.abs(normal) - beta, 0) / 2
                delta = np.sign(normal) * np.minimum(length, np.abs(room))
                low, high = (
                    (low, multiplier) if delta @ normal >= gap else (multiplier, high)
                )
            found[i] = min(found[i], measure(delta[None], beta)[0])
    return found


# The margin descends to the runner-up, which far from the box is the closest class.
@pytest.mark.parametrize(
    ("name", "images"), [("pair", IMAGES), ("mahalanobis", GRAY)], ids=["pair", "gray"]
)
@pytest.mark.parametrize(
    ("attack", "more", "beta", "kind"),
    [
        (carlini_wagner, dict(num_steps=300), 0.0, "en"),
        (elastic_net, dict(beta=1e-4, learning_rate=0.1), 1e-4, "en"),
        (elastic_net, dict(decision_rule="l1", beta=0.1), 0.0, "l1"),
    ],
)
def test_distance_is_the_closed_form(name, images, attack, more, beta, kind):
    logits_fn = MODELS[name]
    labels = predict(logits_fn, images)
    adv_images = attack(logits_fn, _key(), images, labels, **more)
    assert bool(jnp.all(predict(logits_fn, adv_images) != labels))
    assert float(adv_images.min()) >= 0 and float(adv_images.max()) <= 1
    distance = measure(adv_images - images, beta, kind)
    optimum = closest(name, images, labels, beta=beta, kind=kind)
    if kind == "en":
        distance, optimum = np.sqrt(distance), np.sqrt(optimum)
    ratio = distance / optimum
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() <= 1.05


# --- what counts as a success, and what comes back ------------------------------------

SHORT = dict(num_binary_search_steps=3, num_steps=30)


@BOTH
def test_targets_are_reached_at_their_own_closed_form(attack):
    logits_fn = MODELS["matrix"]
    labels = predict(logits_fn)
    targets = (labels + 1) % NUM_CLASSES
    more = {} if attack is carlini_wagner else dict(beta=1e-4)
    adv_images = attack(logits_fn, _key(), IMAGES, labels, targets=targets, **more)
    optimum = closest("matrix", IMAGES, labels, targets=targets)
    reachable = np.isfinite(optimum)
    assert reachable.sum() >= BATCH // 2
    reached = predict(logits_fn, adv_images) == targets
    np.testing.assert_array_equal(reached, reachable)
    length = np.sqrt(measure(adv_images - IMAGES)[reachable])
    # The target must beat every other class, not only the label.
    assert (length >= np.sqrt(optimum[reachable]) * (1 - 1e-5)).all()


@BOTH
def test_confidence_is_the_margin_that_is_reached(attack):
    logits_fn = MODELS["matrix"]
    labels = predict(logits_fn)
    plain, confident = (
        attack(logits_fn, _key(), IMAGES, labels, confidence=confidence)
        for confidence in (0.0, 0.5)
    )
    reached = margin(logits_fn(confident), labels)
    assert float(reached.max()) <= -0.5
    assert float(reached.mean()) >= -0.6
    assert bool(jnp.all(margin(logits_fn(plain), labels) > -0.2))


@BOTH
def test_a_failure_returns_the_clean_image(attack):
    def logits_fn(images):
        # Class 1 is out of reach of every second image.
        mean = jnp.mean(images, axis=(1, 2, 3))
        gap = jnp.where(jnp.arange(len(images)) % 2 == 0, 5.0, 0.6)
        return jnp.stack([gap - mean, jnp.zeros_like(mean)], axis=1)

    images = jnp.full((BATCH, 2, 2, 1), 0.5)
    adv_images = attack(logits_fn, _key(), images, jnp.zeros(BATCH, int))
    np.testing.assert_array_equal(adv_images[::2], images[::2])
    assert bool(jnp.all(jnp.argmax(logits_fn(adv_images), axis=1)[1::2] == 1))


def peaked_logits(weights, images):
    """Class 1 wins where the pixel is above `edge`; NaN from `nan_above` on."""
    pixel = images[:, 0, 0, 0]
    logits = jnp.stack([jnp.zeros_like(pixel), pixel - weights["edge"]], axis=1)
    return jnp.where((pixel > weights["nan_above"])[:, None], jnp.nan, logits)


@BOTH
def test_an_image_beyond_the_model_comes_back_unless_the_clean_one_is_too(attack):
    def reach(edge, nan_above, label=0):
        weights = dict(edge=jnp.float32(edge), nan_above=jnp.float32(nan_above))
        pixel, labels = jnp.full((1, 1, 1, 1), 0.5), jnp.array([label])
        logits_fn = Partial(peaked_logits, weights)
        return attack(logits_fn, _key(), pixel, labels, learning_rate=0.02).item()

    assert reach(0.6, 2.0) == pytest.approx(0.6, abs=2e-3)
    assert 0.7 < reach(0.8, 0.7) < 0.8
    assert reach(0.8, 0.4) == 0.5
    assert reach(0.8, 2.0, label=1) == 0.5


# --- what it costs --------------------------------------------------------------------

num_passes = collections.Counter()


def _count_pass(_):
    num_passes["all"] += 1


def counted_logits(slope, images):
    jax.debug.callback(_count_pass, images[0, 0, 0, 0])
    mean = jnp.mean(images, axis=(1, 2, 3))
    return jnp.stack([9.0 - slope * mean, jnp.zeros_like(mean)], axis=1)


@BOTH
@pytest.mark.parametrize(
    ("more", "slope", "label", "expected"),
    [
        (dict(abort_early=False), 0.0, 0, 3 * 30),
        # The loss is flat: the second period of 10 steps ends the walk.
        (dict(abort_early=True), 0.0, 0, 3 * (2 * 10 + 1)),
        # Misclassified as it is: nothing can be closer.
        (dict(abort_early=True), 1.0, 1, 1),
        (dict(abort_early=False), 1.0, 1, 1),
    ],
)
def test_runs_one_gradient_a_step_and_nothing_else(
    attack, more, slope, label, expected
):
    images, labels = jnp.full((2, 2, 2, 1), 0.5), jnp.full(2, label)
    logits_fn = Partial(counted_logits, jnp.float32(slope))
    num_passes.clear()
    adv_images = attack(logits_fn, _key(), images, labels, **SHORT, **more)
    jax.effects_barrier()
    assert num_passes["all"] == expected
    np.testing.assert_array_equal(adv_images, images)


@BOTH
def test_an_example_that_stalls_leaves_the_others_alone(attack):
    # 32 examples, so that the batch is halved as they stall, beside one at a time.
    logits_fn = MODELS["mahalanobis"]
    generator = np.random.default_rng(1)
    images = generator.uniform(size=(32, 4, 4, 1)).astype(np.float32)
    labels = predict(logits_fn, images)
    more = dict(num_binary_search_steps=4, num_steps=100)
    whole = attack(logits_fn, _key(), images, labels, **more)
    alone = jnp.concatenate(
        [
            attack(logits_fn, _key(), images[i : i + 1], labels[i : i + 1], **more)
            for i in range(32)
        ]
    )
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-5)
    patient = attack(logits_fn, _key(), images, labels, abort_early=False, **more)
    assert bool(jnp.any(jnp.abs(patient - whole) > 1e-5))


@BOTH
def test_traced_numbers_that_make_no_sense_end_and_stay_in_the_box(attack):
    logits_fn = MODELS["matrix"]
    labels = predict(logits_fn)

    @jax.jit
    @jax.vmap
    def grid(numbers):
        return attack(logits_fn, _key(), IMAGES, labels, **numbers)

    names = ("learning_rate", "initial_const", "confidence", "num_steps")
    values = np.array(
        [
            [1e-2, 1e-2, 0.0, 20],
            [np.nan, 1e-2, 0.0, 20],
            [np.inf, np.inf, np.inf, 20],
            [1e-2, -1.0, np.nan, 20],
            [1e-2, np.nan, -1.0, -20],
        ]
    )
    numbers = {name: jnp.float32(values[:, i]) for i, name in enumerate(names)}
    numbers["num_steps"] = numbers["num_steps"].astype(jnp.int32)
    adv_images = grid(numbers)
    assert bool(jnp.all((adv_images >= 0) & (adv_images <= 1)))
    first = {name: values[0, i] for i, name in enumerate(names)}
    first["num_steps"] = 20
    plain = attack(logits_fn, _key(), IMAGES, labels, **first)
    np.testing.assert_allclose(adv_images[0], plain, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(adv_images[4], IMAGES)


def noisy_logits(kernel, images, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (SIZE, NUM_CLASSES)))(keys)
    flat = images.reshape(len(images), 1, -1)
    return (flat @ (kernel[None] + 0.1 * noise))[:, 0]


@BOTH
def test_a_randomised_model_is_attacked_by_fresh_samples(attack):
    logits_fn = StochasticLogitsFn(Partial(noisy_logits, jnp.asarray(KERNEL)))
    labels = predict(MODELS["matrix"])
    images = jnp.broadcast_to(IMAGES[-1], IMAGES.shape)
    labels = jnp.broadcast_to(labels[-1], labels.shape)
    more = dict(SHORT, learning_rate=0.05, initial_const=1.0, num_eot_samples=4)
    adv_images = attack(logits_fn, _key(), images, labels, **more)
    # Examples that are alike differ by their keys alone.
    assert bool(jnp.all(jnp.any(adv_images[1:] != adv_images[:1], axis=(1, 2, 3))))


@pytest.mark.parametrize(
    ("attack", "more", "message"),
    [
        (carlini_wagner, dict(initial_const=0.0), "initial_const must be at least"),
        (carlini_wagner, dict(initial_const=1e11), "initial_const must be at least"),
        (carlini_wagner, dict(confidence=-1.0), "confidence must be at least 0"),
        (carlini_wagner, dict(num_steps=0), "num_steps must be at least 1"),
        (elastic_net, dict(num_binary_search_steps=0), "num_binary_search_steps must"),
        (elastic_net, dict(learning_rate=-1.0), "learning_rate must be at least 0"),
        (elastic_net, dict(beta=-1.0), "beta must be at least 0"),
        (elastic_net, dict(decision_rule="l2"), "decision_rule must be one of en, l1"),
        (elastic_net, dict(abort_early=1), "abort_early must be True or False"),
    ],
)
def test_refuses_what_it_does_not_document(attack, more, message):
    with pytest.raises(ValueError, match=message):
        attack(MODELS["matrix"], _key(), IMAGES, predict(MODELS["matrix"]), **more)
