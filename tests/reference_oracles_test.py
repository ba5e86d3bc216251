"""The references of the stronger attacks are right: by hand, by scipy, by closed form.

Nothing of `mmc_jax` is tested here. The other side of the comparison is a schedule
worked out by hand, a convex program that scipy solves, or a linear model.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.optimize

from tests.reference import (
    apgd,
    carlini_wagner,
    deep_fool,
    elastic_net,
    fab,
    linear,
    objectives,
    projections,
    spsa,
    square,
    square_draws,
)
from tests.reference.adam import Adam
from tests.reference.attacks import is_success, project
from tests.reference.models import LinearModel, TanhModel

SHAPE = (3, 3, 1)
NUM_PIXELS, NUM_CLASSES = 9, 4
SEEDS = range(6)


def _image(generator: np.random.Generator, shape=SHAPE) -> np.ndarray:
    """Some pixels lie on the box, so that its corners matter."""
    return np.clip(generator.uniform(-0.2, 1.2, shape), 0.0, 1.0)


@functools.cache
def _linear_case(seed: int) -> tuple[LinearModel, np.ndarray, int]:
    """Return a linear model, an image and its class."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(NUM_CLASSES, NUM_PIXELS))
    model = LinearModel(weights, 0.3 * generator.normal(size=NUM_CLASSES))
    image = _image(generator)
    return model, image, int(np.argmax(model.logits(image)))


# --- closed forms and projections, against scipy --------------------------------------


def _program(norm, costs, limits, equality=None, budget=None):
    """Minimise <costs, d> + ||d|| (without budget), or <costs, d> for ||d|| <= budget.

    As a linear program in (d, bounds of |d|), linf or l1.
    """
    n = len(costs)
    num_sizes = 1 if norm == "linf" else n
    spread = np.ones((n, 1)) if norm == "linf" else np.eye(n)
    above = np.block([[np.eye(n), -spread], [-np.eye(n), -spread]])
    right = np.zeros(2 * n)
    objective = np.concatenate([costs, np.full(num_sizes, float(budget is None))])
    if budget is not None:
        above = np.vstack([above, np.concatenate([np.zeros(n), np.ones(num_sizes)])])
        right = np.append(right, budget)
    extra = {}
    if equality is not None:
        row = np.concatenate([equality[0], np.zeros(num_sizes)])
        extra = {"A_eq": row[None], "b_eq": [equality[1]]}
    bounds = [*limits, *[(0, None)] * num_sizes]
    return scipy.optimize.linprog(
        objective, A_ub=above, b_ub=right, bounds=bounds, **extra
    )


def _quadratic(centre, limits, constraints):
    """Minimise ||d - centre||_2^2 within limits and constraints."""
    return scipy.optimize.minimize(
        lambda d: float(np.sum((d - centre) ** 2)),
        np.mean(limits, axis=1),
        jac=lambda d: 2.0 * (d - centre),
        bounds=limits,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )


def _half_space_case(seed):
    generator = np.random.default_rng(seed)
    image = _image(generator).ravel()
    weights = generator.normal(size=NUM_PIXELS) * (generator.random(NUM_PIXELS) > 0.2)
    reach = float(np.abs(weights) @ linear.room(image, weights))
    gain = generator.uniform(0.1, 0.9) * reach
    if seed % 2:
        weights, gain = -weights, -gain
    return image, weights, gain, list(zip(-image, 1.0 - image, strict=True))


@pytest.mark.parametrize("norm", linear.NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_minimum_perturbation_is_the_convex_programs(norm, seed):
    image, weights, gain, limits = _half_space_case(seed)
    delta = linear.minimum_perturbation(weights, gain, image, norm)
    assert float(weights @ delta) == pytest.approx(gain, abs=1e-12)
    assert np.all((image + delta >= -1e-15) & (image + delta <= 1 + 1e-15))
    if norm == "l2":
        on_plane = {"type": "eq", "fun": lambda d: float(weights @ d) - gain}
        found = _quadratic(np.zeros(NUM_PIXELS), limits, [on_plane])
        np.testing.assert_allclose(delta, found.x, atol=1e-5)
    else:
        found = _program(norm, np.zeros(NUM_PIXELS), limits, (weights, gain))
        assert linear.length(delta, norm) == pytest.approx(found.fun, abs=1e-9)


def test_a_hyperplane_beyond_the_box_has_no_point_and_its_nearest_corner():
    image, weights, _, _ = _half_space_case(0)
    reach = float(np.abs(weights) @ linear.room(image, weights))
    for norm in linear.NORMS:
        assert linear.minimum_perturbation(weights, reach + 0.1, image, norm) is None
        delta = projections.onto_hyperplane_and_box(weights, -reach - 0.1, image, norm)
        assert float(weights @ delta) == pytest.approx(reach)
        assert np.all(delta[weights == 0.0] == 0.0)


@pytest.mark.parametrize("norm", linear.NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_perturbation_is_the_convex_programs(norm, seed):
    image, weights, _, limits = _half_space_case(seed)
    epsilon = {"linf": 0.2, "l2": 0.6, "l1": 1.3}[norm]
    delta = linear.best_perturbation(weights, image, epsilon, norm)
    assert linear.length(delta, norm) <= epsilon + 1e-12
    assert np.all((image + delta >= -1e-15) & (image + delta <= 1 + 1e-15))
    if norm == "l2":
        found = scipy.optimize.minimize(
            lambda d: -float(weights @ d),
            np.zeros(NUM_PIXELS),
            jac=lambda d: -weights,
            bounds=limits,
            constraints=[
                {"type": "ineq", "fun": lambda d: epsilon**2 - float(d @ d)},
            ],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
    else:
        found = _program(norm, -weights, limits, budget=epsilon)
    assert float(weights @ delta) == pytest.approx(-found.fun, abs=1e-6)


@pytest.mark.parametrize("norm", linear.NORMS)
def test_a_ball_larger_than_the_box_leaves_its_corner(norm):
    image, weights, _, _ = _half_space_case(0)
    delta = linear.best_perturbation(weights, image, 99.0, norm)
    rooms = linear.room(image, weights)
    assert float(weights @ delta) == pytest.approx(float(np.abs(weights) @ rooms))
    assert np.all(delta[weights == 0.0] == 0.0)


@pytest.mark.parametrize("norm", linear.NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_projection_onto_ball_and_box_is_the_quadratic_programs(norm, seed):
    generator = np.random.default_rng(seed)
    image = _image(generator).ravel()
    moved = image + 0.6 * generator.normal(size=NUM_PIXELS)
    epsilon = {"linf": 0.2, "l2": 0.6, "l1": 1.0}[norm]
    actual = projections.onto_ball_and_box(moved, image, epsilon, norm)
    signs = np.sign(moved - image)
    ball = {
        "linf": [],
        "l2": [{"type": "ineq", "fun": lambda d: epsilon**2 - float(d @ d)}],
        # Each pixel of the projection moves the way that `moved` does, or not at all.
        "l1": [{"type": "ineq", "fun": lambda d: epsilon - float(signs @ d)}],
    }[norm]
    reach = epsilon if norm == "linf" else 1.0
    limits = [
        (max(-p, -reach) * (s < 0), min(1 - p, reach) * (s > 0))
        for p, s in zip(image, signs, strict=True)
    ]
    found = _quadratic(moved - image, limits, ball)
    np.testing.assert_allclose(actual - image, found.x, atol=1e-5)


def test_the_two_steps_of_the_usual_l2_projection_leave_some_of_the_ball_unused():
    image, moved = np.array([0.5, 1.0]), np.array([1.1, 1.8])
    exact = projections.onto_ball_and_box(moved, image, 0.5, "l2")
    np.testing.assert_allclose(exact, [1.0, 1.0])
    np.testing.assert_allclose(project(moved, image, 0.5, "l2"), [0.8, 1.0])


@pytest.mark.parametrize("norm", linear.NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_minimum_distance_is_where_the_best_attack_begins_to_succeed(norm, seed):
    model, image, label = _linear_case(seed)
    distance, other = linear.minimum_distance(model, image, label, norm)
    assert other != label and 0.0 < distance < math.inf
    for factor, succeeds in ((0.999, False), (1.001, True)):
        epsilon = factor * distance
        margin, moved = linear.best_attack(model, image, label, epsilon, norm)
        assert is_success(model.logits(moved), label, None) == succeeds
        assert (margin < 0.0) == succeeds


# --- Auto-PGD -------------------------------------------------------------------------


def test_the_checkpoints_of_a_hundred_steps():
    assert apgd.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    # 0.22, 0.41, ... times 10, rounded up; 0.93 and 0.99 coincide.
    assert apgd.checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]


class _Scripted:
    """A model whose logits are the image, and an objective with a list of values."""

    def __init__(self, values):
        self._values = iter(values)

    def logits(self, image):
        return image.ravel()

    def input_gradient(self, image, by_logits):
        return by_logits.reshape(image.shape)

    def objective(self, logits, label, target):
        return next(self._values), np.array([1.0, 0.0])


def _scripted_walk(values, **options):
    model = _Scripted(values)
    image = np.array([0.5, 0.5])
    return apgd.auto_pgd(
        model,
        model.objective,
        image,
        0,
        None,
        start=image,
        epsilon=0.4,
        num_steps=len(values) - 1,
        norm="linf",
        **options,
    )


EARLY = apgd.Reading(late=False)


def test_steps_that_improve_keep_the_step_size():
    walk = _scripted_walk([9, 8, 7, 6, 5, 4, 3, 2, 1], checks_at=[4, 8], reading=EARLY)
    assert walk.checks == [(4, False), (8, False)]
    assert walk.step_sizes == [0.8] * 8
    assert walk.best is walk.made[8]


@pytest.mark.parametrize(
    ("values", "at_most", "halved"),
    [
        # Improvements in 3 of 4 steps: not fewer than 0.75, but at most.
        ([9, 8, 7, 6, 7], False, False),
        ([9, 8, 7, 6, 7], True, True),
        # 2 of 4, and the best is new: Condition 1.
        ([9, 8, 9, 7, 8], False, True),
    ],
)
def test_condition_1(values, at_most, halved):
    reading = apgd.Reading(late=False, at_most=at_most)
    walk = _scripted_walk(values, checks_at=[4], reading=reading)
    assert walk.checks == [(4, halved)]


@pytest.mark.parametrize(("at_first", "halved"), [(True, True), (False, False)])
def test_condition_2(at_first, halved):
    """A fall below the start, then steps that improve, but not on the best."""
    values = [1, 9, 8, 7, 6]
    reading = apgd.Reading(late=False, idle_at_first=at_first)
    walk = _scripted_walk(values, checks_at=[4], reading=reading)
    assert walk.checks == [(4, halved)]
    # At the second checkpoint the best is still the start's.
    values += [5, 4, 3, 2]
    walk = _scripted_walk(values, checks_at=[4, 8], reading=reading)
    # It holds unless the step has just been halved; then only the count decides.
    assert walk.checks[1] == (8, not halved)


def test_condition_2_compares_with_the_last_checkpoint():
    values = [9, 8, 7, 6, 1, 5, 4, 3, 2]
    walk = _scripted_walk(values, checks_at=[4, 8], reading=EARLY)
    assert walk.checks == [(4, False), (8, True)]


def test_a_restart_halves_the_step_and_goes_on_from_the_best_with_old_momentum():
    values = [9, 5, 6, 7, 8, 8.5]
    walk = _scripted_walk(values, checks_at=[3], reading=EARLY)
    assert walk.checks == [(3, True)]
    assert walk.step_sizes == [0.8, 0.8, 0.8, 0.4, 0.4]
    assert walk.points[3] is walk.best is walk.made[1]
    # x(1) is the ball's face 0.1 and so is every later iterate.
    assert [float(p.image[0]) for p in walk.made] == pytest.approx([0.5] + [0.1] * 5)


def test_the_printed_algorithm_restarts_one_step_later():
    values = [9, 5, 6, 7, 8, 8.5]
    walk = _scripted_walk(values, checks_at=[3])
    assert walk.checks == [(3, True)]
    assert walk.step_sizes == [0.8, 0.8, 0.8, 0.8, 0.4]
    assert walk.points[3] is walk.made[3] and walk.points[4] is walk.best


def test_in_the_printed_algorithm_the_restart_itself_improves():
    """f(x(3)) after it is that of the best, 3, and f(x(2)) is 4."""
    values = [9, 3, 4, 5, 2.5, 2.4]
    walk = _scripted_walk(values, checks_at=[2, 4])
    assert walk.checks == [(2, True), (4, False)]


@pytest.mark.parametrize(("from_best", "second"), [(True, True), (False, False)])
def test_what_the_first_step_after_a_restart_is_compared_with(from_best, second):
    # From the best, 3: worse, then better. From the replaced 5: better twice.
    values = [9, 3, 4, 5, 4.5, 2]
    reading = apgd.Reading(late=False, count_from_best=from_best)
    walk = _scripted_walk(values, checks_at=[3, 5], reading=reading)
    assert walk.checks == [(3, True), (5, second)]


def test_momentum_by_hand():
    """The objective is x_0, so that z(k+1) = P(x(k) - eta) there."""
    image = np.array([0.9, 0.5])
    model = _Scripted([5.0, 4.0, 3.0, 2.0])
    walk = apgd.auto_pgd(
        model,
        model.objective,
        image,
        0,
        None,
        start=np.array([0.88, 0.5]),
        epsilon=0.2,
        num_steps=3,
        norm="l2",
        checks_at=[1],
        share=2.0,
        reading=EARLY,
    )
    # x(1) = P(0.88 - 0.4) = 0.7; checkpoint 1 halves eta to 0.2 and restarts from 0.7
    # itself. z(2) = P(0.5) = 0.7, so x(2) = 0.7 + 0.75 * 0 + 0.25 (0.7 - 0.88) = 0.655,
    # back in the ball 0.7. z(3) = 0.7, and the momentum is 0.
    assert [float(p.image[0]) for p in walk.made] == pytest.approx(
        [0.88, 0.7, 0.7, 0.7]
    )


def test_momentum_and_restart_by_hand_in_free_space():
    model = _Scripted([1.0, 3.0, 2.0, 4.0, 4.0])
    walk = apgd.auto_pgd(
        model,
        model.objective,
        np.zeros(2),
        0,
        None,
        start=np.zeros(2),
        epsilon=0.5,
        num_steps=4,
        norm="l2",
        checks_at=[2],
        projection=lambda moved, image, epsilon, norm: moved,
        reading=EARLY,
    )
    # -1; -1 - 0.75 + 0.25 (-1) = -2, and one improvement of two steps: back to 0 and
    # steps of 0.5. Then 0 - 0.375 + 0.25 (0 - -1), and -0.125 - 0.375 + 0.25 (-0.125).
    actual = [float(p.image[0]) for p in walk.made]
    assert actual == pytest.approx([0.0, -1.0, -2.0, -0.125, -0.53125])


def test_starts():
    image, draw = np.array([0.5, 0.5, 0.95]), np.array([3.0, -1.5, 2.0])
    np.testing.assert_allclose(
        apgd.start_from(draw, image, 0.3, "linf"), [0.8, 0.35, 1.0]
    )
    draw = np.array([3.0, 4.0, 0.0])
    np.testing.assert_allclose(
        apgd.start_from(draw, image, 0.3, "l2"), [0.68, 0.74, 0.95]
    )
    # 3 and 4 are cut to the room, 0.5 each, and then to the ball.
    np.testing.assert_allclose(
        apgd.start_from(draw, image, 1.2, "l1"), [1.0, 1.0, 0.95]
    )
    # (.3, .2, .1) minus .125, of which nothing is left of the last.
    draw = np.array([0.3, -0.2, 0.1])
    np.testing.assert_allclose(
        apgd.start_from(draw, image, 0.25, "l1"), [0.675, 0.425, 0.95]
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reading", [apgd.PRINTED, EARLY])
def test_auto_pgd_finds_the_best_attack_on_a_linear_model(norm, seed, reading):
    model, image, label = _linear_case(seed)
    other = (label + 1) % NUM_CLASSES
    epsilon = {"linf": 0.2, "l2": 0.7}[norm]
    draw = np.random.default_rng(seed).uniform(-1.0, 1.0, SHAPE)
    walk = apgd.auto_pgd(
        model,
        objectives.pairwise_margin,
        image,
        label,
        other,
        start=apgd.start_from(draw, image, epsilon, norm),
        epsilon=epsilon,
        num_steps=100,
        norm=norm,
        projection=projections.onto_ball_and_box,
        reading=reading,
    )
    weights = -linear.pair_weights(model, label, other)
    best = image + linear.best_perturbation(weights, image, epsilon, norm)
    logits = model.logits(best)
    assert walk.best.value == pytest.approx(
        float(logits[label] - logits[other]), abs=1e-3
    )
    assert linear.length(walk.best.image - image, norm) <= epsilon + 1e-12


def test_the_sparse_direction_has_length_one_and_the_largest_pixels():
    gradient = np.array([[0.1, -3.0], [2.0, 0.0]])
    expected = [[0.0, -0.5], [0.5, 0.0]]
    np.testing.assert_allclose(apgd.sparse_direction(gradient, 2), expected)
    expected = [[1 / 3, -1 / 3], [1 / 3, 0.0]]
    np.testing.assert_allclose(apgd.sparse_direction(gradient, 4), expected)


def test_sparsity_and_step_size_in_l1_by_hand():
    """One pixel of four matters, so the best point differs in the pixels of k."""
    weights = np.array([[4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    model, image = LinearModel(weights, np.zeros(2)), np.full(4, 0.5)
    walk = apgd.auto_pgd_l1(
        model,
        objectives.pairwise_margin,
        image,
        0,
        1,
        start=image,
        epsilon=0.3,
        num_steps=6,
        period=2,
        sparsity=3.0,
    )
    # Steps of 3 pixels from c = 4.5: at the first check the best has 3 changed pixels
    # or fewer, which is a fall: epsilon and a restart.
    assert walk.sparsities[:2] == [3.0, 3.0] and walk.step_sizes[:2] == [0.3, 0.3]
    np.testing.assert_allclose(walk.made[1].image, [0.4, 0.4, 0.4, 0.5])
    # x(2): from |d| = (.2, .2, .2, 0) all shrink alike, so the best is x(1), c = 3.
    assert walk.checks[0] == (2, True)
    assert walk.step_sizes[2] == 0.3 and walk.sparsities[2] == 2.0
    # Two pixels: |d| = (.25, .25, .1, 0), minus .1: (.15, .15, 0, 0). The best of
    # x(3) and x(4) has 2 pixels, fewer than 0.95 * 3.
    np.testing.assert_allclose(walk.made[3].image, [0.35, 0.35, 0.5, 0.5])
    assert walk.checks[1] == (4, True) and walk.sparsities[4] == pytest.approx(2 / 1.5)
    # One pixel: |d| = (.45, .15), minus .15: (.3, 0): the optimum.
    np.testing.assert_allclose(walk.made[5].image, [0.2, 0.5, 0.5, 0.5])
    assert walk.best.value == pytest.approx(5.0 - 4.0 * 0.3)


def test_a_restart_in_l1_goes_on_from_the_best():
    model = _Scripted([1.0, 3.0, 2.0, 4.0])
    walk = apgd.auto_pgd_l1(
        model,
        model.objective,
        np.array([0.5, 0.5]),
        0,
        None,
        start=np.array([0.5, 0.4]),
        epsilon=0.3,
        num_steps=3,
        period=2,
        sparsity=1.0,
    )
    # |d| = (.3, .1) minus .05; (.55, .05), at most .5, minus .25; from the start again.
    expected = [[0.5, 0.4], [0.25, 0.45], [0.2, 0.5], [0.25, 0.45]]
    np.testing.assert_allclose([p.image for p in walk.made], expected)


def test_an_l1_stage_starts_from_the_best_of_the_one_before():
    model = _Scripted([9.0, 1.0, 8.0, 9.0, 9.0, 9.0, 9.0])
    image, start = np.array([0.5, 0.5]), np.array([0.5, 0.1])
    walks = apgd.auto_pgd_l1_stages(
        model,
        model.objective,
        image,
        0,
        None,
        start=start,
        epsilon=0.1,
        lengths=(2, 1, 1),
        periods=(9, 9, 9),
        sparsities=(1.0, None, None),
    )
    # |d| = .4 is cut to .3. A step of .3 gives (.3, .3) minus .15, which is the best.
    np.testing.assert_allclose(walks[0].made[0].image, [0.5, 0.2])
    np.testing.assert_allclose(walks[0].made[1].image, [0.35, 0.35])
    assert walks[0].best is walks[0].made[1] is not walks[0].made[2]
    np.testing.assert_allclose(walks[1].made[0].image, [0.4, 0.4])
    assert walks[1].sparsities == [2 / 1.5] and walks[1].step_sizes == [0.2]
    np.testing.assert_allclose(walks[2].step_sizes, [0.1])


def test_without_a_fall_in_sparsity_the_l1_step_shrinks_to_a_tenth():
    weights = np.array([[4.0, 0.0], [0.0, 0.0]])
    walk = apgd.auto_pgd_l1(
        LinearModel(weights, np.zeros(2)),
        objectives.pairwise_margin,
        np.full(2, 0.5),
        0,
        1,
        start=np.full(2, 0.5),
        epsilon=0.3,
        num_steps=9,
        period=1,
        sparsity=1.0,
        first_count=1.0,
    )
    expected = [max(0.3 / 1.5**i, 0.03) for i in range(9)]
    assert walk.step_sizes == pytest.approx(expected)
    assert not any(fell for _, fell in walk.checks)


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_pgd_in_l1_finds_the_best_attack_on_a_linear_model(seed):
    """Where the optimum is one pixel that stays inside the box.

    Otherwise it may not: k falls to 1, a constant gradient always names the same
    pixel, and once that has met the box the attack stays where it is.
    """
    model, image, label = _linear_case(seed)
    image = np.clip(image, 0.3, 0.7)
    other, epsilon = (label + 1) % NUM_CLASSES, 0.25
    walks = apgd.auto_pgd_l1_stages(
        model,
        objectives.pairwise_margin,
        image,
        label,
        other,
        start=image + np.random.default_rng(seed).normal(size=SHAPE),
        epsilon=epsilon,
        lengths=(30, 30, 40),
        periods=(4, 4, 4),
        sparsities=(0.2 * NUM_PIXELS, None, None),
    )
    weights = -linear.pair_weights(model, label, other)
    best = image + linear.best_perturbation(weights, image, epsilon, "l1")
    logits = model.logits(best)
    optimum = float(logits[label] - logits[other])
    assert optimum - 1e-9 <= walks[-1].best.value <= optimum + 0.01
    for walk, factor in zip(walks, (3.0, 2.0, 1.0), strict=True):
        for point in walk.made:
            size = linear.length(point.image - image, "l1")
            assert size <= factor * epsilon + 1e-12
    start = projections.onto_ball_and_box(walks[1].best.image, image, epsilon, "l1")
    np.testing.assert_array_equal(walks[2].made[0].image, start)


# --- the boundary: FAB and DeepFool ---------------------------------------------------


def _large_box_case():
    """Two classes in the middle of the box, h_1 - h_0 = 2 d_0 - d_1 - 0.3."""
    weights = np.array([[0.0, 0.0], [2.0, -1.0]])
    image = np.full(2, 0.5)
    return LinearModel(weights, np.array([0.0, -0.8])), image, weights[1]


@pytest.mark.parametrize(
    ("norm", "delta"),
    [("linf", [0.1, -0.1]), ("l2", [0.12, -0.06]), ("l1", [0.15, 0.0])],
)
def test_the_first_fab_steps_by_hand(norm, delta):
    model, image, _ = _large_box_case()
    result = fab.fab(model, image, 0, norm=norm, num_steps=2)
    first, second = result.restarts[0]
    np.testing.assert_allclose(first.delta, delta)
    np.testing.assert_allclose(first.delta_original, delta)
    # Half of the way is each's share, and at most a tenth counts.
    assert first.alpha == 0.1 and first.adversarial
    np.testing.assert_allclose(first.made, image + 1.05 * np.array(delta))
    np.testing.assert_allclose(first.following, image + 0.945 * np.array(delta))
    # From 0.945 there, 0.055 is left; a = 0.055 / 1.055.
    assert second.alpha == pytest.approx(0.055 / 1.055)
    np.testing.assert_allclose(second.delta, 0.055 * np.array(delta), atol=1e-12)
    made = (1 - second.alpha) * (0.945 + 1.05 * 0.055) + second.alpha * 1.05
    np.testing.assert_allclose(second.made, image + made * np.array(delta))
    np.testing.assert_allclose(result.nearest, second.made)


@pytest.mark.parametrize("norm", linear.NORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_fab_finds_the_minimum_distance_of_a_linear_model(norm, seed):
    model, image, label = _linear_case(seed)
    distance, _ = linear.minimum_distance(model, image, label, norm)
    draws = [np.random.default_rng(seed).normal(size=SHAPE)]
    # On the ray to the nearest point the steps end at 1.0085 distances, having been at
    # 1.0052; the final search gets no nearer where rounding calls the boundary right.
    # The choice of a class leaves out the box, so each class has its own run, too.
    targets = [k for k in range(NUM_CLASSES) if k != label]
    results = [
        fab.fab(model, image, label, k, norm=norm, num_steps=40, draws=draws)
        for k in targets
    ]
    found = min(
        linear.length(result.searched - image, norm)
        for result in results
        if result.searched is not None
    )
    assert distance * (1 - 1e-9) <= found <= distance * 1.0053
    untargeted = fab.fab(model, image, label, norm=norm, num_steps=40)
    assert untargeted.searched is not None
    assert found <= linear.length(untargeted.searched - image, norm) + 1e-9


@pytest.mark.parametrize(("norm", "other"), [("linf", 1), ("l2", 2), ("l1", 2)])
def test_fab_chooses_the_class_by_the_dual_norm(norm, other):
    """The distances are 1 / (2, 1.41, 1) and 0.9 / (1.5, 1.5, 1.5)."""
    weights = np.array([[0.0, 0.0], [1.0, 1.0], [1.5, 0.0], [0.0, 0.0]])
    model = LinearModel(weights, np.array([0.0, -1.0, -0.9, -0.1]))
    assert fab.nearest_boundary(model, np.zeros(2), 0, norm) == other
    flat = LinearModel(0.0 * weights, model.bias)
    assert fab.nearest_boundary(flat, np.zeros(2), 0, norm) is None
    assert fab.fab(flat, np.zeros(2), 0, norm=norm).searched is None


def test_a_fab_restart_begins_at_half_of_the_distance_known():
    model, image, _ = _large_box_case()
    draw = np.array([-3.0, 4.0])
    result = fab.fab(model, image, 0, norm="l2", num_steps=5, draws=[draw])
    known = min(
        linear.length(step.made - image, "l2")
        for step in result.restarts[0]
        if step.adversarial
    )
    start = result.restarts[1][0].image
    np.testing.assert_allclose(start, image + known / 2 * np.array([-0.6, 0.8]))
    result = fab.fab(model, image, 0, norm="l2", num_steps=5, draws=[draw], epsilon=0.1)
    start = result.restarts[1][0].image
    np.testing.assert_allclose(start, image + 0.05 * np.array([-0.6, 0.8]))


class _Line:
    """One pixel, and the logits 0 and f(x)."""

    def __init__(self, function):
        self._function = function

    def logits(self, image):
        return np.array([0.0, self._function(float(image[0]))])

    def input_gradient(self, image, by_logits):
        return np.zeros_like(image)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # From f(0) = -1/2 and f(1) = 1/2 to 1/2, which is wrong as well; from there
        # (1/2) / (1/2 + f) of the way, twice.
        (lambda x: math.sqrt(x) - 0.5, 0.2973),
        # The chord always ends short of the boundary, so the outer end never moves.
        (lambda x: x**2 - 0.25, 1.0),
        # Each time 12/13 of the way: the boundary is at 0.6, the values -0.6 and 0.05.
        (lambda x: min(x - 0.6, 0.05), (12 / 13) ** 3),
    ],
)
def test_the_final_search_by_hand(function, expected):
    found = fab.final_search(_Line(function), np.zeros(1), np.ones(1), 0, 3)
    assert float(found[0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", SEEDS)
def test_deep_fool_on_a_linear_model_is_one_step_to_the_nearest_boundary(norm, seed):
    model, _, _ = _linear_case(seed)
    image = np.full(SHAPE, 0.5)  # Far from the box, and the weights are made larger.
    model = LinearModel(8.0 * model.weights, model.bias)
    label = int(np.argmax(model.logits(image)))
    distance, other = linear.minimum_distance(model, image, label, norm)
    # Rounding decides on which side of the boundary x_1 lies, so judge it overshot.
    result = deep_fool.deep_fool(model, image, label, norm=norm, stop_overshot=True)
    assert result.success and result.classes == [other] and distance < 0.48
    found = linear.length(result.final - image, norm)
    assert found == pytest.approx(1.02 * distance)


@functools.cache
def _tanh_case():
    generator = np.random.default_rng(3)
    model = TanhModel(
        generator.normal(size=(6, NUM_PIXELS)),
        generator.normal(size=6),
        2.0 * generator.normal(size=(NUM_CLASSES, 6)),
        np.zeros(NUM_CLASSES),
    )
    image = generator.uniform(0.2, 0.8, SHAPE)
    return model, image, int(np.argmax(model.logits(image)))


@pytest.mark.parametrize("overshot", [False, True])
def test_deep_fool_walks_over_a_curved_boundary(overshot):
    model, image, label = _tanh_case()
    result = deep_fool.deep_fool(model, image, label, stop_overshot=overshot)
    assert result.success and 1 < len(result.classes) < 10
    for step in range(len(result.classes)):
        judged = result.images[step]
        if overshot:
            judged = np.clip(image + 1.02 * (judged - image), 0.0, 1.0)
        assert not is_success(model.logits(judged), label, None)
    if not overshot:
        assert is_success(model.logits(result.images[-1]), label, None)


def test_the_candidates_of_deep_fool_are_those_with_the_largest_logits():
    """Class 2 is nearer, 0.2 / 2 against 0.1 / 0.5; class 1 has the larger logit."""
    weights = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 2.0]])
    model = LinearModel(weights, np.array([0.0, -0.1, -0.2]))
    run = functools.partial(deep_fool.deep_fool, model, np.zeros(2), 0, num_steps=1)
    assert run().classes == [2] and run(num_candidates=1).classes == [1]
    np.testing.assert_allclose(run().final, [0.0, 0.102])


def test_deep_fool_and_the_box():
    """The way along (1, 1) is barred by the box in the first pixel.

    Class 0 is the other one: it wins where both are equal.
    """
    model = LinearModel(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([-1.5, 0.0]))
    image = np.array([0.9, 0.1])
    free = deep_fool.deep_fool(model, image, 1, num_steps=9)
    np.testing.assert_allclose(free.images[1], [1.15, 0.35])
    assert not free.success and len(free.classes) == 1
    np.testing.assert_allclose(free.final, [1.0, 0.355])
    boxed = deep_fool.deep_fool(model, image, 1, num_steps=9, clip_each_step=True)
    np.testing.assert_allclose(boxed.images[2], [1.0, 0.425])
    assert boxed.success


def test_fab_is_nearer_than_deep_fool_on_a_curved_boundary():
    model, image, label = _tanh_case()
    folly = deep_fool.deep_fool(model, image, label).final
    result = fab.fab(model, image, label, norm="l2", num_steps=40)
    own = linear.length(result.nearest - image, "l2")
    searched = linear.length(result.searched - image, "l2")
    assert searched <= own < linear.length(folly - image, "l2")
    assert is_success(model.logits(result.searched), label, None)


# --- the square attack ----------------------------------------------------------------


def test_the_schedule_of_the_square_attack():
    at = [square.fraction(i, 0.8) for i in (1, 10, 11, 50, 51, 200, 201, 1001, 8001)]
    powers = [0, 0, 1, 1, 2, 2, 3, 4, 8]
    assert at == [0.8 / 2**power for power in powers]
    published = functools.partial(
        square.fraction, initial=0.8, halvings=square.PUBLISHED_HALVINGS
    )
    # After 5000 queries, unrescaled, an eighth of a sixteenth is left.
    assert published(4999) == 0.8 / 128
    assert published(501) == 0.8 / 16 and square.fraction(501, 0.8) == 0.8 / 8
    # A tenth of the queries halves ten times as early.
    assert square.fraction(2, 0.8, rescaled_to=1000) == 0.8 / 2
    assert square.fraction(1, 0.8, rescaled_to=1000) == 0.8


def test_the_sides_of_the_squares():
    sides = [square.side_length(0.8 / 2**k, 28, 28) for k in range(9)]
    # The root of 0.8 * 784 = 627.2 is 25.04; every second one halves.
    assert sides == [25, 18, 13, 9, 6, 4, 3, 2, 2]
    assert square.side_length(0.8, 32, 32) == 29
    assert square.side_length(1e-6, 32, 32) == 1
    assert [square.side_length(p, 28, 28, l2=True) for p in (0.4, 0.1, 1e-6)] == [
        19,
        9,
        3,
    ]


def test_the_bump_by_hand():
    one, two = 1.0, 0.25
    ring, top = two, one + two
    expected = [[ring, ring, ring], [ring, top, ring], [ring, ring, ring]]
    np.testing.assert_allclose(square.bump(3, 3), expected)
    # Five rows, two columns (n = 2): the middle is row 3, column 2.
    low, mid, top = 1 / 9, 1 / 9 + 1 / 4, 1 / 9 + 1 / 4 + 1
    expected = [[low, low], [mid, mid], [mid, top], [mid, mid], [low, low]]
    np.testing.assert_allclose(square.bump(5, 2), expected)
    for side in range(1, 8):
        both = square.two_bumps(side, False)
        assert both.shape == (side, side)
        assert float(np.sum(both**2)) == pytest.approx(1.0)
        half = side // 2
        assert np.all(both[:, :half] > 0.0) and np.all(both[:, half:] < 0.0)
        np.testing.assert_array_equal(square.two_bumps(side, True), both.T)


def test_the_l2_start_is_scaled_before_it_is_clipped():
    """Of a black image the box cuts the lower half of each tile, half of the square."""
    draws = square_draws.NumpyDraws(np.random.default_rng(0))
    start = square.start_tiles(np.zeros((11, 11, 2)), 0.4, draws)
    assert linear.length(start, "l2") == pytest.approx(0.4 / math.sqrt(2))
    grey = square.start_tiles(np.full((11, 11, 2), 0.5), 0.4, draws) - 0.5
    assert np.all(grey[10] == 0.0) and np.all(grey[:, 10] == 0.0)
    # Two columns of 1/4 and 1/4 + 1; every tile has a 50th of the square.
    size = 0.4 / math.sqrt(50) / math.sqrt(2 * (0.25**2 + 1.25**2))
    tile = np.sort(np.abs(grey[4:6, 2:4, 1]).ravel())
    np.testing.assert_allclose(tile, size * np.array([0.25, 0.25, 1.25, 1.25]))


class _FixedDraws(square_draws.NumpyDraws):
    """Every window at one corner, every sign +1."""

    def __init__(self, corners):
        super().__init__(np.random.default_rng(0))
        self._corners = corners

    def corner(self, iteration, window, rows, columns):
        return self._corners[window]

    def signs(self, iteration, channels):
        return np.ones(channels)

    def transposed(self, iteration):
        return False


def test_a_square_proposal_in_linf_sets_a_window_to_the_face():
    generator = np.random.default_rng(0)
    image = generator.uniform(0.2, 0.8, (5, 5, 2))
    here = image + generator.uniform(-0.1, 0.1, image.shape)
    moved = square.propose_linf(here, 0.1, 2, 1, _FixedDraws([(1, 3)]))
    moved = projections.onto_ball_and_box(moved, image, 0.1, "linf")
    np.testing.assert_allclose(moved[1:3, 3:5], image[1:3, 3:5] + 0.1)
    moved[1:3, 3:5] = here[1:3, 3:5]
    np.testing.assert_array_equal(moved, here)


def test_a_square_proposal_in_l2_moves_the_budget():
    image = np.full((6, 6, 2), 0.5)
    delta = np.zeros_like(image)
    delta[0:3, 0:3, 0], delta[3:6, 3:6, 0], delta[3, 0, 1] = 0.02, 0.05, 0.08
    epsilon = 0.4
    moved = square.propose_move(
        image + delta, image, epsilon, 3, 1, _FixedDraws([(0, 0), (3, 3)])
    )
    change = moved - image
    unused = epsilon**2 - float(np.sum(delta**2))
    assert np.all(change[3:6, 3:6] == 0.0) and change[3, 0, 1] == pytest.approx(0.08)
    first = float(np.sum(change[0:3, 0:3, 0] ** 2))
    assert first == pytest.approx(9 * 0.02**2 + 9 * 0.05**2 + unused / 2)
    second = change[0:3, 0:3, 1]
    expected = math.sqrt(unused / 2) * square.two_bumps(3, False)
    np.testing.assert_allclose(second, expected)
    assert float(np.sum(change**2)) == pytest.approx(epsilon**2)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_square_attack_approaches_the_best_attack_on_a_linear_model(norm):
    generator = np.random.default_rng(1)
    shape, epsilon = (10, 10, 1), {"linf": 0.1, "l2": 0.6, "l1": 3.0}[norm]
    rows, columns = np.mgrid[0:10, 0:10]
    smooth = np.sin(rows / 2.0) + np.cos(columns / 3.0)
    model = LinearModel(np.stack([smooth.ravel(), np.zeros(100)]), np.array([99.0, 0]))
    image = generator.uniform(0.3, 0.7, shape)
    result = square.square(
        model,
        objectives.margin,
        image,
        0,
        None,
        norm=norm,
        epsilon=epsilon,
        num_queries=400,
        side_at=lambda i: square.side_length(
            square.fraction(i, 0.8), 10, 10, l2=norm != "linf"
        ),
        draws=square_draws.NumpyDraws(generator),
    )
    clean = float(model.logits(image)[0])
    best, _ = linear.best_attack(model, image, 0, epsilon, norm)
    found = float(model.logits(result.image)[0])
    assert not result.success and len(result.proposals) == 399
    assert clean - found <= clean - best + 1e-9
    assert clean - found >= {"linf": 0.9, "l2": 0.6, "l1": 0.5}[norm] * (clean - best)
    values = [result.start_value]
    for proposal in result.proposals:
        assert linear.length(proposal.proposed - image, norm) <= epsilon + 1e-9
        assert proposal.accepted == (proposal.value < min(values))
        values.append(proposal.value)
    start = result.start - image
    assert linear.length(start, norm) == pytest.approx(epsilon)
    if norm == "linf":
        np.testing.assert_allclose(np.abs(start), epsilon)
        np.testing.assert_allclose(start, np.broadcast_to(start[:1], shape))


def test_the_square_attack_stops_at_a_success():
    model, image, label = _linear_case(0)
    distance, _ = linear.minimum_distance(model, image, label, "linf")
    result = square.square(
        model,
        objectives.margin,
        image,
        label,
        None,
        norm="linf",
        epsilon=2.0 * distance,
        num_queries=200,
        side_at=lambda i: 1,
        draws=square_draws.NumpyDraws(np.random.default_rng(1)),
    )
    assert result.success and 0 < len(result.proposals) < 199
    assert result.proposals[-1].accepted
    assert is_success(model.logits(result.image), label, None)


# --- penalties: Carlini and Wagner, EAD -----------------------------------------------


def test_adam_by_hand():
    adam = Adam(0.1)
    # m^ = g and v^ = g^2 at first, whatever the scale.
    np.testing.assert_allclose(
        adam.step(np.array([3.0, -0.01])), [0.1, -0.1], rtol=1e-5
    )
    # m = 0.9 * 0.3 + 0.1 * 0, over 1 - 0.81; v = 0.999 * 0.009, over 1 - 0.999^2.
    second = adam.step(np.zeros(2))[0]
    mean, square_mean = 0.27 / 0.19, 0.008991 / 0.001999
    assert second == pytest.approx(0.1 * mean / math.sqrt(square_mean), rel=1e-6)


def test_the_search_for_the_constant_by_hand():
    def run(constant):
        found = np.array([constant]) if constant > 2.9 else None
        return carlini_wagner.Round(constant, [], [], found, constant)

    result = carlini_wagner.search_constant(run, initial_constant=0.01, num_constants=7)
    constants = [done.constant for done in result.rounds]
    # Times ten up to the first success, 10; then between 1 and 10, 1 and 5.5, ...
    assert constants == pytest.approx([0.01, 0.1, 1.0, 10.0, 5.5, 3.25, 2.125])
    assert result.best_distance == pytest.approx(3.25)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_carlini_wagner_finds_the_minimum_distance_of_a_linear_model(seed, targeted):
    model, image, label = _linear_case(seed)
    distance, other = linear.minimum_distance(model, image, label, "l2")
    result = carlini_wagner.carlini_wagner(
        model,
        image,
        label,
        other if targeted else None,
        num_steps=300,
        learning_rate=0.02,
        initial_constant=0.1,
        num_constants=8,
    )
    assert distance <= result.best_distance <= 1.03 * distance
    target = other if targeted else None
    assert is_success(model.logits(result.best), label, target)
    for done in result.rounds:
        lengths = [
            linear.length(moved - image, "l2")
            for moved in done.images
            if is_success(model.logits(moved), label, target)
        ]
        assert done.best_distance == pytest.approx(min(lengths, default=math.inf))
    first = result.rounds[0]
    assert first.losses[0] == pytest.approx(
        0.1
        * objectives.margin(model.logits(image), label, other if targeted else None)[0],
        abs=1e-4,
    )


def test_confidence_asks_for_a_margin():
    model, image, label = _linear_case(0)
    run = functools.partial(
        carlini_wagner.carlini_wagner,
        model,
        image,
        label,
        None,
        num_steps=200,
        learning_rate=0.02,
        initial_constant=1.0,
        num_constants=4,
    )
    plain, sure = run(), run(confidence=0.5)
    value, _ = objectives.margin(model.logits(sure.best), label, None)
    assert value <= -0.5 and sure.best_distance > plain.best_distance


def test_carlini_wagner_stops_early_where_the_loss_stalls():
    model, image, label = _linear_case(0)
    options = {"num_steps": 200, "learning_rate": 0.02, "initial_constant": 1.0}
    early, full = (
        carlini_wagner.carlini_wagner(
            model, image, label, None, num_constants=1, abort_early=abort, **options
        ).rounds[0]
        for abort in (True, False)
    )
    assert len(full.images) == 201 and len(early.images) < 201
    stop = len(early.losses) - 1
    assert stop % 20 == 0
    checked = early.losses[::20]
    assert checked[-1] > 0.9999 * checked[-2]
    assert all(b <= 0.9999 * a for a, b in itertools.pairwise(checked[:-1]))


def test_the_last_image_is_judged_if_asked():
    model, image, label = _linear_case(0)
    for judge_last, num_images in ((True, 4), (False, 3)):
        result = carlini_wagner.carlini_wagner(
            model,
            image,
            label,
            None,
            num_steps=3,
            learning_rate=0.02,
            initial_constant=1.0,
            num_constants=1,
            judge_last=judge_last,
        )
        assert len(result.rounds[0].images) == num_images


def test_shrinking_by_hand():
    image = np.array([0.5, 0.5, 0.5, 0.9, 0.1])
    moved = np.array([0.53, 0.4, 0.7, 1.4, -0.4])
    np.testing.assert_allclose(
        elastic_net.shrink(moved, image, 0.05), [0.5, 0.45, 0.65, 1.0, 0.0]
    )


def test_the_extrapolation_of_the_elastic_net_by_hand():
    """With c = 0 only ||y - x||^2 pulls: nothing moves. With c > 0, by the weights."""
    model, image, weights = _large_box_case()
    result = elastic_net.elastic_net(
        model,
        image,
        0,
        None,
        step_sizes=[0.01, 0.01],
        beta=0.001,
        initial_constant=1.0,
        num_constants=1,
        rule="en",
    )
    first, second = result.rounds[0].images
    # The margin's gradient is -w; y_1 = x_1, since the weight of k = 0 is 0.
    np.testing.assert_allclose(first, image + [0.02 - 0.001, -0.01 + 0.001])
    moved = first - 0.01 * (2.0 * (first - image) - weights)
    np.testing.assert_allclose(second, moved + [-0.001, 0.001])


@pytest.mark.parametrize("rule", ["en", "l1"])
@pytest.mark.parametrize("seed", range(3))
def test_the_elastic_net_finds_short_perturbations_of_a_linear_model(rule, seed):
    model, image, label = _linear_case(seed)
    # Heavy in l1, the penalty's optimum is nearly the l1 distance, else the l2 one.
    norm, beta = {"en": ("l2", 1e-6), "l1": ("l1", 0.3)}[rule]
    distance, _ = linear.minimum_distance(model, image, label, norm)
    result = elastic_net.elastic_net(
        model,
        image,
        label,
        None,
        step_sizes=elastic_net.square_root_decay(0.05, 400),
        beta=beta * 0.05,
        initial_constant=0.1,
        num_constants=8,
        rule=rule,
    )
    found = linear.length(result.best - image, norm)
    assert distance * (1 - 1e-9) <= found <= 1.15 * distance
    for done in result.rounds:
        scores = [
            elastic_net.score(moved - image, beta * 0.05, rule)
            for moved in done.images
            if is_success(model.logits(moved), label, None)
        ]
        assert done.best_distance == pytest.approx(min(scores, default=math.inf))


# --- SPSA -----------------------------------------------------------------------------


def test_over_all_signs_the_estimate_is_the_gradient_of_a_linear_model():
    weights = np.array([[0.3, -0.2, 0.5, 0.0], [0.0, 0.1, 0.0, -0.4]])
    model, image = LinearModel(weights, np.zeros(2)), np.full((2, 2, 1), 0.5)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    signs = signs.reshape(-1, 2, 2, 1)
    found = spsa.estimate(model, objectives.pairwise_margin, image, 0, 1, signs, 0.01)
    np.testing.assert_allclose(found.ravel(), weights[0] - weights[1], atol=1e-12)
    # Then Adam's first step is its rate against the gradient's signs.
    images = spsa.spsa(
        model,
        objectives.pairwise_margin,
        image,
        0,
        1,
        start=image,
        signs=[signs] * 5,
        epsilon=0.025,
    )
    np.testing.assert_allclose(images[1] - image, -0.01 * np.sign(found), atol=1e-6)
    np.testing.assert_allclose(images[5] - image, -0.025 * np.sign(found), atol=1e-6)


def test_one_pair_of_signs_by_hand():
    weights = np.array([[0.3, -0.2, 0.5, 0.0], [0.0, 0.1, 0.0, -0.4]])
    model, image = LinearModel(weights, np.zeros(2)), np.full((2, 2, 1), 0.5)
    v = np.array([1.0, -1.0, -1.0, 1.0]).reshape(1, 2, 2, 1)
    found = spsa.estimate(model, objectives.pairwise_margin, image, 0, 1, v, 0.3)
    # (w_0 - w_1) v = 0.3 + 0.3 - 0.5 + 0.4 = 0.5.
    np.testing.assert_allclose(found, 0.5 * v[0])


def test_spsa_estimates_where_it_stands():
    model, image, label = _tanh_case()
    generator = np.random.default_rng(0)
    signs = 2.0 * generator.integers(0, 2, (3, 4, *SHAPE)) - 1.0
    images = spsa.spsa(
        model,
        objectives.margin,
        image,
        label,
        None,
        start=image + 0.01,
        signs=list(signs),
        epsilon=0.05,
        learning_rate=0.02,
    )
    adam, here = Adam(0.02), image + 0.01
    for pairs, following in zip(signs, images[1:], strict=True):
        gradient = sum(
            (
                objectives.margin(model.logits(here + 0.01 * v), label)[0]
                - objectives.margin(model.logits(here - 0.01 * v), label)[0]
            )
            / 0.02
            * v
            for v in pairs
        )
        moved = here - adam.step(gradient / 4)
        here = np.clip(np.clip(moved, image - 0.05, image + 0.05), 0.0, 1.0)
        np.testing.assert_allclose(following, here, atol=1e-12)
