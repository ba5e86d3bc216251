"""Devices: the only file that knows how many there are.

A step is written once, for one device, with an optional `axis_name`. `parallelize`
runs it under `jax.pmap` or under `jax.jit` with shardings; both keep the state whole
and replicated (never stacked), so that it is saved and restored as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmc_jax.types import Array

AXIS_NAME = "devices"
MODES = ("pmap", "jit")


def axis_name_for(mode: str) -> str | None:
    """Return the axis name that a step needs under `mode`: `jit` needs none.

    Args:
      mode: `pmap` or `jit`.

    Returns:
      `AXIS_NAME` or None.

    Raises:
      ValueError: if `mode` is neither.
    """
    if mode not in MODES:
        raise ValueError(f"parallel mode must be one of {MODES}, got {mode!r}")
    return AXIS_NAME if mode == "pmap" else None


def check_divisible(batch_size: int, num_devices: int) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Args:
      batch_size: examples in the whole step's batch.
      num_devices: devices that share it.

    Raises:
      ValueError: if `batch_size` is not a multiple of `num_devices`.
    """
    if batch_size % num_devices:
        raise ValueError(
            f"batch size {batch_size} cannot be split over {num_devices} devices;"
            f" use a multiple of {num_devices}, or fewer devices"
        )


def replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Put a tree of arrays whole on every device, as `parallelize` wants it.

    Args:
      tree: of arrays.
      devices: those of `parallelize`.

    Returns:
      The tree on the devices; `parallelize` then copies nothing at each call.
    """
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def parallelize(
    fn: Callable[..., Any],
    *,
    mode: str,
    devices: Sequence[jax.Device],
    batch_axes: Sequence[int | None],
    donate: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Run `fn(*args)` on `devices`, its results whole and replicated.

    Args:
      fn: a pure function. Under `pmap` it sees one device's share of each split
        argument and must reduce over `AXIS_NAME` itself; under `jit` it sees it all.
      mode: `pmap` or `jit`.
      devices: where to run.
      batch_axes: for each argument, the axis to split over the devices, or None for
        an argument that every device gets whole.
      donate: positions of the arguments whose memory may be reused.

    Returns:
      A function of the same (unsplit) arguments.

    Raises:
      ValueError: if `mode` is unknown, or, when called, if a split axis is not a
        multiple of the number of devices.
    """
    axis_name = axis_name_for(mode)
    mesh = _mesh(devices)
    whole = NamedSharding(mesh, PartitionSpec())
    if axis_name is None:
        placements = [NamedSharding(mesh, _partition(axis)) for axis in batch_axes]
        step = jax.jit(
            fn,
            in_shardings=tuple(placements),
            out_shardings=whole,
            donate_argnums=donate,
        )
    else:
        # out_axes=None hands back one device's value: right only because the step
        # reduces everything that it returns over the axis.
        step = jax.pmap(
            fn,
            axis_name=axis_name,
            in_axes=tuple(None if axis is None else 0 for axis in batch_axes),
            out_axes=None,
            devices=devices,
            donate_argnums=donate,
        )

    def place(arg: Any, index: int) -> Any:
        axis = batch_axes[index]
        if axis is None:
            # Placed like the results, or the second call would compile once more.
            return jax.device_put(arg, whole)
        for leaf in jax.tree.leaves(arg):
            check_divisible(leaf.shape[axis], len(devices))
        if axis_name is None:
            return jax.device_put(arg, placements[index])
        return jax.tree.map(lambda leaf: _split(leaf, axis, len(devices)), arg)

    def run(*args):
        return step(*(place(arg, index) for index, arg in enumerate(args)))

    return run


def make_shared(
    fn: Callable[..., Any], *, devices: Sequence[jax.Device]
) -> Callable[..., Any]:
    """Share the batch of `fn(whole, *columns)` out over `devices`.

    Args:
      fn: a pure function that treats examples independently, with `[batch, ...]`
        results. It sees one device's share of each column.
      devices: where to run.

    Returns:
      A function `(whole, *columns)` of a pytree that every device gets whole (best
      placed by `replicate`) and pytrees of `[batch, ...]` arrays, typed keys among
      them, or None. Its results, `[batch, ...]`, are on the host. It raises ValueError
      if the batch is not a multiple of the number of devices.
    """
    num_devices = len(devices)
    mapped = jax.pmap(
        lambda whole, columns: fn(whole, *columns),
        in_axes=(None, 0),
        devices=devices,
    )

    def share(leaf: Any) -> Any:
        check_divisible(len(leaf), num_devices)
        return leaf.reshape((num_devices, -1) + leaf.shape[1:])

    def run(whole: Any, *columns: Any) -> Any:
        shares = mapped(whole, jax.tree.map(share, columns))
        return jax.tree.map(
            lambda leaf: leaf.reshape((-1,) + leaf.shape[2:]), jax.device_get(shares)
        )

    return run


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS_NAME,), axis_types=(AxisType.Auto,))


def _partition(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS_NAME)


def _split(leaf: Array | np.ndarray, axis: int, num_devices: int) -> np.ndarray:
    """Turn `axis` into a leading axis of devices and the share of each."""
    whole = np.asarray(leaf)
    shape = whole.shape
    shares = (num_devices, shape[axis] // num_devices)
    return np.moveaxis(
        whole.reshape(shape[:axis] + shares + shape[axis + 1 :]), axis, 0
    )
