r"""Recipes: what a step trains on, as one loss of clean and attacked images.

| recipe | loss of an example | centers that follow features follow those of |
|---|---|---|
| `standard` | `r loss(x) + (1 - r) loss(x*)`, r the clean weight | x* |
| `trades` | `loss(x) + weight KL(p(x) \|\| p(x*))` | x |
| `mart` | `loss(x*)` + margin + `weight KL (1 - p_y(x))` | x* |

`loss` is whatever loss is trained, and centers follow the images that it is taken on.
x* is the clean image itself where there is no attack. To add a recipe: write how it
combines the outputs, and its row in `RECIPES`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping

from mmc_jax.losses import mart_loss, trades_loss
from mmc_jax.losses.rows import check_number
from mmc_jax.types import Array, LossFn, ModelOutput, Variables

KINDS = ("clean", "adversarial")
"""The two images that a step has of an example."""

Combine = Callable[[LossFn, Mapping[str, ModelOutput], Array, Variables], Array]
"""(loss_fn, kind -> output, labels `[batch]`, variables) -> loss `[batch]`."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step trains on."""

    combine: Combine
    reads: tuple[str, ...] = ("adversarial",)
    """Of `KINDS`, those whose outputs `combine` reads: a pass in training mode each."""
    centers_from: str = "adversarial"
    """Of `KINDS`, whose features a loss's own rule moves the centers to."""
    statistics_from: str = "adversarial"
    """Of `KINDS`, which images move the running statistics. One that is not read takes
    a pass of its own, without a gradient."""

    @property
    def passes(self) -> tuple[str, ...]:
        """The kinds of images that take a pass, in the order of `KINDS`."""
        wanted = {*self.reads, self.statistics_from}
        return tuple(kind for kind in KINDS if kind in wanted)


def make_recipe(
    name: str, *, statistics_from: str = "adversarial", **hyperparameters: float
) -> Recipe:
    """Return the named recipe.

    Args:
      name: a key of `RECIPES`.
      statistics_from: one of `KINDS`, which images move the running statistics.
      **hyperparameters: `clean_weight` in [0, 1) of standard training, `weight` >= 0
        and `temperature` > 0 of TRADES and MART; each has a default.

    Returns:
      The recipe.

    Raises:
      ValueError: if a name, a hyperparameter or a value is not accepted.
    """
    if name not in RECIPES:
        raise ValueError(
            f"unknown recipe {name!r}; known recipes: {', '.join(RECIPES)}"
        )
    if statistics_from not in KINDS:
        raise ValueError(
            f"statistics_from must be one of {KINDS}, got {statistics_from!r}"
        )
    known = inspect.signature(RECIPES[name]).parameters
    for given in hyperparameters:
        if given not in known:
            raise ValueError(
                f"recipe {name!r} has no hyperparameter {given!r}; accepted:"
                f" {', '.join(known)}"
            )
    recipe = RECIPES[name](**hyperparameters)
    return dataclasses.replace(recipe, statistics_from=statistics_from)


def _make_standard(*, clean_weight: float = 0.0) -> Recipe:
    check_number("clean_weight", clean_weight, positive=False)
    if clean_weight >= 1:
        raise ValueError(f"clean_weight must be in [0, 1), got {clean_weight!r}")

    def combine(loss_fn, outputs, labels, variables):
        adv_losses = loss_fn(outputs["adversarial"], labels, variables)
        if not clean_weight:
            return adv_losses
        clean_losses = loss_fn(outputs["clean"], labels, variables)
        return clean_weight * clean_losses + (1 - clean_weight) * adv_losses

    return Recipe(combine, reads=KINDS if clean_weight else ("adversarial",))


def _make_trades(*, weight: float = 6.0, temperature: float = 1.0) -> Recipe:
    _check_comparison(weight, temperature)

    def combine(loss_fn, outputs, labels, variables):
        return trades_loss(
            loss_fn(outputs["clean"], labels, variables),
            outputs["clean"].logits,
            outputs["adversarial"].logits,
            weight=weight,
            temperature=temperature,
        )

    return Recipe(combine, reads=KINDS, centers_from="clean")


def _make_mart(*, weight: float = 5.0, temperature: float = 1.0) -> Recipe:
    _check_comparison(weight, temperature)

    def combine(loss_fn, outputs, labels, variables):
        return mart_loss(
            loss_fn(outputs["adversarial"], labels, variables),
            outputs["clean"].logits,
            outputs["adversarial"].logits,
            labels,
            weight=weight,
            temperature=temperature,
        )

    return Recipe(combine, reads=KINDS)


def _check_comparison(weight: float, temperature: float) -> None:
    check_number("weight", weight, positive=False)
    check_number("temperature", temperature)


RECIPES: dict[str, Callable[..., Recipe]] = {
    "standard": _make_standard,
    "trades": _make_trades,
    "mart": _make_mart,
}
"""Every recipe that a config may name: its hyperparameters -> the recipe."""

STANDARD = make_recipe("standard")
