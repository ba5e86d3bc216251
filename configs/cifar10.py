"""CIFAR-10: the paper's table 1, for one loss at a time.

    python launch/train.py --config=configs/cifar10.py:loss=mmc --workdir=...
    python launch/train.py --config=configs/cifar10.py:loss=mmc,adv=pgd,eps=8/255 ...

Add `targeted` for the paper's AT^tar, `papers_choices` for its labels and statistics in
adversarial training, `model=resnet110_v2` for its deeper network; `recipe=trades` or
`recipe=mart`, with `awp` or without, for what came after.
Published by others for this recipe: plain MMC 90.2 % clean and 0.00 % under
AutoAttack at 8/255; adversarially trained 80.9 % and 43.5 %.
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Return the config; see `common.ARGUMENTS` for what `arg` accepts."""
    args = common.parse_arg(
        arg, loss="mmc", adv="none", eps=8 / 255, model="resnet32_v2"
    )
    config = common.base_config(args)
    config.dataset = "cifar10"
    config.augment.flip = True
    return common.shrink(config) if args.runlocal else config
