"""Centers that are trained: how each loss moves them, on any number of devices."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmc_jax import attacks, losses, parallel
from mmc_jax.checkpoint import Checkpointer
from mmc_jax.models.heads import HEADS, Classifier
from mmc_jax.train.step import create_train_state, train_step
from mmc_jax.types import Batch

from .reference import losses as reference

# One object, or equal steps would not be the same program.
SGD = optax.sgd(0.1, momentum=0.9)


class Shift(nn.Module):
    """z is the image itself, plus a trained shift that starts at zero."""

    feature_dim: int = 1

    @nn.compact
    def __call__(self, images, train=False):
        del train
        shift = self.param("shift", nn.initializers.zeros, (1, self.feature_dim))
        return images.reshape((len(images), -1)) + shift


class Layer(nn.Module):
    """One dense layer."""

    feature_dim: int = 9

    @nn.compact
    def __call__(self, images, train=False):
        del train
        return nn.Dense(self.feature_dim)(images.reshape((len(images), -1)))


def shift_state(head, optimizer, start=None, **fields):
    """A model whose features are its images, its centers at `start`."""
    model = Classifier(backbone=Shift(), num_classes=2, head=head, **fields)
    state = create_train_state(model, optimizer, jax.random.key(0), (1, 1, 1))
    if start is None:
        return state
    moved = {**state.model_state["centers"], "centers": jnp.asarray(start)}
    return state.replace(model_state={**state.model_state, "centers": moved})


def batch_of(values, labels):
    return Batch(
        images=jnp.asarray(values, jnp.float32).reshape((-1, 1, 1, 1)),
        labels=jnp.asarray(labels, jnp.int32),
        positions=jnp.arange(len(labels), dtype=jnp.int32),
    )


@functools.cache
def make_step(name, **hyperparameters):
    """Make a step once, so that tests on equal models share its compilation."""
    loss_fn = losses.make_loss(name, **hyperparameters)
    return jax.jit(functools.partial(train_step, loss_fn=loss_fn))


def take_steps(state, name, batch, num_steps=1, **hyperparameters):
    step = make_step(name, **hyperparameters)
    for index in range(num_steps):
        state, metrics = step(state, batch, jax.random.key(index))
    return state, metrics


# z = 2 of class 0, centers 0 and 4, margin 1: h = (-4, -2), and the posterior of class
# 1 is p = 1 / (1 + e^-2). The rate is 0.1, the likelihood term counts a half.
_POSTERIOR = 1.0 / (1.0 + np.exp(-2.0))
_LGM_CENTERS = [[0.1 * (4.0 * _POSTERIOR + 1.0)], [4.0 + 0.1 * 2.0 * _POSTERIOR]]


@pytest.mark.parametrize("name", ["lgm", "lgm_identity"])
def test_lgm_step_by_hand(name):
    start = [[0.0], [4.0]]
    state = shift_state(losses.head_of(name), optax.sgd(0.1), start)
    state, _ = take_steps(
        state, name, batch_of([2.0], [0]), margin=1.0, likelihood_weight=0.5
    )
    trained = state.model_state["centers"]
    np.testing.assert_allclose(trained["centers"], _LGM_CENTERS, rtol=1e-5)
    # The features move by the sum of what moves the centers, the other way.
    moved = np.sum(np.array(_LGM_CENTERS) - start)
    np.testing.assert_allclose(state.params["backbone"]["shift"], [[-moved]], rtol=1e-5)
    if name == "lgm":
        # dh/dv is 4 - 1/2 for the own class with its margin, 2 - 1/2 for the other.
        expected = [
            [0.1 * (3.5 * _POSTERIOR + 0.5 * 1.5)],
            [-0.1 * 1.5 * _POSTERIOR],
        ]
        np.testing.assert_allclose(trained["log_variances"], expected, rtol=1e-5)


def test_elastic_steps_by_hand():
    state = shift_state("elastic", optax.sgd(0.1), center_norm=3.0)
    # z = 5 of class 0, center and preset at 3, alpha = 1/2. The first step moves the
    # center by 0.1 * 2, the features by as much the other way; the second by
    # 0.1 * (4.8 - 3.2 - 2 * 0.2).
    for num_steps, expected in ((1, 3.2), (2, 3.32)):
        after, _ = take_steps(
            state, "elastic_mmc", batch_of([5.0], [0]), num_steps, elasticity=0.5
        )
        moved = after.model_state["centers"]["centers"]
        np.testing.assert_allclose(moved, [[expected], [-3.0]], rtol=1e-5)
        preset = after.model_state["preset_centers"]["centers"]
        np.testing.assert_array_equal(preset, [[3.0], [-3.0]])


def test_center_step_by_hand():
    # Class 0: z = 1 and 3 around nothing, (1 + 3) / (1 + 2) / 2; class 1: 8 / 2 / 2.
    state = shift_state("softmax_with_centers", optax.sgd(0.0), np.zeros((2, 1)))
    batch = batch_of([1.0, 3.0, 8.0], [0, 0, 1])
    after, metrics = take_steps(state, "center", batch, center_rate=0.5)
    moved = after.model_state["centers"]["centers"]
    np.testing.assert_allclose(moved, [[2 / 3], [2.0]], rtol=1e-6)
    # The loss is that of the centers before the step.
    output = state.model.apply(state.variables, batch.images)
    expected = optax.softmax_cross_entropy_with_integer_labels(
        output.logits, batch.labels
    ) + 0.003 * 0.5 * np.square([1.0, 3.0, 8.0])
    np.testing.assert_allclose(metrics["loss"], np.mean(expected), rtol=1e-6)


def test_center_loss_pulls_features_but_no_gradient_moves_centers():
    state = shift_state("softmax_with_centers", optax.sgd(1.0), np.zeros((2, 1)))
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    batch = batch_of([4.0, 4.0], [0, 1])  # of which the linear logits learn no shift
    after, _ = take_steps(state, "center", batch, center_weight=0.5, center_rate=0.0)
    np.testing.assert_allclose(after.params["backbone"]["shift"], [[-2.0]], rtol=1e-5)
    np.testing.assert_array_equal(after.model_state["centers"]["centers"], [[0], [0]])


def layer_state(name, optimizer, **options):
    model = Classifier(
        backbone=Layer(), num_classes=3, head=losses.head_of(name), center_norm=2.0
    )
    return create_train_state(model, optimizer, jax.random.key(3), (2, 2, 1), **options)


def layer_batch(size=16):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, size).astype(np.int32)
    images = 0.2 * rng.random((size, 2, 2, 1)) + 0.4 * (labels % 2)[:, None, None, None]
    return Batch(
        images=np.float32(images + 0.1 * (labels // 2)[:, None, None, None]),
        labels=labels,
        positions=np.arange(size, dtype=np.int32),
    )


@pytest.mark.needs_eight_devices
@pytest.mark.parametrize(
    ("name", "modes"),
    [("center", parallel.MODES), ("lgm", ("pmap",)), ("elastic_mmc", ("jit",))],
)
def test_any_number_of_devices_moves_the_centers_alike(name, modes):
    attack = None
    if name == "center":
        attack = attacks.make_attack("fgsm", epsilon=0.05, objective="cross_entropy")

    def run(mode, num_devices):
        step_fn = functools.partial(
            train_step,
            loss_fn=losses.make_loss(name),
            attack=attack,
            axis_name=parallel.axis_name_for(mode),
        )
        step = parallel.parallelize(
            step_fn,
            mode=mode,
            devices=jax.devices()[:num_devices],
            batch_axes=(None, 0, None),
            donate=0,
        )
        state = layer_state(name, SGD, ema_decay=0.9)
        for index in range(3):
            state, metrics = step(state, layer_batch(), jax.random.key(index))
        return state, metrics

    start = layer_state(name, SGD).model_state["centers"]
    expected, expected_metrics = run("jit", 1)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), expected.model_state["centers"], start
    )
    assert min(map(float, jax.tree.leaves(moved))) > 1e-3
    for mode in modes:
        state, metrics = run(mode, 8)
        chex.assert_trees_all_close(
            state.variables, expected.variables, rtol=0, atol=1e-5
        )
        chex.assert_trees_all_close(state.average, expected.average, rtol=0, atol=1e-5)
        chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-4)


def test_center_update_sees_the_attacked_images():
    name = "center"
    batch = layer_batch()
    state = layer_state(name, SGD)

    def shifted(logits_fn, key, images, labels, *, targets=None):
        return images + 0.25

    step = functools.partial(train_step, loss_fn=losses.make_loss(name), attack=shifted)
    after, _ = jax.jit(step)(state, batch, jax.random.key(0))
    output = state.model.apply(state.variables, batch.images + 0.25)
    before = np.asarray(state.model_state["centers"]["centers"])
    expected = reference.updated_centers(
        np.asarray(output.features), batch.labels, before, 0.5
    )
    moved = after.model_state["centers"]["centers"]
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_few_steps_lower_every_loss(name):
    state = layer_state(name, SGD)
    batch = layer_batch()
    first, metrics = take_steps(state, name, batch)
    _, later = take_steps(first, name, batch, 30)
    assert later["loss"] < 0.9 * metrics["loss"]
    before, after = (s.model_state.get("centers", {}) for s in (state, first))
    is_trained = name in ("center", "elastic_mmc", "gsce", "lgm", "lgm_identity")
    for array in before:
        assert np.any(np.asarray(before[array]) != after[array]) == is_trained


def test_average_follows_trained_centers():
    state = layer_state("elastic_mmc", SGD, ema_decay=0.75)
    after, _ = take_steps(state, "elastic_mmc", layer_batch())
    for collection in ("params", "centers"):
        expected = jax.tree.map(
            lambda old, new: 0.75 * old + 0.25 * new,
            state.variables[collection],
            after.variables[collection],
        )
        chex.assert_trees_all_close(
            after.eval_variables[collection], expected, rtol=0, atol=1e-6
        )


def test_preset_centers_stay_and_leave_the_optimiser_alone():
    state = layer_state("mmc", SGD)
    assert list(state.trained) == ["params"]
    assert list(state.opt_state[0].trace) == list(state.params)


@pytest.mark.parametrize("name", ["center", "lgm", "elastic_mmc", "gsce"])
def test_trained_centers_come_back_from_a_checkpoint(name, tmp_path):
    state, _ = take_steps(layer_state(name, SGD), name, layer_batch(), 2)
    with Checkpointer(tmp_path) as saved:
        saved.save(2, state)
    with Checkpointer(tmp_path) as saved:
        step, restored = saved.restore(layer_state(name, SGD))
    assert step == 2
    chex.assert_trees_all_close(restored.variables, state.variables, rtol=0, atol=0)
    # It goes on as if nothing had been.
    expected, _ = take_steps(state, name, layer_batch())
    actual, _ = take_steps(restored, name, layer_batch())
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("head", HEADS)
def test_logits_of_each_head(head):
    model = Classifier(backbone=Layer(4), num_classes=3, head=head, center_norm=2.0)
    images = np.random.default_rng(0).random((5, 2, 2, 1), np.float32)
    variables = model.init(jax.random.key(0), images)
    rng = np.random.default_rng(1)
    trained = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape)),
        dict(variables.get("centers", {})),
    )
    variables = {**variables, "centers": trained}
    output = model.apply(variables, images)
    z = np.asarray(output.features, np.float64)
    if head in ("softmax", "softmax_with_centers"):
        linear = variables["params"]["linear"]
        expected = z @ linear["kernel"] + np.asarray(linear["bias"])[None]
    else:
        scales, biases = {
            "mahalanobis": lambda: (np.ones((3, 4)), np.zeros(3)),
            "elastic": lambda: (np.ones((3, 4)), np.zeros(3)),
            "unit_gaussian": lambda: (np.full((3, 4), 0.5), np.zeros(3)),
            "gaussian": lambda: (
                0.5 / np.exp(trained["log_variances"]),
                -0.5 * trained["log_variances"].sum(1),
            ),
            "quadratic": lambda: (
                np.repeat(np.exp(trained["log_scales"])[:, None], 4, 1),
                trained["biases"],
            ),
        }[head]()
        expected = [
            reference.quadratic_logits(
                one, trained["centers"], [np.diag(s) for s in scales], biases
            )
            for one in z
        ]
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-4)
