"""Small experiments without models, for the tests of `mmc_jax.experiments`."""

from __future__ import annotations

import ml_collections
import numpy as np

from mmc_jax import data, experiments
from mmc_jax.evaluate import Share
from mmc_jax.experiments import store


def make_plan(cells, **changes) -> experiments.Plan:
    """Return a plan of two models; a cell is members, seed, name, kind, settings."""
    config = ml_collections.ConfigDict({"dataset": "digits", "seed": 0})
    names = ("members", "seed", "cell", "kind", "settings")
    known = dict(
        experiment="trial",
        title="A trial",
        paper="No table",
        dataset="digits",
        scale="smoke",
        about="a test",
        is_trial=False,
        labels={"one": "One", "other": "Other"},
        left_out={},
        configs={"one": config, "other": ml_collections.ConfigDict(config)},
        cells=[dict(zip(names, cell, strict=True)) for cell in cells],
        columns=(),
        more=(),
        published={},
    )
    return experiments.Plan(**{**known, **changes})


def fill(plan, folder, results, **changes):
    """Store results, by `(model, seed, cell)`, as cells of a plan."""
    for wanted in plan.wanted:
        key = (wanted.group, wanted.seed, wanted.cell)
        if key in results:
            content = dict(
                identity=plan.identity(wanted),
                result=results[key],
                models={wanted.group: f"weights {wanted.seed}"},
                data=dict(source="a source", sizes={"test": 4}, is_subset=False),
                environment={"jax": "1", "time": "now"},
                trained_in={},
                command="a command",
                seconds=1.0,
            )
            store.write({**content, **changes}, wanted.path(folder))


SETTINGS = dict(epsilon="0.1", mode="individual", num_images=4)


def record(clean: str, rows: dict[str, str], *, mode="individual", findings=()):
    """Return what attacks leave: bits of the clean images, and of each row's."""
    bits = {name: np.array([*text]) == "1" for name, text in rows.items()}
    left = np.array([*clean]) == "1"
    described, outcomes = {}, {}
    for name, flags in bits.items():
        left = left & flags
        described[name] = dict(
            accuracy=Share(int(flags.sum()), len(flags)).to_dict(),
            running_accuracy=Share(int(left.sum()), len(left)).to_dict(),
            in_worst_case=True,
        )
        outcomes[name] = dict(attacked="1" * len(flags), correct=rows[name])
    return dict(
        mode=mode,
        clean=Share(clean.count("1"), len(clean)).to_dict(),
        rows=described,
        findings=[dict(name=n, row=r, message=m) for n, r, m in findings],
        per_example=dict(
            clean=clean,
            worst_case="".join("1" if flag else "0" for flag in left),
            rows=outcomes,
        ),
    )


def splits():
    """Return a data set of a few images."""
    images = np.zeros((6, 2, 2, 1), np.uint8)
    part = data.ArrayDataset(images, np.arange(6, dtype=np.int32) % 2)
    return data.DataSplits("digits", part, part, part, 2, "a source")
