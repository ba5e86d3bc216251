"""The paper's numbers, and how certain each is: Pang et al., ICLR 2020, tables 1 and 2.

They were recalled, not read off the paper: orientation, and no test compares with them.
Data set -> model -> column, or column and radius -> (number, certainty). Accuracies are
fractions, distances l2 in pixels of [0, 1].
"""

from typing import Any

_MEDIUM = "recalled, less sure"
_TABLE_1 = "recalled, fairly sure"
_CHECKED = "recalled; agrees with what RobustBench quotes"
_BELOW = "or less, as the paper has it; recalled"
_LOW = "recalled, unsure"

_PGD = ("pgd-10-tar", "pgd-10", "pgd-50-tar", "pgd-50")
_RADII = ("8/255", "16/255")
# Clean; then the four columns at 8/255 and at 16/255. None: at most 1 %.
_WHITE_BOX = {
    "softmax": (92.9, None, 3.7, None, 3.6, None, 2.9, None, 2.6),
    "center": (92.8, None, 4.4, None, 4.3, None, 3.1, None, 2.9),
    "mmlda": (92.4, None, 16.5, None, 9.7, None, 6.7, None, 5.5),
    "lgm": (92.5, 37.6, 19.8, 8.9, 4.9, 26.0, 11.0, 2.5, 2.8),
    "mmc-random": (92.3, 43.5, 29.2, 20.9, 18.4, 31.3, 17.9, 8.6, 11.6),
    "mmc": (92.7, 48.7, 36.0, 26.6, 24.8, 36.1, 25.2, 13.4, 17.5),
    "at-softmax-tar": (83.7, 70.6, 49.7, 69.8, 47.8, 48.4, 26.7, 31.2, 16.0),
    "at-mmc-tar": (83.0, 69.2, 54.8, 67.0, 53.5, 58.6, 47.3, 44.7, 45.1),
    "at-softmax": (80.9, 69.8, 55.4, 69.4, 53.9, 53.3, 34.1, 38.5, 21.5),
    "at-mmc": (81.8, 70.8, 56.3, 70.1, 55.0, 54.7, 37.4, 39.9, 27.7),
}
# C&W targeted and not; SPSA likewise at 8/255 and at 16/255; noise, rotation.
_OTHERS = {
    "softmax": (0.12, 0.07, 12.3, 1.2, 5.1, None, 52.0, 83.5),
    "center": (0.13, 0.07, 21.2, 6.0, 10.6, 2.0, 55.4, 84.9),
    "mmlda": (0.17, 0.10, 25.6, 13.2, 11.3, 5.7, 57.9, 84.8),
    "lgm": (0.23, 0.12, 61.9, 45.9, 46.1, 28.2, 59.2, 82.4),
    "mmc": (0.34, 0.17, 69.5, 56.9, 57.2, 41.5, 69.3, 87.2),
    "at-softmax-tar": (1.19, 0.63, 81.1, 67.8, 77.9, 59.4, 82.2, 76.0),
    "at-mmc-tar": (1.91, 0.85, 79.1, 69.2, 74.5, 62.7, 83.5, 75.2),
    "at-softmax": (1.26, 0.68, 78.8, 67.0, 73.7, 60.3, 78.9, 73.7),
    "at-mmc": (1.55, 0.73, 80.4, 69.6, 74.6, 62.4, 80.3, 75.8),
}


def _accuracy(percent: float | None, certainty: str) -> tuple[float, str]:
    return (0.01, _BELOW) if percent is None else (percent / 100, certainty)


def _cifar10() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    places = ["clean", *(f"{row} {radius}" for radius in _RADII for row in _PGD)]
    for model, numbers in _WHITE_BOX.items():
        table[model] = {
            place: _accuracy(number, _TABLE_1)
            for place, number in zip(places, numbers, strict=True)
        }
    spsa = [
        f"{row} {radius}" for radius in _RADII for row in ("spsa-10-tar", "spsa-10")
    ]
    for model, (targeted, untargeted, *accuracies) in _OTHERS.items():
        table[model] |= {"cw-tar": (targeted, _MEDIUM), "cw": (untargeted, _MEDIUM)}
        table[model] |= {
            place: _accuracy(number, _MEDIUM)
            for place, number in zip(
                [*spsa, "noise", "rotation"], accuracies, strict=True
            )
        }
    table["at-mmc"]["pgd-50 8/255"] = (0.55, _CHECKED)
    return table


PUBLISHED: dict[str, dict[str, dict[str, tuple[float, str]]]] = {
    "cifar10": _cifar10(),
    "cifar100": {
        "softmax": {"clean": (0.729, _LOW)},
        "mmc": {"clean": (0.719, _LOW), "pgd-10 8/255": (0.24, _LOW)},
    },
}
