"""Attack objectives: values by hand, signs, shifts, and where they could divide by 0.

Values and gradients over random logits are compared in `reference_test.py`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax.attacks import objectives

LOGITS = jnp.array([[1.0, 4.0, 2.0, 0.0]])
NUM_CLASSES = 6
NAMES = list(objectives.OBJECTIVES)


def _random(batch=64):
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3.0, size=(batch, NUM_CLASSES)).astype(np.float32)
    labels = generator.integers(NUM_CLASSES, size=batch)
    targets = (labels + generator.integers(1, NUM_CLASSES, size=batch)) % NUM_CLASSES
    return jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(targets)


SPREAD = float(np.std([1.0, 4.0, 2.0, 0.0]))
LOG_SUM = float(np.log(np.exp([1.0, 4.0, 2.0, 0.0]).sum()))


@pytest.mark.parametrize(
    ("name", "label", "target", "expected"),
    [
        ("cross_entropy", 1, None, 4 - LOG_SUM),
        ("cross_entropy", 1, 2, LOG_SUM - 2),
        ("margin", 1, None, 4 - 2),
        ("margin", 2, None, 2 - 4),
        ("margin", 2, 0, 4 - 1),
        ("margin", 2, 1, 2 - 4),
        ("own_class", 0, None, 1),
        ("own_class", 0, 2, -2),
        ("dlr", 1, None, (4 - 2) / (4 - 1)),
        ("dlr", 3, None, (0 - 4) / (4 - 1)),
        ("dlr", 1, 0, (4 - 1) / (4 - (1 + 0) / 2)),
        ("pairwise_margin", 1, 3, 4 - 0),
        ("standardized_margin", 1, None, (4 - 2) / SPREAD),
        ("standardized_margin", 1, 3, (4 - 0) / SPREAD),
    ],
)
def test_values_by_hand(name, label, target, expected):
    targets = None if target is None else jnp.array([target])
    value = objectives.OBJECTIVES[name](LOGITS, jnp.array([label]), targets)
    assert value.shape == (1,)
    np.testing.assert_allclose(value[0], expected, rtol=1e-6)


def test_a_negative_margin_is_success():
    logits, labels, targets = _random()
    predictions = jnp.argmax(logits, axis=1)
    untargeted = objectives.margin(logits, labels) < 0
    np.testing.assert_array_equal(untargeted, predictions != labels)
    targeted = objectives.margin(logits, labels, targets) < 0
    np.testing.assert_array_equal(targeted, predictions == targets)
    assert 0 < int(targeted.sum()) < int(untargeted.sum()) < len(labels)


@pytest.mark.parametrize(
    ("name", "is_targeted"),
    # The pairwise margin has no untargeted form.
    [(name, True) for name in NAMES]
    + [(name, False) for name in NAMES if name != "pairwise_margin"],
)
def test_a_shift_moves_values_by_a_constant_and_leaves_gradients(name, is_targeted):
    logits, labels, targets = _random()
    objective = functools.partial(
        objectives.OBJECTIVES[name],
        labels=labels,
        targets=targets if is_targeted else None,
    )
    shift = -1024.0 * (1 + jnp.arange(len(labels)) % 5)[:, None]
    # Rounded as the shifted logits are, so that the shift itself is exact.
    logits = (logits + shift) - shift
    gradient, shifted_gradient = (
        jax.grad(lambda logits: objective(logits).sum())(h)
        for h in (logits, logits + shift)
    )
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=0, atol=1e-6)
    moved = objective(logits + shift) - objective(logits)
    sign = {True: -1, False: 1}[is_targeted]
    expected = sign * shift[:, 0] if name == "own_class" else jnp.zeros(len(labels))
    np.testing.assert_allclose(moved, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_equal_logits_have_finite_gradients(name):
    _, labels, targets = _random()
    logits = jnp.full((len(labels), NUM_CLASSES), -3.0)
    values, gradient = jax.value_and_grad(
        lambda logits: objectives.OBJECTIVES[name](logits, labels, targets).sum()
    )(logits)
    assert np.isfinite(values) and np.isfinite(gradient).all()
    assert bool(jnp.all(jnp.any(gradient != 0, axis=1)))


def test_infinite_logits_of_other_classes_make_no_nan():
    for infinity in (-jnp.inf, jnp.inf):
        logits = jnp.array([[1.0, 2.0, infinity]])
        value, gradient = jax.value_and_grad(
            lambda logits: objectives.margin(logits, jnp.array([0])).sum()
        )(logits)
        assert float(value) == (1.0 - 2.0 if infinity < 0 else -np.inf)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("lead", [-90.0, -30.0, 0.0, 5.0, 18.0, 60.0, 80.0])
def test_cross_entropy_knows_the_last_digits_of_a_sure_prediction(lead):
    # Two other classes share the rest; in float32 a probability of 1 - 1e-8 is 1.
    logits = jnp.array([[lead, 0.0, -1.0]])
    value, gradient = jax.value_and_grad(
        lambda logits: objectives.cross_entropy(logits, jnp.array([0])).sum()
    )(logits)
    rest = np.array([1.0, np.exp(-1)]) * np.exp(-lead)
    np.testing.assert_allclose(value, -np.log1p(rest.sum()), rtol=3e-6)
    p = rest / (1 + rest.sum())
    np.testing.assert_allclose(gradient[0], [p.sum(), *-p], rtol=2e-5)


def test_cross_entropy_of_a_tie_of_two_has_a_gradient():
    gradient = jax.grad(
        lambda logits: objectives.cross_entropy(logits, jnp.array([0])).sum()
    )(jnp.zeros((1, 2)))
    np.testing.assert_allclose(gradient, [[0.5, -0.5]], rtol=1e-6)


@pytest.mark.parametrize("name", ["dlr", "standardized_margin"])
def test_ratios_are_invariant_to_scale(name):
    logits, labels, targets = _random()
    for goal in (None, targets):
        value, scaled = (
            objectives.OBJECTIVES[name](s * logits, labels, goal) for s in (1.0, 1024.0)
        )
        np.testing.assert_allclose(scaled, value, rtol=1e-5)


def test_a_standardized_margin_of_two_classes_is_the_margin():
    # Over their deviation it would be 2 or -2, without a gradient.
    logits, labels = jnp.array([[3.0, 1.0]]), jnp.array([0])
    assert float(objectives.standardized_margin(logits, labels)[0]) == 2.0


@pytest.mark.parametrize(
    ("num_classes", "targets", "message"),
    [(2, None, "at least 3 classes; got 2"), (3, [1], "at least 4 classes; got 3")],
)
def test_dlr_needs_enough_classes(num_classes, targets, message):
    targets = None if targets is None else jnp.array(targets)
    with pytest.raises(ValueError, match=message):
        objectives.dlr(jnp.zeros((1, num_classes)), jnp.array([0]), targets)
    objectives.dlr(jnp.zeros((1, num_classes + 1)), jnp.array([0]), targets)


def test_names_and_functions_resolve():
    assert objectives.resolve_objective("dlr") is objectives.dlr
    assert objectives.resolve_objective(_random) is _random
    with pytest.raises(ValueError, match="cross_entropy.*'ce'"):
        objectives.resolve_objective("ce")
