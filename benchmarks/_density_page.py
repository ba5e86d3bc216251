"""The figure and the page of `density.py`."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from mmc_jax.report import style, tables

_SPACES = {"all": "all 256 dimensions", "logits": "the 9 that the logits read"}


def draw(record: dict[str, Any], path: pathlib.Path) -> None:
    """Draw shares over radius, and Theorem 2 beside what was counted."""
    with style.drawing(path, (10.0, 7.2), rows=2, columns=2) as (_, axes):
        for panel, (space, title) in zip(axes[:2], _SPACES.items(), strict=True):
            _draw_shares(panel, record, space)
            panel.set_title(f"Samples around their class's mean,\n{title}")
        for panel, (space, title) in zip(axes[2:], _SPACES.items(), strict=True):
            _draw_theorem(panel, record["models"]["mmc_0"]["theorem_2"][space])
            panel.set_title(f"Density around the preset centers, mmc_0,\n{title}")


def _draw_shares(axes: Any, record: dict[str, Any], space: str) -> None:
    found = {name: model["spaces"][space] for name, model in record["models"].items()}
    for name, spread, kind in style.with_styles(found):
        shares = [100 * float(share) for share in spread["radii"]]
        middle, low, high = np.array(list(spread["radii"].values())).T
        axes.plot(middle, shares, label=name, **kind)
        axes.fill_betweenx(shares, low, high, color=kind["color"], alpha=0.25)
    axes.axvline(1.0, color=style.GREY, linewidth=1)
    axes.set(
        xlabel="radius / half the distance of the closest two means (log scale)",
        ylabel="share of the samples within (%)",
        xscale="log",
        ylim=(0, 100),
    )
    axes.legend(loc="upper left", fontsize=8)


def _draw_theorem(axes: Any, found: dict[str, Any]) -> None:
    edges = np.array(found["edges"])
    middles = np.sqrt(edges[:-1] * edges[1:])
    value, low, high = (np.array(bound) for bound in found["measured"])
    blue, red, green = style.LINE_COLORS[:3]
    some = np.isfinite(value)
    errors = (value - low)[some], (high - value)[some]
    axes.plot(middles, found["predicted"]["exact"], color=blue, label="exact theorem")
    axes.plot(
        middles,
        found["predicted"]["printed"],
        "--",
        color=red,
        label="theorem as printed, shifted to fit",
    )
    axes.errorbar(
        middles[some], value[some], errors, fmt="k_", label="counted in shells"
    )
    for name, marker, color in (("samples", "o", green), ("evenly_spread", "x", "k")):
        label = {
            "samples": "by nearest neighbours",
            "evenly_spread": "the same, directions drawn evenly",
        }[name]
        axes.plot(middles, found["neighbours"][name], marker, color=color, label=label)
    axes.set(
        xlabel="MMC loss (log scale)",
        ylabel="log of samples of a class per volume",
        xscale="log",
    )
    axes.legend(loc="lower left", fontsize=8)


def page(record: dict[str, Any]) -> str:
    """Return the page in Markdown: what was measured, and what it shows."""
    models = record["models"]
    mmc, softmax = models["mmc_0"], models["softmax_0"]
    half = {
        (name, space): model["spaces"][space]["radii"]["0.5"][0]
        for name, model in models.items()
        for space in _SPACES
    }
    numbers = {
        "num_images": record["num_images"],
        "closer": half["softmax_0", "all"] / half["mmc_0", "all"],
        "closer_in_logits": half["softmax_0", "logits"] / half["mmc_0", "logits"],
        "wider": half["mmlda_0", "logits"] / half["softmax_0", "logits"],
        "outside": _length(models, "all") / _length(models, "logits"),
        "mmc_tie": _way_to_tie(mmc),
        "softmax_tie": _way_to_tie(softmax),
        "pair": softmax["pairs"]["count_seen_by_an_example"],
        "pair_nats": np.log(1000 / softmax["pairs"]["count_seen_by_an_example"]),
        "denser": _log_density(mmc) - _log_density(softmax),
    }
    texts = (_INTRODUCTION, _THEOREM, _VERDICT)
    tables = {"spreads": _spreads(models), "theorem": _theorems(models)}
    return "\n\n".join(texts).format(**numbers, **tables) + "\n"


_INTRODUCTION = """# Does MMC gather samples?

Made by `benchmarks/density.py`; density.json holds the numbers, seed, versions and
command. Features of the {num_images:,} MNIST test images, one trained model of each
kind (seed 0). Intervals are 95 % over images; they say nothing of other seeds. The
paper's density is that of training images.

![Shares over radius, and Theorem 2](density.png)

Lengths are in units of half the distance between the closest two class means, since a
network may scale its features at will. Densities are natural logarithms of samples of
one class per volume of that unit: around the class's mean, in the ball with half of
the samples, and around each sample by its 5 nearest neighbours of the class. `way to
tie` is the median distance to the plane where the logits of label and rival are equal,
over the radius that holds half of the samples, in the dimensions that the logits read.

{spreads}"""

_THEOREM = """## Theorem 2

Around the preset centers, by shells of the MMC loss. The rates N_k p_k(C) come from one
half of the images, the counts from the other. `exact` has the shell's volume, `printed`
its surface alone, with a constant that fits the fullest shell. `clumping`, in nats: the
median over the shells of the density by neighbours, less the same after every sample
was given a random direction, its loss unchanged.

{theorem}"""

_VERDICT = """## What it shows

- **MMC gathers samples.** Half of them lie {closer:.1f} times closer to their mean than
  with softmax in all 256 dimensions, {closer_in_logits:.1f} times in the 9 that
  softmax's loss constrains too. In those 9 the density is e^{denser:.0f} times as high.
  The tie with the rival is {mmc_tie:.1f} half-radii away, with softmax
  {softmax_tie:.1f}. A few samples stay far out.
- **The centers alone gather nothing.** MMLDA has MMC's centers and softmax's loss: half
  of its samples lie {wider:.1f} times as far out as softmax's in the 9 dimensions, and
  in all 256 another {outside:.0f} times as far (in one unit), along a direction that
  no logit reads and nothing holds back. It is the squared distance in MMC's loss that
  gathers.
- **In 256 dimensions a density says little.** MMC's features all but lie in the 9
  dimensions of the centers (the radii are the same in both), so their volume in 256 is
  that of a nearly flat set, and its logarithm is mostly 256 times that of a length.
- **Theorem 1 does not predict softmax's density.** Equal scales make its contours
  hyperplanes, and the shell between two of them has no finite volume: the predicted
  density is 0 for any data. What is finite here is measured in balls. The same holds
  for MMLDA. Theorem 1 itself is tested on synthetic features (tests/density_test.py);
  no model with unequal scales is measured here.
- **The paper's factor, N_k against N_(k,k~), hardly matters.** With softmax an image
  shares its label and rival with {pair:.0f} images on average, not with the 100 of
  N / L^2, out of some 1,000 of its class: {pair_nats:.1f} nats of the {denser:.0f}.
- **Theorem 2 is bookkeeping, once exact.** With the true volume it restates a count,
  and agrees with counts of held-out images. As printed it drifts by half a log C. Most
  of the fall of density with the loss is the volume's power of C, whatever the data.
- **Samples do not spread evenly over their shells**, as they would have to for the
  theorem to tell the density at a sample. Neighbours find them far denser: features
  that miss their center do so in company, in few directions. In 256 dimensions that
  estimate is badly biased; the evenly spread copies, of equal losses and number, show
  by how much.
- **Density is not robustness.** Under the strongest attacks plain MMC is no more robust
  than softmax (results/reproduce/README.md). The adversarially trained model is, and is
  less dense than the plain one."""


def _length(models: dict[str, Any], space: str) -> float:
    """Return how far half of MMLDA's samples lie, in units of the features."""
    spread = models["mmlda_0"]["spaces"][space]
    return spread["unit"] * spread["radii"]["0.5"][0]


def _log_density(model: dict[str, Any]) -> float:
    return model["spaces"]["logits"]["log_density_of_half"][0]


def _way_to_tie(model: dict[str, Any]) -> float:
    spread = model["spaces"]["logits"]
    half = spread["unit"] * spread["radii"]["0.5"][0]
    return model["pairs"]["distance_to_tie"][0] / half


def _spreads(models: dict[str, Any]) -> str:
    header = "model, dimensions, half within, 99 % within, log density of that half"
    header += ", by neighbours (median), effective dimensions, way to tie"
    rows = []
    for name, model in models.items():
        for space, spread in model["spaces"].items():
            rows.append(
                [
                    name,
                    str(spread["feature_dim"]),
                    _interval(spread["radii"]["0.5"], 3),
                    _interval(spread["radii"]["0.99"], 2),
                    _interval(spread["log_density_of_half"], 1),
                    _interval(spread["log_density_of_neighbours"], 1),
                    f"{spread['effective_dimensions']:.1f}",
                    f"{_way_to_tie(model):.1f}" if space == "logits" else "",
                ]
            )
    return "\n".join(tables.grid(header.split(", "), [rows], "markdown"))


def _theorems(models: dict[str, Any]) -> str:
    header = "model, dimensions, log density from, to, largest error of exact"
    header += ", shells whose interval holds it, largest error of printed, clumping"
    rows = []
    for name, model in models.items():
        for space, found in model.get("theorem_2", {}).items():
            value, low, high = (np.array(bound) for bound in found["measured"])
            exact, printed = (
                np.array(found["predicted"][form]) for form in ("exact", "printed")
            )
            held = np.sum((low <= exact) & (exact <= high))
            samples, even = (np.array(row) for row in found["neighbours"].values())
            rows.append(
                [
                    name,
                    str(model["spaces"][space]["feature_dim"]),
                    f"{value[0]:.1f}",
                    f"{value[-1]:.1f}",
                    f"{np.abs(value - exact).max():.2f}",
                    f"{held} of {len(value)}",
                    f"{np.abs(value - printed).max():.2f}",
                    f"{np.median(samples - even):.1f}",
                ]
            )
    return "\n".join(tables.grid(header.split(", "), [rows], "markdown"))


def _interval(bounds: Any, digits: int) -> str:
    value, low, high = (f"{bound:.{digits}f}" for bound in bounds)
    return f"{value} [{low}, {high}]"
