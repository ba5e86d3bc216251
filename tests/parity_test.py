"""The strong attacks against `tests/reference`, image by image, on shared draws.

Every image that an attack shows to the model is recorded, and compared with the one
that the slow reference makes at the same place: float32 against float64. Draws are
worked out from the keys, as `mmc_jax.attacks.keys` says. Where papers are open, the
references are given the reading that the attack's docstring states.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import attacks
from mmc_jax.attacks import keys
from mmc_jax.attacks.fab_setting import START, fold
from tests.parity_cases import (
    BATCH,
    SMALL,
    case,
    close,
    likely_wrong_classes,
    salted,
)
from tests.reference import apgd, deep_fool, fab, linear, objectives
from tests.reference.attacks import choose, is_success

pytestmark = pytest.mark.usefixtures("highest_precision")

# --- Auto-PGD -------------------------------------------------------------------------

# A look at checkpoint w is late, and by what was known at x(w).
READING = apgd.Reading(best_is_newest=False)


def apgd_walk(model, objective, image, label, target, *, norm, start, epsilon, steps):
    """Return the images judged in one walk, those that may be kept, and the checks."""
    row = model, getattr(objectives, objective), image, label, target
    if norm != "l1":
        walk = apgd.auto_pgd(
            *row,
            start=start,
            epsilon=epsilon,
            num_steps=steps,
            norm=norm,
            reading=READING,
        )
        made = [point.image for point in walk.made]
        return made, made, [halved for _, halved in walk.checks]
    parts = (-(-3 * steps // 10), -(-6 * steps // 10))
    # A part ends at its last gradient.
    lengths = (parts[0] - 1, parts[1] - parts[0] - 1, steps - parts[1])
    walks = apgd.auto_pgd_l1_stages(
        *row,
        start=start,
        epsilon=epsilon,
        lengths=lengths,
        periods=(-(-4 * steps // 100),) * 3,
        sparsities=(0.2 * image.size, None, None),
        grown_restarts=True,
    )
    made = [[point.image for point in walk.made] for walk in walks]
    checks = [fell for walk in walks for _, fell in walk.checks]
    return sum(made, []), made[-1], checks


def apgd_start(norm, run_keys, i, image, epsilon):
    key = keys.fold_each(run_keys, 0)[i]
    if norm == "linf":
        draw = jax.random.uniform(key, image.shape, minval=-1.0, maxval=1.0)
    else:
        draw = jax.random.normal(key, image.shape)
    # The first ball in l1 is three times as large.
    radius = 3 * epsilon if norm == "l1" else epsilon
    return apgd.start_from(np.asarray(draw, np.float64), image, radius, norm)


@pytest.mark.parametrize(
    ("norm", "epsilon", "objective", "targeted", "steps", "stops"),
    [
        ("linf", 0.1, "cross_entropy", False, 30, False),
        ("linf", 0.3, "dlr", True, 30, False),
        # Where the label comes third, the gradient is rounding alone.
        ("l2", 0.2, "dlr", False, 30, True),
        ("l2", 0.6, "cross_entropy", True, 30, False),
        ("l1", 1.5, "cross_entropy", False, 50, False),
        ("l1", 1.5, "margin", True, 50, True),
    ],
)
def test_apgd(norm, epsilon, objective, targeted, steps, stops):
    problem, num_restarts = case(SMALL), 2
    adv_images, images = problem.run(
        attacks.apgd,
        targeted=targeted,
        norm=norm,
        epsilon=epsilon,
        objective=objective,
        num_steps=steps,
        num_restarts=num_restarts,
        stop_on_success=stops,
    )
    images = np.array(images).reshape(num_restarts, steps + 1, BATCH, *SMALL)
    restarted = []
    for i, image, label, target in problem.rows(targeted):
        candidates = []
        for restart in range(num_restarts):
            run_keys = keys.fold_each(salted("apgd"), restart + 1)
            start = apgd_start(norm, run_keys, i, image, epsilon)
            more = dict(norm=norm, start=start, epsilon=epsilon, steps=steps)
            row = problem.model, objective, image, label, target
            made, kept, checks = apgd_walk(*row, **more)
            outcomes = [
                is_success(problem.model.logits(x), label, target) for x in kept
            ]
            if stops and any(outcomes):
                made = made[: len(made) - len(kept) + outcomes.index(True) + 1]
            close(images[restart, : len(made), i], made, 2e-5)
            candidates += kept
            restarted += checks
            if stops and any(outcomes):
                break
        function = getattr(objectives, objective)
        expected = choose(
            candidates,
            problem.model,
            function,
            label,
            target,
            keep="best",
            stop_on_success=stops,
        )
        # Of two that are equally good, either.
        assert min(np.abs(adv_images[i] - x).max() for x in candidates) < 2e-5
        found, best = (
            (np.argmax(logits), function(logits, label, target)[0])
            for logits in map(problem.model.logits, (adv_images[i], expected))
        )
        np.testing.assert_allclose(found, best, rtol=1e-4, atol=2e-5)
    # Or the rule is not exercised.
    assert 0.1 < np.mean(restarted) < 0.9


@pytest.mark.parametrize(
    ("name", "objective", "num_restarts", "steps"),
    [
        ("apgd_targeted", "dlr", 2, 20),
        # Further restarts wander first, along directions of the logits.
        ("multi_targeted", "pairwise_margin", 1, 20),
        # Then a pixel's gradient is next to 0, and rounding decides its sign.
        ("multi_targeted", "standardized_margin", 1, 14),
    ],
)
def test_attacks_that_choose_targets(name, objective, num_restarts, steps):
    problem, num_targets = case(SMALL), 2
    adv_images, (_, *images) = problem.run(
        getattr(attacks, name),
        epsilon=0.2,
        objective=objective,
        num_steps=steps,
        num_restarts=num_restarts,
        num_targets=num_targets,
        stop_on_success=False,
    )
    images = np.array(images).reshape(-1, steps + 1, BATCH, *SMALL)
    for i, image, label, _ in problem.rows():
        aims = likely_wrong_classes(problem.model, image, label)[:num_targets]
        for run, aim in enumerate(aims * num_restarts):
            run_keys = keys.fold_each(salted(name), run + 1)
            start = apgd_start("linf", run_keys, i, image, 0.2)
            more = dict(norm="linf", start=start, epsilon=0.2, steps=steps)
            made, _, _ = apgd_walk(problem.model, objective, image, label, aim, **more)
            close(images[run, :, i], made, 2e-5)
        success = is_success(problem.model.logits(adv_images[i]), label, None)
        assert success == any(
            is_success(problem.model.logits(image), label, None)
            for image in images[:, :, i].reshape(-1, *SMALL)
        )


# --- FAB and DeepFool -----------------------------------------------------------------


def fab_draws(norm, i, num_restarts):
    draw = {
        "linf": functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0),
        "l2": jax.random.normal,
        "l1": jax.random.laplace,
    }[norm]
    own = salted("fab")[i : i + 1]
    for run in range(1, num_restarts):
        (key,) = fold(own, START, jnp.array([run]), jnp.array([0]))
        yield np.asarray(draw(key, SMALL), np.float64)


def fab_points(restarts):
    """Return where the model runs: at what steps make, and where they step back to."""
    for steps in restarts:
        yield steps[0].image
        for step in steps:
            yield step.made
            if step.adversarial and step is not steps[-1]:
                yield step.following


def check_points(images, expected):
    """Compare, leaving out what the model was shown twice in a row."""
    groups = itertools.groupby(images, key=np.ndarray.tobytes)
    points = [next(group)[0] for _, group in groups]
    # In the end, three steps of search.
    assert 0 <= len(points) - max(len(expected), 1) <= 3
    close(points[: len(expected)], expected, 2e-5)


FAB = dict(num_steps=8, alpha_max=0.2, overshoot=1.1)


@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", None), ("l2", 1e-4), ("l1", None)]
)
def test_fab(norm, epsilon):
    problem, backward, num_hits = case(SMALL), 0.7, []
    for i, image, label, _ in problem.rows():
        more = dict(num_restarts=3, norm=norm, epsilon=epsilon, beta=backward)
        # Alone, since an example takes its steps when the others let it.
        row = slice(i, i + 1)
        (adv_image,), images = problem.run(attacks.fab, rows=row, **more, **FAB)
        result = fab.fab(
            problem.model,
            image,
            label,
            norm=norm,
            draws=[*fab_draws(norm, i, 3)],
            epsilon=np.inf if epsilon is None else epsilon,
            backward=backward,
            **FAB,
        )
        expected = [*fab_points(result.restarts)]
        check_points(images, expected)
        num_hits += [step.adversarial for steps in result.restarts for step in steps]
        # Nothing is found in a ball so small.
        close(adv_image, result.searched if epsilon is None else image, 2e-5)
    assert 0.1 < np.mean(num_hits) < 0.9


# In l1 a rounding may choose another pixel, and here one does: test_fab has the norm.
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_targeted(norm):
    problem, more = case(SMALL), dict(norm=norm, num_targets=2)
    for i, image, label, _ in problem.rows():
        row, attack = slice(i, i + 1), attacks.fab_targeted
        aims = likely_wrong_classes(problem.model, image, label)[:2]
        (adv_image,), images = problem.run(attack, rows=row, **more, **FAB)
        results = [
            fab.fab(problem.model, image, label, aim, norm=norm, **FAB) for aim in aims
        ]
        expected = [x for result in results for x in fab_points(result.restarts)]
        check_points(images, expected)
        found = [result.nearest for result in results if result.nearest is not None]
        nearest = min(found, key=lambda x: linear.length(x - image, norm))
        nearest = fab.final_search(problem.model, image, nearest, label, 3)
        close(adv_image, nearest, 2e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deep_fool(norm):
    problem, more = case(SMALL), dict(num_candidates=3, overshoot=0.05, norm=norm)
    adv_images, (_, *images) = problem.run(attacks.deep_fool, **more)
    counts = []
    for i, image, label, _ in problem.rows():
        result = deep_fool.deep_fool(
            problem.model, image, label, stop_overshot=True, clip_each_step=True, **more
        )
        overshot = [np.clip(image + 1.05 * (x - image), 0, 1) for x in result.images]
        counts.append(len(result.classes))
        for step in range(counts[-1]):
            close(images[2 * step][i], result.images[step], 2e-5)
            close(images[2 * step + 1][i], overshot[step + 1], 2e-5)
        assert result.success
        close(adv_images[i], result.final, 2e-5)
    assert min(counts) == 0 and max(counts) > 2
