"""Rows of compared timings, and what every record says of itself.

The timing itself is `mmc_jax.timing`. A bar is met if the lower end of a ratio's
interval is at or below it.
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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _benchmarks_page import write_page

from mmc_jax import timing
from mmc_jax.environment import describe_environment

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_RECORDS = _ROOT / "results" / "benchmarks"
# Read at import: afterwards the load is our own.
_LOAD_BEFORE = os.getloadavg()


def compare(
    seconds: Mapping[str, Sequence[float]],
    name: str,
    reference: str,
    *,
    bar: float | None = None,
) -> dict[str, Any]:
    """Put one contender beside another, as a row of a table and of a record.

    Args:
      seconds: from `timing.interleaved`.
      name: the contender.
      reference: what it is compared with.
      bar: the largest ratio that is accepted, or None.

    Returns:
      The row, plain data.
    """
    ratio, low, high = timing.ratio_interval(seconds[name], seconds[reference])
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
    record = _RECORDS / f"{name}.json"
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
        record["bootstrap"] = {"resamples": timing.NUM_RESAMPLES, "seed": 0}
    record |= results
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nRecord: {os.path.relpath(args.out)}")
    if args.out == _RECORDS / f"{name}.json":
        write_page(_RECORDS)


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
