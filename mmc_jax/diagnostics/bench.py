"""The bench that the battery measures on: one classifier, some images, one ball."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import data
from mmc_jax.attacks import projections
from mmc_jax.attacks.gradient_sign import pgd
from mmc_jax.attacks.keys import fold_each, salt
from mmc_jax.attacks.objectives import OBJECTIVES
from mmc_jax.types import Array, Attack, LogitsFn, StochasticLogitsFn

_NOISE, _VERDICT = salt("noise"), salt("verdict")


@jax.jit
def _fold_positions(key, positions):
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


@functools.partial(jax.jit, static_argnames="norm")
def _draw(keys, images, number, epsilon, bounds, norm):
    keys = fold_each(fold_each(keys, jnp.uint32(_NOISE)), number)
    return projections.random_start(
        keys, images, epsilon=epsilon, norm=norm, bounds=bounds
    )


@functools.partial(jax.jit, static_argnames="norm")
def _project(adv_images, images, epsilon, bounds, norm):
    return projections.project(
        adv_images, images, epsilon=epsilon, norm=norm, bounds=bounds
    )


@jax.jit
def _logits(logits_fn, images, keys):
    keys = fold_each(keys, jnp.uint32(_VERDICT))
    is_random = isinstance(logits_fn, StochasticLogitsFn)
    logits = logits_fn(images, keys) if is_random else logits_fn(images)
    return logits.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all sweeps share. Images and what is found of them stay on the host."""

    logits_fn: LogitsFn | StochasticLogitsFn
    """A pytree."""
    images: np.ndarray
    labels: np.ndarray
    key: Array
    """One; the position of an image is folded into it."""
    norm: str
    bounds: tuple[float, float]
    objective: str
    num_eot_samples: int
    batch_size: int

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of images, `[num, num_classes]`, at highest precision."""
        with jax.default_matmul_precision("highest"):
            return self._over_batches(
                lambda keys, images, *_: _logits(self.logits_fn, images, keys), images
            )

    def right(self, logits: np.ndarray) -> np.ndarray:
        """Return which logits say the label, bool `[num]`; a NaN says nothing."""
        is_label = logits.argmax(axis=1) == self.labels
        return is_label & ~np.isnan(logits).any(axis=1)

    def losses(self, logits: np.ndarray) -> np.ndarray:
        """Return the objective of each, float64 `[num]`."""
        values = OBJECTIVES[self.objective](
            jnp.asarray(logits), jnp.asarray(self.labels), None
        )
        return np.asarray(values, np.float64)

    def attack(
        self, epsilon: float, num_steps: int, *, stop_on_success: bool
    ) -> np.ndarray:
        """Return what PGD finds; no radius and no number of steps compiles again."""
        return self.run(
            functools.partial(
                pgd,
                epsilon=epsilon,
                num_steps=num_steps,
                norm=self.norm,
                objective=self.objective,
                stop_on_success=stop_on_success,
                num_eot_samples=self.num_eot_samples,
                bounds=self.bounds,
            )
        )

    def run(self, attack: Attack, *, epsilon: float | None = None) -> np.ndarray:
        """Return what an attack finds, brought back into the ball if one is given."""

        def attacked(keys, adv_images, images, labels):
            adv_images = attack(self.logits_fn, keys, images, labels)
            if epsilon is None:
                return adv_images
            return _project(adv_images, images, epsilon, self.bounds, self.norm)

        with jax.default_matmul_precision("highest"):
            return self._over_batches(attacked, self.images)

    def noise(self, epsilon: float, number: int) -> np.ndarray:
        """Return a uniform draw from each image's ball, another for each number."""
        return self._over_batches(
            lambda keys, images, *_: _draw(
                keys, images, number, epsilon, self.bounds, self.norm
            ),
            self.images,
        )

    def _over_batches(
        self, function: Callable[..., Array], images: np.ndarray
    ) -> np.ndarray:
        """Concatenate function(keys, images, clean images, labels) over batches."""
        index = np.arange(len(self.labels))
        results = []
        for (batch,), mask in data.pad_batches(index, batch_size=self.batch_size):
            result = function(
                _fold_positions(self.key, batch),
                jnp.asarray(images[batch]),
                jnp.asarray(self.images[batch]),
                jnp.asarray(self.labels[batch]),
            )
            results.append(np.asarray(result)[: int(mask.sum())])
        return np.concatenate(results)


@dataclasses.dataclass(frozen=True)
class Left:
    """Which images keep their label, bool `[num]`, under what."""

    clean: np.ndarray
    by_steps: list[np.ndarray]
    by_epsilon: list[np.ndarray]
    by_draws: list[np.ndarray]
    by_black_box: np.ndarray | None


def sweep(
    bench: Bench,
    epsilons: Sequence[float],
    step_counts: Sequence[int],
    num_draws: int,
    black_box: Attack | None,
) -> tuple[Left, list[np.ndarray]]:
    """Return what is left, and the logits: clean ones, then for each step count.

    With every step taken at `epsilon`, so that the loss goes down as far as it can;
    beyond it images may stop at a success.
    """
    epsilon, *larger = epsilons
    logits = [bench.logits(bench.images)]
    for count in step_counts:
        images = bench.attack(epsilon, count, stop_on_success=False)
        logits.append(bench.logits(images))
    clean, *by_steps = [bench.right(each) for each in logits]

    def stay_right(images: np.ndarray) -> np.ndarray:
        return clean & bench.right(bench.logits(images))

    by_steps = [clean & flags for flags in by_steps]
    most = step_counts[-1]
    further = [
        stay_right(bench.attack(radius, most, stop_on_success=True))
        for radius in larger
    ]
    draws = [stay_right(bench.noise(epsilon, number)) for number in range(num_draws)]
    by_black_box = None
    if black_box is not None:
        by_black_box = stay_right(bench.run(black_box, epsilon=epsilon))
    left = Left(
        clean=clean,
        by_steps=by_steps,
        by_epsilon=[clean, by_steps[-1], *further],
        by_draws=[*np.logical_and.accumulate(draws)],
        by_black_box=by_black_box,
    )
    return left, logits


def check_ball(
    shape: tuple[int, ...],
    norm: str,
    epsilon: float,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> float:
    """Check that larger balls than this one can be swept.

    Args:
      shape: of an image.
      norm: `linf` or `l2`.
      epsilon: the radius.
      bounds: the box.

    Returns:
      The radius of a ball that holds the box, from wherever in it.

    Raises:
      ValueError: for another norm, or a radius not between 0 and the one returned.
    """
    corner = {"linf": 1.0, "l2": math.sqrt(math.prod(shape))}
    if norm not in corner:
        raise ValueError(
            f"the battery's norm must be one of {', '.join(corner)}, got {norm!r}"
        )
    largest = corner[norm] * (bounds[1] - bounds[0])
    if not 0 < epsilon < largest:
        raise ValueError(
            f"the battery's epsilon must be above 0 and below {largest:g}, where the"
            f" ball holds the box, got {epsilon!r}"
        )
    return largest
