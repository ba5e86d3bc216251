"""The search for the smallest perturbation that C&W and EAD share.

Both minimise, for each example,

    c max(margin(x') + confidence, 0) + penalty(x' - x)

by gradient steps, for a sequence of c: ten times larger until the first success, then
halving the interval between the largest c that failed and the smallest that succeeded.
Of all iterates that succeed the closest is returned.

Read `_search` first: values of c outside, steps inside, one gradient a step. The logits
of a step's gradient judge the iterate at which it was taken, so there is no other pass,
and where the last step leads is not judged. The margin is differentiated and the rest
is written down, so that c, the hinge and the penalty belong to each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mmc_jax.attacks import checks
from mmc_jax.attacks.checks import Number
from mmc_jax.attacks.conditional import return_unjudgeable
from mmc_jax.attacks.consts import (
    LARGEST_CONST,
    SMALLEST_CONST,
    Search,
    narrow,
    start_search,
)
from mmc_jax.attacks.door import Call, Outcome, enter
from mmc_jax.attacks.iterates import INVALID, Judgement
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.objectives import margin
from mmc_jax.attacks.passes import (
    Problem,
    gradient_pass,
    num_classes,
)
from mmc_jax.attacks.projections import per_pixel
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array

_HUGE = 1e30
# A run of steps has so many periods, after each of which an example may be stalled.
_NUM_PERIODS, _SHORTEST_PERIOD = 10, 10
_STALLED = 0.9999


class Ground(NamedTuple):
    """What a method may know of where it walks."""

    images: Array
    """`[batch, height, width, channels]`, clean."""
    bounds: tuple[ArrayLike, ArrayLike]
    numbers: Mapping[str, Array]
    """Hyperparameters of the attack, scalars."""


class Method(NamedTuple):
    """How an attack walks for one c; static. A walk is a pytree of `[batch, ...]`."""

    start: Callable[[Ground], Any]
    """-> the walk before its first step, at the clean images."""
    locate: Callable[[Ground, Any], Array]
    """walk -> the images to judge next, in the box."""
    measure: Callable[[Ground, Array], tuple[Array, Array]]
    """perturbation -> penalty and distance, both `[batch]`."""
    move: Callable[[Ground, Array, Any, Array], Any]
    """number of the step from 0, walk, gradient of c hinge + squared l2 -> walk."""


class Plan(NamedTuple):
    """What shapes the program of a search; static."""

    method: Method
    abort_early: bool
    num_eot_samples: int


class _Closest(NamedTuple):
    images: Array
    distance: Array
    """`[batch]`: infinite without a success, -infinite where the logits are NaN."""

    @property
    def is_final(self) -> Array:
        """Whether there is nothing closer to find."""
        return self.distance <= 0


class _State(NamedTuple):
    """State between two steps for one c; every leaf is `[batch, ...]`."""

    walk: Any
    closest: _Closest
    has_succeeded: Array
    """With this c."""
    lowest_loss: Array
    """Since the last check for a stall."""
    previous_loss: Array
    """The lowest between the last two."""
    has_stalled: Array


class _Given(NamedTuple):
    """What a step reads of each example."""

    images: Array
    labels: Array
    targets: Array | None
    const: Array
    keys: Array


def enter_search(
    name: str,
    call: tuple[Any, ...],
    given: dict[str, Any],
    plan: Plan,
) -> Array:
    """Check the hyperparameters of the family, and run the search behind the door.

    Args:
      name: the attack's public name.
      call: what all attacks share, as the user gave it.
      given: confidence, initial_const, num_binary_search_steps, num_steps,
        learning_rate, and what the attack's method needs besides.
      plan: what shapes the program.

    Returns:
      The closest success of every example, or its clean image.

    Raises:
      ValueError: an argument out of what the attack documents.
    """
    checks.check_flag("abort_early", plan.abort_early)
    checks.check_count("num_eot_samples", plan.num_eot_samples)
    numbers = {name: Number(value) for name, value in given.items()}
    for count in ("num_binary_search_steps", "num_steps"):
        numbers[count] = Number(given[count], np.int32, lowest=1)
    numbers["initial_const"] = Number(
        given["initial_const"], lowest=SMALLEST_CONST, highest=LARGEST_CONST
    )
    return enter(_search, name, call, numbers, plan=plan)


@partial(jax.jit, static_argnames="plan")
def _search(call: Call, numbers: dict[str, Array], *, plan: Plan) -> Outcome:
    keys, images = call.example_keys(), call.clean_images()
    numbers = {name: _tame(number) for name, number in numbers.items()}
    batch = images.shape[0]

    def unfinished(state: tuple[Array, Search, _Closest]) -> Array:
        index, _, closest = state
        goes_on = index < numbers["num_binary_search_steps"]
        return goes_on & ~jnp.all(closest.is_final)

    def try_const(
        state: tuple[Array, Search, _Closest],
    ) -> tuple[Array, Search, _Closest]:
        index, search, closest = state
        given = _Given(
            images, call.labels, call.targets, search.const, fold_each(keys, index)
        )
        closest, success = _walk(call, numbers, plan, given, closest)
        return index + 1, narrow(search, success), closest

    start = start_search(numbers["initial_const"], batch)
    nothing = _Closest(images, jnp.full(batch, jnp.inf))
    _, _, closest = jax.lax.while_loop(
        unfinished, try_const, (jnp.int32(0), start, nothing)
    )
    problem = Problem(
        call.logits_fn, call.labels, call.targets, margin, plan.num_eot_samples
    )
    spare_keys = fold_each(keys, numbers["num_binary_search_steps"])
    invalid = jnp.isneginf(closest.distance)
    adv_images = return_unjudgeable(
        problem, images, closest.images, invalid, spare_keys
    )
    return Outcome(adv_images, num_classes(problem, images, keys))


def _tame(number: Array) -> Array:
    # The door cannot check traced values: whatever they are, nothing below becomes NaN.
    is_count = jnp.issubdtype(number.dtype, jnp.integer)
    return number if is_count else jnp.clip(jnp.nan_to_num(number), 0.0, _HUGE)


def _walk(
    call: Call,
    numbers: Mapping[str, Array],
    plan: Plan,
    given: _Given,
    closest: _Closest,
) -> tuple[_Closest, Array]:
    """Walk with one c; return the closest so far, and where this c has succeeded."""
    batch = given.labels.shape[0]
    state = _State(
        walk=plan.method.start(Ground(given.images, call.bounds, numbers)),
        closest=closest,
        has_succeeded=jnp.zeros(batch, bool),
        lowest_loss=jnp.full(batch, jnp.inf),
        previous_loss=jnp.full(batch, jnp.inf),
        has_stalled=jnp.zeros(batch, bool),
    )

    def step(number: Array, state: _State, given: _Given) -> _State:
        ground = Ground(given.images, call.bounds, numbers)
        problem = Problem(
            call.logits_fn, given.labels, given.targets, margin, plan.num_eot_samples
        )
        return _step(plan, problem, ground, given, number, state)

    state = loop_over_survivors(
        step,
        state,
        given,
        is_active=_is_active,
        num_steps=numbers["num_steps"],
        drop=plan.abort_early,
    )
    return state.closest, state.has_succeeded


def _is_active(state: _State) -> Array:
    return ~state.has_stalled & ~state.closest.is_final


def _step(
    plan: Plan,
    problem: Problem,
    ground: Ground,
    given: _Given,
    number: Array,
    state: _State,
) -> _State:
    active, closest = _is_active(state), state.closest
    candidates = plan.method.locate(ground, state.walk)
    step_keys = fold_each(given.keys, number)
    judged, gradient = gradient_pass(problem, candidates, step_keys)
    delta = candidates - given.images
    penalty, distance = plan.method.measure(ground, delta)

    confidence = ground.numbers["confidence"]
    excess = jnp.maximum(judged.objective + confidence, 0.0)
    slope = per_pixel(jnp.where(excess > 0, given.const, 0.0))
    gradient = jnp.clip(slope * gradient + 2 * delta, -_HUGE, _HUGE)

    invalid = judged.rank == INVALID
    success = active & ~invalid & _is_success(problem, judged, confidence)
    found = jnp.where(success, distance, jnp.inf)
    found = jnp.where(active & invalid, -jnp.inf, found)
    closer = found < closest.distance
    state = state._replace(
        walk=plan.method.move(ground, number, state.walk, gradient),
        closest=_Closest(
            jnp.where(per_pixel(closer), candidates, closest.images),
            jnp.where(closer, found, closest.distance),
        ),
        has_succeeded=state.has_succeeded | success,
    )
    if not plan.abort_early:
        return state
    period = jnp.maximum(ground.numbers["num_steps"] // _NUM_PERIODS, _SHORTEST_PERIOD)
    return _check_for_stall(state, number, period, given.const * excess + penalty)


def _check_for_stall(
    state: _State, number: Array, period: Array, loss: Array
) -> _State:
    """Compare the lowest loss of each period with that of the period before.

    The lowest, since the loss goes up and down; without the clean image's, which the
    first steps of Adam leave behind for a while.
    """
    has_moved = number > 0
    lowest = jnp.where(has_moved, jnp.minimum(state.lowest_loss, loss), jnp.inf)
    is_checked = has_moved & (number % period == 0)
    return state._replace(
        lowest_loss=jnp.where(is_checked, jnp.inf, lowest),
        previous_loss=jnp.where(is_checked, lowest, state.previous_loss),
        has_stalled=state.has_stalled
        | (is_checked & (lowest > _STALLED * state.previous_loss)),
    )


def _is_success(problem: Problem, judged: Judgement, confidence: Array) -> Array:
    # The mean margin of a randomised model may disagree with its mean logits, by which
    # every attack is judged: it counts only where a confidence is asked for.
    is_confident = (confidence <= 0) | (judged.objective <= -confidence)
    return (judged.rank >= problem.success_rank) & is_confident
