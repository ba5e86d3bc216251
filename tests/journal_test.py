"""A killed evaluation goes on: same record, same images, from wherever it was cut."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from mmc_jax import evaluate
from mmc_jax.evaluate import setting
from mmc_jax.evaluate.journal import Journal
from mmc_jax.train import train

_ROOT = pathlib.Path(__file__).resolve().parents[1]
NUM = 60
SHAPE = (2, 2, 1)
WEIGHTS = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
ROWS = {
    "fgsm": dict(name="fgsm", objective="margin"),
    "noise": dict(name="gaussian_noise"),
    "pgd": dict(name="pgd", objective="margin", num_steps=3, targeted=True),
}


def _classify(weights, images):
    return images.reshape(len(images), 4) @ weights


def _data():
    generator = np.random.default_rng(3)
    images = generator.uniform(size=(NUM, *SHAPE)).astype(np.float32)
    labels = np.asarray(_classify(WEIGHTS, images)).argmax(axis=1)
    labels[::7] = (labels[::7] + 1) % 3
    return images, labels


def _evaluate(journal, *, weights=WEIGHTS, seed=0, **changes):
    images, labels = _data()
    given = dict(
        images=images,
        labels=labels,
        attacks=ROWS,
        key=jax.random.key(seed),
        norm="linf",
        epsilon=0.1,
        batch_size=4,
        keep_images=True,
        journal=journal,
    )
    logits_fn = jax.tree_util.Partial(_classify, jnp.asarray(weights))
    return evaluate.robust_accuracy(logits_fn, **(given | changes))


def _comparable(record):
    """Return all that a record says but times and versions."""

    def strip(tree):
        if not isinstance(tree, dict):
            return tree
        apart = ("seconds", "first_batch_seconds", "environment")
        return {name: strip(tree[name]) for name in tree if name not in apart}

    return strip(record)


def _assert_equal(record, reference):
    assert _comparable(record.to_dict()) == _comparable(reference.to_dict())
    np.testing.assert_array_equal(record.images, reference.images)


@pytest.fixture(scope="module")
def reference():
    """Return the record of an evaluation without a journal."""
    record = _evaluate(None)
    assert 5 < record.worst_case.count < record.clean.count - 5
    return record


@pytest.fixture(scope="module")
def journal_of_all(tmp_path_factory):
    """Return the bytes of the journal of a complete evaluation."""
    path = tmp_path_factory.mktemp("whole") / "journal"
    _evaluate(path)
    return path.read_bytes()


@pytest.fixture
def attacked(monkeypatch):
    """Count the batches that are attacked."""
    calls = []
    from mmc_jax.evaluate import run

    def counted(*args):
        calls.append(args)
        return attack_batch(*args)

    attack_batch = run.attack_batch
    monkeypatch.setattr(run, "attack_batch", counted)
    return calls


def test_a_journal_changes_nothing_and_is_done_once(reference, tmp_path, attacked):
    path = tmp_path / "some" / "where.journal"
    _assert_equal(_evaluate(path), reference)
    num_batches = len(attacked)
    assert num_batches > 2 * NUM / 4
    _assert_equal(_evaluate(path), reference)
    assert len(attacked) == num_batches


def _cuts(content):
    """Return places to cut: around every line's end, and inside every line."""
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    starts = [0, *ends[:-1]]
    inside = [(start + end) // 2 for start, end in zip(starts, ends, strict=True)]
    around = [end + off for end in ends[:4] + ends[-2:] for off in (-1, 0, 1)]
    cuts = {0, 1, *inside[:5], *inside[-2:], *around}
    return ends, sorted(cut for cut in cuts if cut <= len(content))


def test_wherever_it_is_cut_it_goes_on(reference, journal_of_all, tmp_path, attacked):
    ends, cuts = _cuts(journal_of_all)
    num_batches = len(ends) - 3  # below what it is, the identity, the clean verdicts
    assert len(cuts) > 20
    for cut in cuts:
        path = tmp_path / f"cut at {cut}"
        path.write_bytes(journal_of_all[:cut])
        attacked.clear()
        _assert_equal(_evaluate(path), reference)
        num_whole = max(sum(end <= cut for end in ends) - 3, 0)
        assert len(attacked) == num_batches - num_whole, cut
        assert path.read_bytes().count(b"\n") == len(ends)


def test_what_was_cut_short_is_gone_for_good(journal_of_all, tmp_path, attacked):
    path = tmp_path / "journal"
    path.write_bytes(journal_of_all[:-20])
    _evaluate(path)
    assert len(attacked) == 1
    _evaluate(path)
    assert len(attacked) == 1


def test_a_killed_evaluation_ends_the_same(reference, tmp_path):
    journal, out = tmp_path / "journal", tmp_path / "out.npz"
    script = (
        "import sys, time; from tests import journal_test as t\n"
        "record = t._evaluate(sys.argv[1], progress=lambda state: time.sleep(0.05))\n"
        "t.np.savez(sys.argv[2], record=t.json.dumps(record.to_dict()),"
        " images=record.images)"
    )
    command = [sys.executable, "-c", script, str(journal), str(out)]
    process = subprocess.Popen(command, cwd=_ROOT)
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size > 2000:
            break
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.5))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists() and journal.stat().st_size > 2000
    assert subprocess.run(command, cwd=_ROOT, timeout=100).returncode == 0
    with np.load(out) as content:
        record = json.loads(str(content["record"]))
        np.testing.assert_array_equal(content["images"], reference.images)
    assert _comparable(record) == _comparable(reference.to_dict())


def _auto_attack_command(workdir, out):
    """Return what judges 48 images of a work directory, two batches an attack."""
    script = _ROOT / "launch" / "evaluate.py"
    options = "--suite=autoattack --epsilon=0.05 --num_images=48 --batch_size=24"
    paths = (f"--workdir={workdir}", f"--out={out}")
    return [sys.executable, str(script), *options.split(), "--noprogress", *paths]


def _is_killed(command, seconds):
    """Start a command, SIGKILL it after some seconds; return whether it still ran."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.verify
def test_auto_attack_killed_at_three_random_moments_ends_the_same(tmp_path):
    config = digits.get_config("loss=softmax,runlocal")
    config.num_epochs, config.parallel, config.num_devices = 6, "jit", 1
    train(config, tmp_path / "run", progress=False)

    def judge(out):
        command = _auto_attack_command(tmp_path / "run", out)
        subprocess.run(command, check=True)
        record = json.loads(out.read_text())
        assert record.pop("command").endswith(f"--out={out}")
        return _comparable(record)

    started = time.perf_counter()
    expected = judge(tmp_path / "whole.json")
    duration = time.perf_counter() - started
    assert all(row["num_attacked"] > 24 for row in expected["rows"].values())
    assert expected["worst_case"]["count"] < expected["clean"]["count"]
    generator = np.random.default_rng(0)
    for third in range(3):
        out = tmp_path / f"{third}.json"
        journal = out.with_suffix(".journal")
        moment = duration * (third + generator.uniform()) / 3
        while not _is_killed(_auto_attack_command(tmp_path / "run", out), moment):
            out.unlink()
            moment *= 0.9
        num_lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        print(f"killed at {moment:.1f} of {duration:.1f} s, {num_lines} lines done")
        assert judge(out) == expected
        assert not journal.exists()
    assert num_lines > 3  # below what it is, the identity, the clean verdicts


def _other(name, change):
    """Change one value of what the evaluation is given."""
    images, labels = _data()
    rows = {row: dict(attack) for row, attack in ROWS.items()}
    if name == "images":
        images[3, 0, 0, 0] = 0.5
    if name == "labels":
        labels[5] = (labels[5] + 1) % 3
    if name == "hyperparameter":
        rows["pgd"]["num_steps"] = 4
    if name == "order":
        rows = dict(reversed(rows.items()))
    return dict(images=images, labels=labels, attacks=rows) | change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "weights",
            dict(weights=WEIGHTS + 1e-6),
            r"model \(sha256\): '\w+\.\.\. there",
        ),
        ("images", {}, r"images \(sha256\): '\w+\.\.\. there"),
        ("labels", {}, r"labels \(sha256\): '\w+\.\.\. there"),
        ("ids", dict(example_ids=np.arange(NUM) + 1), r"example_ids \(sha256\)"),
        ("hyperparameter", {}, r"\(attacks\.pgd\.num_steps: 3 there, 4 now\)"),
        ("order", {}, r"rows: \['fgsm', .* now"),
        ("key", dict(seed=1), r"key\.data: \[0, 0\] there, \[0, 1\] now"),
        ("epsilon", dict(epsilon=0.2), r"epsilon: 0\.1 there, 0\.2 now"),
        ("mode", dict(mode="individual"), r"mode: 'cascade' there, 'individual' now"),
        ("keep", dict(keep_images=False), r"keep_images: True there, False now"),
    ],
)
def test_another_evaluation_is_refused(name, change, message, journal_of_all, tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(journal_of_all)
    with pytest.raises(ValueError, match=message):
        _evaluate(path, **_other(name, change))
    assert path.read_bytes() == journal_of_all


def test_another_version_is_refused(journal_of_all, tmp_path, monkeypatch):
    path = tmp_path / "journal"
    path.write_bytes(journal_of_all)
    environment = setting.describe_environment() | {"mmc_jax": "9.9"}
    monkeypatch.setattr(setting, "describe_environment", lambda: environment)
    with pytest.raises(ValueError, match=r"versions\.mmc_jax: '.*' there, '9\.9' now"):
        _evaluate(path)


def test_another_source_is_refused_and_another_revision_is_not(
    reference, journal_of_all, tmp_path, monkeypatch
):
    path = tmp_path / "journal"
    path.write_bytes(journal_of_all)
    environment = setting.describe_environment()
    changed = environment | {"git_revision": "another+"}
    monkeypatch.setattr(setting, "describe_environment", lambda: changed)
    np.testing.assert_array_equal(_evaluate(path).robust, reference.robust)
    changed = environment | {"source_sha256": "another"}
    with pytest.raises(ValueError, match=r"versions\.source_sha256: .* now"):
        _evaluate(path)


def test_a_model_out_of_sight_is_told_by_its_verdicts(tmp_path):
    def through_callback(weights):
        # A new function each time, but the program looks the same: only runs differ.
        shape = jax.ShapeDtypeStruct((4, 3), jnp.float32)
        return lambda images: jax.pure_callback(
            lambda images: np.asarray(_classify(weights, images)), shape, images
        )

    images, labels = _data()
    given = (images, labels, {"noise": ROWS["noise"]}, jax.random.key(0))
    options = dict(norm="linf", epsilon=0.1, batch_size=4, journal=tmp_path / "journal")

    def judge(weights):
        logits_fn = through_callback(weights)
        return evaluate.robust_accuracy(
            lambda images: logits_fn(jnp.resize(images, (4, *SHAPE)))[: len(images)],
            *given,
            **options,
        )

    judge(WEIGHTS)
    judge(WEIGHTS)
    with pytest.raises(ValueError, match="clean images are judged otherwise"):
        judge(-WEIGHTS)


def test_another_batch_size_goes_on(reference, journal_of_all, tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(journal_of_all[: len(journal_of_all) // 2])
    record = _evaluate(path, batch_size=7)
    np.testing.assert_array_equal(record.robust, reference.robust)
    np.testing.assert_allclose(record.images, reference.images, atol=1e-6)


def test_damage_is_refused(journal_of_all, tmp_path):
    path = tmp_path / "journal"
    middle = len(journal_of_all) // 2
    changed = bytes([journal_of_all[middle] ^ 1])
    content = journal_of_all[:middle] + changed + journal_of_all[middle + 1 :]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="journal is damaged; to begin anew"):
        _evaluate(path)
    assert path.read_bytes() == content


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "record.json"
    for text in ('{"clean": 1}\n', "mmc_jax evaluation journal 2\n"):
        path.write_text(text)
        for touch in (_evaluate, evaluate.remove_journal):
            with pytest.raises(ValueError, match="is not the journal of an evaluation"):
                touch(path)
            assert path.read_text() == text


def test_two_processes_do_not_share_a_journal(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, {"a": 1}):
        with pytest.raises(ValueError, match="in use by another process"):
            Journal(path, {"a": 1})
        with pytest.raises(ValueError, match="in use by another process"):
            evaluate.remove_journal(path)
    with Journal(path, {"a": 1}) as journal:
        assert list(journal.replay()) == []
    evaluate.remove_journal(path)
    assert not path.exists()
    evaluate.remove_journal(path)


def test_records_are_on_the_disk_when_appended(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    with Journal(tmp_path / "journal", {}) as journal:
        for number in range(3):
            journal.append({"number": number})
            assert synced[-1] == (tmp_path / "journal").stat().st_size


def test_progress_goes_on_where_it_was(journal_of_all, tmp_path):
    path = tmp_path / "journal"
    ends, _ = _cuts(journal_of_all)
    path.write_bytes(journal_of_all[: ends[10]])
    states = []
    record = _evaluate(path, progress=states.append)
    assert states[0].done == states[0].resumed == 8 * 4
    assert states[1].done == 9 * 4
    assert {state.resumed for state in states} == {8 * 4}
    totals = [state.total for state in states]
    assert totals == sorted(totals, reverse=True)
    assert states[-1].done == states[-1].total
    assert states[-1].done == sum(row.num_attacked for row in record.rows)
    assert states[-1].surviving == record.worst_case.count
