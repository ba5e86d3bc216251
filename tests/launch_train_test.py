"""The command that trains: what it refuses, what it says, and that configs start.

Every command runs in a process of its own, forked from a server that has imported the
library, since an import takes longer than a refusal.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import runpy
import sys

import pytest

import mmc_jax.train
from configs import cifar10, cifar100, digits, mnist
from mmc_jax.checkpoint import CheckpointError
from mmc_jax.train import NonFiniteLossError, read_metrics, train

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SCRIPT = _ROOT / "launch" / "train.py"
_DIGITS = f"--config={_ROOT}/configs/digits.py"


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a command left."""

    status: int
    stdout: str
    stderr: str


def execute(arguments, folder, error):
    """Be the command: run the script in this process, its output in files."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.argv = [str(_SCRIPT), *arguments]
    if error is not None:

        def fail(*args, **kwargs):
            raise error

        mmc_jax.train.train = fail
    runpy.run_path(str(_SCRIPT), run_name="__main__")


@pytest.fixture
def command(tmp_path_factory):
    """Run `launch/train.py` in an empty directory; training raises `error` if given."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmc_jax.train", "ml_collections.config_flags"])

    def run(*arguments: str, error: BaseException | None = None) -> Finished:
        folder = tmp_path_factory.mktemp("command")
        process = context.Process(target=execute, args=(arguments, folder, error))
        process.start()
        process.join(300)
        assert process.exitcode is not None, f"{arguments} does not end"
        stdout, stderr = ((folder / name).read_text() for name in ("stdout", "stderr"))
        return Finished(process.exitcode, stdout, stderr)

    return run


# Arguments, and what the one line must say.
WRONG = {
    "no-config": (["--workdir=run"], r"--config must have a value"),
    "no-workdir": ([_DIGITS], r"--workdir must have a value"),
    "unknown-flag": (
        [_DIGITS, "--workdr=run"],
        r"'workdr'.*[Dd]id you mean: workdir",
    ),
    "extra-word": ([_DIGITS, "--workdir=run", "digits"], r"arguments: digits"),
    "flag-with-a-wrong-value": (
        [_DIGITS, "--workdir=run", "--progress=perhaps"],
        r"progress.*perhaps",
    ),
    "no-such-config": (["--config=configs/svhn.py", "--workdir=run"], r"svhn\.py"),
    "config-that-is-no-config": (
        [f"--config={_ROOT}/configs/suites.py", "--workdir=run"],
        r"get_config",
    ),
    "unknown-argument": (
        [f"{_DIGITS}:lossy=mmc", "--workdir=run"],
        r"config argument 'lossy=mmc'; accepted: loss .*runlocal",
    ),
    "argument-out-of-range": (
        [f"{_DIGITS}:adv=pgd,eps=8", "--workdir=run"],
        r"eps='8' must be a number in \[0, 1\] such as 8/255",
    ),
    "radius-without-an-attack": (
        [f"{_DIGITS}:loss=mmc,eps=8/255", "--workdir=run"],
        r"'loss=mmc,eps=8/255'.*adv=NAME is missing",
    ),
    "unknown-loss": (
        [f"{_DIGITS}:loss=hinge", "--workdir=run"],
        r"config\.loss\.name must be one of .*mmlda.*'hinge'",
    ),
    "unknown-field": (
        [_DIGITS, "--workdir=run", "--config.optimizer.learning_rte=0.1"],
        r"'learning_rte'.*[Dd]id you mean \"learning_rate\"",
    ),
    "word-for-a-number": (
        [_DIGITS, "--workdir=run", "--config.batch_size=many"],
        r"--config\.batch_size=many.*'many'",
    ),
    "fraction-for-a-whole-number": (
        [_DIGITS, "--workdir=run", "--config.batch_size=2.5"],
        r"--config\.batch_size=2\.5",
    ),
    "value-out-of-range": (
        [_DIGITS, "--workdir=run", "--config.optimizer.learning_rate=-1"],
        r"config\.optimizer\.learning_rate must be a positive number, got -1",
    ),
    "attack-without-steps": (
        [f"{_DIGITS}:adv=pgd", "--workdir=run", "--config.attack.num_steps=0"],
        r"config\.attack: num_steps must be at least 1.*got 0",
    ),
    "batch-larger-than-the-data": (
        [_DIGITS, "--workdir=run", "--config.batch_size=5000"],
        r"config\.batch_size=5000 is more than the \d+ training images of digits",
    ),
    "more-devices-than-there-are": (
        [_DIGITS, "--workdir=run", "--config.num_devices=64"],
        r"config\.num_devices=64, but only",
    ),
    "no-such-file": (
        [_DIGITS, "--workdir=run", "--config.dataset=mine.npz"],
        r"mine\.npz",
    ),
    "no-data-there": (
        [
            f"--config={_ROOT}/configs/mnist.py",
            "--workdir=run",
            "--config.data_dir=nowhere",
        ],
        r"mnist.*nowhere.*TFDS_DATA_DIR",
    ),
    "work-directory-that-is-a-file": ([_DIGITS, "--workdir=stdout"], r"stdout"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_is_one_line_and_status_2(name, command):
    arguments, message = WRONG[name]
    finished = command(*arguments)
    assert finished.status == 2, finished
    assert not finished.stdout
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    # Quotes come in pairs: nothing was cut off with the wrapping of the message.
    assert line.count("'") % 2 == line.count('"') % 2 == 0, line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", "invalid syntax (broken.py, line 1)"),
        ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
    ],
)
def test_a_config_file_that_python_cannot_read_is_one_line(
    text, said, command, tmp_path
):
    broken = tmp_path / "broken.py"
    broken.write_text(text)
    found = command(f"--config={broken}", "--workdir=run")
    assert found.status == 2
    assert found.stderr == f"error: the config file cannot be read: {said}\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NonFiniteLossError("the loss is nan\nbetween steps 0 and 2"), 1),
        (CheckpointError("no space left for step 20"), 1),
        (ValueError("config.seed must be whole"), 2),
        (OSError(13, "not allowed"), 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_stops_a_training_is_one_line(command, error, status):
    finished = command(_DIGITS, "--workdir=run", error=error)
    assert finished.status == status, finished
    assert finished.stderr == f"error: {' '.join(str(error).split())}\n"


def test_an_interruption_says_how_to_go_on(command):
    finished = command(_DIGITS, "--workdir=run", error=KeyboardInterrupt())
    assert finished.status == 130
    assert "The same command goes on from the last checkpoint" in finished.stdout
    assert not finished.stderr


def test_an_error_in_the_code_is_not_hidden(command):
    finished = command(_DIGITS, "--workdir=run", error=ZeroDivisionError("bug"))
    assert finished.status == 1
    assert (
        "Traceback" in finished.stderr and "ZeroDivisionError: bug" in finished.stderr
    )


def test_help_shows_examples_and_every_flag(command):
    shown = command("--help").stdout
    assert (
        "python launch/train.py --config=configs/mnist.py:loss=mmc --workdir" in shown
    )
    for flag in ("--config:", "--workdir:", "--[no]progress:"):
        assert flag in shown
    assert "loss=mmc,adv=pgd,eps=0.3" in shown
    assert "the same command goes on" in shown


def test_an_override_reaches_the_run(command, tmp_path):
    """The command itself, trained through: what it prints, and the resolved config."""
    finished = command(
        f"{_DIGITS}:loss=mmlda,runlocal",
        f"--workdir={tmp_path}/run",
        "--config.seed=3",
        "--config.optimizer.learning_rate=0.05",
        "--noprogress",
    )
    assert finished.status == 0, finished
    assert f"python launch/evaluate.py --workdir={tmp_path}/run" in finished.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    config = record["config"]
    assert (config["loss"]["name"], record["seed"]) == ("mmlda", 3)
    assert config["optimizer"]["learning_rate"] == 0.05
    assert [line for line in read_metrics(tmp_path / "run") if "loss" in line]


def start(get_config, arg, data_dir, workdir, **changes):
    """Train a shrunk run of a config, and return the losses of its log."""
    config = get_config(f"{arg},runlocal")
    config.data_dir = str(data_dir)
    config.num_devices = 1
    config.update(changes)
    state = train(config, workdir, progress=False)
    lines = read_metrics(workdir)
    assert int(state.step) == lines[-1]["step"] > 0
    assert 0 <= lines[-1]["validation_accuracy"] <= 1
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.verify
def test_a_config_with_a_resnet_starts(tfds_dir, tmp_path):
    """The others are started by the commands that the README shows."""
    losses = start(
        cifar100.get_config, "loss=mmc,model=resnet20_v1", tfds_dir, tmp_path
    )
    assert len(losses) == 2 and losses[1] < losses[0]


@pytest.mark.verify
@pytest.mark.parametrize("loss", ["softmax", "mmc", "mmlda"])
@pytest.mark.parametrize(
    "config", [digits, mnist, cifar10, cifar100], ids=lambda module: module.__name__
)
def test_every_config_starts_with_its_own_model(config, loss, tfds_dir, tmp_path):
    assert start(config.get_config, f"loss={loss}", tfds_dir, tmp_path)


@pytest.mark.verify
def test_resnet32_learns_on_the_cifar10_subset(tfds_dir, tmp_path, capsys):
    """Two epochs of the recipe as it is, on as much data as is there."""
    config = cifar10.get_config("loss=mmc")
    config.data_dir = str(tfds_dir)
    config.num_devices = 1
    config.num_epochs = 2
    config.validation_size = 200
    config.max_train_images = 1800
    config.steps_per_call = 12
    assert config.model.name == "resnet32_v2"
    train(config, tmp_path, progress=False)
    losses = [line["loss"] for line in read_metrics(tmp_path) if "loss" in line]
    with capsys.disabled():
        print(f"\nResNet-32, CIFAR-10 subset, loss by calls of 12 steps: {losses}")
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses[3:]) < min(losses[:3])
