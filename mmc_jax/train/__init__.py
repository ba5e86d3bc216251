"""Training: the step, the loop around it, and the work directory it leaves.

Read `step` first (one body for one device, `pmap` and `jit`; adversarial training is
the same step with an attack), then its parts: `crafting` (the attack), `recipes` (what
is trained on), `gradients` and `weight_perturbation`; then `loop`. `build` and
`build_recipe` turn a config into objects, `validate` scores the held-out images, `log`
and `workdir` write what happened.
"""

from mmc_jax.train.build import check_config
from mmc_jax.train.log import read_metrics
from mmc_jax.train.loop import NonFiniteLossError, train
from mmc_jax.train.step import (
    TrainState,
    create_train_state,
    make_multi_step,
    train_step,
)
from mmc_jax.train.workdir import load

__all__ = [
    "NonFiniteLossError",
    "TrainState",
    "check_config",
    "create_train_state",
    "load",
    "make_multi_step",
    "read_metrics",
    "train",
    "train_step",
]
