r"""Attack a model and say, with intervals and findings, how much of it holds.

One of our work directories:

    python launch/evaluate.py --workdir=runs/mnist_mmc --suite=quick --epsilon=0.1

Any JAX model: a function from float32 images [batch, height, width, channels] in
[0, 1] to logits [batch, num_classes], and an .npz with test_images (uint8, or floats in
[0, 1]) and test_labels:

    python launch/evaluate.py --logits_fn=package.module:function --data=test.npz \
        --epsilon=8/255

It says what it will cost, prints a table and writes a JSON record with all counts,
hyperparameters and versions, and report.html (with --out=NAME.json NAME.report.html) to
read. In a cascade each attack sees only what those before it left, the fastest way to
the worst case; --mode=individual gives every attack an accuracy of its own.

Killed or interrupted, the same command goes on after the last batch that was done, from
the journal beside the record. The adversarial images are kept with
--save_images=adv.npz; the same model and data with --images=adv.npz judge them afresh,
by code that shares nothing with the attacks, and say where they differ from the record.
--battery=200 sweeps steps and radii on the first 200 images as well, beside noise and a
black box: what it finds of gradient masking stands in the record and on the page.
"""

import functools
import json
import pathlib
import shlex
import sys
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from mmc_jax import attacks, diagnostics, evaluate, losses, report
from mmc_jax.command_line import in_one_line, parse_flags, refuse_arguments
from mmc_jax.evaluate import inputs
from mmc_jax.evaluate.subject import Subject, load_subject

_WORKDIR = flags.DEFINE_string("workdir", None, "A run of launch/train.py to judge.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which of the work directory's."
)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["test", "validation"], "Choose recipes on validation images."
)
_LOGITS_FN = flags.DEFINE_string(
    "logits_fn", None, "package.module:function, instead of a work directory."
)
_DATA = flags.DEFINE_string(
    "data", None, "An .npz with test_images and test_labels; needed with --logits_fn."
)
_SUITE = flags.DEFINE_string(
    "suite",
    "quick",
    "A suite of configs/suites.py: quick, paper, autoattack or autoattack-mmc, which"
    " autoattack is on a work directory whose logits are distances.",
)
_NORM = flags.DEFINE_enum("norm", "linf", ["linf", "l2", "l1"], "Norm of the ball.")
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
_BATTERY = flags.DEFINE_integer(
    "battery",
    0,
    "On how many images, from the first on, to look for gradient masking as well, by"
    " up to 278 gradients and 1,000 queries each.",
    lower_bound=0,
)
_DISTANCES = flags.DEFINE_integer(
    "distances", 0, "On how many to look for smallest distances as well.", lower_bound=0
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images at a time.", lower_bound=1
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices", None, "Devices that share a batch. Default: all.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds every attack.", lower_bound=0)
_OUT = flags.DEFINE_string(
    "out", None, "The record. Default: evaluation.json, in the work directory if any."
)
_JOURNAL = flags.DEFINE_string(
    "journal",
    None,
    "What an interrupted evaluation goes on from; removed once the record is written."
    " Default: beside the record, ending in .journal; empty: none.",
)
_RESTART = flags.DEFINE_bool("restart", False, "Remove the journal and begin anew.")
_SAVE_IMAGES = flags.DEFINE_string(
    "save_images", None, "An .npz for the adversarial images."
)
_IMAGES = flags.DEFINE_string(
    "images", None, "An .npz of --save_images, to judge afresh instead of attacking."
)
_DEFAULT_NUM_IMAGES = 1000
_MOST_BYTES = 1 << 28
"""Of images up to here the adversarial ones are kept, for the pictures of the page."""
_PROGRESS = flags.DEFINE_bool("progress", True, "Whether to show a progress bar.")


def main(argv: list[str]) -> None:
    """Judge, and say in one line what went wrong where something did."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    with in_one_line():
        _out()  # a wrong flag, before any work
        if _IMAGES.value is not None:
            _verify()
        else:
            _judge()


def _judge() -> None:
    inputs.choose_suite(_suites(), _SUITE.value)  # wrong flags before any loading
    epsilon = inputs.parse_radius(_EPSILON.value, "--epsilon")
    logits_fn, images, labels, source, loaded = _subject()
    if _BATTERY.value:
        diagnostics.check_ball(images.shape[1:], _NORM.value, epsilon)
    head = loaded and losses.head_of(loaded[3].loss.name)
    suite = inputs.choose_suite(_suites(), _SUITE.value, head=head)
    rows = _suites()[suite]
    origin = _origin(source, suite, loaded and loaded[3])
    chosen = inputs.first_images(len(images), _NUM_IMAGES.value, _DEFAULT_NUM_IMAGES)
    images, labels = images[chosen], labels[chosen]
    examples = dict(logits_fn=logits_fn, images=images, labels=labels)
    judged = examples | dict(attacks=rows, norm=_NORM.value, epsilon=epsilon)
    judged["batch_size"] = _BATCH_SIZE.value
    pictures = functools.partial(report.picture_sections, **examples, loaded=loaded)
    cost = evaluate.estimate_cost(**judged)
    print(f"{len(images)} images of {source}; {len(rows)} attacks: {cost}.")
    journal = _journal()
    if journal is not None and _RESTART.value:
        evaluate.remove_journal(journal)
    try:
        record = evaluate.robust_accuracy(
            **judged,
            key=jax.random.key(_SEED.value),
            mode=_MODE.value,
            num_devices=_NUM_DEVICES.value or jax.local_device_count(),
            journal=journal,
            progress=_PROGRESS.value,
            keep_images=bool(_SAVE_IMAGES.value) or images.nbytes <= _MOST_BYTES,
        )
    except KeyboardInterrupt as interruption:
        _stop(interruption, origin, pictures)
    _write(record, origin, pictures)
    if _SAVE_IMAGES.value is not None:
        evaluate.save_images(record, labels, _SAVE_IMAGES.value)
        print(f"The adversarial images are in {_SAVE_IMAGES.value}.")
    _write_besides(record, origin, pictures, examples)
    if journal is not None:
        evaluate.remove_journal(journal)


def _write_besides(record, origin: dict, pictures, examples: dict[str, Any]) -> None:
    """Take what was asked for beside the attacks, and write each as it is there."""
    found: dict[str, Any] = {}
    if _BATTERY.value:
        found["battery"] = _sweep(**examples, epsilon=record.epsilon)
        _write(record, origin, pictures, **found)
    if _DISTANCES.value:
        found["distances"] = _look(**examples)
        _write(record, origin, pictures, **found)


def _sweep(logits_fn, images, labels, epsilon) -> diagnostics.Battery:
    """Look for gradient masking on the first images, a black box beside the sweeps."""
    images, labels = images[: _BATTERY.value], labels[: _BATTERY.value]
    print(f"\nThe battery sweeps steps and radii on {len(images)} images.")
    ball = dict(norm=_NORM.value, epsilon=epsilon)
    ball["black_box"] = attacks.make_attack("square", num_queries=1000, **ball)
    ball["batch_size"] = _BATCH_SIZE.value
    return diagnostics.gradient_masking_battery(
        logits_fn, images, labels, jax.random.key(_SEED.value), **ball
    )


def _look(logits_fn, images, labels) -> dict[str, evaluate.MinimumNormRecord]:
    """Look for the smallest distances of the first images."""
    from configs.suites import DISTANCES

    images, labels = images[: _DISTANCES.value], labels[: _DISTANCES.value]
    rows, key = DISTANCES[_NORM.value], jax.random.key(_SEED.value)
    print(f"\nThe smallest distances of {len(images)} images, by {', '.join(rows)}.")
    options = dict(norm=_NORM.value, batch_size=_BATCH_SIZE.value)
    return {
        name: evaluate.minimum_norm(logits_fn, images, labels, row, key, **options)
        for name, row in rows.items()
    }


def _stop(interruption: KeyboardInterrupt, origin: dict, pictures) -> NoReturn:
    """Write what was done, say how to go on, and leave."""
    if not isinstance(interruption, evaluate.EvaluationInterrupted):
        print("\nInterrupted before the first attack; nothing was written.")
        sys.exit(130)
    _write(interruption.record, origin, pictures)
    rows, num_rows = interruption.record.rows, len(_suites()[origin["suite"]])
    goes_on = "To go on" if _journal() else "To judge again, from the start"
    argv = [w for w in sys.argv if w.lstrip("-").partition("=")[0] != "restart"]
    print(
        f"Interrupted after {sum(row.complete for row in rows)} of {num_rows} attacks;"
        f" the record above is an upper bound. {goes_on}:\n"
        f"    {shlex.join(['python', *argv])}\n"
        "To be done sooner: --restart --num_images=N with a smaller N."
    )
    sys.exit(130)


def _journal() -> pathlib.Path | None:
    """Return where the journal is, if there is to be one."""
    if _JOURNAL.value is None:
        return _out().with_suffix(".journal")
    return pathlib.Path(_JOURNAL.value) if _JOURNAL.value else None


def _verify() -> None:
    """Judge saved images afresh; status 1 if anything does not hold."""
    saved = evaluate.read_images(_IMAGES.value)
    logits_fn, images, labels, source, _ = _subject()
    places = saved.example_ids
    if len(places) and places.max() >= len(images):
        raise ValueError(
            f"{_IMAGES.value} has image {places.max()}, but {source} only {len(images)}"
        )
    record = json.loads(_out().read_text()) if _out().exists() else None
    found = evaluate.verify_images(
        logits_fn, saved, images[places], labels[places], record=record
    )
    print(f"{len(places)} images of {_IMAGES.value}, clean ones of {source}:\n{found}")
    if record is None:
        print(f"There is no record in {_out()} to compare with.")
    elif found.holds:
        print(f"All agrees with the record in {_out()}.")
    if not found.holds:
        sys.exit(1)


def _suites() -> dict[str, dict[str, dict[str, Any]]]:
    from configs.suites import SUITES

    return SUITES


def _subject() -> Subject:
    """Return what the flags name: a classifier and its images."""
    given = (_WORKDIR.value, _LOGITS_FN.value, _DATA.value)
    return load_subject(*given, checkpoint=_CHECKPOINT.value, split=_SPLIT.value)


def _out() -> pathlib.Path:
    """Return where the record is."""
    default = pathlib.Path(_WORKDIR.value or "") / "evaluation.json"
    return inputs.parse_output(_OUT.value or default, ".json", "--out")


def _origin(source: str, suite: str, config: Any) -> dict[str, Any]:
    """Return what the record is of, and what made it."""
    return {
        "model": _WORKDIR.value or _LOGITS_FN.value,
        "checkpoint": config and _CHECKPOINT.value,
        "config": config and config.to_dict(),
        "data": source,
        "suite": suite,
        "seed": _SEED.value,
        "command": shlex.join(["python", *sys.argv]),
    }


def _write(
    record: evaluate.EvaluationRecord, origin: dict, pictures, **more: Any
) -> None:
    name, out = origin["model"], _out()
    name = pathlib.Path(name).name if _WORKDIR.value else name
    page = out.with_suffix(".report.html") if _OUT.value else out.parent / "report.html"
    more["sections"] = pictures(record, name=name)
    record = report.write_evaluation(record, origin, out, page, name=name, **more)
    print(f"\n{report.render({name: record})}\n\nThe record is in {out}, as {page}.")


if __name__ == "__main__":
    # configs/ is imported as a package, from wherever this script is started; a user's
    # function is looked for from where the user stands.
    sys.path[:0] = [str(pathlib.Path.cwd())]
    sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
    app.run(main, flags_parser=parse_flags)
