"""The gradient sign family: FGSM, BIM, PGD and MIM, in linf and l2.

    adv_images = pgd(logits_fn, jax.random.key(0), images, labels, epsilon=8 / 255)

Four bindings of one engine (`descent`). FGSM is one step from the clean image, BIM
several, PGD several from a random start, with restarts, MIM several with momentum.

All four, and every other attack, share these arguments:

- `logits_fn`: images -> logits `[batch, num_classes]`, in inference mode. As a
  `jax.tree_util.Partial` (what `models.make_logits_fn` returns) new weights do not
  recompile; a plain callable is compiled once per function object, with its weights
  baked in. A randomised model is a `StochasticLogitsFn`.
- `key`: one typed key, or one an example, `[batch]`. Nothing is drawn from it as it is,
  so the same key may be given to several attacks.
- `images`: float32 `[batch, height, width, channels]` inside `bounds`.
- `labels`: the true labels, integers `[batch]`. `targets`: `[batch]` makes it targeted.
- `epsilon`: radius of the ball, in the images' unit; a scalar or `[batch]`.

Numbers are dynamic: changing one does not recompile. Names and flags are static.
"""

from __future__ import annotations

from mmc_jax.attacks.descent import Plan, enter_descent
from mmc_jax.attacks.objectives import resolve_objective
from mmc_jax.types import Array, LogitsFn, Objective, StochasticLogitsFn


def fgsm(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    norm: str = "linf",
    objective: str | Objective = "cross_entropy",
    num_eot_samples: int = 1,
) -> Array:
    """Take one step of length epsilon: the fast gradient sign method.

    x - epsilon sign(g) for linf, x - epsilon g / ||g||_2 for l2, with g the gradient of
    the minimised objective. Exact on a linear model away from the box.

    Args:
      logits_fn: as in the module's docstring, like the arguments down to `epsilon`.
      key: only a randomised model needs it.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      epsilon: radius and step, at least 0.
      norm: `linf` or `l2`.
      objective: a name in `OBJECTIVES`, or such a function.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples".
    """
    return enter_descent(
        "fgsm",
        (logits_fn, key, images, labels, targets, bounds),
        dict(epsilon=epsilon, num_steps=1),
        Plan(norm, resolve_objective(objective), False, "last", False, num_eot_samples),
        default_step=1.0,
    )


def bim(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    step_size: float | Array | None = None,
    num_steps: int | Array = 10,
    norm: str = "linf",
    objective: str | Objective = "cross_entropy",
    keep: str = "best",
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Iterate FGSM from the clean image: the basic iterative method.

    Args:
      logits_fn: as in the module's docstring, like the arguments down to `epsilon`.
      key: only a randomised model needs it.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      step_size: length of a step, scalar or `[batch]`; None is 2.5 epsilon / num_steps
        (Madry et al. 2018), enough to reach any point of the ball and come back.
      num_steps: gradients, at least 1. Default 10.
      norm: `linf` or `l2`.
      objective: a name in `OBJECTIVES`, or such a function.
      keep: `best` iterate (misclassified before any other, then lowest objective; costs
        one forward pass), or the `last`.
      stop_on_success: freeze an example once it is misclassified (hits its target).
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Kurakin et al. 2017, "Adversarial Examples in the Physical World".
    """
    return enter_descent(
        "bim",
        (logits_fn, key, images, labels, targets, bounds),
        dict(epsilon=epsilon, step_size=step_size, num_steps=num_steps),
        Plan(
            norm,
            resolve_objective(objective),
            False,
            keep,
            stop_on_success,
            num_eot_samples,
        ),
        default_step=2.5,
    )


def pgd(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    step_size: float | Array | None = None,
    num_steps: int | Array = 40,
    num_restarts: int | Array = 1,
    random_start: bool = True,
    norm: str = "linf",
    objective: str | Objective = "cross_entropy",
    keep: str = "best",
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Iterate FGSM from a random point of the ball: projected gradient descent.

    Args:
      logits_fn: as in the module's docstring, like the arguments down to `epsilon`.
      key: draws the starts.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      step_size: length of a step, scalar or `[batch]`; None is 2.5 epsilon / num_steps.
      num_steps: gradients a restart, at least 1. Default 40, as on MNIST in the paper.
      num_restarts: walks, at least 1; the best one counts. With `keep='last'` that is
        the best of their last iterates. Default 1.
      random_start: start uniformly in the ball (linf or l2), not at the clean image.
      norm: `linf` or `l2`.
      objective: a name in `OBJECTIVES`, or such a function; or `kl_divergence`, from
        the clean prediction, which needs the random start.
      keep: `best` iterate (misclassified before any other, then lowest objective; costs
        one forward pass a restart), or the `last` (free with one restart).
      stop_on_success: freeze an example once it is misclassified (hits its target).
        False for a fixed number of steps, as training wants.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial
    Attacks".
    """
    return enter_descent(
        "pgd",
        (logits_fn, key, images, labels, targets, bounds),
        dict(
            epsilon=epsilon,
            step_size=step_size,
            num_steps=num_steps,
            num_restarts=num_restarts,
        ),
        Plan(
            norm,
            resolve_objective(objective),
            random_start,
            keep,
            stop_on_success,
            num_eot_samples,
        ),
        default_step=2.5,
    )


def mim(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    step_size: float | Array | None = None,
    num_steps: int | Array = 10,
    decay: float | Array = 1.0,
    num_restarts: int | Array = 1,
    random_start: bool = False,
    norm: str = "linf",
    objective: str | Objective = "cross_entropy",
    keep: str = "best",
    stop_on_success: bool = True,
    num_eot_samples: int = 1,
) -> Array:
    """Iterate with accumulated gradients: the momentum iterative method.

    v <- decay v + g / ||g||_1, and the step goes along sign(v), or v / ||v||_2 for l2.

    Args:
      logits_fn: as in the module's docstring, like the arguments down to `epsilon`.
      key: draws the starts, if random.
      images: clean images.
      labels: true labels.
      targets: target labels, or None.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      step_size: length of a step, scalar or `[batch]`; None is epsilon / num_steps, as
        in the paper.
      num_steps: gradients a restart, at least 1. Default 10.
      decay: of the momentum, at least 0. Default 1.
      num_restarts: walks, at least 1; more than one needs a random start.
      random_start: start uniformly in the ball. Default False, as in the paper.
      norm: `linf` or `l2`.
      objective: as in `pgd`.
      keep: `best` or `last`, as in `pgd`.
      stop_on_success: as in `pgd`.
      num_eot_samples: samples averaged for a randomised model.

    Returns:
      Adversarial images like `images`, in the ball and the box.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Dong et al. 2018, "Boosting Adversarial Attacks with Momentum",
    equations 6 to 9.
    """
    return enter_descent(
        "mim",
        (logits_fn, key, images, labels, targets, bounds),
        dict(
            epsilon=epsilon,
            step_size=step_size,
            num_steps=num_steps,
            num_restarts=num_restarts,
            decay=decay,
        ),
        Plan(
            norm,
            resolve_objective(objective),
            random_start,
            keep,
            stop_on_success,
            num_eot_samples,
        ),
        default_step=1.0,
    )
