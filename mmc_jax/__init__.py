"""Train and honestly evaluate adversarially robust classifiers in JAX.

The centers, losses and attacks are pure functions that can be imported alone. Read
`mmc_jax.types` first: it is the vocabulary that everything else is written in.
"""

__version__ = "0.1.0"
