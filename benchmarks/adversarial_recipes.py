"""Which recipe trains MMC best against attacks, and does it beat softmax's best?

    TFDS_DATA_DIR=... python benchmarks/adversarial_recipes.py    # what is missing
    python benchmarks/adversarial_recipes.py --report             # only the page

Each candidate differs from its loss's own recipe (`configs/mnist.py`, adversarial
training at linf 0.3) in one thing. All train for a short while on a part of the
training images, and are judged on validation images by the worst case of attacks that
know both heads. The best of each loss then trains at length, and AutoAttack and
multi_targeted attack it on test images, which nothing else here reads.

Every candidate and every final model is a cell, stored as it is done: started again,
the script goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

import _mnist_models
import _recipes_page
import jax
import numpy as np

from mmc_jax import data
from mmc_jax.evaluate import inputs, robust_accuracy
from mmc_jax.train import load, train

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_EPSILON = 0.3
_SHORT = {
    "max_train_images": 15_000,
    "validation_size": 1000,
    "num_epochs": 6,
    "optimizer.boundaries": (4,),
    "keep_checkpoints": 1,
}
_NUM_TEST = 300

_LOSSES = ("softmax", "mmc")
_BOTH: dict[str, tuple[str, dict[str, Any]]] = {
    "as it is": ("", {}),
    "margin attacked": ("", {"attack.objective": "margin"}),
    "TRADES": (",recipe=trades", {}),
    "rate halved": ("", {"optimizer.learning_rate": 5e-4}),
    "rate doubled": ("", {"optimizer.learning_rate": 2e-3}),
}
# Of other norms the loss is scaled back: the same pull, relative to the features.
_MMC_ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "targeted": (",targeted", {}),
    "C_MM 3": ("", {"model.center_norm": 3.0, "loss.loss_scale": 2 * (10 / 3) ** 2}),
    "C_MM 30": ("", {"model.center_norm": 30.0, "loss.loss_scale": 2 * (10 / 30) ** 2}),
    "TRADES, weight 1": (",recipe=trades", {"recipe.weight": 1.0}),
}
CANDIDATES = {
    f"{loss}: {name}": (f"loss={loss},adv=pgd,eps={_EPSILON}{more}", overrides)
    for loss, candidates in zip(_LOSSES, (_BOTH, _BOTH | _MMC_ALONE), strict=True)
    for name, (more, overrides) in candidates.items()
}
"""Candidate -> its config's string argument, and overrides by dotted name."""

_VALIDATION_ROWS: dict[str, dict[str, Any]] = {
    **{
        f"pgd-{objective}": dict(
            name="pgd", objective=objective, num_steps=40, step_size=0.02
        )
        for objective in ("cross_entropy", "margin", "own_class", "dlr")
    },
    "multi-targeted": dict(name="multi_targeted", num_steps=20),
}


def main() -> None:
    """Fill in the cells that are missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument(
        "--out", type=pathlib.Path, default=_ROOT / "results" / "adversarial_recipes"
    )
    parser.add_argument("--runs", type=pathlib.Path, default=_ROOT / "runs" / "recipes")
    parser.add_argument(
        "--losses", nargs="*", choices=_LOSSES, default=_LOSSES, help="only these"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        for loss in args.losses:
            for name in (n for n in CANDIDATES if n.startswith(f"{loss}:")):
                _fill(args.out / f"{_slug(name)}.json", args.runs / _slug(name), name)
            name = _recipes_page.best(_cells(args.out))[loss]
            slug = f"final-{_slug(name)}"
            _fill(args.out / f"{slug}.json", args.runs / slug, name, is_final=True)
    page = _recipes_page.render(_cells(args.out), list(CANDIDATES))
    (args.out / "README.md").write_text(page)
    print(page)


def _cells(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _slug(name: str) -> str:
    return "-".join(name.lower().replace(":", "").replace(",", "").split())


def _fill(
    path: pathlib.Path, workdir: pathlib.Path, name: str, *, is_final: bool = False
) -> None:
    """Train a candidate and judge it, if its cell is not there."""
    if path.exists():
        return
    config = _config(name, is_final=is_final)
    train(config, workdir)
    if is_final:
        _mnist_models.keep(workdir, path.with_suffix(".npz"))
    record = _judge(workdir, config, is_final=is_final)
    run = json.loads((workdir / "run.json").read_text())
    cell = {
        "name": name,
        "loss": config.loss.name,
        "is_final": is_final,
        "command": "python benchmarks/adversarial_recipes.py",
        "config": run["config"],
        "trained_in": run["environment"],
        **record.to_dict(),
    }
    inputs.write_json(cell, path)
    left = record.worst_case
    print(f"{path.stem}: {left.count} of {left.total} left", flush=True)


def _config(name: str, *, is_final: bool):
    # configs/ lies beside this script's folder.
    sys.path.insert(0, str(_ROOT))
    from configs import mnist

    argument, overrides = CANDIDATES[name]
    config = mnist.get_config(argument)
    config.update_from_flattened_dict(overrides | ({} if is_final else _SHORT))
    return config


def _judge(workdir: pathlib.Path, config, *, is_final: bool):
    """Attack the checkpoint that is best by validation."""
    from configs.suites import SUITES

    splits = data.load("mnist", validation_size=config.validation_size)
    split, rows, journal = splits.validation, _VALIDATION_ROWS, None
    if is_final:
        split, rows = splits.test.take(slice(_NUM_TEST)), SUITES["autoattack-mmc"]
        journal = workdir / "evaluation.journal"
    return robust_accuracy(
        load(workdir)[2],
        np.float32(split.images) / np.float32(255),
        split.labels,
        rows,
        jax.random.key(0),
        norm="linf",
        epsilon=_EPSILON,
        batch_size=128,
        journal=journal,
    )


if __name__ == "__main__":
    main()
