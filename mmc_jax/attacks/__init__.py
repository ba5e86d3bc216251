"""Adversarial attacks: jitted functions of a `logits_fn`, a key, images, labels."""

from mmc_jax.attacks import objectives, projections
from mmc_jax.attacks.gradient_sign import bim, fgsm, mim, pgd

__all__ = ["bim", "fgsm", "mim", "objectives", "pgd", "projections"]
