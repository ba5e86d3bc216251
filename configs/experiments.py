"""The paper's experiments by name, as plain data; `launch/reproduce.py` runs them.

An experiment says which models it compares, what is measured of each, and which columns
its tables have. `expand` turns one into configs and cells: a cell is one measurement of
one model at one seed. Models are in `subjects`; what is measured, and on how many
images, in `measurements`.
"""

from typing import Any

from configs import measurements
from configs.published import PUBLISHED
from configs.subjects import DATASETS, MODELS, lacking, model_config

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
        models=(
            "at-softmax-tar",
            "at-mmc-tar",
            "at-softmax",
            "at-mmc",
            "trades-softmax",
            "trades-mmc",
        ),
        **_WHITE_BOX,
    ),
    "convergence": dict(
        title="Convergence over wall-clock time",
        paper="Figure 3 (a)",
        models=(*_PLAIN, "at-softmax-tar"),
        measure=("convergence",),
        more=("convergence",),
    ),
    "extra_cost": dict(
        title="What MMC costs beside softmax, a train step",
        paper="its claim of little extra computation",
        group=(),
        labels={"no-model": "a train step"},
        measure=("extra_cost",),
        more=("extra_cost",),
    ),
    "features": dict(
        title="Two features under attack, adaptive and not",
        paper="Figure 3 (b)",
        models=("mmc-plane", "softmax-plane"),
        measure=("feature_paths",),
        more=("feature_paths",),
    ),
    "toy": dict(
        title="Center loss against MMC: a toy of class centers",
        paper="its appendix, and the animations of its code",
        group=(),
        labels={"no-model": "1,000 points in the plane"},
        measure=("toy",),
        more=("toy",),
    ),
    "detection": dict(
        title="Detection of adversarial images by a score",
        paper="its code alone, which has no numbers",
        models=_PLAIN,
        measure=("detection",),
        more=("detection",),
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
      ValueError: for an unknown name, an empty choice, or an experiment that the data
        cannot carry.
    """
    _check_names(experiment, dataset, scale)
    spec, plan = EXPERIMENTS[experiment], measurements.SCALES[scale]
    chosen = _choose_models(experiment, models)
    has = DATASETS[dataset]["has"]
    kept = [m for m in chosen if not lacking(MODELS[m], has)]
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
        labels={m: MODELS[m]["label"] for m in kept} | spec.get("labels", {}),
        left_out={
            MODELS[m]["label"]: f"it needs {lacking(MODELS[m], has)}"
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
    if missing := lacking(spec, DATASETS[dataset]["has"]):
        able = [n for n, d in DATASETS.items() if not lacking(spec, d["has"])]
        raise ValueError(
            f"--experiment={experiment} needs {missing}, which {dataset} does not have;"
            f" accepted: --dataset={', '.join(able)}"
        )


def _choose_models(experiment: str, models: tuple[str, ...] | None) -> list[str]:
    """Return an experiment's models, or those of them that are asked for."""
    if models == ():
        raise ValueError("--models is empty: name models, or leave it out")
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
    if seeds == ():
        raise ValueError("--seeds is empty: name seeds, or leave it out")
    known = [*range(measurements.SCALES[scale]["seeds"])]
    for seed in seeds or ():
        _check(f"--seeds of scale {scale}", seed, known)
    return [seed for seed in known if seeds is None or seed in seeds]


def _check(name: str, value: Any, known: Any) -> None:
    if value not in known:
        accepted = ", ".join(map(str, known))
        raise ValueError(f"unknown {name}: {value}; accepted: {accepted}")
