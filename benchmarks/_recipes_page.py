"""`adversarial_recipes.py`'s choice of recipes, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import _paired
import numpy as np
from scipy import stats

from mmc_jax import diagnostics
from mmc_jax.evaluate.outcome import from_bits

Cell = Mapping[str, Any]


def best(cells: Sequence[Cell]) -> dict[str, str]:
    """Return, by loss, the candidate that keeps most validation images.

    Args:
      cells: of candidates and final models, in any order.

    Returns:
      Loss -> name of the candidate; of equals the first by name.
    """
    found: dict[str, Cell] = {}
    for cell in sorted(_of(cells, is_final=False), key=lambda c: c["name"]):
        kept = found.get(cell["loss"])
        if kept is None or _count(cell) > _count(kept):
            found[cell["loss"]] = cell
    return {loss: cell["name"] for loss, cell in found.items()}


def render(cells: Sequence[Cell], names: Sequence[str]) -> str:
    """Return the page.

    Args:
      cells: of candidates and final models, in any order.
      names: of all candidates, in the order of the table.

    Returns:
      Markdown.
    """
    candidates = {cell["name"]: cell for cell in _of(cells, is_final=False)}
    missing = [name for name in names if name not in candidates]
    lines = [_ABOUT, _search([candidates[n] for n in names if n in candidates])]
    if missing:
        lines.append(f"Missing: {', '.join(missing)}.")
    final = sorted(_of(cells, is_final=True), key=_count, reverse=True)
    if final:
        findings = [f"- {text}" for cell in final for text in _distrusted(cell)]
        lines += [_FINAL, _finals(final), "\n".join(findings), *_compared(final)]
    return "\n\n".join(line for line in lines if line) + "\n"


_ABOUT = """# Recipes of adversarial training

Made by `benchmarks/adversarial_recipes.py` from the cells beside it, which hold
configs, seeds, versions and outcomes image by image. MNIST, linf 0.3, seed 0.

## The search, on validation images

Short trainings (15,000 images, 6 epochs), each different from its loss's own recipe
in one thing. Accuracy in % on 1,000 validation images; `worst case` is what
multi_targeted, of 20 steps, leaves after the other attacks. The difference to the
loss's recipe as it is, in points, is paired image by image (McNemar's p, adjusted by
Holm over the candidates of the loss); how far trainings differ among themselves is not
in it. Trainings this short are far from their end, and
favour what learns fast. MMC has nine candidates and softmax five: the search is wider
where the question is."""

_FINAL = """## The best of each loss, at length, on test images

The whole training set and schedule of `configs/mnist.py`. `after` is the share of test
images that are still right after each attack in turn: AutoAttack, then multi_targeted.
95 % intervals over images. Below it, what the diagnostics distrust."""


def _of(cells: Sequence[Cell], *, is_final: bool) -> list[Cell]:
    return [cell for cell in cells if cell["is_final"] == is_final]


def _count(cell: Cell) -> int:
    return cell["worst_case"]["count"]


def _robust(cell: Cell) -> np.ndarray:
    return from_bits(cell["per_example"]["worst_case"])


def _search(cells: Sequence[Cell]) -> str:
    """Return the candidates beside their loss's recipe as it is."""
    chosen = best(cells)
    base = {c["loss"]: c for c in cells if c["name"] == f"{c['loss']}: as it is"}
    p_values: dict[str, float] = {}
    for loss, reference in base.items():
        others = [c for c in cells if c["loss"] == loss and c is not reference]
        raw = [_paired.mcnemar(_robust(c), _robust(reference)) for c in others]
        adjusted = _paired.holm(raw)
        p_values |= {c["name"]: p for c, p in zip(others, adjusted, strict=True)}
    rows = []
    for cell in cells:
        row, name = _row(cell), cell["name"]
        if name in chosen.values():
            row[0] = f"**{name}**"
        if name in p_values:
            difference = _count(cell) - _count(base[cell["loss"]])
            share = 100 * difference / cell["num_examples"]
            row += [f"{share:+.1f}", f"{p_values[name]:.3f}"]
        else:
            row += ["", ""]
        rows.append(row)
    return _paired.markdown([*_header(cells[:1]), "difference", "p"], rows)


def _finals(cells: Sequence[Cell]) -> str:
    return _paired.markdown(_header(cells[:1]), [_row(cell) for cell in cells])


def _distrusted(cell: Cell) -> list[str]:
    """Return what the diagnostics say of a final model.

    Whether Square is stronger than what came before it is told from the outcomes: the
    first of these cells are older than that finding in a cascade which goes on.
    """
    rows = cell["per_example"]["rows"]
    bits = {
        name: {k: from_bits(v) for k, v in row.items()} for name, row in rows.items()
    }
    square = bits["square"]
    left = {
        name: bits[name]["attacked"] & bits[name]["correct"]
        for name in [*bits][: [*bits].index("square")]
    }
    broken = {"square": square["attacked"] & ~square["correct"]}
    found = {
        (finding.row, finding.name): finding.message
        for finding in diagnostics.find_stronger_black_box(left, broken)
    }
    found |= {(f["row"], f["name"]): f["message"] for f in cell["findings"]}
    return [
        f"{name}: {cell['name']}, {row}: {text}" for (row, name), text in found.items()
    ]


def _header(cells: Sequence[Cell]) -> list[str]:
    attacks = [f"after {name}" for cell in cells for name in [*cell["rows"]][:-1]]
    return ["recipe", "clean", *attacks, "worst case"]


def _row(cell: Cell) -> list[str]:
    """Return what is left without attack, after each but the last, and after all."""
    earlier = [*cell["rows"].values()][:-1]
    left = [f"{100 * row['running_accuracy']['value']:.1f}" for row in earlier]
    return [cell["name"], _share(cell["clean"]), *left, _share(cell["worst_case"])]


def _compared(cells: Sequence[Cell]) -> list[str]:
    """Return a sentence on the two losses, if both are there."""
    if len(cells) != 2:
        return []
    first, second = cells
    ours, theirs = _robust(first), _robust(second)
    difference = ours.astype(float) - theirs
    half = stats.norm.ppf(0.975) * difference.std(ddof=1) / np.sqrt(len(difference))
    return [
        f"{first['name']} keeps {100 * difference.mean():.1f} points more than"
        f" {second['name']}: 95 % interval"
        f" [{100 * (difference.mean() - half):.1f},"
        f" {100 * (difference.mean() + half):.1f}], paired over"
        f" {len(difference)} images; {int((ours & ~theirs).sum())} images only the"
        f" first keeps, {int((theirs & ~ours).sum())} only the second (McNemar's p"
        f" {_paired.mcnemar(ours, theirs):.3f}). One training of each: how far"
        " trainings differ among themselves is not in the interval."
    ]


def _share(share: Mapping[str, Any]) -> str:
    low, high = share["interval_95"]
    return f"{100 * share['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
