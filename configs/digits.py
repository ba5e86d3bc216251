"""Scikit-learn's handwritten digits, 8x8: the main job in seconds, without a network.

    python launch/train.py --config=configs/digits.py:loss=mmc --workdir=runs/digits_mmc

`make quickstart` trains three models on it and attacks them.
"""

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Return the config; see `common.ARGUMENTS` for what `arg` accepts."""
    args = common.parse_arg(arg, loss="mmc", adv="none", eps=0.1, model="cnn")
    config = common.base_config(args)
    config.dataset = "digits"
    config.validation_size = 200
    # As for MNIST, and chosen the same way.
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.num_epochs = 20
    config.optimizer.boundaries = (15,)
    config.checkpoint_every_epochs = 5
    if config.attack:
        config.attack.warmup_epochs = 4
        config.augment.shift = 0.0
        config.num_epochs = 12
        config.optimizer.boundaries = (9,)
    return common.shrink(config) if args.runlocal else config
