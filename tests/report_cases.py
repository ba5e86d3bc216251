"""Records of evaluations that never ran, for the tests of `mmc_jax.report`."""

from __future__ import annotations

import numpy as np

from mmc_jax import evaluate


def evaluation_record(*, robust, **changes) -> evaluate.EvaluationRecord:
    """Return a record of as many images as `robust` has, with no row but those given.

    All of them are right as they are, and on 8 bits what they are in full.
    """
    num = len(robust)
    known = dict(
        mode="individual",
        norm="linf",
        epsilon=0.1,
        bounds=(0.0, 1.0),
        num_classes=2,
        batch_size=8,
        num_devices=1,
        example_ids=np.arange(num, dtype=np.uint32),
        clean_correct=np.ones(num, bool),
        clean_invalid=np.zeros(num, bool),
        robust=robust,
        robust_8_bits=robust,
        rows=(),
        findings=(),
        zero_gradient_fractions={},
        images=None,
        sha256={},
        key={},
        environment={},
        seconds=1.0,
        complete=True,
    )
    return evaluate.EvaluationRecord(**{**known, **changes})
