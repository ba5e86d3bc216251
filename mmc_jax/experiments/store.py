"""Cells on the disk: one JSON file each, whole or not there.

A stored cell is used only where its identity is the wanted one: its kind, its settings,
its seed and the configs of its models. Anything else is measured anew and written over.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mmc_jax.environment import source_sha256
from mmc_jax.evaluate import inputs
from mmc_jax.experiments.plan import Plan, Wanted

_FIELDS = ("identity", "result", "models", "data", "environment", "command", "seconds")
_REMOVE = "remove it to measure that cell anew"

Cell = Mapping[str, Any]
"""What `write` wrote: `identity`, `result` and where both come from."""


def read(plan: Plan, wanted: Wanted, folder: pathlib.Path) -> Cell | None:
    """Return a stored cell, or None if it is not there or of other settings.

    Args:
      plan: the experiment.
      wanted: the cell.
      folder: of the data set and the scale.

    Returns:
      Its content.

    Raises:
      ValueError: if there is a file, and it is no cell; it names the file.
    """
    path = wanted.path(folder)
    if not path.exists():
        return None
    content = load(path)
    return content if content["identity"] == plan.identity(wanted) else None


def load(path: pathlib.Path) -> Cell:
    """Return a stored cell, whatever it is of.

    Args:
      path: of its file.

    Returns:
      Its content.

    Raises:
      ValueError: if the file is no cell; it names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {_REMOVE}") from error
    lacking = [n for n in _FIELDS if not isinstance(content, dict) or n not in content]
    if lacking:
        raise ValueError(f"{path} is no cell: it lacks {', '.join(lacking)}; {_REMOVE}")
    return content


def write(content: Cell, path: pathlib.Path) -> None:
    """Write a cell, and remove the journals that led to it and to its predecessors.

    Args:
      content: all that `read` asks for.
      path: of the cell.

    Raises:
      ValueError: for a field that is missing.
    """
    lacking = [name for name in _FIELDS if name not in content]
    if lacking:
        raise ValueError(f"a cell lacks {', '.join(lacking)}")
    inputs.write_json(dict(content), path)
    for journal in path.parent.glob(f"{path.stem}.*.journal"):
        journal.unlink()


def journal_path(
    path: pathlib.Path,
    identity: Mapping[str, Any],
    models: Mapping[str, str],
    sha256: Mapping[str, str],
) -> pathlib.Path:
    """Return where an unfinished cell keeps what is done.

    The name holds a digest of all that outcomes depend on, so that a cell of other
    settings, of a model trained again, on other data, or measured by other code, begins
    a journal of its own.

    Args:
      path: of the cell.
      identity: the cell's.
      models: model -> digest of its weights.
      sha256: of the splits at hand.

    Returns:
      The path.
    """
    given = [identity, models, sha256, source_sha256()]
    content = json.dumps(given, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return path.with_name(f"{path.stem}.{digest}.journal")
