from __future__ import annotations

import dataclasses
import doctest
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import centers, losses, models
from mmc_jax.models.heads import Classifier
from mmc_jax.models.resnet import ResNet
from mmc_jax.models.wide_resnet import WideResNet
from mmc_jax.types import ModelOutput

from .reference import centers as reference

_SMALL = {
    "cnn": models.create("cnn", num_classes=3).backbone,
    "resnet_v1": ResNet(num_blocks=1, version=1, feature_dim=4),
    "resnet_v2": ResNet(num_blocks=1, version=2, feature_dim=4),
    "wide_resnet": WideResNet(num_blocks=1, feature_dim=4, widen_factor=2),
}


def _size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _small(name: str, head: str = "mahalanobis", **fields) -> Classifier:
    backbone = dataclasses.replace(_SMALL[name], **fields)
    return Classifier(backbone=backbone, num_classes=3, head=head)


def _random_variables(model: nn.Module, images: np.ndarray, seed: int = 0):
    """Return variables that no two layers share, without compiling an init."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = generator.normal(size=leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "kernel":
            return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return np.exp(0.3 * noise) if name in ("var", "scale") else 0.1 * noise

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnames="model")
def _apply(model: nn.Module, variables, images) -> ModelOutput:
    return model.apply(variables, images)


def _images(batch: int = 2, size: int = 8, channels: int = 3, seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.uniform(size=(batch, size, size, channels)).astype(np.float32)


def test_example_in_the_docstring_holds():
    results = doctest.testmod(models)
    assert results.attempted > 0
    assert results.failed == 0


# The residual networks' are those of the authors' Keras models up to z. The wide ones
# are published as 36,479,194 and 46,160,474 with a head of 6,410; the layer to z adds
# 410,240.
@pytest.mark.parametrize(
    ("name", "feature_dim", "params", "batch_stats"),
    [
        ("cnn", 256, 76 * 32 + 801 * 64 + 4_097 * 256 + 257 * 256, 0),
        ("resnet20_v1", 64, 276_576, 1_376),
        ("resnet32_v1", 64, 471_456, 2_272),
        ("resnet110_v1", 64, 1_738_176, 8_096),
        ("resnet20_v2", 256, 907_008, 5_216),
        ("resnet32_v2", 256, 1_453_376, 8_672),
        ("resnet110_v2", 256, 5_004_768, 31_136),
        ("wide_resnet_28_10", 640, 36_479_194 + 410_240 - 6_410, 17_952),
        ("wide_resnet_34_10", 640, 46_160_474 + 410_240 - 6_410, 22_432),
    ],
)
def test_sizes(name, feature_dim, params, batch_stats):
    model = models.create(name, num_classes=10, axis_name="batch")
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    output, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images
    )
    assert _size(variables["params"]["backbone"]) == params
    assert _size(variables["params"]["linear"]) == (feature_dim + 1) * 10
    assert _size(variables.get("batch_stats", {})) == batch_stats
    chex.assert_shape(output.features, (2, feature_dim))
    chex.assert_shape(output.logits, (2, 10))


def test_softmax_head_of_a_hundred_classes():
    model = models.create("resnet32_v2", num_classes=100)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert _size(variables["params"]["linear"]) == 25_700


def test_every_model_is_counted():
    assert len(models.MODELS) == 9


@pytest.mark.parametrize(
    "name", ["cnn", "resnet20_v1", "resnet20_v2", "wide_resnet_28_10"]
)
def test_feature_dim_is_free(name):
    model = models.create(name, num_classes=10, head="mahalanobis", feature_dim=2)
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    output, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images
    )
    chex.assert_shape(output.features, (1, 2))
    chex.assert_shape(variables["centers"]["centers"], (10, 2))
    assert set(variables["params"]) == {"backbone"}


def test_cnn_equals_its_formula():
    model = models.create("cnn", num_classes=3, feature_dim=4)
    images = _images(size=9, channels=1)
    variables = _random_variables(model, images)
    params = variables["params"]["backbone"]
    hidden = images - variables["preprocessing"]["mean"][None]
    for name in ("Conv_0", "Conv_1"):
        hidden = jax.nn.relu(_conv(params[name], hidden, 2))
    hidden = jax.nn.relu(_dense(params["Dense_0"], hidden.reshape(2, -1)))
    features = _dense(params["Dense_1"], hidden)
    output = _apply(model, variables, images)
    np.testing.assert_allclose(output.features, features, rtol=1e-4, atol=1e-4)
    logits = _dense(variables["params"]["linear"], features)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-4)


def _conv(params, images, stride=1):
    hidden = jax.lax.conv_general_dilated(
        images,
        params["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return hidden + params.get("bias", np.zeros(hidden.shape[-1]))[None, None, None]


def _dense(params, hidden):
    return hidden @ params["kernel"] + params["bias"][None]


class _Layers:
    """The layers of one module, applied to its variables by formula."""

    def __init__(self, variables, epsilon, path=("backbone",)):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        for name in path:
            self.params, self.stats = self.params[name], self.stats.get(name, {})
        self.variables, self.epsilon, self.path = variables, epsilon, path

    def inside(self, name):
        return _Layers(self.variables, self.epsilon, (*self.path, name))

    def conv(self, index, hidden, stride=1):
        return _conv(self.params[f"Conv_{index}"], hidden, stride)

    def norm(self, index, hidden):
        params, stats = (
            {name: value[None, None, None] for name, value in group.items()}
            for group in (
                self.params[f"BatchNorm_{index}"],
                self.stats[f"BatchNorm_{index}"],
            )
        )
        scaled = (hidden - stats["mean"]) / jnp.sqrt(stats["var"] + self.epsilon)
        return scaled * params["scale"] + params["bias"]

    def norm_relu(self, index, hidden):
        return jax.nn.relu(self.norm(index, hidden))


def _resnet_v1(layers, hidden):
    hidden = layers.norm_relu(0, layers.conv(0, hidden))
    for stage in range(3):
        block, stride = layers.inside(f"BasicBlock_{stage}"), 1 + (stage > 0)
        residual = block.norm_relu(0, block.conv(0, hidden, stride))
        residual = block.norm(1, block.conv(1, residual))
        shortcut = block.conv(2, hidden, stride) if stage > 0 else hidden
        hidden = jax.nn.relu(shortcut + residual)
    return hidden


def _resnet_v2(layers, hidden):
    hidden = layers.norm_relu(0, layers.conv(0, hidden))
    for stage in range(3):
        block, stride = layers.inside(f"BottleneckBlock_{stage}"), 1 + (stage > 0)
        first = int(stage > 0)
        residual = block.norm_relu(0, hidden) if first else hidden
        residual = block.conv(0, residual, stride)
        residual = block.conv(1, block.norm_relu(first, residual))
        residual = block.conv(2, block.norm_relu(first + 1, residual))
        hidden = block.conv(3, hidden, stride) + residual
    return layers.norm_relu(1, hidden)


def _wide_resnet(layers, hidden):
    hidden = layers.conv(0, hidden)
    for stage in range(3):
        block, stride = layers.inside(f"WideBlock_{stage}"), 1 + (stage > 0)
        active = block.norm_relu(0, hidden)
        shortcut = block.conv(0, active, stride)
        residual = block.norm_relu(1, block.conv(1, active, stride))
        hidden = shortcut + block.conv(2, residual)
    return layers.norm_relu(0, hidden)


@pytest.mark.parametrize(
    ("name", "formula", "epsilon"),
    [
        ("resnet_v1", _resnet_v1, 1e-3),
        ("resnet_v2", _resnet_v2, 1e-3),
        ("wide_resnet", _wide_resnet, 1e-5),
    ],
)
def test_residual_networks_equal_their_formulas(name, formula, epsilon):
    model, images = _small(name), _images(batch=4)
    variables = _random_variables(model, images)
    # Variances no larger than the epsilons, so that these show.
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: 1e-3 * leaf, variables["batch_stats"]
    )
    variables["params"]["backbone"]["Conv_0"]["kernel"] *= 1e-2

    @jax.jit
    def expected_features(variables, images):
        layers = _Layers(variables, epsilon)
        hidden = formula(layers, images - variables["preprocessing"]["mean"][None])
        return _dense(layers.params["Dense_0"], hidden.mean(axis=(1, 2)))

    expected = expected_features(variables, images)
    actual = _apply(model, variables, images).features
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("name", "momentum"), [("resnet_v1", 0.99), ("wide_resnet", 0.9)]
)
def test_training_updates_the_running_statistics(name, momentum):
    model, images = _small(name, head="softmax"), _images()
    variables = _random_variables(model, images)

    @jax.jit
    def step(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])[1]

    updated = step(variables, images)["batch_stats"]["backbone"]
    params = variables["params"]["backbone"]
    mean_image = variables["preprocessing"]["mean"][None]
    hidden = np.asarray(_conv(params["Conv_0"], images - mean_image))
    name = "WideBlock_0" if name == "wide_resnet" else None
    stats = (updated[name] if name else updated)["BatchNorm_0"]
    before = variables["batch_stats"]["backbone"]
    before = (before[name] if name else before)["BatchNorm_0"]
    for statistic in ("mean", "var"):
        of_batch = getattr(hidden, statistic)(axis=(0, 1, 2))
        expected = momentum * before[statistic] + (1 - momentum) * of_batch
        np.testing.assert_allclose(stats[statistic], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "resnet_v2"])
def test_inference_ignores_the_batch(name):
    model, images = _small(name), _images(batch=4)
    variables = _random_variables(model, images)
    whole = _apply(model, variables, images)
    other = np.concatenate([images[:2], _images(batch=2, seed=9)])
    changed = _apply(model, variables, other)
    np.testing.assert_allclose(whole.features[:2], changed.features[:2], rtol=1e-5)
    assert np.abs(whole.features[2:] - changed.features[2:]).max() > 1e-3


@pytest.mark.needs_eight_devices
def test_batch_statistics_are_synchronised_across_devices():
    images = _images(batch=8)
    model = _small("resnet_v1", head="softmax", axis_name="batch")
    alone = _small("resnet_v1", head="softmax")
    variables = _random_variables(model, images)

    def step(model):
        def update(variables, images):
            return model.apply(variables, images, train=True, mutable=["batch_stats"])

        return update

    mapped = jax.pmap(
        step(model), axis_name="batch", in_axes=(None, 0), out_axes=(0, None)
    )
    output, state = mapped(variables, images[:, None])
    expected, expected_state = jax.jit(step(alone))(variables, images)
    np.testing.assert_allclose(
        output.features[:, 0], expected.features, rtol=1e-3, atol=1e-4
    )
    chex.assert_trees_all_close(state, expected_state, rtol=1e-4, atol=1e-5)
    # The axis exists under pmap only; inference and init need none.
    inferred = jax.eval_shape(model.apply, variables, images)
    chex.assert_shape(inferred.logits, (8, 3))


@pytest.mark.parametrize("kind", ["optimal", "random"])
def test_mahalanobis_head(kind, key):
    model = models.create(
        "cnn",
        num_classes=5,
        head="mahalanobis",
        feature_dim=3,
        center_norm=7.0,
        centers=kind,
        center_seed=4,
    )
    images = _images()
    variables = model.init(key, images)
    means = variables["centers"]["centers"]
    if kind == "optimal":
        expected = centers.max_mahalanobis_centers(5, 3, center_norm=7.0, seed=4)
    else:
        expected = centers.random_centers(jax.random.key(4), 5, 3, center_norm=7.0)
    np.testing.assert_array_equal(means, expected)
    output = model.apply(variables, images)
    for features, logits in zip(output.features, output.logits, strict=True):
        distances = reference.mahalanobis_logits(np.asarray(features), means)
        np.testing.assert_allclose(logits, distances, rtol=1e-5, atol=1e-4)


def test_centers_are_those_given_not_made_again(key):
    model, images = _small("cnn"), _images()
    variables = model.init(key, images)
    moved = {**variables, "centers": {"centers": variables["centers"]["centers"] + 1}}
    before, after = (model.apply(given, images) for given in (variables, moved))
    np.testing.assert_array_equal(before.features, after.features)
    expected = centers.mahalanobis_logits(after.features, moved["centers"]["centers"])
    np.testing.assert_allclose(after.logits, expected, rtol=1e-6)
    assert np.abs(before.logits - after.logits).max() > 1.0


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_run_on_the_head_they_name(name, key):
    # Centers so close that no softmax saturates.
    model = _small("cnn", head=losses.head_of(name)).clone(center_norm=0.1)
    images = _images()
    variables = model.init(key, images)
    labels = jnp.array([0, 2])
    loss = losses.make_loss(name)(model.apply(variables, images), labels, variables)
    chex.assert_shape(loss, (2,))
    assert np.all(loss > 0)


def test_mean_image_is_subtracted_first(key):
    model, images = _small("cnn"), _images()
    variables = model.init(key, images)
    mean = variables["preprocessing"]["mean"]
    chex.assert_shape(mean, (8, 8, 3))
    assert not np.any(mean)
    mean = _images(batch=1, seed=3)[0]
    centred = model.apply({**variables, "preprocessing": {"mean": mean}}, images)
    expected = model.apply(variables, images - mean[None])
    np.testing.assert_array_equal(centred.features, expected.features)


@pytest.mark.parametrize("name", _SMALL)
def test_bfloat16_is_for_the_backbone_alone(name, key):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    model = _small(name, dtype="bfloat16")
    output, variables = jax.eval_shape(model.init_with_output, key, images)
    chex.assert_type([output.features, output.logits], jnp.float32)
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)
    jaxpr = jax.make_jaxpr(model.apply)(variables, images)
    convolutions = [
        equation.outvars[0].aval.dtype
        for equation in jaxpr.eqns
        if equation.primitive.name == "conv_general_dilated"
    ]
    assert len(convolutions) >= 2
    assert set(convolutions) == {jnp.dtype("bfloat16")}


def test_bfloat16_is_close_to_float32(key):
    images = _images()
    model, half = (
        models.create("cnn", num_classes=3, head="mahalanobis", dtype=dtype)
        for dtype in models.DTYPES
    )
    variables = model.init(key, images)
    exact, rounded = (m.apply(variables, images).features for m in (model, half))
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_equal_models_share_one_compilation_and_weights_are_dynamic(key):
    images = _images()
    num_traces = 0

    @jax.jit
    def predict(logits_fn, images):
        nonlocal num_traces
        num_traces += 1
        return logits_fn(images)

    first = models.create("cnn", num_classes=3, head="mahalanobis")
    second = models.create("cnn", num_classes=3, head="mahalanobis")
    assert first is not second
    assert first == second
    assert hash(first) == hash(second)
    variables = first.init(key, images)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, variables)
    logits = predict(models.make_logits_fn(first, variables), images)
    other = predict(models.make_logits_fn(second, doubled), images)
    assert num_traces == 1
    np.testing.assert_allclose(
        logits, first.apply(variables, images).logits, rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(
        other, first.apply(doubled, images).logits, rtol=1e-5, atol=1e-4
    )
    different = models.create("cnn", num_classes=3, head="mahalanobis", center_seed=1)
    predict(models.make_logits_fn(different, variables), images)
    assert num_traces == 2


def test_logits_fn_is_in_inference_mode():
    model, images = _small("resnet_v2"), _images()
    variables = _random_variables(model, images)
    actual = jax.make_jaxpr(models.make_logits_fn(model, variables))(images)
    expected = jax.make_jaxpr(
        lambda images: model.apply(variables, images, train=False).logits
    )(images)
    assert str(actual) == str(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg"}, r"unknown model 'vgg'; accepted: cnn, resnet20_v1, .*_34_10"),
        (
            {"head": "linear"},
            r"unknown head 'linear'; accepted: softmax, .*mahalanobis",
        ),
        ({"centers": "best"}, r"unknown centers 'best'; accepted: optimal, random"),
        ({"dtype": "float64"}, r"unknown dtype 'float64'; accepted: float32, bfloat16"),
        ({"feature_dim": 0}, r"feature_dim must be an integer >= 1, got 0"),
        ({"feature_dim": 2.0}, r"feature_dim must be an integer >= 1, got 2\.0"),
        ({"num_classes": 1}, r"num_classes must be an integer >= 2, got 1"),
        ({"center_norm": -1.0}, r"center_norm must be finite and > 0, got -1\.0"),
    ],
)
def test_models_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create(**{"name": "cnn", "num_classes": 10, **arguments})


def test_images_the_model_was_not_made_for_are_refused(key):
    model = _small("cnn")
    variables = model.init(key, _images())
    with pytest.raises(ValueError, match=r"shape \(8, 8, 3\), got \(9, 9, 3\)"):
        model.apply(variables, _images(size=9))
    with pytest.raises(ValueError, match=r"got uint8 of shape \(2, 8, 8, 3\)"):
        model.apply(variables, _images().astype(np.uint8))
    with pytest.raises(ValueError, match=r"got float32 of shape \(8, 8, 3\)"):
        model.apply(variables, _images()[0])
