"""What the cells of an experiment measure, and that committed ones are the plan's."""

from __future__ import annotations

import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import experiments as definitions
from mmc_jax import data, experiments
from mmc_jax.experiments import measures, store

_RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results" / "reproduce"
_NUM = 600


def _flat(images):
    return images.reshape(len(images), 2)


def _blind(images):
    """Steps too small to see the gradient of, and fine enough to be right."""
    return jnp.round(50 * _flat(images))


def _task(tmp_path, **models):
    generator = np.random.default_rng(0)
    pixels = (255 * generator.uniform(size=(_NUM, 1, 1, 2))).astype(np.uint8)
    labels = (pixels[:, 0, 0, 0] < pixels[:, 0, 0, 1]).astype(np.int32)
    part = data.ArrayDataset(pixels, labels)
    return experiments.Task(
        {name: types.SimpleNamespace(logits_fn=fn) for name, fn in models.items()},
        data.DataSplits("d", part, part, part, 2, "here"),
        seed=0,
        batch_size=64,
        journal=tmp_path / "journal",
        progress=lambda done: None,
    )


def test_clean_accuracy_is_of_all_test_images(tmp_path):
    found = measures.measure_clean(_task(tmp_path, one=_flat))
    assert found["accuracy"]["total"] == _NUM and len(found["correct"]) == _NUM
    assert found["accuracy"]["count"] == found["correct"].count("1") > _NUM - 10


def test_each_attack_sees_every_image(tmp_path):
    rows = {name: dict(name="fgsm", objective="margin") for name in ("a", "b")}
    found = measures.measure_attacks(
        _task(tmp_path, one=_flat),
        rows=rows,
        epsilon="0.1",
        mode="individual",
        num_images=50,
    )
    assert found["mode"] == "individual"
    for row in found["rows"].values():
        assert row["accuracy"]["total"] == 50
        assert 0 < row["accuracy"]["count"] < 48


def test_who_crafted_and_who_judged_are_not_mixed_up(tmp_path):
    found = measures.measure_transfer(
        _task(tmp_path, sees=_flat, blind=_blind),
        attack=dict(name="fgsm"),
        epsilon="0.5",
        objectives=dict(sees="margin", blind="margin"),
        num_images=40,
    )
    correct = found["correct"]
    assert correct["sees"]["blind"].count("1") < 20
    assert correct["blind"]["sees"].count("1") > 20


def test_transfer_takes_every_step_and_spsa_is_adaptive():
    for cell in definitions.expand("transfer", "mnist", "laptop")["cells"]:
        attack = cell["settings"]["attack"]
        assert (attack["keep"], attack["stop_on_success"]) == ("last", False)
    rows = {
        cell["members"][0]: cell["settings"]["rows"]["spsa-10"]
        for cell in definitions.expand("table2", "mnist", "laptop")["cells"]
        if cell["cell"] == "spsa_0.1"
    }
    assert rows["mmc"]["objective"] == "own_class"
    assert rows["softmax"]["objective"] == "margin"


@pytest.mark.parametrize(("name", "num"), [("table1", 35), ("table2", 58)])
def test_committed_cells_are_those_that_the_plan_wants(name, num):
    plan = experiments.Plan(**definitions.expand(name, "mnist", "laptop"))
    folder = plan.folder(_RESULTS)
    there = [wanted for wanted in plan.wanted if wanted.path(folder).exists()]
    stale = [w.path(folder).name for w in there if store.read(plan, w, folder) is None]
    assert len(there) >= num and not stale
