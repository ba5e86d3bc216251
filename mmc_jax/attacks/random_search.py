"""Random search with windows: the engine of the Square attack.

Read `_Search.restart` first: a start, then queries, one forward pass each. An example
that is done freezes, and drops out of the loop.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mmc_jax.attacks import projections, windows
from mmc_jax.attacks.conditional import return_unjudgeable
from mmc_jax.attacks.door import Call, Outcome
from mmc_jax.attacks.iterates import (
    CORRECT,
    INVALID,
    Judgement,
    Kept,
    keep_better,
    keep_nothing,
)
from mmc_jax.attacks.keys import fold_each
from mmc_jax.attacks.passes import (
    Problem,
    forward_pass,
    num_classes,
)
from mmc_jax.attacks.survivors import loop_over_survivors
from mmc_jax.types import Array, Objective

NORMS = ("linf", "l2", "l1")
_ORDERS = {"l2": 2, "l1": 1}
_SMALLEST_SIDE = {"linf": 1, "l2": 3, "l1": 3}
# What keys are folded with: the start's, those of passes, the first block of queries'.
_START, _PASSES, _WINDOWS = range(3)
# So many queries' random bits are drawn at once: hashing costs by the call.
_BLOCK = 128
# A fraction of epsilon that pays for the rounding of sums over pixels.
_ROUNDING = 1e-6
# More than any perturbation in a box is long, and its square is finite.
_HUGE = 1e15


class Plan(NamedTuple):
    """What shapes the program; static."""

    norm: str
    objective: Objective
    rescale_schedule: bool
    stop_on_success: bool
    num_eot_samples: int


class _Constants(NamedTuple):
    """What an example's search only reads; every leaf is `[batch, ...]`."""

    labels: Array
    targets: Array | None
    keys: Array
    """Of this restart; `_START`, `_PASSES` or `_WINDOWS` is folded in first."""
    images: Array
    epsilon: Array
    low: Array
    high: Array


@partial(jax.jit, static_argnames="plan")
def search(call: Call, numbers: dict[str, Array], *, plan: Plan) -> Outcome:
    """Search at random; the core of `square`."""
    keys, images = call.example_keys(), call.clean_images()
    problem = Problem(
        call.logits_fn,
        call.labels,
        call.targets,
        plan.objective,
        plan.num_eot_samples,
    )
    run = _Search(plan, problem, call.bounds, numbers)

    def unfinished(state: tuple[Array, Kept]) -> Array:
        index, kept = state
        is_final = run.is_final(kept)
        return (index < numbers["num_restarts"]) & ~jnp.all(is_final)

    def restart(state: tuple[Array, Kept]) -> tuple[Array, Kept]:
        index, kept = state
        return index + 1, run.restart(fold_each(keys, index), images, kept)

    _, kept = jax.lax.while_loop(
        unfinished, restart, (jnp.int32(0), keep_nothing(images))
    )
    spare_keys = fold_each(keys, numbers["num_restarts"])
    adv_images = return_unjudgeable(
        problem, images, kept.images, kept.judgement.rank == INVALID, spare_keys
    )
    return Outcome(adv_images, num_classes(problem, images, keys))


@dataclasses.dataclass(frozen=True)
class _Search:
    """One call of the attack, and what it does at every restart and query."""

    plan: Plan
    problem: Problem
    bounds: tuple[ArrayLike, ArrayLike]
    numbers: dict[str, Array]

    def is_final(self, kept: Kept) -> Array:
        """Return where nothing more is tried, `[batch]`."""
        rank = kept.judgement.rank
        is_final = rank == INVALID
        if self.plan.stop_on_success:
            is_final |= rank >= self.problem.success_rank
        return is_final

    def restart(self, keys: Array, images: Array, kept: Kept) -> Kept:
        """Search once from a fresh start; the keys are this restart's own."""
        constants = self._constants(keys, images)
        start = self._start(constants)
        fresh = Kept(start, self._judge(constants, start, jnp.int32(0)))
        is_final = self.is_final(kept)
        begin = jax.tree.map(partial(_where, is_final), kept, fresh)

        def unfinished(state: tuple[Array, Kept]) -> Array:
            number, found = state
            is_active = ~self.is_final(found)
            return (number < self.numbers["num_queries"]) & jnp.any(is_active)

        def block(state: tuple[Array, Kept]) -> tuple[Array, Kept]:
            number, found = state
            return number + _BLOCK, self._block(number, found, constants)

        _, found = jax.lax.while_loop(unfinished, block, (jnp.int32(0), begin))
        return keep_better(kept, found.images, found.judgement, is_final)

    def _block(self, first: Array, kept: Kept, constants: _Constants) -> Kept:
        """Take up to `_BLOCK` queries, from the number `first` on."""
        channels = constants.images.shape[-1]
        # Two corners, an orientation, and a sign for every channel.
        shape = (_BLOCK, 5 + -(-channels // 32))
        keys = fold_each(constants.keys, _WINDOWS + first // _BLOCK)
        words = jax.vmap(lambda key: jax.random.bits(key, shape))(keys)

        def query(
            index: Array, kept: Kept, constants: tuple[_Constants, Array]
        ) -> Kept:
            own, words = constants
            words = jax.lax.dynamic_index_in_dim(words, index, 1, keepdims=False)
            candidates = self._propose(first + index, kept.images, words, own)
            judged = self._judge(own, candidates, first + index + 1)
            return keep_better(kept, candidates, judged, self.is_final(kept))

        return loop_over_survivors(
            query,
            kept,
            (constants, words),
            is_active=lambda kept: ~self.is_final(kept),
            num_steps=jnp.minimum(self.numbers["num_queries"] - first, _BLOCK),
            drop=self.plan.stop_on_success,
        )

    def _constants(self, keys: Array, images: Array) -> _Constants:
        # The door cannot check traced values: they stay in the box.
        epsilon = self.numbers["epsilon"]
        epsilon = jnp.where(epsilon >= 0, jnp.minimum(epsilon, _HUGE), 0.0)
        low, high = (
            projections.project(
                images + sign * projections.per_pixel(epsilon),
                images,
                epsilon=epsilon,
                norm="linf",
                bounds=self.bounds,
            )
            for sign in (-1.0, 1.0)
        )
        return _Constants(
            labels=self.problem.labels,
            targets=self.problem.targets,
            keys=keys,
            images=images,
            epsilon=jnp.broadcast_to(epsilon * (1 - _ROUNDING), len(images)),
            low=low,
            high=high,
        )

    def _start(self, constants: _Constants) -> Array:
        images, keys = constants.images, fold_each(constants.keys, _START)
        _, _, width, channels = images.shape
        if self.plan.norm == "linf":
            signs = _draw_signs(keys, (width, channels))
            return windows.stripes(constants.low, constants.high, signs)
        _, rows, columns = windows.grid_shape(images.shape[1:])
        drawn = _draw_signs(keys, (rows, columns, channels + 1))
        return windows.tiles(
            images,
            jnp.where(drawn[..., 1:], 1.0, -1.0),
            drawn[..., 0],
            epsilon=constants.epsilon,
            order=_ORDERS[self.plan.norm],
            bounds=self.bounds,
        )

    def _propose(
        self, number: Array, current: Array, words: Array, constants: _Constants
    ) -> Array:
        """Draw a candidate for every example from `[batch, words]` random bits."""
        plan, shape = self.plan, current.shape[1:]
        side = windows.side_length(
            number,
            shape,
            initial_fraction=self.numbers["initial_fraction"],
            num_queries=self.numbers["num_queries"] if plan.rescale_schedule else None,
            smallest=_SMALLEST_SIDE[plan.norm],
        )
        # The bias of a remainder of 32 bits is below 1e-6 for any image.
        places = jnp.array(shape[:2], jnp.uint32) - side.astype(jnp.uint32) + 1
        corners = (words[:, :4] % jnp.tile(places, 2)[None, :]).astype(jnp.int32)
        signs = _unpack(words[:, 5:])[:, : shape[2]]
        if plan.norm == "linf":
            return windows.paint(
                current, constants.low, constants.high, corners[:, :2], signs, side
            )
        moves = windows.Moves(
            filled=corners[:, :2],
            emptied=corners[:, 2:],
            signs=jnp.where(signs, 1.0, -1.0),
            transposed=words[:, 4] % 2 == 1,
        )
        return windows.move_mass(
            current,
            constants.images,
            moves,
            side,
            epsilon=constants.epsilon,
            order=_ORDERS[plan.norm],
            bounds=self.bounds,
        )

    def _judge(self, constants: _Constants, images: Array, number: Array) -> Judgement:
        """Run the forward pass of that number, one a candidate."""
        problem = dataclasses.replace(
            self.problem, labels=constants.labels, targets=constants.targets
        )
        keys = fold_each(fold_each(constants.keys, _PASSES), number)
        judged = forward_pass(problem, images, keys)
        # A wrong class that is not the target is no step towards it.
        is_failure = judged.rank < problem.success_rank
        return judged._replace(rank=jnp.where(is_failure, CORRECT, judged.rank))


def _where(mask: Array, yes: Array, no: Array) -> Array:
    return jnp.where(jnp.reshape(mask, (-1, *[1] * (no.ndim - 1))), yes, no)


def _draw_signs(keys: Array, shape: tuple[int, ...]) -> Array:
    """Draw bool `[batch, *shape]`."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, shape=shape))(keys)


def _unpack(words: Array) -> Array:
    """Return the bits of `[batch, words]`, bool `[batch, 32 words]`."""
    shifted = words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None, :]
    return (shifted % 2 == 1).reshape(len(words), -1)
