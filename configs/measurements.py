"""What is measured of a model at which scale: plain data for `configs/experiments.py`.

`cells` returns, for one word of an experiment's `measure`, cells by name, each a kind
of `mmc_jax.experiments` and its settings. Two experiments that ask for the same cell
share it; one whose settings have changed is measured anew.
"""

from typing import Any

import ml_collections

from configs import common
from configs.suites import SUITES

LINEAR_LOSSES = ("softmax", "center")
"""Losses whose logits are linear in the features, which AutoAttack suits as it is."""

_CIFAR = ("cifar10", "cifar100")
_RADII = {True: ("0.3",), False: ("0.1", "0.2")}
_CIFAR_RADII = ("8/255", "16/255")

SCALES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        about="a trial on 20 images with a model that was hardly trained",
        is_trial=True,
        seeds=1,
        networks={"resnet32_v2": "cnn", "resnet110_v2": "resnet20_v1"},
        num_attacked=20,
        strongest=dict(plain=(20, 20), adversarial=(20, 20)),
        spsa=8,
        spsa_batches=(4, (2, 8, 16)),
        cw=(4, dict(num_binary_search_steps=2, num_steps=10, learning_rate=0.1)),
        calibration=None,
        budget=dict(num_steps=5, num_queries=20, num_targets=2),
        figures=dict(
            feature_paths=dict(num_steps=5, num_images=20, num_points=200),
            extra_cost=dict(batch_size=16, num_steps=2, num_rounds=3),
            toy=dict(num_epochs=5),
        ),
    ),
    "laptop": dict(
        about="the whole of MNIST, three seeds, on two cores; CIFAR with ResNet-20 in"
        " place of ResNet-32, ResNet-32 in place of ResNet-110, and 15 epochs",
        is_trial=False,
        seeds=3,
        networks={"resnet32_v2": "resnet20_v2", "resnet110_v2": "resnet32_v2"},
        epochs={name: (15, (10, 13)) for name in _CIFAR},
        num_attacked=1000,
        # An image that survives costs AutoAttack a second, and most of theirs do.
        strongest=dict(plain=(1000, 200), adversarial=(300, 200)),
        spsa=200,
        spsa_batches=(50, (128, 4096, 8192)),
        # At a rate of 0.1 medians are larger, softmax's by 14 %, MMC's by 2 %.
        cw=(100, dict(num_binary_search_steps=9, num_steps=200, learning_rate=0.03)),
        calibration=dict(
            num_binary_search_steps=9, num_steps=1000, learning_rate=0.005
        ),
        budget={},
        figures={},
    ),
    "full": dict(
        about="the paper's recipe and its number of attacked images, three seeds",
        is_trial=False,
        seeds=3,
        networks={},
        epochs={},
        num_attacked=0,
        strongest=dict(plain=(0, 1000), adversarial=(0, 1000)),
        spsa=1000,
        spsa_batches=(1000, (128, 4096, 8192)),
        cw=(500, dict(num_binary_search_steps=9, num_steps=1000, learning_rate=0.005)),
        calibration=None,
        budget={},
        figures={},
    ),
}
"""Scale -> seeds, networks that stand in for the paper's, and how many images each
measurement takes, from the first on (0: all). `strongest` is that of seed 0 and that of
the other seeds, of models trained plainly and adversarially; `budget` caps what each
attack of the strongest may spend; `figures` is what measurements behind figures take
that is not their default."""

_FIXED = dict(keep="last", stop_on_success=False)
_NAMES = ("spsa-128", "spsa-4096", "spsa-8192")


def radii(dataset: str, *, adversarial: bool) -> tuple[str, ...]:
    """Return the linf radii that a model is attacked at.

    An adversarially trained one, but for CIFAR, at that of its training alone.
    """
    return _CIFAR_RADII if dataset in _CIFAR else _RADII[adversarial]


def cells(
    measure: str,
    configs: dict[str, ml_collections.ConfigDict],
    dataset: str,
    scale: str,
    seed: int,
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return cells by name: their kind, and settings.

    `configs` are those of the models that are measured together, one but for transfer.
    """
    plan = SCALES[scale]
    if measure in ("clean", "convergence"):
        return {measure: (measure, {})}
    if measure in _FIGURES:
        return {measure: (measure, _FIGURES[measure](dataset, plan))}
    config = next(iter(configs.values()))
    adversarial = bool(config.attack)
    attacked = dict(num_images=plan["num_attacked"])
    if measure == "cw":
        return _distances(plan, seed, config)
    if measure == "transformations":
        rows = {
            "noise": dict(name="gaussian_noise", sigma=0.05),
            "rotation": dict(name="rotation", max_angle=30.0),
        }
        settings = dict(rows=rows, epsilon="0", mode="individual", **attacked)
        return {"transformations": ("attacks", settings)}
    if measure == "transfer":
        return _transfers(configs, dataset, attacked)
    found = {}
    for radius in radii(dataset, adversarial=adversarial):
        rows, more = _rows(measure, config, dataset, radius, plan, seed)
        name = f"{measure}_{radius.replace('/', '-')}"
        found[name] = ("attacks", dict(rows=rows, epsilon=radius, **more))
    return found


def objective(config: ml_collections.ConfigDict, otherwise: str) -> str:
    """Return the paper's adaptive objective for MMC and its variants, else another."""
    by_distance = config.loss.name in common.MMC_LOSSES
    return "own_class" if by_distance else otherwise


def step_size(dataset: str, radius: str) -> float:
    """Return the paper's 2/255 at every radius; on MNIST a quarter of the radius."""
    value = common.parse_fraction("eps", radius)
    return 2 / 255 if dataset in _CIFAR else value / 4


def _rows(measure, config, dataset, radius, plan, seed):
    """Return the attacks of a measurement at a radius, and its other settings."""
    goals = (("-tar", True), ("", False))
    if measure == "strongest":
        suite = "autoattack"
        if config.loss.name not in LINEAR_LOSSES:
            suite = "autoattack-mmc"
        rows = {name: _cap(row, plan["budget"]) for name, row in SUITES[suite].items()}
        if not config.attack:
            # It broke none of 96 images of plain MMC that the others left.
            rows.pop("multi-targeted-own", None)
        training = "adversarial" if config.attack else "plain"
        first, others = plan["strongest"][training]
        return rows, dict(mode="cascade", num_images=others if seed else first)
    if measure == "pgd":
        rows = {
            f"pgd-{num_steps}{suffix}": dict(
                name="pgd",
                num_steps=num_steps,
                step_size=step_size(dataset, radius),
                objective=objective(config, "cross_entropy"),
                targeted=targeted,
                **_FIXED,
            )
            for num_steps in (10, 50)
            for suffix, targeted in goals
        }
        return rows, dict(mode="individual", num_images=plan["num_attacked"])
    spsa = dict(name="spsa", num_steps=10, objective=objective(config, "margin"))
    if measure == "spsa":
        rows = {f"spsa-10{s}": dict(spsa, targeted=targeted) for s, targeted in goals}
        return rows, dict(mode="individual", num_images=plan["spsa"])
    num_images, sizes = plan["spsa_batches"]
    rows = {
        name: dict(spsa, num_samples=size)
        for name, size in zip(_NAMES, sizes, strict=True)
    }
    return rows, dict(mode="individual", num_images=num_images)


def _cap(row: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    """Return a row that spends no more than a budget."""
    spends = {
        "apgd": ("num_steps",),
        "apgd_targeted": ("num_steps", "num_targets"),
        "fab_targeted": ("num_steps", "num_targets"),
        "multi_targeted": ("num_steps", "num_targets"),
        "square": ("num_queries",),
    }[row["name"]]
    return row | {name: budget[name] for name in spends if name in budget}


def _distances(plan, seed, config):
    """Return C&W both ways and, for softmax and MMC, a long one to compare with."""
    num_images, budget = plan["cw"]
    attack = dict(name="carlini_wagner", **budget)
    wanted = {"cw": attack, "cw-tar": dict(attack, targeted=True)}
    is_compared = config.loss.name in ("softmax", "mmc")
    is_compared &= config.model.centers == "optimal"
    if plan["calibration"] and is_compared and not seed:
        wanted["cw-long"] = dict(name="carlini_wagner", **plan["calibration"])
    return {
        name: ("minimum_norm", dict(attack=attack, norm="l2", num_images=num_images))
        for name, attack in wanted.items()
    }


def _paths(dataset, plan):
    """Return the paper's 50 steps of a thirtieth of the radius."""
    epsilon = common.parse_fraction("eps", radii(dataset, adversarial=True)[0])
    found = dict(epsilon=epsilon, step_size=epsilon / 30, num_steps=50)
    return found | plan["figures"].get("feature_paths", {})


def _step(dataset, plan):
    """Return which network's train step is timed: the one that would be trained."""
    network = plan["networks"].get("resnet32_v2", "resnet32_v2")
    found = dict(architecture=network if dataset in _CIFAR else "cnn")
    return found | plan["figures"].get("extra_cost", {})


def _scores(dataset, plan):
    """Return the authors' 1,000 images and PGD-10, at the smaller radius."""
    radius = radii(dataset, adversarial=False)[0]
    return dict(
        epsilon=radius,
        step_size=step_size(dataset, radius),
        num_steps=10,
        num_images=plan["num_attacked"] or 1000,
    )


_FIGURES = {
    "feature_paths": _paths,
    "extra_cost": _step,
    "detection": _scores,
    "toy": lambda dataset, plan: plan["figures"].get("toy", {}),
}
"""Measurement behind a figure -> its settings, of a data set at a scale."""


def _transfers(configs, dataset, attacked):
    """Return MIM and PGD between all models of a group, at each radius."""
    objectives = {m: objective(c, "cross_entropy") for m, c in configs.items()}
    return {
        f"{name}-10_{radius.replace('/', '-')}": (
            "transfer",
            dict(
                attack=dict(
                    name=name,
                    num_steps=10,
                    step_size=step_size(dataset, radius),
                    **_FIXED,
                ),
                epsilon=radius,
                objectives=objectives,
                **attacked,
            ),
        )
        for name in ("mim", "pgd")
        for radius in radii(dataset, adversarial=False)
    }
