"""Wrong data and evaluations; `bad_input_cases` says how to add a row."""

from __future__ import annotations

import numpy as np
import pytest

from mmc_jax import data
from tests.bad_input_cases import (
    IMAGES,
    LABELS,
    Row,
    check,
    judge_good_images,
    load_garbage,
    load_npz,
    with_value,
)

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
        load_garbage,
        ValueError,
        r"garbage\.npz is not a readable \.npz",
    ),
    Row(
        "npz-without-labels",
        lambda directory: load_npz(directory, train_labels=None),
        ValueError,
        r"mine\.npz lacks train_labels; .*test_labels",
    ),
    Row(
        "npz-with-flat-images",
        lambda directory: load_npz(directory, train_images=np.zeros((30, 16))),
        ValueError,
        r"train_images must be \[size, height, width\].*\[30, 16\]",
    ),
    Row(
        "npz-with-nan",
        lambda directory: load_npz(
            directory, test_images=with_value(np.zeros((6, 4, 4, 1)), np.nan)
        ),
        ValueError,
        r"test_images\[1, 0, 0, 0\] = nan.*0 to 1",
    ),
    Row(
        "npz-of-levels-as-floats",
        lambda directory: load_npz(directory, train_images=np.full((30, 4, 4), 255.0)),
        ValueError,
        r"train_images\[0, 0, 0\] = 255.*0 to 1",
    ),
    Row(
        "npz-of-other-integers",
        lambda directory: load_npz(directory, train_images=np.zeros((30, 4, 4), int)),
        ValueError,
        r"train_images must be uint8.*int64",
    ),
    Row(
        "npz-with-float-labels",
        lambda directory: load_npz(directory, train_labels=np.zeros(30)),
        ValueError,
        r"train_labels must be integers.*float64",
    ),
    Row(
        "npz-with-a-negative-label",
        lambda directory: load_npz(
            directory, train_labels=with_value(np.arange(30) % 3, -1)
        ),
        ValueError,
        r"train_labels\[1\] = -1 is out of range; accepted: 0 to",
    ),
    Row(
        "npz-with-a-test-label-that-training-lacks",
        lambda directory: load_npz(directory, test_labels=np.arange(6)),
        ValueError,
        r"test_labels\[3\] = 3 is out of range; accepted: 0 to 2",
    ),
    Row(
        "npz-with-too-few-labels",
        lambda directory: load_npz(directory, train_labels=np.arange(29) % 3),
        ValueError,
        r"30 train_images but 29 train_labels",
    ),
    Row(
        "npz-with-two-image-sizes",
        lambda directory: load_npz(
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
        lambda _: judge_good_images(norm="l0"),
        ValueError,
        r"unknown norm 'l0'; accepted: linf, l2, l1",
    ),
    Row(
        "evaluation-mode",
        lambda _: judge_good_images(mode="average"),
        ValueError,
        r"unknown mode 'average'; accepted: cascade, individual",
    ),
    Row(
        "evaluation-epsilon",
        lambda _: judge_good_images(epsilon=-1.0),
        ValueError,
        r"epsilon must be a finite number >= 0, got -1",
    ),
    Row(
        "evaluation-epsilon-in-words",
        lambda _: judge_good_images(epsilon="8/255"),
        ValueError,
        r"epsilon must be a finite number >= 0, got '?8/255",
    ),
    Row(
        "evaluation-batch-size",
        lambda _: judge_good_images(batch_size=0),
        ValueError,
        r"batch_size must be at least 1, got 0",
    ),
    Row(
        "evaluation-key",
        lambda _: judge_good_images(key=7),
        ValueError,
        r"key must be one typed key, such as jax\.random\.key\(0\).*7",
    ),
    Row(
        "evaluation-of-normalised-images",
        lambda _: judge_good_images(images=with_value(IMAGES, 2.5)),
        ValueError,
        r"images span \[0\.5, 2\.5\], outside the box \[0, 1\]",
    ),
    Row(
        "evaluation-of-nan",
        lambda _: judge_good_images(images=with_value(IMAGES, np.nan)),
        ValueError,
        r"images hold 16 values that are NaN or infinite",
    ),
    Row(
        "evaluation-of-nothing",
        lambda _: judge_good_images(images=IMAGES[:0], labels=LABELS[:0]),
        ValueError,
        r"images are empty",
    ),
    Row(
        "evaluation-label-above-the-classes",
        lambda _: judge_good_images(labels=with_value(LABELS, 3)),
        ValueError,
        r"labels\[1\] = 3;.*3 classes, accepted: 0 to 2",
    ),
    Row(
        "evaluation-negative-label",
        lambda _: judge_good_images(labels=with_value(LABELS, -1)),
        ValueError,
        r"labels\[1\] = -1; accepted: 0 or more",
    ),
    Row(
        "evaluation-of-one-class",
        lambda _: judge_good_images(logits_fn=lambda images: images[:, 0, 0]),
        ValueError,
        r"at least two classes, got \[1, 1\]",
    ),
    Row(
        "row-with-targets",
        lambda _: judge_good_images(
            attacks={"a row": dict(name="pgd", targets=(1, 2, 0, 1))}
        ),
        ValueError,
        r"row 'a row'.*targets",
    ),
    Row(
        "evaluation-of-too-few-labels",
        lambda _: judge_good_images(labels=LABELS[:3]),
        ValueError,
        r"labels must be integers of shape \[4\].*\[3\]",
    ),
    Row(
        "evaluation-example-twice",
        lambda _: judge_good_images(example_ids=[5, 6, 6, 7]),
        ValueError,
        r"example_ids must differ.* 6",
    ),
    Row(
        "evaluation-without-attacks",
        lambda _: judge_good_images(attacks={}),
        ValueError,
        r"attacks must map at least one row name",
    ),
    Row(
        "row-without-an-attack",
        lambda _: judge_good_images(attacks={"a row": dict(num_steps=3)}),
        ValueError,
        r"row 'a row' names no attack.*name=",
    ),
    Row(
        "row-with-an-unknown-attack",
        lambda _: judge_good_images(attacks={"a row": dict(name="deepfake")}),
        ValueError,
        r"row 'a row': unknown attack 'deepfake'; known: .*pgd",
    ),
    Row(
        "row-with-an-epsilon-of-its-own",
        lambda _: judge_good_images(attacks={"a row": dict(name="pgd", epsilon=0.2)}),
        ValueError,
        r"row 'a row' sets epsilon.*whole evaluation",
    ),
    Row(
        "row-with-an-unknown-hyperparameter",
        lambda _: judge_good_images(attacks={"a row": dict(name="pgd", steps=3)}),
        ValueError,
        r"row 'a row': pgd has no hyperparameter 'steps'.*num_steps",
    ),
    Row(
        "row-with-an-unknown-objective",
        lambda _: judge_good_images(
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
        lambda _: judge_good_images(attacks={"a row": "pgd"}),
        ValueError,
        r"row 'a row'.*dict\(name=.*'pgd'",
    ),
    Row(
        "evaluation-of-a-model-of-features",
        lambda _: judge_good_images(logits_fn=lambda images: images),
        ValueError,
        r"logits_fn must return \[batch, num_classes\].*\[1, 4, 4, 1\]",
    ),
]


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.id) for row in [*DATA, *EVALUATION]]
)
def test_the_message_names_the_value_and_what_is_accepted(row, tmp_path):
    check(row, tmp_path)
