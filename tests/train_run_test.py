"""From a config to a run, and from a run to its model: that each part is wired in."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmc_jax
from configs import cifar10, digits, mnist
from mmc_jax import data, experiments, parallel
from mmc_jax.train import build, loop, train
from mmc_jax.train.log import Log
from tests.train_test import tiny_config


def prepared(config, monkeypatch):
    """Return a run, and the step that it would take with its parts bound."""
    steps = []
    monkeypatch.setattr(loop, "make_multi_step", steps.append)
    monkeypatch.setattr(parallel, "parallelize", lambda *given, **options: None)
    monkeypatch.setattr(loop, "make_validate", lambda *given, **options: None)
    config.num_devices = 1
    return loop.prepare(config, loop.load_data(config)), steps[0].keywords


def pretend(monkeypatch, steps, scores):
    """Let a run take other steps, and validation return these scores."""
    scores = iter(scores)

    def make_validate(*given, **options):
        return lambda variables: {"validation_accuracy": next(scores)}

    monkeypatch.setattr(loop, "make_validate", make_validate)
    monkeypatch.setattr(parallel, "parallelize", lambda *given, **options: steps)


def test_the_optimiser_s_rate_is_the_schedule_s():
    config = cifar10.get_config()
    config.optimizer.update(dict(boundaries=(1,), momentum=0.0, conv_l2=0.0))
    rule = build.make_optimizer(config, steps_per_epoch=2)
    weights = {"w": jnp.ones(1)}
    state, sizes = rule.init(weights), []
    for _ in range(4):
        change, state = rule.update(weights, state, weights)
        sizes.append(-float(change["w"][0]))
    np.testing.assert_allclose(sizes, [0.01, 0.01, 0.001, 0.001], rtol=1e-5)


def test_the_perturbation_grows_over_the_warm_up(monkeypatch):
    run, bound = prepared(digits.get_config("loss=mmc,adv=pgd"), monkeypatch)
    scale, epoch = bound["attack_scale"], run.steps_per_epoch
    found = [float(scale(step)) for step in (0, 2 * epoch, 4 * epoch, 9 * epoch)]
    assert found == [0.0, 0.5, 1.0, 1.0]
    assert mnist.get_config("adv=pgd").attack.warmup_epochs == 2


def test_images_are_augmented_and_centered_by_their_mean(monkeypatch):
    run, bound = prepared(tiny_config(), monkeypatch)
    assert bound["augment"] == data.make_augment(shift=0.1, flip=False)
    mean = loop.load_data(tiny_config()).train.mean_image()
    found = run.state.model_state["preprocessing"]["mean"]
    np.testing.assert_array_equal(found, mean)
    assert cifar10.get_config().augment.flip


def test_another_seed_is_another_run(tmp_path, monkeypatch):
    found, seen = [], []

    def steps(state, dataset, indices, positions, count, key):
        seen.append((indices.copy(), jax.random.key_data(key)))
        metrics = dict(loss=1.0, accuracy=1.0, gradient_norm=1.0)
        return state.replace(step=state.step + count), metrics

    for seed in (0, 1):
        config = tiny_config(seed=seed, num_epochs=1)
        config.model.centers = "random"
        pretend(monkeypatch, steps, [1.0])
        state = train(config, tmp_path / str(seed), progress=False)
        weights = jax.tree.leaves(state.params)[-1]
        found.append((weights, state.model_state["centers"]["centers"], *seen[-1]))
    for one, other in zip(*found, strict=True):
        assert np.any(np.asarray(one) != np.asarray(other))


@pytest.mark.parametrize(("which", "epoch"), [({}, 2), ({"checkpoint": "last"}, 3)])
def test_the_best_checkpoint_is_what_is_loaded(which, epoch, tmp_path, monkeypatch):
    def steps(state, dataset, indices, positions, count, key):
        moved = jax.tree.map(lambda p: p + count, state.params)
        metrics = dict(loss=1.0, accuracy=0.5, gradient_norm=1.0)
        return state.replace(step=state.step + count, params=moved), metrics

    pretend(monkeypatch, steps, (0.5, 0.9, 0.6))
    config = digits.get_config("loss=mmc,runlocal")
    config.update(dict(num_epochs=3, checkpoint_every_epochs=1, num_devices=1))
    last = train(config, tmp_path, progress=False)
    loaded = [mmc_jax.load(tmp_path, **which)[1]]
    if not which:
        loaded.append(experiments.Subject("m", config, tmp_path).variables)
    back = (3 - epoch) * int(last.step) / 3
    expected = jax.tree.map(lambda p: p - back, last.params)
    for variables in loaded:
        chex.assert_trees_all_close(variables["params"], expected, atol=1e-4)


def test_averaged_weights_are_validated_and_loaded(tmp_path, monkeypatch):
    judged, make = [], loop.make_validate

    def spy(*given, **options):
        validate = make(*given, **options)

        def judge(variables):
            judged.append(jax.device_get(variables["params"]))
            return validate(variables)

        return judge

    monkeypatch.setattr(loop, "make_validate", spy)
    config = tiny_config(**{"optimizer.ema_decay": 0.9})
    state = train(config, tmp_path, progress=False)
    loaded = mmc_jax.load(tmp_path, checkpoint="last")[1]["params"]
    for found in (judged[-1], loaded):
        chex.assert_trees_all_close(found, state.average["params"], rtol=0, atol=0)
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), loaded, state.params)
    assert max(jax.tree.leaves(gaps)) > 1e-3


def test_the_clock_counts_training_alone_and_goes_on(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mmc_jax.train.log.time.perf_counter", lambda: now[0])
    with Log(tmp_path, step=0) as log:
        log.start_clock()
        now[0] = 2.0
        with log.stopped_clock():
            now[0] = 50.0
        now[0] = 51.0
        log.write(1, 1, {})
        assert log.seconds == 3.0
    with Log(tmp_path, step=1) as log:
        log.start_clock()
        now[0] += 4.0
        assert log.seconds == 7.0
