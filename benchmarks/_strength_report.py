"""The page of `strength.py`: what its cells say, paired image by image.

Sections that have nothing to say are left out; `-` stands for what is not there yet.
"""

from __future__ import annotations

import pathlib
import textwrap
from typing import Any

import _mnist_models
import _strength_cells as cells
import _strength_singles as singles
from _paired import Table, markdown, pair, percent, read_table

from mmc_jax.metrics import wilson_interval

_AUTO_ATTACK_BAR = 0.2


def write(out: pathlib.Path) -> str:
    """Return the page in Markdown, from every cell that lies under `out`."""
    table = read_table(out)
    sections = [
        _introduction(table),
        _auto_attack(table),
        _parts(table),
        _multi_targeted(table),
        singles.bounded(table),
        singles.random(table),
        singles.distances(table),
        _progress(out),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(table: Table) -> str:
    pieces = [p for cell in _all(table) for p in cell["pieces"]]
    versions: dict[str, set[str]] = {}
    for piece in pieces:
        for name, version in piece["versions"].items():
            versions.setdefault(name, set()).add(version)
    revisions = versions.pop("git_revision", set())
    versions.pop("source_sha256", None)
    used = ", ".join(f"{n} {' and '.join(sorted(v))}" for n, v in versions.items())
    used = f"{used}; {len(revisions)} revisions of this repository."
    lines = [
        "# Strength",
        "",
        "Made by `benchmarks/strength.py` from the cells beside it, which hold",
        "outcomes image by image, distances, settings, seeds and seconds. Models of",
        "`results/mnist`, the first MNIST test images, the same weights on both sides.",
        "Accuracies in percent under the attack: lower is stronger. `torchattacks` as",
        "AutoAttack is built from its parts with the published parameters. `n` is",
        "images that both sides have; differences are ours minus theirs, in points.",
        "",
        *textwrap.wrap(f"Versions: {used}", 88),
    ]
    others = sum(piece.get("disagreements", 0) for piece in pieces)
    lines.append(f"Verdicts on peers' images in which JAX and torch differ: {others}.")
    return "\n".join(lines)


def _progress(out: pathlib.Path) -> str:
    """Say how much of what was planned is there."""
    done: dict[tuple[str, str], dict[str, list[bool]]] = {}
    models = _mnist_models.names()
    for piece in cells.plan(models, [cells.OURS, "torchattacks", "foolbox", "art"]):
        cell = piece.cell
        row = done.setdefault((cell.row, cell.implementation), {})
        row.setdefault(cell.model, []).append(cells.is_done(piece, out))
    rows = [
        [*place, *(f"{sum(row[model])} of {len(row[model])}" for model in models)]
        for place, row in done.items()
    ]
    text = "Pieces of up to 200 images with one seed that are stored, of those planned."
    title = "## What is missing"
    return f"{title}\n\n{text}\n\n{markdown(['attack', 'of', *models], rows)}"


def _all(table: Table) -> list[dict[str, Any]]:
    return [cell for group in table.values() for cell in group.values()]


def _auto_attack(table: Table) -> str:
    rows = []
    for (model, row, threat), group in table.items():
        if row != cells.AUTO_ATTACK or "torchattacks" not in group:
            continue
        found = pair(group.get(cells.OURS), group["torchattacks"])
        low, high = wilson_interval(int(found["theirs"].sum()), found["n"])
        text, verdict = "-", ""
        if "difference" in found:
            text = f"{found['difference']:+.1f}"
            # Of 200 images one is half a point: there the interval decides.
            fine = found["difference"] <= _AUTO_ATTACK_BAR or (
                found["n"] < 1000 and found["ours"].mean() <= high
            )
            verdict = "met" if fine else "MISSED"
        rows.append(
            [
                model,
                threat,
                str(found["n"]),
                percent(found["ours"]),
                f"{percent(found['theirs'])} [{100 * low:.1f}, {100 * high:.1f}]",
                text,
                verdict,
            ]
        )
    if not rows:
        return ""
    header = ["model", "threat", "n", "mmc_jax", "torchattacks [95 %]", "diff.", "bar"]
    text = f"At most {_AUTO_ATTACK_BAR} points above; on 200 images, in the interval."
    return f"## AutoAttack, standard\n\n{text}\n\n{markdown(header, rows)}"


def _parts(table: Table) -> str:
    rows = []
    for (model, row, threat), group in table.items():
        if row == cells.AUTO_ATTACK:
            for implementation, cell in group.items():
                pieces = [piece for piece in cell["pieces"] if piece["seed"] == 0]
                line = [model, threat, implementation, str(len(pieces))]
                for name in cells.AUTO_ATTACK_ROWS:
                    parts = [piece["parts"][name] for piece in pieces]
                    broken, attacked, seconds = (
                        sum(part[key] for part in parts)
                        for key in ("broken", "attacked", "seconds")
                    )
                    line.append(f"{broken} of {attacked}, {seconds:.0f} s")
                rows.append(line)
    if not rows:
        return ""
    header = ["model", "threat", "of", "pieces", *cells.AUTO_ATTACK_ROWS]
    text = (
        "Seconds are those of a busy machine, verdicts and compilation included. Where"
        "\nSquare, which asks for no gradient, breaks what the others left, their"
        " gradients\nmislead, or they are too weak: robustness is then less than it"
        " looks."
    )
    title = "## What each part of AutoAttack broke, of what was left"
    return f"{title}\n\n{text}\n\n{markdown(header, rows)}"


def _multi_targeted(table: Table) -> str:
    rows = []
    for (model, row, threat), group in table.items():
        if row != "multi_targeted" or cells.OURS not in group:
            continue
        ours = group[cells.OURS]
        auto = table.get((model, cells.AUTO_ATTACK, threat), {})
        for implementation, other in auto.items():
            found = pair(ours, other)
            union = found["ours"] & found["theirs"]
            rows.append(
                [
                    model,
                    threat,
                    implementation,
                    str(found["n"]),
                    percent(found["ours"]),
                    percent(found["theirs"]),
                    percent(union),
                ]
            )
    if not rows:
        return ""
    header = ["model", "threat", "AutoAttack of", "n", "alone", "AutoAttack", "both"]
    return f"## multi_targeted beside AutoAttack, seed 0\n\n{markdown(header, rows)}"
