"""Shifts, flips and rotations of one image: bilinear, edges filled by the nearest.

The settings are those of Pang et al., ICLR 2020, Section 4 (training augmentation by
shifts of 10 % and flips; evaluation under rotations of up to 30 degrees), whose data
generator interpolates linearly and fills with the nearest pixel.
"""

from __future__ import annotations

import math

import numpy as np


def bilinear(image: np.ndarray, row: float, column: float) -> np.ndarray:
    """Return the pixel at a real position, clamped to the image, `[channels]`."""
    height, width, _ = image.shape
    row = min(max(row, 0.0), height - 1.0)
    column = min(max(column, 0.0), width - 1.0)
    top, left = int(math.floor(row)), int(math.floor(column))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = row - top, column - left
    upper = (1.0 - across) * image[top, left] + across * image[top, right]
    lower = (1.0 - across) * image[bottom, left] + across * image[bottom, right]
    return (1.0 - down) * upper + down * lower


def shift_and_flip(
    image: np.ndarray, rows: float, columns: float, flip: bool
) -> np.ndarray:
    """Return `out[i, j] = in[i + rows, j' + columns]`, j' = j or its mirror image.

    Pang et al., ICLR 2020, Section 4, data augmentation.
    """
    height, width, _ = image.shape
    result = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            source = (width - 1 - j) if flip else j
            result[i, j] = bilinear(image, i + rows, source + columns)
    return result


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate around the image's center, ((height - 1) / 2, (width - 1) / 2).

    `out[c + p] = in[c + R p]` with R = [[cos, -sin], [sin, cos]] on (row, column).
    Pang et al., ICLR 2020, Section 4, general transformations; Engstrom et al., ICML
    2019.
    """
    height, width, _ = image.shape
    middle_row, middle_column = (height - 1) / 2.0, (width - 1) / 2.0
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    result = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            p, q = i - middle_row, j - middle_column
            row = middle_row + cosine * p - sine * q
            column = middle_column + sine * p + cosine * q
            result[i, j] = bilinear(image, row, column)
    return result
