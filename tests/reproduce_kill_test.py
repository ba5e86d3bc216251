"""A reproduction that is killed ends with the page of one that was left alone."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NUM_KILLS = 4
_TIMES = ("seconds", "first_batch_seconds", "time")


def start(where: pathlib.Path, programs: pathlib.Path) -> subprocess.Popen:
    """Start a trial of table 1 on one model; compiled programs are shared."""
    command = [sys.executable, "launch/reproduce.py", "--experiment=table1"]
    command += ["--dataset=digits", "--models=mmc", "--noprogress", "--noestimate"]
    command += [f"--out={where / 'out'}", f"--runs={where / 'runs'}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    return subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.DEVNULL
    )


def without_times(tree):
    """Return plain data without what differs from run to run."""
    if isinstance(tree, dict):
        return {k: without_times(v) for k, v in tree.items() if k not in _TIMES}
    return [*map(without_times, tree)] if isinstance(tree, list) else tree


@pytest.mark.verify
def test_a_killed_reproduction_ends_with_the_same_page(tmp_path):
    programs, whole, killed = (tmp_path / name for name in ("programs", "a", "b"))
    assert start(whole, programs).wait() == 0
    started = time.monotonic()
    assert start(tmp_path / "again", programs).wait() == 0
    seconds = time.monotonic() - started
    moments = random.Random(0)
    for _ in range(_NUM_KILLS):
        process = start(killed, programs)
        try:
            process.wait(timeout=moments.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start(killed, programs).wait() == 0
    whole, killed = whole / "out/digits/smoke", killed / "out/digits/smoke"
    for name in ("table1.md", "table1.html"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    files = sorted(
        path.relative_to(whole) for path in whole.rglob("*.*") if path.is_file()
    )
    assert files == sorted(
        path.relative_to(killed) for path in killed.rglob("*.*") if path.is_file()
    ), "journals or parts are left"
    cells = [path for path in files if path.suffix == ".json"]
    assert len(cells) == 5
    for path in cells:
        one, other = (json.loads((f / path).read_text()) for f in (whole, killed))
        assert without_times(one) == without_times(other), path
