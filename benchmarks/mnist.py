"""MNIST, all of it: train softmax, MMC and adversarially trained MMC; attack them.

    TFDS_DATA_DIR=... python benchmarks/mnist.py --out=results/mnist

Three seeds of the plain models, one of the adversarial one, by `configs/mnist.py` as
committed. Each training and each evaluation is a cell, stored as it is done: started
again, the script goes on with what is missing. The test set is read here and nowhere
else: its first 1,000 images are attacked, all 10,000 give the clean accuracy.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np

from mmc_jax import data, metrics
from mmc_jax.evaluate import robust_accuracy
from mmc_jax.train import load, train

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PLAIN = {
    f"{loss}_{seed}": (f"loss={loss}", seed)
    for seed in range(3)
    for loss in ("softmax", "mmc")
}
_ADVERSARIAL = {"mmc_adversarial_0": ("loss=mmc,adv=pgd,eps=0.3", 0)}
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
        cells = {0.3: _PGD_100} if name in _ADVERSARIAL else {}
        cells |= {} if cells else dict.fromkeys((0.1, 0.2, 0.3), _PGD_40)
        for epsilon, rows in cells.items():
            path = args.out / f"{name}_eps{epsilon}.json"
            if not path.exists():
                result = _evaluate(args.runs / name, config, rows, epsilon)
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(result, indent=1) + "\n")
                partial.replace(path)


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
