"""What is saved comes back bit for bit, or the checkpoint before it does."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import struct

from mmc_jax import checkpoint_format
from mmc_jax.checkpoint import Checkpointer, CheckpointError

_ROOT = pathlib.Path(__file__).resolve().parents[1]


@struct.dataclass
class _State:
    """A training state in miniature, with all that a real one holds."""

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema_params: Any
    name: str = struct.field(pytree_node=False, default="static")


def _make_state(seed: int, num_classes: int = 10) -> _State:
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=(64, num_classes)).astype(np.float32)
    kernel[0, :3] = [np.nan, -0.0, np.inf]
    params = {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.arange(3.0)}}
    decay = optax.masked(optax.add_decayed_weights(0.1), {"dense": _ONLY_KERNEL})
    optimizer = optax.chain(decay, optax.adam(1e-3))
    return _State(
        step=jnp.int32(seed),
        params=params,
        model_state={
            "batch_stats": {"mean": jnp.asarray(kernel[1], jnp.bfloat16)},
            "centers": {"centers": jnp.zeros((0, 4))},
        },
        opt_state=optimizer.init(params),
        ema_params=None,
    )


_ONLY_KERNEL = {"kernel": True, "bias": False}


def _bits(state: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return [(str(leaf.dtype), leaf.shape, leaf.tobytes()) for leaf in leaves]


def _save(directory: pathlib.Path, scores: dict[int, float | None], **options) -> None:
    with Checkpointer(directory, **options) as checkpointer:
        for step, score in scores.items():
            checkpointer.save(step, _make_state(step), score=score)


def _restore(directory: pathlib.Path, **options) -> int | None:
    """Return the step restored, having checked that its state is the one saved."""
    with Checkpointer(directory) as checkpointer:
        restored = checkpointer.restore(_make_state(0), **options)
    if restored is None:
        return None
    assert _bits(restored[1]) == _bits(_make_state(restored[0]))
    return restored[0]


@pytest.fixture(scope="module")
def _saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    _save(directory, {1: 0.5, 2: 0.9, 3: 0.7})
    return directory


@pytest.fixture
def saved(_saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a directory with sound checkpoints of steps 1, 2 (the best) and 3."""
    return pathlib.Path(shutil.copytree(_saved, tmp_path / "checkpoints"))


def _largest_file(path: pathlib.Path) -> pathlib.Path:
    files = [file for file in path.rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def _flip(file: pathlib.Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


def _truncate(file: pathlib.Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


_DAMAGE: dict[str, Callable[[pathlib.Path], None]] = {
    "flipped byte": lambda path: _flip(_largest_file(path), 2000),
    "truncated": lambda path: _truncate(_largest_file(path)),
    "empty": lambda path: os.truncate(_largest_file(path), 0),
    "missing": lambda path: _largest_file(path).unlink(),
    "no arrays": lambda path: shutil.rmtree(path / "state"),
    "no record": lambda path: shutil.rmtree(path / "record"),
    "record": lambda path: _flip(path / "record" / "metadata", 20),
    "nothing": lambda path: [shutil.rmtree(child) for child in path.glob("*/")],
}


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_is_bit_exact(saved, abstract):
    template = _make_state(0)
    if abstract:
        template = jax.eval_shape(lambda state: state, template)
    with Checkpointer(saved) as checkpointer:
        step, state = checkpointer.restore(template)
    assert step == 3
    assert _bits(state) == _bits(_make_state(3))
    assert jax.tree.structure(state) == jax.tree.structure(_make_state(3))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert jax.tree.leaves(state)[0].devices() == {jax.devices()[0]}


def test_state_may_be_donated_after_save(tmp_path):
    negate = jax.jit(lambda state: jax.tree.map(jnp.negative, state), donate_argnums=0)
    state = {"kernel": jnp.arange(1e5)}
    with Checkpointer(tmp_path) as checkpointer:
        for step in range(3):
            checkpointer.save(step, state)
            state = negate(state)
        for step in range(3):
            restored = checkpointer.restore(state, step=step)[1]
            sign = -1.0 if step == 1 else 1.0
            np.testing.assert_array_equal(restored["kernel"], sign * np.arange(1e5))


def test_save_returns_before_the_disk_and_with_a_copy(tmp_path, monkeypatch):
    may_write, original = threading.Event(), checkpoint_format.save_args

    def slow_save_args(*arguments):
        assert may_write.wait(timeout=60)
        return original(*arguments)

    monkeypatch.setattr(checkpoint_format, "save_args", slow_save_args)
    with Checkpointer(tmp_path) as checkpointer:
        state = {"kernel": np.zeros(3, np.float32)}
        checkpointer.save(1, state)
        assert checkpointer.all_steps() == []
        state["kernel"] += 1.0
        may_write.set()
        checkpointer.wait()
        assert checkpointer.all_steps() == [1]
        restored = checkpointer.restore(state)[1]
    np.testing.assert_array_equal(restored["kernel"], np.zeros(3))


def test_keeps_the_newest_and_the_best(tmp_path):
    _save(tmp_path, {1: 0.1, 2: 0.8, 3: None, 4: 0.3}, keep=2)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.all_steps() == [2, 3, 4]
        # A new process learns the best score from the disk.
        checkpointer.save(5, _make_state(5), score=0.8)
        checkpointer.wait()
        assert checkpointer.all_steps() == [4, 5]  # The newer of two equals is best.
        checkpointer.save(6, _make_state(6), score=0.2)
        checkpointer.save(7, _make_state(7), score=0.3)
        checkpointer.save(8, _make_state(8))
        checkpointer.wait()
        assert checkpointer.all_steps() == [5, 7, 8]


def test_restores_newest_best_or_named(saved):
    assert _restore(saved) == 3
    assert _restore(saved, best=True) == 2
    assert _restore(saved, step=1) == 1


def test_best_without_scores_is_the_newest(tmp_path):
    _save(tmp_path, {1: None, 2: None})
    assert _restore(tmp_path, best=True) == 2


def test_reading_creates_nothing(tmp_path):
    assert _restore(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", _DAMAGE)
def test_damaged_newest_is_reported_and_the_one_before_used(saved, damage, caplog):
    _DAMAGE[damage](saved / "3")
    with caplog.at_level(logging.WARNING):
        assert _restore(saved) == 2
    unusable, instead = [record.getMessage() for record in caplog.records]
    assert f"unusable checkpoint, step 3 in {saved / '3'}: " in unusable
    if damage in ("flipped byte", "truncated", "empty", "missing"):
        assert "array " in unusable
    assert instead == "using the checkpoint of step 2 instead"


def test_orbax_sees_nothing_wrong_but_the_hash_does(saved, caplog):
    shutil.rmtree(saved / "3" / "state")
    shutil.copytree(saved / "1" / "state", saved / "3" / "state")
    assert _restore(saved) == 2
    assert "array step is damaged: its sha256 is" in caplog.text


def test_shapes_are_part_of_the_hash(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"kernel": jnp.zeros((2, 3))})
        checkpointer.save(2, {"kernel": jnp.zeros((3, 2))})
        checkpointer.wait()
        shutil.rmtree(tmp_path / "2" / "state")
        shutil.copytree(tmp_path / "1" / "state", tmp_path / "2" / "state")
        assert checkpointer.restore({"kernel": jnp.zeros((2, 3))})[0] == 1


def test_no_flipped_byte_ever_comes_back_as_a_state(saved):
    generator = np.random.default_rng(0)
    files = [file for file in (saved / "3").rglob("*") if file.is_file()]
    restored = []
    for file in files:
        content = file.read_bytes()
        for position in generator.integers(len(content), size=6):
            _flip(file, int(position))
            restored.append(_restore(saved))
            file.write_bytes(content)
    assert set(restored) == {2, 3}


def test_damaged_best_gives_way_to_the_second_best(saved, caplog):
    _truncate(_largest_file(saved / "2"))
    assert _restore(saved, best=True) == 3
    assert "unusable checkpoint, step 2" in caplog.text


def test_best_whose_score_is_lost_is_reported(saved, caplog):
    _flip(saved / "2" / "record" / "metadata", 20)
    assert _restore(saved, best=True) == 3
    assert "unusable checkpoint, step 2" in caplog.text


def test_changed_score_is_noticed(saved, caplog):
    record = saved / "1" / "record" / "metadata"
    record.write_text(record.read_text().replace('"score": 0.5', '"score": 1.5'))
    assert _restore(saved, best=True) == 2
    assert "step 1 in" in caplog.text and "hashes is damaged" in caplog.text


def test_step_of_a_damaged_checkpoint_can_be_saved_again(saved):
    with Checkpointer(saved) as checkpointer:
        for _ in range(2):  # Before this checkpointer has saved anything, and after.
            _truncate(_largest_file(saved / "3"))
            assert checkpointer.restore(_make_state(0))[0] == 2
            checkpointer.save(3, _make_state(3))
            checkpointer.wait()
            assert checkpointer.all_steps() == [1, 2, 3]
    assert (saved / "3.unusable").is_dir()
    assert _restore(saved) == 3


def test_damage_in_an_old_checkpoint_does_not_stop_saving(saved):
    for step in (1, 2):
        _flip(saved / str(step) / "record" / "metadata", 20)
        (saved / str(step) / "_CHECKPOINT_METADATA").write_text("{")
    _save(saved, {4: 0.1})
    assert _restore(saved) == 4


def test_named_checkpoint_is_not_replaced_by_another(saved):
    _truncate(_largest_file(saved / "3"))
    with pytest.raises(CheckpointError, match=r"no usable checkpoint: step 3 in "):
        _restore(saved, step=3)


def test_all_damaged_is_an_error_that_names_each(saved):
    for step in (1, 2, 3):
        _truncate(_largest_file(saved / str(step)))
    with pytest.raises(CheckpointError, match="step 3 .*; step 2 .*; step 1 "):
        _restore(saved)


_KILLED = """
import os, pathlib, signal, sys
import jax.numpy as jnp, numpy as np
from mmc_jax.checkpoint import Checkpointer

directory = pathlib.Path(sys.argv[1])
checkpointer = Checkpointer(directory)
checkpointer.save(1, {"kernel": jnp.arange(10.0)})
checkpointer.wait()
noise = np.random.default_rng(0).normal(size=(5_000_000,))
checkpointer.save(2, {"kernel": jnp.asarray(noise)})
while len(list(directory.iterdir())) == 1:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def _run(program: str, *arguments: object, **environment: str) -> int:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, cwd=_ROOT, env=os.environ | environment, timeout=120
    ).returncode


def test_save_interrupted_by_a_kill_is_ignored_and_cleaned_up(tmp_path):
    assert _run(_KILLED, tmp_path) == -signal.SIGKILL
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 2 and "2" not in names
    with Checkpointer(tmp_path) as checkpointer:
        step, state = checkpointer.restore({"kernel": jnp.zeros(10)})
        assert step == 1
        np.testing.assert_array_equal(state["kernel"], np.arange(10.0))
        checkpointer.save(3, state)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}


@contextlib.contextmanager
def _files_limited_to(num_bytes: int) -> Iterator[None]:
    """Make every larger file fail to be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_a_clear_error_and_costs_no_good_checkpoint(tmp_path):
    _save(tmp_path, {1: 0.5}, keep=1)
    noise = np.random.default_rng(0).normal(size=(500_000,))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        with _files_limited_to(100_000):
            checkpointer.save(2, {"kernel": noise}, score=0.9)
            with pytest.raises(CheckpointError) as caught:
                checkpointer.wait()
        message = str(caught.value)
        assert f"could not write the checkpoint of step 2 to {tmp_path}: " in message
        assert "File too large" in message and "bytes are free there" in message
        assert message.endswith("kept: the checkpoints of steps [1]")
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        assert checkpointer.restore(_make_state(0))[0] == 1
        # Once there is room again, the run goes on.
        checkpointer.save(2, _make_state(2), score=0.1)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.all_steps() == [1, 2]


@pytest.mark.parametrize("call", ["save", "wait", "restore", "close"])
def test_error_of_a_save_surfaces_at_the_next_call(tmp_path, call):
    (tmp_path / "a file").touch()
    checkpointer = Checkpointer(tmp_path / "a file" / "checkpoints")
    checkpointer.save(1, _make_state(1))
    calls = {
        "save": lambda: checkpointer.save(2, _make_state(2)),
        "restore": lambda: checkpointer.restore(_make_state(0)),
        "wait": checkpointer.wait,
        "close": checkpointer.close,
    }
    with pytest.raises(CheckpointError, match="could not write .* step 1 .*Not a dir"):
        calls[call]()
    checkpointer.wait()  # Raised once, it is done with.
    checkpointer.close()


_OTHER_DEVICES = """
import pathlib, sys
import jax, jax.numpy as jnp
from mmc_jax.checkpoint import Checkpointer

assert jax.device_count() == 1
with Checkpointer(sys.argv[1]) as checkpointer:
    step, state = checkpointer.restore({"kernel": jnp.zeros(12)})
    assert step == 1 and jnp.array_equal(state["kernel"], jnp.arange(12.0))
    checkpointer.save(2, {"kernel": state["kernel"] + 1.0})
"""


@pytest.mark.needs_eight_devices
def test_number_of_devices_may_change(tmp_path):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put({"kernel": jnp.arange(12.0)}, replicated)
    assert len(state["kernel"].devices()) == 8
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
    assert _run(_OTHER_DEVICES, tmp_path, JAX_NUM_CPU_DEVICES="1") == 0
    with Checkpointer(tmp_path) as checkpointer:
        step, restored = checkpointer.restore(state)
    assert step == 2
    together = jax.tree.map(jnp.add, jax.device_put(restored, replicated), state)
    np.testing.assert_array_equal(together["kernel"], 2.0 * np.arange(12.0) + 1.0)


def test_other_shapes_are_named(saved):
    with (
        Checkpointer(saved) as checkpointer,
        pytest.raises(ValueError, match="another model or optimizer") as caught,
    ):
        checkpointer.restore(_make_state(0, num_classes=100))
    expected = (
        "params/dense/kernel: checkpoint has float32[64, 10], "
        "the model expects float32[64, 100]"
    )
    assert expected in str(caught.value)
    assert "bias" not in str(caught.value)


def test_other_names_are_named(saved):
    template = _make_state(0)
    renamed = {"output": template.params["dense"]}
    with (
        Checkpointer(saved) as checkpointer,
        pytest.raises(ValueError, match="another model or optimizer") as caught,
    ):
        checkpointer.restore(template.replace(params=renamed))
    lines = str(caught.value)
    assert "params/dense/bias: checkpoint has float32[3], the model expects n" in lines
    assert "params/output/bias: checkpoint has nothing, the model expects fl" in lines


def test_a_long_list_of_differences_is_cut(saved):
    more = 90 + len(jax.tree.leaves(_make_state(0))) - 1 - 8
    with (
        Checkpointer(saved) as checkpointer,
        pytest.raises(ValueError, match=f"and {more} more$"),
    ):
        many = [jnp.zeros(1) for _ in range(90)]
        checkpointer.restore({"other": many, "step": jnp.int32(0)})


_BAD_INPUT: dict[str, tuple[Callable[[Checkpointer], object], str]] = {
    "same step": (lambda c: c.save(3, _make_state(3)), "step 3 .* newest there is 3"),
    "older step": (lambda c: c.save(2, _make_state(2)), "step 2 .* newest there is 3"),
    "score": (lambda c: c.save(4, _make_state(4), score=np.nan), "finite, got nan"),
    "key": (lambda c: c.save(4, {"key": jax.random.key(0)}), "key is a PRNG key"),
    "nothing to save": (lambda c: c.save(4, {"params": {}}), "holds no numbers"),
    "unknown step": (
        lambda c: c.restore(_make_state(0), step=7),
        r"no checkpoint of step 7 .* only \[1, 2, 3\]",
    ),
    "step and best": (
        lambda c: c.restore(_make_state(0), step=1, best=True),
        "step or best, not both",
    ),
    "keep": (lambda c: Checkpointer(c.directory, keep=0), "at least 1, got 0"),
}


@pytest.mark.parametrize("case", _BAD_INPUT)
def test_bad_input(saved, case):
    call, message = _BAD_INPUT[case]
    with Checkpointer(saved) as checkpointer:
        with pytest.raises(ValueError, match=message):
            call(checkpointer)
        assert checkpointer.all_steps() == [1, 2, 3]


def test_negative_step_is_refused_in_an_empty_directory(tmp_path):
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(ValueError, match="step -1 .* newest there is none"),
    ):
        checkpointer.save(-1, _make_state(1))


def test_plain_orbax_reads_the_arrays(saved):
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(saved / "3" / "state")
    kernel = tree["params"]["dense"]["kernel"]
    np.testing.assert_array_equal(kernel, _make_state(3).params["dense"]["kernel"])


def test_leaves_no_threads_and_no_noise(tmp_path, caplog, capfd):
    before, checkpointers = set(threading.enumerate()), []
    with caplog.at_level(logging.INFO), caplog.at_level(logging.INFO, logger="absl"):
        for step in range(3):
            with Checkpointer(tmp_path, keep=1) as checkpointer:
                checkpointer.save(step, _make_state(step))
            checkpointers.append(checkpointer)
        _truncate(_largest_file(tmp_path / "2"))
        with pytest.raises(CheckpointError):
            checkpointers[0].restore(_make_state(0))
    deadline = time.monotonic() + 10.0
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert {record.name for record in caplog.records} == {"mmc_jax.checkpoint"}
