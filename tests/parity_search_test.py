"""Square, SPSA, C&W and EAD against `tests/reference`, as in `parity_test`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import attacks
from mmc_jax.attacks import keys, projections
from tests.parity_cases import BATCH, LARGE, SMALL, case, close, salted
from tests.reference import carlini_wagner, elastic_net, objectives, spsa, square
from tests.reference.attacks import choose, is_success

pytestmark = pytest.mark.usefixtures("highest_precision")


# --- Square and SPSA ------------------------------------------------------------------


class SquareDraws:
    """What the library draws for one example and restart."""

    def __init__(self, key, num_queries, channels):
        self._start = jax.random.fold_in(key, 0)
        blocks = [
            jax.random.bits(jax.random.fold_in(key, 2 + block), (128, 6))
            for block in range(-(-num_queries // 128))
        ]
        self._words = np.concatenate(blocks).astype(np.uint64)

    def _signs_of_start(self, *shape):
        return 2.0 * np.asarray(jax.random.bernoulli(self._start, shape=shape)) - 1.0

    def stripes(self, width, channels):
        return self._signs_of_start(width, channels)

    def tile_signs(self, tiles, channels):
        # One draw holds both: the orientation first.
        self._tiles = self._signs_of_start(tiles, tiles, channels + 1)
        return self._tiles[..., 1:]

    def tile_transposed(self, tiles):
        return self._tiles[..., 0] > 0

    def corner(self, iteration, window, rows, columns):
        row, column = self._words[iteration - 1, 2 * window : 2 * window + 2]
        return int(row % rows), int(column % columns)

    def transposed(self, iteration):
        return bool(self._words[iteration - 1, 4] % 2)

    def signs(self, iteration, channels):
        bits = self._words[iteration - 1, 5] >> np.arange(channels, dtype=np.uint64)
        return 2.0 * (bits % 2) - 1.0


@pytest.mark.parametrize(
    ("norm", "epsilon", "objective", "targeted", "num_queries"),
    [
        ("linf", 0.2, "margin", False, 220),
        ("l2", 4.0, "cross_entropy", True, 140),
        ("l1", 30.0, "margin", False, 140),
    ],
)
def test_square(norm, epsilon, objective, targeted, num_queries):
    problem, num_restarts = case(LARGE), 2
    adv_images, images = problem.run(
        attacks.square,
        targeted=targeted,
        norm=norm,
        epsilon=epsilon,
        objective=objective,
        num_queries=num_queries,
        num_restarts=num_restarts,
        initial_fraction=0.5,
    )
    images = np.array(images).reshape(num_restarts, num_queries + 1, BATCH, *LARGE)

    def side_at(iteration):
        share = square.fraction(iteration, 0.5, halvings=square.PUBLISHED_HALVINGS)
        side = square.side_length(share, *LARGE[:2])
        return side if norm == "linf" else max(side, 3)

    accepted, success = [], []
    for i, image, label, target in problem.rows(targeted):
        results = []
        for restart in range(num_restarts):
            key = keys.fold_each(salted("square"), restart)[i]
            results.append(
                square.square(
                    problem.model,
                    getattr(objectives, objective),
                    image,
                    label,
                    target,
                    norm=norm,
                    epsilon=epsilon,
                    num_queries=num_queries + 1,
                    side_at=side_at,
                    draws=SquareDraws(key, num_queries, LARGE[2]),
                )
            )
            result = results[-1]
            made = [result.start, *(proposal.proposed for proposal in result.proposals)]
            close(images[restart, : len(made), i], made, 2e-5)
            accepted += [proposal.accepted for proposal in result.proposals]
            success.append(result.success)
            if result.success:
                break
        best = min(
            results,
            key=lambda result: (
                not result.success,
                getattr(objectives, objective)(
                    problem.model.logits(result.image), label, target
                )[0],
            ),
        )
        close(adv_images[i], best.image, 2e-5)
    assert 0.02 < np.mean(accepted) < 0.9
    assert 0 < sum(success[1:]) < len(success) - 1


@pytest.mark.parametrize("targeted", [False, True])
def test_spsa(targeted):
    problem, num_steps, num_pairs, delta = case(SMALL), 8, 5, 0.02
    adv_images, images = problem.run(
        attacks.spsa,
        targeted=targeted,
        epsilon=0.1,
        num_steps=num_steps,
        num_samples=2 * num_pairs,
        delta=delta,
        learning_rate=0.03,
        stop_on_success=False,
    )
    judged, asked = images[::2], images[1::2]
    assert len(judged) == num_steps + 1 and len(asked) == num_steps
    asked = np.array(asked).reshape(num_steps, BATCH, -1, 2, *SMALL)[:, :, :num_pairs]
    signs = np.round((asked[..., 0, :, :, :] - asked[..., 1, :, :, :]) / (2 * delta))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    starts = projections.random_start(
        keys.fold_each(salted("spsa"), 0),
        jnp.asarray(problem.images, jnp.float32),
        epsilon=0.1,
        norm="linf",
    )
    for i, image, label, target in problem.rows(targeted):
        made = spsa.spsa(
            problem.model,
            objectives.margin,
            image,
            label,
            target,
            start=np.asarray(starts[i], np.float64),
            signs=signs[:, i],
            epsilon=0.1,
            delta=delta,
            learning_rate=0.03,
            stabiliser=1e-9,
        )
        close(np.array(judged)[:, i], made, 2e-5)
        for step in range(num_steps):
            close(asked[step, i, :, 0], made[step] + delta * signs[step, i], 2e-5)
        expected = choose(
            made, problem.model, objectives.margin, label, target, keep="best"
        )
        close(adv_images[i], expected, 2e-5)


# --- C&W and EAD ----------------------------------------------------------------------


def check_search(attack, reference, targeted, ours, theirs):
    """Compare the images judged with every c, and the closest success."""
    problem, num_constants = case(SMALL, 2.0), 5
    adv_images, images = problem.run(
        attack,
        targeted=targeted,
        num_steps=25,
        initial_const=1.0,
        num_binary_search_steps=num_constants,
        abort_early=False,
        **ours,
    )
    images = np.array(images).reshape(num_constants, 25, BATCH, *SMALL)
    success = []
    for i, image, label, target in problem.rows(targeted):
        result = reference(
            problem.model,
            image,
            label,
            target,
            initial_constant=1.0,
            num_constants=num_constants,
            **theirs,
        )
        closest = image if result.best is None else result.best
        close(adv_images[i], closest, 1e-4)
        if is_success(problem.model.logits(image), label, target):
            continue  # There is nothing closer to walk to.
        close(images[:, :, i], [done.images for done in result.rounds], 1e-4)
        success += [done.best is not None for done in result.rounds]
    assert 0.1 < np.mean(success) < 0.9


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner(targeted):
    more = dict(learning_rate=0.05, confidence=0.1)
    theirs = dict(num_steps=25, shrink=1.0, widening=2.0, judge_last=False)
    check_search(
        attacks.carlini_wagner,
        carlini_wagner.carlini_wagner,
        targeted,
        more,
        more | theirs,
    )


@pytest.mark.parametrize(("rule", "targeted"), [("en", False), ("l1", True)])
def test_elastic_net(rule, targeted):
    more = dict(beta=0.02, confidence=0.1)
    theirs = dict(
        rule=rule,
        step_sizes=elastic_net.square_root_decay(0.03, 25),
        judge_extrapolated=True,
    )
    ours = dict(decision_rule=rule, learning_rate=0.03)
    check_search(
        attacks.elastic_net,
        elastic_net.elastic_net,
        targeted,
        more | ours,
        more | theirs,
    )
