"""The paper's experiments by name, as plain data; `launch/reproduce.py` runs them.

An experiment says which models it compares, what is measured of each, and which columns
its tables have. `expand` turns one into configs and cells: a cell is one measurement of
one model at one seed. What is measured, and on how many images, is in `measurements`.
"""

import importlib
from typing import Any

import ml_collections

from configs import common, measurements
from configs.published import PUBLISHED

MODELS: dict[str, dict[str, Any]] = {
    "softmax": dict(label="SCE", arg="loss=softmax"),
    "center": dict(label="Center loss", arg="loss=center"),
    "mmlda": dict(label="MMLDA", arg="loss=mmlda"),
    "lgm": dict(label="L-GM", arg="loss=lgm"),
    "mmc-random": dict(label="MMC-10 (rand)", arg="loss=mmc,centers=random"),
    "mmc": dict(label="MMC-10", arg="loss=mmc"),
    "mmc-1": dict(label="MMC-1", arg="loss=mmc", overrides={"model.center_norm": 1.0}),
    "mmc-100": dict(
        label="MMC-100", arg="loss=mmc", overrides={"model.center_norm": 100.0}
    ),
    "elastic": dict(label="EMC-10 (elastic)", arg="loss=elastic_mmc"),
    "hierarchical": dict(
        label="HMM-10 (hierarchical)",
        arg="loss=mmc,centers=hierarchical",
        needs=("coarse labels",),
    ),
    "softmax-110": dict(
        label="SCE, ResNet-110",
        arg="loss=softmax,model=resnet110_v2",
        needs=("deep networks",),
    ),
    "mmc-110": dict(
        label="MMC-10, ResNet-110",
        arg="loss=mmc,model=resnet110_v2",
        needs=("deep networks",),
    ),
    "at-softmax-tar": dict(label="AT-tar (SCE)", arg="loss=softmax,adv=pgd,targeted"),
    "at-mmc-tar": dict(label="AT-tar (MMC-10)", arg="loss=mmc,adv=pgd,targeted"),
    "at-softmax": dict(label="AT-un (SCE)", arg="loss=softmax,adv=pgd"),
    "at-mmc": dict(label="AT-un (MMC-10)", arg="loss=mmc,adv=pgd"),
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

_PGD = ("pgd-10-tar", "pgd-10", "pgd-50-tar", "pgd-50")
_SPSA = ("spsa-10-tar", "spsa-10")
_PLAIN = ("softmax", "center", "mmlda", "lgm", "mmc-random", "mmc")
_WHITE_BOX = dict(measure=("clean", "pgd", "strongest"), columns=("clean", *_PGD))

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "table1": dict(
        title="Accuracy under white-box PGD",
        paper="Table 1; on CIFAR-100 Table 4",
        models=(*_PLAIN, "elastic"),
        **_WHITE_BOX,
    ),
    "table2": dict(
        title="C&W, SPSA, noise and rotation",
        paper="Table 2",
        models=(*_PLAIN, "elastic"),
        measure=("clean", "cw", "spsa", "transformations", "strongest"),
        columns=("clean", *_SPSA),
        more=("distances", "transformations"),
    ),
    "table3": dict(
        title="SPSA with more samples an estimate",
        paper="Table 3",
        models=("mmc",),
        measure=("clean", "pgd", "spsa-batches", "strongest"),
        columns=("clean", "spsa-128", "spsa-4096", "spsa-8192", "pgd-10"),
    ),
    "depth": dict(
        title="ResNet-32 against ResNet-110",
        paper="Table 5",
        models=("softmax", "softmax-110", "mmc", "mmc-110"),
        needs=("deep networks",),
        **_WHITE_BOX,
    ),
    "centers": dict(
        title="Random against optimal centers",
        paper="Table 1, the rows MMC-10 (rand) and MMC-10",
        models=("mmc-random", "mmc"),
        **_WHITE_BOX,
    ),
    "center_norm": dict(
        title="C_MM of 1, 10 and 100",
        paper="its choice of C_MM, and its transfer script",
        models=("mmc-1", "mmc", "mmc-100"),
        **_WHITE_BOX,
    ),
    "transfer": dict(
        title="Transfer between models",
        paper="Figure 4",
        group=("softmax", "mmc", "at-softmax-tar", "at-mmc-tar"),
        measure=("transfer",),
        more=("transfer",),
    ),
    "variants": dict(
        title="Elastic and hierarchical centers",
        paper="its appendix, which has no numbers for them",
        models=("mmc", "elastic", "hierarchical"),
        **_WHITE_BOX,
    ),
    "adversarial": dict(
        title="Adversarial training",
        paper="Table 1, the rows AT",
        models=("at-softmax-tar", "at-mmc-tar", "at-softmax", "at-mmc"),
        **_WHITE_BOX,
    ),
}
"""Experiment -> its title, where the paper has it, its models (or a group that is
measured together), what is measured, the columns of its tables, further sections."""


def expand(
    experiment: str,
    dataset: str,
    scale: str,
    *,
    seeds: tuple[int, ...] | None = None,
    models: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Return an experiment's configs and cells, and what its page needs to know.

    Raises:
      ValueError: for an unknown name, or an experiment that the data cannot carry.
    """
    _check_names(experiment, dataset, scale)
    spec, plan = EXPERIMENTS[experiment], measurements.SCALES[scale]
    chosen = _choose_models(experiment, models)
    has = DATASETS[dataset]["has"]
    kept = [m for m in chosen if not _lacking(MODELS[m], has)]
    if chosen and not kept:
        raise ValueError(f"--models leaves nothing that {dataset} can carry")
    configs = {m: model_config(m, dataset, scale) for m in kept}
    groups = [tuple(kept)] if "group" in spec else [(m,) for m in kept]
    cells = [
        dict(members=members, seed=seed, cell=name, kind=kind, settings=settings)
        for seed in _choose_seeds(scale, seeds)
        for members in groups
        for measure in spec["measure"]
        for name, (kind, settings) in measurements.cells(
            measure, {m: configs[m] for m in members}, dataset, scale, seed
        ).items()
    ]
    return dict(
        experiment=experiment,
        title=spec["title"],
        paper=spec["paper"],
        dataset=dataset,
        scale=scale,
        about=plan["about"],
        is_trial=plan["is_trial"],
        labels={m: MODELS[m]["label"] for m in kept},
        left_out={
            MODELS[m]["label"]: f"it needs {_lacking(MODELS[m], has)}"
            for m in chosen
            if m not in kept
        },
        configs=configs,
        cells=cells,
        columns=spec.get("columns", ()),
        more=spec.get("more", ()),
        published=PUBLISHED.get(dataset, {}),
    )


def _check_names(experiment: str, dataset: str, scale: str) -> None:
    """Refuse unknown names, and an experiment that the data cannot carry."""
    _check("--experiment", experiment, EXPERIMENTS)
    _check("--dataset", dataset, DATASETS)
    _check("--scale", scale, measurements.SCALES)
    spec = EXPERIMENTS[experiment]
    if lacking := _lacking(spec, DATASETS[dataset]["has"]):
        able = [n for n, d in DATASETS.items() if not _lacking(spec, d["has"])]
        raise ValueError(
            f"--experiment={experiment} needs {lacking}, which {dataset} does not have;"
            f" accepted: --dataset={', '.join(able)}"
        )


def _choose_models(experiment: str, models: tuple[str, ...] | None) -> list[str]:
    """Return an experiment's models, or those of them that are asked for."""
    spec = EXPERIMENTS[experiment]
    members = spec.get("models", spec.get("group", ()))
    for model in models or ():
        _check(f"--models of {experiment}", model, members)
    if models is not None and "group" in spec:
        raise ValueError(
            f"--experiment={experiment} measures its models together: it takes no"
            " --models"
        )
    return [m for m in members if models is None or m in models]


def _choose_seeds(scale: str, seeds: tuple[int, ...] | None) -> list[int]:
    """Return a scale's seeds, or those of them that are asked for."""
    known = [*range(measurements.SCALES[scale]["seeds"])]
    for seed in seeds or ():
        _check(f"--seeds of scale {scale}", seed, known)
    return [seed for seed in known if seeds is None or seed in seeds]


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


def _lacking(spec: dict[str, Any], has: tuple[str, ...]) -> str:
    return ", ".join(need for need in spec.get("needs", ()) if need not in has)


def _check(name: str, value: Any, known: Any) -> None:
    if value not in known:
        accepted = ", ".join(map(str, known))
        raise ValueError(f"unknown {name}: {value}; accepted: {accepted}")
