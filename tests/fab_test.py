"""Minimum-norm attacks: closed forms, what a step costs, and what is returned.

That the iterates themselves are right, `parity_test.py` shows.
"""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax import attacks
from mmc_jax.attacks import (
    boundaries,
    deep_fool,
    fab,
    fab_targeted,
    hyperplanes,
)
from mmc_jax.centers import mahalanobis_logits
from mmc_jax.types import StochasticLogitsFn

BATCH, SIZE, NUM_CLASSES = 8, 36, 5
NORMS = ("linf", "l2", "l1")
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
SEED = 0


def _key():
    return jax.random.key(SEED)


_generator = np.random.default_rng(SEED)
IMAGES = jnp.asarray(_generator.uniform(size=(BATCH, 6, 6, 1)), jnp.float32)
# Black and white pixels, which have no room on one side, as in a digit.
DIGITS = jnp.clip(2 * IMAGES - 0.5, 0, 1)
KERNEL = jnp.asarray(_generator.normal(size=(SIZE, NUM_CLASSES)), jnp.float32)


# --- the shortest way to a hyperplane -------------------------------------------------


def shortest(weights, room, demand, norm):
    """Return the least norm of t with <|w|, t> = demand and 0 <= t <= room, float64.

    None if there is no such t.
    """
    weights, room = np.abs(np.asarray(weights, np.float64)), np.asarray(room, float)
    if weights @ room < demand:
        return None
    if norm == "l1":
        amounts = np.zeros_like(room)
        for i in np.argsort(-weights):
            rest = demand - weights @ amounts
            amounts[i] = min(room[i], rest / weights[i]) if rest > 0 else 0.0
        return amounts.sum()
    speeds = weights if norm == "l2" else np.ones_like(weights)
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        is_enough = weights @ np.minimum(room, middle * speeds) >= demand
        low, high = (low, middle) if is_enough else (middle, high)
    return np.linalg.norm(np.minimum(room, high * speeds), ord=ORDERS[norm])


def _room(points, normals, values):
    """How far each pixel may go towards the hyperplane."""
    towards = -np.sign(values)[:, None] * np.sign(normals)
    room = np.where(towards > 0, 1 - points, points)
    return np.where(towards == 0, 0.0, room)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_way_to_a_hyperplane_is_the_shortest(norm, scale, generator):
    points = generator.uniform(size=(64, 50)).astype(np.float32)
    points = np.where(points < 0.3, 0, np.where(points > 0.8, 1, points))
    normals = generator.normal(size=(64, 50)) ** 3
    normals = np.where(generator.uniform(size=normals.shape) < 0.1, 0.0, normals)
    signs = np.where(generator.uniform(size=64) < 0.5, -1, 1)
    reach = (np.abs(normals) * _room(points, normals, signs)).sum(axis=1)
    # From the hyperplane itself to just within reach.
    values = signs * reach * np.linspace(0, 0.999, 64)
    ways = hyperplanes.shortest_way(
        jnp.asarray(points, jnp.float32),
        jnp.asarray(scale * normals, jnp.float32),
        jnp.asarray(scale * values, jnp.float32),
        norm=norm,
        bounds=(0.0, 1.0),
    )
    ways = np.asarray(ways, np.float64)
    assert (points + ways > -1e-6).all() and (points + ways < 1 + 1e-6).all()
    np.testing.assert_allclose(
        (normals * ways).sum(axis=1), -values, rtol=0, atol=1e-5 * reach.max()
    )
    room = _room(points, normals, signs)
    expected = [
        shortest(*row, norm) for row in zip(normals, room, np.abs(values), strict=True)
    ]
    found = np.linalg.norm(ways, ord=ORDERS[norm], axis=1)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_the_distance_to_a_hyperplane_is_by_the_dual_norm(norm, dual, generator):
    values, normals = generator.normal(size=5), generator.normal(size=(5, 7))
    expected = np.abs(values) / np.linalg.norm(normals, ord=dual, axis=1)
    found = hyperplanes.hyperplane_distances(
        jnp.asarray(values), jnp.asarray(normals), norm=norm
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_the_closest_corner_is_next(norm):
    points = jnp.array([[0.2, 0.3, 0.4, 1.0], [0.2, 0.3, 0.4, 1.0]])
    normals = jnp.array([[2.0, -1.0, 0.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
    values = jnp.array([5.0, 1.0])
    more = dict(norm=norm, bounds=(0.0, 1.0))
    ways = hyperplanes.shortest_way(points, normals, values, **more)
    expected = [[-0.2, 0.7, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(ways, expected, rtol=0, atol=1e-6)


# --- closed forms ---------------------------------------------------------------------


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


def distance_logits(centers, images):
    return mahalanobis_logits(images.reshape(len(images), -1), centers)


# For each head: the model, and the logits' gradients, which differ by constants.
HEADS = {
    "matrix": (matrix_logits, KERNEL, KERNEL.T),
    "mahalanobis": (distance_logits, 0.5 + KERNEL.T / 4, KERNEL.T / 2),
}


def _least_norms(images, logits, labels, gradients, norm):
    """Return every image's distance to the closest bisecting hyperplane in the box."""
    least = []
    images = np.asarray(images, np.float64).reshape(BATCH, -1)
    logits, gradients = np.asarray(logits, np.float64), np.asarray(gradients)
    for image, row, label in zip(images, logits, np.asarray(labels), strict=True):
        found = []
        for other in set(range(NUM_CLASSES)) - {int(label)}:
            normal = gradients[label] - gradients[other]
            room = _room(image[None], normal[None], np.ones(1))[0]
            found.append(shortest(normal, room, row[label] - row[other], norm))
        least.append(min(norm for norm in found if norm is not None))
    return np.array(least)


@pytest.mark.parametrize(
    ("head", "attack", "norm"),
    [("matrix", attack, norm) for attack in (fab, fab_targeted) for norm in NORMS]
    + [("matrix", deep_fool, norm) for norm in ("linf", "l2")]
    + [("mahalanobis", fab, "l2"), ("mahalanobis", fab_targeted, "linf")]
    + [("mahalanobis", deep_fool, "l2")],
)
def test_minimum_norms_are_met(head, attack, norm):
    function, weights, gradients = HEADS[head]
    logits_fn = Partial(function, weights)
    # One that chooses a boundary does so without regard to the box.
    images = DIGITS if attack is fab_targeted else IMAGES
    labels = jnp.argmax(logits_fn(images), axis=1)
    steps = {} if attack is deep_fool else dict(num_steps=20)
    adv_images = attack(logits_fn, _key(), images, labels, norm=norm, **steps)
    assert bool(jnp.all(jnp.argmax(logits_fn(adv_images), axis=1) != labels))
    assert bool(jnp.all((adv_images >= 0) & (adv_images <= 1)))
    deltas = np.asarray(adv_images, np.float64) - np.asarray(images, np.float64)
    found = np.linalg.norm(deltas.reshape(BATCH, -1), ord=ORDERS[norm], axis=1)
    ratios = found / _least_norms(images, logits_fn(images), labels, gradients, norm)
    assert ratios.min() > 1 - 1e-5
    assert ratios.max() < 1.02 + 1e-4


# --- a step by hand -------------------------------------------------------------------

visited: list[np.ndarray] = []


def visited_logits(kernel, images):
    """Two pixels, h_1 - h_0 = 2 x_0 - x_1 - 0.8, and a note of where it was asked."""
    jax.debug.callback(lambda pixels: visited.append(np.ravel(pixels)), images)
    score = images.reshape(len(images), 2) @ kernel - 0.8
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


@pytest.mark.parametrize(
    ("norm", "way"),
    [("linf", [0.1, -0.1]), ("l2", [0.12, -0.06]), ("l1", [0.15, 0.0])],
)
def test_a_success_steps_back_towards_the_clean_image(norm, way):
    visited.clear()
    logits_fn = Partial(visited_logits, jnp.array([2.0, -1.0]))
    gray, label = jnp.full((1, 2, 1, 1), 0.5), jnp.array([0])
    fab_targeted(logits_fn, _key(), gray, label, norm=norm, num_steps=2)
    jax.effects_barrier()
    # 1.05 of the way, back to 0.9 of that; then a = 0.055 / 1.055 of what is left.
    share = 0.055 / 1.055
    second = (1 - share) * (0.945 + 1.05 * 0.055) + share * 1.05
    for factor in (0.0, 1.05, 0.945, second):
        point = 0.5 + factor * np.array(way)
        distances = [np.abs(point - other).max() for other in visited]
        assert min(distances) < 1e-5, factor


# --- what a step costs ----------------------------------------------------------------

num_passes = collections.Counter()


def _count(name):
    jax.debug.callback(lambda: num_passes.update([name]))


@jax.custom_vjp
def counted(images):
    _count("forward")
    return images


def _counted_forward(images):
    _count("forward")
    return images, None


def _counted_backward(_, cotangent):
    _count("backward")
    return (cotangent,)


counted.defvjp(_counted_forward, _counted_backward)


def counted_logits(weights, images):
    """A matrix times `slope`, plus constants that hold class 0 up."""
    logits = matrix_logits(weights["slope"] * weights["kernel"], counted(images))
    return logits + weights["lead"] * (jnp.arange(NUM_CLASSES) == 0)[None, :]


@pytest.mark.verify
@pytest.mark.parametrize(
    ("attack", "more", "slope", "forward", "backward"),
    [
        # No gradient: two restarts of three steps, and a last judgement each.
        (fab, dict(num_steps=3, num_restarts=2), 0.0, 1 + 2 * 4, 2 * 3 * 4),
        (fab_targeted, dict(num_steps=3, num_restarts=2), 0.0, 1 + 8 * 4, 8 * 3),
        (deep_fool, dict(num_steps=3), 0.0, 1 + 3 * 2, 3 * 4),
        # The first step succeeds. The pass that finds out has one backward too many.
        (fab_targeted, dict(epsilon=1.0), 1.0, 3, 2),
        (deep_fool, {}, 1.0, 3, 4),
        # All four steps succeed; from the second on it is expected. Then the search.
        (fab_targeted, dict(num_steps=4, num_targets=1), 1.0, 1 + 5 + 3 + 3, 5),
        # A misclassified image is done.
        (fab, dict(labels=2), 1.0, 1, 0),
        (fab_targeted, dict(labels=2, epsilon=0.1), 1.0, 1, 0),
        (deep_fool, dict(labels=2), 1.0, 1, 0),
    ],
)
def test_runs_no_pass_in_vain(attack, more, slope, forward, backward):
    weights = dict(kernel=KERNEL, slope=jnp.float32(slope), lead=jnp.float32(2.0))
    weights["kernel"] = KERNEL - jnp.mean(KERNEL, axis=0, keepdims=True)
    more = dict(norm="l2") | more
    images, labels = jnp.full_like(IMAGES, 0.5), jnp.full(BATCH, more.pop("labels", 0))
    num_passes.clear()
    attack(Partial(counted_logits, weights), _key(), images, labels, **more)
    jax.effects_barrier()
    assert (num_passes["forward"], num_passes["backward"]) == (forward, backward)


# --- independence ---------------------------------------------------------------------

HIDDEN = jnp.asarray(_generator.normal(size=(SIZE, 16)) / 4, jnp.float32)
OUTER = jnp.asarray(_generator.normal(size=(16, NUM_CLASSES)), jnp.float32)


def network_logits(weights, images):
    hidden, outer = weights
    return jnp.sin(3 * (images.reshape(len(images), -1) @ hidden)) @ outer


def noisy_logits(weights, images, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (NUM_CLASSES,)))(keys)
    return network_logits(weights, images) + 0.02 * noise


NETWORK = Partial(network_logits, (HIDDEN, OUTER))
NETWORK_LABELS = jnp.argmax(NETWORK(IMAGES), axis=1)


@pytest.mark.verify
@pytest.mark.parametrize(
    ("attack", "is_random"),
    [(fab, False), (fab_targeted, False), (fab_targeted, True), (deep_fool, True)],
)
def test_examples_do_not_hear_of_each_other(attack, is_random):
    # Alone, an example decides by itself whether to look before it differentiates.
    noisy = StochasticLogitsFn(Partial(noisy_logits, (HIDDEN, OUTER)))
    logits_fn = noisy if is_random else NETWORK
    keys = jax.random.split(_key(), BATCH)
    more = {} if attack is deep_fool else dict(num_restarts=2, num_steps=4)
    whole = attack(logits_fn, keys, IMAGES, NETWORK_LABELS, norm="l2", **more)
    alone = [
        attack(logits_fn, keys[i : i + 1], IMAGES[i : i + 1], label[None], **more)
        for more in [dict(norm="l2", **more)]
        for i, label in enumerate(NETWORK_LABELS)
    ]
    np.testing.assert_allclose(jnp.concatenate(alone), whole, rtol=0, atol=1e-5)
    assert bool(jnp.any(whole != IMAGES))


def test_the_label_is_no_wrong_class_wherever_the_logits_lie():
    logits = jnp.array([[3.0, 1.0, 2.0, -jnp.inf, 0.0], [1.0, 2.0, 3.0, 4.0, jnp.nan]])
    labels = jnp.array([0, 3])
    for shift in (-100.0, 100.0):
        found = boundaries.likely_wrong_classes(logits + shift, labels, 9)
        np.testing.assert_array_equal(found[0], [2, 1, 4, 3])
        assert sorted(found[1].tolist()) == [0, 1, 2, 4]


# --- what is returned -----------------------------------------------------------------


def shell_logits(weights, images):
    """Without a gradient; class 1 wins farther than `radius` from gray."""
    deltas = jax.lax.stop_gradient(images - 0.5).reshape(len(images), -1)
    lengths = jnp.select(
        [weights["order"] == 1, weights["order"] == 2],
        [jnp.abs(deltas).sum(1), jnp.sqrt((deltas**2).sum(1))],
        jnp.abs(deltas).max(1),
    )
    outside = lengths > weights["radius"]
    outside = jnp.where(outside, weights["value"], -1.0) + 0 * images.sum((1, 2, 3))
    return jnp.stack([jnp.zeros_like(outside), outside], axis=1)


@pytest.mark.parametrize(("norm", "value"), [("linf", 1.0), ("l2", np.nan)])
def test_restarts_start_at_half_the_radius(norm, value):
    gray = jnp.full_like(IMAGES, 0.5)
    weights = dict(order=ORDERS[norm], radius=0.09, value=value)
    logits_fn = Partial(shell_logits, jax.tree.map(jnp.float32, weights))
    labels = jnp.zeros(BATCH, jnp.int32)
    for num_restarts, expected in ((1, 0.0), (3, 0.1)):
        more = dict(norm=norm, num_restarts=num_restarts, num_steps=2, epsilon=0.2)
        adv_images = fab_targeted(logits_fn, _key(), gray, labels, **more)
        deltas = np.asarray(adv_images - gray).reshape(BATCH, -1)
        found = np.linalg.norm(deltas, ord=ORDERS[norm], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert len(np.unique(deltas, axis=0)) == BATCH


def kinked_logits(weights, images):
    """Class 1 wins above 0.6, which its slope below 0.4 lets seem to be 0.8."""
    pixel = images[:, 0, 0, 0]
    root = jnp.sqrt(jnp.maximum(pixel - 0.4, 1e-9) / 0.2)
    second = jnp.where(pixel < 0.4, -0.2 + 0.5 * (pixel - 0.4), 0.2 * (root - 1))
    return weights + jnp.stack([jnp.zeros_like(pixel), second], axis=1)


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(None, 0.613), (0.6, 0.825), (0.32, 0.613), (0.31, 0.3)]
)
def test_searches_back_where_that_may_help(epsilon, expected):
    image = jnp.full((1, 1, 1, 1), 0.3, jnp.float32)
    more = dict(epsilon=epsilon, num_steps=1)
    logits_fn = Partial(kinked_logits, jnp.float32(-3.0))
    found = fab(logits_fn, _key(), image, jnp.array([0]), **more).item()
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_success_is_one_by_more_than_rounding():
    # On a matrix the search lands on the boundary itself, on either side of it.
    logits_fn = Partial(matrix_logits, KERNEL)
    labels = jnp.argmax(logits_fn(IMAGES), axis=1)
    adv_images = fab_targeted(logits_fn, _key(), IMAGES, labels, norm="l2", num_steps=4)
    logits = logits_fn(adv_images)
    lead = -attacks.objectives.margin(logits, labels)
    assert bool(jnp.all(lead > 1e-6 * jnp.max(jnp.abs(logits), axis=1)))


def test_the_search_goes_on_from_a_miss():
    pixels: list[float] = []

    def bent_logits(images):
        pixel = images[:, 0, 0, 0]
        jax.debug.callback(lambda pixel: pixels.append(pixel.item()), pixel)
        return jnp.stack([0.25 - pixel**2, jnp.zeros_like(pixel)], axis=1)

    image = jnp.full((1, 1, 1, 1), 0.3, jnp.float32)
    fab(bent_logits, _key(), image, jnp.array([0]), num_steps=1)
    jax.effects_barrier()
    # The tangent leads too far, and the chords then all lead back too far.
    inner, outer, expected = 0.3, 0.3 + 1.05 * 0.16 / 0.6, []
    for _ in range(3):
        share = (outer**2 - 0.25) / (outer**2 - inner**2)
        inner = outer + share * (inner - outer)
        expected.append(inner)
    assert pixels[-4:] == pytest.approx([outer, *expected], abs=1e-6)


@pytest.mark.parametrize("attack", [fab, fab_targeted, deep_fool])
def test_targets_are_refused(attack):
    with pytest.raises(ValueError, match=f"{attack.__name__} chooses its own targets"):
        attack(NETWORK, _key(), IMAGES, NETWORK_LABELS, targets=NETWORK_LABELS)
