"""How a piece of `strength.py` is computed, by us and by a peer.

A verdict on an image is that of the model which was attacked, JAX's on ours and torch's
on the peers', since a smallest perturbation lies on the boundary to the last bit; the
images on which the other one disagrees are counted. Images outside ball or box count
as survived.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import _mnist_models
import _peer_attacks
import _peers
import _strength_cells as cells
import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import attacks
from mmc_jax.evaluate import robust_accuracy
from mmc_jax.evaluate.verdict import check_postconditions, judge_logits
from mmc_jax.types import LogitsFn

_UNBOUNDED = 1.0


def run(piece: cells.Piece) -> dict[str, Any]:
    """Return the outcome of a piece, plain data: bits, distances, parts, settings."""
    if piece.cell.implementation == cells.OURS:
        return _run_ours(piece)
    return _run_peer(piece)


def missing_attacks(cell: cells.Cell) -> set[str]:
    """Return which attacks of ours a cell wants that mmc_jax does not have."""
    if cell.implementation != cells.OURS:
        return set()
    return {spec["name"] for spec in _our_rows(cell).values()} - set(attacks.ATTACKS)


def _our_rows(cell: cells.Cell) -> dict[str, dict[str, Any]]:
    if cell.row == cells.AUTO_ATTACK:
        return cells.AUTO_ATTACK_ROWS
    return {cell.row: cells.ROWS[cell.row].ours}


def _images(piece: cells.Piece) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _mnist_models.test_set()
    return images[piece.first : piece.last], labels[piece.first : piece.last]


def _run_ours(piece: cells.Piece) -> dict[str, Any]:
    cell = piece.cell
    images, labels = _images(piece)
    ids = np.arange(piece.first, piece.last)
    logits_fn = _mnist_models.load(cell.model).logits_fn
    if cell.epsilon is None:
        return _find_distances(piece, logits_fn, images, labels, ids)
    record = robust_accuracy(
        logits_fn,
        images,
        labels,
        _our_rows(cell),
        jax.random.key(piece.seed),
        norm=cell.norm,
        epsilon=cell.epsilon,
        example_ids=ids,
        batch_size=cell.piece,
    ).to_dict()
    rows = record["rows"]
    renamed = {"num_attacked": "attacked", "num_broken": "broken", "seconds": "seconds"}
    return {
        "settings": {name: row["hyperparameters"] for name, row in rows.items()},
        "clean": record["per_example"]["clean"],
        "correct": record["per_example"]["worst_case"],
        "parts": {
            name: {ours: row[theirs] for theirs, ours in renamed.items()}
            for name, row in rows.items()
        },
        "findings": record["findings"],
    }


def _find_distances(
    piece: cells.Piece,
    logits_fn: LogitsFn,
    images: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
) -> dict[str, Any]:
    spec = dict(cells.ROWS[piece.cell.row].ours)
    attack = _unbounded_attack(spec.pop("name"), spec)
    key = jax.random.key(piece.seed)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(ids))
    with jax.default_matmul_precision("highest"):
        found = np.asarray(
            attack(logits_fn, keys, jnp.asarray(images), jnp.asarray(labels))
        )
    clean, correct = (
        judge_logits(logits_fn, judged, keys).argmax(1) == labels
        for judged in (images, found)
    )
    distances = _distances(found, images, correct)
    return {"settings": spec, "clean": _bits(clean), **distances}


def _unbounded_attack(name: str, spec: dict[str, Any]) -> attacks.BoundAttack:
    """Bind an attack that looks for the smallest distance, whatever that is."""
    try:
        return attacks.make_attack(name, **spec)
    except ValueError:
        # Its radius only says what counts as a success.
        return attacks.make_attack(name, epsilon=_UNBOUNDED, **spec)


@functools.cache
def _twin(model: str, shift: float) -> Any:
    return _peers.make_twin(_mnist_models.load(model), shift=shift)


def _run_peer(piece: cells.Piece) -> dict[str, Any]:
    cell = piece.cell
    single = cell.row != cells.AUTO_ATTACK
    parts = {cell.row: cells.peer_of(cell)} if single else _peer_attacks.AUTO_ATTACK
    images, labels = _images(piece)
    left = _peer_correct(cell.model, images, labels)[0]
    outcome = {"clean": _bits(left), "disagreements": 0, "parts": {}}
    adv_images = images.copy()
    for name, peer in parts.items():
        # A single attack gets every image, as a user would run it.
        chosen = np.arange(len(images)) if single else np.flatnonzero(left)
        started = time.perf_counter()
        if len(chosen):
            given = images[chosen], labels[chosen]
            adv_images[chosen] = found = _attack(peer, piece, *given)
            correct, other = _judge_peer(cell, found, *given, peer.shift)
            outcome["disagreements"] += int((correct != other).sum())
            left[chosen] &= correct
        outcome["parts"][name] = {
            "attacked": len(chosen),
            "broken": len(chosen) - int(left[chosen].sum()),
            "seconds": time.perf_counter() - started,
            "settings": peer.settings,
            "shift": peer.shift,
        }
    outcome["correct"] = _bits(left)
    if cell.epsilon is None:
        outcome |= _distances(adv_images, images, left)
    return outcome


def _judge_peer(cell, adv_images, images, labels, shift):
    """Return what survives as torch, and as JAX, sees it; `[num]` each."""
    correct, other = _peer_correct(cell.model, adv_images, labels, shift)
    if cell.epsilon is None:
        return correct, other
    found = check_postconditions(
        adv_images, images, norm=cell.norm, epsilon=cell.epsilon, bounds=(0.0, 1.0)
    )
    return correct | ~found.hold, other | ~found.hold


def _attack(peer, piece, images, labels):
    import torch

    given = _peers.to_nchw(images), torch.from_numpy(labels.astype(np.int64))
    twin = _twin(piece.cell.model, peer.shift)
    epsilon = piece.cell.epsilon
    if epsilon is None:
        epsilon = _UNBOUNDED
    adv_images = peer.run(twin, *given, piece.cell.norm, epsilon, piece.seed)
    return _peers.to_nhwc(adv_images)


def _peer_correct(model, images, labels, shift=0.0):
    """Return what torch, and what JAX, still gives the true label; `[num]` each."""
    import torch

    with torch.no_grad():
        logits = _twin(model, shift)(_peers.to_nchw(images)).numpy()
    victim = _mnist_models.load(model)
    keys = jax.random.split(jax.random.key(0), len(images))
    ours = judge_logits(victim.logits_fn, images, keys)
    return logits.argmax(1) == labels, ours.argmax(1) == labels


def _distances(adv_images, images, correct) -> dict[str, Any]:
    """Return the outcome of an attack without a radius, with every norm.

    An image outside the box is a failure. The distance of a failure means nothing.
    """
    norms = {}
    for norm in ("linf", "l2", "l1"):
        found = check_postconditions(
            adv_images, images, norm=norm, epsilon=None, bounds=(0.0, 1.0)
        )
        norms[norm] = [float(f"{value:.7g}") for value in found.norms]
    return {"correct": _bits(correct | ~found.hold), "distances": norms}


def _bits(flags) -> str:
    return "".join("1" if flag else "0" for flag in flags)
