"""Strength: every attack beside its peers, on the same trained models and images.

    TFDS_DATA_DIR=... python benchmarks/strength.py            # what is missing
    python benchmarks/strength.py --report                     # results/strength/README

The first 1,000 MNIST test images, on every model that `mnist.py` kept; torch twins hold
the same weights. Bounded attacks are compared at linf 0.1 (plain models) and 0.3
(adversarially trained ones), attacks that look for the smallest distance by what they
find, AutoAttack in five threat models. Seeds and budgets stand in `_strength_cells.py`
and `_peer_attacks.py`, and were fixed before the first run.

Every cell is stored as it is done, 200 images at a time: started again, the script goes
on with what is missing. `--seconds` stops it after the piece that is then running, with
exit code 75 if something is left. Attacks of ours and peers that are not there are
skipped, and said to be.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import time
from collections.abc import Iterator

import _mnist_models
import _peer_attacks
import _peers
import _strength_cells as cells
import _strength_report
import _strength_runs
import _timing

from mmc_jax.environment import git_revision, source_sha256

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LEFT = 75
_ALL_IMPLEMENTATIONS = (cells.OURS, "torchattacks", "foolbox", "art")


def main() -> None:
    """Fill in the pieces that are missing, then write the report."""
    args = _parse_args()
    # Of the code that runs, whatever happens to the checkout meanwhile.
    source = {"git_revision": git_revision(), "source_sha256": source_sha256()}
    started = time.perf_counter()
    if not args.report:
        _limit_threads(args.threads)
        for piece in _missing(args):
            if time.perf_counter() - started > args.seconds:
                sys.exit(_LEFT)
            _fill(piece, args.out, source)
    page = _strength_report.write(args.out)
    (args.out / "README.md").write_text(page)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=_ROOT / "results" / "strength"
    )
    names = _mnist_models.names()
    parser.add_argument("--models", nargs="*", choices=names, default=names)
    parser.add_argument(
        "--implementations",
        nargs="*",
        choices=_ALL_IMPLEMENTATIONS,
        default=list(_ALL_IMPLEMENTATIONS),
    )
    rows = [cells.AUTO_ATTACK, *cells.ROWS]
    parser.add_argument("--rows", nargs="*", choices=rows, default=rows)
    parser.add_argument(
        "--seeds", nargs="*", type=int, choices=cells.SEEDS, default=cells.SEEDS
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after so long"
    )
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--report", action="store_true", help="only write the report")
    return parser.parse_args()


def _limit_threads(threads: int | None) -> None:
    if threads is not None and "torch" not in _peers.missing():
        import torch

        torch.set_num_threads(threads)


def _missing(args: argparse.Namespace) -> Iterator[cells.Piece]:
    installed = {cells.OURS, *_peer_attacks.installed()}
    for name in set(args.implementations) - installed:
        print(f"Not installed, so left out: {name}")
    wanted = [name for name in args.implementations if name in installed]
    absent = set()
    for piece in cells.plan(args.models, wanted):
        if piece.seed not in args.seeds or piece.cell.row not in args.rows:
            continue
        missing = _strength_runs.missing_attacks(piece.cell)
        absent |= missing
        if not missing and not cells.is_done(piece, args.out):
            yield piece
    if absent:
        print(f"Not in mmc_jax yet, so left out: {', '.join(sorted(absent))}")


def _fill(piece: cells.Piece, out: pathlib.Path, source: dict[str, str | None]) -> None:
    cell = piece.cell
    started = time.perf_counter()
    found = _strength_runs.run(piece)
    seconds = time.perf_counter() - started
    versions = _timing.installed_versions("jax", "numpy", "torch", *_PACKAGES)
    versions = {name: version for name, version in versions.items() if version}
    found |= {"versions": versions | source}
    cells.store(piece, {"seconds": seconds, **found}, out)
    correct = found["correct"].count("1")
    print(
        f"{cell.model} {cell.row} {cell.threat} {cell.implementation}"
        f" seed {piece.seed} [{piece.first}, {piece.last}):"
        f" {correct} of {len(found['correct'])} left, {seconds:.0f} s",
        flush=True,
    )


_PACKAGES = ("torchattacks", "foolbox", "eagerpy", "adversarial-robustness-toolbox")


if __name__ == "__main__":
    main()
