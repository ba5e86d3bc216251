"""DeepFool: straight to the closest linearised boundary, until the class changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks import boundaries, checks
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.passes import logits_pass
from mmc_jax.attacks.projections import per_pixel, unit_vector
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

_DIRECTION: dict[str, Callable[[Array], Array]] = {
    "linf": jnp.sign,
    "l2": partial(unit_vector, order=2),
}
# Steps are clipped to the box: a longer one goes to a corner as well.
_FAR = 1e30


def deep_fool(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    num_steps: int | Array = 50,
    overshoot: float | Array = 0.02,
    num_candidates: int = 10,
    norm: str = "l2",
    num_eot_samples: int = 1,
) -> Array:
    """Step onto the closest linearised boundary, again and again.

    With f_k = h_k - h_y, w_k its gradient at x, and k the candidate with the smallest
    |f_k| / ||w_k||_q,

        l2: x <- clip(x + |f_k| w_k / ||w_k||_2^2)
        linf: x <- clip(x + |f_k| sign(w_k) / ||w_k||_1)

    until the overshot image clip(x_0 + (1 + overshoot) (x - x_0)) is misclassified,
    which is what comes back. On a linear model that is (1 + overshoot) times as far as
    the closest boundary. Fast and near, but it never turns back: `fab` finds closer
    images.

    Cost of n steps with K candidates: 2 n + 1 forward and n K backward passes.

    How it differs from the paper, which knows no box and asks whether x itself is
    misclassified, though it returns the overshot image: each step is clipped, and it is
    the returned image that is asked. From the public code, which takes the next
    gradient at the overshot image: gradients are taken at x.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `bounds`.
      key: only a randomised model needs it.
      images: clean images.
      labels: true labels.
      targets: not accepted; any wrong class is a success.
      bounds: the box, (lowest, highest).
      num_steps: at most so many steps, at least 1. Default 50.
      overshoot: share by which the whole perturbation is lengthened, at least 0.
      num_candidates: wrong classes to look at, those with the largest logits on the
        clean image, at least 1; all of them if there are fewer. Default 10.
      norm: `linf` or `l2`.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, inside the box; the clean image where none was
      found, or where it is itself misclassified.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Moosavi-Dezfooli et al. 2016, "DeepFool: A Simple and Accurate Method to
    Fool Deep Neural Networks", algorithm 2 and equation 11.
    """
    checks.check_no_targets("deep_fool", targets)
    checks.check_choice("norm", norm, tuple(_DIRECTION))
    checks.check_count("num_candidates", num_candidates)
    checks.check_count("num_eot_samples", num_eot_samples)
    return enter(
        _attack,
        "deep_fool",
        (logits_fn, key, images, labels, targets, bounds),
        {
            "num_steps": Number(num_steps, np.int32, lowest=1),
            "overshoot": Number(overshoot),
        },
        norm=norm,
        num_candidates=num_candidates,
        num_eot_samples=num_eot_samples,
    )


class _State(NamedTuple):
    """Where each example is; every leaf is `[batch, ...]`."""

    points: Array
    """x: before the overshoot."""
    adv_images: Array
    """The overshot image where that is adversarial, else the clean one."""
    is_active: Array


class _Given(NamedTuple):
    images: Array
    labels: Array
    keys: Array
    candidates: Array
    """`[batch, num_candidates]`."""


@partial(jax.jit, static_argnames=("norm", "num_candidates", "num_eot_samples"))
def _attack(
    call: Call,
    numbers: dict[str, Array],
    *,
    norm: str,
    num_candidates: int,
    num_eot_samples: int,
) -> Outcome:
    images, keys = call.clean_images(), call.example_keys()
    factor = 1 + jnp.clip(jnp.nan_to_num(numbers["overshoot"], nan=0.0), 0.0, _FAR)
    problem = partial(
        boundaries.boundary_problem, call.logits_fn, num_eot_samples=num_eot_samples
    )
    logits = logits_pass(problem(labels=call.labels), images, fold_each(keys, 0))

    def step(number: Array, state: _State, given: _Given) -> _State:
        own = problem(labels=given.labels)
        own_keys = fold_each(given.keys, 2 * number + 1)
        _, values, normals = boundaries.linearise(
            own, state.points, own_keys, given.candidates.T
        )
        way = _way(values, normals, norm).reshape(state.points.shape)
        points = jnp.clip(state.points + way, *call.bounds)
        overshot = given.images + factor * (points - given.images)
        overshot = jnp.clip(overshot, *call.bounds)
        logits = logits_pass(own, overshot, fold_each(given.keys, 2 * number + 2))
        hit = state.is_active & boundaries.is_wrong(logits, given.labels)
        return _State(
            points=jnp.where(per_pixel(state.is_active), points, state.points),
            adv_images=jnp.where(per_pixel(hit), overshot, state.adv_images),
            is_active=state.is_active & ~hit,
        )

    candidates = boundaries.likely_wrong_classes(logits, call.labels, num_candidates)
    found = loop_over_survivors(
        step,
        _State(images, images, ~boundaries.is_wrong(logits, call.labels)),
        _Given(images, call.labels, keys, candidates),
        is_active=lambda state: state.is_active,
        num_steps=numbers["num_steps"],
    )
    return Outcome(found.adv_images, logits.shape[1])


def _way(values: Array, normals: Array, norm: str) -> Array:
    """Return the way into the class of the closest hyperplane, `[batch, size]`."""
    distance, _, normal = boundaries.closest(values, normals, norm=norm)
    length = jnp.where(jnp.isfinite(distance), jnp.minimum(distance, _FAR), 0.0)
    return -length[:, None] * _DIRECTION[norm](normal)
