"""Every command and snippet that people read runs, and every link leads somewhere."""

import json
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from mmc_jax import attacks

ROOT = pathlib.Path(__file__).parents[1]
README, ATTACKS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "ATTACKS.md")
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def run(*command, **kwargs) -> str:
    """Run a program of the checkout in this environment; return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_command_is_known_here():
    first_words = {" ".join(command.split()[:2]) for command in commands()}
    assert first_words == {
        "make quickstart",
        "make test",  # what runs this very test
        "python launch/train.py",
        "python launch/evaluate.py",
        "python -m",
    }


def test_training_and_judging(tfds_dir, tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tfds_dir)}
    scripts = [c for c in commands() if c.startswith("python launch/")]
    assert len(scripts) == 3
    for command in scripts:
        _, script, *flags = shlex.split(command)
        # As it stands, but shrunk, and written elsewhere.
        flags = [
            re.sub(r"^(--config=[^:]+:.*)", r"\1,runlocal", flag).replace(
                "--workdir=runs/", f"--workdir={tmp_path}/"
            )
            for flag in flags
        ]
        if "evaluate" in script:
            flags.append("--num_images=20")
        run(script, "--noprogress", *flags, env=environment)
    judged = json.loads((tmp_path / "mnist_mmc_adv" / "evaluation.json").read_text())
    assert judged["complete"] and judged["num_examples"] == 20
    assert judged["epsilon"] == 0.3 and len(judged["rows"]) > 2
    log = (tmp_path / "cifar10_mmc" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, log) if "loss" in line]
    assert losses and all(map(math.isfinite, losses))


def test_single_test_file():
    (command,) = (c for c in commands() if c.startswith("python -m"))
    run(*shlex.split(command)[1:], "-q", "-p", "no:cacheprovider")


@pytest.mark.parametrize("snippet", blocks("python") + blocks("python", ATTACKS))
def test_snippet_runs_as_it_stands(snippet):
    check = (
        "\ndistance = abs(adv_images - images).max()"
        "\nassert 0.9 * 8 / 255 < distance <= 8 / 255 * (1 + 1e-6), distance"
    )
    run("-c", snippet + check)


def test_quickstart(tmp_path):
    printed = run("launch/quickstart.py", f"--workdir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["models"]) == ["softmax", "MMC", "MMC, adversarial"]
    blind = {
        name
        for name, model in results["models"].items()
        if "zero_gradient" in {found["name"] for found in model["findings"]}
    }
    assert "MMC" in blind and "softmax" not in blind
    rows = results["models"]["MMC"]["rows"]
    left = {name: row["accuracy"]["value"] for name, row in rows.items()}
    assert left["PGD, cross-entropy"] > left["PGD, margin"] + 0.1
    worst = {name: m["worst_case"]["value"] for name, m in results["models"].items()}
    assert worst["MMC, adversarial"] > worst["MMC"] + 0.2
    for name in results["models"]:
        assert name in printed
    assert "worst case" in printed and "results.json" in printed
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 4
    page = (tmp_path / "report.html").read_text()
    assert page.count('<img src="data:') == 6 and "Missing" not in page
    assert len(list(tmp_path.glob("*/checkpoints/*/commit_success.txt"))) >= 4


def test_a_quickstart_that_cannot_go_on_says_so_in_one_line(tmp_path):
    (tmp_path / "softmax").write_text("a file where a folder is to be")
    done = subprocess.run(
        [sys.executable, "launch/quickstart.py", f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_the_costs_are_of_every_attack():
    table = ATTACKS.split("## What an attack costs")[1].split("## From")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert {*attacks.ATTACKS} - {"gaussian_noise", "rotation"} <= named


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert len(links) > 5 and not missing, missing
