"""The Square attack: its windows and schedule, what it reaches, and what it costs."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax.attacks import square, windows
from mmc_jax.types import StochasticLogitsFn

BATCH = 4


def keys(seed=0, batch=BATCH):
    return jax.random.split(jax.random.key(seed), batch)


# --- windows --------------------------------------------------------------------------


@jax.jit
def moved(current, images, moves, side, epsilon):
    """Return the perturbations that an l1 and an l2 query lead to."""
    candidates = (
        windows.move_mass(
            current,
            images,
            moves,
            side,
            epsilon=epsilon,
            order=order,
            bounds=(0.0, 1.0),
        )
        for order in (1, 2)
    )
    return [candidate - images for candidate in candidates]


def paper_bump(h1, h2):
    """The paper's eta^(h1, h2), term by term."""
    n = h1 // 2
    bump = np.zeros((h1, h2))
    for r in range(1, h1 + 1):
        for s in range(1, h2 + 1):
            last = n - max(abs(r - h1 // 2 - 1), abs(s - h2 // 2 - 1))
            bump[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(last + 1))
    return bump


def paper_eta(side):
    half = side // 2
    return np.hstack([paper_bump(side, half), -paper_bump(side, side - half)])


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8])
def test_a_filled_window_has_the_papers_shape(side):
    # From nothing, all of epsilon goes into the window.
    images = jnp.full((2, 9, 10, 1), 0.5, jnp.float32)
    moves = windows.Moves(
        filled=jnp.array([[1, 2], [0, 1]]),
        emptied=jnp.array([[0, 0], [0, 0]]),
        signs=jnp.array([[1.0], [-1.0]]),
        transposed=jnp.array([False, True]),
    )
    _, filled = moved(images, images, moves, jnp.int32(side), jnp.full(2, 0.1))
    eta = paper_eta(side)
    expected = np.zeros((2, 9, 10))
    expected[0, 1 : 1 + side, 2 : 2 + side] = 0.1 * eta / np.linalg.norm(eta)
    expected[1, :side, 1 : 1 + side] = -0.1 * eta.T / np.linalg.norm(eta)
    np.testing.assert_allclose(filled[..., 0], expected, atol=2e-7)


@pytest.mark.parametrize("order", [1, 2])
def test_mass_moves_from_one_window_to_the_other(order, generator):
    images = np.full((1, 6, 7, 2), 0.5)
    nu = generator.uniform(-0.1, 0.1, size=(6, 7, 2))
    nu[:, 6, 1] = 0.0
    unspent = 0.01
    epsilon = ((np.abs(nu) ** order).sum() + unspent) ** (1 / order)
    moves = windows.Moves(
        filled=jnp.array([[3, 3]]),
        emptied=jnp.array([[1, 2]]),
        signs=jnp.array([[1.0, -1.0]]),
        transposed=jnp.array([False]),
    )
    found = moved(
        jnp.asarray(images + nu, jnp.float32),
        jnp.asarray(images, jnp.float32),
        moves,
        jnp.int32(3),
        jnp.full(1, epsilon, jnp.float32),
    )[order - 1]
    expected = nu.copy()
    first, second = np.s_[3:6, 3:6], np.s_[1:4, 2:5]
    both = np.zeros((6, 7), bool)
    both[first] = both[second] = True
    eta = paper_eta(3)
    for i, sign in enumerate((1, -1)):
        inside = nu[(*first, i)]
        temp = sign * eta / np.linalg.norm(eta.ravel(), order)
        temp += inside / np.linalg.norm(inside.ravel(), order)
        available = (np.abs(nu[both, i]) ** order).sum() + unspent / 2
        length = np.linalg.norm(temp.ravel(), order)
        expected[(*second, i)] = 0
        expected[(*first, i)] = available ** (1 / order) * temp / length
    np.testing.assert_allclose(found[0], expected, atol=2e-7)


@pytest.mark.parametrize("num_queries", [None, 5000, 20000])
def test_windows_lose_half_of_their_area_as_the_paper_says(num_queries):
    after = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000])
    after = after * (num_queries or 10000) // 10000
    side = jax.jit(
        lambda query: windows.side_length(
            query,
            (100, 400, 3),
            initial_fraction=jnp.float32(0.2),
            num_queries=None if num_queries is None else jnp.int32(num_queries),
            smallest=3,
        )
    )
    for num_halvings, query in enumerate([0, *after]):
        area = 0.2 * 100 * 400 / 2**num_halvings
        assert int(side(query)) == round(area**0.5), query
        if query:
            assert int(side(query - 1)) == round((2 * area) ** 0.5), query


def test_windows_fit_into_the_image():
    for fraction, smallest, expected in ((1.0, 1, 3), (0.0, 1, 1), (0.0, 3, 3)):
        side = windows.side_length(
            jnp.int32(0),
            (3, 30, 1),
            initial_fraction=jnp.float32(fraction),
            num_queries=None,
            smallest=smallest,
        )
        assert int(side) == expected


# --- on a matrix, where the optimum is known ------------------------------------------


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


def two_classes(shape, seed=0):
    size = int(np.prod(shape))
    kernel = np.random.default_rng(seed).normal(size=(size, 2)).astype(np.float32)
    images = jnp.full((BATCH, *shape), 0.5, jnp.float32)
    return Partial(matrix_logits, jnp.asarray(kernel)), images, kernel @ [1, -1]


def lowered(logits_fn, adv_images, images):
    before, after = (
        logits_fn(x) @ jnp.array([1.0, -1.0]) for x in (images, adv_images)
    )
    return np.asarray(before - after)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 3), (2, 3, 33)])
def test_linf_reaches_the_optimum_of_a_matrix_on_tiny_images(shape):
    logits_fn, images, difference = two_classes(shape)
    adv_images = square(
        logits_fn,
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        epsilon=jnp.array([0.0, 0.01, 0.02, 0.4]),
        num_queries=20 if shape[-1] == 33 else 600,
        initial_fraction=0.01,
        stop_on_success=False,
    )
    reached = lowered(logits_fn, adv_images, images)
    optimum = np.abs(difference).sum() * np.array([0.0, 0.01, 0.02, 0.4])
    if shape[-1] == 33:
        # Too many channels to get all of them right, but not to draw signs for.
        assert (reached[1:] > 0.1 * optimum[1:]).all()
        changed = np.abs(adv_images - images)[1:]
        np.testing.assert_allclose(changed, changed[:, :1, :1, :1] + 0 * changed)
    else:
        np.testing.assert_allclose(reached, optimum, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "order", "share"), [("l2", 2, 0.3), ("l1", 1, 0.2)])
@pytest.mark.parametrize("shape", [(1, 2, 1), (12, 9, 2)])
def test_l2_and_l1_spend_all_of_epsilon(norm, order, share, shape):
    logits_fn, images, difference = two_classes(shape)
    adv_images = square(
        logits_fn,
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        epsilon=0.3,
        num_queries=300,
        norm=norm,
        stop_on_success=False,
    )
    delta = np.asarray(adv_images, np.float64) - np.asarray(images)
    length = np.linalg.norm(delta.reshape(BATCH, -1), ord=order, axis=1)
    np.testing.assert_allclose(length, 0.3, rtol=2e-5)
    assert (length <= 0.3 * (1 + 1e-6)).all()
    dual = np.linalg.norm(difference, ord=2 if order == 2 else np.inf)
    assert (lowered(logits_fn, adv_images, images) > share * 0.3 * dual).all()


# --- what it costs --------------------------------------------------------------------

num_passes = collections.Counter()


def counted_logits(weights, images):
    jax.debug.callback(lambda batch: num_passes.update([int(batch)]), len(images))
    flat = images.reshape(len(images), -1)
    logits = flat @ weights["kernel"] + weights["bias"][None, :]
    return jnp.where((flat[:, :1] > 0.99), jnp.nan, logits)


@pytest.mark.parametrize(
    ("bias", "more", "expected"),
    [
        (9.0, dict(num_queries=300), 301),
        (9.0, dict(num_queries=5, num_restarts=3), 18),
        (9.0, dict(num_queries=130, stop_on_success=False), 131),
        # The start is a success already.
        (-9.0, dict(num_queries=300, num_restarts=3), 1),
        (-9.0, dict(num_queries=300, stop_on_success=False), 301),
        # One more, over the clean image, where the logits have a NaN.
        (None, dict(num_queries=300), 2),
    ],
)
def test_runs_no_pass_in_vain(bias, more, expected):
    logits_fn, images, _ = two_classes((3, 3, 1))
    if bias is None:
        images, bias = jnp.ones_like(images), 0.0
    weights = dict(kernel=logits_fn.args[0], bias=jnp.array([bias, 0.0]))
    num_passes.clear()
    square(
        Partial(counted_logits, weights),
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        epsilon=1e-4,
        **more,
    )
    jax.effects_barrier()
    assert num_passes == {BATCH: expected}


def opposed_logits(images):
    """Class 1 wins where the first pixel alone is white, class 2 the second."""
    first, second = images[:, 0, 0, 0], images[:, 0, 1, 0]
    return jnp.stack(
        [jnp.ones_like(first), 4 * (first - second), 4 * (second - first)], axis=1
    )


def test_targets_are_reached_though_another_class_is_nearer():
    # Between class 1 and class 2 there is nothing but the label.
    images = jnp.full((BATCH, 1, 2, 1), 0.5, jnp.float32)
    adv_images = square(
        opposed_logits,
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        targets=jnp.full(BATCH, 2),
        epsilon=0.5,
        num_queries=60,
    )
    assert bool(jnp.all(opposed_logits(adv_images).argmax(axis=1) == 2))


def noisy_logits(images, keys):
    jax.debug.callback(lambda batch: num_passes.update([int(batch)]), len(images))
    draws = jax.vmap(jax.random.uniform)(keys)
    return jnp.stack([jnp.full_like(draws, 0.95), draws], axis=1)


def test_a_randomised_model_gets_fresh_keys():
    # One pass in twenty is a success, by its noise alone: with the same noise in every
    # pass some example would go on for ever.
    images = jnp.full((BATCH, 2, 2, 1), 0.5, jnp.float32)
    num_passes.clear()
    square(
        StochasticLogitsFn(noisy_logits),
        keys(),
        images,
        jnp.zeros(BATCH, jnp.int32),
        epsilon=0.1,
        num_queries=400,
    )
    jax.effects_barrier()
    assert 4 < num_passes[BATCH] < 400
