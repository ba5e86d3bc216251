from __future__ import annotations

import doctest
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from jax.test_util import check_grads

from mmc_jax import losses
from mmc_jax.losses import gaussian, mahalanobis, softmax
from mmc_jax.types import ModelOutput

from .reference import losses as reference

SCALES = np.array([0.5, 1.0, 0.2, 0.8])
DIAGONALS = np.linspace(0.2, 1.2, 20).reshape(4, 5)
BIASES = np.array([0.3, -0.2, 0.0, 0.5])
PRESET = np.linspace(-1.0, 1.0, 20).reshape(4, 5)
LOG_VARIANCES = np.linspace(-0.9, 0.7, 20).reshape(4, 5)


def _elastic(features, labels, means):
    preset = PRESET.astype(means.dtype)
    return losses.elastic_mmc_loss(features, labels, means, preset, elasticity=0.7)


def _gsce(features, labels, means, scales=SCALES):
    scales, biases = scales.astype(means.dtype), BIASES.astype(means.dtype)
    return losses.generalized_softmax_cross_entropy(
        features, labels, means, scales, biases
    )


def _lgm(features, labels, means):
    return losses.large_margin_gaussian_mixture_loss(
        features,
        labels,
        means,
        log_variances=LOG_VARIANCES.astype(means.dtype),
        margin=0.4,
        likelihood_weight=0.2,
    )


# (features, labels, centers) -> loss of every example, and the same for one.
_FUNCTIONS = {
    "mmc": losses.mmc_loss,
    "mmlda": losses.mmlda_loss,
    "absolute_mmc": losses.absolute_mmc_loss,
    "huber_mmc": functools.partial(losses.huber_mmc_loss, threshold=2.9),
    "elastic_mmc": _elastic,
    "center": losses.center_loss,
    "gsce": _gsce,
    "gsce_diagonal": functools.partial(_gsce, scales=DIAGONALS),
    "lgm": _lgm,
    "lgm_identity": functools.partial(
        losses.large_margin_gaussian_mixture_loss, margin=0.4, likelihood_weight=0.2
    ),
}
_REFERENCES = {
    "mmc": reference.mmc,
    "mmlda": reference.mmlda,
    "absolute_mmc": reference.absolute_mmc,
    "huber_mmc": functools.partial(reference.huber_mmc, threshold=2.9),
    "elastic_mmc": functools.partial(
        reference.elastic_mmc, preset=PRESET, elasticity=0.7
    ),
    "center": reference.mmc,
    "gsce": functools.partial(
        reference.generalized_softmax_cross_entropy,
        matrices=[scale * np.eye(5) for scale in SCALES],
        biases=BIASES,
    ),
    "gsce_diagonal": functools.partial(
        reference.generalized_softmax_cross_entropy,
        matrices=[np.diag(diagonal) for diagonal in DIAGONALS],
        biases=BIASES,
    ),
    "lgm": functools.partial(
        reference.large_margin_gaussian_mixture,
        variances=np.exp(LOG_VARIANCES),
        margin=0.4,
        likelihood_weight=0.2,
    ),
    "lgm_identity": functools.partial(
        reference.large_margin_gaussian_mixture,
        variances=np.ones((4, 5)),
        margin=0.4,
        likelihood_weight=0.2,
    ),
}


def _example(
    batch: int = 6, dtype: type = np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(batch, 5)).astype(dtype)
    labels = generator.integers(4, size=batch).astype(np.int32)
    means = generator.normal(size=(4, 5)).astype(dtype)
    return features, labels, means


def _output(features: np.ndarray) -> ModelOutput:
    logits = jnp.asarray(features[:, :4])
    return ModelOutput(features=jnp.asarray(features), logits=logits)


@pytest.mark.parametrize("module", [losses, softmax, mahalanobis, gaussian])
def test_examples_in_docstrings_hold(module):
    results = doctest.testmod(module)
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


def test_lgm_by_hand():
    # Distances 2 and 2; the margin makes the own one 4: -log(e^-4 / (e^-4 + e^-2)).
    actual = losses.large_margin_gaussian_mixture_loss(
        jnp.array([[2.0]]),
        jnp.array([0]),
        jnp.array([[0.0], [4.0]]),
        margin=1.0,
        likelihood_weight=0.5,
    )
    np.testing.assert_allclose(actual, [np.log1p(np.exp(2.0)) + 1.0], rtol=1e-6)


def test_gsce_holds_linear_logits():
    features, labels, weights = _example()
    biases = np.float32([0.1, -0.4, 0.2, 0.0])
    actual = losses.generalized_softmax_cross_entropy(
        features,
        labels,
        weights / 2,
        np.ones(4, np.float32),
        biases + np.sum(weights**2, axis=1) / 4,
    )
    expected = optax.softmax_cross_entropy_with_integer_labels(
        features @ weights.T + biases[None, :], labels
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_huber_takes_both_branches_here():
    features, labels, means = _example()
    distances = np.linalg.norm(features - means[labels], axis=1)
    assert 0 < np.sum(distances < 2.9) < len(distances)


class LossesTest(chex.TestCase):
    @chex.all_variants()
    @parameterized.parameters("mmc", "mmlda", "elastic_mmc", "gsce", "lgm")
    def test_equals_the_reference_example_by_example(self, name):
        features, labels, means = _example()
        actual = self.variant(_FUNCTIONS[name])(features, labels, means)
        chex.assert_shape(actual, (6,))
        np.testing.assert_allclose(
            actual, _expected(name, features, labels, means), rtol=1e-5, atol=1e-6
        )


def _expected(name, features, labels, means):
    examples = zip(features, labels, strict=True)
    return [_REFERENCES[name](*example, means) for example in examples]


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_equals_the_reference_in_float64(name):
    features, labels, means = _example(20, np.float64)
    with jax.enable_x64(True):
        actual = _FUNCTIONS[name](features, labels, means)
    np.testing.assert_allclose(
        actual, _expected(name, features, labels, means), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_gradients(name):
    features, labels, means = _example(20, np.float64)

    def loss(features, means):
        return _FUNCTIONS[name](features, labels, means)

    with jax.enable_x64(True):
        check_grads(
            loss, (features, means), order=1, modes=["rev"], atol=1e-6, rtol=1e-6
        )


def test_gradients_of_what_is_trained_beside_the_centers():
    features, labels, means = _example(6, np.float64)

    def loss(preset, scales, biases, log_variances):
        return (
            losses.elastic_mmc_loss(features, labels, means, preset, elasticity=0.7)
            + losses.generalized_softmax_cross_entropy(
                features, labels, means, scales, biases
            )
            + losses.large_margin_gaussian_mixture_loss(
                features, labels, means, log_variances=log_variances
            )
        )

    for scales in (SCALES, DIAGONALS):
        with jax.enable_x64(True):
            arguments = (PRESET, scales, BIASES, LOG_VARIANCES)
            check_grads(loss, arguments, 1, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["absolute_mmc", "huber_mmc"])
def test_gradient_at_the_center_itself_is_zero(name):
    means = np.eye(3, 5, dtype=np.float32)
    labels = np.array([2, 0])
    gradient = jax.grad(lambda z: _FUNCTIONS[name](z, labels, means).sum())
    np.testing.assert_array_equal(gradient(means[labels]), np.zeros((2, 5)))


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_features_that_are_nan_show(name):
    features, labels, means = _example()
    features[3, 1] = np.nan
    actual = _FUNCTIONS[name](features, labels, means)
    np.testing.assert_array_equal(np.isnan(actual), np.arange(6) == 3)


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


@pytest.mark.parametrize(
    ("name", "label"),
    [("mmc", -1), *((name, 4) for name in _FUNCTIONS)],
)
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


def _variables(means: np.ndarray) -> dict:
    """What the model of any loss may have."""
    trained = {
        "centers": means,
        "log_scales": np.log(SCALES),
        "biases": BIASES,
        "log_variances": LOG_VARIANCES,
    }
    return {
        "centers": jax.tree.map(np.float32, trained),
        "preset_centers": {"centers": np.float32(PRESET)},
    }


def _cross_entropy(features, labels):
    return optax.softmax_cross_entropy_with_integer_labels(features[:, :4], labels)


# What a config sets of each loss, and what comes out.
_LGM = {"margin": 0.4, "likelihood_weight": 0.2}
_MADE = {
    "softmax": ({}, lambda z, y, _: _cross_entropy(z, y)),
    "center": (
        {"center_weight": 0.3},
        lambda z, y, mu: _cross_entropy(z, y) + 0.3 * losses.mmc_loss(z, y, mu),
    ),
    "mmc": ({}, losses.mmc_loss),
    "mmlda": ({}, losses.mmlda_loss),
    "absolute_mmc": ({}, losses.absolute_mmc_loss),
    "huber_mmc": ({"threshold": 2.9}, _FUNCTIONS["huber_mmc"]),
    "elastic_mmc": ({"elasticity": 0.7}, _elastic),
    "gsce": ({}, _gsce),
    "lgm": (_LGM, _lgm),
    "lgm_identity": (_LGM, _FUNCTIONS["lgm_identity"]),
}


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("loss_scale", [1.0, 2.0])
def test_made_losses(name, loss_scale):
    features, labels, means = _example()
    hyperparameters, expected = _MADE[name]
    loss_fn = losses.make_loss(name, loss_scale=loss_scale, **hyperparameters)
    actual = jax.jit(loss_fn)(_output(features), labels, _variables(means))
    expected = loss_scale * np.asarray(expected(features, labels, means))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_updated_centers_by_hand():
    # Class 0: two examples, 1 and 3 away: 4 / (1 + 2), times a half. Class 1: none.
    actual = losses.updated_centers(
        jnp.array([[1.0, 5.0], [3.0, 5.0], [-2.0, 0.0]]),
        jnp.array([0, 0, 2]),
        jnp.array([[0.0, 5.0], [7.0, 7.0], [-2.0, 4.0]]),
        center_rate=0.5,
    )
    expected = [[2 / 3, 5.0], [7.0, 7.0], [-2.0, 3.0]]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_updated_centers_equal_the_reference():
    features, labels, means = _example(20, np.float64)
    with jax.enable_x64(True):
        actual = losses.updated_centers(features, labels, means, center_rate=0.3)
    expected = reference.updated_centers(features, labels, means, 0.3)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_the_center_loss_carries_its_update():
    features, labels, means = _example()
    loss_fn = losses.make_loss("center", center_rate=0.3, loss_scale=4.0)
    moved = loss_fn.update_centers(_output(features), labels, _variables(means), None)
    expected = reference.updated_centers(features, labels, means, 0.3)
    assert list(moved) == ["centers"]
    np.testing.assert_allclose(moved["centers"], expected, rtol=1e-5)
    carriers = [n for n in losses.LOSSES if losses.make_loss(n).update_centers]
    assert carriers == ["center"]


def test_the_authors_objective_is_the_whole_squared_distance():
    features, labels, means = _example()
    loss_fn = losses.make_loss("mmc", loss_scale=2.0)
    actual = loss_fn(_output(features), labels, {"centers": {"centers": means}})
    expected = np.sum((features - means[labels]) ** 2, axis=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_head_of():
    assert {name: losses.head_of(name) for name in losses.LOSSES} == {
        "softmax": "softmax",
        "center": "softmax_with_centers",
        "mmc": "mahalanobis",
        "mmlda": "mahalanobis",
        "absolute_mmc": "mahalanobis",
        "huber_mmc": "mahalanobis",
        "elastic_mmc": "elastic",
        "gsce": "quadratic",
        "lgm": "gaussian",
        "lgm_identity": "unit_gaussian",
    }


@pytest.mark.parametrize(
    "look_up", [losses.make_loss, losses.head_of, losses.hyperparameters_of]
)
def test_unknown_losses_are_refused(look_up):
    with pytest.raises(ValueError, match="unknown loss 'hinge'.*softmax.* mmc, mmlda"):
        look_up("hinge")


@pytest.mark.parametrize("loss_scale", [0.0, -1.0, float("nan"), float("inf")])
def test_loss_scales_that_are_no_factor_are_refused(loss_scale):
    with pytest.raises(ValueError, match=f"loss_scale .*{loss_scale}"):
        losses.make_loss("mmc", loss_scale=loss_scale)


@pytest.mark.parametrize("name", [n for n in losses.LOSSES if n != "softmax"])
def test_losses_of_centers_need_a_model_with_centers(name):
    features, labels, means = _example()
    loss_fn, head = losses.make_loss(name), losses.head_of(name)
    with pytest.raises(ValueError, match=f"head='{head}'.*'params'"):
        loss_fn(_output(features), labels, {"params": {}})
    if name in ("elastic_mmc", "gsce", "lgm"):
        preset = {"params": {}, "centers": {"centers": means}}
        with pytest.raises(ValueError, match=f"head='{head}'.*'centers'"):
            loss_fn(_output(features), labels, preset)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("lgm", {"alpha": 1.0}, "'lgm' has no hyperparameter 'alpha'; .*margin, like"),
        ("mmc", {"margin": 1.0}, "'mmc' has no .* 'margin'; accepted: loss_scale$"),
        ("lgm", {"margin": -0.1}, "margin must be finite and >= 0, got -0.1"),
        ("lgm_identity", {"margin": np.nan}, "margin .* >= 0, got nan"),
        ("lgm", {"likelihood_weight": "1"}, "likelihood_weight .* >= 0, got '1'"),
        ("lgm_identity", {"likelihood_weight": -1}, "likelihood_weight .*, got -1"),
        ("elastic_mmc", {"elasticity": 0.0}, "elasticity must be .* > 0, got 0.0"),
        ("huber_mmc", {"threshold": np.inf}, "threshold must be .* > 0, got inf"),
        ("huber_mmc", {"threshold": True}, "threshold must be .* > 0, got True"),
        ("center", {"center_weight": -1.0}, "center_weight .* >= 0, got -1.0"),
        ("center", {"center_rate": 1.5}, r"center_rate must be in \[0, 1\], got 1.5"),
    ],
)
def test_hyperparameters_that_mean_nothing_are_refused(name, hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        losses.make_loss(name, **hyperparameters)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_hyperparameters_are_those_of_the_equation(name):
    for hyperparameter, default in losses.hyperparameters_of(name).items():
        assert isinstance(default, float)
        with pytest.raises(ValueError, match=re.escape(repr(hyperparameter)[1:-1])):
            losses.make_loss(name, **{hyperparameter: -1.0})
