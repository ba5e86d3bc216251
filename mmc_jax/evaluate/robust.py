"""Robust accuracy: check everything, then let a `Run` go through its rows.

The run is the same whether it is the first or goes on after a kill: see `journal`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmc_jax.evaluate import checks, digests
from mmc_jax.evaluate.journal import Journal
from mmc_jax.evaluate.progress import Progress, make_progress
from mmc_jax.evaluate.record import EvaluationRecord
from mmc_jax.evaluate.rows import bind_rows, rehearse
from mmc_jax.evaluate.run import Run
from mmc_jax.evaluate.setting import Setting
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation; `record` holds what was done until then."""

    def __init__(self, record: EvaluationRecord):
        """Carry the partial record."""
        super().__init__("evaluation interrupted")
        self.record = record


def robust_accuracy(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    attacks: Mapping[str, Mapping[str, Any]],
    key: Array,
    *,
    norm: str,
    epsilon: float,
    example_ids: Array | np.ndarray | None = None,
    mode: str = "cascade",
    batch_size: int = 256,
    num_devices: int = 1,
    bounds: tuple[float, float] = (0.0, 1.0),
    journal: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[Progress], None] = False,
    keep_images: bool = False,
) -> EvaluationRecord:
    """Attack a classifier and count, image by image, what still gets the true label.

    Worst-case accuracy = mean_i [argmax h(x_i) = y_i and, for every row r that a ball
    bounds, argmax h(x_i^r) = y_i], with x_i^r what row r's attack returned.

    Every returned image is judged afresh, at the highest matmul precision. It counts
    only if it is finite, inside the box and, in float64, within
    epsilon (1 + 1e-6) + 1e-7; otherwise the clean image is judged in its place, and
    the row is marked. Logits with a NaN are never right. Noise and rotation are rows
    of their own: no ball bounds them, and the worst case leaves them out. Results
    depend neither on the batch size nor on the order of images.

    Args:
      logits_fn: images -> logits `[batch, num_classes]`. As a `jax.tree_util.Partial`
        (`models.make_logits_fn`) new weights do not recompile. Or a
        `StochasticLogitsFn`, whose verdict is one draw per image.
      images: float32 `[num, height, width, channels]` inside `bounds`, unnormalised.
      labels: int `[num]`, the true labels.
      attacks: row name -> `dict(name=..., **hyperparameters)`, plain data, in the order
        in which they run. `targeted=True` gives each image a random wrong target;
        accuracy is still about the true label. Norm, epsilon and bounds are given here,
        not in a row.
      key: typed key; not consumed. A row's key is `fold_in(key, crc32(row name))`, and
        an image's `fold_in(row's key, example id)`.
      norm: `linf`, `l2` or `l1`.
      epsilon: radius of the ball, in the unit of the images.
      example_ids: int `[num]`, distinct; the image's number in its data set, so that
        a subset or another order draws the same. None: 0 to num - 1.
      mode: `cascade`, where a row attacks only what the rows before it left (fastest
        way to the worst case), or `individual`, where every row attacks every image
        and has an accuracy of its own. Both have the same worst case.
      batch_size: images at a time; the last batch is padded, the padding not counted.
      num_devices: how many of the local devices attack a batch together; it is rounded
        up to a multiple of them.
      bounds: the box.
      journal: a file that every batch's outcome is written to, safely, as it is done.
        The same call after a kill goes on after the last of them and ends with the same
        record, times apart; so it does with another batch size or other devices, up to
        rounding. Nothing removes the file: with one that is complete the record is
        returned at once.
      progress: whether to show a bar, or a function to call after each batch.
      keep_images: whether the record keeps the first image that broke each example.

    Returns:
      The record. Read `findings` before believing `worst_case`.

    Raises:
      ValueError: for anything not accepted above, before any work is done.
      ValueError: for a journal that is of another evaluation; it says what differs.
      EvaluationInterrupted: on Ctrl-C, with the partial record.

    Reference: Carlini et al. 2019, "On Evaluating Adversarial Robustness"; the cascade
    is Croce and Hein, ICML 2020.
    """
    setting = _make_setting(
        logits_fn,
        checks.check_examples(images, labels, example_ids, bounds),
        attacks,
        key,
        norm=norm,
        epsilon=epsilon,
        mode=mode,
        batch_size=batch_size,
        num_devices=num_devices,
        bounds=bounds,
        keep_images=keep_images,
    )
    with contextlib.ExitStack() as stack:
        opened = None
        if journal is not None:
            opened = stack.enter_context(Journal(journal, setting.identity()))
        share = setting.batch_size // len(setting.devices)
        batch_shape = (share, *setting.examples.images.shape[1:])
        rehearse(setting.rows, setting.logits_fn, batch_shape=batch_shape)
        run = Run(setting, report=make_progress(progress), journal=opened)
        run.judge_clean()
        run.resume()
        try:
            for row in setting.rows:
                run.run_row(row)
            run.diagnose()
        except KeyboardInterrupt:
            raise EvaluationInterrupted(run.record(complete=False)) from None
        return run.record(complete=True)


def _make_setting(
    logits_fn, examples, attacks, key, *, batch_size, num_devices, **terms
) -> Setting:
    """Check everything that the examples do not show by themselves."""
    checks.check_settings(
        norm=terms["norm"],
        epsilon=terms["epsilon"],
        mode=terms["mode"],
        batch_size=batch_size,
        key=key,
    )
    devices = checks.check_devices(num_devices)
    logits_fn = checks.as_pytree(logits_fn)
    num_classes = checks.check_num_classes(logits_fn, examples)
    terms["epsilon"] = float(terms["epsilon"])
    ball = {name: terms[name] for name in ("norm", "epsilon", "bounds")}
    rows = bind_rows(attacks, **ball)
    sha256 = {
        "model": digests.digest_model(logits_fn, examples.images.shape[1:]),
        "images": digests.digest_all(digests.digest_each(examples.images)),
        "labels": digests.digest_integers(examples.labels),
    }
    return Setting(
        logits_fn=logits_fn,
        examples=examples,
        rows=rows,
        passes={row.name: row.passes(logits_fn, num_classes) for row in rows},
        key=key,
        num_classes=num_classes,
        batch_size=-(-min(batch_size, len(examples)) // len(devices)) * len(devices),
        devices=devices,
        sha256=sha256,
        **terms,
    )
