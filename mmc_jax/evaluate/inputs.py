"""What the command line gives and takes: functions by name, fractions, JSON files."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import ml_collections
import numpy as np

from mmc_jax import data
from mmc_jax.models.heads import LINEAR_HEADS
from mmc_jax.types import LogitsFn


def load_logits_fn(spec: str) -> LogitsFn:
    """Import a classifier by name.

    Args:
      spec: `package.module:function`; the function maps images to logits.

    Returns:
      The function.

    Raises:
      ValueError: if there is no such module or function; it says which.
    """
    module_name, _, function_name = spec.partition(":")
    if not module_name or not function_name or module_name.startswith("."):
        raise ValueError(f"logits_fn must be package.module:function, got {spec!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise ValueError(
            f"logits_fn {spec!r}: no module named {error.name!r}; it is looked for"
            " among what is installed and in the current directory"
        ) from error
    logits_fn = getattr(module, function_name, None)
    if not callable(logits_fn):
        raise ValueError(
            f"logits_fn {spec!r}: {module_name} has no function {function_name!r}"
        )
    return logits_fn


def parse_number(text: str, name: str) -> float:
    """Read a number as people type radii: `8/255`, `0.3`.

    Args:
      text: the number.
      name: what to call it in a message.

    Returns:
      The number.

    Raises:
      ValueError: if it is neither a number nor a fraction.
    """
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(
            f"{name} must be a number or a fraction such as 8/255, got {text!r}"
        ) from error


def parse_radius(text: str | None, name: str) -> float:
    """Read the radius of a ball.

    Args:
      text: the number, as for `parse_number`; None where it was not given.
      name: what to call it in a message.

    Returns:
      The radius, at least 0.

    Raises:
      ValueError: if it is missing, no number, or negative.
    """
    if text is None:
        raise ValueError(f"{name} is missing: a radius such as 8/255 or 0.3")
    radius = parse_number(text, name)
    if radius < 0:
        raise ValueError(f"{name}={text} must be at least 0")
    return radius


def first_images(num_images: int, num_wanted: int | None, most: int) -> slice:
    """Say which images are judged: so many, from the first on.

    Args:
      num_images: how many there are.
      num_wanted: how many are asked for; 0 is all, None all but at most `most`.
      most: how many that is.

    Returns:
      What to take of an array.

    Raises:
      ValueError: if more are asked for than there are.
    """
    if num_wanted is None:
        num_wanted = min(most, num_images)
    if num_wanted > num_images:
        raise ValueError(
            f"--num_images={num_wanted}, but there are {num_images}; 0 takes all"
        )
    return slice(num_wanted or None)


def choose_suite(
    suites: Mapping[str, Any], name: str, *, head: str | None = None
) -> str:
    """Choose a suite of attacks by name; AutoAttack's is another on distances.

    Args:
      suites: by name; where `NAME-mmc` is there, it is NAME's for distances.
      name: what was asked for.
      head: of the model; None where it is not known.

    Returns:
      The suite's name.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in suites:
        raise ValueError(f"unknown --suite={name}; accepted: {', '.join(suites)}")
    own = f"{name}-mmc"
    by_distance = head is not None and head not in LINEAR_HEADS
    return own if by_distance and own in suites else name


def parse_output(text: str | os.PathLike[str], suffix: str, name: str) -> pathlib.Path:
    """Read the name of a file that is to be written.

    Args:
      text: the path.
      suffix: what it must end in, such as `.json`.
      name: what to call it in a message.

    Returns:
      The path.

    Raises:
      ValueError: if it ends in something else, or is a directory.
    """
    path = pathlib.Path(text)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"{name}={path} must be a file NAME{suffix}")
    return path


def load_split(
    config: ml_collections.ConfigDict, name: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Read the images that a run of ours is judged on.

    Args:
      config: of the run.
      name: `test` or `validation`.

    Returns:
      Images, float32 in [0, 1], labels, and a description of where they come from.
    """
    splits = data.load(
        config.dataset,
        data_dir=config.data_dir or None,
        validation_size=config.validation_size,
    )
    split = splits.test if name == "test" else splits.validation
    source = f"{name} split of {config.dataset} ({splits.source})"
    if splits.is_subset:
        source += ", a part of the published data set: no result on it"
    images = split.images.astype(np.float32) / np.float32(255)
    return images, split.labels, source


def write_json(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write plain data, whole or not at all; missing directories are made.

    Args:
      content: what to write.
      path: the file.
    """
    write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a text, whole or not at all; missing directories are made.

    Args:
      text: what to write.
      path: the file.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of one process alone: two that write the same file must not mix.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)
