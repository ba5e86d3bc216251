"""Wrong input to attacks; `bad_input_cases` says how to add a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import attacks
from mmc_jax.attacks import objectives, with_random_targets
from tests.bad_input_cases import (
    IMAGES,
    LABELS,
    Row,
    attack_good_images,
    check,
    make_key,
    with_value,
)

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
        lambda _: attack_good_images(norm="l7"),
        ValueError,
        r"norm must be one of linf, l2.*'l7'",
    ),
    Row(
        "unknown-objective",
        lambda _: attack_good_images(objective="hinge"),
        ValueError,
        r"objective must be one of .*cross_entropy.*'hinge'",
    ),
    Row(
        "unknown-keep",
        lambda _: attack_good_images(keep="first"),
        ValueError,
        r"keep must be one of best, last.*'first'",
    ),
    Row(
        "negative-epsilon",
        lambda _: attack_good_images(epsilon=-0.1),
        ValueError,
        r"epsilon must be at least 0 and finite.*-0\.1",
    ),
    Row(
        "nan-epsilon",
        lambda _: attack_good_images(epsilon=float("nan")),
        ValueError,
        r"epsilon must be at least 0 and finite.*nan",
    ),
    Row(
        "epsilon-in-words",
        lambda _: attack_good_images(epsilon="8/255"),
        ValueError,
        r"epsilon must be a number.*'8/255'",
    ),
    Row(
        "epsilon-of-another-batch",
        lambda _: attack_good_images(epsilon=np.full(3, 0.1)),
        ValueError,
        r"epsilon must be a number or one an example, \[4\].*\(3,\)",
    ),
    Row(
        "no-steps",
        lambda _: attack_good_images(num_steps=0),
        ValueError,
        r"num_steps must be at least 1.*got 0",
    ),
    Row(
        "half-a-step",
        lambda _: attack_good_images(num_steps=2.5),
        ValueError,
        r"num_steps must be an integer.*2\.5",
    ),
    Row(
        "restarts-from-one-point",
        lambda _: attack_good_images(num_restarts=3, random_start=False),
        ValueError,
        r"num_restarts=3 needs random_start=True",
    ),
    Row(
        "negative-decay",
        lambda _: attack_good_images(attacks.mim, decay=-1.0),
        ValueError,
        r"decay must be.*-1",
    ),
    Row(
        "uint8-images",
        lambda _: attack_good_images(images=np.zeros(IMAGES.shape, np.uint8)),
        ValueError,
        r"images must be float32 in \[0, 1\].*uint8.*/ 255",
    ),
    Row(
        "one-image-without-a-batch",
        lambda _: attack_good_images(images=IMAGES[0]),
        ValueError,
        r"images must be \[batch, height, width, channels\].*\(4, 4, 1\)",
    ),
    Row(
        "normalised-images",
        lambda _: attack_good_images(images=with_value(IMAGES, -1.5)),
        ValueError,
        r"images must be finite and inside bounds \(0, 1\).*-1\.5",
    ),
    Row(
        "nan-in-images",
        lambda _: attack_good_images(images=with_value(IMAGES, np.nan)),
        ValueError,
        r"images must be finite.*nan",
    ),
    Row(
        "bounds-in-the-wrong-order",
        lambda _: attack_good_images(bounds=(1.0, 0.0)),
        ValueError,
        r"bounds must be finite, \(lowest, highest\).*\(1, 0\)",
    ),
    Row(
        "one-hot-labels",
        lambda _: attack_good_images(labels=np.eye(4, 3, dtype=np.float32)),
        ValueError,
        r"labels must be integers \[batch\].*not one-hot.*\(4, 3\)",
    ),
    Row(
        "label-above-the-classes",
        lambda _: attack_good_images(labels=with_value(LABELS, 3)),
        ValueError,
        r"labels must be below the number of classes, 3.*got 3",
    ),
    Row(
        "negative-label",
        lambda _: attack_good_images(labels=with_value(LABELS, -1)),
        ValueError,
        r"labels must be at least 0; got -1",
    ),
    Row(
        "target-equal-to-the-label",
        lambda _: attack_good_images(targets=np.array([1, 1, 0, 2])),
        ValueError,
        r"targets must differ from labels.*1",
    ),
    Row(
        "target-above-the-classes",
        lambda _: attack_good_images(targets=np.array([1, 2, 0, 7])),
        ValueError,
        r"targets must be below the number of classes, 3.*got 7",
    ),
    Row(
        "pairwise-margin-without-targets",
        lambda _: attack_good_images(objective="pairwise_margin"),
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
        lambda _: attack_good_images(key=np.zeros(2, np.uint32)),
        ValueError,
        r"key must be a typed key.*jax\.random\.key.*uint32",
    ),
    Row(
        "a-seed-for-a-key",
        lambda _: attack_good_images(key=3),
        ValueError,
        r"key must be a typed key.*int",
    ),
    Row(
        "keys-of-another-batch",
        lambda _: attack_good_images(key=jax.random.split(make_key(), 3)),
        ValueError,
        r"key must be one key or one an example, \[4\].*\(3,\)",
    ),
    Row(
        "a-model-that-is-no-function",
        lambda _: attack_good_images(logits_fn=np.zeros((16, 3))),
        ValueError,
        r"logits_fn must be a function.*float64 of shape \(16, 3\)",
    ),
    Row(
        "no-model",
        lambda _: attack_good_images(logits_fn=None),
        ValueError,
        r"logits_fn must be a function.*None",
    ),
    Row(
        "a-model-of-features",
        lambda _: attack_good_images(logits_fn=lambda images: images),
        ValueError,
        r"logits_fn must return .*\[batch, num_classes\].*\(4, 4, 4, 1\)",
    ),
    Row(
        "negative-sigma",
        lambda _: attacks.gaussian_noise(None, make_key(), IMAGES, LABELS, sigma=-0.1),
        ValueError,
        r"sigma must be.*-0\.1",
    ),
    Row(
        "more-than-half-a-turn",
        lambda _: attacks.rotation(None, make_key(), IMAGES, LABELS, max_angle=270.0),
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


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.id)
def test_the_message_names_the_value_and_what_is_accepted(row, tmp_path):
    check(row, tmp_path)
