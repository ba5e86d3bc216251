"""MNIST, all of it: train softmax and MMC, plain and adversarially; attack them.

    TFDS_DATA_DIR=... python benchmarks/mnist.py --out=results/mnist

Three seeds of the plain models, one of the adversarial ones, by `configs/mnist.py` as
committed. Each training and each evaluation is a cell, stored as it is done: started
again, the script goes on with what is missing. The test set is read here and nowhere
else: its first 1,000 images are attacked, all 10,000 give the clean accuracy.
"""

import argparse
import json
import pathlib
import sys

import _mnist_models
import jax
import numpy as np
from _paired import CROSS_ENTROPY_CHANGED

from mmc_jax import data, metrics
from mmc_jax.evaluate import robust_accuracy
from mmc_jax.train import load, train

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PLAIN = {
    f"{loss}_{seed}": (f"loss={loss}", seed)
    for seed in range(3)
    for loss in ("softmax", "mmc")
}
_ADVERSARIAL = {
    f"{loss}_adversarial_0": (f"loss={loss},adv=pgd,eps=0.3", 0)
    for loss in ("softmax", "mmc")
}
_MODELS = _PLAIN | _ADVERSARIAL
_OBJECTIVES = ("cross_entropy", "margin", "own_class", "dlr")

_PGD_40 = {
    f"PGD-40 {objective}": dict(
        name="pgd", objective=objective, num_steps=40, step_size=0.01
    )
    for objective in _OBJECTIVES
} | {
    f"PGD-40 {objective}, targeted": dict(
        name="pgd", objective=objective, num_steps=40, step_size=0.01, targeted=True
    )
    for objective in (*_OBJECTIVES, "pairwise_margin")
}
_PGD_100 = {
    f"PGD-100 {objective}, 10 restarts": dict(
        name="pgd",
        objective=objective,
        num_steps=100,
        num_restarts=10,
        step_size=0.01,
    )
    for objective in ("cross_entropy", "margin", "own_class")
}
_NUM_ATTACKED = 1000


def main() -> None:
    """Fill in the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=_ROOT / "results" / "mnist")
    parser.add_argument("--runs", type=pathlib.Path, default=_ROOT / "runs" / "mnist")
    parser.add_argument("--models", nargs="*", choices=[*_MODELS], default=[*_MODELS])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        arguments, seed = _MODELS[name]
        config = _config(arguments, seed)
        train(config, args.runs / name)
        if seed == 0:
            _mnist_models.keep(args.runs / name, args.out / f"{name}.npz")
        cells = {0.3: _PGD_100} if name in _ADVERSARIAL else {}
        cells |= {} if cells else dict.fromkeys((0.1, 0.2, 0.3), _PGD_40)
        for epsilon, rows in cells.items():
            path = args.out / f"{name}_eps{epsilon}.json"
            if not path.exists():
                result = _evaluate(args.runs / name, config, rows, epsilon)
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(result, indent=1) + "\n")
                partial.replace(path)
    cells = [json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))]
    (args.out / "README.md").write_text(_page(cells))


def _page(cells: list[dict]) -> str:
    """Write one page: a table a radius, a column a kind of model."""
    lines = _introduction(cells)
    for epsilon in sorted({cell["epsilon"] for cell in cells}):
        groups: dict[str, list[dict]] = {}
        for cell in cells:
            if cell["epsilon"] == epsilon:
                kind = "adversarial " if cell["config"]["attack"] else "plain "
                groups.setdefault(kind + cell["config"]["loss"]["name"], []).append(
                    cell
                )
        header = [f"{name} ({len(group)})" for name, group in groups.items()]
        lines += ["", f"## epsilon {epsilon}", "", _line(["", *header])]
        lines.append(_line(["---"] * (1 + len(header))))
        rows = {"clean": lambda cell: cell["clean_test"]["correct"] / 1e4}
        names = dict.fromkeys(
            n for cell in sum(groups.values(), []) for n in cell["rows"]
        )
        for name in names:
            rows[name] = lambda cell, n=name: (
                cell["rows"][n]["accuracy"]["value"] if n in cell["rows"] else None
            )
        rows["worst case"] = lambda cell: cell["worst_case"]["value"]
        rows["zero gradient"] = lambda cell: cell["zero_gradient_fractions"].get(
            "cross_entropy"
        )
        for name, read in rows.items():
            values = [[read(cell) for cell in group] for group in groups.values()]
            lines.append(_line([name, *map(_spread, values)]))
    return "\n".join(lines) + "\n"


def _introduction(cells: list[dict]) -> list[str]:
    lines = [
        "# MNIST",
        "",
        "Made by `benchmarks/mnist.py` from the cells beside it, which hold the",
        "configs, seeds, versions, counts and per-image outcomes. Accuracies in",
        "percent: clean on all test images, attacked on the first",
        f"{_NUM_ATTACKED}, linf; where there are several seeds, mean ± standard",
        "deviation over them. `worst case` is image by image over all rows. `zero",
        "gradient` is the share of clean images on which the gradient of",
        "cross-entropy is exactly zero.",
    ]
    if any(cell["environment"]["time"] < CROSS_ENTROPY_CHANGED for cell in cells):
        lines += [
            "",
            "Some were attacked before cross-entropy was taken by differences of",
            "logits, which is stronger: `results/reproduce` has later ones.",
        ]
    return lines


def _line(texts) -> str:
    return f"| {' | '.join(texts)} |"


def _spread(values: list[float | None]) -> str:
    if None in values:
        return "-"
    text = f"{100 * np.mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {100 * np.std(values, ddof=1):.2f}"


def _config(arguments: str, seed: int):
    # configs/ lies beside this script's folder.
    sys.path.insert(0, str(_ROOT))
    from configs import mnist

    config = mnist.get_config(arguments)
    config.seed = seed
    return config


def _evaluate(workdir, config, rows, epsilon) -> dict:
    """Judge the checkpoint that is best by validation."""
    test = data.load("mnist", validation_size=config.validation_size).test
    logits_fn = load(workdir)[2]
    images, labels = np.float32(test.images / 255), test.labels
    classify = jax.jit(lambda batch: metrics.correct(logits_fn(batch[0]), batch[1]))
    right = [
        int(
            classify((images[first : first + 1000], labels[first : first + 1000])).sum()
        )
        for first in range(0, len(labels), 1000)
    ]
    record = robust_accuracy(
        logits_fn,
        images[:_NUM_ATTACKED],
        labels[:_NUM_ATTACKED],
        rows,
        jax.random.key(0),
        norm="linf",
        epsilon=epsilon,
        mode="individual",
        batch_size=500,
        progress=True,
    )
    run = json.loads((workdir / "run.json").read_text())
    return {
        "clean_test": {"correct": sum(right), "total": len(labels)},
        "config": run["config"],
        "trained_in": run["environment"],
        **record.to_dict(),
    }


if __name__ == "__main__":
    main()
