"""Negative controls: a known bug put into our code must turn a test red.

    python benchmarks/negative_controls.py              # what is missing or out of date
    python benchmarks/negative_controls.py --report     # only the table

The bugs stand in `_negative_controls*.py`: those seen in other libraries, and ours, in
the lines where one would do most harm. The repository is copied, the tests of all
controls run on the copy as it is (one that is red without a bug proves nothing), and
then each bug is planted in turn, its tests run, and the file put back.

Every cell is stored as it is done, under a hash of the bug, its tests and the sources:
started again, the script goes on with what is missing or has changed. `--seconds` stops
it after the control that is then running, with exit code 75 if something is left. A
control that no test notices, or tests that are red without it, make that code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Iterable
from typing import Any

import _planting
import _timing
from _negative_controls import PUBLISHED, Control
from _negative_controls_attacks import IN_ATTACKS
from _negative_controls_diagnostics import IN_DIAGNOSTICS
from _negative_controls_evaluation import IN_EVALUATION
from _negative_controls_experiments import IN_EXPERIMENTS
from _negative_controls_training import IN_TRAINING

from mmc_jax.environment import git_revision

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LEFT = 75
_LONGEST = 300
"""Seconds: a bug that makes a test run for ever is noticed by that."""
_SOURCES = ("configs/", "launch/", "mmc_jax/", "tests/")
SECTIONS = {
    "Bugs seen in other libraries": PUBLISHED,
    "Attacks, losses, centers": IN_ATTACKS,
    "Evaluation": IN_EVALUATION,
    "Diagnostics": IN_DIAGNOSTICS,
    "Training": IN_TRAINING,
    "Experiments": IN_EXPERIMENTS,
}
CONTROLS = tuple(control for section in SECTIONS.values() for control in section)


def main() -> None:
    """Run the controls that are missing, write the table, say what went unnoticed."""
    args = _parse_args()
    texts = _read_sources()
    wanted = _wanted(texts)
    is_complete = args.report or _fill(args, texts, wanted)
    cells = _current(_load(args.out), wanted)
    page = _render(cells)
    args.out.with_suffix(".md").write_text(page)
    print(page)
    blind = [n for n, cell in cells.items() if bool(cell["red"]) == _is_base(n)]
    for name in blind:
        print("RED WITHOUT A BUG" if _is_base(name) else "UNNOTICED", name)
    sys.exit(1 if blind else 0 if is_complete else _LEFT)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=_ROOT / "results/negative_controls.json"
    )
    parser.add_argument("--only", default="", help="controls whose name has this in it")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after so long"
    )
    parser.add_argument("--report", action="store_true", help="only write the table")
    return parser.parse_args()


def plant(control: Control, text: str) -> str:
    """Return a file's text with the bug in it.

    Args:
      control: the bug.
      text: of the file at `control.path`.

    Returns:
      The text with the one change.

    Raises:
      ValueError: if what it replaces does not occur exactly once any more.
    """
    return _planting.plant(control.name, control.path, text, control.old, control.new)


def _read_sources() -> dict[str, str]:
    """Return the text of every tracked source, by path, as in the working tree."""
    return {
        path: (_ROOT / path).read_text()
        for path in _planting.tracked()
        if path.startswith(_SOURCES) and path.endswith(".py")
    }


def _bases() -> dict[str, list[str]]:
    """Return the tests of all controls, by the file that they stand in."""
    found: dict[str, set[str]] = {}
    for control in CONTROLS:
        for test in control.selection:
            found.setdefault(test.partition("::")[0], set()).add(test)
    return {path: sorted(found[path]) for path in sorted(found)}


def _is_base(name: str) -> bool:
    return name.endswith("_test.py")


def _hash(texts: dict[str, str], selection: Iterable[str], *more: str) -> str:
    """Hash what a cell depends on: other tests' files are left out."""
    files = {test.partition("::")[0] for test in selection}
    kept = {p: t for p, t in texts.items() if not _is_base(p) or p in files}
    content = json.dumps([kept, [*selection], more], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _wanted(texts: dict[str, str]) -> dict[str, str]:
    """Return the hash of every cell: the tests as they are, then the controls."""
    wanted = {path: _hash(texts, tests) for path, tests in _bases().items()}
    for control in CONTROLS:
        bug = (control.path, control.old, control.new)
        wanted[control.name] = _hash(texts, control.selection, *bug)
    return wanted


def _load(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text())["cells"] if path.exists() else {}


def _current(cells: dict[str, Any], wanted: dict[str, str]) -> dict[str, Any]:
    """Return the cells that are of these sources, in the order of the controls."""
    return {
        name: cells[name]
        for name, digest in wanted.items()
        if name in cells and cells[name]["hash"] == digest
    }


def _store(path: pathlib.Path, cells: dict[str, Any]) -> None:
    """Write the cells to a file that is never seen half written."""
    versions = _timing.installed_versions("jax", "jaxlib", "numpy", "flax", "pytest")
    record = {"versions": versions | {"git_revision": git_revision()}, "cells": cells}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def _fill(
    args: argparse.Namespace, texts: dict[str, str], wanted: dict[str, str]
) -> bool:
    """Run what is missing; return whether nothing is left."""
    started = time.perf_counter()
    controls = {control.name: control for control in CONTROLS}
    planted = {c.name: plant(c, texts[c.path]) for c in CONTROLS}
    cells, bases = _current(_load(args.out), wanted), _bases()
    missing = {
        name: digest
        for name, digest in wanted.items()
        if name not in cells and args.only in name
    }
    if not missing:
        return True
    with tempfile.TemporaryDirectory() as folder:
        copy = _planting.copy_repository(pathlib.Path(folder))
        for name, digest in missing.items():
            if time.perf_counter() - started > args.seconds:
                return False
            if _is_base(name):
                found = _run_tests(copy, bases[name])
            else:
                path = copy / controls[name].path
                path.write_text(planted[name])
                found = _run_tests(copy, controls[name].selection)
                path.write_text(texts[controls[name].path])
            cells[name] = {"hash": digest, **found}
            _store(args.out, cells)
            red = f"{len(found['red'])} of {found['num_tests']} red"
            print(f"{name}: {red}, {found['seconds']:.0f} s", flush=True)
    return True


def _run_tests(copy: pathlib.Path, selection: list[str]) -> dict[str, Any]:
    """Run tests; return how many there were, and of each red one what it says."""
    report = copy.parent / "report.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "--no-header", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *selection]
    started = time.perf_counter()
    try:
        finished = subprocess.run(
            command,
            cwd=copy,
            env=_planting.environment(copy),
            timeout=_LONGEST,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        red = {selection[0]: f"no end after {_LONGEST} s"}
        return {"seconds": _LONGEST, "num_tests": len(selection), "red": red}
    seconds = round(time.perf_counter() - started, 1)
    if finished.returncode not in (0, 1):
        raise RuntimeError(f"pytest failed to run:\n{finished.stdout[-3000:]}")
    cases = [*xml.etree.ElementTree.parse(report).iter("testcase")]
    red = {}
    for case in cases:
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                file = case.attrib["classname"].replace(".", "/") + ".py"
                said = found.attrib["message"].replace(tempfile.gettempdir(), "...")
                said = " ".join(said.split())
                red[f"{file}::{case.attrib['name']}"] = said[:200]
    return {"seconds": seconds, "num_tests": len(cases), "red": red}


def _render(cells: dict[str, Any]) -> str:
    """Return the table, in Markdown."""
    noticed = sum(bool(cells[c.name]["red"]) for c in CONTROLS if c.name in cells)
    tests = [cells[name]["num_tests"] for name in _bases() if name in cells]
    lines = [
        "# Negative controls",
        "",
        f"{len(CONTROLS)} bugs, planted one at a time by"
        f" `benchmarks/negative_controls.py`; {noticed} turn at least one test red."
        f" Without a bug the same {sum(tests)} tests are green.",
    ]
    for section, controls in SECTIONS.items():
        lines += ["", f"## {section}", ""]
        lines += [
            "| bug | seen in | planted in | red | first of them |",
            "|---" * 5 + "|",
        ]
        lines += [_render_row(control, cells.get(control.name)) for control in controls]
    return "\n".join(lines) + "\n"


def _render_row(control: Control, cell: dict[str, Any] | None) -> str:
    count, first = "not run", ""
    if cell is not None:
        count = f"{len(cell['red'])} of {cell['num_tests']}"
        for test, message in [*cell["red"].items()][:1]:
            name = test.removeprefix("tests/")
            said = message if len(message) <= 70 else message[:67] + "..."
            first = f"`{name}`: {said}"
    path = control.path.removeprefix("mmc_jax/")
    entries = (control.name, control.seen, f"`{path}`", count, first)
    return "| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |"


if __name__ == "__main__":
    main()
