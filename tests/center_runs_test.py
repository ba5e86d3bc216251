"""Whole runs with trained, and with hierarchical, centers."""

from __future__ import annotations

import functools
import json

import chex
import numpy as np
import pytest

import mmc_jax
from configs import cifar100, digits
from mmc_jax import centers, data, models
from mmc_jax.train import build, loop, train
from tests.center_training_test import Layer


def tiny_config(arg, **overrides):
    config = digits.get_config(f"{arg},runlocal")
    config.update(dict(max_train_images=200, batch_size=40, steps_per_call=5))
    config.update(dict(parallel="jit", num_devices=1))
    config.update_from_flattened_dict(overrides)
    return config


def test_run_with_center_loss_is_loaded_with_its_centers(tmp_path):
    state = train(tiny_config("loss=center"), tmp_path, progress=False)
    _, variables, logits_fn, _ = mmc_jax.load(tmp_path, checkpoint="last")
    chex.assert_trees_all_close(variables, state.variables, rtol=0, atol=0)
    # At first they are within Glorot's bound.
    moved = np.abs(variables["centers"]["centers"]).max(axis=1)
    assert moved.min() > np.sqrt(6 / (10 + 256))
    assert logits_fn(np.zeros((1, 8, 8, 1), np.float32)).shape == (1, 10)


@functools.cache
def tree_of_classes():
    """Ten digits under three parents, as data with coarse labels."""
    splits = data.load("digits", validation_size=200)
    parents = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2], np.int32)

    def with_parents(part):
        return data.ArrayDataset(part.images, part.labels, parents[part.labels])

    parts = map(with_parents, (splits.train, splits.validation, splits.test))
    return parents, data.DataSplits("tree", *parts, num_classes=10, source="here")


def test_run_with_hierarchical_centers(tmp_path, monkeypatch):
    parents, splits = tree_of_classes()
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: splits)
    config = tiny_config("loss=elastic_mmc,centers=hierarchical")
    config.model.child_center_norm = 2.0
    state = train(config, tmp_path, progress=False)
    expected = centers.hierarchical_centers(parents, 256, center_norms=(10.0, 2.0))
    preset = state.model_state["preset_centers"]["centers"]
    np.testing.assert_allclose(preset, expected, atol=1e-6)
    assert np.abs(state.model_state["centers"]["centers"] - preset).max() > 1e-3
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["class_parents"] == parents.tolist()
    model, variables, _, _ = mmc_jax.load(tmp_path, checkpoint="last")
    assert model.class_parents == tuple(parents)
    chex.assert_trees_all_close(variables, state.variables, rtol=0, atol=0)


def test_cifar100_has_hierarchical_centers_by_its_coarse_labels(tfds_dir):
    config = cifar100.get_config("loss=mmc,centers=hierarchical,runlocal")
    config.data_dir = str(tfds_dir)
    splits = loop.load_data(config)
    parents = build.class_parents(config, splits)
    model = build.create_model(config, 100, class_parents=parents)
    mu = np.asarray(model.clone(backbone=Layer(256))._make_centers())
    expected = centers.hierarchical_centers(
        data.load("cifar100", data_dir=tfds_dir).class_parents(),
        256,
        center_norms=(10.0, 1.0),
    )
    np.testing.assert_array_equal(mu, expected)
    # Siblings are 1.6 apart, all others over 12.
    distances = np.linalg.norm(mu[:, None] - mu[None], axis=-1)
    siblings = np.equal.outer(parents, parents)
    np.testing.assert_allclose(
        distances[siblings & (distances > 0)], np.sqrt(2.5), rtol=1e-4
    )
    assert distances[~siblings].min() > 12


def test_hierarchical_centers_need_coarse_labels(tmp_path):
    with pytest.raises(
        ValueError, match=r"'hierarchical' .*digits has no coarse .*opt"
    ):
        train(tiny_config("loss=mmc,centers=hierarchical"), tmp_path, progress=False)
    with pytest.raises(ValueError, match="one parent for each of the 3 .* None"):
        models.create("cnn", num_classes=3, centers="hierarchical")
    with pytest.raises(ValueError, match=r"0 to their number - 1.* got \[0 2\]"):
        models.create(
            "cnn", num_classes=3, centers="hierarchical", class_parents=(0, 2, 2)
        )
    with pytest.raises(ValueError, match="center_norm .*-1"):
        models.create(
            "cnn",
            num_classes=3,
            centers="hierarchical",
            class_parents=(0, 1, 1),
            child_center_norm=-1.0,
        )


def test_parents_may_be_an_array_but_of_integers():
    create = functools.partial(
        models.create, "cnn", num_classes=3, centers="hierarchical"
    )
    assert create(class_parents=np.array([0, 0, 1])).class_parents == (0, 0, 1)
    with pytest.raises(ValueError, match="integer"):
        create(class_parents=np.array([0.5, 0.5, 1.7]))
