"""The Square attack: random search with square windows, from scores alone.

Good for: models whose gradients are masked, and as the check that they are not. It asks
for no gradient, so that nothing but the logits of the queries can mislead it.

Every query repaints one window of the best candidate so far, and the candidate is kept
if its objective is lower. Windows shrink as queries go by (`windows.side_length`):

- linf: start from vertical stripes of x - epsilon and x + epsilon, clipped; a window
  gets one of the two in each channel.
- l2, l1: start from a grid of windows; a query empties one window, and fills another
  with a bump beside its negative (`windows.move_mass`).

Where the official code differs, the papers are followed. In brackets what the code's
way leaves more, in points of accuracy, of a softmax CNN on MNIST after 1,000 queries:
mean and 95 % interval over 5 seeds (benchmarks/differences.py). None shows once the
number of comparisons is corrected for.

- Each example has windows and signs of its own; there, one draw serves the batch (linf
  -0.2 ± 1.0, l2 +0.3 ± 3.3).
- Windows reach the last row and column (linf +1.6 ± 1.1).
- The side of an l2 or l1 window may be even; there it is rounded up to an odd one (l2
  +4.4 ± 2.8).

The halvings of the windows' area come, as in AutoAttack, after fixed numbers of queries
unless `rescale_schedule` asks for the paper's. The l1 attack is the l2 attack with
l1 norms. A window is never larger than the image, nor has less than one pixel. On
images that are not square p is a fraction of their area.

`windows` has the proposals, `random_search` the draws and the loop.
"""

from __future__ import annotations

import numpy as np

from mmc_jax.attacks import checks, random_search
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.door import enter
from mmc_jax.attacks.objectives import resolve_objective
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn


def square(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    num_queries: int | Array = 5000,
    num_restarts: int | Array = 1,
    norm: str = "linf",
    objective: str | Objective = "margin",
    initial_fraction: float | Array = 0.8,
    rescale_schedule: bool = False,
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Search at random with square windows: the Square attack, without gradients.

    The module's docstring has the equations and how ours differs. Cost of a surviving
    image: num_restarts (1 + num_queries) forward passes, no backward pass.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `epsilon`.
      key: draws starts, windows and signs.
      images: clean images.
      labels: true labels.
      targets: target labels, or None. With targets the search lowers the targeted
        objective; the paper then takes `cross_entropy`.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0; scalar or `[batch]`.
      num_queries: windows tried a restart, at least 1. Default 5000, as in AutoAttack.
      num_restarts: searches, at least 1; the best one counts. Default 1.
      norm: `linf`, `l2` or `l1`.
      objective: a name in `OBJECTIVES`, or such a function.
      initial_fraction: p of the first windows, in [0, 1]. Default 0.8, that of
        AutoAttack.
      rescale_schedule: stretch the halvings of p, which are for 10,000 queries, to
        `num_queries`. Default False, as there.
      stop_on_success: freeze an example once it is misclassified (hits its target).
        False goes on to the lowest objective, for every query.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box: a success if there was
      one, else the lowest objective.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box
    adversarial attack via random search"; for l1 Croce and Hein 2021, "Mind the box".
    """
    checks.check_choice("norm", norm, random_search.NORMS)
    checks.check_flag("rescale_schedule", rescale_schedule)
    checks.check_flag("stop_on_success", stop_on_success)
    checks.check_count("num_eot_samples", num_eot_samples)
    numbers = {
        "epsilon": Number(epsilon, per_example=True),
        "num_queries": Number(num_queries, np.int32, lowest=1),
        "num_restarts": Number(num_restarts, np.int32, lowest=1),
        "initial_fraction": Number(initial_fraction, highest=1.0),
    }
    plan = random_search.Plan(
        norm,
        resolve_objective(objective),
        rescale_schedule,
        stop_on_success,
        num_eot_samples,
    )
    call = (logits_fn, key, images, labels, targets, bounds)
    return enter(random_search.search, "square", call, numbers, plan=plan)
