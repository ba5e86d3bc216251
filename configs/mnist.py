"""MNIST with the small CNN.

    python launch/train.py --config=configs/mnist.py:loss=mmc --workdir=...
    python launch/train.py --config=configs/mnist.py:loss=mmc,adv=pgd,eps=0.3 ...

The paper has no accuracy table for MNIST. Measured results, with seeds and intervals,
are in results/.
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Return the config; see `common.ARGUMENTS` for what `arg` accepts."""
    args = common.parse_arg(arg, loss="mmc", adv="none", eps=0.3, model="cnn")
    config = common.base_config(args)
    config.dataset = "mnist"
    # Chosen on validation images: without BatchNorm, features of norm 10 and SGD at
    # 0.01 learn slowly, Adam at 0.001 does not.
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    if config.attack:
        config.num_epochs = 12
        config.optimizer.boundaries = (9,)
        config.augment.shift = 0.0
        # At 0.3 from the first step on, training never leaves "all classes alike".
        config.attack.warmup_epochs = 2
    else:
        config.batch_size = 100
        config.num_epochs = 16
        config.optimizer.boundaries = (10, 14)
        config.optimizer.conv_l2 = 0.0
    return common.shrink(config) if args.runlocal else config
