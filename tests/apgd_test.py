"""The APGD family: schedules worked by hand, closed forms, targets, costs."""

from __future__ import annotations

import collections
import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax.attacks import apgd, apgd_targeted, auto_step, multi_targeted, sparse_step
from mmc_jax.attacks.apgd_engine import _rank_targets
from mmc_jax.attacks.apgd_walk import Examples
from mmc_jax.attacks.auto_step import Ball
from mmc_jax.attacks.objectives import margin, own_class
from mmc_jax.attacks.passes import Problem
from mmc_jax.types import StochasticLogitsFn
from tests.gradient_sign_test import _digits_like, network_logits

BATCH = 4


# --- the schedule of the step rules ---------------------------------------------------


def test_checkpoints_of_a_hundred_steps():
    expected = [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert auto_step.checkpoints(jnp.int32(100)).tolist() == expected


def test_checkpoints_are_exact_for_any_number_of_steps():
    shares = [fractions.Fraction(0), fractions.Fraction(22, 100)]
    while shares[-1] + fractions.Fraction(6, 100) <= 1:
        period = shares[-1] - shares[-2] - fractions.Fraction(3, 100)
        shares.append(shares[-1] + max(period, fractions.Fraction(6, 100)))
    many = jax.jit(jax.vmap(auto_step.checkpoints))(
        jnp.array([0, 1, 2, 10, 50, 70, 1_000, 123_457, 2**31 - 1])
    )
    for num_steps, marks in zip(
        [0, 1, 2, 10, 50, 70, 1_000, 123_457, 2**31 - 1], many, strict=True
    ):
        assert marks.tolist() == [math.ceil(share * num_steps) for share in shares]


def _one_pixel_ball(batch, norm="linf"):
    images = jnp.full((batch, 1, 1, 1), 0.5)
    return Ball(images, jnp.full(batch, 0.25), norm, (0.0, 1.0))


def _follow(rule, ball, objectives, num_steps, start=None, turn=-1.0):
    """Feed a rule objectives `[steps, batch]`, gradients turn^step; return states."""
    step_on = jax.jit(
        lambda state, step, objective, gradient: rule.advance(
            ball, state, step, num_steps, objective, gradient
        )
    )
    start = ball.images if start is None else start
    states = [rule.begin(ball, start, jnp.int32(num_steps))]
    for step, objective in enumerate(objectives):
        gradient = jnp.full_like(ball.images, turn**step)
        states.append(
            step_on(states[-1], jnp.int32(step), jnp.asarray(objective), gradient)
        )
    return states


def test_the_step_is_halved_where_the_paper_says():
    falls = -np.arange(101.0)
    rises = np.arange(101.0)
    # Falls at 21 of the first 22 steps, but never below the start, and so on.
    stuck = np.concatenate([[-1000.0], falls[:-1]])
    # Falls at 16 of the first 22 steps, which is too few; 17 are enough.
    few, enough = (np.where(np.arange(101) <= n, falls, 100.0) for n in (16, 17))
    objectives = np.stack([falls, rises, stuck, few, enough], axis=1).astype(np.float32)
    states = _follow(auto_step, _one_pixel_ball(5), objectives, 100)
    steps = np.array([state.step_size for state in states]) / 0.25
    # steps[i + 1] is the length of the step that leaves x_i.
    halved = [[i for i in range(101) if s[i + 1] < s[i]] for s in steps.T]
    marks = [22, 41, 57, 70, 80, 87, 93, 99]
    assert halved[0] == []
    assert halved[1] == [mark + 1 for mark in marks]
    # Where it was halved at the last checkpoint, no progress is no reason.
    assert halved[2][:4] == [23, 58, 81, 94]
    assert halved[3][0] == 23
    assert halved[4][0] == 42
    np.testing.assert_array_equal(steps[0], 2.0)
    np.testing.assert_allclose(steps[-1, 1], 2.0 * 0.5**8)


def test_the_l1_ball_shrinks_in_three_parts():
    scales = [sparse_step.scale_at(jnp.int32(i), jnp.int32(100)) for i in range(101)]
    assert scales == [3.0] * 30 + [2.0] * 30 + [1.0] * 41
    assert float(sparse_step.scale_at(jnp.int32(0), jnp.int32(1))) == 3.0
    assert float(sparse_step.scale_at(jnp.int32(1), jnp.int32(1))) == 1.0
    assert float(sparse_step.scale_at(jnp.int32(0), jnp.int32(0))) == 1.0


def test_l1_sparsity_and_step_follow_the_best_perturbation():
    shape = (1, 6, 10, 1)
    ball = Ball(jnp.full(shape, 0.5), jnp.array([1.0]), "l1", (0.0, 1.0))
    start = ball.images.at[0, :3, :, 0].add(0.01)
    # The start stays the best point: 30 pixels are moved, 20 to be moved at once.
    objectives = np.arange(21.0, dtype=np.float32)[:, None]
    states = _follow(sparse_step, ball, objectives, 100, start, turn=1.0)
    sparsities = [float(state.sparsity[0]) for state in states]
    sizes = [float(state.step_size[0]) for state in states]
    assert sparsities == [12.0] * 5 + [20.0] * 17
    shorter = [3.0 / 1.5, 3.0 / 1.5**2, 3.0 / 1.5**3, 3.0 / 1.5**4]
    expected = [3.0] * 9 + [s for s in shorter[:3] for _ in range(4)] + [shorter[3]]
    np.testing.assert_allclose(sizes, expected, rtol=1e-6)
    # A reset leaves from the best point, a shorter step from where it is.
    np.testing.assert_allclose(states[5].images, start - 3 / 60, atol=1e-6)
    np.testing.assert_allclose(
        states[9].images, ball.project(states[8].images - 2 / 60, scale=3.0), atol=1e-6
    )
    assert float(jnp.abs(states[9].images - (start - 2 / 60)).max()) > 0.01


# --- a matrix: the best point in ball and box is known --------------------------------

_generator = np.random.default_rng(0)
KERNEL = jnp.asarray(_generator.normal(size=(64, 5)), jnp.float32)
NOISE = jnp.asarray(_generator.uniform(size=(BATCH, 8, 8, 1)), jnp.float32)
LABELS = jnp.argmax(NOISE.reshape(BATCH, -1) @ KERNEL, axis=1)


def matrix_logits(kernel, images):
    return images.reshape(len(images), -1) @ kernel


def _lowest(slope, image, epsilon, norm):
    """Return the least <slope, delta> over the ball and the box, in float64."""
    slope, image = np.asarray(slope, np.float64), np.asarray(image, np.float64).ravel()
    room = np.where(slope > 0, image, 1.0 - image)
    sizes = np.abs(slope)
    if norm == "linf":
        return -np.sum(sizes * np.minimum(room, epsilon))
    if norm == "l1":
        order = np.argsort(-sizes)
        spent = np.minimum(np.cumsum(room[order]), epsilon)
        return -np.sum(sizes[order] * np.diff(spent, prepend=0.0))
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        too_long = np.linalg.norm(np.minimum(middle * sizes, room)) > epsilon
        low, high = (low, middle) if too_long else (middle, high)
    return -np.sum(sizes * np.minimum(low * sizes, room))


@pytest.mark.parametrize(
    ("norm", "epsilon", "part"),
    [("linf", 0.3, 1.0), ("l2", 0.5, 0.999), ("l2", 3.0, 0.98), ("l1", 4.0, 0.98)],
)
def test_reaches_the_optimum_on_a_matrix(norm, epsilon, part):
    logits_fn = Partial(matrix_logits, KERNEL)
    more = dict(epsilon=epsilon, norm=norm, objective="own_class")
    adv_images = apgd(
        logits_fn, jax.random.key(0), NOISE, LABELS, stop_on_success=False, **more
    )
    lowered = own_class(logits_fn(adv_images), LABELS) - own_class(
        logits_fn(NOISE), LABELS
    )
    for i in range(BATCH):
        best = _lowest(KERNEL[:, LABELS[i]], NOISE[i], epsilon, norm)
        assert best * (1 + 1e-4) <= float(lowered[i]) <= best * (part - 1e-4)


def test_no_iterate_of_a_larger_ball_comes_back():
    # Every objective is infinite, so that nothing is better than anything.
    masked = Partial(lambda x: matrix_logits(KERNEL, x).at[:, 2].set(-jnp.inf))
    targets = jnp.where(LABELS == 2, 0, 2)
    labels = jnp.where(LABELS == 2, 1, LABELS)
    adv_images = apgd(
        masked,
        jax.random.key(0),
        NOISE,
        labels,
        targets=targets,
        epsilon=0.5,
        norm="l1",
        objective="cross_entropy",
        num_steps=20,
    )
    distance = np.abs(np.asarray(adv_images - NOISE)).sum(axis=(1, 2, 3))
    assert distance.max() <= 0.5 * (1 + 1e-5)


def test_a_label_is_no_target_beside_a_class_at_minus_infinity():
    def masked(images):
        return matrix_logits(KERNEL, images).at[:, 3].set(-jnp.inf)

    labels = jnp.ones_like(LABELS)
    problem = Problem(Partial(masked), labels, None, own_class, 1)
    keys = jax.random.split(jax.random.key(0), BATCH)
    examples = Examples(NOISE, labels, None, None, jnp.ones(BATCH), keys)
    order, _ = _rank_targets(problem, examples)
    assert not np.any(np.asarray(order) == 1)
    assert (np.asarray(order[:, -1]) == 3).all()


def _targeted_optima(num_targets, epsilon):
    """The lowest h_y - h_t that linf allows, over the likeliest so many targets."""
    logits = np.asarray(matrix_logits(KERNEL, NOISE), np.float64)
    optima = []
    for image, row, label in zip(NOISE, logits, LABELS, strict=True):
        wrong = [k for k in np.argsort(-row) if k != label][:num_targets]
        optima.append(
            min(
                row[label]
                - row[k]
                + _lowest(KERNEL[:, label] - KERNEL[:, k], image, epsilon, "linf")
                for k in wrong
            )
        )
    return np.array(optima)


@pytest.mark.parametrize("attack", [apgd_targeted, multi_targeted])
def test_goes_through_the_likeliest_targets(attack):
    logits_fn = Partial(matrix_logits, KERNEL)
    epsilon = 0.3
    more = dict(epsilon=epsilon, objective="pairwise_margin", stop_on_success=False)
    reached = []
    for num_targets in (1, 2, 100):
        adv_images = attack(
            logits_fn,
            jax.random.key(0),
            NOISE,
            LABELS,
            num_targets=num_targets,
            num_steps=5,
            **more,
        )
        reached.append(margin(logits_fn(adv_images), LABELS))
        expected = _targeted_optima(num_targets, epsilon)
        if num_targets == 100:
            np.testing.assert_allclose(reached[-1], expected, atol=1e-3)
        else:
            # What is kept is best for its own target; another class may be ahead.
            assert (reached[-1] <= expected + 1e-3).all()
    assert bool(jnp.any(reached[0] > reached[2] + 0.01))
    # By default, all of them: nine are more than there are.
    more = dict(num_steps=5, **more)
    default = attack(logits_fn, jax.random.key(0), NOISE, LABELS, **more)
    np.testing.assert_array_equal(default, adv_images)


# --- what counts as a success, what is kept -------------------------------------------


def band_logits(weights, images):
    """Class 1 wins in a band of the one pixel; class 2, often likelier, nowhere."""
    pixel = images[:, 0, 0, 0]
    second = 1 - 50 * jnp.abs(pixel - weights["band"])
    logits = [jnp.zeros_like(pixel), second, pixel - 2, jnp.full_like(pixel, -9.0)]
    return jnp.stack(logits, axis=1)


PIXEL = jnp.full((1, 1, 1, 1), 0.5, jnp.float32)
ZERO = jnp.zeros(1, jnp.int32)


@pytest.mark.parametrize("attack", [apgd_targeted, multi_targeted])
def test_any_wrong_class_is_a_success(attack):
    logits_fn = Partial(band_logits, {"band": jnp.float32(0.75)})
    more = dict(epsilon=0.25, num_steps=4, num_targets=1)
    more |= dict(objective="pairwise_margin")
    adv_image = attack(logits_fn, jax.random.key(0), PIXEL, ZERO, **more)
    assert adv_image.item() == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize(
    ("keep", "stop_on_success", "expected"),
    [("best", False, 0.25), ("last", True, 0.25), ("last", False, 0.75)],
)
def test_keeps_and_stops(keep, stop_on_success, expected):
    # A start at 0.25 is a success; the objective falls towards 0.75.
    def uphill(logits, labels, targets):
        return -logits[:, 2]

    logits_fn = Partial(band_logits, {"band": jnp.float32(0.25)})
    more = dict(epsilon=0.25, num_steps=4, objective=uphill)
    more |= dict(keep=keep, stop_on_success=stop_on_success)
    reached = {
        apgd(logits_fn, jax.random.key(seed), PIXEL, ZERO, **more).item()
        for seed in range(8)
    }
    # Starts at 0.75 never see the band.
    assert reached == {expected, 0.75}


def test_the_best_of_the_last_iterates_counts():
    images, weights = _digits_like(1)
    logits_fn = Partial(network_logits, weights)
    labels = jnp.argmax(logits_fn(images), axis=1)
    reached = []
    for num_restarts in (1, 2, 8):
        adv_images = apgd(
            logits_fn,
            jax.random.key(0),
            images,
            labels,
            epsilon=0.02,
            num_steps=3,
            num_restarts=num_restarts,
            keep="last",
            objective="margin",
            stop_on_success=False,
        )
        reached.append(margin(logits_fn(adv_images), labels))
    assert bool(jnp.all(reached[1] <= reached[0]))
    assert bool(jnp.all(reached[2] <= reached[1]))
    assert bool(jnp.any(reached[2] < reached[0]))


def test_targeted_dlr_wants_four_classes():
    logits_fn = Partial(matrix_logits, KERNEL[:, :3])
    with pytest.raises(ValueError, match="targeted dlr needs at least 4 classes"):
        apgd_targeted(logits_fn, jax.random.key(0), NOISE, LABELS % 3, epsilon=0.1)


def test_traced_counts_that_make_no_sense_end_at_once():
    logits_fn = Partial(matrix_logits, KERNEL)

    @jax.jit
    def attack(num_steps, num_restarts, num_targets):
        counts = dict(num_steps=num_steps, num_restarts=num_restarts)
        counts |= dict(num_targets=num_targets)
        key = jax.random.key(0)
        return multi_targeted(logits_fn, key, NOISE, LABELS, epsilon=0.1, **counts)

    np.testing.assert_array_equal(attack(5, -1, 2), NOISE)
    for counts in ((-5, 1, 2), (3, 1, -2)):
        moved = jnp.abs(attack(*counts) - NOISE)
        assert 0.05 < float(moved.max()) <= 0.1 + 1e-6


# --- what it costs --------------------------------------------------------------------

num_passes = collections.Counter()


def _count(kind):
    def count(size):
        num_passes[kind] += 1
        num_passes["images"] += int(size)

    return count


@jax.custom_vjp
def counted(images):
    jax.debug.callback(_count("forward"), len(images))
    return images


def _counted_forward(images):
    return counted(images), None


def _counted_backward(_, cotangent):
    jax.debug.callback(_count("backward"), 0)
    return (cotangent,)


counted.defvjp(_counted_forward, _counted_backward)


def counted_logits(kernel, images):
    return matrix_logits(kernel, counted(images))


@pytest.mark.verify
@pytest.mark.parametrize(
    ("attack", "hyperparameters", "forward", "backward"),
    [
        (apgd, dict(keep="last", stop_on_success=False), 7, 7),
        (apgd, dict(keep="best", stop_on_success=False), 8, 7),
        (apgd, dict(num_restarts=3), 24, 21),
        (apgd, dict(norm="l1"), 8, 7),
        (apgd_targeted, dict(num_targets=2, num_restarts=3), 1 + 6 * 8, 6 * 7),
        # Two more passes where a restart wanders.
        (multi_targeted, dict(num_restarts=2), 1 + 4 * 8 + 4 * 10, 4 * 7 + 4 * 9),
        # Misclassified from the start.
        (apgd_targeted, dict(labels=(LABELS + 1) % 5), 1, 0),
        (apgd, dict(labels=(LABELS + 1) % 5), 1, 1),
    ],
)
def test_runs_no_pass_in_vain(attack, hyperparameters, forward, backward):
    more = dict(labels=LABELS) | hyperparameters
    labels = more.pop("labels")
    num_passes.clear()
    logits_fn = Partial(counted_logits, KERNEL)
    attack(
        logits_fn, jax.random.key(0), NOISE, labels, epsilon=1e-4, num_steps=7, **more
    )
    jax.effects_barrier()
    assert (num_passes["forward"], num_passes["backward"]) == (forward, backward)


def test_targets_are_tried_on_survivors_only():
    images = jnp.tile(NOISE[:1], (32, 1, 1, 1))
    labels = jnp.where(jnp.arange(32) < 16, LABELS[0], (LABELS[0] + 1) % 5)
    num_passes.clear()
    logits_fn = Partial(counted_logits, KERNEL)
    more = dict(epsilon=1e-4, num_steps=7, num_targets=2)
    apgd_targeted(logits_fn, jax.random.key(0), images, labels, **more)
    jax.effects_barrier()
    # All of them once; then 16 through two walks.
    assert num_passes["images"] == 32 + 2 * 16 * 8


# --- randomness -----------------------------------------------------------------------

seen: list[np.ndarray] = []


def seen_logits(kernel, images):
    jax.debug.callback(lambda images: seen.append(np.asarray(images)), images)
    return matrix_logits(kernel, images)


def test_restarts_of_multi_targeted_wander_along_the_logits():
    gray = jnp.full((1, 8, 8, 1), 0.5)
    label = jnp.argmax(matrix_logits(KERNEL, gray), axis=1)
    seen.clear()
    more = dict(epsilon=1e-3, num_steps=3, num_restarts=2, num_targets=1)
    multi_targeted(Partial(seen_logits, KERNEL), jax.random.key(0), gray, label, **more)
    jax.effects_barrier()
    # Clean; start, 3 steps; start, 2 wandering, 3 steps.
    assert len(seen) == 1 + 4 + 6
    delta = np.stack([(images - gray).ravel() for images in seen]) / 1e-3
    first, second = delta[1], delta[5]
    assert np.abs(first - second).max() > 0.1
    wandered, arrived = delta[7], delta[8]
    np.testing.assert_allclose(np.abs(wandered), 1.0, atol=1e-3)
    np.testing.assert_allclose(arrived, delta[2], atol=1e-3)
    agreement = np.mean(np.sign(wandered) == np.sign(arrived))
    assert agreement < 0.95
    # The signs are those of some weighted sum of the kernel's columns.
    weights, *_ = np.linalg.lstsq(np.asarray(KERNEL), wandered, rcond=None)
    assert np.mean(np.sign(KERNEL @ weights) == np.sign(wandered)) > 0.9


drawn: list[float] = []


def noisy_logits(kernel, images, keys):
    noise = jax.vmap(jax.random.normal)(keys)
    jax.debug.callback(lambda noise: drawn.extend(noise.tolist()), noise)
    return matrix_logits(kernel, images) + noise[:, None] * jnp.arange(5.0)[None, :]


def test_every_pass_over_a_randomised_model_draws_anew():
    drawn.clear()
    logits_fn = StochasticLogitsFn(Partial(noisy_logits, KERNEL))
    more = dict(epsilon=1e-4, num_steps=3, num_restarts=2, num_targets=2)
    more |= dict(num_eot_samples=3, stop_on_success=False)
    multi_targeted(logits_fn, jax.random.key(0), NOISE, LABELS, **more)
    jax.effects_barrier()
    num_draws = BATCH * 3 * (1 + 2 * 4 + 2 * 6)
    assert len(drawn) == num_draws == len(set(drawn))
