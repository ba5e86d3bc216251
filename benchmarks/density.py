"""Does MMC gather samples? Densities of MNIST features against the paper's theorems.

    TFDS_DATA_DIR=... python benchmarks/density.py

For the models in results/mnist/ (softmax and MMC), and for one of MMLDA: where the
features of the 10,000 test images lie around their class's mean, in all dimensions and
in those that the logits read. For MMC also Theorem 2. Under two minutes on one core.

The MMLDA model comes from a run of `loss=mmlda` (`launch/reproduce.py`, experiment
table1); --mmlda=WORKDIR keeps its weights beside the page.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import _density_page
import _mnist_models
import jax
import numpy as np
from scipy import stats

from mmc_jax import contours, density, sample_density
from mmc_jax.environment import describe_environment

_MMLDA = "mmlda_0"
_NUM_CLASSES = 10
_NUM_SHELLS = 12
_OUT = pathlib.Path(__file__).resolve().parents[1] / "results" / "density"


def main() -> None:
    """Measure every model; write the record, the figure and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=_OUT)
    parser.add_argument(
        "--mmlda", type=pathlib.Path, help="a run whose weights to keep"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.mmlda is not None:
        _mnist_models.keep(args.mmlda, args.out / f"{_MMLDA}.npz")
    if not (args.out / f"{_MMLDA}.npz").exists():
        parser.error(f"{_MMLDA}.npz is not in {args.out}: give --mmlda=WORKDIR")
    folders = dict.fromkeys(_mnist_models.names(), _mnist_models.FOLDER)
    folders[_MMLDA] = args.out
    images, labels = _mnist_models.test_set()
    record: dict[str, Any] = {
        "command": "python benchmarks/density.py",
        "environment": describe_environment(),
        "num_images": len(labels),
        "seed": 0,
        "models": {},
    }
    for name, folder in folders.items():
        victim = _mnist_models.load(name, folder)
        features = _features(victim, images)
        record["models"][name] = _measure(name, victim.variables, features, labels)
        print(f"measured {name}")
    (args.out / "density.json").write_text(_as_json(record) + "\n")
    _density_page.draw(record, args.out / "density.png")
    (args.out / "README.md").write_text(_density_page.page(record))


def _as_json(found: Any) -> str:
    return json.dumps(found, indent=1, default=lambda array: array.tolist())


def _features(victim: _mnist_models.Victim, images: np.ndarray) -> np.ndarray:
    model, variables = victim.classifier, victim.variables
    apply = jax.jit(lambda batch: model.apply(variables, batch).features)
    batches = np.split(images, len(images) // 1000)
    return np.concatenate([np.asarray(apply(batch), np.float64) for batch in batches])


def _measure(
    name: str, variables: Any, features: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    centers = variables.get("centers", {}).get("centers")
    if centers is None:
        linear = variables["params"]["linear"]
        head = contours.linear_as_quadratic(linear["kernel"], linear["bias"])
    else:
        centers = np.asarray(centers, np.float64)
        head = (centers, np.ones(_NUM_CLASSES), np.zeros(_NUM_CLASSES))
    # The logits' differences are linear in z, in the span of these rows.
    rows = head[0] - head[0].mean(axis=0)
    basis = np.linalg.svd(rows, full_matrices=False)[2][: _NUM_CLASSES - 1].T
    result = {
        "spaces": {
            "all": _spread(features, labels),
            "logits": _spread(features @ basis, labels),
        },
        "pairs": _pairs(features, labels, head),
    }
    if name.startswith("mmc"):
        own = features - centers[labels]
        result["theorem_2"] = {"all": _theorem_2(own, labels)}
        result["theorem_2"]["logits"] = _theorem_2(own @ basis, labels)
    return result


def _spread(features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Measure how close the samples are to their class's mean, in units of its own."""
    means = np.stack([features[labels == k].mean(axis=0) for k in range(_NUM_CLASSES)])
    between = np.linalg.norm(means[:, None] - means[None], axis=2)
    unit = between[~np.eye(_NUM_CLASSES, dtype=bool)].min() / 2
    offsets = (features - means[labels]) / unit
    distances, dim = np.linalg.norm(offsets, axis=1), features.shape[1]
    spectrum = np.linalg.eigvalsh(np.cov(offsets.T))
    nearest = _neighbours(offsets, labels)
    # The median and its interval; only what is not negative can be ranked.
    median = sample_density.ball_radius(nearest - nearest.min())
    return {
        "feature_dim": dim,
        "unit": unit,
        "radii": {
            f"{share:g}": sample_density.ball_radius(distances, share=share)
            for share in (0.01, *np.arange(1, 20) / 20, 0.97, 0.98, 0.99, 0.999)
        },
        "log_density_of_half": [
            bound - np.log(_NUM_CLASSES)
            for bound in sample_density.ball_log_density(distances, dim)
        ],
        "log_density_of_neighbours": [bound + nearest.min() for bound in median],
        "effective_dimensions": np.sum(spectrum) ** 2 / np.sum(spectrum**2),
    }


def _neighbours(offsets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = np.empty(len(labels))
    for label in range(_NUM_CLASSES):
        own = labels == label
        found[own] = sample_density.neighbour_log_density(offsets[own]).value
    return found


def _pairs(features: np.ndarray, labels: np.ndarray, head: tuple) -> dict[str, Any]:
    """Measure Theorem 1's pairs, and the way to the plane where a pair's logits tie."""
    means, scales, biases = head
    squares = np.sum((features[:, None] - means[None]) ** 2, axis=2)
    logits = -scales * squares + biases
    rivals = contours.rival_classes(logits, labels)
    pairs = contours.class_pairs(labels, rivals, *head)
    normals, offsets = contours.contour_planes(np.full(len(labels), np.log(2.0)), pairs)
    distances = np.sum(normals * features, axis=1) - offsets
    distances /= np.linalg.norm(normals, axis=1)
    counts = np.bincount(labels * _NUM_CLASSES + rivals, minlength=_NUM_CLASSES**2)
    counts = counts[counts > 0]
    return {
        "correct": int(np.sum(distances > 0)),
        "num_pairs": len(counts),
        "count_seen_by_an_example": float(np.sum(counts**2) / len(labels)),
        "distance_to_tie": sample_density.ball_radius(np.maximum(distances, 0.0)),
    }


def _theorem_2(offsets: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Hold Theorem 2 against shells around the preset centers, and against neighbours.

    Densities are of one class: the mean over the ten.
    """
    losses, dim = np.sum(offsets**2, axis=1) / 2, offsets.shape[1]
    held_out = np.arange(len(losses)) % 2 == 1
    fitted = stats.gaussian_kde(np.log(losses[~held_out]))
    edges = np.geomspace(*np.quantile(losses, [0.001, 0.999]), _NUM_SHELLS + 1)
    measured = sample_density.shell_log_density(
        np.sqrt(2 * losses[held_out]), np.sqrt(2 * edges), dim
    )
    # The theorems' means over each shell, by the midpoint rule in log C.
    fine = np.geomspace(edges[0], edges[-1], 100 * _NUM_SHELLS + 1)
    middles = np.sqrt(fine[:-1] * fine[1:])
    rates = len(losses) / _NUM_CLASSES * fitted(np.log(middles)) / middles
    thin, whole = (
        density.log_shell_volume(np.sqrt(2 * ends[:-1]), np.sqrt(2 * ends[1:]), dim)
        for ends in (fine, edges)
    )
    predicted = {}
    for form in ("exact", "printed"):
        logs = density.mmc_log_density(middles, rates, dim, volume=form) + thin
        sums = np.logaddexp.reduce(logs.reshape(_NUM_SHELLS, -1), axis=1)
        predicted[form] = sums - whole
    # As printed it has no constant: it gets the one that fits the fullest shell.
    fullest = np.argmax(measured.value + whole)
    predicted["printed"] += (predicted["exact"] - predicted["printed"])[fullest]
    # What the theorem takes for granted: every sample in a direction of its own.
    normal = np.random.default_rng(0).normal(size=offsets.shape)
    lengths = np.linalg.norm(offsets, axis=1) / np.linalg.norm(normal, axis=1)
    shell = np.digitize(losses, edges) - 1
    neighbours = {
        name: [np.median(nearest[shell == index]) for index in range(_NUM_SHELLS)]
        for name, nearest in (
            ("samples", _neighbours(offsets, labels)),
            ("evenly_spread", _neighbours(lengths[:, None] * normal, labels)),
        )
    }
    return {
        "edges": edges,
        "measured": [bound + np.log(2 / _NUM_CLASSES) for bound in measured],
        "predicted": predicted,
        "neighbours": neighbours,
    }


if __name__ == "__main__":
    main()
