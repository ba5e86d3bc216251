"""What the differences from published code are worth, in points of robust accuracy.

    TFDS_DATA_DIR=... python benchmarks/differences.py           # what is missing
    python benchmarks/differences.py --report                    # only the table

Where a paper and its published code differ, our attacks follow the paper, and their
docstrings say where. Here each difference is planted in a copy of the repository, as
the code has it, and both versions attack the same MNIST test images of the plain models
with the same seeds. A positive number means that the code's way leaves more: it is the
weaker one.

Every cell (a version, a model) is stored as it is done, under a hash of the attacks'
sources and of what is asked: started again, the script goes on with what is missing or
has changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import _mnist_models
import _paired
import _planting
import _timing
import numpy as np
from _differences import DIFFERENCES, SETTINGS, Difference, planted
from scipy import stats

from mmc_jax.environment import describe_environment
from mmc_jax.evaluate import inputs

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_MODELS = ("softmax_0", "mmc_0")
_SEEDS = (0, 1, 2, 3, 4)
_SOURCES = "mmc_jax/attacks/*.py"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def main() -> None:
    """Measure what is missing, write the table."""
    args = _parse_args()
    if args.measure:
        json.dump(_measure(*args.measure), sys.stdout)
        return
    record = args.out.with_suffix(".json")
    cells = json.loads(record.read_text())["cells"] if record.exists() else {}
    if not args.report:
        _fill(cells, record)
    page = _render(cells)
    args.out.write_text(page)
    print(page)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=_ROOT / "results" / "differences.md"
    )
    parser.add_argument("--report", action="store_true", help="only write the table")
    parser.add_argument(
        "--measure",
        nargs=2,
        metavar=("SETTING", "MODEL"),
        help="measure the code that is imported, print what is left image by image",
    )
    return parser.parse_args()


def _measure(setting: str, model: str) -> list[str]:
    """Return, for each seed, a 1 for every image that is still right and a 0."""
    import jax

    from mmc_jax.evaluate import robust_accuracy

    attack, norm, epsilon, num_images = SETTINGS[setting]
    images, labels = (array[:num_images] for array in _mnist_models.test_set())
    left = []
    for seed in _SEEDS:
        record = robust_accuracy(
            _mnist_models.load(model).logits_fn,
            images,
            labels,
            {"attack": attack},
            jax.random.key(seed),
            norm=norm,
            epsilon=epsilon,
            batch_size=num_images,
        )
        left.append("".join(str(int(bit)) for bit in record.robust))
    return left


def _fill(cells: dict[str, Any], record: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = _planting.copy_repository(pathlib.Path(folder))
        for model in _MODELS:
            for setting in SETTINGS:
                _run(copy, f"{setting}: ours", setting, model, cells, record)
            for difference in DIFFERENCES:
                path = copy / difference.path
                text = path.read_text()
                path.write_text(planted(difference, text))
                _run(copy, _name(difference), difference.setting, model, cells, record)
                path.write_text(text)


def _name(difference: Difference) -> str:
    return f"{difference.setting}: {difference.name}"


def _run(copy, name, setting, model, cells, record) -> None:
    key, digest = f"{name}, {model}", _hash(copy, setting)
    if cells.get(key, {}).get("hash") == digest:
        return
    script = copy / "benchmarks" / pathlib.Path(__file__).name
    finished = subprocess.run(
        [sys.executable, str(script), "--measure", setting, model],
        cwd=copy,
        env=_planting.environment(copy),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    left = json.loads(finished.stdout)
    environment = describe_environment()
    cells[key] = {"hash": digest, "environment": environment, "left": left}
    content = {
        "command": "python benchmarks/differences.py",
        "machine": _timing.describe_machine(),
        "seeds": _SEEDS,
        "settings": {name: found._asdict() for name, found in SETTINGS.items()},
        "cells": cells,
    }
    inputs.write_json(content, record)
    shares = [100 * bits.count("1") / len(bits) for bits in left]
    print(f"{key}: {np.mean(shares):.2f} % left", flush=True)


def _hash(copy: pathlib.Path, setting: str) -> str:
    """Hash what a cell depends on, the difference that is planted included.

    Without docstrings, which say what was measured here.
    """
    trees = [ast.parse(path.read_text()) for path in sorted(copy.glob(_SOURCES))]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    texts = [ast.dump(tree) for tree in trees]
    content = json.dumps([texts, SETTINGS[setting], _SEEDS])
    return hashlib.sha256(content.encode()).hexdigest()


def _compared(cells: dict[str, Any]) -> list[list[str]]:
    """Return a row for every difference and model that was measured."""
    rows, p_values = [], []
    for difference in DIFFERENCES:
        for model in _MODELS:
            ours = cells.get(f"{difference.setting}: ours, {model}")
            theirs = cells.get(f"{_name(difference)}, {model}")
            if ours and theirs:
                row = [
                    difference.setting,
                    difference.name,
                    model,
                    str(len(ours["left"][0])),
                ]
                texts, p = _compare(ours["left"], theirs["left"])
                rows.append([*row, *texts])
                p_values.append(p)
    adjusted = _paired.holm(p_values)
    return [[*row, f"{p:.2f}"] for row, p in zip(rows, adjusted, strict=True)]


def _render(cells: dict[str, Any]) -> str:
    header = ["attack", "published code", "model", "n", "ours", "the code's"]
    rows = _compared(cells)
    missing = len(DIFFERENCES) * len(_MODELS) - len(rows)
    settings = [
        f"- {name}: {', '.join(f'{k} {v}' for k, v in found.attack.items())},"
        f" {found.norm} {found.epsilon}"
        for name, found in SETTINGS.items()
    ]
    lines = [
        "# Differences from published code",
        "",
        "Made by `benchmarks/differences.py`; the outcomes, image by image, are in",
        "`differences.json`. Accuracy in percent under the attack, mean over seeds"
        f" {', '.join(map(str, _SEEDS))};",
        "the difference is paired, with its 95 % interval over the seeds;",
        "`union` is that of what all seeds break, with McNemar's p, as it is and",
        "adjusted by Holm over this table. Positive: the code's way is weaker.",
        "",
        *settings,
        "",
        _paired.markdown([*header, "difference", "union", "p", "p (Holm)"], rows),
    ]
    if missing:
        lines += ["", f"{missing} comparisons have not been made."]
    return "\n".join(lines) + "\n"


def _compare(ours: list[str], theirs: list[str]) -> tuple[list[str], float]:
    mine, other = (np.array([[*map(int, s)] for s in side]) for side in (ours, theirs))
    shares = 100 * mine.mean(axis=1), 100 * other.mean(axis=1)
    gaps = shares[1] - shares[0]
    error = stats.t.ppf(0.975, len(gaps) - 1) * stats.sem(gaps)
    unions = mine.all(axis=0), other.all(axis=0)
    p = _paired.mcnemar(*unions)
    union = 100 * (unions[1].mean() - unions[0].mean())
    texts = [
        f"{shares[0].mean():.2f}",
        f"{shares[1].mean():.2f}",
        f"{gaps.mean():+.2f} ± {error:.2f}",
        f"{union:+.1f}",
        f"{p:.2f}",
    ]
    return texts, p


if __name__ == "__main__":
    main()
