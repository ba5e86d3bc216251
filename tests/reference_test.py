"""The library against `tests/reference`: numpy, float64, written from the papers."""

from __future__ import annotations

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import cifar10
from mmc_jax import attacks, centers, evaluate, losses, metrics, train
from mmc_jax.attacks import objectives
from mmc_jax.data import augment
from mmc_jax.train import build
from mmc_jax.types import Batch, ModelOutput
from tests.reference import attacks as reference_attacks
from tests.reference import centers as reference_centers
from tests.reference import evaluation, resampling, training
from tests.reference import losses as reference_losses
from tests.reference import models as reference_models
from tests.reference import objectives as reference_objectives

NUM_CLASSES = 5
IMAGE_SHAPE = (4, 4, 1)
NUM_PIXELS = 16
BATCH = 6


pytestmark = pytest.mark.usefixtures("highest_precision")


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _float32(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


# --- centers and losses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_classes", "feature_dim", "center_norm"),
    [
        (2, 1, 1.0),
        (2, 7, 3.0),
        (3, 2, 10.0),
        (10, 9, 1.0),
        (10, 256, 10.0),
        (40, 64, 1),
    ],
)
def test_simplex_centers_are_algorithm_1(num_classes, feature_dim, center_norm):
    expected = reference_centers.simplex_centers(num_classes, feature_dim, center_norm)
    actual = centers.max_mahalanobis_centers(
        num_classes, feature_dim, center_norm=center_norm
    )
    assert actual.shape == (num_classes, feature_dim)
    np.testing.assert_allclose(actual, expected, atol=2e-6 * center_norm, rtol=0)


def test_default_center_norm_is_the_papers_ten():
    actual = centers.max_mahalanobis_centers(10, 12)
    expected = reference_centers.simplex_centers(10, 12, 10.0)
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=0)


def test_the_reference_centers_have_the_published_distances():
    unit = reference_centers.simplex_centers(10, 256, 1.0)
    for i, j in itertools.combinations(range(10), 2):
        assert float(np.sum((unit[i] - unit[j]) ** 2)) == pytest.approx(20 / 9)
    assert reference_centers.minimum_angle(unit) == pytest.approx(96.379, abs=1e-3)


@pytest.mark.parametrize("num_classes", [4, 5, 10])
def test_two_dimensions_give_the_regular_polygon(num_classes):
    actual = np.asarray(
        centers.max_mahalanobis_centers(num_classes, 2, center_norm=3.0), np.float64
    )
    expected = reference_centers.polygon(num_classes, 3.0)
    # Up to a rotation and the order of the vertices: the same set of angles.
    steps = np.sort(np.arctan2(actual[:, 1], actual[:, 0]))
    gaps = np.diff(np.append(steps, steps[0] + 2 * np.pi))
    np.testing.assert_allclose(gaps, 2 * np.pi / num_classes, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 3.0, rtol=1e-6)
    assert reference_centers.minimum_angle(actual) == pytest.approx(
        reference_centers.minimum_angle(expected), abs=1e-3
    )


@pytest.mark.parametrize(
    ("num_points", "dimension", "best"), [(6, 3, 90.0), (8, 4, 90.0)]
)
def test_centers_of_more_classes_reach_the_best_known_angle(
    num_points, dimension, best
):
    actual = np.asarray(
        centers.max_mahalanobis_centers(num_points, dimension, center_norm=2.0),
        np.float64,
    )
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 2.0, rtol=1e-5)
    angle = reference_centers.minimum_angle(actual)
    assert best - 0.5 <= angle <= best + 1e-3


def test_mahalanobis_logits():
    features, means = 3.0 * _normal(0, BATCH, 7), 10.0 * _normal(1, NUM_CLASSES, 7)
    expected = [reference_centers.mahalanobis_logits(z, means) for z in features]
    actual = centers.mahalanobis_logits(_float32(features), _float32(means))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("center_norm", [10.0, 100.0])
def test_mahalanobis_logits_near_the_own_center(center_norm):
    """Where a trained model's features lie, and an attack on the own class starts."""
    means = reference_centers.simplex_centers(NUM_CLASSES, 64, center_norm)
    means = means.astype(np.float32).astype(np.float64)
    features = (means + 1e-2 * _normal(23, NUM_CLASSES, 64)).astype(np.float32)
    rows = features.astype(np.float64)
    expected = [reference_centers.mahalanobis_logits(z, means) for z in rows]
    actual = centers.mahalanobis_logits(jnp.asarray(features), _float32(means))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * center_norm**2)

    def own_logits_sum(z):
        return jnp.trace(centers.mahalanobis_logits(z, _float32(means)))

    gradient = jax.grad(own_logits_sum)(jnp.asarray(features))
    np.testing.assert_allclose(gradient, -2.0 * (rows - means), atol=1e-5)


@pytest.mark.parametrize("name", ["mmc", "mmlda"])
def test_losses_on_features(name):
    features, means = _normal(2, BATCH, 7), _normal(3, NUM_CLASSES, 7)
    labels = np.array([0, 1, 2, 3, 4, 0])
    reference = getattr(reference_losses, name)
    expected = [reference(z, y, means) for z, y in zip(features, labels, strict=True)]
    actual = getattr(losses, f"{name}_loss")(
        _float32(features), jnp.asarray(labels), _float32(means)
    )
    assert actual.shape == (BATCH,)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_optax_softmax_cross_entropy_is_the_papers_sce():
    logits, labels = 5.0 * _normal(4, BATCH, NUM_CLASSES), np.array([0, 1, 2, 3, 4, 0])
    expected = [
        reference_losses.softmax_cross_entropy(h, y)
        for h, y in zip(logits, labels, strict=True)
    ]
    actual = optax.softmax_cross_entropy_with_integer_labels(
        _float32(logits), jnp.asarray(labels)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


# --- objectives -----------------------------------------------------------------------

OBJECTIVE_ROWS = [
    (name, targeted)
    for name in attacks.OBJECTIVES
    for targeted in (False, True)
    if targeted or name != "pairwise_margin"
]
LABELS = np.array([0, 1, 2, 3, 4, 0])
TARGETS = np.array([4, 0, 1, 1, 2, 2])


def _targets(targeted: bool) -> list[int | None]:
    return [int(t) for t in TARGETS] if targeted else [None] * BATCH


@pytest.mark.parametrize(("name", "targeted"), OBJECTIVE_ROWS)
@pytest.mark.parametrize("offset", [0.0, -300.0])
def test_objectives_and_their_gradients(name, targeted, offset):
    logits = 3.0 * _normal(5, BATCH, NUM_CLASSES) + offset
    reference = getattr(reference_objectives, name)
    rows = zip(logits, LABELS, _targets(targeted), strict=True)
    expected, expected_gradient = zip(*(reference(*row) for row in rows), strict=True)

    objective = getattr(objectives, name)
    labels = jnp.asarray(LABELS)
    targets = jnp.asarray(TARGETS) if targeted else None
    actual = objective(_float32(logits), labels, targets)
    gradient = jax.grad(lambda h: objective(h, labels, targets).sum())(_float32(logits))

    assert actual.shape == (BATCH,)
    np.testing.assert_allclose(actual, expected, rtol=3e-5, atol=1e-4)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "targeted"), OBJECTIVE_ROWS)
def test_the_references_own_gradients_are_central_differences(name, targeted):
    reference = getattr(reference_objectives, name)
    rows = zip(3.0 * _normal(6, 3, 5), LABELS, _targets(targeted), strict=False)
    for logits, label, target in rows:
        _, gradient = reference(logits, label, target)
        for k in range(len(logits)):
            step = np.zeros(len(logits))
            step[k] = 1e-6
            above, _ = reference(logits + step, label, target)
            below, _ = reference(logits - step, label, target)
            assert gradient[k] == pytest.approx((above - below) / 2e-6, abs=1e-6)


# --- three models, twice --------------------------------------------------------------


def _linear_logits(weights, bias, images):
    flat = images.reshape(images.shape[0], -1)
    return flat @ weights.T + bias[None, :]


def _mahalanobis_logits(weights, bias, means, images):
    features = _linear_logits(weights, bias, images)
    return -jnp.sum((features[:, None, :] - means[None, :, :]) ** 2, axis=-1)


def _tanh_logits(hidden_weights, hidden_bias, weights, bias, images):
    hidden = jnp.tanh(_linear_logits(hidden_weights, hidden_bias, images))
    return hidden @ weights.T + bias[None, :]


@functools.cache
def _models(name: str):
    """Return the numpy model and the same one as the library's `logits_fn`."""
    if name == "linear":
        arrays = (0.5 * _normal(7, NUM_CLASSES, NUM_PIXELS), _normal(8, NUM_CLASSES))
        numpy_model, function = reference_models.LinearModel(*arrays), _linear_logits
    elif name == "mahalanobis":
        means = reference_centers.simplex_centers(NUM_CLASSES, 6, 4.0)
        arrays = (_normal(9, 6, NUM_PIXELS), _normal(10, 6), means)
        numpy_model = reference_models.LinearMahalanobisModel(*arrays)
        function = _mahalanobis_logits
    else:
        arrays = (
            0.5 * _normal(11, 8, NUM_PIXELS),
            0.1 * _normal(12, 8),
            2.0 * _normal(13, NUM_CLASSES, 8),
            _normal(14, NUM_CLASSES),
        )
        numpy_model, function = reference_models.TanhModel(*arrays), _tanh_logits
    return numpy_model, jax.tree_util.Partial(function, *map(_float32, arrays))


@functools.cache
def _problem(name: str):
    """Return images, labels (mostly the prediction) and targets that are not labels.

    One pixel in five lies on the box, so that clipping matters.
    """
    model, _ = _models(name)
    images = np.random.default_rng(15).uniform(-0.12, 1.12, (BATCH, *IMAGE_SHAPE))
    images = np.clip(images, 0.0, 1.0).astype(np.float32).astype(np.float64)
    labels = np.array([int(np.argmax(model.logits(image))) for image in images])
    labels[0] = (labels[0] + 1) % NUM_CLASSES  # One is misclassified from the start.
    targets = (labels + 1 + np.arange(BATCH) % (NUM_CLASSES - 1)) % NUM_CLASSES
    return images, labels, targets


@pytest.mark.parametrize("name", ["linear", "mahalanobis", "tanh"])
def test_the_two_forms_of_each_model_agree(name):
    model, logits_fn = _models(name)
    images, labels, _ = _problem(name)
    expected = [model.logits(image) for image in images]
    np.testing.assert_allclose(logits_fn(_float32(images)), expected, atol=1e-4)

    def objective_sum(batch):
        return objectives.cross_entropy(
            logits_fn(batch), jnp.asarray(labels), None
        ).sum()

    expected_gradient = [
        reference_attacks.objective_gradient(
            model, reference_objectives.cross_entropy, image, label, None
        )[2]
        for image, label in zip(images, labels, strict=True)
    ]
    gradient = jax.grad(objective_sum)(_float32(images))
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-4)


# --- attacks --------------------------------------------------------------------------

EPSILON = {"linf": 0.11, "l2": 0.5}
STEP_SIZE = {"linf": 0.027, "l2": 0.15}
BIG_STEP_SIZE = {"linf": 0.2, "l2": 1.1}


def _library(attack, model_name, objective, targeted, **hyperparameters):
    _, logits_fn = _models(model_name)
    images, labels, targets = _problem(model_name)
    return np.asarray(
        attack(
            logits_fn,
            jax.random.key(0),
            _float32(images),
            jnp.asarray(labels, jnp.int32),
            targets=jnp.asarray(targets, jnp.int32) if targeted else None,
            objective=getattr(objectives, objective),
            **hyperparameters,
        )
    )


def _reference_rows(model_name, objective, targeted):
    """Yield the arguments that every reference attack starts with, image by image."""
    model, _ = _models(model_name)
    images, labels, targets = _problem(model_name)
    function = getattr(reference_objectives, objective)
    for image, label, target in zip(images, labels, targets, strict=True):
        yield model, function, image, int(label), int(target) if targeted else None


def _reference_walk(
    model_name, objective, targeted, *, keep="last", stop_on_success=False, **walk
):
    results = []
    for row in _reference_rows(model_name, objective, targeted):
        model, function, image, label, target = row
        visited = reference_attacks.trajectory(*row, start=image, **walk)
        chosen = reference_attacks.choose(
            visited,
            model,
            function,
            label,
            target,
            keep=keep,
            stop_on_success=stop_on_success,
        )
        results.append(chosen)
    return np.array(results)


@pytest.mark.parametrize(
    ("model_name", "objective", "targeted", "norm"),
    [
        ("linear", "cross_entropy", False, "linf"),
        ("mahalanobis", "own_class", True, "l2"),
        ("tanh", "margin", True, "linf"),
        ("tanh", "dlr", False, "l2"),
    ],
)
def test_fgsm(model_name, objective, targeted, norm):
    rows = _reference_rows(model_name, objective, targeted)
    expected = [
        reference_attacks.fgsm(*row, epsilon=EPSILON[norm], norm=norm) for row in rows
    ]
    actual = _library(
        attacks.fgsm, model_name, objective, targeted, epsilon=EPSILON[norm], norm=norm
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


WALKS = [
    ("linear", "cross_entropy", False, "linf"),
    ("linear", "margin", True, "l2"),
    ("mahalanobis", "own_class", False, "linf"),
    ("mahalanobis", "pairwise_margin", True, "linf"),
    ("tanh", "cross_entropy", True, "linf"),
    ("tanh", "dlr", True, "l2"),
]


@pytest.mark.parametrize(
    ("model_name", "objective", "targeted", "norm", "keep"),
    [(*walk, "best") for walk in WALKS] + [(*walk, "last") for walk in WALKS[::4]],
)
def test_bim(model_name, objective, targeted, norm, keep):
    # A step beyond the ball swings from side to side, so that best is not always last.
    step_size = STEP_SIZE[norm] if keep == "last" else BIG_STEP_SIZE[norm]
    settings = dict(
        epsilon=EPSILON[norm], step_size=step_size, num_steps=7, norm=norm, keep=keep
    )
    expected = _reference_walk(model_name, objective, targeted, **settings)
    actual = _library(
        attacks.bim, model_name, objective, targeted, stop_on_success=False, **settings
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model_name", "objective", "targeted", "norm"), WALKS[::2])
def test_stopping_returns_the_first_success(model_name, objective, targeted, norm):
    settings = dict(
        epsilon=2 * EPSILON[norm],
        step_size=STEP_SIZE[norm],
        num_steps=12,
        norm=norm,
        keep="best",
        stop_on_success=True,
    )
    expected = _reference_walk(model_name, objective, targeted, **settings)
    walked_on = _reference_walk(
        model_name, objective, targeted, **(settings | {"stop_on_success": False})
    )
    assert np.abs(expected - walked_on).max() > 1e-3  # Or the rule is not exercised.
    actual = _library(attacks.bim, model_name, objective, targeted, **settings)
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model_name", "objective", "targeted", "norm"), WALKS[1::2])
def test_pgd_without_a_random_start(model_name, objective, targeted, norm):
    settings = dict(
        epsilon=EPSILON[norm], step_size=STEP_SIZE[norm], num_steps=6, norm=norm
    )
    expected = _reference_walk(model_name, objective, targeted, **settings)
    actual = _library(
        attacks.pgd,
        model_name,
        objective,
        targeted,
        keep="last",
        stop_on_success=False,
        random_start=False,
        num_restarts=1,
        **settings,
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    ("model_name", "objective", "targeted", "norm"),
    [
        ("mahalanobis", "own_class", False, "linf"),
        ("tanh", "cross_entropy", True, "l2"),
    ],
)
def test_mim(model_name, objective, targeted, norm, decay):
    settings = dict(
        epsilon=EPSILON[norm],
        step_size=STEP_SIZE[norm],
        num_steps=7,
        norm=norm,
        decay=decay,
    )
    expected = _reference_walk(model_name, objective, targeted, **settings)
    actual = _library(
        attacks.mim,
        model_name,
        objective,
        targeted,
        keep="last",
        stop_on_success=False,
        **settings,
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


def test_decay_changes_the_reference_walk():
    settings = dict(epsilon=0.5, step_size=0.15, num_steps=7, norm="l2")
    walks = [
        _reference_walk("tanh", "cross_entropy", True, decay=decay, **settings)
        for decay in (None, 0.7, 1.0)
    ]
    assert np.abs(walks[0] - walks[2]).max() > 1e-3
    assert np.abs(walks[1] - walks[2]).max() > 1e-4


# --- noise, rotation, shifts: the draw is measured on ramps, then replayed ------------


def _coordinate_images(size: int, batch: int) -> np.ndarray:
    """Return images whose two channels are the row and the column, within [0, 1]."""
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    image = np.stack([rows, columns], axis=-1) / (size - 1)
    return np.broadcast_to(image, (batch, size, size, 2)).astype(np.float32)


def _sampled_positions(images: jax.Array) -> np.ndarray:
    """Return where each pixel of transformed `_coordinate_images` was read from."""
    return np.asarray(images, np.float64) * (images.shape[1] - 1)


def _textures(size: int, batch: int) -> np.ndarray:
    generator = np.random.default_rng(16)
    return generator.uniform(size=(batch, size, size, 2)).astype(np.float32)


def _constant_logits(images):
    return jnp.zeros((images.shape[0], 3)) + images.mean((1, 2, 3))[:, None]


def test_gaussian_noise_by_its_moments():
    images = jnp.full((64, 16, 16, 1), 0.5)
    noisy = attacks.gaussian_noise(
        _constant_logits,
        jax.random.key(1),
        images,
        jnp.zeros(64, jnp.int32),
        sigma=0.05,
    )
    noise = np.asarray(noisy, np.float64).ravel() - 0.5
    count = len(noise)
    assert abs(noise.mean()) < 4 * 0.05 / np.sqrt(count)
    assert abs(noise.std() / 0.05 - 1) < 4 / np.sqrt(2 * count)
    assert abs(np.mean(noise**4) / 0.05**4 - 3) < 4 * np.sqrt(96 / count)


def test_rotation_is_bilinear_about_the_center():
    size, batch = 9, 48
    rotate = functools.partial(
        attacks.rotation,
        _constant_logits,
        jax.random.key(2),
        labels=jnp.zeros(batch, jnp.int32),
        max_angle=30.0,
    )
    positions = _sampled_positions(
        rotate(images=jnp.asarray(_coordinate_images(9, 48)))
    )
    textures = _textures(size, batch)
    actual = np.asarray(rotate(images=jnp.asarray(textures)))
    angles = []
    for one, texture, rotated in zip(positions, textures, actual, strict=True):
        np.testing.assert_allclose(one[4, 4], [4.0, 4.0], atol=1e-4)
        down = one[6, 4] - one[2, 4]  # Four rows down, well inside the image.
        angles.append(np.degrees(np.arctan2(down[1], down[0])))
        expected = resampling.rotate(texture.astype(np.float64), angles[-1])
        np.testing.assert_allclose(rotated, expected, atol=2e-4)
    _assert_uniform(np.array(angles), 30.0)


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_is_a_sub_pixel_shift(flip):
    size, batch = 10, 64
    transform = augment.make_augment(shift=0.1, flip=flip)
    keys = jax.random.split(jax.random.key(3), batch)
    positions = _sampled_positions(
        transform(keys, jnp.asarray(_coordinate_images(size, batch)))
    )
    textures = _textures(size, batch)
    actual = np.asarray(transform(keys, jnp.asarray(textures)))
    row_shifts, column_shifts, flips = [], [], []
    for one, texture, moved in zip(positions, textures, actual, strict=True):
        row, column = one[5, 5]
        flips.append(one[5, 6, 1] < column)
        row_shifts.append(row - 5)
        column_shifts.append(column - (size - 1 - 5 if flips[-1] else 5))
        expected = resampling.shift_and_flip(
            texture.astype(np.float64), row_shifts[-1], column_shifts[-1], flips[-1]
        )
        np.testing.assert_allclose(moved, expected, atol=2e-5)
    _assert_uniform(np.array(row_shifts), 0.1 * size)
    _assert_uniform(np.array(column_shifts), 0.1 * size)
    assert abs(np.corrcoef(row_shifts, column_shifts)[0, 1]) < 0.5
    share = np.mean(flips)
    assert (0.25 < share < 0.75) if flip else share == 0


def _assert_uniform(draws: np.ndarray, limit: float) -> None:
    """Check the range, the mean and the spread of a uniform draw in [-limit, limit]."""
    spread = limit / np.sqrt(3)
    assert np.abs(draws).max() <= limit * (1 + 1e-4)
    assert abs(draws.mean()) < 4 * spread / np.sqrt(len(draws))
    assert 0.75 * spread < draws.std() < 1.25 * spread


# --- evaluation -----------------------------------------------------------------------

# Two weak rows, of which each breaks an image that the other does not.
EVALUATION_ROWS = {
    "one step": dict(name="fgsm", objective="own_class"),
    "two steps": dict(
        name="bim",
        objective="margin",
        step_size=0.02,
        num_steps=2,
        keep="best",
        stop_on_success=False,
    ),
}


@functools.cache
def _evaluation():
    """Return images, labels, clean verdicts and each row's, by the reference."""
    model, _ = _models("mahalanobis")
    images = np.random.default_rng(17).uniform(size=(45, *IMAGE_SHAPE))
    images = images.astype(np.float32).astype(np.float64)
    labels = np.array([int(np.argmax(model.logits(image))) for image in images])
    labels[::5] = (labels[::5] + 1) % NUM_CLASSES
    one_step, two_steps = [], []
    for image, label in zip(images, labels.tolist(), strict=True):
        adv_image = reference_attacks.fgsm(
            model, reference_objectives.own_class, image, label, None, epsilon=0.06
        )
        one_step.append(_is_robust(model, image, adv_image, label))
        goal = (model, reference_objectives.margin)
        walk = reference_attacks.trajectory(
            *goal,
            image,
            label,
            None,
            start=image,
            epsilon=0.06,
            step_size=0.02,
            num_steps=2,
        )
        adv_image = reference_attacks.choose(walk, *goal, label, None, keep="best")
        two_steps.append(_is_robust(model, image, adv_image, label))
    clean = evaluation.is_correct(model, images, labels)
    return images, labels, clean, [one_step, two_steps]


def _is_robust(model, image, adv_image, label) -> bool:
    return not evaluation.is_adversarial(
        model, image, adv_image, label, epsilon=0.06, norm="linf"
    )


@pytest.mark.parametrize("mode", ["individual", "cascade"])
def test_robust_accuracy_counts_the_worst_case(mode):
    images, labels, clean, rows = _evaluation()
    _, logits_fn = _models("mahalanobis")
    record = evaluate.robust_accuracy(
        logits_fn,
        np.asarray(images, np.float32),
        labels,
        EVALUATION_ROWS,
        jax.random.key(5),
        norm="linf",
        epsilon=0.06,
        mode=mode,
        batch_size=8,
    )
    worst = evaluation.worst_case([clean, *rows])
    assert 0 < sum(worst) < min(map(sum, rows)) < sum(clean) < len(clean)
    assert record.clean_correct.tolist() == clean
    assert record.robust.tolist() == worst
    left = np.array(clean)
    for name, expected in zip(EVALUATION_ROWS, rows, strict=True):
        row = record.row(name)
        if mode == "individual":
            assert row.attacked.all()
            assert row.correct.tolist() == expected
        else:
            np.testing.assert_array_equal(row.attacked, left)
            np.testing.assert_array_equal(row.correct, left & expected)
        left = left & expected
        assert row.running.count == left.sum()
    assert record.worst_case.interval == pytest.approx(
        evaluation.wilson_interval(sum(worst), len(worst)), abs=1e-9
    )


@pytest.mark.parametrize(("count", "total"), [(0, 7), (7, 7), (3, 10), (865, 1000)])
def test_wilson_interval(count, total):
    actual = metrics.wilson_interval(count, total, confidence=0.95)
    expected = evaluation.wilson_interval(count, total)
    np.testing.assert_allclose(actual, expected, atol=1e-9)


# --- training: the schedule, the penalty, and SGD on a linear MMC model ---------------


def _cifar10_config():
    config = cifar10.get_config("loss=mmc")
    assert tuple(config.optimizer.boundaries) == (101, 151)
    return config


def test_the_schedule_is_the_papers():
    steps_per_epoch = 3
    schedule = build.make_schedule(_cifar10_config(), steps_per_epoch)
    for epoch in range(200):
        expected = training.learning_rate(epoch)
        for step in range(steps_per_epoch):
            actual = float(schedule(epoch * steps_per_epoch + step))
            assert actual == pytest.approx(expected, rel=1e-6), (epoch, step)


def test_the_penalty_is_on_convolution_kernels_alone():
    params = {
        "conv": {"kernel": _float32(_normal(20, 3, 3, 2, 4)), "bias": jnp.ones(4)},
        "dense": {"kernel": _float32(_normal(21, 4, 5))},
        "norm": {"scale": jnp.ones(4)},
    }
    optimizer = build.make_optimizer(_cifar10_config(), 10)
    no_gradient = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(no_gradient, optimizer.init(params), params)
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    expected = -0.01 * training.convolution_penalty_gradient(kernel)
    np.testing.assert_allclose(updates["conv"]["kernel"], expected, rtol=1e-5)
    rest = [updates["conv"]["bias"], updates["dense"], updates["norm"]]
    assert all(not leaf.any() for leaf in jax.tree.leaves(rest))


class _LinearMahalanobis(nn.Module):
    """z = W x + b with fixed centers, as a linen module."""

    @nn.compact
    def __call__(self, images, train=False):
        del train
        means = self.variable(
            "centers",
            "centers",
            lambda: _float32(reference_centers.simplex_centers(NUM_CLASSES, 6, 3.0)),
        ).value
        features = nn.Dense(6, name="dense")(images.reshape(images.shape[0], -1))
        return ModelOutput(features, centers.mahalanobis_logits(features, means))


def test_train_step_is_sgd_with_momentum_on_the_mmc_loss():
    generator = np.random.default_rng(22)
    batches = [
        (
            generator.uniform(size=(BATCH, *IMAGE_SHAPE)),
            generator.permutation(BATCH) % 5,
        )
        for _ in range(8)
    ]
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = train.create_train_state(
        _LinearMahalanobis(), optimizer, jax.random.key(4), IMAGE_SHAPE
    )
    weights, bias, expected_losses = training.train_linear_mmc(
        np.asarray(state.params["dense"]["kernel"], np.float64).T,
        np.asarray(state.params["dense"]["bias"], np.float64),
        batches,
        reference_centers.simplex_centers(NUM_CLASSES, 6, 3.0),
        rate=0.05,
    )
    step = jax.jit(functools.partial(train.train_step, loss_fn=losses.make_loss("mmc")))
    actual_losses = []
    for index, (images, labels) in enumerate(batches):
        batch = Batch(
            images=_float32(images),
            labels=jnp.asarray(labels, jnp.int32),
            positions=jnp.arange(BATCH),
        )
        state, metrics = step(state, batch, jax.random.key(index))
        actual_losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(actual_losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(state.params["dense"]["kernel"].T, weights, atol=1e-5)
    np.testing.assert_allclose(state.params["dense"]["bias"], bias, atol=1e-5)
    means = state.model_state["centers"]["centers"]
    np.testing.assert_array_equal(
        means, _float32(reference_centers.simplex_centers(NUM_CLASSES, 6, 3.0))
    )
