"""Images side by side: clean, adversarial, and what was changed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmc_jax.report import style
from mmc_jax.report.style import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def image_triples(
    images: np.ndarray,
    adv_images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    path: Path,
    *,
    label_names: Sequence[str] | None = None,
) -> pathlib.Path:
    """Draw clean images, adversarial images and their differences, a column an example.

    The difference is centred on grey and amplified by one factor for all, so that the
    largest change of a pixel is black or white; the factor stands beside the row.

    Args:
      images: float `[num, height, width, channels]` in [0, 1], 1 or 3 channels.
      adv_images: likewise.
      labels: int `[num]`, the true labels.
      predictions: int `[num]`, what the model says of the adversarial images.
      path: the file to write.
      label_names: a name per class; None shows numbers.

    Returns:
      The path.

    Raises:
      ValueError: if there is no image, or shapes differ.
    """
    images, adv_images = np.asarray(images), np.asarray(adv_images)
    if images.shape != adv_images.shape or images.ndim != 4 or not len(images):
        raise ValueError(
            "images and adv_images must have one shape [num, height, width, channels],"
            f" num at least 1; got {images.shape} and {adv_images.shape}"
        )
    largest = float(np.abs(adv_images - images).max())
    factor = 0.5 / largest if largest else 1.0
    rows = (
        ("clean", images),
        ("adversarial", adv_images),
        (f"difference\n$\\times$ {factor:.3g}", 0.5 + factor * (adv_images - images)),
    )
    num = len(images)
    with style.drawing(path, (num + 1.0, 3.7), rows=3, columns=num) as (_, all_axes):
        for row, (title, pictures) in enumerate(rows):
            for axes, picture in zip(all_axes[row * num :], pictures, strict=False):
                _show(axes, picture)
            all_axes[row * num].set_ylabel(title, rotation=0, ha="right", va="center")
        for column, (label, prediction) in enumerate(
            zip(labels, predictions, strict=True)
        ):
            name, said = (_name(number, label_names) for number in (label, prediction))
            broken = int(label) != int(prediction)
            _caption(all_axes[column], name, "#222222")
            _caption(
                all_axes[num + column],
                f"read as {said}" if broken else f"still {said}",
                style.BAD if broken else style.GOOD,
            )
    return pathlib.Path(path)


def _show(axes: Axes, picture: np.ndarray) -> None:
    # imshow repeats no channel: a grey image must lose its own.
    pixels = picture[..., 0] if picture.shape[-1] == 1 else picture
    axes.imshow(np.clip(pixels, 0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _caption(axes: Axes, text: str, color: str) -> None:
    axes.set_title(text, loc="center", fontsize=8, fontweight="normal", color=color)


def _name(label: int, label_names: Sequence[str] | None) -> str:
    return str(int(label)) if label_names is None else label_names[int(label)]
