"""What a command judges: a run of ours, or anyone's function, and the images for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mmc_jax import data, train
from mmc_jax.evaluate import inputs
from mmc_jax.types import LogitsFn


class Subject(NamedTuple):
    """A classifier and the images that it is judged on."""

    logits_fn: LogitsFn
    images: np.ndarray
    """float32 `[num, height, width, channels]` in [0, 1]."""
    labels: np.ndarray
    source: str
    """Where the images come from."""
    loaded: tuple[Any, ...] | None
    """What `train.load` returned, of a run of ours."""


def load_subject(
    workdir: str | None,
    logits_fn: str | None,
    data_path: str | None,
    *,
    checkpoint: str,
    split: str,
) -> Subject:
    """Load what is to be judged.

    Args:
      workdir: a run of `launch/train.py`; or None, and `logits_fn` is given.
      logits_fn: `package.module:function`; needs `data_path`.
      data_path: an .npz with test images and labels; None takes the run's own data.
      checkpoint: `best` or `last`, of the run.
      split: `test` or `validation`, of the run's data.

    Returns:
      The subject.

    Raises:
      ValueError: for both or neither of a run and a function, and for what cannot be
        loaded.
    """
    if (workdir is None) == (logits_fn is None):
        raise ValueError(
            "give either --workdir, a run of launch/train.py, or --logits_fn, anyone's"
            " function package.module:function"
        )
    if logits_fn is not None:
        if data_path is None:
            raise ValueError("--logits_fn needs --data, an .npz to judge it on")
        function = inputs.load_logits_fn(logits_fn)
        return Subject(function, *data.load_test_arrays(data_path), data_path, None)
    loaded = train.load(workdir or "", checkpoint=checkpoint)
    _, _, function, config = loaded
    if data_path is not None:
        return Subject(function, *data.load_test_arrays(data_path), data_path, loaded)
    return Subject(function, *inputs.load_split(config, split), loaded)
