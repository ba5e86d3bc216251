"""Smallest distances and transfer: counts by hand, on models with closed forms."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from mmc_jax import attacks, evaluate, report
from mmc_jax.attacks.costs import PASSES, Passes

NUM, BATCH, SHAPE = 23, 8, (2, 2, 1)
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.5], np.float32).reshape(1, *SHAPE)


def _logits(images):
    score = ((images - 0.5) * WEIGHTS).sum(axis=(1, 2, 3))
    return jnp.stack([-score, score], axis=-1)


def _data():
    generator = np.random.default_rng(3)
    images = generator.uniform(0.2, 0.8, (NUM, *SHAPE)).astype(np.float32)
    labels = np.asarray(_logits(images)).argmax(axis=1)
    labels[::7] = 1 - labels[::7]
    return images, labels.astype(np.int32)


def _distances(images):
    """Of the hyperplane, in l2."""
    score = np.abs(((images - 0.5) * WEIGHTS).sum(axis=(1, 2, 3)))
    return score / np.linalg.norm(WEIGHTS)


def cross(
    logits_fn, key, images, labels, *, targets=None, beyond=1.01, give_up=9.0, lie=9.0
):
    """Step across the hyperplane where it is near; else give up, or lie."""
    score = ((images - 0.5) * WEIGHTS).sum(axis=(1, 2, 3))
    step = beyond * score / (WEIGHTS**2).sum()
    moved = images - step[:, None, None, None] * WEIGHTS
    length = jnp.abs(score) / jnp.sqrt((WEIGHTS**2).sum())
    far = (length > give_up)[:, None, None, None]
    lies = (length > lie)[:, None, None, None]
    return jnp.where(lies, images + 2, jnp.where(far, images, moved))


@pytest.fixture
def enroll(monkeypatch):
    def add(attack):
        monkeypatch.setitem(attacks.ATTACKS, attack.__name__, attack)
        monkeypatch.setitem(PASSES, attack.__name__, lambda *_: Passes(1, 1))

    return add


def _minimum_norm(attack, **options):
    images, labels = _data()
    settings = dict(norm="l2", batch_size=BATCH) | options
    return evaluate.minimum_norm(
        _logits, images, labels, attack, jax.random.key(0), **settings
    )


def test_distances_are_those_of_the_closed_form_and_failures_have_none(enroll):
    enroll(cross)
    limit = 0.1
    record = _minimum_norm(dict(name="cross", give_up=limit))
    images, _ = _data()
    clean = np.arange(NUM) % 7 != 0
    near = clean & (_distances(images) <= limit)
    assert 0 < near.sum() < clean.sum()
    np.testing.assert_array_equal(record.success, near)
    np.testing.assert_array_equal(record.distances[~clean], 0.0)
    assert np.isinf(record.distances[clean & ~near]).all()
    expected = 1.01 * _distances(images)[near]
    np.testing.assert_allclose(record.distances[near], expected, rtol=1e-4)
    assert record.distances.dtype == np.float64
    assert record.median_distance == pytest.approx(np.median(expected), rel=1e-4)
    assert record.mean_distance == pytest.approx(expected.mean(), rel=1e-4)
    assert record.num_misclassified == (~clean).sum()
    assert record.num_failures == (clean & ~near).sum()
    assert record.success_rate.count == near.sum()


def test_the_curve_is_what_robust_accuracy_finds_at_each_radius(enroll):
    enroll(cross)
    radii = [0.0, 0.03, 0.06, 0.2, 1.0]
    record = _minimum_norm(dict(name="cross", give_up=0.3))
    curve = record.accuracy_curve(radii)
    images, labels = _data()
    for radius, count in zip(radii, curve.counts, strict=True):
        judged = evaluate.robust_accuracy(
            _logits,
            images,
            labels,
            {"cross": dict(name="cross", give_up=0.3)},
            jax.random.key(0),
            norm="l2",
            epsilon=radius,
        )
        assert judged.worst_case.count == count, radius
    assert curve.counts[0] == record.clean_correct.sum() > curve.counts[2]
    assert curve.counts[-1] == record.num_failures > 0
    low, high = curve.intervals[1]
    assert low < curve.accuracies[1] < high


def test_lies_and_images_out_of_the_box_are_failures(enroll):
    enroll(cross)
    record = _minimum_norm(dict(name="cross", lie=0.1))
    far = _distances(_data()[0]) > 0.1
    assert record.violations == {"nonfinite": 0, "outside_box": far.sum()}
    np.testing.assert_array_equal(record.success, record.clean_correct & ~far)


def test_a_step_that_falls_short_is_no_success(enroll):
    enroll(cross)
    record = _minimum_norm(dict(name="cross", beyond=0.99))
    assert not record.success.any() and np.isnan(record.median_distance)
    plain = json.loads(json.dumps(record.to_dict(epsilons=[0.1]), allow_nan=False))
    assert plain["median_distance"] is None
    assert plain["num_failures"] == record.clean_correct.sum()
    distances = plain["per_example"]["distances"]
    assert set(distances) == {0.0, None}
    assert plain["accuracy_curve"]["counts"] == [int(record.clean_correct.sum())]


def test_a_targeted_success_is_the_target(enroll):
    def choose(logits_fn, key, images, labels, *, targets=None):
        """Hit the targets of even examples, and class 3 with the others."""
        goal = jnp.where(jnp.arange(len(labels)) % 2 == 0, targets, 3)
        return jax.nn.one_hot(goal, 4).reshape(images.shape)

    enroll(choose)
    labels = np.arange(24) % 3
    images = np.eye(4, dtype=np.float32)[labels].reshape(24, *SHAPE)
    record = evaluate.minimum_norm(
        lambda images: images.reshape(len(images), 4),
        images,
        labels,
        dict(name="choose", targeted=True),
        jax.random.key(0),
        norm="l2",
        batch_size=BATCH,
    )
    assert record.success[::2].all() and not record.success[1::2].all()
    np.testing.assert_allclose(record.distances, np.sqrt(2))  # the label is lost


def test_an_attack_with_a_ball_or_without_a_model_is_refused():
    for name in ("pgd", "rotation"):
        with pytest.raises(ValueError, match=f"{name} looks for no smallest distance"):
            _minimum_norm(dict(name=name))
    with pytest.raises(ValueError, match="must map|names no attack"):
        _minimum_norm("pgd")


@pytest.mark.parametrize("name", ["fab", "fab_targeted", "deep_fool"])
def test_attacks_of_the_library_come_within_two_percent(name):
    """FAB without a radius goes on after its first success."""
    num_steps = {} if name == "deep_fool" else dict(num_steps=20)
    record = _minimum_norm(dict(name=name, **num_steps))
    assert record.success[record.clean_correct].all()
    ratios = (record.distances / _distances(_data()[0]))[record.clean_correct]
    assert 1 - 1e-4 < ratios.min() and ratios.max() < 1.0201


def test_radii_must_ascend(enroll):
    enroll(cross)
    record = _minimum_norm(dict(name="cross"))
    for bad in ([], [0.2, 0.1], [-0.1]):
        with pytest.raises(ValueError, match="epsilons must be at least 0 and ascend"):
            record.accuracy_curve(bad)


def _first_pixel(images):
    score = 4 * (images[:, 0, 0, 0] - 0.5)
    return jnp.stack([-score, score], axis=-1)


def _masked(images):
    """The same decisions, and nothing for a gradient to hold on to."""
    return jnp.sign(_first_pixel(images))


def _other_pixel(images):
    score = 4 * (images[:, 1, 1, 0] - 0.5)
    return jnp.stack([-score, score], axis=-1)


MODELS = {"plain": _first_pixel, "masked": _masked, "other": _other_pixel}


def _transfer(**options):
    images = np.random.default_rng(0).uniform(0.3, 0.7, (NUM, *SHAPE))
    images = images.astype(np.float32)
    labels = np.asarray(_first_pixel(images)).argmax(axis=1).astype(np.int32)
    settings = dict(norm="linf", epsilon=0.25, batch_size=BATCH) | options
    record = evaluate.transfer_matrix(
        MODELS,
        images,
        labels,
        dict(name="fgsm", objective="margin"),
        jax.random.key(0),
        **settings,
    )
    return record, images, labels


def test_transfer_counts_each_pair_of_models_and_finds_the_mask():
    record, images, labels = _transfer()
    right = np.stack([np.asarray(f(images)).argmax(axis=1) for f in MODELS.values()])
    np.testing.assert_array_equal(record.clean_correct, right == labels)
    counts = {
        (source, target): record.accuracy(source, target).count
        for source in MODELS
        for target in MODELS
    }
    others = int(record.clean_correct[2].sum())
    assert 0 < others < NUM
    assert counts["plain", "plain"] == counts["plain", "masked"] == 0
    assert counts["masked", "masked"] == counts["masked", "plain"] == NUM
    assert counts["plain", "other"] == others
    assert counts["other", "plain"] == NUM and counts["other", "other"] == 0
    assert record.accuracies[0, 1] == 0 and record.accuracies[1, 0] == 1
    (finding,) = record.findings
    assert (finding.name, finding.row) == ("black_box_stronger", "plain")
    assert finding.numbers["scored_on"] == "masked"
    assert finding.numbers["count"] == NUM
    plain = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert plain["accuracy"]["plain"]["other"]["count"] == others
    lines = report.render_transfer(record).splitlines()
    (row,) = [line for line in lines if line.startswith("plain ")]
    cells = [cell.strip() for cell in row.split("  ") if cell]
    assert cells[1].startswith("0.0 [") and cells[2].endswith("!1")
    assert lines[-1].startswith("!1 black_box_stronger: plain on masked: breaks 23")


def test_transfer_takes_an_objective_for_each_model_and_refuses_lies(enroll):
    def leave(logits_fn, key, images, labels, *, targets=None, epsilon, objective):
        return images + (0.5 if objective == "own_class" else 0.2)

    enroll(leave)
    images = np.full((3, *SHAPE), 0.4, np.float32)
    labels = np.zeros(3, np.int32)
    record = evaluate.transfer_matrix(
        MODELS,
        images,
        labels,
        dict(name="leave", objective="margin"),
        jax.random.key(0),
        norm="linf",
        epsilon=0.25,
        objectives={"masked": "own_class"},
    )
    assert record.hyperparameters["masked"]["objective"] == "own_class"
    outside = {name: v["outside_ball"] for name, v in record.violations.items()}
    assert outside == {"plain": 0, "masked": 3, "other": 0}
    np.testing.assert_array_equal(record.accuracies[:, 0], [0, 1, 0])
    with pytest.raises(ValueError, match="objectives no other; got"):
        _transfer(objectives={"nobody": "margin"})


def test_the_heat_map_shows_every_number(monkeypatch, tmp_path):
    written = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *rest, **more: (
            written.append(figure) or save(figure, *rest, **more)
        ),
    )
    accuracies = np.array([[0.1, 0.85], [0.5, 0.25]])
    path = report.transfer_heat_map(accuracies, ["a", "b"], tmp_path / "map.png")
    (axes,) = written[0].axes
    assert [text.get_text() for text in axes.texts] == ["10.0", "85.0", "50.0", "25.0"]
    assert axes.texts[1].get_position() == (1, 0)  # column, row
    np.testing.assert_allclose(axes.get_images()[0].get_array(), accuracies)
    assert axes.get_ylabel() == "crafted on" and path.stat().st_size > 1000
    with pytest.raises(ValueError, match=r"got \(2, 2\) and 3 names"):
        report.transfer_heat_map(accuracies, ["a", "b", "c"], path)
