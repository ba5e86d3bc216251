"""Reports: `tables` as text; runs, curves, images, features, transfer as figures."""

from mmc_jax.report.figures import (
    accuracy_vs_epsilon,
    feature_map,
    training_curves,
)
from mmc_jax.report.pictures import image_triples
from mmc_jax.report.tables import render
from mmc_jax.report.transfer import render_transfer, transfer_heat_map

__all__ = [
    "accuracy_vs_epsilon",
    "feature_map",
    "image_triples",
    "render",
    "render_transfer",
    "training_curves",
    "transfer_heat_map",
]
