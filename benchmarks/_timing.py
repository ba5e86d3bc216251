"""Timing that a noisy machine cannot fool, and what every record says of itself.

What is compared runs in one process, in rounds: each round calls everything once, the
next round in reverse. A ratio is the median over the rounds of the ratio within a
round, so that a slow minute slows both sides; its interval comes from resampling the
rounds. A bar is met if the interval's lower end is at or below it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmc_jax.environment import describe_environment

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NUM_RESAMPLES = 10_000
# Read at import: afterwards the load is our own.
_LOAD_BEFORE = os.getloadavg()


def interleaved(
    fns: Mapping[str, Callable[[], Any]], *, pairs: int = 15
) -> dict[str, list[float]]:
    """Time functions in rounds, each once a round, every other round in reverse.

    Args:
      fns: name -> function; what it returns is waited for. Each runs once untimed
        first, to compile.
      pairs: rounds.

    Returns:
      Name -> seconds, one number a round.
    """
    for fn in fns.values():
        _wait_for(fn())
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for index in range(pairs):
        for name in list(fns)[:: -1 if index % 2 else 1]:
            start = time.perf_counter()
            _wait_for(fns[name]())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait_for(result: Any) -> None:
    jax.block_until_ready(result)


def ratio_interval(
    seconds: Sequence[float], reference: Sequence[float], *, seed: int = 0
) -> tuple[float, float, float]:
    """Compare two columns of one table of rounds.

    Args:
      seconds: one number a round.
      reference: what to divide by, from the same rounds.
      seed: of the resampling.

    Returns:
      (the median over the rounds of seconds / reference, and the lower and upper end of
      its 95 % percentile bootstrap interval).
    """
    ratios = np.asarray(seconds) / np.asarray(reference)
    generator = np.random.default_rng(seed)
    rounds = generator.integers(len(ratios), size=(_NUM_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[rounds], axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def compare(
    seconds: Mapping[str, Sequence[float]],
    name: str,
    reference: str,
    *,
    bar: float | None = None,
) -> dict[str, Any]:
    """Put one contender beside another, as a row of a table and of a record.

    Args:
      seconds: from `interleaved`.
      name: the contender.
      reference: what it is compared with.
      bar: the largest ratio that is accepted, or None.

    Returns:
      The row, plain data.
    """
    ratio, low, high = ratio_interval(seconds[name], seconds[reference])
    row = {
        "name": name,
        "seconds": float(np.median(seconds[name])),
        "reference": reference,
        "ratio": ratio,
        "interval": [low, high],
    }
    return row if bar is None else row | {"bar": bar, "met": low <= bar}


def format_row(row: Mapping[str, Any]) -> str:
    """Return the printed line of a row of `compare`, to stand under `HEADER`."""
    low, high = row["interval"]
    verdict = ""
    if "bar" in row:
        verdict = f"bar {row['bar']}: {'met' if row['met'] else 'MISSED'}"
    return (
        f"  {row['name']:<36} {row['seconds'] * 1e3:>9.1f} ms {row['ratio']:>7.3f}"
        f" [{low:.3f}, {high:.3f}] x {row['reference']}  {verdict}"
    ).rstrip()


HEADER = f"  {'':<36} {'median':>12} {'ratio':>7} [95 % interval]"


def parse_args(
    name: str, description: str, *, has_pairs: bool = True
) -> argparse.Namespace:
    """Read the command line that the scripts here share.

    Args:
      name: of the script, which names its record.
      description: for `--help`.
      has_pairs: whether it compares, in rounds.

    Returns:
      `out`, a path, and `pairs`, at least 1, if it has any.
    """
    parser = argparse.ArgumentParser(description=description)
    record = _ROOT / "results" / "benchmarks" / f"{name}.json"
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=record,
        help=f"where the record goes (default: {record.relative_to(_ROOT)})",
    )
    if has_pairs:
        parser.add_argument(
            "--pairs", type=int, default=15, help="rounds (default: 15)"
        )
    args = parser.parse_args()
    if has_pairs and args.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {args.pairs}")
    return args


def write_record(
    args: argparse.Namespace, name: str, results: Mapping[str, Any]
) -> None:
    """Write what was measured, and on what, as JSON.

    Args:
      args: from `parse_args`.
      name: of the script.
      results: plain data.
    """
    record = {
        "command": f"python benchmarks/{name}.py",
        "environment": describe_environment(),
        "machine": describe_machine(),
    }
    if "pairs" in args:
        record["command"] += f" --pairs={args.pairs}"
        record["pairs"] = args.pairs
        record["bootstrap"] = {"resamples": _NUM_RESAMPLES, "seed": 0}
    record |= results
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nRecord: {os.path.relpath(args.out)}")


def describe_machine() -> dict[str, Any]:
    """Return the processor, the cores this process may use, and the load before."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_before": [round(load, 2) for load in _LOAD_BEFORE],
    }


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed_versions(*names: str) -> dict[str, str | None]:
    """Return the versions of the packages, by name; None if not installed."""
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def warn_if_busy() -> None:
    """Say so on stderr if other work is running, which seconds do not survive.

    Nor do ratios to torch: its threads wait for each other at every operation.
    """
    load, cores = _LOAD_BEFORE[0], len(os.sched_getaffinity(0))
    if load > 0.5 * cores:
        print(
            f"The load average is {load:.1f} on {cores} cores: seconds, and any ratio"
            " to torch, mean nothing before the machine is quiet.",
            file=sys.stderr,
        )
