"""CIFAR-100: the tables of the paper's appendix, for one loss at a time.

    python launch/train.py --config=configs/cifar100.py:loss=mmc --workdir=...
    python launch/train.py --config=configs/cifar100.py:loss=mmc,adv=pgd,eps=8/255 ...
    python launch/train.py --config=configs/cifar100.py:centers=hierarchical ...

Add `targeted` for the paper's AT^tar, `model=resnet110_v2` for its deeper network.
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Return the config; see `common.ARGUMENTS` for what `arg` accepts."""
    args = common.parse_arg(
        arg, loss="mmc", adv="none", eps=8 / 255, model="resnet32_v2"
    )
    config = common.base_config(args)
    config.dataset = "cifar100"
    config.augment.flip = True
    return common.shrink(config) if args.runlocal else config
