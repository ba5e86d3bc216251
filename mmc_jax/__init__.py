"""Train and honestly evaluate adversarially robust classifiers in JAX.

The centers, losses and attacks are pure functions that can be imported alone. Read
`mmc_jax.types` first: it is the vocabulary that everything else is written in.

Modules load when they are first used, so that `import mmc_jax` costs nothing:

    import mmc_jax
    adv_images = mmc_jax.attacks.pgd(logits_fn, key, images, labels, epsilon=0.1)
    model, variables, logits_fn, config = mmc_jax.load("runs/mnist_mmc")
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "attacks",
    "centers",
    "checkpoint",
    "contours",
    "data",
    "density",
    "diagnostics",
    "evaluate",
    "losses",
    "lowering",
    "metrics",
    "models",
    "parallel",
    "report",
    "sample_density",
    "train",
    "types",
)

__all__ = [*_MODULES, "load"]


def __getattr__(name: str):
    if name == "load":
        return importlib.import_module("mmc_jax.train").load
    if name in _MODULES:
        return importlib.import_module(f"mmc_jax.{name}")
    raise AttributeError(f"module 'mmc_jax' has no attribute {name!r}")
