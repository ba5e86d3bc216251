"""TRADES, MART and smoothed labels: against the papers' equations, one by one."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmc_jax import losses
from mmc_jax.centers import mahalanobis_logits, max_mahalanobis_centers
from mmc_jax.losses import adversarial
from mmc_jax.train import build_recipe
from mmc_jax.types import ModelOutput
from tests.configs_test import CONFIGS

from .reference import losses as reference

BATCH, NUM_CLASSES, WEIGHT = 6, 4, 2.5
_generator = np.random.default_rng(0)
CLEAN = 2.0 * _generator.normal(size=(BATCH, NUM_CLASSES))
ADV = CLEAN + _generator.normal(size=(BATCH, NUM_CLASSES))
LABELS = np.array([0, 1, 2, 3, 0, 1])


def _cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS))


def _trades(clean, adv, **options):
    return losses.trades_loss(
        _cross_entropy(clean), clean, adv, weight=WEIGHT, **options
    )


def _mart(clean, adv, **options):
    return losses.mart_loss(
        _cross_entropy(adv), clean, adv, LABELS, weight=WEIGHT, **options
    )


LOSSES = {"trades": (_trades, reference.trades), "mart": (_mart, reference.mart)}


def _expected(function, clean, adv):
    return np.array(
        [function(*row, WEIGHT) for row in zip(clean, adv, LABELS, strict=True)]
    )


def _central_differences(function, clean, adv, size=1e-5):
    """Differentiate the sum over examples by every clean, and adversarial, logit."""
    gradients = []
    for which in (0, 1):
        gradient = np.zeros_like(clean)
        for index in np.ndindex(*clean.shape):
            ends = []
            for sign in (1, -1):
                both = [clean.copy(), adv.copy()]
                both[which][index] += sign * size
                ends.append(_expected(function, *both).sum())
            gradient[index] = (ends[0] - ends[1]) / (2 * size)
        gradients.append(gradient)
    return gradients


def test_examples_in_docstrings_hold():
    results = doctest.testmod(adversarial)
    assert results.attempted > 0 and results.failed == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("offset", [0.0, -300.0])
def test_a_loss_and_its_gradients_are_the_papers(name, offset):
    actual_fn, function = LOSSES[name]
    clean, adv = (jnp.float32(logits + offset) for logits in (CLEAN, ADV))
    actual = actual_fn(clean, adv)
    assert actual.shape == (BATCH,)
    np.testing.assert_allclose(
        actual, _expected(function, CLEAN, ADV), rtol=1e-4, atol=1e-4
    )
    gradients = jax.grad(lambda *both: actual_fn(*both).sum(), argnums=(0, 1))(
        clean, adv
    )
    expected = _central_differences(function, CLEAN, ADV)
    for gradient, by_difference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, by_difference, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_a_temperature_divides_what_is_compared_and_not_the_loss(name):
    actual_fn, function = LOSSES[name]
    temperature = 3.0
    actual = actual_fn(jnp.float32(CLEAN), jnp.float32(ADV), temperature=temperature)
    own = {"trades": CLEAN, "mart": ADV}[name]
    entropies = [
        [reference.softmax_cross_entropy(h, y) for h, y in zip(o, LABELS, strict=True)]
        for o in (own, own / temperature)
    ]
    expected = _expected(function, CLEAN / temperature, ADV / temperature)
    expected += np.subtract(*entropies)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_saturated_predictions_have_finite_losses_and_gradients(name):
    far = jnp.float32(1000.0 * np.eye(NUM_CLASSES)[np.arange(BATCH) % NUM_CLASSES])
    value, gradients = jax.value_and_grad(
        lambda *both: LOSSES[name][0](*both).sum(), argnums=(0, 1)
    )(far, far[::-1])
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_margin_of_mart_by_hand():
    # Both clean predictions sure and right, so that no divergence counts: what is left
    # is -log(1 - p), p the rival's 1/4, and 1 but for exp(-1000).
    clean = jnp.array([[1000.0, 0.0], [1000.0, 0.0]])
    adv = jnp.array([[np.log(3.0), 0.0], [0.0, 1000.0]])
    loss = losses.mart_loss(jnp.zeros(2), clean, adv, jnp.array([0, 0]))
    np.testing.assert_allclose(loss, [-np.log(0.75), 1000.0], rtol=1e-6)


@pytest.mark.parametrize("center_norm", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("loss", ["mmc", "elastic_mmc"])
def test_predictions_near_a_center_are_compared_with_a_gradient(loss, center_norm):
    config = CONFIGS["digits"](f"loss={loss},adv=pgd,recipe=trades")
    config.model.center_norm = center_norm
    temperature = build_recipe.make_crafting(config).temperature
    centers = max_mahalanobis_centers(10, 16, center_norm=center_norm)
    margin = np.diff(np.sort(mahalanobis_logits(centers[:1], centers)[0])[-2:])
    assert 8 < margin / temperature < 15
    moves = np.random.default_rng(0).normal(size=(2, 1, 16)) * 0.05 * center_norm
    clean, adv = (centers[:1] + jnp.float32(move) for move in moves)

    def size_of_gradient(temperature):
        def divergence(adv):
            logits = (mahalanobis_logits(z, centers) for z in (clean, adv))
            return adversarial.kl_divergence(*logits, temperature=temperature).sum()

        return float(jnp.abs(jax.grad(divergence)(adv)).max())

    # Of a scale with the features' own.
    assert size_of_gradient(temperature) * center_norm > 1e-6
    if center_norm > 1:
        assert size_of_gradient(1.0) == 0.0


def test_logits_trained_by_cross_entropy_are_compared_as_they_are():
    for loss in ("softmax", "center", "mmlda", "lgm", "gsce"):
        config = CONFIGS["digits"](f"loss={loss},adv=pgd,recipe=mart")
        assert build_recipe.make_crafting(config).temperature == 1.0
        config.recipe.temperature = 4.0
        assert build_recipe.make_crafting(config).temperature == 4.0


# --- label smoothing ------------------------------------------------------------------

FEATURES = _generator.normal(size=(BATCH, NUM_CLASSES)).astype(np.float32)
CENTERS = _generator.normal(size=(NUM_CLASSES, NUM_CLASSES)).astype(np.float32)


@pytest.mark.parametrize("name", ["softmax", "center", "mmlda"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_labels(name, smoothing):
    output = ModelOutput(features=jnp.asarray(FEATURES), logits=jnp.float32(CLEAN))
    variables = {"centers": {"centers": jnp.asarray(CENTERS)}}
    loss_fn = losses.make_loss(name, label_smoothing=smoothing)
    expected = []
    for features, logits, label in zip(FEATURES, CLEAN, LABELS, strict=True):
        if name == "mmlda":
            logits = [-float(np.sum((features - mu) ** 2)) for mu in CENTERS]
        loss = reference.smoothed_cross_entropy(logits, label, smoothing)
        if name == "center":
            loss += 0.003 * reference.mmc(features, label, CENTERS)
        expected.append(loss)
    np.testing.assert_allclose(
        loss_fn(output, jnp.asarray(LABELS), variables), expected, rtol=1e-5, atol=1e-6
    )
    # A label that no class has is an error that shows, smoothed or not.
    assert np.isnan(loss_fn(output, jnp.full(BATCH, NUM_CLASSES), variables)).all()


@pytest.mark.parametrize("name", ["softmax", "center", "mmlda"])
@pytest.mark.parametrize("smoothing", [-0.1, 1.0, np.nan])
def test_smoothing_that_is_no_share_is_refused(name, smoothing):
    with pytest.raises(ValueError, match=rf"label_smoothing must be .*{smoothing}"):
        losses.make_loss(name, label_smoothing=smoothing)
