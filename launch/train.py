r"""Train a model.

    python launch/train.py --config=configs/mnist.py:loss=mmc --workdir=runs/mnist_mmc
    python launch/train.py --config=configs/cifar10.py:loss=mmc,adv=pgd,eps=8/255 \
        --config.optimizer.learning_rate=0.02 --workdir=runs/cifar10_mmc_adv

Killed or interrupted, the same command goes on from the last checkpoint. The work
directory gets the resolved config, versions and seed (run.json), one line a log step
(metrics.jsonl), TensorBoard files and checkpoints.
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from mmc_jax.checkpoint import CheckpointError
from mmc_jax.command_line import fail, in_one_line, refuse_arguments
from mmc_jax.train import NonFiniteLossError, train

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="configs/NAME.py:ARGUMENTS, for instance"
    " configs/mnist.py:loss=mmc,adv=pgd,eps=0.3",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is written, and gone on with if it is there."
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Whether to show a progress bar.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Train, and say in one line what went wrong where something did."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    failures = (NonFiniteLossError, CheckpointError)
    with in_one_line(*failures, goes_on="from the last checkpoint"):
        train(_CONFIG.value, _WORKDIR.value, progress=_PROGRESS.value)
    print(
        "Done. To attack it: python launch/evaluate.py"
        f" --workdir={_WORKDIR.value} --epsilon=8/255"
    )


def _parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags, or say in one line which one is wrong."""
    app.define_help_flags()
    try:
        return flags.FLAGS(argv)
    except (ImportError, SyntaxError) as error:
        fail(f"the config file cannot be read: {error}")
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        # ml_collections quotes its messages once or twice, and gives an error in a
        # config file as a traceback in words, whose last line is enough.
        message = str(error).replace("\\n", "\n").replace("\\'", "'")
        while message[:1] in ("'", '"') and message[:1] == message[1:][-1:]:
            message = message[1:-1]
        lines = [line.strip() for line in message.splitlines()]
        causes = [line for line in lines if line.startswith("ValueError: ")]
        message = causes[-1].removeprefix("ValueError: ") if causes else " ".join(lines)
        fail(f"{message.rstrip('.')}; --help lists all flags")


if __name__ == "__main__":
    # configs/ is imported as a package, from wherever this script is started.
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    app.run(main, flags_parser=_parse_flags)
