"""Trackability of class centers: center loss against MMC on points in the plane.

    cell = measure_toy(jax.random.key(0))
    toy_section({"toy": [cell]})

The paper's appendix shows such a toy, of 1,000 points and batches of 1,000, 20 and 5,
without its making. Here features are themselves the parameters. Under MMC a class heads
for a fixed center; under the center loss for one that is learned from the batches,
while a softmax layer pushes the classes apart.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmc_jax.centers import max_mahalanobis_centers
from mmc_jax.data import epoch_permutation
from mmc_jax.experiments.figure_cells import Cells, check_at_least, check_cells
from mmc_jax.losses import center_loss, mmc_loss, updated_centers
from mmc_jax.report import style
from mmc_jax.report.cells import Cell, Table, seeds_cell
from mmc_jax.report.page import Picture, Section, Text
from mmc_jax.types import Array

TRACKS = ("MMC, class mean", "center loss, class mean", "center loss, center")
"""What is followed; MMC's center does not move."""
_FIELDS = ("num_points", "num_classes", "num_epochs", "batch_sizes", "tracks")
_DRAWN_POINTS = 100


class _State(NamedTuple):
    features: Array
    centers: Array
    layer: tuple[Array, Array]
    """Kernel and bias of the softmax that stands beside the center loss."""


def path_ratios(paths: np.ndarray) -> np.ndarray:
    """Return how much longer a way is than the straight one.

    sum_t ||p_{t+1} - p_t|| / ||p_T - p_0||: 1 for a straight way without return.

    Args:
      paths: `[num_points, ..., dim]`.

    Returns:
      `[...]`, at least 1; infinite where a way ends where it began.

    Examples:
      >>> print(path_ratios(np.array([[[0.0, 0.0]], [[3.0, 0.0]], [[3.0, 4.0]]])))
      [1.4]
    """
    steps = np.diff(np.asarray(paths, np.float64), axis=0)
    lengths = np.linalg.norm(steps, axis=-1).sum(axis=0)
    displacements = np.linalg.norm(steps.sum(axis=0), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(displacements > 0, lengths / displacements, np.inf)


def measure_toy(
    key: Array,
    *,
    batch_sizes: Sequence[int] = (1000, 20, 5),
    num_points: int = 1000,
    num_classes: int = 10,
    num_epochs: int = 100,
    rate: float = 0.05,
    center_norm: float = 10.0,
    center_weight: float = 0.1,
    center_rate: float = 0.5,
) -> dict[str, Any]:
    """Follow class means of free features, and learned centers, step by step.

    Features start as N(0, I), classes in turn. Each step takes a batch of an epoch's
    permutation and moves z_i by -rate dL_i/dz_i, whatever the size of the batch, where
    L_i is MMC's loss to the optimal centers, or cross-entropy + center_weight times the
    center loss. There the softmax layer takes -rate / num_classes times the sum of its
    gradients in the batch over the points of a class, and the centers, from the
    origin, `updated_centers`.

    Args:
      key: typed key, consumed.
      batch_sizes: each divides num_points.
      num_points: at least num_classes.
      num_classes: at least 2.
      num_epochs: passes over all points, at least 1.
      rate: in (0, 1].
      center_norm: C_MM of MMC's centers.
      center_weight: lambda of the center loss.
      center_rate: alpha of its update, in [0, 1].

    Returns:
      Plain data: settings, and `tracks`, one for each of `TRACKS` and batch size, with
      `ratios`, a way's length over its net displacement for each class, `ratio`, their
      mean, and the `paths`, thinned.

    Raises:
      ValueError: for a count or a rate out of range, or a batch that does not divide.

    Source: Pang et al., ICLR 2020, appendix, on the trackability of class centers.
    """
    check_at_least("num_epochs", num_epochs, 1)
    _check_points(num_points, num_classes, batch_sizes)
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1], got {rate!r}")
    feature_key, layer_key, order_key = jax.random.split(key, 3)
    start = _State(
        jax.random.normal(feature_key, (num_points, 2)),
        jnp.zeros((num_classes, 2)),
        (jax.random.normal(layer_key, (2, num_classes)), jnp.zeros(num_classes)),
    )
    labels = jnp.arange(num_points) % num_classes
    orders = _orders(order_key, num_epochs, num_points)
    preset = start._replace(
        centers=max_mahalanobis_centers(num_classes, 2, center_norm=center_norm)
    )
    tracks = []
    for size in batch_sizes:
        batches = orders.reshape(-1, size)
        means, _ = _walk(_mmc_step, preset, labels, batches, (rate, 0.0, 0.0))
        found = [
            means,
            *_walk(
                _center_step, start, labels, batches, (rate, center_weight, center_rate)
            ),
        ]
        for name, path in zip(TRACKS, found, strict=True):
            tracks.append(_track(name, size, np.asarray(path, np.float64)))
    return {
        "num_points": num_points,
        "num_classes": num_classes,
        "num_epochs": num_epochs,
        "rate": rate,
        "center_norm": center_norm,
        "center_weight": center_weight,
        "center_rate": center_rate,
        "batch_sizes": list(batch_sizes),
        "tracks": tracks,
    }


def _check_points(num: int, num_classes: int, batch_sizes: Sequence[int]) -> None:
    check_at_least("num_classes", num_classes, 2)
    check_at_least("num_points", num, num_classes)
    for size in batch_sizes:
        if size < 1 or num % size:
            raise ValueError(f"batch_sizes must divide {num}, got {size}")


def _orders(key: Array, num_epochs: int, num_points: int) -> Array:
    """Return the points in the order of each epoch, `[num_epochs, num_points]`."""
    draw = functools.partial(epoch_permutation, size=num_points)
    return jax.vmap(draw, (None, 0))(key, jnp.arange(num_epochs))


def _mmc_step(
    state: _State, batch: Array, labels: Array, numbers: tuple[float, ...]
) -> _State:
    rate, _, _ = numbers
    gradients = jax.grad(
        lambda features: mmc_loss(features, labels[batch], state.centers).sum()
    )(state.features[batch])
    return state._replace(features=state.features.at[batch].add(-rate * gradients))


def _center_step(
    state: _State, batch: Array, labels: Array, numbers: tuple[float, ...]
) -> _State:
    rate, center_weight, center_rate = numbers
    own, classes = state.features[batch], labels[batch]

    def loss(features: Array, layer: tuple[Array, Array]) -> Array:
        kernel, bias = layer
        logits = features @ kernel + bias[None]
        classification = optax.softmax_cross_entropy_with_integer_labels(
            logits, classes
        )
        pull = center_loss(features, classes, state.centers)
        return jnp.sum(classification + center_weight * pull)

    gradients, layer_gradients = jax.grad(loss, argnums=(0, 1))(own, state.layer)
    layer_rate = rate * len(state.centers) / len(labels)
    return _State(
        state.features.at[batch].add(-rate * gradients),
        updated_centers(own, classes, state.centers, center_rate=center_rate),
        jax.tree.map(lambda w, g: w - layer_rate * g, state.layer, layer_gradients),
    )


@functools.partial(jax.jit, static_argnums=0)
def _walk(
    step: Any,
    start: _State,
    labels: Array,
    batches: Array,
    numbers: tuple[float, ...],
) -> tuple[Array, Array]:
    """Return class means and centers before, and after every step."""
    is_class = jax.nn.one_hot(labels, len(start.centers))
    shares = (is_class / is_class.sum(axis=0)[None]).T

    def seen(state: _State) -> tuple[Array, Array]:
        means = jnp.matmul(shares, state.features, precision="highest")
        return means, state.centers

    def body(state: _State, batch: Array) -> tuple[_State, tuple[Array, Array]]:
        state = step(state, batch, labels, numbers)
        return state, seen(state)

    _, after = jax.lax.scan(body, start, batches)
    return jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), seen(start), after
    )


def _track(name: str, batch_size: int, path: np.ndarray) -> dict[str, Any]:
    ratios = path_ratios(path)
    kept = np.unique(np.linspace(0, len(path) - 1, _DRAWN_POINTS).round().astype(int))
    return {
        "name": name,
        "batch_size": batch_size,
        "num_steps": len(path) - 1,
        "ratio": float(ratios.mean()),
        "ratios": ratios.tolist(),
        "paths": path[kept].transpose(1, 0, 2).round(3).tolist(),
    }


def toy_section(cells: Cells) -> Section:
    """Return the ways of the classes, drawn and in numbers.

    Args:
      cells: name of a setting -> what `measure_toy` returned, one a seed.

    Returns:
      The section; the pictures are of the first seed.

    Raises:
      ValueError: for no cell, or one that is something else.
    """
    cells = check_cells(cells, "the toy of class centers", _FIELDS)
    blocks: list[Any] = [Text(_EXPLANATION)]
    for name, found in cells.items():
        first = found[0]
        caption = (
            "Length of the way over the straight one: {num_points} points of"
            " {num_classes} classes, {num_epochs} epochs"
        ).format(**first)
        draw = functools.partial(_draw, first)
        header = ("what is followed", *(f"batch {n}" for n in first["batch_sizes"]))
        rows = [
            [Cell(track), *(_ratio(found, track, n) for n in first["batch_sizes"])]
            for track in TRACKS
        ]
        blocks.append(Picture.drawn(draw, "toy.png", f"{name}: the ways in the plane"))
        blocks.append(Table(caption, header, [rows]))
    return Section("Trackability of class centers", blocks)


_EXPLANATION = (
    "Features are parameters, and batches those of one epoch after the other. A way has"
    " a colour a class and ends at the dot. Its length counts every step and is divided"
    " by the distance from its start to its end: 1 is straight. Means over the classes."
)


def _ratio(found: Sequence[Mapping[str, Any]], name: str, batch_size: int) -> Cell:
    ratios = [_find(cell, name, batch_size)["ratio"] for cell in found]
    return seeds_cell(ratios, write="{:.2f}".format)


def _find(cell: Mapping[str, Any], name: str, batch_size: int) -> Mapping[str, Any]:
    for track in cell["tracks"]:
        if (track["name"], track["batch_size"]) == (name, batch_size):
            return track
    raise ValueError(f"a cell of the toy lacks {name!r} at batch size {batch_size}")


def _draw(cell: Mapping[str, Any], path: pathlib.Path) -> None:
    sizes = cell["batch_sizes"]
    grid = [(name, size) for name in TRACKS for size in sizes]
    shape = dict(rows=len(TRACKS), columns=len(sizes))
    with style.drawing(path, (3.2 * len(sizes), 9.0), **shape) as (_, panels):
        for axes, (name, size) in zip(panels, grid, strict=True):
            ways = np.array(_find(cell, name, size)["paths"])
            for way, color in zip(ways, itertools.cycle(style.CLASS_COLORS)):
                axes.plot(*way.T, color=color, linewidth=1)
                axes.plot(*way[-1], "o", color=color, markersize=5)
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_title(f"{name},\nbatch {size}")
