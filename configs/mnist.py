"""MNIST with the small CNN.

    python launch/train.py --config=configs/mnist.py:loss=mmc --workdir=runs/mnist_mmc
    python launch/train.py --config=configs/mnist.py:loss=mmc,adv=pgd,eps=0.3 --workdir=...

The paper has no accuracy table for MNIST. Measured results, with seeds and intervals,
are in results/.
"""

from configs import common


def get_config(arg=None):
    """Return the config; see `common.ARGUMENTS` for what `arg` accepts."""
    args = common.parse_arg(arg, loss="mmc", adv="none", eps=0.3, model="cnn")
    config = common.base_config(args)
    config.dataset = "mnist"
    config.num_epochs = 40
    config.optimizer.boundaries = (31, 41)
    return common.shrink(config) if args.runlocal else config
