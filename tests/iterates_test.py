"""Which of two iterates is kept."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax.attacks.iterates import (
    CORRECT,
    INVALID,
    ON_TARGET,
    UNSEEN,
    WRONG,
    Judgement,
    judge,
    keep_better,
    keep_nothing,
)

NAN, INF = float("nan"), float("inf")
IMAGE = jnp.zeros((1, 2, 2, 1))


@pytest.mark.parametrize(
    ("logits", "objective", "target", "expected"),
    [
        ([1.0, 0.0, 0.0], 0.5, None, (CORRECT, 0.5)),
        ([0.0, 1.0, 0.0], 0.5, None, (WRONG, 0.5)),
        # A tie is the first class, as in argmax and in every accuracy.
        ([1.0, 1.0, 0.0], 0.5, None, (CORRECT, 0.5)),
        ([1.0, 0.0, 0.0], 0.5, 2, (CORRECT, 0.5)),
        ([0.0, 1.0, 0.0], 0.5, 2, (WRONG, 0.5)),
        ([0.0, 0.0, 1.0], 0.5, 2, (ON_TARGET, 0.5)),
        ([0.0, INF, 0.0], NAN, None, (WRONG, INF)),
        ([NAN, 1.0, 0.0], 0.5, None, (INVALID, -INF)),
    ],
)
def test_judges(logits, objective, target, expected):
    targets = None if target is None else jnp.array([target])
    judged = judge(jnp.array([logits]), jnp.array([objective]), jnp.array([0]), targets)
    assert (int(judged.rank[0]), float(judged.objective[0])) == expected


@pytest.mark.parametrize(
    ("before", "candidate", "is_final", "is_replaced"),
    [
        ((UNSEEN, INF), (CORRECT, INF), False, True),
        ((CORRECT, 1.0), (CORRECT, 0.0), False, True),
        ((CORRECT, 1.0), (CORRECT, 1.0), False, False),
        ((CORRECT, 0.0), (WRONG, 1.0), False, True),
        ((WRONG, 1.0), (CORRECT, 0.0), False, False),
        ((WRONG, 0.0), (ON_TARGET, 1.0), False, True),
        ((ON_TARGET, 0.0), (INVALID, -INF), False, True),
        ((INVALID, -INF), (INVALID, -INF), False, False),
        ((WRONG, 1.0), (WRONG, 0.0), True, False),
    ],
)
def test_keeps_the_better(before, candidate, is_final, is_replaced):
    before, candidate = (
        Judgement(jnp.array([rank], jnp.int32), jnp.array([objective], jnp.float32))
        for rank, objective in (before, candidate)
    )
    kept = keep_nothing(IMAGE)._replace(judgement=before)
    kept = keep_better(kept, IMAGE + 1, candidate, jnp.array([is_final]))
    np.testing.assert_array_equal(kept.images, IMAGE + is_replaced)
    expected = candidate if is_replaced else before
    assert (kept.judgement.rank, kept.judgement.objective) == expected
