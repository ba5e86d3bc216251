"""The step and the loop: what they compute, and that nothing outside changes it."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

import mmc_jax
from configs import cifar10, digits
from mmc_jax import attacks, data, losses, parallel
from mmc_jax.checkpoint import Checkpointer
from mmc_jax.models.heads import Classifier
from mmc_jax.train import NonFiniteLossError, build, loop, read_metrics, train
from mmc_jax.train.crafting import Crafting
from mmc_jax.train.log import Log
from mmc_jax.train.step import create_train_state, make_multi_step, train_step
from mmc_jax.train.workdir import open_workdir
from mmc_jax.types import Batch


class TinyBackbone(nn.Module):
    """A convolution with batch normalisation: all that devices could disagree on."""

    axis_name: str | None = None
    feature_dim: int = 9

    @nn.compact
    def __call__(self, images, train=False):
        hidden = nn.Conv(4, (3, 3), strides=(2, 2), use_bias=False)(images)
        hidden = nn.BatchNorm(
            use_running_average=not train, axis_name=self.axis_name, epsilon=1e-3
        )(hidden)
        hidden = nn.relu(hidden).reshape((len(images), -1))
        return nn.Dense(self.feature_dim)(hidden)


def tiny_state(optimizer, *, mode="jit", ema_decay=0.0):
    model = Classifier(
        backbone=TinyBackbone(axis_name=parallel.axis_name_for(mode)),
        num_classes=10,
        head="mahalanobis",
        center_norm=1.0,
    )
    return create_train_state(
        model, optimizer, jax.random.key(3), (8, 8, 1), ema_decay=ema_decay
    )


def tiny_batch(size=16):
    rng = np.random.default_rng(0)
    return Batch(
        images=rng.random((size, 8, 8, 1), np.float32),
        labels=rng.integers(0, 10, size).astype(np.int32),
        positions=np.arange(size, dtype=np.int32),
    )


@functools.cache
def make_run(optimizer_name, mode, num_devices):
    """Compile the steps once: how many of them are taken is dynamic."""
    attack = attacks.make_attack(
        "pgd",
        epsilon=0.1,
        num_steps=2,
        objective="own_class",
        keep="last",
        stop_on_success=False,
    )
    step_fn = functools.partial(
        train_step,
        # Gradients of the order of one, so that 1e-6 is what float32 resolves.
        loss_fn=losses.make_loss("mmc", loss_scale=0.5),
        attack=attacks.with_random_targets(attack, 10),
        augment=data.make_augment(shift=0.1, flip=True),
        axis_name=parallel.axis_name_for(mode),
    )
    rng = np.random.default_rng(1)
    dataset = data.DeviceDataset(
        images=rng.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8),
        labels=rng.integers(0, 10, 64).astype(np.int32),
    )
    indices = rng.integers(0, 64, (20, 16)).astype(np.int32)
    multi_step = parallel.parallelize(
        make_multi_step(step_fn),
        mode=mode,
        devices=jax.devices()[:num_devices],
        batch_axes=(None, None, 1, 0, None, None),
    )
    optimizer = {"sgd": optax.sgd(0.01, momentum=0.9), "adam": optax.adam(0.01)}
    state = tiny_state(optimizer[optimizer_name], mode=mode)
    positions = np.arange(16, dtype=np.int32)

    def run(num_steps):
        count, key = np.int32(num_steps), jax.random.key(5)
        return multi_step(state, dataset, indices, positions, count, key)

    return run


@pytest.mark.needs_eight_devices
@pytest.mark.parametrize("mode", parallel.MODES)
def test_any_number_of_devices_takes_the_same_steps(mode):
    single, several = make_run("sgd", "pmap", 1), make_run("sgd", mode, 8)
    for num_steps, tolerance in ((1, 1e-6), (20, 1e-5)):
        expected, expected_metrics = single(num_steps)
        state, metrics = several(num_steps)
        chex.assert_trees_all_close(
            state.variables, expected.variables, rtol=0, atol=tolerance
        )
        chex.assert_trees_all_close(
            metrics, expected_metrics, rtol=0, atol=10 * tolerance
        )
    start = tiny_state(optax.sgd(0.01)).params
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), expected.params, start)
    assert min(map(float, jax.tree.leaves(moved))) > 1e-5


@pytest.mark.needs_eight_devices
@pytest.mark.parametrize(
    "mode", ["pmap", pytest.param("jit", marks=pytest.mark.verify)]
)
def test_adam_sees_the_same_gradients_on_any_number_of_devices(mode):
    # Parameters are not compared: Adam blows rounding noise up to a full step.
    expected, expected_metrics = make_run("adam", "pmap", 1)(1)
    state, metrics = make_run("adam", mode, 8)(1)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=0, atol=1e-5)
    # Adam's first moment after one step is a tenth of the gradient.
    chex.assert_trees_all_close(
        state.opt_state[0].mu, expected.opt_state[0].mu, rtol=0, atol=1e-7
    )
    chex.assert_trees_all_close(
        state.model_state, expected.model_state, rtol=0, atol=1e-6
    )


def test_how_steps_are_grouped_into_calls_changes_no_bit():
    def run(counts):
        step_fn = functools.partial(train_step, loss_fn=losses.make_loss("mmc"))
        traces = []

        def traced(*args):
            traces.append(1)
            return make_multi_step(step_fn)(*args)

        multi_step = jax.jit(traced)
        state, first = tiny_state(optax.sgd(0.01)), 0
        batch = tiny_batch(64)
        dataset = data.DeviceDataset(
            images=np.uint8(batch.images * 255), labels=batch.labels
        )
        order = np.random.default_rng(0).integers(0, 64, (6, 16), np.int32)
        for count in counts:
            rows = np.zeros((6, 16), np.int32)
            rows[:count] = order[first : first + count]
            state, _ = multi_step(
                state,
                dataset,
                rows,
                np.arange(16, dtype=np.int32),
                np.int32(count),
                jax.random.key(1),
            )
            first += count
        assert len(traces) == 1
        return state.params

    chex.assert_trees_all_close(run([1, 3, 2]), run([6]), rtol=0, atol=0)


def test_average_follows_the_weights():
    state = tiny_state(optax.sgd(0.1), ema_decay=0.9)
    step = jax.jit(functools.partial(train_step, loss_fn=losses.make_loss("mmc")))
    after, _ = step(state, tiny_batch(), jax.random.key(0))
    expected = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, state.params, after.params
    )
    chex.assert_trees_all_close(
        after.eval_variables["params"], expected, rtol=0, atol=1e-6
    )
    stats = after.eval_variables["batch_stats"]["backbone"]["BatchNorm_0"]["mean"]
    new_stats = after.model_state["batch_stats"]["backbone"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(stats, 0.1 * new_stats, rtol=1e-5)


def test_attack_scale_shrinks_the_perturbation():
    def shifted(logits_fn, key, images, labels, *, targets=None):
        return jnp.clip(images + 0.2, 0, 1)

    def loss_under(scale, attack=shifted):
        step = functools.partial(
            train_step,
            loss_fn=losses.make_loss("mmc"),
            attack=attack,
            attack_scale=None if scale is None else lambda step: jnp.float32(scale),
        )
        state = tiny_state(optax.sgd(0.1))
        _, metrics = jax.jit(step)(state, tiny_batch(), jax.random.key(0))
        return float(metrics["loss"])

    np.testing.assert_allclose(loss_under(0.0), loss_under(None, None), rtol=1e-6)
    np.testing.assert_allclose(loss_under(1.0), loss_under(None), rtol=1e-6)
    assert loss_under(0.5) != pytest.approx(loss_under(1.0), rel=1e-4)


def test_penalty_is_on_convolution_kernels_alone():
    config = cifar10.get_config("loss=mmc")
    config.optimizer.momentum = 0.0
    state = tiny_state(build.make_optimizer(config, 10))
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    changes, _ = state.optimizer.update(zeros, state.opt_state, state.params)
    kernel = state.params["backbone"]["Conv_0"]["kernel"]
    expected = -config.optimizer.learning_rate * 2 * config.optimizer.conv_l2 * kernel
    np.testing.assert_allclose(
        changes["backbone"]["Conv_0"]["kernel"], expected, rtol=1e-5
    )
    for leaf in jax.tree.leaves(changes["backbone"]["Dense_0"]):
        assert not leaf.any()


def test_rate_falls_tenfold_after_each_boundary():
    config = cifar10.get_config()
    schedule = build.make_schedule(config, steps_per_epoch=10)
    rates = [float(schedule(step)) for step in (0, 1009, 1010, 1509, 1510)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.001, 0.001, 0.0001], rtol=1e-5)


def tiny_config(**overrides):
    """Two short epochs on digits."""
    config = digits.get_config("loss=mmc,runlocal")
    config.num_epochs = 2
    config.max_train_images = 200
    config.batch_size = 40
    config.steps_per_call = 2
    config.checkpoint_every_epochs = 1
    config.parallel = "jit"
    config.num_devices = 1
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir, told = tmp_path_factory.mktemp("finished"), []
    state = train(
        tiny_config(num_epochs=4), workdir, progress=False, report=told.append
    )
    assert told == [
        step / 20 for e in range(4) for step in (5 * e + 2, 5 * e + 4, 5 * e + 5)
    ]
    return workdir, state


def test_loop_learns_and_writes_what_it_did(finished_run):
    workdir, state = finished_run
    lines = read_metrics(workdir)
    losses_seen = [line["loss"] for line in lines if "loss" in line]
    assert losses_seen[-1] < 0.8 * losses_seen[0]
    # 5 steps an epoch in calls of 2, 2 and 1, and a line of validation.
    assert [line["step"] for line in lines[:4]] == [2, 4, 5, 5]
    assert int(state.step) == lines[-1]["step"] == 20
    scored = [line["validation_accuracy"] for line in lines if "loss" not in line]
    assert len(scored) == 4 and scored[-1] > 0.3
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    record = json.loads((workdir / "run.json").read_text())
    assert record["seed"] == 0 and record["config"]["loss"]["name"] == "mmc"
    assert record["environment"]["jax"] == jax.__version__
    assert record["environment"]["git_revision"]
    assert list((workdir / "tensorboard").iterdir())


def test_load_gives_the_trained_model_back(finished_run):
    workdir, state = finished_run
    model, variables, logits_fn, config = mmc_jax.load(workdir, checkpoint="last")
    chex.assert_trees_all_close(variables, state.eval_variables, rtol=0, atol=0)
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(
        logits_fn(images), model.apply(variables, images).logits
    )
    assert config.loss.name == "mmc"


def test_interrupted_run_ends_with_the_same_bits(finished_run, tmp_path, monkeypatch):
    _, expected = finished_run
    config = tiny_config(num_epochs=4)
    write = Log.write

    def interrupt(log, step, *args, **kwargs):
        if step == 12:
            raise KeyboardInterrupt
        write(log, step, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Log, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path, progress=False)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        assert saved.all_steps() == [5, 10]
    resumed = train(config, tmp_path, progress=False)
    chex.assert_trees_all_close(resumed.variables, expected.variables, rtol=0, atol=0)
    chex.assert_trees_all_close(resumed.opt_state, expected.opt_state, rtol=0, atol=0)
    steps = [line["step"] for line in read_metrics(tmp_path)]
    assert steps == sorted(steps) and steps.count(12) == 1


@pytest.mark.needs_eight_devices
def test_run_goes_on_with_another_number_of_devices(finished_run, tmp_path):
    _, expected = finished_run
    source, _ = finished_run
    config = tiny_config(num_epochs=4)
    config.num_devices = 8
    config.parallel = "pmap"
    half = tmp_path / "checkpoints"
    half.mkdir()
    # Two of the four epochs were taken on one device.
    assert (source / "checkpoints" / "10").is_dir()
    os.symlink(source / "checkpoints" / "10", half / "10")
    shutil.copy(source / "run.json", tmp_path)
    resumed = train(config, tmp_path, progress=False)
    assert int(resumed.step) == 20
    chex.assert_trees_all_close(resumed.params, expected.params, rtol=0, atol=1e-4)


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny_config(**{"optimizer.learning_rate": 1e6})
    with pytest.raises(NonFiniteLossError, match=r"between steps 0 and 2.*none"):
        train(config, tmp_path, progress=False)


def test_work_directory_refuses_another_config(finished_run):
    workdir, _ = finished_run
    config = tiny_config(num_epochs=4)
    config.optimizer.learning_rate = 0.02
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.01 .* 0.02 now"):
        train(config, workdir, progress=False)


def test_work_directory_refuses_other_data(tmp_path):
    config = digits.get_config("loss=softmax")
    splits = data.load("digits", validation_size=200)
    open_workdir(tmp_path, config, splits)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(1, tiny_state(optax.sgd(0.01)))
    part = data.load("digits", validation_size=199)
    with pytest.raises(ValueError, match=r"other data .*200, .* there, .*199"):
        open_workdir(tmp_path, config, part)
    # As many images, one pixel of one of them, or one label, changed.
    pixels, labels = splits.validation.images.copy(), splits.train.labels.copy()
    pixels[7, 3, 3] ^= 1
    labels[5] = (labels[5] + 1) % 10
    for name, changed in (
        ("validation", dataclasses.replace(splits.validation, images=pixels)),
        ("train", dataclasses.replace(splits.train, labels=labels)),
    ):
        other = dataclasses.replace(splits, **{name: changed})
        with pytest.raises(ValueError, match=rf"images or labels in {name}\)"):
            open_workdir(tmp_path, config, other)
    # An earlier record has no digests: sizes alone can tell.
    record = json.loads((tmp_path / "run.json").read_text())
    del record["data"]["sha256"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    open_workdir(tmp_path, config, splits)


def test_work_directory_refuses_checkpoints_of_nobody_knows_what(tmp_path):
    config = digits.get_config("loss=softmax")
    splits = data.load("digits", validation_size=200)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(1, tiny_state(optax.sgd(0.01)))
    with pytest.raises(ValueError, match=r"holds checkpoints and no run.json"):
        open_workdir(tmp_path, config, splits)
    assert not (tmp_path / "run.json").exists()


def test_a_part_of_sorted_data_has_every_class(tmp_path):
    labels = np.repeat(np.arange(4), 50)
    np.savez(
        tmp_path / "sorted.npz",
        train_images=np.zeros((200, 4, 4), np.uint8),
        train_labels=labels,
        test_images=np.zeros((4, 4, 4), np.uint8),
        test_labels=np.arange(4),
    )
    config = tiny_config(
        dataset=str(tmp_path / "sorted.npz"), validation_size=20, max_train_images=42
    )
    kept = loop.load_data(config).train
    assert sorted(np.bincount(kept.labels)) == [10, 10, 11, 11]
    config.max_train_images = 1000
    assert len(loop.load_data(config).train) == 180


def test_work_directory_refuses_to_pass_a_longer_run_for_a_shorter(finished_run):
    workdir, _ = finished_run
    before = (workdir / "run.json").read_text()
    with pytest.raises(ValueError, match=r"a run of 20 steps, and num_epochs=3 is 15"):
        train(tiny_config(num_epochs=3), workdir, progress=False)
    assert (workdir / "run.json").read_text() == before


def test_work_directory_of_an_earlier_config_is_the_same_run(tmp_path):
    # Before there were recipes, records had none of their fields.
    config = digits.get_config("loss=softmax,adv=pgd")
    splits = data.load("digits", validation_size=200)
    open_workdir(tmp_path, config, splits)
    with Checkpointer(tmp_path / "checkpoints") as saved:
        saved.save(1, tiny_state(optax.sgd(0.01)))
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    for section in ("recipe", "weight_perturbation"):
        del record["config"][section]
    for field in ("labels", "statistics", "clean_weight", "statistics_from"):
        del record["config"]["attack"][field]
    del record["config"]["loss"]["label_smoothing"]
    earlier = json.dumps(record)
    path.write_text(earlier)
    open_workdir(tmp_path, config, splits)
    # And back: the record is now that of the newer config.
    assert "recipe" in json.loads(path.read_text())["config"]
    open_workdir(tmp_path, ml_collections.ConfigDict(record["config"]), splits)
    for field, value in {
        "recipe.name": "mart",
        "attack.labels": "predicted",
        "attack.clean_weight": 0.5,
        "loss.label_smoothing": 0.1,
        "weight_perturbation.gamma": 0.01,
    }.items():
        path.write_text(earlier)
        other = digits.get_config("loss=softmax,adv=pgd")
        other.update_from_flattened_dict({field: value})
        with pytest.raises(ValueError, match=rf"config.{field}: .* there, .*{value}"):
            open_workdir(tmp_path, other, splits)


def test_the_loop_trains_by_the_config_s_recipe(monkeypatch):
    config = digits.get_config(
        "loss=mmc,adv=pgd,recipe=trades,papers_choices,awp,runlocal"
    )
    config.num_devices = 1
    config.weight_perturbation.warmup_epochs = 1
    steps, validations = [], []
    monkeypatch.setattr(loop, "make_multi_step", steps.append)
    monkeypatch.setattr(loop.parallel, "parallelize", lambda *args, **kwargs: None)
    monkeypatch.setattr(
        loop, "make_validate", lambda *args, **kwargs: validations.append(args)
    )
    run = loop.prepare(config, loop.load_data(config))
    options = steps[0].keywords
    assert options["crafting"] == Crafting("predicted", "batch", temperature=20.0)
    assert options["recipe"].centers_from == "clean"
    assert options["recipe"].statistics_from == "clean"
    gammas = [
        float(options["weight_perturbation"](step))
        for step in (run.steps_per_epoch - 1, run.steps_per_epoch)
    ]
    assert gammas == pytest.approx([0.0, 0.005])
    objectives = [
        dict(attack.hyperparameters)["objective"]
        for attack in (options["attack"], validations[0][2])
    ]
    assert objectives == ["kl_divergence", "margin"]


ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [
    sys.executable,
    str(ROOT / "launch" / "train.py"),
    f"--config={ROOT}/configs/digits.py:loss=mmc,runlocal",
    "--config.num_epochs=8",
    "--config.checkpoint_every_epochs=1",
    "--config.parallel=jit",
    "--noprogress",
]


def killed_run(workdir, seconds):
    """Start a run, SIGKILL it `seconds` after it has a checkpoint to go on from.

    Returns whether it still ran.
    """
    process = subprocess.Popen([*COMMAND, f"--workdir={workdir}"])
    while process.poll() is None and not saved_steps(workdir):
        time.sleep(0.02)
    time.sleep(seconds)
    still_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return still_running


def saved_steps(workdir):
    return [path for path in workdir.glob("checkpoints/*") if path.name.isdigit()]


@pytest.fixture(scope="module")
def command_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("command")
    subprocess.run([*COMMAND, f"--workdir={workdir}"], check=True)
    return workdir


def assert_same_model(workdir, other):
    variables, expected = (
        mmc_jax.load(path, checkpoint="last")[1] for path in (workdir, other)
    )
    chex.assert_trees_all_close(variables, expected, rtol=0, atol=0)


def test_killed_run_ends_with_the_same_bits(command_run, tmp_path):
    assert killed_run(tmp_path, 0.2) and saved_steps(tmp_path)
    subprocess.run([*COMMAND, f"--workdir={tmp_path}"], check=True)
    assert_same_model(tmp_path, command_run)


@pytest.mark.verify
@pytest.mark.parametrize("attempt", range(10))
def test_run_killed_again_and_again_ends_with_the_same_bits(
    command_run, tmp_path, attempt
):
    generator = np.random.default_rng(attempt)
    for _ in range(2):
        killed_run(tmp_path, generator.uniform(0, 1))
    subprocess.run([*COMMAND, f"--workdir={tmp_path}"], check=True)
    assert_same_model(tmp_path, command_run)
