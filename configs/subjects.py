"""The models that the paper's experiments compare, and what data can carry them."""

import importlib
from typing import Any

import ml_collections

from configs import common, measurements

MODELS: dict[str, dict[str, Any]] = {
    "softmax": dict(label="SCE", arg="loss=softmax"),
    "center": dict(label="Center loss", arg="loss=center"),
    "mmlda": dict(label="MMLDA", arg="loss=mmlda"),
    "lgm": dict(label="L-GM", arg="loss=lgm"),
    "mmc-random": dict(label="MMC-10 (rand)", arg="loss=mmc,centers=random"),
    "mmc": dict(label="MMC-10", arg="loss=mmc"),
    "mmc-1": dict(label="MMC-1", arg="loss=mmc", overrides={"model.center_norm": 1.0}),
    # A hundredth of the loss: relative to the squared scale of its features it is that
    # of MMC-10, at whose rate the whole one diverges.
    "mmc-100": dict(
        label="MMC-100",
        arg="loss=mmc",
        overrides={"model.center_norm": 100.0, "loss.loss_scale": 0.02},
    ),
    "elastic": dict(label="EMC-10 (elastic)", arg="loss=elastic_mmc"),
    "hierarchical": dict(
        label="HMM-10 (hierarchical)",
        arg="loss=mmc,centers=hierarchical",
        needs=("coarse labels",),
    ),
    "softmax-110": dict(
        label="SCE, deeper network",
        arg="loss=softmax,model=resnet110_v2",
        needs=("deep networks",),
    ),
    "mmc-110": dict(
        label="MMC-10, deeper network",
        arg="loss=mmc,model=resnet110_v2",
        needs=("deep networks",),
    ),
    "at-softmax-tar": dict(label="AT-tar (SCE)", arg="loss=softmax,adv=pgd,targeted"),
    "at-mmc-tar": dict(label="AT-tar (MMC-10)", arg="loss=mmc,adv=pgd,targeted"),
    "at-softmax": dict(label="AT-un (SCE)", arg="loss=softmax,adv=pgd"),
    "at-mmc": dict(label="AT-un (MMC-10)", arg="loss=mmc,adv=pgd"),
    "trades-softmax": dict(
        label="TRADES (SCE)", arg="loss=softmax,adv=pgd,recipe=trades"
    ),
    "trades-mmc": dict(label="TRADES (MMC-10)", arg="loss=mmc,adv=pgd,recipe=trades"),
    "softmax-plane": dict(
        label="SCE, two features",
        arg="loss=softmax",
        overrides={"model.feature_dim": 2},
    ),
    "mmc-plane": dict(
        label="MMC-10, two features",
        arg="loss=mmc",
        overrides={"model.feature_dim": 2},
    ),
}
"""Model -> how tables name it, its config's string argument, overrides by dotted name,
and what its data must have."""

DATASETS: dict[str, dict[str, Any]] = {
    "digits": dict(has=()),
    "mnist": dict(has=()),
    "cifar10": dict(has=("deep networks",)),
    "cifar100": dict(has=("deep networks", "coarse labels")),
}
"""Data set -> what a model or an experiment may need of it."""


def model_config(model: str, dataset: str, scale: str) -> ml_collections.ConfigDict:
    """Return the config of a model, its seed still 0.

    At smaller scales smaller networks stand in for the paper's: see `SCALES`.
    """
    spec, plan = MODELS[model], measurements.SCALES[scale]
    arguments = dict(item.partition("=")[::2] for item in spec["arg"].split(","))
    if "deep networks" in DATASETS[dataset]["has"]:
        network = plan["networks"].get(arguments.get("model", "resnet32_v2"))
        arguments |= {} if network is None else {"model": network}
    if "adv" in arguments:
        arguments["eps"] = measurements.radii(dataset, adversarial=True)[0]
    arg = ",".join(f"{k}={v}" if v else k for k, v in arguments.items())
    config = importlib.import_module(f"configs.{dataset}").get_config(arg)
    config.update_from_flattened_dict(spec.get("overrides", {}))
    if plan["is_trial"]:
        return common.shrink(config)
    short = plan["epochs"].get(dataset)
    if short is not None:
        config.num_epochs, config.optimizer.boundaries = short
    return config


def lacking(spec: dict[str, Any], has: tuple[str, ...]) -> str:
    """Return what a model or an experiment needs and its data do not have."""
    return ", ".join(need for need in spec.get("needs", ()) if need not in has)
