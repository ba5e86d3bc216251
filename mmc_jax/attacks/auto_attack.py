"""AutoAttack: the parameter-free ensemble that robustness claims are measured by.

    adv_images = auto_attack(logits_fn, key, images, labels, epsilon=8 / 255)

| version | parts, in order | for |
|---|---|---|
| `standard` | apgd-ce, apgd-t, fab-t, square | deterministic models |
| `plus` | apgd-ce, apgd-dlr, fab, square, apgd-t, fab-t; 5 restarts | more effort |
| `rand` | apgd-ce, apgd-dlr, both over 20 samples a gradient | randomised models |
| `mmc` | `standard`, multi-targeted twice | Mahalanobis heads |

The second multi-targeted lowers each target's own distance (`own_class`), not the
difference of two. On MMC trained by TRADES (MNIST, one training, linf 0.3) it broke 49
of the 179 images that all else left of 300; on MMC trained plainly or by PGD, none.

As one function the parts run one after the other on the whole batch. An evaluation is
faster with a row a part (`configs/suites.py`, "autoattack"): each part is then given
full batches of what the parts before it left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mmc_jax.attacks import checks
from mmc_jax.attacks.apgd import apgd, apgd_targeted, multi_targeted
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.conditional import return_unjudgeable
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.fab import fab, fab_targeted
from mmc_jax.attacks.iterates import CORRECT, INVALID, keep_better, keep_nothing
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.objectives import margin
from mmc_jax.attacks.passes import (
    Problem,
    forward_pass,
    num_classes,
)
from mmc_jax.attacks.square import square
from mmc_jax.types import Array, LogitsFn, StochasticLogitsFn

VERSIONS = ("standard", "plus", "rand", "mmc")
_NORMS = ("linf", "l2", "l1")
AUTO_ATTACK_PARTS: dict[str, Callable[..., Array]] = {
    attack.__name__: attack
    for attack in (apgd, apgd_targeted, fab, fab_targeted, multi_targeted, square)
}
"""What parts are made of, by name."""
NUM_SAMPLES = 20


def auto_attack_parts(
    version: str, *, norm: str, num_classes: int
) -> dict[str, dict[str, Any]]:
    """Return the parts of a version, with their published parameters, as plain data.

    Args:
      version: one of `VERSIONS`.
      norm: `linf`, `l2` or `l1`; in l1 apgd-ce has 5 restarts and apgd-t 5 targets.
      num_classes: at least 2. Below 10 there are fewer targets. The targeted DLR
        objective needs 4 classes and the untargeted one 3: below that the pairwise
        margin and the margin, their numerators, stand in.

    Returns:
      Part -> `dict(name=..., **hyperparameters)`, in the order in which they run.

    Raises:
      ValueError: an unknown version or norm, or fewer than 2 classes.

    Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with
    an Ensemble of Diverse Parameter-free Attacks", Section 6; for l1 "Mind the Box:
    l1-APGD for Sparse Adversarial Attacks on Image Classifiers", 2021.
    """
    checks.check_choice("version", version, VERSIONS)
    checks.check_choice("norm", norm, _NORMS)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2; got {num_classes}.")
    restarts = 5 if version == "plus" or norm == "l1" else 1
    most_targets = 5 if norm == "l1" else 9
    dlr = "dlr" if num_classes >= 3 else "margin"
    targeted_dlr = "dlr" if num_classes >= 4 else "pairwise_margin"
    parts: dict[str, dict[str, Any]] = {
        "apgd-ce": dict(name="apgd", objective="cross_entropy", num_restarts=restarts),
        "apgd-dlr": dict(name="apgd", objective=dlr, num_restarts=restarts),
        "fab": dict(name="fab", num_restarts=5),
        "apgd-t": dict(
            name="apgd_targeted",
            objective=targeted_dlr,
            num_targets=min(most_targets, num_classes - 1),
        ),
        "fab-t": dict(name="fab_targeted", num_targets=min(9, num_classes - 1)),
        "square": dict(name="square"),
        "multi-targeted": dict(name="multi_targeted"),
        "multi-targeted-own": dict(name="multi_targeted", objective="own_class"),
    }
    order = {
        "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
        "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        "rand": ("apgd-ce", "apgd-dlr"),
        "mmc": (
            *("apgd-ce", "apgd-t", "fab-t", "square"),
            *("multi-targeted", "multi-targeted-own"),
        ),
    }[version]
    samples = dict(num_eot_samples=NUM_SAMPLES) if version == "rand" else {}
    return {part: parts[part] | samples for part in order}


def auto_attack(
    logits_fn: LogitsFn | StochasticLogitsFn,
    key: Array,
    images: Array,
    labels: Array,
    *,
    targets: Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    epsilon: float | Array,
    norm: str = "linf",
    version: str = "standard",
) -> Array:
    """Run AutoAttack's parts one after the other, each on what is left.

    Args:
      logits_fn: as in `gradient_sign`, like the arguments down to `epsilon`.
      key: draws starts, squares and restarts.
      images: clean images.
      labels: true labels.
      targets: not accepted: the parts choose their own.
      bounds: the box, (lowest, highest).
      epsilon: radius, at least 0.
      norm: `linf`, `l2` or `l1`.
      version: `standard`, `plus`, `rand` or `mmc`, as in the module's table.

    Returns:
      Adversarial images like `images`, in the ball and the box: misclassified before
      any other, then of the lowest margin.

    Raises:
      ValueError: an argument out of what is documented.

    Reference: Croce and Hein 2020, "Reliable Evaluation of Adversarial Robustness with
    an Ensemble of Diverse Parameter-free Attacks".
    """
    checks.check_choice("version", version, VERSIONS)
    checks.check_choice("norm", norm, _NORMS)
    checks.check_no_targets("auto_attack", targets)
    return enter(
        _run_parts,
        "auto_attack",
        (logits_fn, key, images, labels, None, bounds),
        {"epsilon": Number(epsilon, per_example=True)},
        norm=norm,
        version=version,
    )


@partial(jax.jit, static_argnames=("norm", "version"))
def _run_parts(
    call: Call, numbers: dict[str, Array], *, norm: str, version: str
) -> Outcome:
    keys, images = call.example_keys(), call.clean_images()
    samples = NUM_SAMPLES if version == "rand" else 1
    problem = Problem(call.logits_fn, call.labels, None, margin, samples)
    width = num_classes(problem, images, keys)
    parts = auto_attack_parts(version, norm=norm, num_classes=width)
    epsilon = jnp.broadcast_to(numbers["epsilon"], call.labels.shape)
    judged = forward_pass(problem, images, fold_each(keys, 0))
    nothing = keep_nothing(images)
    kept = keep_better(nothing, images, judged, jnp.zeros_like(call.labels, bool))
    for index, part in enumerate(parts.values(), start=1):
        done = kept.judgement.rank != CORRECT
        hyperparameters = {name: part[name] for name in part if name != "name"}
        # A ball of radius 0 around an image that is misclassified already: the part
        # finds it done at its first look.
        adv_images = AUTO_ATTACK_PARTS[part["name"]](
            call.logits_fn,
            fold_each(keys, 2 * index),
            jnp.where(done[:, None, None, None], kept.images, images),
            call.labels,
            bounds=call.bounds,
            epsilon=jnp.where(done, 0.0, epsilon),
            norm=norm,
            **hyperparameters,
        )
        judged = forward_pass(problem, adv_images, fold_each(keys, 2 * index + 1))
        kept = keep_better(kept, adv_images, judged, done)
    invalid = kept.judgement.rank == INVALID
    spare_keys = fold_each(keys, 2 * len(parts) + 2)
    kept_images = return_unjudgeable(problem, images, kept.images, invalid, spare_keys)
    return Outcome(kept_images, width)
