"""Wrong input to centers, losses, models and training; `bad_input_cases` has more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmc_jax
from configs import digits
from mmc_jax import (
    attacks,
    centers,
    checkpoint,
    losses,
    models,
    parallel,
)
from tests.bad_input_cases import (
    FEATURES,
    IMAGES,
    LABELS,
    MEANS,
    Row,
    attack_good_images,
    check,
    check_config,
    judge_good_images,
    load_npz,
    make_key,
    three_logits,
)

CENTERS = [
    Row(
        "one-class",
        lambda _: centers.max_mahalanobis_centers(1, 4),
        ValueError,
        r"num_classes must be an integer >= 2, got 1",
    ),
    Row(
        "no-dimension",
        lambda _: centers.max_mahalanobis_centers(3, 0),
        ValueError,
        r"feature_dim must be an integer >= 1, got 0",
    ),
    Row(
        "three-classes-on-a-line",
        lambda _: centers.max_mahalanobis_centers(3, 1),
        ValueError,
        r"feature_dim=1 .* two centers .* num_classes=3",
    ),
    Row(
        "half-a-class",
        lambda _: centers.max_mahalanobis_centers(2.5, 4),
        ValueError,
        r"num_classes must be an integer .* 2\.5",
    ),
    Row(
        "negative-center-norm",
        lambda _: centers.max_mahalanobis_centers(3, 4, center_norm=-1.0),
        ValueError,
        r"center_norm must be finite and > 0, got -1\.0",
    ),
    Row(
        "nan-center-norm",
        lambda _: centers.random_centers(make_key(), 3, 4, center_norm=float("nan")),
        ValueError,
        r"center_norm must be finite and > 0, got nan",
    ),
    Row(
        "center-norm-in-words",
        lambda _: centers.max_mahalanobis_centers(3, 4, center_norm="ten"),
        ValueError,
        r"center_norm must be a number > 0, got 'ten'",
    ),
    Row(
        "negative-seed",
        lambda _: centers.max_mahalanobis_centers(12, 3, seed=-1),
        ValueError,
        r"seed must be an integer >= 0, got -1",
    ),
    Row(
        "features-of-another-size-than-the-centers",
        lambda _: centers.mahalanobis_logits(jnp.zeros((4, 5)), MEANS),
        AssertionError,
        r"equal to '6' on axis '1' but got '5'",
    ),
]

LOSSES = [
    Row(
        "unknown-loss",
        lambda _: losses.make_loss("hinge"),
        ValueError,
        r"unknown loss 'hinge'.* softmax, .*mmc, mmlda",
    ),
    Row(
        "unknown-loss-head",
        lambda _: losses.head_of("hinge"),
        ValueError,
        r"unknown loss 'hinge'.* softmax, .*mmc, mmlda",
    ),
    Row(
        "zero-loss-scale",
        lambda _: losses.make_loss("mmc", loss_scale=0.0),
        ValueError,
        r"loss_scale must be finite and > 0, got 0\.0",
    ),
    Row(
        "one-hot-labels-in-a-loss",
        lambda _: losses.mmc_loss(FEATURES, jnp.eye(4, 3), MEANS),
        AssertionError,
        r"rank 2 \(shape \(4, 3\)\) but expected 1",
    ),
    Row(
        "labels-of-another-batch-in-a-loss",
        lambda _: losses.mmlda_loss(FEATURES, jnp.zeros(5, int), MEANS),
        AssertionError,
        r"different shape prefixes: \[\(4,\), \(5,\)\]",
    ),
    Row(
        "mmc-on-a-softmax-head",
        lambda _: losses.make_loss("mmc")(
            mmc_jax.types.ModelOutput(FEATURES, jnp.zeros((4, 3))),
            jnp.asarray(LABELS),
            {"params": {}},
        ),
        ValueError,
        r"head='mahalanobis'.*'centers'.*\['params'\]",
    ),
]

MODELS = [
    Row(
        "unknown-model",
        lambda _: models.create("vgg16", num_classes=10),
        ValueError,
        r"unknown model 'vgg16'.*cnn.*resnet32_v1",
    ),
    Row(
        "unknown-head",
        lambda _: models.create("cnn", num_classes=10, head="cosine"),
        ValueError,
        r"unknown head 'cosine'.*softmax, .*mahalanobis",
    ),
    Row(
        "unknown-centers",
        lambda _: models.create("cnn", num_classes=10, centers="learned"),
        ValueError,
        r"unknown centers 'learned'.*optimal, random",
    ),
    Row(
        "unknown-dtype",
        lambda _: models.create("cnn", num_classes=10, dtype="float8"),
        ValueError,
        r"unknown dtype 'float8'.*float32, bfloat16",
    ),
    Row(
        "model-for-one-class",
        lambda _: models.create("cnn", num_classes=1),
        ValueError,
        r"num_classes must be an integer >= 2, got 1",
    ),
    Row(
        "flat-images-in-a-model",
        lambda _: models.create("cnn", num_classes=3).init(
            make_key(), jnp.zeros((2, 16))
        ),
        ValueError,
        r"images.*\[batch, height, width, channels\].*\(?\[?2, 16",
    ),
]

TRAINING = [
    Row(
        "batch-that-devices-cannot-share",
        lambda _: parallel.check_divisible(50, 8),
        ValueError,
        r"batch size 50 cannot be split over 8 devices; use a multiple of 8",
    ),
    Row(
        "unknown-parallel-mode",
        lambda _: parallel.axis_name_for("xmap"),
        ValueError,
        r"pmap.*jit.*'xmap'",
    ),
    Row(
        "config-loss",
        lambda _: check_config(loss__name="hinge"),
        ValueError,
        r"config\.loss\.name must be one of .*mmc.*'hinge'",
    ),
    Row(
        "config-learning-rate",
        lambda _: check_config(optimizer__learning_rate=-0.1),
        ValueError,
        r"config\.optimizer\.learning_rate must be a positive number, got -0\.1",
    ),
    Row(
        "config-model",
        lambda _: check_config(model__name="vgg16"),
        ValueError,
        r"'vgg16'.*resnet32_v1",
    ),
    Row(
        "config-boundaries",
        lambda _: check_config(optimizer__boundaries=(30, 20)),
        ValueError,
        r"config\.optimizer\.boundaries must be .*rising.*\(30, 20\)",
    ),
    Row(
        "config-unknown-argument",
        lambda _: digits.get_config("lossy=mmc"),
        ValueError,
        r"lossy.*loss",
    ),
    Row(
        "config-epsilon",
        lambda _: digits.get_config("adv=pgd,eps=8/0"),
        ValueError,
        r"eps.*8/0.*8/255",
    ),
    Row(
        "no-work-directory",
        lambda directory: mmc_jax.load(directory),
        FileNotFoundError,
        r"no run\.json in .*not a work directory",
    ),
    Row(
        "no-checkpoints-kept",
        lambda directory: checkpoint.Checkpointer(directory, keep=0),
        ValueError,
        r"keep must be at least 1, got 0",
    ),
]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.id) for row in [*CENTERS, *LOSSES, *MODELS, *TRAINING]],
)
def test_the_message_names_the_value_and_what_is_accepted(row, tmp_path):
    check(row, tmp_path)


def test_the_good_input_that_rows_change_is_good(tmp_path):
    assert np.abs(np.asarray(attack_good_images()) - IMAGES).max() > 0
    assert judge_good_images().num_examples == len(IMAGES)
    assert load_npz(tmp_path).num_classes == 3
    check_config()


def test_double_precision_is_refused_with_what_to_do():
    with jax.enable_x64(True), pytest.raises(ValueError, match="jax_enable_x64 is on"):
        attacks.pgd(three_logits, jax.random.key(0), IMAGES, LABELS, epsilon=0.1)
    with jax.enable_x64(True), jax.enable_x64(False):
        attacks.pgd(three_logits, jax.random.key(0), IMAGES, LABELS, epsilon=0.1)
