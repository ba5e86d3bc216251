"""Sums over padded batches are those of the whole; Wilson's interval is scipy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mmc_jax import metrics


def test_correct_is_the_argmax():
    logits = jnp.array([[-3.0, -1.0, -2.0], [-3.0, -1.0, -2.0], [5.0, -jnp.inf, 0.0]])
    actual = metrics.correct(logits, jnp.array([1, 2, 0]))
    np.testing.assert_array_equal(actual, [True, False, True])


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("label", range(3))
def test_logits_with_nan_are_never_correct(position, label):
    logits = jnp.zeros((1, 3)).at[0, label].set(9.0).at[0, position].set(jnp.nan)
    assert not metrics.correct(logits, jnp.array([label]))[0]


def test_sums_over_padded_batches_are_those_of_the_whole(generator):
    logits = generator.normal(size=(10, 4)).astype(np.float32)
    labels = np.argmax(logits, axis=-1)
    labels[[1, 4, 9]] = (labels[[1, 4, 9]] + 1) % 4
    sums_of = jax.jit(metrics.accuracy_sums)
    totals = {"correct": 0, "count": 0}
    for start in (0, 4, 8):
        # Padding repeats the first example, which is right: it must not count.
        chosen = [i if i < 10 else 0 for i in range(start, start + 4)]
        mask = np.array([i < 10 for i in range(start, start + 4)], np.float32)
        sums = sums_of(logits[chosen], labels[chosen], mask)
        assert {name: value.dtype for name, value in sums.items()} == {
            "correct": jnp.int32,
            "count": jnp.int32,
        }
        totals = {name: totals[name] + int(sums[name]) for name in totals}
    assert totals == {"correct": 7, "count": 10}


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError):
        metrics.correct(jnp.zeros((3, 10)), jnp.zeros(2, jnp.int32))
    with pytest.raises(AssertionError):
        metrics.correct(jnp.zeros((3, 10)), jnp.zeros((3, 1), jnp.int32))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (0, 20), (20, 20), (3, 7), (861, 1000)]
)
def test_wilson_interval_is_scipys(successes, total, confidence):
    actual = metrics.wilson_interval(successes, total, confidence=confidence)
    test = stats.binomtest(successes, total)
    expected = test.proportion_ci(confidence_level=confidence, method="wilson")
    np.testing.assert_allclose(actual, (expected.low, expected.high), atol=1e-12)


def test_wilson_interval_ends_are_exact():
    for total in range(1, 30):  # The formula misses by a rounding at 3, 6, 10, ...
        assert metrics.wilson_interval(0, total)[0] == 0.0
        assert metrics.wilson_interval(total, total)[1] == 1.0


def test_wilson_interval_of_a_textbook():
    # n = 263, r = 81: Newcombe, "Two-sided confidence intervals for the single
    # proportion", Statistics in Medicine 1998, Table I, method 3.
    low, high = metrics.wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 2), "got 3 of 2"),
        ((-1, 2), "got -1 of 2"),
        ((0, 0), "got 0 of 0"),
    ],
)
def test_counts_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.wilson_interval(*arguments)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match=rf"in \(0, 1\), got {confidence}"):
        metrics.wilson_interval(1, 2, confidence=confidence)
