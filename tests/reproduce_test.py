"""Experiments: what is kept of a measurement, and how a killed one goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import types

import jax
import ml_collections
import numpy as np
import pytest

from configs import experiments as definitions
from mmc_jax import data, experiments
from mmc_jax.evaluate import inputs
from mmc_jax.experiments import kinds, measures, store
from mmc_jax.report import Section, Text
from mmc_jax.train import NonFiniteLossError
from tests.reproduce_cases import SETTINGS, fill, make_plan, splits


def test_a_cell_of_other_settings_does_not_count(tmp_path):
    plan = make_plan([(("one",), 0, "noise", "attacks", SETTINGS)])
    (wanted,) = plan.wanted
    fill(plan, tmp_path, {("one", 0, "noise"): {"found": 1}})
    assert store.read(plan, wanted, tmp_path)["result"] == {"found": 1}
    for changed in (
        make_plan([(("one",), 0, "noise", "attacks", {**SETTINGS, "num_images": 5})]),
        make_plan([(("one",), 0, "noise", "clean", SETTINGS)]),
        make_plan(plan_cells(plan), configs=dict(plan.configs, one=_other_config())),
    ):
        assert store.read(changed, changed.wanted[0], tmp_path) is None
    moved = dict(plan.configs)
    moved["one"] = ml_collections.ConfigDict({**moved["one"], "data_dir": "elsewhere"})
    plan = make_plan(plan_cells(plan), configs=moved)
    assert store.read(plan, plan.wanted[0], tmp_path) is not None


def plan_cells(plan):
    """Return a plan's cells as `make_plan` takes them."""
    return [tuple(cell.values()) for cell in plan.cells]


def _other_config():
    return ml_collections.ConfigDict({"dataset": "digits", "seed": 0, "batch_size": 7})


@pytest.mark.parametrize("text", ['{"identity": ', "[]", '{"identity": {}}', "\x80"])
def test_a_damaged_cell_is_named(tmp_path, text):
    plan = make_plan([(("one",), 0, "noise", "attacks", SETTINGS)])
    path = plan.wanted[0].path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"one_0/noise\.json .*remove it to measure"):
        store.read(plan, plan.wanted[0], tmp_path)


def test_journals_are_told_apart_and_go_with_their_cell(tmp_path, monkeypatch):
    plan = make_plan([(("one",), 0, "noise", "attacks", SETTINGS)])
    path = plan.wanted[0].path(tmp_path)
    identity = plan.identity(plan.wanted[0])
    weights, sizes = {"one": "weights"}, {"test": 4}
    ours = store.journal_path(path, identity, weights, sizes)
    retrained = store.journal_path(path, identity, {"one": "others"}, sizes)
    changed = store.journal_path(path, {**identity, "seed": 1}, weights, sizes)
    enlarged = store.journal_path(path, identity, weights, {"test": 5})
    monkeypatch.setattr(store, "source_sha256", lambda: "of other code")
    mended = store.journal_path(path, identity, weights, sizes)
    assert len({ours, retrained, changed, enlarged, mended}) == 5
    neighbour = path.with_name("noise_2.abc.journal")
    for journal in (ours, retrained, neighbour):
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text("")
    fill(plan, tmp_path, {("one", 0, "noise"): {}})
    assert sorted(path.parent.iterdir()) == sorted([path, neighbour])


@pytest.fixture
def counted(monkeypatch):
    """Register a kind that needs no training, and count its measurements."""
    taken = []

    def measure(task, *, value):
        taken.append((task.subject.name, task.seed))
        task.progress(0.5)
        return {"value": value + task.seed}

    def section(found):
        return Section("A kind of its own", [Text(json.dumps(found))])

    kind = kinds.Kind(measure, section=section, trains=False)
    monkeypatch.setitem(kinds.KINDS, "counted", kind)
    return taken


def find_work(plan, tmp_path, parts):
    """Return what is left of a plan."""
    return experiments.find_work(plan, tmp_path / "out", tmp_path / "runs", parts)


def do_work(plan, tmp_path, parts=None, work=None):
    """Do what is left of a plan, and return what was reported."""
    told = []
    parts = parts or splits()
    work = work or find_work(plan, tmp_path, parts)
    experiments.do_work(
        work,
        parts,
        batch_size=2,
        report=lambda *said: told.append(said),
    )
    return told


def test_only_what_is_missing_is_measured(counted, tmp_path):
    cells = [((m,), s, "c", "counted", {"value": 3}) for s in (0, 1) for m in ("one",)]
    cells.append((("other",), 0, "c", "counted", {"value": 3}))
    told = do_work(make_plan(cells[:1]), tmp_path)
    assert [done for _, _, done in told] == [0.0, 0.5, 1.0]
    assert {name for name, _, _ in told} == {"one_0/c"}
    do_work(make_plan(cells), tmp_path)
    assert counted == [("one", 0), ("one", 1), ("other", 0)]
    assert not do_work(make_plan(cells), tmp_path) and len(counted) == 3
    cells[1] = (("one",), 1, "c", "counted", {"value": 4})
    do_work(make_plan(cells), tmp_path)
    assert counted[3:] == [("one", 1)]
    fewer = splits()
    fewer = dataclasses.replace(fewer, test=fewer.test.take(slice(5)))
    do_work(make_plan(cells[:1]), tmp_path, fewer)
    assert counted[4:] == [("one", 0)], "a cell of other data must not count"


def test_a_model_that_diverges_ends_nothing_else(counted, tmp_path, monkeypatch):
    kind = dataclasses.replace(kinds.KINDS["counted"], trains=True)
    monkeypatch.setitem(kinds.KINDS, "counted", kind)
    monkeypatch.setattr("mmc_jax.experiments.run._measure", _count_alone(counted))

    def train(subject, report):
        if subject.name == "one":
            raise NonFiniteLossError("the loss is nan")
        report(1.0)

    monkeypatch.setattr(experiments.Subject, "train", train)
    cells = [
        ((m,), 0, c, "counted", {"value": 3}) for m in ("one", "other") for c in "ab"
    ]
    with pytest.raises(NonFiniteLossError, match="^one_0: the loss is nan$"):
        do_work(make_plan(cells), tmp_path)
    assert counted == [("other", "a"), ("other", "b")]


def _count_alone(counted):
    def measure(work, wanted, *_):
        counted.append((wanted.group, wanted.cell))

    return measure


def test_a_cell_says_how_to_make_it_anywhere(counted, tmp_path):
    members = [("one",), ("one", "other"), ()]
    cells = [(who, 2, "c", "counted", {"value": 3}) for who in members]
    plan = make_plan(cells)
    whole = (
        "python launch/reproduce.py --experiment=trial --dataset=digits --scale=smoke"
        " --seeds=2"
    )
    commands = [plan.command_of(wanted) for wanted in plan.wanted]
    assert commands == [f"{whole} --models=one", whole, whole]
    alone = make_plan(cells[:1])
    do_work(alone, tmp_path)
    path = alone.wanted[0].path(alone.folder(tmp_path / "out"))
    assert store.load(path)["command"] == commands[0]
    assert str(tmp_path) not in path.read_text()


def test_what_another_process_has_measured_meanwhile_is_kept(counted, tmp_path):
    plan = make_plan([(("one",), 0, "c", "counted", {"value": 3})])
    work = find_work(plan, tmp_path, splits())
    do_work(plan, tmp_path)
    told = do_work(plan, tmp_path, work=work)
    assert counted == [("one", 0)] and told == [("one_0/c", "measure", 1.0)]


def test_a_kind_drops_in_with_its_section(counted, tmp_path):
    cells = [(("one",), s, "c", "counted", {"value": 3}) for s in (0, 1)]
    plan = make_plan(cells, more=("counted",))
    do_work(plan, tmp_path)
    html, markdown = experiments.write_pages(plan, tmp_path / "out")
    assert '{"One": [{"value": 3}, {"value": 4}]}' in markdown.read_text()
    assert "A kind of its own" in html.read_text()


def test_an_unknown_kind_is_refused_before_any_work(tmp_path):
    plan = make_plan([(("one",), 0, "c", "unheard", {})])
    with pytest.raises(ValueError, match="kind 'unheard'; known: clean, attacks"):
        do_work(plan, tmp_path)


def test_distances_go_on_from_their_journal(monkeypatch, tmp_path):
    asked = []

    def minimum_norm(logits_fn, images, labels, attack, key, *, example_ids, **_):
        if len(asked) == 1 and dies:
            raise KeyboardInterrupt
        asked.append(example_ids.tolist())
        flags = np.ones(len(images), bool)
        plain = {"per_example": {"distances": [float(i) for i in example_ids]}}
        return types.SimpleNamespace(
            clean_correct=flags, success=flags, to_dict=lambda: plain
        )

    monkeypatch.setattr(measures, "minimum_norm", minimum_norm)
    monkeypatch.setattr(measures, "_CHUNK", 4)
    monkeypatch.setattr(measures, "_in_chunks", _with_size(measures._in_chunks, 4))
    subject = types.SimpleNamespace(logits_fn=None)
    told: list[float] = []
    task = experiments.Task(
        {"one": subject}, splits(), 0, 2, tmp_path / "a.journal", told.append
    )
    settings = dict(attack={"name": "carlini_wagner"}, norm="l2", num_images=0)
    dies = True
    with pytest.raises(KeyboardInterrupt):
        measures.measure_minimum_norm(task, **settings)
    dies = False
    found = measures.measure_minimum_norm(task, **settings)
    assert asked == [[0, 1, 2, 3], [4, 5]]
    assert found["distances"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert found["success"] == "111111" and told == [4 / 6, 1.0]


def _with_size(function, size):
    def run(task, num_images, measure):
        return function(task, num_images, measure, size=size)

    return run


@pytest.fixture
def subject(tmp_path):
    """Return a model of digits that is not trained."""
    config = definitions.model_config("mmc", "digits", "smoke")
    return experiments.Subject("mmc", config, tmp_path / "mmc_0")


def test_a_model_counts_as_trained_by_its_own_config_and_data(subject, monkeypatch):
    whole = data.load("digits", validation_size=100)

    def train(config, workdir, *, report, **_):
        report(0.5)
        cut = data.with_fewer_to_train_on(whole, config.max_train_images)
        assert len(cut.train) == 500 < len(whole.train)
        inputs.write_json({"data": cut.describe()}, workdir / "run.json")

    monkeypatch.setattr("mmc_jax.train.train", train)
    assert not subject.is_trained(whole)
    told = []
    subject.train(told.append)
    assert subject.is_trained(whole) and told == [0.5]
    part = dataclasses.replace(whole, test=whole.test.take(slice(499)))
    assert not subject.is_trained(part), "of a part of the data set"
    others = whole.train.take(np.arange(len(whole.train))[::-1])
    other = dataclasses.replace(whole, train=others)
    assert not subject.is_trained(other), "of others of the same size"
    changed = ml_collections.ConfigDict(subject.config)
    changed.batch_size = 51
    assert not dataclasses.replace(subject, config=changed).is_trained(whole)
    (subject.workdir / "trained.json").write_text("{")
    with pytest.raises(ValueError, match=r"trained\.json is damaged .*remove .*mmc_0"):
        subject.is_trained(whole)


def test_a_model_is_trained_by_one_process_at_a_time(subject, monkeypatch):
    def train(*_, **__):
        subject.train(lambda done: None)

    monkeypatch.setattr("mmc_jax.train.train", train)
    with pytest.raises(ValueError, match=r"another process trains in .*mmc_0"):
        subject.train(lambda done: None)


def test_a_file_that_two_processes_write_is_that_of_the_later_one(
    tmp_path, monkeypatch
):
    path, replace = tmp_path / "page.md", pathlib.Path.replace

    def late_replace(partial, target):
        monkeypatch.undo()
        monkeypatch.setattr(os, "getpid", lambda: 1)
        inputs.write_text("theirs", path)
        return replace(partial, target)

    monkeypatch.setattr(pathlib.Path, "replace", late_replace)
    inputs.write_text("ours", path)
    assert path.read_text() == "ours" and [*tmp_path.iterdir()] == [path]


def test_images_are_the_first_of_the_test_set():
    task = experiments.Task({}, splits(), 3, 2, pathlib.Path("j"), lambda done: None)
    images, labels = task.test(4)
    assert images.shape == (4, 2, 2, 1) and images.dtype == np.float32
    assert labels.tolist() == [0, 1, 0, 1] and len(task.test()[1]) == 6
    assert jax.random.key_data(task.key).tolist() == [0, 3]
