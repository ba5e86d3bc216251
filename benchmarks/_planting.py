"""Changed copies of the repository, for `negative_controls` and `differences`."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def plant(name: str, path: str, text: str, old: str, new: str) -> str:
    """Return a file's text with one change.

    Args:
      name: of the change.
      path: of the file, for the message.
      text: of the file.
      old: what is replaced; occurs once.
      new: by what.

    Returns:
      The text with the change.

    Raises:
      ValueError: if `old` does not occur exactly once any more.
    """
    count = text.count(old)
    if count != 1:
        raise ValueError(f"{name!r}: {old!r} occurs {count} times in {path}, not once")
    return text.replace(old, new)


def tracked() -> list[str]:
    """Return the tracked files, by path from the root, that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=_ROOT, check=True, capture_output=True
    )
    paths = listed.stdout.decode().split("\0")
    return [path for path in paths if path and (_ROOT / path).is_file()]


def copy_repository(folder: pathlib.Path) -> pathlib.Path:
    """Copy the tracked files, as they are in the working tree; check that they run.

    Args:
      folder: an empty one.

    Returns:
      The copy, in that folder.

    Raises:
      RuntimeError: if Python, started there, would import the library from elsewhere.
    """
    copy = folder / "copy"
    for path in tracked():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_ROOT / path, copy / path)
    command = [sys.executable, "-c", "import mmc_jax; print(mmc_jax.__file__)"]
    printed = subprocess.run(
        command, cwd=copy, env=environment(copy), check=True, capture_output=True
    )
    imported = pathlib.Path(printed.stdout.decode().strip())
    if not imported.is_relative_to(copy):
        raise RuntimeError(f"Python imports {imported}, not the copy in {copy}")
    return copy


def environment(copy: pathlib.Path) -> dict[str, str]:
    """Return the environment of a process that is to import a changed copy."""
    # A file that is changed twice a second and keeps its size has stale bytecode.
    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
