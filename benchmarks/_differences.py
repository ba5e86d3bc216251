"""How published code differs from ours, as changes of our sources.

The facts are those that the attacks' docstrings state; no line here is anybody else's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import _planting

_APGD = dict(name="apgd", objective="margin")
_SQUARE = dict(name="square", num_queries=1000)


class Setting(NamedTuple):
    """What both versions are asked for."""

    attack: dict[str, Any]
    norm: str
    epsilon: float
    num_images: int


SETTINGS = {
    "apgd, linf": Setting(_APGD, "linf", 0.1, 1000),
    "apgd, l1": Setting(_APGD, "l1", 10.0, 500),
    "square, linf": Setting(_SQUARE, "linf", 0.1, 200),
    "square, l2": Setting(_SQUARE, "l2", 2.0, 200),
}


class Difference(NamedTuple):
    """Our line, and what published code does in its place."""

    name: str
    setting: str
    """A key of `SETTINGS`."""
    path: str
    changes: tuple[tuple[str, str], ...]
    """What is replaced, each once in the file, and by what."""


_AUTO_STEP = "mmc_jax/attacks/auto_step.py"
_SPARSE_STEP = "mmc_jax/attacks/sparse_step.py"
_RANDOM_SEARCH = "mmc_jax/attacks/random_search.py"
_SHARED = (
    (
        "corners = (words[:, :4] % jnp.tile(places, 2)[None, :]).astype(jnp.int32)\n",
        "words = jnp.broadcast_to(words[:1], words.shape)\n"
        "        corners = (words[:, :4] % jnp.tile(places, 2)).astype(jnp.int32)\n",
    ),
)
_BORDER = (
    (
        "- side.astype(jnp.uint32) + 1\n",
        "- side.astype(jnp.uint32)\n        places = jnp.maximum(places, 1)\n",
    ),
)
DIFFERENCES = (
    Difference(
        "decides one step earlier",
        "apgd, linf",
        _AUTO_STEP,
        (
            ("jnp.any(step - 1 == marks[1:])", "jnp.any(step == marks[1:])"),
            (
                "step - 1 - jnp.max(jnp.where(marks < step - 1, marks, 0))",
                "step - jnp.max(jnp.where(marks < step, marks, 0))",
            ),
        ),
    ),
    Difference(
        "compares what was judged, not the iterates as they stand",
        "apgd, linf",
        _AUTO_STEP,
        (("    objective = jnp.where(halve, best_objective, objective)\n", ""),),
    ),
    Difference(
        "reads a comparison too many at the first checkpoint",
        "apgd, linf",
        _AUTO_STEP,
        (
            (
                "decreased = (objective < state.objective) & (step > 0)",
                "decreased = objective < state.objective",
            ),
        ),
    ),
    Difference(
        "checkpoints are apart by the length of each part",
        "apgd, l1",
        _SPARSE_STEP,
        (
            (
                "every = jnp.maximum((4 * num_steps + 99) // 100, 1)",
                "ends = jnp.append(starts[1:], num_steps)\n"
                "    length = jnp.min(jnp.where(ends > step, ends, num_steps))\n"
                "    length -= jnp.max(jnp.where(starts <= step, starts, 0))\n"
                "    every = jnp.maximum((4 * length + 99) // 100, 1)",
            ),
        ),
    ),
    Difference(
        "a sparsity that grew counts as the same",
        "apgd, l1",
        _SPARSE_STEP,
        (
            (
                "(sparsity >= _SAME_SPARSITY * state.sparsity)"
                " & (sparsity <= state.sparsity)",
                "sparsity >= _SAME_SPARSITY * state.sparsity",
            ),
        ),
    ),
    Difference(
        "windows and signs are shared by the batch",
        "square, linf",
        _RANDOM_SEARCH,
        _SHARED,
    ),
    Difference(
        "windows miss the last row and column", "square, linf", _RANDOM_SEARCH, _BORDER
    ),
    Difference(
        "windows and signs are shared by the batch",
        "square, l2",
        _RANDOM_SEARCH,
        _SHARED,
    ),
    Difference(
        "windows have odd sides",
        "square, l2",
        _RANDOM_SEARCH,
        (
            (
                "            smallest=_SMALLEST_SIDE[plan.norm],\n        )\n",
                "            smallest=_SMALLEST_SIDE[plan.norm],\n        )\n"
                "        side = jnp.minimum(side // 2 * 2 + 1, min(shape[:2]))\n",
            ),
        ),
    ),
)


def planted(difference: Difference, text: str) -> str:
    """Return a file's text with the difference in it.

    Args:
      difference: what to plant.
      text: of the file at `difference.path`.

    Returns:
      The text with all its changes.

    Raises:
      ValueError: if what one replaces does not occur exactly once any more.
    """
    for old, new in difference.changes:
        text = _planting.plant(difference.name, difference.path, text, old, new)
    return text
