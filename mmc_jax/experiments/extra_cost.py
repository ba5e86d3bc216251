"""What MMC's loss costs beside softmax's, a train step at a time.

    cell = measure_extra_cost(jax.random.key(0), architecture="cnn",
                              image_shape=(28, 28, 1), num_classes=10)
    extra_cost_section({"cnn": [cell]})

Whole train steps, forward, backward and update, on random images: what a step costs
does not depend on what is in them.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmc_jax import losses, models, timing
from mmc_jax.experiments.figure_cells import Cells, check_at_least, check_cells
from mmc_jax.report import style
from mmc_jax.report.cells import Cell, Table, seeds_cell
from mmc_jax.report.page import Picture, Section, Text
from mmc_jax.train import create_train_state, train_step
from mmc_jax.types import Array, Batch

_FIELDS = ("batch_size", "num_steps", "num_rounds", "reference", "seconds", "ratios")
# One object: a state with another optimiser, however equal, is another program.
_OPTIMIZER = optax.sgd(1e-3, momentum=0.9)


def measure_extra_cost(
    key: Array,
    *,
    architecture: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    compared: Sequence[str] = ("mmc",),
    reference: str = "softmax",
    batch_size: int = 128,
    num_steps: int = 20,
    num_rounds: int = 15,
) -> dict[str, Any]:
    """Time the train step of losses on one architecture, side by side.

    In a round each loss takes `num_steps` steps, one jitted `train_step` after the
    other, and is waited for; rounds alternate in direction. A ratio is the median over
    rounds of a loss's seconds over the reference's of the same round.

    Args:
      key: typed key, consumed: weights and images.
      architecture: a key of `models.MODELS`.
      image_shape: (height, width, channels).
      num_classes: at least 2.
      compared: losses, keys of `losses.LOSSES`.
      reference: the loss that they are held against.
      batch_size: images a step, at least 1.
      num_steps: steps a round, at least 1.
      num_rounds: at least 1.

    Returns:
      Plain data: settings, `seconds` a round by loss, and `ratios` by loss, each a
      `median` with its `interval_95`, by resampling the rounds.

    Raises:
      ValueError: for an unknown architecture or loss, a count below 1, or a reference
        that is compared with itself.
    """
    counts = dict(batch_size=batch_size, num_steps=num_steps, num_rounds=num_rounds)
    for name, count in counts.items():
        check_at_least(name, count, 1)
    if not compared or reference in compared:
        raise ValueError(
            f"compared must name losses other than {reference!r}, got {compared!r}"
        )
    key, image_key, label_key = jax.random.split(key, 3)
    images = jax.random.uniform(image_key, (batch_size, *image_shape))
    labels = jax.random.randint(label_key, (batch_size,), 0, num_classes)
    batch = Batch(images, labels, jnp.arange(batch_size))
    steps = {
        loss: _make_steps(loss, architecture, num_classes, batch, num_steps, key)
        for loss in (reference, *compared)
    }
    seconds = timing.interleaved(steps, pairs=num_rounds)
    ratios = {}
    for loss in compared:
        ratio, low, high = timing.ratio_interval(seconds[loss], seconds[reference])
        ratios[loss] = {"median": ratio, "interval_95": [low, high]}
    return {
        "architecture": architecture,
        "image_shape": list(image_shape),
        "num_classes": num_classes,
        **counts,
        "reference": reference,
        "seconds": seconds,
        "ratios": ratios,
    }


def _make_steps(
    loss: str,
    architecture: str,
    num_classes: int,
    batch: Batch,
    num_steps: int,
    key: Array,
) -> Callable[[], Any]:
    model = models.create(
        architecture, num_classes=num_classes, head=losses.head_of(loss)
    )
    state = create_train_state(model, _OPTIMIZER, key, batch.images.shape[1:])
    step_fn = functools.partial(train_step, loss_fn=losses.make_loss(loss))
    step = jax.jit(step_fn, donate_argnums=0)

    def run() -> Any:
        nonlocal state
        for _ in range(num_steps):
            state, metrics = step(state, batch, key)
        return state, metrics

    return run


def extra_cost_section(cells: Cells) -> Section:
    """Return what losses cost beside a reference, drawn and in numbers.

    Args:
      cells: architecture -> what `measure_extra_cost` returned, one a seed.

    Returns:
      The section.

    Raises:
      ValueError: for no cell, or one that is something else.
    """
    cells = check_cells(cells, "extra cost", _FIELDS)
    header = ("model", "loss", "beside", "ratio", "95 % interval", "ms a step")
    rows = [
        [Cell(name), Cell(loss), Cell(found[0]["reference"]), *_numbers(found, loss)]
        for name, found in cells.items()
        for loss in found[0]["ratios"]
    ]
    first = next(iter(cells.values()))[0]
    caption = (
        f"Seconds of {first['num_steps']} train steps of {first['batch_size']} images"
        f" over the reference's, median of {first['num_rounds']} rounds"
    )
    return Section(
        "What a train step costs",
        [
            Text(_EXPLANATION),
            Picture.drawn(functools.partial(_draw, cells), "extra_cost.svg", "Ratios"),
            Table(caption, header, [rows]),
        ],
    )


_EXPLANATION = (
    "Losses take turns in one process, so that a slow minute slows both. Dots are"
    " rounds, the bar is the 95 % interval of their median; left of the line is less."
)


def _numbers(found: Sequence[Mapping[str, Any]], loss: str) -> list[Cell]:
    ratios = [cell["ratios"][loss] for cell in found]
    spans = ["[{:.3f}, {:.3f}]".format(*ratio["interval_95"]) for ratio in ratios]
    steps = [
        1000 * statistics.median(cell["seconds"][loss]) / cell["num_steps"]
        for cell in found
    ]
    return [
        seeds_cell([ratio["median"] for ratio in ratios], write="{:.3f}".format),
        Cell("; ".join(spans), value=ratios[0]["interval_95"][0]),
        seeds_cell(steps, write="{:.2f}".format),
    ]


def _draw(cells: Cells, path: pathlib.Path) -> None:
    lines = [
        (f"{name}, {loss}", cell, loss)
        for name, found in cells.items()
        for cell in found
        for loss in cell["ratios"]
    ]
    with style.drawing(path, (6.4, 1.1 + 0.45 * len(lines))) as (_, (axes,)):
        axes.axvline(1.0, color=style.GREY, linewidth=1)
        for place, (_, cell, loss) in enumerate(lines):
            reference = np.array(cell["seconds"][cell["reference"]])
            rounds = np.array(cell["seconds"][loss]) / reference
            axes.plot(
                rounds, np.full(len(rounds), place), ".", color=style.GREY, markersize=7
            )
            ratio, color = cell["ratios"][loss], style.LINE_COLORS[0]
            axes.plot(ratio["interval_95"], [place, place], color=color, linewidth=4)
            axes.plot(ratio["median"], place, "D", color=color, markersize=6)
        axes.set_yticks(range(len(lines)), [label for label, *_ in lines])
        axes.set(
            title="Cost of a train step beside the reference's",
            xlabel="ratio",
            ylim=(len(lines) - 0.5, -0.5),
        )
