"""Reports: `tables` as text; runs, curves, images and features as figures."""

from mmc_jax.report.figures import (
    accuracy_vs_epsilon,
    feature_map,
    training_curves,
)
from mmc_jax.report.pictures import image_triples
from mmc_jax.report.tables import render

__all__ = [
    "accuracy_vs_epsilon",
    "feature_map",
    "image_triples",
    "render",
    "training_curves",
]
