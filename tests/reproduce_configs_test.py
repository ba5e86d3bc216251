"""Experiments by name: what they ask for, on which data, and what they refuse."""

from __future__ import annotations

import inspect
import json
import pathlib
import subprocess
import sys

import pytest

from configs import experiments as definitions
from configs import measurements, mnist
from configs.published import PUBLISHED
from mmc_jax import experiments, losses
from mmc_jax.attacks.costs import Passes
from mmc_jax.evaluate.cost import PassTimes
from mmc_jax.experiments import costs, estimate, kinds
from mmc_jax.experiments.convergence import measure_convergence
from mmc_jax.experiments.detection import measure_detection
from mmc_jax.experiments.extra_cost import measure_extra_cost
from mmc_jax.experiments.feature_paths import measure_feature_paths
from mmc_jax.experiments.toy import measure_toy
from mmc_jax.models.heads import LINEAR_HEADS
from mmc_jax.train import check_config

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Kind -> what takes its settings, but for those that its adapter turns into arrays.
_BEHIND_FIGURES = {
    "convergence": (measure_convergence, set()),
    "detection": (measure_detection, {"num_images"}),
    "extra_cost": (measure_extra_cost, set()),
    "feature_paths": (measure_feature_paths, set()),
    "toy": (measure_toy, set()),
}
_EXPERIMENTS = [
    (name, dataset)
    for name, spec in definitions.EXPERIMENTS.items()
    for dataset, facts in definitions.DATASETS.items()
    if not set(spec.get("needs", ())) - set(facts["has"])
]


@pytest.mark.parametrize("scale", measurements.SCALES)
def test_every_config_is_accepted(scale):
    configs = {}
    for name, dataset in _EXPERIMENTS:
        for model, config in definitions.expand(name, dataset, scale)[
            "configs"
        ].items():
            configs[dataset, model] = config
    for config in configs.values():
        config.num_devices = 1
        check_config(config)
    assert {model for _, model in configs} == set(definitions.MODELS)


@pytest.mark.parametrize("scale", measurements.SCALES)
def test_every_measurement_can_be_bound(scale):
    seen = set()
    for name, dataset in _EXPERIMENTS:
        for cell in definitions.expand(name, dataset, scale)["cells"]:
            text = json.dumps([cell["kind"], cell["settings"]])
            if text not in seen:
                seen.add(text)
                if cell["kind"] in _BEHIND_FIGURES:
                    measure, own = _BEHIND_FIGURES[cell["kind"]]
                    accepted = {*inspect.signature(measure).parameters} | own
                    assert {*cell["settings"]} <= accepted
                    continue
                passes, num = kinds.KINDS[cell["kind"]].passes(10, **cell["settings"])
                assert passes.forward >= 1 and num >= 0
    assert {json.loads(text)[0] for text in seen} == set(kinds.KINDS)


def test_one_name_is_one_measurement():
    """Experiments share cells: the same name must never have two settings."""
    for dataset in definitions.DATASETS:
        asked = {}
        for name in (name for name, on in _EXPERIMENTS if on == dataset):
            plan = experiments.Plan(**definitions.expand(name, dataset, "laptop"))
            for wanted in plan.wanted:
                place = wanted.path(pathlib.Path())
                identity = plan.identity(wanted)
                assert asked.setdefault(place, identity) == identity, place


@pytest.mark.parametrize(
    ("experiment", "model", "seed", "expected"),
    [
        ("table1", "mmc", 0, 1000),
        ("table1", "mmc", 1, 200),
        ("adversarial", "trades-mmc", 0, 300),
        ("adversarial", "trades-mmc", 2, 200),
    ],
)
def test_the_strongest_attack_gets_as_many_images_as_a_scale_says(
    experiment, model, seed, expected
):
    plan = experiments.Plan(**definitions.expand(experiment, "mnist", "laptop"))
    sizes = {
        wanted.settings["num_images"]
        for wanted in plan.wanted
        if (wanted.group, wanted.seed) == (model, seed)
        and wanted.cell.startswith("strongest")
    }
    assert sizes == {expected}


def test_linear_losses_are_those_with_linear_heads():
    linear = [name for name in losses.LOSSES if losses.head_of(name) in LINEAR_HEADS]
    assert sorted(measurements.LINEAR_LOSSES) == sorted(linear)


def test_what_is_published_has_a_column_and_a_model():
    columns = {c for spec in definitions.EXPERIMENTS.values() for c in _columns(spec)}
    for table in PUBLISHED.values():
        assert set(table) <= set(definitions.MODELS)
        assert {place.split(" ")[0] for m in table.values() for place in m} <= columns


def _columns(spec):
    return (*spec.get("columns", ()), "cw", "cw-tar", "noise", "rotation")


def test_the_paper_attacks_as_the_reference_says():
    plan = experiments.Plan(**definitions.expand("table1", "cifar10", "full"))
    cells = {w.cell: w for w in plan.wanted if (w.group, w.seed) == ("mmc", 0)}
    row = cells["pgd_8-255"].settings["rows"]["pgd-50-tar"]
    assert row["step_size"] == 2 / 255 and row["num_steps"] == 50 and row["targeted"]
    assert row["objective"] == "own_class" and row["keep"] == "last"
    assert "multi-targeted" in cells["strongest_8-255"].settings["rows"]
    softmax = {w.cell: w for w in plan.wanted if (w.group, w.seed) == ("softmax", 0)}
    rows = softmax["pgd_8-255"].settings["rows"].values()
    assert {row["objective"] for row in rows} == {"cross_entropy"}
    assert "multi-targeted" not in softmax["strongest_8-255"].settings["rows"]
    config = plan.config("mmc", 2)
    assert (config.num_epochs, config.seed, config.model.name) == (
        200,
        2,
        "resnet32_v2",
    )


def test_the_long_version_of_c_and_w_is_of_two_models_and_one_seed():
    cells = definitions.expand("table2", "mnist", "laptop")["cells"]
    long = [(c["members"], c["seed"]) for c in cells if c["cell"] == "cw-long"]
    assert long == [(("softmax",), 0), (("mmc",), 0)]


def test_clean_accuracy_is_measured_where_a_table_shows_it():
    for name, spec in definitions.EXPERIMENTS.items():
        is_shown = "clean" in spec.get("columns", ())
        assert ("clean" in spec["measure"]) == is_shown, name


def test_what_data_cannot_carry_is_left_out_or_refused():
    left_out = definitions.expand("variants", "mnist", "smoke")["left_out"]
    assert left_out == {"HMM-10 (hierarchical)": "it needs coarse labels"}
    assert not definitions.expand("variants", "cifar100", "smoke")["left_out"]
    with pytest.raises(ValueError, match="needs deep networks.*cifar10, cifar100"):
        definitions.expand("depth", "mnist", "smoke")


@pytest.mark.parametrize(
    ("names", "chosen", "message"),
    [
        (("tabel", "mnist", "smoke"), {}, "--experiment: tabel; accepted: table1, "),
        (("table1", "svhn", "smoke"), {}, "--dataset: svhn; accepted: digits, mnist"),
        (("table1", "mnist", "huge"), {}, "--scale: huge; accepted: smoke, laptop"),
        (("table1", "mnist", "laptop"), {"seeds": (3,)}, "laptop: 3; accepted: 0, 1"),
        (("table1", "mnist", "smoke"), {"models": ("vgg",)}, "vgg; accepted: softmax"),
        (("transfer", "mnist", "smoke"), {"models": ("mmc",)}, "takes no --models"),
        (("table1", "mnist", "smoke"), {"models": ()}, "--models is empty"),
        (("table1", "mnist", "smoke"), {"seeds": ()}, "--seeds is empty"),
    ],
)
def test_unknown_names_are_refused(names, chosen, message):
    with pytest.raises(ValueError, match=message):
        definitions.expand(*names, **chosen)


def test_a_bad_flag_is_one_line():
    command = [sys.executable, "launch/reproduce.py", "--experiment=tabel"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: unknown --experiment: tabel; accepted: ")
    assert done.stderr.count("\n") == 1


_DIVERGING = """
import runpy, sys
from mmc_jax import experiments
from mmc_jax.train import NonFiniteLossError

def diverge(*args, **kwargs):
    raise NonFiniteLossError("mmc_0: the loss is nan")

experiments.do_work = diverge
sys.argv = ["launch/reproduce.py", *sys.argv[1:]]
runpy.run_path("launch/reproduce.py", run_name="__main__")
"""


def test_a_diverged_training_fails_after_the_page_is_written(tmp_path):
    options = ["--experiment=table1", "--dataset=digits", "--noestimate"]
    options += [f"--out={tmp_path}", f"--runs={tmp_path}"]
    command = [sys.executable, "-c", _DIVERGING, *options]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: mmc_0: the loss is nan"
    assert (tmp_path / "digits" / "smoke" / "table1.html").exists()


def test_passes_are_counted_by_hand():
    rows = {
        "pgd": dict(name="pgd", num_steps=10, keep="last"),
        "square": dict(name="square", num_queries=7),
    }
    settings = dict(rows=rows, epsilon="8/255", mode="individual", num_images=5)
    # The clean image; 10 gradients; a start and 7 queries; two verdicts on each.
    assert costs.attack_passes(10, **settings) == (Passes(1 + 12 + 10, 10), 5)
    for arg, passes in (
        ("loss=mmc", Passes(0, 0)),
        ("loss=mmc,adv=pgd", Passes(10, 10)),
        ("loss=mmc,adv=pgd,targeted,papers_choices", Passes(10, 10)),
        ("loss=mmc,adv=pgd,recipe=trades", Passes(11, 10)),
    ):
        assert costs.crafting_passes(mnist.get_config(arg)) == passes, arg


def test_time_is_passes_of_whole_batches():
    times = PassTimes(2.0, 5.0, 0.0, None)
    pace = estimate._Pace(1.0, times, batch_size=4)
    assert pace.seconds(Passes(3, 1), 9) == 3 * (3 * 2.0 + 5.0)
