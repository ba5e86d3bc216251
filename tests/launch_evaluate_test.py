"""The command that judges: what it prints, writes and refuses."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs.suites import SUITES
from mmc_jax import attacks, data, diagnostics, train
from mmc_jax.attacks import costs
from mmc_jax.evaluate import inputs, rows
from mmc_jax.types import ModelOutput

_SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "launch" / "evaluate.py"


@pytest.fixture(scope="module")
def launch():
    """Return the script as a module, its flags at their defaults."""
    spec = importlib.util.spec_from_file_location("launch_evaluate", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["evaluate.py"])
    return module


def linear_logits(images):
    """Return the left pixels' sum and the right ones'."""
    return images.sum(axis=(1, 3))


def shrink(logits_fn, key, images, labels, *, targets=None, epsilon):
    """Pull every pixel towards a grey image, as far as the ball goes."""
    return images - jnp.clip(images - 0.5, -epsilon, epsilon)


class _Model:
    """A model whose features are what a function makes of images."""

    def __init__(self, features_fn):
        self.features_fn = features_fn

    def apply(self, variables, images, *, train):
        assert not train and not variables
        return ModelOutput(self.features_fn(images), logits=None)


@pytest.fixture
def judge(launch, monkeypatch, tmp_path):
    """Run the command in a directory of its own, with one cheap attack."""
    monkeypatch.setitem(attacks.ATTACKS, "shrink", shrink)
    monkeypatch.setitem(costs.PASSES, "shrink", costs.PASSES["fgsm"])
    monkeypatch.setitem(SUITES, "quick", {"shrink": dict(name="shrink")})
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(9, 2, 2, 1), dtype=np.uint8)
    labels = np.asarray(linear_logits(images / 255.0)).argmax(axis=1)
    np.savez("test.npz", test_images=images, test_labels=labels)
    mine = dict(
        logits_fn=f"{__name__}:linear_logits",
        data="test.npz",
        epsilon="1/2",
        num_devices=1,
    )

    def run(**changes):
        chosen = {name: value for name, value in (mine | changes).items()}
        with flagsaver.flagsaver(progress=False, **chosen):
            launch.main(["evaluate.py"])

    return run


def test_any_model_is_judged(judge, tmp_path, capsys):
    judge(seed=7)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["clean"]["value"] == 1.0
    # Everything is grey now, and a tie is the first class.
    labels = np.load("test.npz")["test_labels"]
    assert record["worst_case"]["count"] == (labels == 0).sum()
    assert (record["epsilon"], record["num_examples"]) == (0.5, 9)
    assert (record["seed"], record["key"]["data"]) == (7, [0, 7])
    printed = capsys.readouterr().out
    # The attack, the clean image, the verdict, the verdict on 8 bits.
    assert "1 attacks: at most 4 forward and 1 backward passes" in printed
    assert printed.index("backward passes") < printed.index("worst case")
    worst = f"{100 * (labels == 0).mean():.1f}"
    assert worst in printed
    assert "evaluation.json" in printed and "report.html" in printed
    page = (tmp_path / "report.html").read_text()
    assert f'<span class="value">{worst}</span>' in page
    assert f"{__name__}:linear_logits under attack" in page
    assert "the first clean images that an attack broke" in page


def test_the_battery_sweeps_the_first_images(judge, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        sys.modules[__name__],
        "linear_logits",
        lambda images: jnp.round(images.sum(axis=(1, 3))),
    )
    judge(battery=5)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    battery = record["battery"]
    assert battery["step_curve"]["total"] == 5
    assert (battery["norm"], battery["epsilon"]) == ("linf", 0.5)
    assert battery["black_box_accuracy"] is not None
    # Rounding has no gradient: what the battery says of it stands in the record's list,
    # in the table and on the page.
    found = [finding["name"] for finding in battery["findings"]]
    assert "zero_gradient" in found
    assert all(finding in record["findings"] for finding in battery["findings"])
    assert "zero_gradient" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Is it the gradient that is missing?" in page


@pytest.mark.parametrize(
    ("norm", "dual", "rows"),
    [
        ("linf", 4, ["deep-fool", "fab-t"]),
        ("l2", 2, ["deep-fool", "fab-t", "cw"]),
        ("l1", 1, ["fab-t", "ead"]),
    ],
)
def test_distances_are_those_of_the_first_images(judge, tmp_path, norm, dual, rows):
    """On a linear model the nearest other class is |gap| / (dual norm of w) away."""
    judge(distances=6, norm=norm)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    gaps = np.diff(linear_logits(np.load("test.npz")["test_images"][:6] / 255.0))[:, 0]
    expected = np.median(np.abs(gaps) / dual)
    assert [*record["distances"]] == rows
    for found in record["distances"].values():
        assert (found["num_examples"], found["norm"]) == (6, norm)
        assert expected <= found["median_distance"] <= 1.05 * expected, found
        assert found["accuracy_curve"]["positions"][-1] == 2 * record["epsilon"]
    assert "Smallest distances" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(norm="l1"), "norm must be one of linf, l2, got 'l1'"),
        (dict(epsilon="0"), "above 0 and below 1, where the ball holds the box, got 0"),
        (dict(epsilon="2", norm="l2"), "below 2, where the ball holds the box"),
    ],
)
def test_the_battery_says_first_what_it_cannot_sweep(judge, capsys, wrong, message):
    with pytest.raises(SystemExit):
        judge(battery=5, **wrong)
    assert message in capsys.readouterr().err
    assert not pathlib.Path("evaluation.json").exists()


def test_an_interrupted_battery_leaves_the_evaluation(judge, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnostics, "gradient_masking_battery", interrupt)
    with pytest.raises(SystemExit) as stopped:
        judge(battery=5)
    assert stopped.value.code == 130
    assert "Interrupted. The same command goes on" in capsys.readouterr().out
    record = json.loads(pathlib.Path("evaluation.json").read_text())
    assert record["complete"] and "battery" not in record
    assert pathlib.Path("evaluation.journal").exists()


def test_pictures_cost_no_more_memory_than_allowed(judge, launch, monkeypatch):
    monkeypatch.setattr(launch, "_MOST_BYTES", 9 * 4 * 4 - 1)
    judge()
    assert "the first clean images" not in pathlib.Path("report.html").read_text()


def test_the_first_images_are_judged(judge):
    judge(num_images=4, out="some/where.json", mode="individual")
    record = json.loads(pathlib.Path("some/where.json").read_text())
    assert (record["num_examples"], record["mode"]) == (4, "individual")
    assert {path.name for path in pathlib.Path("some").iterdir()} == {
        "where.json",
        "where.report.html",
    }
    with pytest.raises(SystemExit):
        judge(num_images=10)


def test_probabilities_are_warned_of(judge, capsys, monkeypatch):
    monkeypatch.setattr(
        sys.modules[__name__],
        "linear_logits",
        lambda images: jax.nn.softmax(images.sum(axis=(1, 3))),
    )
    judge()
    assert "probabilities_as_logits" in capsys.readouterr().out


@pytest.fixture
def tired(judge, monkeypatch):
    """Add an attack that is interrupted at those of its first calls that this says."""
    interruptions = [True]

    def tired(logits_fn, key, images, labels, *, targets=None, epsilon):
        if not isinstance(images, jax.core.Tracer):
            if interruptions and interruptions.pop(0):
                raise KeyboardInterrupt
        return images

    monkeypatch.setitem(attacks.ATTACKS, "tired", tired)
    monkeypatch.setitem(costs.PASSES, "tired", costs.PASSES["fgsm"])
    monkeypatch.setitem(SUITES["quick"], "tired", dict(name="tired"))
    return interruptions


def test_an_interruption_writes_what_was_done_and_says_how_to_go_on(
    judge, tired, capsys, monkeypatch
):
    restarts = ["--restart", "--restart=true"]
    command = ["launch/evaluate.py", "--logits_fn=a b", *restarts]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        judge(mode="individual")
    assert caught.value.code == 130
    record = json.loads(pathlib.Path("evaluation.json").read_text())
    assert not record["complete"]
    assert [row["complete"] for row in record["rows"].values()] == [True, False]
    printed = capsys.readouterr().out
    assert "Interrupted after 1 of 2 attacks" in printed
    assert "To go on:\n    python launch/evaluate.py '--logits_fn=a b'\n" in printed
    assert "at most" in printed and "(unfinished)" in printed
    assert "was interrupted" in pathlib.Path("report.html").read_text()


def test_the_same_command_goes_on(judge, tired, capsys, tmp_path, monkeypatch):
    tired[:] = [False, True]
    num_runs = []

    def counted(logits_fn, key, images, labels, *, targets=None, epsilon):
        if not isinstance(images, jax.core.Tracer):
            num_runs[-1] += 1
        return shrink(logits_fn, key, images, labels, epsilon=epsilon)

    monkeypatch.setitem(attacks.ATTACKS, "shrink", counted)

    def run(**changes):
        num_runs.append(0)
        judge(mode="individual", batch_size=5, out="here.json", **changes)

    journal = tmp_path / "here.journal"
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            run()
        assert caught.value.code == 130 and journal.exists()
        tired[:] = [True]
    with pytest.raises(SystemExit) as caught:
        run(epsilon="1/4")
    assert caught.value.code == 2
    assert "epsilon: 0.5 there, 0.25 now); to begin anew" in capsys.readouterr().err
    tired.clear()
    run()
    assert num_runs == [2, 0, 0, 0]
    record = json.loads((tmp_path / "here.json").read_text())
    assert record["complete"] and not journal.exists()
    assert all(row["num_attacked"] == 9 for row in record["rows"].values())


def test_an_evaluation_begins_anew_or_without_a_journal(judge, tired, tmp_path):
    journal = tmp_path / "evaluation.journal"
    with pytest.raises(SystemExit):
        judge(mode="individual")
    assert journal.exists()
    judge(epsilon="1/4", restart=True)  # refused, were the journal not removed
    assert not journal.exists()
    tired[:] = [True]
    with pytest.raises(SystemExit):
        judge(mode="individual", journal="")
    assert not journal.exists()


@pytest.mark.needs_eight_devices
def test_all_devices_are_used(judge, tmp_path):
    judge(num_devices=None)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert (record["num_devices"], record["batch_size"]) == (8, 16)


def test_saved_images_are_judged_afresh(judge, tmp_path, capsys):
    judge(save_images="adv.npz", num_images=8)
    record = json.loads((tmp_path / "evaluation.json").read_text())
    accuracy = f"robust accuracy {record['worst_case']['count']} of 8"
    assert "The adversarial images are in adv.npz" in capsys.readouterr().out
    judge(images="adv.npz", epsilon=None)
    printed = capsys.readouterr().out
    assert accuracy in printed and "All agrees with the record" in printed
    judge(images="adv.npz", out="none.json")
    assert "There is no record in none.json" in capsys.readouterr().out
    with np.load("adv.npz") as content:
        changed = dict(content)
    changed["adv_images"][3] = 1.5
    np.savez("adv.npz", **changed)
    with pytest.raises(SystemExit) as caught:
        judge(images="adv.npz")
    printed = capsys.readouterr().out
    assert caught.value.code == 1
    assert "1 outside the box" in printed and "DISAGREES: the images are not" in printed
    changed["example_ids"] = changed["example_ids"] + 5
    np.savez("adv.npz", **changed)
    with pytest.raises(SystemExit) as caught:
        judge(images="adv.npz")
    assert caught.value.code == 2
    assert "adv.npz has image 12, but test.npz only 9" in capsys.readouterr().err


def test_a_work_directory_is_judged_on_its_own_data(judge, monkeypatch, tmp_path):
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)

    def logits_fn(images):
        return images.reshape(len(images), 64) @ weights

    config = ml_collections.ConfigDict(
        dict(
            dataset="digits",
            data_dir="",
            validation_size=100,
            loss=dict(name="mmc"),
        )
    )
    asked = []

    model = _Model(lambda images: images[:, :2, 4, 0])

    def load(workdir, *, checkpoint):
        asked.append((workdir, checkpoint))
        return model, {}, logits_fn, config

    monkeypatch.setattr(train, "load", load)
    workdir = tmp_path / "runs"
    options = dict(workdir=str(workdir), logits_fn=None, data=None)
    splits = data.load("digits", validation_size=100)
    for split, checkpoint in (("test", "best"), ("validation", "last")):
        judge(**options, split=split, checkpoint=checkpoint, num_images=60)
        images = getattr(splits, split).images[:60].astype(np.float32) / 255
        labels = getattr(splits, split).labels[:60]
        record = json.loads((workdir / "evaluation.json").read_text())
        correct = np.asarray(logits_fn(images)).argmax(axis=1) == labels
        assert record["clean"]["count"] == correct.sum()
        assert record["config"]["dataset"] == "digits"
        page = (workdir / "report.html").read_text()
        assert "Features of clean images, and where attacks took" in page
    assert asked == [(str(workdir), "best"), (str(workdir), "last")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(logits_fn=None), "give either --workdir"),
        (dict(workdir="runs/a"), "give either --workdir"),
        (dict(data=None), "--logits_fn needs --data"),
        (dict(data="none.npz"), "none.npz"),
        (
            dict(logits_fn="linear_logits"),
            "package.module:function, got 'linear_logits'",
        ),
        (dict(logits_fn=".mine:thing"), "package.module:function, got '.mine:thing'"),
        (dict(logits_fn="no.such:thing"), "no module named 'no'"),
        (dict(logits_fn="json:loads"), "takes no batch of images"),
        (dict(logits_fn="json:thing"), "json has no function 'thing'"),
        (
            dict(suite="strong"),
            "unknown --suite=strong; accepted: quick, paper, autoattack,",
        ),
        (dict(images="none.npz"), "none.npz"),
        (dict(epsilon=None), "--epsilon is missing"),
        (dict(epsilon="8 of 255"), "--epsilon must be a number or a fraction"),
        (dict(epsilon="1/0"), "--epsilon must be a number or a fraction"),
        (dict(epsilon="1e400"), "--epsilon must be a number or a fraction"),
        (dict(out="eps0.02"), "--out=eps0.02 must be a file NAME.json"),
        (dict(epsilon="-0.1"), "--epsilon=-0.1 must be at least 0"),
        (dict(num_images=10), "--num_images=10, but there are 9"),
        (dict(logits_fn=None, data=None, workdir="runs/none"), "runs/none"),
    ],
)
def test_bad_values_are_one_line_and_status_2(changes, message, judge, capsys):
    with pytest.raises(SystemExit) as caught:
        judge(**changes)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_module_that_misses_something_is_not_taken_for_missing(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        inputs.load_logits_fn("needy:f")


def test_the_command_line_itself(tmp_path):
    """Flags that absl checks, from another directory: no traceback, and help."""
    (tmp_path / "mine.py").write_text("def f(images):\n    return images\n")

    def run(*options):
        command = [sys.executable, str(_SCRIPT), *options]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    bad = run("--batch_size=0")
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ") and "batch_size" in bad.stderr
    assert "Traceback" not in bad.stderr and len(bad.stderr.splitlines()) == 1
    found = run("--logits_fn=mine:f", "--data=none.npz", "--epsilon=8/255")
    assert found.returncode == 2 and "none.npz" in found.stderr
    shown = run("--help")
    assert "--logits_fn=package.module:function" in shown.stdout
    assert "--[no]progress" in shown.stdout


def _stand_in(
    logits_fn, key, images, labels, *, targets=None, epsilon, objective="margin"
):
    return images


@pytest.fixture
def auto_attack(monkeypatch):
    """Have every attack of AutoAttack's suites, if only in name."""
    for row in SUITES["autoattack-mmc"].values():
        monkeypatch.setitem(attacks.ATTACKS, row["name"], _stand_in)
        monkeypatch.setitem(costs.PASSES, row["name"], costs.PASSES["fgsm"])


def test_auto_attack_is_the_published_one():
    names = [row["name"] for row in SUITES["autoattack"].values()]
    assert names == ["apgd", "apgd_targeted", "fab_targeted", "square"]
    assert SUITES["autoattack"]["apgd-ce"]["objective"] == "cross_entropy"
    rows = list(SUITES["autoattack-mmc"].items())
    assert rows[:4] == list(SUITES["autoattack"].items())
    assert rows[4:] == [
        ("multi-targeted", {"name": "multi_targeted"}),
        ("multi-targeted-own", {"name": "multi_targeted", "objective": "own_class"}),
    ]


@pytest.mark.parametrize(
    ("loss", "suite"), [("mmc", "autoattack-mmc"), ("softmax", "autoattack")]
)
def test_auto_attack_fits_the_head(loss, suite, judge, auto_attack, monkeypatch):
    config = ml_collections.ConfigDict(dict(loss=dict(name=loss)))
    model = _Model(lambda images: images.sum(axis=(1, 3))[:, :1])
    loaded = (model, {}, linear_logits, config)
    monkeypatch.setattr(train, "load", lambda workdir, *, checkpoint: loaded)
    judge(workdir="runs", logits_fn=None, suite="autoattack")
    record = json.loads(pathlib.Path("runs/evaluation.json").read_text())
    assert record["suite"] == suite
    assert list(record["rows"]) == list(SUITES[suite])
    # One feature is no plane; attacks that change nothing break nothing.
    page = pathlib.Path("runs/report.html").read_text()
    assert "Features of clean images" not in page
    assert "The attacks break no image of runs." in page


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_suites_bind_and_compare_objectives(name):
    bound = rows.bind_rows(SUITES[name], norm="linf", epsilon=0.1, bounds=(0.0, 1.0))
    objectives = {
        row.hyperparameters["objective"]
        for row in bound
        if row.attack_name == "pgd" and not row.targeted
    }
    assert {"cross_entropy", "own_class"} <= objectives
    assert {row.attack_name for row in bound if not row.in_worst_case} == {
        "gaussian_noise",
        "rotation",
    }
    for row in bound:
        if row.hyperparameters.get("objective") == "pairwise_margin":
            assert row.targeted
