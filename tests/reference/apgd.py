"""Auto-PGD in linf and l2 (ICML 2020) and in l1 (ICML 2021), from an explicit start.

No random draws: the start is an argument, and `start_from` makes one from a draw. The
papers maximise f; here the objective is minimised: "f rises" reads "the objective
falls", and f_max is the lowest objective.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", ICML 2020, Section 3 and Algorithm 1; Croce and Hein,
"Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import numpy as np

from .attacks import BOUNDS, Objective, direction, objective_gradient, project
from .linear import length
from .models import Model
from .projections import onto_ball_and_box

Projection = Callable[[np.ndarray, np.ndarray, float, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to read what the 2020 paper leaves open; the defaults are the paper's print.

    `late`: Algorithm 1 looks at checkpoint w_j once x(w_j + 1) is made, and a restart
    replaces that point, although Condition 1 counts only up to x(w_j). False: it looks
    once x(w_j) is made, and a restart replaces x(w_j): one gradient less for nothing.
    `at_most`: Condition 1 reads "fewer than"; True: "at most".
    `idle_at_first`: whether Condition 2 can hold at w_1, where no checkpoint before it
    could have halved the step.
    `count_from_best`: the first comparison of Condition 1 after a restart is with the
    best point, which the walk goes on from; False: with the point it replaced.
    `best_is_newest`: whether Condition 2's best of "the first w_j iterations" includes
    x(w_j + 1), which a late look knows; Condition 1 never counts it.
    """

    late: bool = True
    at_most: bool = False
    idle_at_first: bool = True
    count_from_best: bool = True
    best_is_newest: bool = True


PRINTED = Reading()


@dataclasses.dataclass(frozen=True)
class Point:
    """An image with its objective and the objective's gradient there."""

    image: np.ndarray
    value: float
    gradient: np.ndarray


@dataclasses.dataclass
class Walk:
    """A run. `best` has the lowest objective; of equals it is the first.

    `made[i]` is x(i) as it was computed, `points[i]` what the walk went on from: the
    same, or after a restart the best. `step_sizes[k]` led from x(k) to x(k+1), and so
    did `sparsities[k]` in l1. `checks` are the checkpoints with "restarted there".
    """

    made: list[Point]
    points: list[Point]
    best: Point
    step_sizes: list[float] = dataclasses.field(default_factory=list)
    sparsities: list[float] = dataclasses.field(default_factory=list)
    checks: list[tuple[int, bool]] = dataclasses.field(default_factory=list)

    def add(self, point: Point) -> None:
        """Append a new x(k+1)."""
        self.made.append(point)
        self.points.append(point)
        if point.value < self.best.value:
            self.best = point


def checkpoints(num_steps: int) -> list[int]:
    """Return w_1, w_2, ...: w_j = ceil(p_j N), computed in exact hundredths.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), while p_j <= 1
    (2020, Section 3.2). The set counts: for small N two of them can coincide.
    """
    hundredths = [0, 22]
    while hundredths[-1] + 6 <= 100:
        gap = hundredths[-1] - hundredths[-2]
        hundredths.append(hundredths[-1] + max(gap - 3, 6))
    return sorted({-(-p * num_steps // 100) for p in hundredths[1:] if p <= 100})


def start_from(
    draw: np.ndarray, image: np.ndarray, epsilon: float, norm: str
) -> np.ndarray:
    """Return a start from a draw of the image's shape: uniform in linf, else normal.

    The papers say only "random"; this is the default of the public code. In linf the
    draw is scaled until it touches a face of the ball, in l2 onto the sphere, and then
    clipped to the box; in l1 image + draw is projected onto ball and box.
    """
    if norm == "l1":
        return onto_ball_and_box(image + draw, image, epsilon, norm)
    return np.clip(image + epsilon * draw / length(draw, norm), *BOUNDS)


def auto_pgd(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    start: np.ndarray,
    epsilon: float,
    num_steps: int,
    norm: str,
    checks_at: Collection[int] | None = None,
    momentum: float = 0.75,
    share: float = 0.75,
    projection: Projection = project,
    reading: Reading = PRINTED,
) -> Walk:
    """Make x(1), ..., x(N), N = `num_steps`, in linf or l2 (2020, Algorithm 1).

    z(k+1) = P(x(k) + eta s(grad)) with s the steepest direction, and x(1) = z(1),
    x(k+1) = P(x(k) + a (z(k+1) - x(k)) + (1 - a)(x(k) - x(k-1))), a = `momentum`.
    eta is 2 epsilon until, at a checkpoint, it is halved and the walk restarts from the
    best point, because
    (1) fewer than `share` of the steps since the last checkpoint improved on the point
        that they left, or
    (2) neither eta nor the best value has changed since the last checkpoint.

    After a restart the x(k-1) of the momentum term is the point before the restart.
    P is the projection onto ball and box. The default, the ball and then the box, is
    exact in linf only; `projections.onto_ball_and_box` is in l2, too.
    """

    def judge(made: np.ndarray) -> Point:
        return Point(
            made, *objective_gradient(model, objective, made, label, target)[1:]
        )

    checks_at = checkpoints(num_steps) if checks_at is None else checks_at
    first = judge(start)
    walk = Walk([first], [first], first)
    improved: list[bool] = []
    compared, step_size = first.value, 2.0 * epsilon
    last_check, last_best, last_halved = 0, first.value, not reading.idle_at_first
    for k in range(num_steps):
        here = walk.points[k]
        moved = here.image - step_size * direction(here.gradient, norm)
        moved = projection(moved, image, epsilon, norm)
        if k > 0:
            inertia = (1.0 - momentum) * (here.image - walk.points[k - 1].image)
            moved = here.image + momentum * (moved - here.image) + inertia
            moved = projection(moved, image, epsilon, norm)
        walk.step_sizes.append(step_size)
        known = walk.best.value
        walk.add(judge(moved))
        if reading.best_is_newest or not reading.late:
            known = walk.best.value
        before, compared = compared, walk.made[-1].value
        improved.append(compared < before)
        check = k if reading.late else k + 1
        if check in checks_at and check > 0:
            count, enough = (
                sum(improved[last_check:check]),
                share * (check - last_check),
            )
            stuck = count <= enough if reading.at_most else count < enough
            halved = stuck or (not last_halved and known == last_best)
            if halved:
                step_size /= 2.0
                walk.points[-1] = walk.best
            if halved and reading.count_from_best:
                compared = walk.best.value
                improved[-1] = compared < before
            walk.checks.append((check, halved))
            last_check, last_best, last_halved = check, known, halved
    return walk


def sparse_direction(gradient: np.ndarray, count: int) -> np.ndarray:
    """Return s / ||s||_1: s is the sign of the `count` largest |g_i|, and 0 elsewhere.

    2021. Among equal |g_i| the first are taken; the paper does not say.
    """
    flat, chosen = gradient.ravel(), np.zeros(gradient.size)
    for i in sorted(range(gradient.size), key=lambda i: -abs(flat[i]))[:count]:
        chosen[i] = np.sign(flat[i])
    size = float(np.sum(np.abs(chosen)))
    return (chosen / size if size > 0.0 else chosen).reshape(gradient.shape)


def auto_pgd_l1(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    start: np.ndarray,
    epsilon: float,
    num_steps: int,
    period: int,
    sparsity: float,
    first_count: float | None = None,
    grown_restarts: bool = False,
) -> Walk:
    """Make x(1), ..., x(N) for one radius in l1 (2021).

    x(i+1) = P(x(i) + eta s(grad, k)), P exact, without momentum; eta = epsilon at
    first, and k = `sparsity` pixels (counting channels). Every `period` steps, with c
    the number of pixels in which the best point so far differs from the image,
    k = c / 1.5, and
    * if k fell below 0.95 of what it was: eta = epsilon, and restart from the best;
    * else eta = max(eta / 1.5, epsilon / 10).

    Sure are the projection, the update, the absence of momentum and the constants 1.5,
    0.95 and 10. Open, and chosen here: k is cut to an integer of at least 1; the first
    check compares k with `first_count` / 1.5, by default with `sparsity`; a c that
    grew counts as one that did not fall, or, if `grown_restarts`, as one that did; the
    restart replaces the point just made.
    """

    def judge(made: np.ndarray) -> Point:
        return Point(
            made, *objective_gradient(model, objective, made, label, target)[1:]
        )

    first = judge(start)
    walk = Walk([first], [first], first)
    step_size, count = epsilon, 1.5 * sparsity if first_count is None else first_count
    for i in range(num_steps):
        here = walk.points[i]
        step = step_size * sparse_direction(here.gradient, max(int(sparsity), 1))
        walk.step_sizes.append(step_size)
        walk.sparsities.append(sparsity)
        walk.add(judge(onto_ball_and_box(here.image - step, image, epsilon, "l1")))
        if (i + 1) % period == 0:
            last_count, count = count, float(np.sum(walk.best.image != image))
            fell = count < 0.95 * last_count
            fell = fell or (grown_restarts and count > last_count)
            if fell:
                step_size, walk.points[-1] = epsilon, walk.best
            else:
                step_size = max(step_size / 1.5, epsilon / 10.0)
            sparsity = count / 1.5
            walk.checks.append((i + 1, fell))
    return walk


def auto_pgd_l1_stages(
    model: Model,
    objective: Objective,
    image: np.ndarray,
    label: int,
    target: int | None,
    *,
    start: np.ndarray,
    epsilon: float,
    lengths: tuple[int, int, int],
    periods: tuple[int, int, int],
    sparsities: tuple[float, float | None, float | None],
    grown_restarts: bool = False,
) -> list[Walk]:
    """Walk in the balls of 3, 2 and 1 epsilon one after the other (2021).

    `lengths` are 30, 30 and 40 per cent of the steps. A stage starts from the best
    point of the one before, projected onto its ball; the first from `start`, which is
    projected, too. `sparsities` are the first k of each stage, d/5 in the first;
    `None` is the number of changed pixels of the stage's start over 1.5. Open is
    whether `periods` are 0.04 of all steps or of the stage's, hence the argument.
    """
    walks: list[Walk] = []
    for factor, num_steps, period, sparsity in zip(
        (3.0, 2.0, 1.0), lengths, periods, sparsities, strict=True
    ):
        origin = walks[-1].best.image if walks else start
        origin = onto_ball_and_box(origin, image, factor * epsilon, "l1")
        if sparsity is None:
            sparsity = float(np.sum(origin != image)) / 1.5
        walks.append(
            auto_pgd_l1(
                model,
                objective,
                image,
                label,
                target,
                start=origin,
                epsilon=factor * epsilon,
                num_steps=num_steps,
                period=period,
                sparsity=sparsity,
                grown_restarts=grown_restarts,
            )
        )
    return walks
