"""What `strength.py` computes, in which order, and where it is stored.

A cell is a model, a row (an attack), a threat model and an implementation. It is filled
a piece at a time: a seed and up to 200 images, which the attack gets as one batch. One
JSON file holds a cell, rewritten after every piece.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import _mnist_models
import _peer_attacks

PIECE = 200
SLOW_PIECE = 50
"""For rows that take minutes for so few."""
SEEDS = (0, 1, 2, 3, 4)
"""Fixed before the first run. Attacks with random starts are unions over them."""
OURS = "mmc_jax"
AUTO_ATTACK = "auto_attack"


@dataclasses.dataclass(frozen=True)
class Row:
    """An attack, and how it is compared."""

    ours: dict[str, Any]
    """As `robust_accuracy` takes it, but for `auto_attack`, which is a cascade."""
    kind: str
    """`deterministic`, `random` (union of seeds) or `distance` (smallest norm)."""
    norm: str = "linf"
    num_images: int = 1000
    piece: int = PIECE


_SEARCH = dict(num_binary_search_steps=9, initial_const=0.01, num_steps=1000)
_SLOW = (200, SLOW_PIECE)
_ITERATED = dict(step_size=0.01, num_steps=40)

# Cheapest first: that is the order in which they are run.
ROWS: dict[str, Row] = {
    "fgsm": Row(dict(name="fgsm"), "deterministic"),
    "bim": Row(dict(name="bim", **_ITERATED), "deterministic"),
    "mim": Row(dict(name="mim", **_ITERATED), "deterministic"),
    "pgd": Row(dict(name="pgd", **_ITERATED), "random"),
    "apgd-cross_entropy": Row(dict(name="apgd", objective="cross_entropy"), "random"),
    "apgd-dlr": Row(dict(name="apgd", objective="dlr"), "random"),
    "apgd_targeted": Row(dict(name="apgd_targeted"), "random"),
    "multi_targeted": Row(dict(name="multi_targeted"), "random"),
    "deep_fool-linf": Row(dict(name="deep_fool", norm="linf"), "distance"),
    "deep_fool-l2": Row(dict(name="deep_fool", norm="l2"), "distance", "l2"),
    "fab_targeted": Row(dict(name="fab_targeted", norm="linf"), "distance"),
    "square": Row(dict(name="square"), "random"),
    "carlini_wagner": Row(
        dict(name="carlini_wagner", learning_rate=0.01, **_SEARCH),
        "distance",
        "l2",
        *_SLOW,
    ),
    "elastic_net-en": Row(
        dict(name="elastic_net", decision_rule="en", learning_rate=0.01, **_SEARCH),
        "distance",
        "elastic",
        *_SLOW,
    ),
    "elastic_net-l1": Row(
        dict(name="elastic_net", decision_rule="l1", learning_rate=0.01, **_SEARCH),
        "distance",
        "l1",
        *_SLOW,
    ),
    "spsa": Row(
        dict(name="spsa", num_steps=20, num_samples=128), "random", "linf", *_SLOW
    ),
    "fab": Row(dict(name="fab", norm="linf"), "distance", "linf", *_SLOW),
}
"""Row -> what is compared; peers of the same name in `_peer_attacks.PEER_ATTACKS`."""

AUTO_ATTACK_ROWS: dict[str, dict[str, Any]] = {
    "apgd-cross_entropy": dict(name="apgd", objective="cross_entropy"),
    "apgd_targeted": dict(name="apgd_targeted"),
    "fab_targeted": dict(name="fab_targeted"),
    "square": dict(name="square"),
}
"""Our AutoAttack, standard: the same cascade as `_peer_attacks.AUTO_ATTACK`."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One file of results."""

    model: str
    row: str
    norm: str
    epsilon: float | None
    """The radius; None where the smallest distance is looked for."""
    implementation: str
    num_images: int

    @property
    def threat(self) -> str:
        """`linf_0.1`, or `l2` where no radius is given."""
        return self.norm if self.epsilon is None else f"{self.norm}_{self.epsilon}"

    @property
    def piece(self) -> int:
        """How many images are attacked at once."""
        if self.row in ROWS:
            return ROWS[self.row].piece
        # Most images live to the last query.
        return SLOW_PIECE if _mnist_models.is_adversarial(self.model) else PIECE

    def path(self, out: pathlib.Path) -> pathlib.Path:
        """Return where the cell is stored."""
        name = f"{self.row}__{self.threat}__{self.implementation}.json"
        return out / self.model / name


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is computed at once: some images of a cell, with one seed."""

    cell: Cell
    seed: int
    first: int

    @property
    def last(self) -> int:
        """One past the last image."""
        return min(self.first + self.cell.piece, self.cell.num_images)


def read(cell: Cell, out: pathlib.Path) -> dict[str, Any]:
    """Return what a cell holds so far: itself, and its pieces in no order."""
    path = cell.path(out)
    if path.exists():
        return json.loads(path.read_text())
    return {**dataclasses.asdict(cell), "pieces": []}


def is_done(piece: Piece, out: pathlib.Path) -> bool:
    """Tell whether a piece's images are stored, in this piece or in a larger one."""
    return any(
        found["seed"] == piece.seed
        and found["first"] <= piece.first
        and piece.last <= found["last"]
        for found in read(piece.cell, out)["pieces"]
    )


def store(piece: Piece, found: dict[str, Any], out: pathlib.Path) -> None:
    """Add a piece to its cell's file, which is never seen half written."""
    content = read(piece.cell, out)
    place = {"seed": piece.seed, "first": piece.first, "last": piece.last}
    content["pieces"].append(place | found)
    path = piece.cell.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content) + "\n")
    partial.replace(path)


def plan(models: list[str], implementations: list[str]) -> Iterator[Piece]:
    """Yield every piece, the most important and cheapest first, seed 0 of all first.

    AutoAttack at the models' own radius: its first images, then all; the single
    attacks; AutoAttack in the other threat models; what is slow; the other seeds.
    """

    def pieces(found: list[Cell], seeds: tuple[int, ...]) -> Iterator[Piece]:
        for seed in seeds:
            for cell in found:
                if cell.implementation in implementations:
                    for first in range(0, cell.num_images, cell.piece):
                        yield Piece(cell, seed, first)

    own, others, last = _auto_attack_cells(models)
    plain = [cell for cell in own if not _mnist_models.is_adversarial(cell.model)]
    first = [piece for piece in pieces(plain, (0,)) if piece.first == 0]
    yield from first
    yield from (piece for piece in pieces(own, (0,)) if piece not in first)
    rows = {name: _row_cells(models, name) for name in ROWS}
    slow = [name for name, row in ROWS.items() if row.piece == SLOW_PIECE]
    for name in ROWS:
        if name not in slow:
            yield from pieces(rows[name], (0,))
    yield from pieces(others, (0,))
    for name in slow:
        yield from pieces(rows[name], (0,))
    yield from pieces(last, (0,))
    for name, row in ROWS.items():
        if row.kind == "random":
            yield from pieces(rows[name], SEEDS[1:])


def _auto_attack_cells(models: list[str]) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """Return AutoAttack's cells: at the models' own radius, the others, the dearest."""
    own, others, last = [], [], []
    for model in models:
        own += _auto_cells(model, "linf", _mnist_models.radius(model))
    for norm, epsilon in (("linf", 0.2), ("linf", 0.3), ("l2", 1.0), ("l2", 2.0)):
        for model in models:
            if (norm, epsilon) != ("linf", _mnist_models.radius(model)):
                others += _auto_cells(model, norm, epsilon)
    for model in models:
        # Nearly all of a thousand images are left to the last query.
        if _mnist_models.is_adversarial(model):
            last += _auto_cells(model, "linf", 0.1)
    return own, others, last


def _auto_cells(model: str, norm: str, epsilon: float) -> list[Cell]:
    num_images = 1000 if norm == "linf" and epsilon != 0.2 else 200
    return [
        Cell(model, AUTO_ATTACK, norm, epsilon, implementation, num_images)
        for implementation in (OURS, "torchattacks")
    ]


def _row_cells(models: list[str], name: str) -> list[Cell]:
    row = ROWS[name]
    counts = {OURS: row.num_images}
    for peer in _peer_attacks.PEER_ATTACKS.get(name, ()):
        limit = peer.num_images or row.num_images
        counts[peer.implementation] = min(limit, row.num_images)
    return [
        Cell(
            model,
            name,
            row.norm,
            None if row.kind == "distance" else _mnist_models.radius(model),
            implementation,
            count,
        )
        for model in models
        for implementation, count in counts.items()
    ]


def peer_of(cell: Cell) -> _peer_attacks.PeerAttack:
    """Return the peer's attack of a single attack's cell."""
    for peer in _peer_attacks.PEER_ATTACKS[cell.row]:
        if peer.implementation == cell.implementation:
            return peer
    raise KeyError(f"{cell.implementation} has no {cell.row}")
