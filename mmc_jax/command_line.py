"""What the commands of `launch/` share: saying in one line what is wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from absl import app, flags


def fail(error: object, *, status: int = 2) -> NoReturn:
    """Say what went wrong, in one line on stderr, and leave.

    Args:
      error: what went wrong.
      status: of the process: 2 for what was asked, 1 for what came of it.
    """
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def in_one_line(
    *failures: type[Exception], goes_on: str = "where it was"
) -> Iterator[None]:
    """Do a command's work; where it fails, say so in one line and leave.

    With status 1 for one of `failures`, 2 for what was asked (`ValueError`, `OSError`),
    130 where the user interrupts. Any other error is a bug, and keeps its traceback.

    Args:
      *failures: what may come of sound input.
      goes_on: where the same command begins after an interruption.

    Yields:
      Nothing.
    """
    try:
        yield
    except failures as error:
        fail(error, status=1)
    except (ValueError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        print(f"\nInterrupted. The same command goes on {goes_on}.")
        sys.exit(130)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse a command's flags, or leave with what is wrong with one.

    Args:
      argv: the command line.

    Returns:
      What is no flag, the command itself first.
    """
    app.define_help_flags()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{error}. --help lists all flags.")


def refuse_arguments(argv: list[str]) -> None:
    """Leave if there are arguments that are no flags.

    Args:
      argv: what `parse_flags` returned.
    """
    if len(argv) > 1:
        fail(f"unexpected arguments: {' '.join(argv[1:])}")
