"""What the figures share: colours, lines, and how a file comes to be."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, 2008, without the yellow that white paper swallows.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)))
GOOD, BAD = LINE_COLORS[:2]
GREY = "#777777"
# Paul Tol's "muted", told apart by all common forms of colour blindness.
CLASS_COLORS = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#888888",
)
LIGHT_COLORS = ("#88CCEE", "#44AA99", "#999933", "#DDCC77")
"""Those on which black text is read better than white."""
DOTS_PER_INCH = 150
"""Of the figures that are made of dots."""
_STYLE: dict[Any, Any] = {
    "figure.dpi": DOTS_PER_INCH,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    # The same drawing is the same file, to the byte.
    "svg.hashsalt": "mmc_jax",
}

Path = str | os.PathLike[str]


@contextlib.contextmanager
def drawing(
    path: Path, size: tuple[float, float], *, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure and its axes, row by row; write it when the block ends well.

    Matplotlib's global state stays as it is, and no window can open.

    Args:
      path: the file to write; missing directories are made.
      size: width and height in inches.
      rows: of axes.
      columns: of axes.

    Yields:
      The figure and its axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        yield figure, list(axes.flat)
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        is_svg = pathlib.Path(path).suffix == ".svg"
        figure.savefig(path, metadata={"Date": None} if is_svg else None)


def with_styles(named: Mapping[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Give each line its colour and its dashes, so that neither must be told alone.

    Args:
      named: name -> what to draw.

    Yields:
      Name, what to draw, and keyword arguments for `Axes.plot`.
    """
    styles = zip(
        itertools.cycle(LINE_COLORS), itertools.cycle(LINE_STYLES), strict=False
    )
    for (name, value), (color, dashes) in zip(named.items(), styles, strict=False):
        yield name, value, {"color": color, "linestyle": dashes}


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put a legend of the axes' lines under the figure, where it hides nothing.

    Args:
      figure: the figure.
      axes: whose lines it names.
    """
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) < 25 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def check_some(given: Sized, name: str) -> None:
    """Refuse to draw nothing.

    Args:
      given: what to draw.
      name: its name in the message.

    Raises:
      ValueError: if it is empty.
    """
    if not len(given):
        raise ValueError(f"{name} are empty: there is nothing to draw")
