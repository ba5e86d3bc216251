"""Wrong input to the public surface: the message names the value and what is accepted.

To add a row: its id, a call that takes a scratch directory, the exception, and a
regular expression that the message matches. `.*` in it spans lines.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

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
    data,
    evaluate,
    losses,
    models,
    parallel,
)
from mmc_jax.attacks import objectives, with_random_targets
from mmc_jax.train import build

KEY_SEED = 0
IMAGES = np.full((4, 4, 4, 1), 0.5, np.float32)
LABELS = np.array([0, 1, 2, 0], np.int32)
FEATURES = jnp.zeros((4, 6))
MEANS = jnp.ones((3, 6))


@dataclasses.dataclass(frozen=True)
class Row:
    """A wrong input."""

    id: str
    call: Callable[[pathlib.Path], Any]
    exception: type[Exception]
    regex: str


def _logits(images):
    """Classify into three classes by the image's mean."""
    return images.mean((1, 2, 3))[:, None] * jnp.arange(3.0)[None, :]


def _key():
    return jax.random.key(KEY_SEED)


def _attack(attack=attacks.pgd, **changes):
    """Attack four good images with one thing changed."""
    arguments = dict(
        logits_fn=_logits, key=_key(), images=IMAGES, labels=LABELS, epsilon=0.1
    )
    return attack(**(arguments | changes))


def _robust_accuracy(logits_fn=_logits, images=IMAGES, labels=LABELS, **changes):
    arguments = dict(
        attacks={"a row": dict(name="fgsm")}, key=_key(), norm="linf", epsilon=0.1
    )
    return evaluate.robust_accuracy(logits_fn, images, labels, **(arguments | changes))


def _load_npz(directory: pathlib.Path, **changes):
    """Write a good data set with something changed (None: left out), and load it."""
    content = dict(
        train_images=np.zeros((30, 4, 4, 1), np.uint8),
        train_labels=np.arange(30) % 3,
        test_images=np.zeros((6, 4, 4, 1), np.uint8),
        test_labels=np.arange(6) % 3,
    )
    content |= changes
    path = directory / "mine.npz"
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return data.load(str(path))


def _load_garbage(directory: pathlib.Path):
    path = directory / "garbage.npz"
    path.write_text("not a zip file")
    return data.load(path)


def _with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[1] = value
    return changed


def _check_config(**changes):
    """Check the digits config with fields changed, written `section__name=value`."""
    config = digits.get_config()
    config.num_devices = 1
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    build.check_config(config)


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
        lambda _: centers.random_centers(_key(), 3, 4, center_norm=float("nan")),
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
        lambda _: models.create("cnn", num_classes=3).init(_key(), jnp.zeros((2, 16))),
        ValueError,
        r"images.*\[batch, height, width, channels\].*\(?\[?2, 16",
    ),
]

ATTACKS = [
    Row(
        "unknown-attack",
        lambda _: attacks.make_attack("deepfake", epsilon=0.1),
        ValueError,
        r"'deepfake'.*apgd, .*bim, .*fgsm.*pgd",
    ),
    Row(
        "unknown-hyperparameter",
        lambda _: attacks.make_attack("pgd", epsilon=0.1, eps_iter=0.01),
        ValueError,
        r"pgd.*'eps_iter'.*step_size",
    ),
    Row(
        "attack-without-epsilon",
        lambda _: attacks.make_attack("pgd", num_steps=3),
        ValueError,
        r"pgd needs.*'epsilon'",
    ),
    Row(
        "live-object-in-a-bound-attack",
        lambda _: attacks.make_attack("pgd", epsilon=0.1, objective=objectives.margin),
        ValueError,
        r"objective must be plain data.*function",
    ),
    Row(
        "unknown-norm",
        lambda _: _attack(norm="l7"),
        ValueError,
        r"norm must be one of linf, l2.*'l7'",
    ),
    Row(
        "unknown-objective",
        lambda _: _attack(objective="hinge"),
        ValueError,
        r"objective must be one of .*cross_entropy.*'hinge'",
    ),
    Row(
        "unknown-keep",
        lambda _: _attack(keep="first"),
        ValueError,
        r"keep must be one of best, last.*'first'",
    ),
    Row(
        "negative-epsilon",
        lambda _: _attack(epsilon=-0.1),
        ValueError,
        r"epsilon must be at least 0 and finite.*-0\.1",
    ),
    Row(
        "nan-epsilon",
        lambda _: _attack(epsilon=float("nan")),
        ValueError,
        r"epsilon must be at least 0 and finite.*nan",
    ),
    Row(
        "epsilon-in-words",
        lambda _: _attack(epsilon="8/255"),
        ValueError,
        r"epsilon must be a number.*'8/255'",
    ),
    Row(
        "epsilon-of-another-batch",
        lambda _: _attack(epsilon=np.full(3, 0.1)),
        ValueError,
        r"epsilon must be a number or one an example, \[4\].*\(3,\)",
    ),
    Row(
        "no-steps",
        lambda _: _attack(num_steps=0),
        ValueError,
        r"num_steps must be at least 1.*got 0",
    ),
    Row(
        "half-a-step",
        lambda _: _attack(num_steps=2.5),
        ValueError,
        r"num_steps must be an integer.*2\.5",
    ),
    Row(
        "restarts-from-one-point",
        lambda _: _attack(num_restarts=3, random_start=False),
        ValueError,
        r"num_restarts=3 needs random_start=True",
    ),
    Row(
        "negative-decay",
        lambda _: _attack(attacks.mim, decay=-1.0),
        ValueError,
        r"decay must be.*-1",
    ),
    Row(
        "uint8-images",
        lambda _: _attack(images=np.zeros(IMAGES.shape, np.uint8)),
        ValueError,
        r"images must be float32 in \[0, 1\].*uint8.*/ 255",
    ),
    Row(
        "one-image-without-a-batch",
        lambda _: _attack(images=IMAGES[0]),
        ValueError,
        r"images must be \[batch, height, width, channels\].*\(4, 4, 1\)",
    ),
    Row(
        "normalised-images",
        lambda _: _attack(images=_with_value(IMAGES, -1.5)),
        ValueError,
        r"images must be finite and inside bounds \(0, 1\).*-1\.5",
    ),
    Row(
        "nan-in-images",
        lambda _: _attack(images=_with_value(IMAGES, np.nan)),
        ValueError,
        r"images must be finite.*nan",
    ),
    Row(
        "bounds-in-the-wrong-order",
        lambda _: _attack(bounds=(1.0, 0.0)),
        ValueError,
        r"bounds must be finite, \(lowest, highest\).*\(1, 0\)",
    ),
    Row(
        "one-hot-labels",
        lambda _: _attack(labels=np.eye(4, 3, dtype=np.float32)),
        ValueError,
        r"labels must be integers \[batch\].*not one-hot.*\(4, 3\)",
    ),
    Row(
        "label-above-the-classes",
        lambda _: _attack(labels=_with_value(LABELS, 3)),
        ValueError,
        r"labels must be below the number of classes, 3.*got 3",
    ),
    Row(
        "negative-label",
        lambda _: _attack(labels=_with_value(LABELS, -1)),
        ValueError,
        r"labels must be at least 0; got -1",
    ),
    Row(
        "target-equal-to-the-label",
        lambda _: _attack(targets=np.array([1, 1, 0, 2])),
        ValueError,
        r"targets must differ from labels.*1",
    ),
    Row(
        "target-above-the-classes",
        lambda _: _attack(targets=np.array([1, 2, 0, 7])),
        ValueError,
        r"targets must be below the number of classes, 3.*got 7",
    ),
    Row(
        "pairwise-margin-without-targets",
        lambda _: _attack(objective="pairwise_margin"),
        ValueError,
        r"pairwise_margin needs targets.*None",
    ),
    Row(
        "dlr-on-two-classes",
        lambda _: objectives.dlr(jnp.zeros((4, 2)), jnp.asarray(LABELS % 2)),
        ValueError,
        r"dlr needs at least 3 classes; got 2",
    ),
    Row(
        "an-old-key",
        lambda _: _attack(key=np.zeros(2, np.uint32)),
        ValueError,
        r"key must be a typed key.*jax\.random\.key.*uint32",
    ),
    Row(
        "a-seed-for-a-key",
        lambda _: _attack(key=3),
        ValueError,
        r"key must be a typed key.*int",
    ),
    Row(
        "keys-of-another-batch",
        lambda _: _attack(key=jax.random.split(_key(), 3)),
        ValueError,
        r"key must be one key or one an example, \[4\].*\(3,\)",
    ),
    Row(
        "a-model-that-is-no-function",
        lambda _: _attack(logits_fn=np.zeros((16, 3))),
        ValueError,
        r"logits_fn must be a function.*float64 of shape \(16, 3\)",
    ),
    Row(
        "no-model",
        lambda _: _attack(logits_fn=None),
        ValueError,
        r"logits_fn must be a function.*None",
    ),
    Row(
        "a-model-of-features",
        lambda _: _attack(logits_fn=lambda images: images),
        ValueError,
        r"logits_fn must return .*\[batch, num_classes\].*\(4, 4, 4, 1\)",
    ),
    Row(
        "negative-sigma",
        lambda _: attacks.gaussian_noise(None, _key(), IMAGES, LABELS, sigma=-0.1),
        ValueError,
        r"sigma must be.*-0\.1",
    ),
    Row(
        "more-than-half-a-turn",
        lambda _: attacks.rotation(None, _key(), IMAGES, LABELS, max_angle=270.0),
        ValueError,
        r"max_angle must be at least 0 and at most 180.*270",
    ),
    Row(
        "random-targets-among-one-class",
        lambda _: with_random_targets(attacks.fgsm, 1),
        ValueError,
        r"num_classes must be at least 2; got 1",
    ),
]

DATA = [
    Row(
        "unknown-data-set",
        lambda _: data.load("svhn"),
        ValueError,
        r"unknown data set 'svhn'.*digits.*mnist.*\.npz",
    ),
    Row(
        "no-such-file",
        lambda directory: data.load(directory / "nothing.npz"),
        FileNotFoundError,
        r"no file .*nothing\.npz",
    ),
    Row(
        "no-data-in-the-directory",
        lambda directory: data.load("mnist", data_dir=directory),
        FileNotFoundError,
        r"mnist.*TFDS_DATA_DIR",
    ),
    Row(
        "not-an-npz",
        _load_garbage,
        ValueError,
        r"garbage\.npz is not a readable \.npz",
    ),
    Row(
        "npz-without-labels",
        lambda directory: _load_npz(directory, train_labels=None),
        ValueError,
        r"mine\.npz lacks train_labels; .*test_labels",
    ),
    Row(
        "npz-with-flat-images",
        lambda directory: _load_npz(directory, train_images=np.zeros((30, 16))),
        ValueError,
        r"train_images must be \[size, height, width\].*\[30, 16\]",
    ),
    Row(
        "npz-with-nan",
        lambda directory: _load_npz(
            directory, test_images=_with_value(np.zeros((6, 4, 4, 1)), np.nan)
        ),
        ValueError,
        r"test_images\[1, 0, 0, 0\] = nan.*0 to 1",
    ),
    Row(
        "npz-of-levels-as-floats",
        lambda directory: _load_npz(directory, train_images=np.full((30, 4, 4), 255.0)),
        ValueError,
        r"train_images\[0, 0, 0\] = 255.*0 to 1",
    ),
    Row(
        "npz-of-other-integers",
        lambda directory: _load_npz(directory, train_images=np.zeros((30, 4, 4), int)),
        ValueError,
        r"train_images must be uint8.*int64",
    ),
    Row(
        "npz-with-float-labels",
        lambda directory: _load_npz(directory, train_labels=np.zeros(30)),
        ValueError,
        r"train_labels must be integers.*float64",
    ),
    Row(
        "npz-with-a-negative-label",
        lambda directory: _load_npz(
            directory, train_labels=_with_value(np.arange(30) % 3, -1)
        ),
        ValueError,
        r"train_labels\[1\] = -1 is out of range; accepted: 0 to",
    ),
    Row(
        "npz-with-a-test-label-that-training-lacks",
        lambda directory: _load_npz(directory, test_labels=np.arange(6)),
        ValueError,
        r"test_labels\[3\] = 3 is out of range; accepted: 0 to 2",
    ),
    Row(
        "npz-with-too-few-labels",
        lambda directory: _load_npz(directory, train_labels=np.arange(29) % 3),
        ValueError,
        r"30 train_images but 29 train_labels",
    ),
    Row(
        "npz-with-two-image-sizes",
        lambda directory: _load_npz(
            directory, test_images=np.zeros((6, 5, 5, 1), np.uint8)
        ),
        ValueError,
        r"test_images.*\[5, 5, 1\].*\[4, 4, 1\]",
    ),
    Row(
        "validation-of-everything",
        lambda _: data.load("digits", validation_size=1297),
        ValueError,
        r"cannot hold out 1297 of 1297.*1 to 1296",
    ),
    Row(
        "half-a-validation-image",
        lambda _: data.load("digits", validation_size=0.1),
        ValueError,
        r"validation_size must be an int, got 0\.1",
    ),
    Row(
        "shift-of-the-whole-image",
        lambda _: data.make_augment(shift=1.0),
        ValueError,
        r"shift must be a number in \[0, 1\), got 1\.0",
    ),
]

EVALUATION = [
    Row(
        "evaluation-norm",
        lambda _: _robust_accuracy(norm="l0"),
        ValueError,
        r"unknown norm 'l0'; accepted: linf, l2, l1",
    ),
    Row(
        "evaluation-mode",
        lambda _: _robust_accuracy(mode="average"),
        ValueError,
        r"unknown mode 'average'; accepted: cascade, individual",
    ),
    Row(
        "evaluation-epsilon",
        lambda _: _robust_accuracy(epsilon=-1.0),
        ValueError,
        r"epsilon must be a finite number >= 0, got -1",
    ),
    Row(
        "evaluation-epsilon-in-words",
        lambda _: _robust_accuracy(epsilon="8/255"),
        ValueError,
        r"epsilon must be a finite number >= 0, got '?8/255",
    ),
    Row(
        "evaluation-batch-size",
        lambda _: _robust_accuracy(batch_size=0),
        ValueError,
        r"batch_size must be at least 1, got 0",
    ),
    Row(
        "evaluation-key",
        lambda _: _robust_accuracy(key=7),
        ValueError,
        r"key must be one typed key, such as jax\.random\.key\(0\).*7",
    ),
    Row(
        "evaluation-of-normalised-images",
        lambda _: _robust_accuracy(images=_with_value(IMAGES, 2.5)),
        ValueError,
        r"images span \[0\.5, 2\.5\], outside the box \[0, 1\]",
    ),
    Row(
        "evaluation-of-nan",
        lambda _: _robust_accuracy(images=_with_value(IMAGES, np.nan)),
        ValueError,
        r"images hold 16 values that are NaN or infinite",
    ),
    Row(
        "evaluation-of-nothing",
        lambda _: _robust_accuracy(images=IMAGES[:0], labels=LABELS[:0]),
        ValueError,
        r"images are empty",
    ),
    Row(
        "evaluation-label-above-the-classes",
        lambda _: _robust_accuracy(labels=_with_value(LABELS, 3)),
        ValueError,
        r"labels\[1\] = 3;.*3 classes, accepted: 0 to 2",
    ),
    Row(
        "evaluation-negative-label",
        lambda _: _robust_accuracy(labels=_with_value(LABELS, -1)),
        ValueError,
        r"labels\[1\] = -1; accepted: 0 or more",
    ),
    Row(
        "evaluation-of-one-class",
        lambda _: _robust_accuracy(logits_fn=lambda images: images[:, 0, 0]),
        ValueError,
        r"at least two classes, got \[1, 1\]",
    ),
    Row(
        "row-with-targets",
        lambda _: _robust_accuracy(
            attacks={"a row": dict(name="pgd", targets=(1, 2, 0, 1))}
        ),
        ValueError,
        r"row 'a row'.*targets",
    ),
    Row(
        "evaluation-of-too-few-labels",
        lambda _: _robust_accuracy(labels=LABELS[:3]),
        ValueError,
        r"labels must be integers of shape \[4\].*\[3\]",
    ),
    Row(
        "evaluation-example-twice",
        lambda _: _robust_accuracy(example_ids=[5, 6, 6, 7]),
        ValueError,
        r"example_ids must differ.* 6",
    ),
    Row(
        "evaluation-without-attacks",
        lambda _: _robust_accuracy(attacks={}),
        ValueError,
        r"attacks must map at least one row name",
    ),
    Row(
        "row-without-an-attack",
        lambda _: _robust_accuracy(attacks={"a row": dict(num_steps=3)}),
        ValueError,
        r"row 'a row' names no attack.*name=",
    ),
    Row(
        "row-with-an-unknown-attack",
        lambda _: _robust_accuracy(attacks={"a row": dict(name="deepfake")}),
        ValueError,
        r"row 'a row': unknown attack 'deepfake'; known: .*pgd",
    ),
    Row(
        "row-with-an-epsilon-of-its-own",
        lambda _: _robust_accuracy(attacks={"a row": dict(name="pgd", epsilon=0.2)}),
        ValueError,
        r"row 'a row' sets epsilon.*whole evaluation",
    ),
    Row(
        "row-with-an-unknown-hyperparameter",
        lambda _: _robust_accuracy(attacks={"a row": dict(name="pgd", steps=3)}),
        ValueError,
        r"row 'a row': pgd has no hyperparameter 'steps'.*num_steps",
    ),
    Row(
        "row-with-an-unknown-objective",
        lambda _: _robust_accuracy(
            attacks={
                "good": dict(name="fgsm"),
                "a row": dict(name="pgd", objective="hinge"),
            }
        ),
        ValueError,
        r"row 'a row': .*objective must be one of .*'hinge'",
    ),
    Row(
        "row-that-is-no-dictionary",
        lambda _: _robust_accuracy(attacks={"a row": "pgd"}),
        ValueError,
        r"row 'a row'.*dict\(name=.*'pgd'",
    ),
    Row(
        "evaluation-of-a-model-of-features",
        lambda _: _robust_accuracy(logits_fn=lambda images: images),
        ValueError,
        r"logits_fn must return \[batch, num_classes\].*\[1, 4, 4, 1\]",
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
        lambda _: _check_config(loss__name="hinge"),
        ValueError,
        r"config\.loss\.name must be one of .*mmc.*'hinge'",
    ),
    Row(
        "config-learning-rate",
        lambda _: _check_config(optimizer__learning_rate=-0.1),
        ValueError,
        r"config\.optimizer\.learning_rate must be a positive number, got -0\.1",
    ),
    Row(
        "config-model",
        lambda _: _check_config(model__name="vgg16"),
        ValueError,
        r"'vgg16'.*resnet32_v1",
    ),
    Row(
        "config-boundaries",
        lambda _: _check_config(optimizer__boundaries=(30, 20)),
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

ROWS = [*CENTERS, *LOSSES, *MODELS, *ATTACKS, *DATA, *EVALUATION, *TRAINING]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_the_message_names_the_value_and_what_is_accepted(row, tmp_path):
    with pytest.raises(row.exception) as caught:
        row.call(tmp_path)
    message = str(caught.value)
    assert re.search(row.regex, message, re.DOTALL), message


def test_the_good_input_that_rows_change_is_good(tmp_path):
    assert np.abs(np.asarray(_attack()) - IMAGES).max() > 0
    assert _robust_accuracy().num_examples == len(IMAGES)
    assert _load_npz(tmp_path).num_classes == 3
    _check_config()


def test_double_precision_is_refused_with_what_to_do():
    with jax.enable_x64(True), pytest.raises(ValueError, match="jax_enable_x64 is on"):
        attacks.pgd(_logits, jax.random.key(0), IMAGES, LABELS, epsilon=0.1)
    with jax.enable_x64(True), jax.enable_x64(False):
        attacks.pgd(_logits, jax.random.key(0), IMAGES, LABELS, epsilon=0.1)
