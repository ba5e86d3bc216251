"""The recipes of the one train step: what each choice changes, and that alone."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits
from mmc_jax import attacks, losses, parallel
from mmc_jax.models.heads import Classifier
from mmc_jax.train import build_recipe
from mmc_jax.train.crafting import Crafting, craft
from mmc_jax.train.gradients import make_differentiate
from mmc_jax.train.recipes import RECIPES, make_recipe
from mmc_jax.train.step import create_train_state, train_step
from mmc_jax.train.weight_perturbation import perturbed_weights
from mmc_jax.types import Batch, ModelOutput
from tests.center_training_test import Layer, Shift

from .reference import losses as reference

BATCH = 16
SGD = optax.sgd(0.1)


class Normalized(nn.Module):
    """A layer, normalised over the batch; counts how often it is traced."""

    axis_name: str | None = None
    feature_dim: int = 5

    traced = 0

    @nn.compact
    def __call__(self, images, train=False):
        Normalized.traced += 1
        hidden = nn.Dense(6)(images.reshape((len(images), -1)))
        hidden = nn.BatchNorm(
            use_running_average=not train, axis_name=self.axis_name, epsilon=1e-3
        )(hidden)
        return nn.Dense(self.feature_dim)(jnp.tanh(hidden))


def make_state(loss="mmc", *, mode="jit", backbone=Normalized):
    axis_name = parallel.axis_name_for(mode)
    model = Classifier(
        backbone=backbone(axis_name=axis_name) if backbone is Normalized else backbone,
        num_classes=4,
        head=losses.head_of(loss),
        center_norm=1.0,
    )
    return create_train_state(model, SGD, jax.random.key(3), (2, 2, 1))


def make_batch():
    generator = np.random.default_rng(0)
    return Batch(
        images=jnp.asarray(generator.uniform(0, 0.7, (BATCH, 2, 2, 1)), jnp.float32),
        labels=jnp.asarray(generator.integers(0, 4, BATCH), jnp.int32),
        positions=jnp.arange(BATCH, dtype=jnp.int32),
    )


@pytest.fixture(scope="module")
def state():
    return make_state()


def bent(logits_fn, key, images, labels, *, targets=None):
    """An attack that looks at nothing, and that normalisation does not undo."""
    return images[:, ::-1] ** 2


def take_step(state, loss="mmc", recipe=None, attack=bent, batch=None, **options):
    step_fn = functools.partial(
        train_step,
        loss_fn=losses.make_loss(loss),
        attack=attack,
        recipe=recipe or make_recipe("standard"),
        **options,
    )
    return jax.jit(step_fn)(state, batch or make_batch(), jax.random.key(0))


def in_training(state, images):
    return state.model.apply(
        state.variables, images, train=True, mutable=["batch_stats"]
    )


def both_outputs(state):
    """Outputs in training mode, and statistics, of clean and of bent images."""
    images = make_batch().images
    adv_images = bent(None, None, images, None)
    clean, adversarial = in_training(state, images), in_training(state, adv_images)
    assert np.abs(clean[0].features - adversarial[0].features).max() > 0.1
    return clean, adversarial


# --- how the attack sees the model ----------------------------------------------------


def seen_by_an_attack(state, crafting, what):
    """Craft with an attack that returns what it is given in place of images."""

    def attack(logits_fn, key, images, labels):
        return {"labels": labels, "logits": logits_fn(images)}[what]

    batch, keys = make_batch(), jax.random.split(jax.random.key(0), BATCH)
    return craft(
        attack,
        crafting,
        state.model,
        state.variables,
        keys,
        batch.images,
        batch.labels,
    )


def test_labels_of_the_attack_are_the_data_s_or_the_model_s_own(state):
    batch = make_batch()
    logits = state.model.apply(state.variables, batch.images).logits
    training_logits = in_training(state, batch.images)[0].logits
    predicted = functools.partial(Crafting, labels="predicted")
    for crafting, expected in (
        (Crafting(), batch.labels),
        (predicted(), jnp.argmax(logits, 1)),
        (predicted(temperature=3.0), jnp.argmax(logits, 1)),
        (predicted(statistics="batch"), jnp.argmax(training_logits, 1)),
    ):
        seen = seen_by_an_attack(state, crafting, "labels")
        np.testing.assert_array_equal(seen, expected)
    assert (jnp.argmax(logits, 1) != batch.labels).any()
    assert (jnp.argmax(logits, 1) != jnp.argmax(training_logits, 1)).any()


def test_logits_of_the_attack_follow_the_statistics_and_the_temperature(state):
    images = make_batch().images
    running = state.model.apply(state.variables, images).logits
    training = in_training(state, images)[0].logits
    for crafting, expected in (
        (Crafting(), running),
        (Crafting(temperature=4.0), running / 4),
        (Crafting(statistics="batch"), training),
        (Crafting(statistics="batch", temperature=4.0), training / 4),
    ):
        seen = seen_by_an_attack(state, crafting, "logits")
        np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(running - training).max() > 0.01


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_an_attack_in_training_mode_follows_the_gradient_of_the_sum(state, temperature):
    # Leads of the own class of 1 to 60: each example's part is another power of two.
    batch, scales = make_batch(), jnp.geomspace(1.0, 60.0, BATCH)[:, None]
    crafting = Crafting(statistics="batch", temperature=temperature)

    def objective(logits, labels, targets=None):
        return optax.softmax_cross_entropy_with_integer_labels(logits * scales, labels)

    def follow(logits_fn, keys, images, labels):
        labels = jnp.argmax(logits_fn(images), axis=1)
        adv_images = attacks.bim(
            logits_fn,
            keys,
            images,
            labels,
            epsilon=0.001,
            step_size=0.001,
            num_steps=1,
            objective=lambda *judged: -objective(*judged),
            keep="last",
            stop_on_success=False,
        )
        return adv_images - images, jax.grad(
            lambda images: objective(logits_fn(images), labels).sum()
        )(images)

    step, expected = craft(
        follow,
        crafting,
        state.model,
        state.variables,
        jax.random.split(jax.random.key(0), BATCH),
        batch.images,
        batch.labels,
    )
    inside = (batch.images > 0.01) & (batch.images < 0.99) & (expected != 0)
    assert inside.mean() > 0.8
    np.testing.assert_array_equal(np.sign(step)[inside], np.sign(expected)[inside])


def test_the_step_crafts_by_its_crafting(state):
    def told(logits_fn, key, images, labels):
        told = jax.nn.softmax(logits_fn(images)) + jax.nn.one_hot(labels, 4)
        return images * told.reshape(images.shape)

    crafting = Crafting("predicted", "batch", temperature=0.5)
    _, metrics = take_step(state, attack=told, crafting=crafting)
    batch = make_batch()
    adv_images = craft(
        told, crafting, state.model, state.variables, None, batch.images, batch.labels
    )
    _, expected = take_step(state, attack=None, batch=batch.replace(images=adv_images))
    chex.assert_trees_all_close(metrics, expected, rtol=1e-4)
    _, sound = take_step(state, attack=told)
    assert abs(sound["loss"] - metrics["loss"]) > 1e-3


class Broken(nn.Module):
    """Features are the pixels; NaN where the first one is dark. No normalisation."""

    feature_dim: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        pixels = images.reshape((len(images), -1))
        return jnp.where(pixels[:, :1] < 0.1, jnp.nan, pixels)


@pytest.mark.needs_eight_devices
def test_nan_on_one_device_ends_an_attack_on_all():
    # With the batch's statistics a device that left the loop would not be waited for.
    model = Classifier(backbone=Broken(), num_classes=4, head="mahalanobis")
    images = jnp.full((8, 2, 2, 1), 0.5).at[5].set(0.0)
    variables = model.init(jax.random.key(0), images)
    attack = attacks.make_attack(
        "pgd", epsilon=0.2, num_steps=3, keep="last", stop_on_success=False
    )

    def crafted(variables, images, labels):
        keys = jax.random.split(jax.random.key(0), len(images))
        return craft(
            attack,
            Crafting(statistics="batch"),
            model,
            variables,
            keys,
            images,
            labels,
            axis_name=parallel.AXIS_NAME,
        )

    mapped = jax.pmap(
        crafted,
        axis_name=parallel.AXIS_NAME,
        in_axes=(None, 0, 0),
        devices=jax.devices()[:2],
    )
    labels = jnp.zeros((2, 4), jnp.int32)
    adv_images = mapped(variables, images.reshape(2, 4, 2, 2, 1), labels)
    np.testing.assert_array_equal(adv_images.reshape(images.shape), images)


# --- what is trained on ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adversarial", "clean"])
@pytest.mark.parametrize("name", ["standard", "trades"])
def test_running_statistics_follow_the_images_that_are_named(state, name, kind):
    after, metrics = take_step(state, recipe=make_recipe(name))
    other, other_metrics = take_step(
        state, recipe=make_recipe(name, statistics_from=kind)
    )
    clean, adversarial = (updates for _, updates in both_outputs(state))
    expected = {"adversarial": adversarial, "clean": clean}[kind]
    chex.assert_trees_all_close(
        other.model_state["batch_stats"], expected["batch_stats"], atol=1e-6
    )
    assert np.abs(
        clean["batch_stats"]["backbone"]["BatchNorm_0"]["mean"]
        - adversarial["batch_stats"]["backbone"]["BatchNorm_0"]["mean"]
    ).max() > 1e-3  # fmt: skip
    # And nothing else changes.
    chex.assert_trees_all_close(other.params, after.params, atol=1e-7)
    chex.assert_trees_all_close(other_metrics, metrics, atol=1e-6)


def expected_losses(state, name, weight):
    """The loss of every example in the recipe, from the reference's equations."""
    (clean, _), (adv, _) = both_outputs(state)
    centers = np.asarray(state.variables["centers"]["centers"], np.float64)
    expected = []
    for index, label in enumerate(make_batch().labels):
        z, z_adv = (np.float64(o.features[index]) for o in (clean, adv))
        h, h_adv = (np.float64(o.logits[index]) for o in (clean, adv))
        own, own_adv = (reference.mmc(z, label, centers) for z in (z, z_adv))
        entropy, entropy_adv = (
            reference.softmax_cross_entropy(h, label) for h in (h, h_adv)
        )
        expected.append(
            {
                "standard": weight * own + (1 - weight) * own_adv,
                "trades": own + reference.trades(h, h_adv, label, weight) - entropy,
                "mart": own_adv + reference.mart(h, h_adv, label, weight) - entropy_adv,
            }[name]
        )
    return np.array(expected)


@pytest.mark.parametrize(
    ("name", "weight", "hyperparameters"),
    [
        ("standard", 0.0, {}),
        ("standard", 0.25, dict(clean_weight=0.25)),
        ("trades", 6.0, {}),
        ("trades", 2.0, dict(weight=2.0)),
        ("mart", 5.0, {}),
        ("mart", 2.0, dict(weight=2.0)),
    ],
)
def test_the_loss_of_a_recipe_is_the_paper_s(state, name, weight, hyperparameters):
    recipe = make_recipe(name, **hyperparameters)
    _, metrics = take_step(state, recipe=recipe)
    expected = expected_losses(state, name, weight)
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)
    # The accuracy is that on attacked images.
    logits = both_outputs(state)[1][0].logits
    right = jnp.argmax(logits, axis=1) == make_batch().labels
    np.testing.assert_allclose(metrics["accuracy"], right.mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"), [("trades", 0), ("mart", 1), ("standard", 1)]
)
def test_centers_follow_the_images_of_the_loss_itself(name, kind):
    state = make_state("center")
    after, _ = take_step(state, "center", make_recipe(name))
    features = np.asarray(both_outputs(state)[kind][0].features)
    before = np.asarray(state.model_state["centers"]["centers"])
    expected = reference.updated_centers(features, make_batch().labels, before, 0.5)
    moved = after.model_state["centers"]["centers"]
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "passes"),
    [
        (make_recipe("standard"), 1),
        (make_recipe("standard", clean_weight=0.0), 1),
        (make_recipe("standard", clean_weight=0.5), 2),
        (make_recipe("standard", statistics_from="clean"), 2),
        (make_recipe("trades"), 2),
        (make_recipe("trades", statistics_from="clean"), 2),
        (make_recipe("mart"), 2),
    ],
)
def test_no_pass_is_taken_that_nothing_asks_for(state, recipe, passes):
    for schedule, times in ((None, 1), (lambda step: 0.1, 2)):
        Normalized.traced = 0
        step_fn = functools.partial(
            train_step,
            loss_fn=losses.make_loss("mmc"),
            attack=bent,
            recipe=recipe,
            weight_perturbation=schedule,
        )
        jax.eval_shape(step_fn, state, make_batch(), jax.random.key(0))
        assert Normalized.traced == passes * times


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_the_numbers_of_a_config_reach_its_recipe(name):
    config = digits.get_config("loss=softmax,adv=pgd")
    config.attack.clean_weight = 0.25
    assert build_recipe.make_recipe(config).reads == ("clean", "adversarial")
    logits = np.array([[0.0, 0.0], [0.0, 3.0]])
    outputs = {
        kind: ModelOutput(features=jnp.zeros((1, 1)), logits=jnp.float32(h[None]))
        for kind, h in zip(("clean", "adversarial"), logits, strict=True)
    }
    config = digits.get_config(f"loss=softmax,adv=pgd,recipe={name}")
    config.recipe.update(dict(weight=7.0, temperature=2.0))
    loss = build_recipe.make_recipe(config).combine(
        lambda *_: jnp.zeros(1), outputs, jnp.zeros(1, jnp.int32), {}
    )
    # All but the loss itself, which is 0 here and has no temperature.
    equation = getattr(reference, name)
    own = {"trades": logits[0], "mart": logits[1]}[name] / 2.0
    expected = equation(*(logits / 2.0), 0, 7.0)
    expected -= reference.softmax_cross_entropy(own, 0)
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_loss_takes_a_step_by_every_recipe(loss, name):
    state = jax.eval_shape(functools.partial(make_state, loss, backbone=Layer(5)))
    attack = attacks.make_attack("fgsm", epsilon=0.1)
    step_fn = functools.partial(
        train_step,
        loss_fn=losses.make_loss(loss),
        attack=attack,
        recipe=make_recipe(name),
        weight_perturbation=lambda step: 0.005,
    )
    after, metrics = jax.eval_shape(step_fn, state, make_batch(), jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert set(metrics) == {"loss", "accuracy", "gradient_norm"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hat", {}, "unknown recipe 'hat'; known recipes: standard, trades, mart"),
        ("trades", dict(clean_weight=0.5), "'trades' has no .*'clean_weight'.*weight"),
        (
            "standard",
            dict(clean_weight=1.0),
            r"clean_weight must be in \[0, 1\), got 1",
        ),
        ("standard", dict(clean_weight=-0.1), "clean_weight must be .*got -0.1"),
        ("standard", dict(statistics_from="both"), "one of .*adversarial.*got 'both'"),
        ("mart", dict(weight=-1.0), "weight must be finite and >= 0, got -1.0"),
        ("trades", dict(temperature=0.0), "temperature must be finite and > 0, got 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_recipe(name, **options)


# --- adversarial weight perturbation --------------------------------------------------


def test_weights_are_perturbed_by_hand():
    params = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.ones(2), "flat": 1.0}
    params["still"] = jnp.ones((2, 2))
    gradients = jax.tree.map(jnp.ones_like, params)
    gradients["kernel"] = jnp.array([[0.0, -2.0]])
    gradients["still"] = jnp.zeros((2, 2))
    params["flat"] = jnp.asarray(1.0)
    moved = perturbed_weights(params, gradients, 0.1)
    # ||w|| = 5 and ||g|| = 2: v = 0.1 * 5 / 2 * (0, -2).
    expected = params | {"kernel": jnp.array([[3.0, 3.5]])}
    chex.assert_trees_all_close(moved, expected, rtol=1e-6)


def two_parameter_step(loss, gamma):
    """One image (1, 0) of class 0, whose center is (1, 0), shifted by (3, 4)."""
    model = Classifier(
        backbone=Shift(feature_dim=2),
        num_classes=2,
        head=losses.head_of(loss),
        center_norm=1.0,
    )
    state = create_train_state(model, SGD, jax.random.key(0), (1, 2, 1))
    state = state.replace(
        step=jnp.int32(2), params={"backbone": {"shift": jnp.array([[3.0, 4.0]])}}
    )
    batch = Batch(
        images=jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1),
        labels=jnp.array([0]),
        positions=jnp.array([0]),
    )
    return jax.jit(
        functools.partial(
            train_step,
            loss_fn=losses.make_loss(loss),
            weight_perturbation=None if gamma is None else lambda n: gamma * n / 2,
        )
    )(state, batch, jax.random.key(0))


@pytest.mark.parametrize(
    ("gamma", "error"), [(None, (3.0, 4.0)), (0.0, (3.0, 4.0)), (0.1, (3.3, 4.4))]
)
@pytest.mark.parametrize("loss", ["mmc", "elastic_mmc"])
def test_awp_step_by_hand(loss, gamma, error):
    # g = (3, 4) is as long as w = (3, 4): v = gamma w. From w, at a rate of 0.1.
    after, metrics = two_parameter_step(loss, gamma)
    error = np.array(error)
    shift = after.params["backbone"]["shift"]
    np.testing.assert_allclose(shift, [[3.0, 4.0] - 0.1 * error], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5 * error @ error, rtol=1e-6)
    # Trained centers are not perturbed; their gradient is the features', turned.
    centers = after.model_state["centers"]["centers"]
    expected = np.array([[1.0, 0.0], [-1.0, 0.0]])
    if loss == "elastic_mmc":
        expected[0] += 0.1 * error
    np.testing.assert_allclose(centers, expected, rtol=1e-6, atol=1e-6)


def test_running_statistics_are_those_of_one_pass_at_perturbed_weights(state):
    batch = make_batch()
    differentiate = make_differentiate(
        state.model,
        state.variables,
        {"clean": batch.images, "adversarial": batch.images},
        batch.labels,
        loss_fn=losses.make_loss("mmc"),
        recipe=make_recipe("standard"),
    )
    gradients, _ = differentiate(state.trained)
    params = perturbed_weights(state.params, gradients["params"], 0.3)
    _, expected = in_training(state.replace(params=params), batch.images)
    after, _ = take_step(state, attack=None, weight_perturbation=lambda step: 0.3)
    chex.assert_trees_all_close(
        after.model_state["batch_stats"], expected["batch_stats"], atol=1e-6
    )


# --- any number of devices ------------------------------------------------------------


@pytest.mark.needs_eight_devices
def test_any_number_of_devices_takes_the_same_step_by_trades_and_awp():
    attack = attacks.make_attack(
        "pgd",
        epsilon=0.1,
        num_steps=2,
        objective="kl_divergence",
        keep="last",
        stop_on_success=False,
    )

    def run(mode, num_devices):
        step_fn = functools.partial(
            train_step,
            loss_fn=losses.make_loss("mmc"),
            attack=attack,
            crafting=Crafting(labels="predicted", statistics="batch", temperature=0.5),
            recipe=make_recipe("trades", temperature=0.5, statistics_from="clean"),
            weight_perturbation=lambda step: 0.01,
            axis_name=parallel.axis_name_for(mode),
        )
        step = parallel.parallelize(
            step_fn,
            mode=mode,
            devices=jax.devices()[:num_devices],
            batch_axes=(None, 0, None),
        )
        state = make_state(mode=mode)
        for index in range(2):
            state, metrics = step(state, make_batch(), jax.random.key(index))
        return state.variables, metrics

    expected, expected_metrics = run("jit", 1)
    start = make_state().variables
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), expected["params"], start["params"]
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    for mode in parallel.MODES:
        variables, metrics = run(mode, 8)
        chex.assert_trees_all_close(variables, expected, rtol=0, atol=1e-5)
        chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-4)
