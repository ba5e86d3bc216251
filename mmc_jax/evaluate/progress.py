"""What an evaluation says of itself while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tqdm


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress callback is told after every batch."""

    row: str
    """The row at work."""
    done: int
    """Images attacked so far, over all rows."""
    total: int
    """Images to attack over all rows if no more of them break."""
    surviving: int
    """Images that nothing has broken yet."""
    resumed: int
    """Of `done`, those that a journal had done before."""


def make_progress(
    progress: bool | Callable[[Progress], None],
) -> Callable[[Progress], None]:
    """Return the callback: the caller's own, a bar on the terminal, or nothing."""
    if callable(progress):
        return progress
    if not progress:
        return lambda state: None
    bar = tqdm.tqdm(desc="attacking", unit="image", dynamic_ncols=True)

    def show(state: Progress) -> None:
        bar.total = state.total
        bar.n = state.done
        bar.initial = state.resumed  # the rate, and so the ETA, is this run's own
        bar.set_postfix(row=state.row, surviving=state.surviving)
        if state.done >= state.total:
            bar.close()

    return show
