"""FAB: minimum-norm attacks that walk along the linearised decision boundary.

    adv_images = fab_targeted(logits_fn, key, images, labels, epsilon=8 / 255)

`fab` looks at the boundaries to all wrong classes, `fab_targeted` at one after the
other. Both share the engine in `fab_walk`, which states a step's equation.

Use them where a distance is wanted rather than an answer for one radius, and beside
gradient descent: the walk follows where the boundary is, not how steep a loss is, so
it is not misled by logits of unlike scales. A gradient of exactly zero stops it.

Cost for one image that is not adversarial within epsilon: M walks (restarts, for
`fab_targeted` times targets) of N steps past L boundaries (K - 1 of K classes, or 1)
take

    M (N + 1) + 1 + S + U + 3 forward and L (M N + U) backward passes,

where S steps follow a success (outside the ball, that is), and U successes follow none.
The 3 are the search, where there is something to search for. AutoAttack's code takes 2
forward passes a step.

How they differ from that code: they end with the paper's three steps of search between
the adversarial and the clean image, which bring some images into the ball that the
walk left just outside; and restarts start at half the smaller of epsilon and the
smallest distance found so far, as in the paper. From the paper: an image is done with
the first success within epsilon, and the search takes nothing for a success that
rounding might undo.

What `fab` chooses as the closest boundary is that without regard to the box, as in the
paper. Where pixels lie at their limits another one may be closer: `fab_targeted`, which
does not choose, is then nearer, and cheaper too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax.attacks import boundaries, checks, hyperplanes
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.fab_search import search_back
from mmc_jax.attacks.fab_setting import (
    CLEAN,
    Given,
    Setting,
    fold,
    is_in_ball,
)
from mmc_jax.attacks.fab_walk import walk
from mmc_jax.attacks.passes import logits_pass
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn


def fab(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array | None = None,
    num_steps: int | Array = 100,
    num_restarts: int | Array = 1,
    norm: str = "linf",
    alpha_max: float | Array = 0.1,
    overshoot: float | Array = 1.05,
    beta: float | Array = 0.9,
    num_eot_samples: int = 1,
) -> Array:
    """Walk along the closest boundary to any wrong class.

    The boundary of a step is the one with the smallest |h_y - h_k| / ||grad||_q.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `bounds`.
      key: draws the starts of further restarts.
      images: clean images.
      labels: true labels.
      targets: not accepted; any wrong class is a success.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0, scalar or `[batch]`: an image is done with the first
        adversarial image within it. None: the closest adversarial image found.
      num_steps: steps a restart, at least 1. Default 100.
      num_restarts: walks, at least 1; the first from the clean image, the others from
        half the smaller of epsilon and the smallest distance found. Default 1.
      norm: `linf`, `l2` or `l1`.
      alpha_max: the most that a step is drawn to the clean image, in [0, 1].
      overshoot: of both projections, in [1, 2].
      beta: what is left of the perturbation after a success, in [0, 1].
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box; the clean image where
      none was found, or where it is itself misclassified.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Croce and Hein 2020, "Minimally Distorted Adversarial Examples with a
    Fast Adaptive Boundary Attack".
    """
    numbers = dict(epsilon=epsilon, num_steps=num_steps, num_restarts=num_restarts)
    numbers |= dict(alpha_max=alpha_max, overshoot=overshoot, beta=beta)
    call = (logits_fn, key, images, labels, targets, bounds)
    return _enter("fab", call, numbers, norm, num_eot_samples, None)


def fab_targeted(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array | None = None,
    num_steps: int | Array = 100,
    num_restarts: int | Array = 1,
    num_targets: int = 9,
    norm: str = "linf",
    alpha_max: float | Array = 0.1,
    overshoot: float | Array = 1.05,
    beta: float | Array = 0.9,
    num_eot_samples: int = 1,
) -> Array:
    """Walk along the boundary to one wrong class after the other: FAB-T.

    The most likely wrong class of the clean image comes first. A step costs one
    gradient, whatever the number of classes.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `bounds`.
      key: draws the starts of further restarts.
      images: clean images.
      labels: true labels.
      targets: not accepted; any wrong class is a success.
      bounds: the box, (lowest, highest).
      epsilon: as in `fab`.
      num_steps: steps a restart, at least 1. Default 100.
      num_restarts: walks for each class, at least 1, as in `fab`. Default 1.
      num_targets: wrong classes to try, at least 1; all of them if there are fewer.
        Default 9.
      norm: `linf`, `l2` or `l1`.
      alpha_max: as in `fab`.
      overshoot: as in `fab`.
      beta: as in `fab`.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, as from `fab`.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with
    an Ensemble of Diverse Parameter-free Attacks", section 4.
    """
    checks.check_count("num_targets", num_targets)
    numbers = dict(epsilon=epsilon, num_steps=num_steps, num_restarts=num_restarts)
    numbers |= dict(alpha_max=alpha_max, overshoot=overshoot, beta=beta)
    call = (logits_fn, key, images, labels, targets, bounds)
    return _enter("fab_targeted", call, numbers, norm, num_eot_samples, num_targets)


def _enter(
    name: str,
    call: tuple[Any, ...],
    given: dict[str, Any],
    norm: str,
    num_eot_samples: int,
    num_targets: int | None,
) -> Array:
    checks.check_no_targets(name, call[4])
    checks.check_choice("norm", norm, hyperplanes.NORMS)
    checks.check_count("num_eot_samples", num_eot_samples)
    numbers = {
        "num_steps": Number(given["num_steps"], np.int32, lowest=1),
        "num_restarts": Number(given["num_restarts"], np.int32, lowest=1),
        "alpha_max": Number(given["alpha_max"], highest=1.0),
        "overshoot": Number(given["overshoot"], lowest=1.0, highest=2.0),
        "beta": Number(given["beta"], highest=1.0),
    }
    if given["epsilon"] is not None:
        numbers["epsilon"] = Number(given["epsilon"], per_example=True)
    static = dict(norm=norm, num_eot_samples=num_eot_samples, num_targets=num_targets)
    return enter(_attack, name, call, numbers, **static)


@partial(jax.jit, static_argnames=("norm", "num_eot_samples", "num_targets"))
def _attack(
    call: Call,
    numbers: dict[str, Array],
    *,
    norm: str,
    num_eot_samples: int,
    num_targets: int | None,
) -> Outcome:
    setting = _setting(call, numbers, norm, num_eot_samples)
    images, keys, labels = call.clean_images(), call.example_keys(), call.labels
    logits = logits_pass(
        boundaries.boundary_problem(call.logits_fn, labels, num_eot_samples),
        images,
        fold(keys, CLEAN, jnp.zeros_like(labels), jnp.zeros_like(labels)),
    )
    count = logits.shape[1] if num_targets is None else num_targets
    aims = boundaries.likely_wrong_classes(logits, labels, count)
    epsilon = numbers.get("epsilon", jnp.float32(jnp.inf))
    epsilon = jnp.where(epsilon >= 0, epsilon, 0.0)
    given = Given(
        images=images,
        labels=labels,
        keys=keys,
        epsilon=jnp.broadcast_to(epsilon, len(images)),
        # All boundaries at every step, or a walk for each.
        aims=aims[:, None, :] if num_targets is None else aims[:, :, None],
    )
    best, distance = search_back(setting, given, logits, walk(setting, given, logits))
    found = per_pixel(is_in_ball(setting, given, distance))
    return Outcome(jnp.where(found, best, images), logits.shape[1])


def _setting(
    call: Call, numbers: dict[str, Array], norm: str, num_eot_samples: int
) -> Setting:
    # Whatever traced numbers are, the walk must end and stay in the box.
    most = {"alpha_max": 1.0, "overshoot": 2.0, "beta": 1.0}
    factors = {
        name: jnp.clip(jnp.nan_to_num(numbers[name]), 0.0, highest)
        for name, highest in most.items()
    }
    return Setting(
        logits_fn=call.logits_fn,
        norm=norm,
        bounds=call.bounds,
        num_eot_samples=num_eot_samples,
        stops_in_ball="epsilon" in numbers,
        num_steps=jnp.maximum(numbers["num_steps"], 1),
        num_restarts=numbers["num_restarts"],
        **factors,
    )
