r"""Attack a model and say, with intervals and findings, how much of it holds.

One of our work directories:

    python launch/evaluate.py --workdir=runs/mnist_mmc --suite=quick --epsilon=0.1

Any JAX model: a function from float32 images [batch, height, width, channels] in
[0, 1] to logits [batch, num_classes], and an .npz with test_images (uint8, or floats in
[0, 1]) and test_labels:

    python launch/evaluate.py --logits_fn=package.module:function --data=test.npz \
        --epsilon=8/255

It says what it will cost, prints a table and writes a JSON record with every number's
counts, hyperparameters, seed and versions. In a cascade each attack sees only what
those before it left, the fastest way to the worst case; --mode=individual gives every
attack an accuracy of its own.
"""

import pathlib
import shlex
import sys
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from mmc_jax import data, evaluate, train
from mmc_jax.evaluate import inputs
from mmc_jax.report import tables

_WORKDIR = flags.DEFINE_string("workdir", None, "A run of launch/train.py to judge.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which of the work directory's."
)
_SPLIT = flags.DEFINE_enum(
    "split",
    "test",
    ["test", "validation"],
    "Which images of the work directory's data set; choose recipes on validation.",
)
_LOGITS_FN = flags.DEFINE_string(
    "logits_fn", None, "package.module:function, instead of a work directory."
)
_DATA = flags.DEFINE_string(
    "data", None, "An .npz with test_images and test_labels; needed with --logits_fn."
)
_SUITE = flags.DEFINE_string(
    "suite", "quick", "A suite of configs/suites.py: quick or paper."
)
_NORM = flags.DEFINE_enum("norm", "linf", ["linf", "l2"], "Norm of the ball.")
_EPSILON = flags.DEFINE_string(
    "epsilon", None, "Radius of the ball, pixels in [0, 1], such as 8/255 or 0.3."
)
_MODE = flags.DEFINE_enum(
    "mode", "cascade", ["cascade", "individual"], "Whom each attack sees."
)
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    None,
    "How many images, from the first on; 0: all. Default: all, at most 1000.",
    lower_bound=0,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images at a time.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds every attack.", lower_bound=0)
_OUT = flags.DEFINE_string(
    "out", None, "The record. Default: evaluation.json, in the work directory if any."
)
_DEFAULT_NUM_IMAGES = 1000
_PROGRESS = flags.DEFINE_bool("progress", True, "Whether to show a progress bar.")


def main(argv: list[str]) -> None:
    """Judge, and say in one line what went wrong where something did."""
    if len(argv) > 1:
        _fail(f"unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        _judge()
    except (ValueError, OSError) as error:
        _fail(error)


def _judge() -> None:
    attacks = _suite()
    epsilon = _epsilon()
    logits_fn, images, labels, source = _subject()
    settings = {
        "norm": _NORM.value,
        "epsilon": epsilon,
        "batch_size": _BATCH_SIZE.value,
    }
    cost = evaluate.estimate_cost(logits_fn, images, labels, attacks, **settings)
    print(f"{len(images)} images of {source}; {len(attacks)} attacks: {cost}.")
    try:
        record = evaluate.robust_accuracy(
            logits_fn,
            images,
            labels,
            attacks,
            jax.random.key(_SEED.value),
            mode=_MODE.value,
            progress=_PROGRESS.value,
            **settings,
        )
    except evaluate.EvaluationInterrupted as interruption:
        _write(interruption.record, source)
        done = sum(row.complete for row in interruption.record.rows)
        print(
            f"Interrupted after {done} of {len(attacks)} attacks; the record above is"
            " an upper bound. To judge again, from the start and to the same result:\n"
            f"    {shlex.join(['python', *sys.argv])}\n"
            "To be done sooner: --num_images=N with a smaller N."
        )
        sys.exit(130)
    except KeyboardInterrupt:
        print("\nInterrupted before the first attack; nothing was written.")
        sys.exit(130)
    _write(record, source)


def _suite() -> dict[str, dict[str, Any]]:
    from configs.suites import SUITES

    if _SUITE.value not in SUITES:
        accepted = ", ".join(SUITES)
        raise ValueError(f"unknown --suite={_SUITE.value}; accepted: {accepted}")
    return SUITES[_SUITE.value]


def _epsilon() -> float:
    if _EPSILON.value is None:
        raise ValueError("--epsilon is missing: a radius such as 8/255 or 0.3")
    epsilon = inputs.parse_number(_EPSILON.value, "--epsilon")
    if epsilon < 0:
        raise ValueError(f"--epsilon={_EPSILON.value} must be at least 0")
    return epsilon


def _subject():
    """Return the classifier, what to judge it on, and where that comes from."""
    if (_WORKDIR.value is None) == (_LOGITS_FN.value is None):
        raise ValueError(
            "give either --workdir, a run of launch/train.py, or --logits_fn, anyone's"
            " function package.module:function"
        )
    if _WORKDIR.value is not None:
        loaded = train.load(_WORKDIR.value, checkpoint=_CHECKPOINT.value)
        _, _, logits_fn, config = loaded
    elif _DATA.value is not None:
        logits_fn = inputs.load_logits_fn(_LOGITS_FN.value)
    else:
        raise ValueError("--logits_fn needs --data, an .npz to judge it on")
    if _DATA.value is not None:
        images, labels = data.load_test_arrays(_DATA.value)
        source = _DATA.value
    else:
        images, labels, source = _config_images(config)
    num_images = _NUM_IMAGES.value
    if num_images is None:
        num_images = min(_DEFAULT_NUM_IMAGES, len(images))
    if num_images > len(images):
        raise ValueError(
            f"--num_images={num_images}, but there are {len(images)}; 0 takes all"
        )
    chosen = slice(num_images or None)
    return logits_fn, images[chosen], labels[chosen], source


def _config_images(config) -> tuple[np.ndarray, np.ndarray, str]:
    splits = data.load(
        config.dataset,
        data_dir=config.data_dir or None,
        validation_size=config.validation_size,
    )
    split = splits.test if _SPLIT.value == "test" else splits.validation
    source = f"{_SPLIT.value} split of {config.dataset} ({splits.source})"
    if splits.is_subset:
        source += ", a part of the published data set: no result on it"
    images = split.images.astype(np.float32) / np.float32(255)
    return images, split.labels, source


def _write(record: evaluate.EvaluationRecord, source: str) -> None:
    name = _WORKDIR.value or _LOGITS_FN.value
    default = pathlib.Path(_WORKDIR.value or "") / "evaluation.json"
    out = pathlib.Path(_OUT.value or default)
    origin = {
        "model": name,
        "checkpoint": _CHECKPOINT.value if _WORKDIR.value else None,
        "data": source,
        "suite": _SUITE.value,
        "seed": _SEED.value,
        "command": shlex.join(["python", *sys.argv]),
    }
    inputs.write_json({**origin, **record.to_dict()}, out)
    label = pathlib.Path(name).name if _WORKDIR.value else name
    print(f"\n{tables.render({label: record})}\n\nThe record is in {out}.")


def _fail(error: Exception | str) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _parse_flags(argv: list[str]) -> list[str]:
    app.define_help_flags()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{error}. --help lists all flags.")


if __name__ == "__main__":
    # configs/ is imported as a package, from wherever this script is started; a user's
    # function is looked for from where the user stands.
    sys.path[:0] = [str(pathlib.Path.cwd())]
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    app.run(main, flags_parser=_parse_flags)
