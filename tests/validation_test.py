"""Validation: what it counts, and that it alone says which checkpoint is best."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from configs import digits
from mmc_jax import data, parallel
from mmc_jax.checkpoint import Checkpointer
from mmc_jax.train import loop, train
from mmc_jax.train.validate import make_validate
from tests.center_training_test import shift_state


def darken(logits_fn, keys, images, labels):
    """An attack of no knowledge."""
    return images - 0.25


@pytest.mark.needs_eight_devices
@pytest.mark.parametrize(("mode", "num_devices"), [("jit", 1), ("pmap", 8)])
def test_clean_and_attacked_images_are_counted_apart(mode, num_devices):
    # A pixel p is a feature p - 0.5, and its sign the class. Clean, four of five are
    # right; darker by 0.25, two: .8 is right still, .2 too, .6 and .7 no more.
    state = shift_state("mahalanobis", optax.sgd(0.1))
    shift = {"backbone": {"shift": np.full((1, 1), -0.5, np.float32)}}
    pixels = np.array([0.8, 0.2, 0.6, 0.7, 0.9])
    images = np.uint8(255 * pixels).reshape(-1, 1, 1, 1)
    labels = np.array([0, 1, 0, 0, 1], np.int32)
    expected = {
        None: {"validation_accuracy": 0.8},
        darken: {"validation_accuracy": 0.8, "validation_adversarial_accuracy": 0.4},
    }
    for attack, scores in expected.items():
        validate = make_validate(
            data.ArrayDataset(images, labels),
            state.model,
            attack,
            mode=mode,
            devices=jax.devices()[:num_devices],
        )
        assert validate({**state.variables, "params": shift}) == pytest.approx(scores)


@pytest.mark.parametrize(("arg", "best"), [("adv=none", 2), ("adv=pgd", 1)])
def test_the_best_checkpoint_is_chosen_by_validation(arg, best, monkeypatch, tmp_path):
    config = digits.get_config(f"loss=mmc,{arg},runlocal")
    config.update(dict(num_epochs=3, checkpoint_every_epochs=1, num_devices=1))
    scores = iter(((0.5, 0.4), (0.9, 0.1), (0.6, 0.2)))
    validated = []

    def fake_validate(variables):
        names = ("validation_accuracy", "validation_adversarial_accuracy")
        return dict(zip(names, next(scores), strict=True))

    def make_fake_validate(dataset, model, attack, **options):
        validated.append(dataset)
        return fake_validate

    def skip_steps(state, dataset, indices, positions, count, key):
        metrics = dict(loss=1.0, accuracy=0.5, gradient_norm=1.0)
        return state.replace(step=state.step + count), metrics

    monkeypatch.setattr(loop, "make_validate", make_fake_validate)
    monkeypatch.setattr(parallel, "parallelize", lambda *args, **kwargs: skip_steps)
    state = train(config, tmp_path, progress=False)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        assert saved.restore(state, best=True)[0] == best * int(state.step) / 3
    (dataset,) = validated
    splits = loop.load_data(config)
    np.testing.assert_array_equal(dataset.images, splits.validation.images)
