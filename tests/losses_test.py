from __future__ import annotations

import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from jax.test_util import check_grads

from mmc_jax import losses
from mmc_jax.types import ModelOutput

from .reference import losses as reference

_FUNCTIONS = {"mmc": losses.mmc_loss, "mmlda": losses.mmlda_loss}
_REFERENCES = {"mmc": reference.mmc, "mmlda": reference.mmlda}


def _example(batch: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(batch, 5)).astype(np.float32)
    labels = generator.integers(4, size=batch).astype(np.int32)
    means = generator.normal(size=(4, 5)).astype(np.float32)
    return features, labels, means


def _output(features: np.ndarray) -> ModelOutput:
    logits = jnp.asarray(features[:, :4])
    return ModelOutput(features=jnp.asarray(features), logits=logits)


def test_examples_in_docstrings_hold():
    results = doctest.testmod(losses)
    assert results.attempted > 0
    assert results.failed == 0


def test_mmc_by_hand():
    features = jnp.array([[1.0, 2.0, 2.0], [0.0, 0.0, 1.0]])
    means = jnp.array([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    actual = losses.mmc_loss(features, jnp.array([1, 0]), means)
    np.testing.assert_allclose(actual, [2.5, 0.0], rtol=1e-6)


def test_mmlda_by_hand():
    # Squared distances 1 and 3: -log(e^-1 / (e^-1 + e^-3)).
    features = jnp.array([[0.0, 1.0]])
    means = jnp.array([[0.0, 0.0], [np.sqrt(3.0), 1.0]])
    actual = losses.mmlda_loss(features, jnp.array([0]), means)
    np.testing.assert_allclose(actual, [np.log1p(np.exp(-2.0))], rtol=1e-5)


class LossesTest(chex.TestCase):
    @chex.all_variants()
    @parameterized.parameters(*_FUNCTIONS)
    def test_equals_the_reference_example_by_example(self, name):
        features, labels, means = _example()
        actual = self.variant(_FUNCTIONS[name])(features, labels, means)
        expected = [
            _REFERENCES[name](*example, means)
            for example in zip(features, labels, strict=True)
        ]
        chex.assert_shape(actual, (6,))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_gradients(name):
    features, labels, means = _example()

    def loss(features, means):
        return _FUNCTIONS[name](features, labels, means)

    check_grads(loss, (features, means), order=1, atol=1e-2, rtol=1e-2)


def test_mmc_gradient_is_the_way_from_the_own_center():
    features, labels, means = _example()
    gradient = jax.grad(lambda z: losses.mmc_loss(z, labels, means).sum())(features)
    np.testing.assert_allclose(gradient, features - means[labels], rtol=1e-6)


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_vmap_over_centers(name):
    features, labels, means = _example()
    several = np.stack([means, 2 * means])
    actual = jax.vmap(_FUNCTIONS[name], in_axes=(None, None, 0))(
        features, labels, several
    )
    expected = [_FUNCTIONS[name](features, labels, one) for one in several]
    np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-5)


def test_mmc_is_exact_near_a_distant_center():
    means = np.full((2, 4), 50.0, np.float32)
    features = means[:1] + np.float32(0.01)
    actual = losses.mmc_loss(features, np.array([0]), means)
    expected = 0.5 * np.sum((features.astype(np.float64) - means[:1]) ** 2)
    np.testing.assert_allclose(actual, [expected], rtol=1e-6)


@pytest.mark.parametrize(("name", "label"), [("mmc", -1), ("mmc", 4), ("mmlda", 4)])
def test_labels_of_no_class_give_nan(name, label):
    features, labels, means = _example()
    labels[2] = label
    actual = _FUNCTIONS[name](features, labels, means)
    np.testing.assert_array_equal(np.isnan(actual), np.arange(6) == 2)


@pytest.mark.parametrize("name", _FUNCTIONS)
@pytest.mark.parametrize(
    ("features", "labels", "means"),
    [
        ((6, 5), (5,), (4, 5)),
        ((6, 5), (6,), (4, 3)),
        ((6,), (6,), (4, 5)),
        ((6, 5), (6, 4), (4, 5)),
    ],
)
def test_shapes_that_do_not_match_are_refused(name, features, labels, means):
    with pytest.raises(AssertionError):
        _FUNCTIONS[name](
            jnp.zeros(features), jnp.zeros(labels, jnp.int32), jnp.zeros(means)
        )


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("loss_scale", [1.0, 2.0])
def test_made_losses(name, loss_scale):
    features, labels, means = _example()
    loss_fn = losses.make_loss(name, loss_scale=loss_scale)
    actual = jax.jit(loss_fn)(
        _output(features), labels, {"centers": {"centers": means}}
    )
    if name == "softmax":
        expected = optax.softmax_cross_entropy_with_integer_labels(
            features[:, :4], labels
        )
    else:
        expected = _FUNCTIONS[name](features, labels, means)
    np.testing.assert_allclose(actual, loss_scale * np.asarray(expected), rtol=1e-5)


def test_the_authors_objective_is_the_whole_squared_distance():
    features, labels, means = _example()
    loss_fn = losses.make_loss("mmc", loss_scale=2.0)
    actual = loss_fn(_output(features), labels, {"centers": {"centers": means}})
    expected = np.sum((features - means[labels]) ** 2, axis=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_head_of():
    heads = {name: losses.head_of(name) for name in losses.LOSSES}
    assert heads == {
        "softmax": "softmax",
        "mmc": "mahalanobis",
        "mmlda": "mahalanobis",
    }


@pytest.mark.parametrize("look_up", [losses.make_loss, losses.head_of])
def test_unknown_losses_are_refused(look_up):
    with pytest.raises(ValueError, match="unknown loss 'hinge'.*softmax, mmc, mmlda"):
        look_up("hinge")


@pytest.mark.parametrize("loss_scale", [0.0, -1.0, float("nan"), float("inf")])
def test_loss_scales_that_are_no_factor_are_refused(loss_scale):
    with pytest.raises(ValueError, match=f"loss_scale .*{loss_scale}"):
        losses.make_loss("mmc", loss_scale=loss_scale)


@pytest.mark.parametrize("name", ["mmc", "mmlda"])
def test_losses_of_centers_need_a_model_with_centers(name):
    features, labels, _ = _example()
    with pytest.raises(ValueError, match="head='mahalanobis'.*'params'"):
        losses.make_loss(name)(_output(features), labels, {"params": {}})
