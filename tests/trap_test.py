"""The trap: plain MMC looks robust to cross-entropy PGD, and must not be believed.

Cross-entropy on distance logits saturates: its gradient is exactly zero in float32 on
almost every image, PGD never leaves its random start, and accuracy stays high. In
every run of the tests, that of the quickstart looks for it too.
"""

import jax
import numpy as np
import pytest

import mmc_jax
from configs import digits
from mmc_jax import data, report
from mmc_jax.evaluate import robust_accuracy
from mmc_jax.train import train

ROWS = {
    objective: dict(name="pgd", objective=objective, num_steps=20)
    for objective in ("cross_entropy", "margin", "own_class")
}


@pytest.fixture(scope="module", params=["mmc", "softmax"])
def judged(request, tmp_path_factory):
    """Train on real digits for some seconds; attack with every objective."""
    config = digits.get_config(f"loss={request.param}")
    config.num_epochs = 20
    config.optimizer.boundaries = (15,)
    config.num_devices = 1
    workdir = tmp_path_factory.mktemp(request.param)
    train(config, workdir, progress=False)
    test = data.load("digits", validation_size=200).test
    record = robust_accuracy(
        mmc_jax.load(workdir)[2],
        np.float32(test.images / 255)[:200],
        test.labels[:200],
        ROWS,
        jax.random.key(0),
        norm="linf",
        epsilon=0.15,
        mode="individual",
        batch_size=200,
    )
    return request.param, record


@pytest.mark.verify
def test_cross_entropy_is_flagged_where_it_is_blind_and_nowhere_else(judged):
    loss, record = judged
    accuracy = {row.name: row.accuracy.value for row in record.rows}
    best = min(accuracy["margin"], accuracy["own_class"])
    flagged = {f.name for f in record.findings if f.row == "cross_entropy"}
    zero = record.zero_gradient_fractions["cross_entropy"]
    assert record.clean.value > 0.9
    if loss == "mmc":
        assert accuracy["cross_entropy"] - best > 0.1, accuracy
        assert zero > 0.5
        assert flagged == {"zero_gradient", "objective_disagreement"}
        assert "zero_gradient" in report.render({"MMC": record})
    else:
        assert zero < 0.05
        assert not flagged, record.findings
    assert record.worst_case.value <= best
