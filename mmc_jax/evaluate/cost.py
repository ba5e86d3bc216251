"""What an evaluation will take, before it is started."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.evaluate import checks
from mmc_jax.evaluate.rows import bind_rows, rehearse
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_REPEATS = 2


@dataclasses.dataclass(frozen=True)
class CostEstimate:
    """Upper bounds: survivors grow fewer, and attacks stop at success."""

    forward_passes: int
    """Passes over one batch, those included that a gradient starts with."""
    backward_passes: int
    """Gradients over one batch with respect to the images."""
    seconds: float
    """Time of all passes, compilation apart."""
    compile_seconds: float
    """Time to compile one pass once for every row; a whole attack takes more."""
    memory_bytes: int | None
    """Device memory of a gradient pass over one batch; None if the backend is mute."""

    def __str__(self) -> str:
        """Return one sentence."""
        memory = "unknown memory"
        if self.memory_bytes is not None:
            memory = f"{self.memory_bytes / 2**20:.0f} MiB on the device"
        return (
            f"at most {self.forward_passes} forward and {self.backward_passes} backward"
            " passes over a batch: about"
            f" {format_seconds(self.seconds)}, plus"
            f" {format_seconds(self.compile_seconds)} or more to compile, with {memory}"
        )


@dataclasses.dataclass(frozen=True)
class PassTimes:
    """What one pass over a batch takes, measured."""

    forward_seconds: float
    backward_seconds: float
    """Of a gradient with respect to the images, the pass that it starts with apart."""
    compile_seconds: float
    """Of a gradient."""
    memory_bytes: int | None
    """Device memory of a gradient; None if the backend is mute."""


def time_passes(
    logits_fn: jax.tree_util.Partial | StochasticLogitsFn, images: Array
) -> PassTimes:
    """Compile and run a gradient and a forward pass over a batch.

    Args:
      logits_fn: from `checks.as_pytree`.
      images: float32 `[batch, height, width, channels]`.

    Returns:
      What they took.
    """
    keys = jax.random.split(jax.random.key(0), len(images))
    gradient = _Probe(_gradient_of_total, logits_fn, images, keys)
    forward = _Probe(_forward, logits_fn, images, keys)
    return PassTimes(
        forward_seconds=forward.seconds,
        backward_seconds=max(gradient.seconds - forward.seconds, 0.0),
        compile_seconds=gradient.compile_seconds,
        memory_bytes=gradient.memory_bytes,
    )


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `3.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def estimate_cost(
    logits_fn: LogitsFn | StochasticLogitsFn,
    images: Array | np.ndarray,
    labels: Array | np.ndarray,
    attacks: Mapping[str, Mapping[str, Any]],
    *,
    norm: str,
    epsilon: float,
    batch_size: int = 256,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> CostEstimate:
    """Say what `robust_accuracy` would take at most, from a probe of one batch.

    A row takes `attacks.costs.passes_per_survivor` passes a batch, and one forward pass
    each for the verdict and, if a ball bounds it, for the verdict on 8 bits.

    Args:
      logits_fn: as for `robust_accuracy`.
      images: float32 `[num, height, width, channels]` inside `bounds`.
      labels: int `[num]`.
      attacks: the rows.
      norm: `linf`, `l2` or `l1`.
      epsilon: radius of the ball.
      batch_size: images at a time.
      bounds: the box.

    Returns:
      The estimate. It compiles and runs one gradient and one forward pass.

    Raises:
      ValueError: for what `robust_accuracy` would refuse.
    """
    examples = checks.check_examples(images, labels, None, bounds)
    logits_fn = checks.as_pytree(logits_fn)
    num_classes = checks.check_num_classes(logits_fn, examples)
    rows = bind_rows(
        attacks,
        norm=norm,
        epsilon=float(epsilon),
        bounds=bounds,
    )
    batch_size = min(batch_size, len(examples))
    batch_shape = (batch_size, *examples.images.shape[1:])
    rehearse(rows, logits_fn, batch_shape=batch_shape)
    num_batches = math.ceil(len(examples) / batch_size)
    passes = [row.passes(logits_fn, num_classes) for row in rows]
    verdicts = 1 + sum(1 + row.in_worst_case for row in rows)
    forward_passes = num_batches * (verdicts + sum(taken.forward for taken in passes))
    backward_passes = num_batches * sum(taken.backward for taken in passes)
    batch = np.resize(np.arange(len(examples)), batch_size)
    times = time_passes(logits_fn, jnp.asarray(examples.images[batch]))
    return CostEstimate(
        forward_passes=forward_passes,
        backward_passes=backward_passes,
        seconds=forward_passes * times.forward_seconds
        + backward_passes * times.backward_seconds,
        compile_seconds=times.compile_seconds * len(rows),
        memory_bytes=times.memory_bytes,
    )


def _forward(logits_fn, images, keys):
    if isinstance(logits_fn, StochasticLogitsFn):
        return logits_fn(images, keys)
    return logits_fn(images)


def _gradient_of_total(logits_fn, images, keys):
    return jax.grad(lambda images: _forward(logits_fn, images, keys).sum())(images)


class _Probe:
    """A pass over one batch: compiled, run once to warm up, then timed."""

    def __init__(self, function, *args):
        started = time.perf_counter()
        compiled = jax.jit(function).lower(*args).compile()
        self.compile_seconds = time.perf_counter() - started
        jax.block_until_ready(compiled(*args))
        started = time.perf_counter()
        for _ in range(_REPEATS):
            jax.block_until_ready(compiled(*args))
        self.seconds = (time.perf_counter() - started) / _REPEATS
        self.memory_bytes = _memory_bytes(compiled.memory_analysis())


def _memory_bytes(analysis: Any) -> int | None:
    if analysis is None:
        return None
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
    )
