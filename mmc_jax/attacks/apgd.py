"""Auto-PGD and what is built on it: apgd, apgd_targeted, multi_targeted.

    adv_images = apgd(logits_fn, jax.random.key(0), images, labels, epsilon=8 / 255)

PGD whose step size follows the objective, without a step size to choose: linf and l2 by
`auto_step`, l1 by `sparse_step`, one engine (`apgd_engine`). The arguments that all
attacks share are explained in `gradient_sign`.

Where the papers and their published code differ, these follow the papers. In brackets
what the code's way leaves more, in points of accuracy, of a softmax CNN on MNIST: mean
and 95 % interval over 5 seeds (benchmarks/differences.py). None shows once the number
of comparisons is corrected for.

- The paper decides at its iteration k in W, when x_{k+1} has been judged, by what was
  known at x_k; the code decides one step earlier, at x_k (+0.12 ± 0.22).
- Checkpoints count whether f fell between the iterates as they stand: after a return
  to the best point, from that point. The code compares what was judged (0.00 ± 0.09).
- At the first checkpoint the code reads a comparison too many, from an index of -1
  (-0.04 ± 0.07).
- l1: checkpoints are ceil(0.04 num_steps) apart, and not by the length of each part
  (-0.32 ± 0.80); the sparsity counts as the same if it is 0.95 to 1 times the last, not
  if it grew (-0.40 ± 0.30).
- l1: with fewer than 4 steps no gradient is followed: each of three parts ends by
  projecting the best iterate onto the next ball.
- l1: a part of the shrinking ball ends at its last gradient; the code takes one more
  step and judges it by a pass of its own.
"""

from __future__ import annotations

from mmc_jax.attacks.apgd_engine import enter_apgd
from mmc_jax.attacks.apgd_walk import Plan
from mmc_jax.attacks.objectives import resolve_objective
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn


def apgd(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    num_steps: int | Array = 100,
    num_restarts: int | Array = 1,
    norm: str = "linf",
    objective: str | Objective = "cross_entropy",
    keep: str = "best",
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Descend with a step that adapts: Auto-PGD.

    Costs num_steps gradients a restart, and with `keep='best'` or several restarts one
    forward pass more.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `epsilon`.
      key: draws the starts.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      num_steps: gradients a restart, at least 1. Default 100.
      num_restarts: walks, at least 1; the best one counts. Default 1.
      norm: `linf`, `l2` or `l1`.
      objective: a name in `OBJECTIVES`, or such a function.
      keep: `best` iterate (misclassified before any other, then lowest objective), or
        the `last`.
      stop_on_success: freeze an example once it is misclassified (hits its target), and
        drop it. False for a fixed number of steps.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with
    an Ensemble of Diverse Parameter-free Attacks", algorithm 1; for l1 Croce and Hein
    2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers".
    """
    return enter_apgd(
        "apgd",
        (logits_fn, key, images, labels, targets, bounds),
        dict(epsilon=epsilon, num_steps=num_steps, num_restarts=num_restarts),
        Plan(
            norm, resolve_objective(objective), keep, stop_on_success, num_eot_samples
        ),
    )


def apgd_targeted(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    num_targets: int | Array = 9,
    num_steps: int | Array = 100,
    num_restarts: int | Array = 1,
    norm: str = "linf",
    objective: str | Objective = "dlr",
    keep: str = "best",
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Descend towards each of the likeliest wrong classes in turn: APGD-T.

    The targets are the num_targets wrong classes with the largest logits on the clean
    image; any wrong class is a success. Each restart goes through all of them, on the
    examples that are left. Costs one forward pass, and then num_steps gradients and one
    forward pass a target and restart.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `epsilon`.
      key: draws the starts.
      images: clean images.
      labels: true labels.
      targets: must be None: the attack chooses them.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      num_targets: at least 1; more than there are wrong classes is all of them.
        Default 9; published for l1 are 5.
      num_steps: gradients a walk, at least 1. Default 100.
      num_restarts: at least 1. Default 1.
      norm: `linf`, `l2` or `l1`.
      objective: a name in `OBJECTIVES`, or such a function, given the target. The
        default needs four classes; with fewer use `pairwise_margin`.
      keep: as in `apgd`, over all walks.
      stop_on_success: as in `apgd`.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with
    an Ensemble of Diverse Parameter-free Attacks", section 4.
    """
    return enter_apgd(
        "apgd_targeted",
        (logits_fn, key, images, labels, targets, bounds),
        dict(
            epsilon=epsilon,
            num_targets=num_targets,
            num_steps=num_steps,
            num_restarts=num_restarts,
        ),
        Plan(
            norm,
            resolve_objective(objective),
            keep,
            stop_on_success,
            num_eot_samples,
            chooses_targets=True,
        ),
    )


def multi_targeted(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    num_targets: int | Array | None = None,
    num_steps: int | Array = 100,
    num_restarts: int | Array = 1,
    norm: str = "linf",
    objective: str | Objective = "standardized_margin",
    keep: str = "best",
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Lower h_y - h_t for every wrong class t in turn: multi-targeted, with APGD steps.

    The attack for heads whose logits are distances: the difference of two of them is
    linear in the features and never saturates. Published with the difference as it is
    (`pairwise_margin`); the default here takes it over the standard deviation of the
    logits, which no scale of the logits changes. Restarts after the first
    begin with two steps along a random direction of the logits (output diversified
    initialisation). Costs one forward pass, then num_steps gradients (two more in
    restarts after the first) and one forward pass a target and restart.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `epsilon`.
      key: draws the starts and directions.
      images: clean images.
      labels: true labels.
      targets: must be None: the attack chooses them.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      num_targets: the likeliest so many on the clean image, at least 1; None is every
        wrong class, as published.
      num_steps: gradients a walk, at least 1. Default 100.
      num_restarts: at least 1. Default 1.
      norm: `linf`, `l2` or `l1`.
      objective: a name in `OBJECTIVES`, or such a function, given the target.
      keep: as in `apgd`, over all walks.
      stop_on_success: as in `apgd`.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Gowal et al. 2019, "An Alternative Surrogate Loss for PGD-based
    Adversarial Testing"; Tashiro et al. 2020, "Diversity can be Transferred: Output
    Diversification for White- and Black-box Attacks"; step rule as in `apgd`.
    """
    return enter_apgd(
        "multi_targeted",
        (logits_fn, key, images, labels, targets, bounds),
        dict(
            epsilon=epsilon,
            num_targets=num_targets,
            num_steps=num_steps,
            num_restarts=num_restarts,
        ),
        Plan(
            norm,
            resolve_objective(objective),
            keep,
            stop_on_success,
            num_eot_samples,
            chooses_targets=True,
            wanders=True,
        ),
    )
