"""Sections of records other than tables of accuracies, and of images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import evaluate, report
from mmc_jax.diagnostics import AccuracyCurve, Battery, Finding
from mmc_jax.diagnostics.classifiers import Randomness
from mmc_jax.report import image_sections
from mmc_jax.types import StochasticLogitsFn
from tests.report_cases import evaluation_record


def _blocks(section, kind):
    return [block for block in section.blocks if block.kind == kind]


def _rows(table):
    return {
        row[0].text: dict(zip(table.header, map(str, row), strict=True))
        for row in table.rows
    }


def _minimum_norm(distances, **changes):
    distances = np.array(distances)
    fields = dict(
        attack="carlini_wagner",
        hyperparameters={},
        targeted=False,
        norm="l2",
        bounds=(0.0, 1.0),
        example_ids=np.arange(len(distances), dtype=np.uint32),
        clean_correct=distances > 0,
        success=(distances > 0) & np.isfinite(distances),
        distances=distances,
        violations={},
        key={},
        environment={},
        seconds=1.0,
    )
    return evaluate.MinimumNormRecord(**fields | changes)


def test_minimum_norms_stand_with_their_failures_and_their_curve():
    record = _minimum_norm([0.0, 0.25, 0.75, 2.0, np.inf])
    none = _minimum_norm([np.inf, np.inf, 0.0])
    section = report.minimum_norm_section(
        {"MMC": record.to_dict(epsilons=[0.5, 1.0]), "none": none.to_dict()}
    )
    distances, curve = _blocks(section, "table")
    found = _rows(distances)
    assert found["MMC"]["images"] == "5"
    assert found["MMC"]["wrong as they are"] == "1"
    assert found["MMC"]["broken, %"].startswith("75.0 [")
    assert found["MMC"]["failures"] == "1"
    assert found["MMC"]["median l2 distance"] == "0.75"
    assert found["MMC"]["mean"] == "1"
    assert found["none"]["failures"] == "2"
    assert (found["none"]["median l2 distance"], found["none"]["mean"]) == ("-", "-")
    # Three of five lie beyond 0.5, two beyond 1.
    points = _rows(curve)
    low, high = (100 * end for end in record.accuracy_curve([0.5]).intervals[0])
    assert points["0.5"]["MMC"] == f"60.0 [{low:.1f}, {high:.1f}]"
    assert points["1"]["MMC"].startswith("40.0 [")
    assert curve.header == ("l2 epsilon", "MMC")
    (picture,) = _blocks(section, "picture")
    assert picture.content
    alone = report.minimum_norm_section({"none": none.to_dict()})
    assert not _blocks(alone, "picture")


def _evaluated(epsilon, count, **changes):
    record = {
        "num_examples": 20,
        "norm": "linf",
        "epsilon": epsilon,
        "clean": evaluate.Share(19, 20).to_dict(),
        "worst_case": evaluate.Share(count, 20).to_dict(),
    }
    return record | changes


def test_evaluations_at_several_radii_are_a_curve():
    found = report.curve_of_records([_evaluated(0.3, 1), _evaluated(0.1, 12)])
    assert found["epsilon"] == [0.0, 0.1, 0.3]
    assert found["accuracy"] == [0.95, 0.6, 0.05]
    assert found["interval_95"][1] == list(evaluate.Share(12, 20).interval)
    (table,) = _blocks(report.curve_section({"MMC": found}), "table")
    assert _rows(table)["0.3"]["MMC"].startswith("5.0 [")


def _battery(**changes):
    finding = Finding("more_steps_help", None, "it is not done", {"fall": 0.2})
    fields = dict(
        findings=(finding,),
        objective="margin",
        norm="linf",
        epsilon=0.1,
        step_curve=AccuracyCurve((1, 10), (18, 12), 20),
        epsilon_curve=AccuracyCurve((0.0, 0.1, 1.0), (19, 12, 5), 20),
        loss_curve=(1.0,),
        noise_curve=AccuracyCurve((1, 2), (19, 17), 20),
        black_box_accuracy=0.55,
        zero_gradient_fractions={"cross_entropy": 0.8},
        randomness=Randomness(False, 0.0, (20,)),
    )
    return Battery(**fields | changes).to_dict()


def test_a_batterys_sweeps_are_shown_and_its_findings_said():
    calm = _battery(findings=(), black_box_accuracy=None, zero_gradient_fractions={})
    section = report.battery_section({"MMC": _battery(), "softmax": calm})
    radii, steps, rest = map(_rows, _blocks(section, "table"))
    assert [row["MMC"].split()[0] for row in radii.values()] == ["95.0", "60.0", "25.0"]
    assert steps["1"]["MMC"].startswith("90.0 [")
    assert steps["10"]["softmax"].startswith("60.0 [")
    assert rest["under noise"]["MMC"].startswith("85.0 [")
    assert rest["under a black box"]["MMC"] == "55.0"
    assert rest["under a black box"]["softmax"] == "-"
    assert rest["zero gradient, cross_entropy"]["MMC"] == "80.0"
    assert rest["zero gradient, cross_entropy"]["softmax"] == "-"
    (findings,) = _blocks(section, "findings")
    assert [(note.where, note.message) for note in findings.notes] == [
        ("MMC", "it is not done")
    ]
    (picture,) = _blocks(section, "picture")
    assert picture.content
    assert "nothing to distrust" in report.battery_section({"m": calm}).blocks[-1].text


def _transfer():
    correct = np.zeros((2, 2, 10), bool)
    for crafted, scored, count in ((0, 0, 3), (0, 1, 4), (1, 0, 8), (1, 1, 6)):
        correct[crafted, scored, :count] = True
    weak = Finding("black_box_stronger", "softmax", "it breaks", {"scored_on": "MMC"})
    return evaluate.TransferRecord(
        names=("softmax", "MMC"),
        attack="mim",
        hyperparameters={},
        norm="linf",
        epsilon=8 / 255,
        clean_correct=np.ones((2, 10), bool),
        correct=correct,
        violations={},
        findings=(weak,),
        key={},
        environment={},
        seconds=1.0,
    )


def test_a_transfer_is_a_map_a_table_and_what_to_distrust():
    record = _transfer()
    section = report.transfer_section(record.to_dict())
    (table,) = _blocks(section, "table")
    found = _rows(table)
    assert found["clean"]["MMC"].startswith("100.0 [")
    assert found["softmax"]["softmax"].startswith("30.0 [")
    assert found["softmax"]["MMC"].startswith("40.0 [")
    assert found["softmax"]["MMC"].endswith("!1")
    assert found["MMC"]["softmax"].startswith("80.0 [")
    assert "!" not in found["MMC"]["softmax"] + found["MMC"]["MMC"]
    assert "linf, epsilon 0.03137" in table.caption
    (findings,) = _blocks(section, "findings")
    assert findings.notes[0].where == "softmax on MMC"
    (picture,) = _blocks(section, "picture")
    assert picture.content
    calm = dataclasses.replace(record, findings=()).to_dict()
    assert not _blocks(report.transfer_section(calm), "findings")


_NUM = 12


def _record(images, robust, **changes):
    known = dict(
        mode="cascade", clean_correct=np.arange(_NUM) > 0, robust=robust, images=images
    )
    return evaluation_record(**{**known, **changes})


def _logits_fn(images):
    return jnp.stack([images.mean(axis=(1, 2, 3)), jnp.full(len(images), 0.5)], axis=1)


@pytest.fixture
def drawn(monkeypatch):
    """Return what the figures are given, in order."""
    given = []

    def note(*args, **options):
        given.append((args, options))
        args[-1].write_bytes(b"png")

    monkeypatch.setattr(image_sections, "image_triples", note)
    monkeypatch.setattr(image_sections, "feature_map", note)
    return given


@pytest.fixture
def examples(generator):
    images = generator.uniform(0.4, 0.6, (_NUM, 3, 3, 1)).astype(np.float32)
    adv_images = images.copy()
    adv_images[::2] += 0.1
    robust = np.arange(_NUM) % 2 == 1
    labels = np.arange(_NUM) % 2
    return images, adv_images, labels, robust


@pytest.mark.parametrize("is_stochastic", [False, True])
def test_triples_are_the_first_broken_images(drawn, examples, is_stochastic):
    images, adv_images, labels, robust = examples
    logits_fn = _logits_fn
    if is_stochastic:
        logits_fn = StochasticLogitsFn(lambda images, keys: _logits_fn(images))
    record = _record(adv_images, robust)
    section = report.triples_section(record, images, labels, logits_fn, name="MMC")
    (args, _) = drawn[0]
    # The first image is wrong as it is, which no attack is to thank for.
    broken = [2, 4, 6, 8, 10]
    np.testing.assert_array_equal(args[0], images[broken])
    np.testing.assert_array_equal(args[1], adv_images[broken])
    np.testing.assert_array_equal(args[2], labels[broken])
    said = np.asarray(_logits_fn(adv_images[broken])).argmax(axis=1)
    np.testing.assert_array_equal(args[3], said)
    assert section.blocks[0].caption.startswith("MMC: the first clean images")


def test_no_more_triples_than_fit_and_none_of_what_is_no_picture(drawn, generator):
    wide = generator.uniform(size=(_NUM, 2, 2, 2)).astype(np.float32)
    labels, robust = np.zeros(_NUM, int), np.zeros(_NUM, bool)
    many = _record(wide[..., :1], robust)
    report.triples_section(many, wide[..., :1], labels, _logits_fn)
    assert len(drawn[0][0][0]) == 8
    record = _record(wide, robust)
    assert not report.triples_section(record, wide, labels, _logits_fn).blocks
    held = _record(wide[..., :1], ~robust)
    (text,) = report.triples_section(held, wide[..., :1], labels, _logits_fn).blocks
    assert text.text == "The attacks break no image of the model."


def _features_fn(images):
    return images[:, 0, :2, 0]


def test_features_in_a_plane_and_where_attacks_take_them(drawn, examples):
    images, adv_images, labels, robust = examples
    record = _record(adv_images, robust)
    centers = np.eye(2)
    report.features_section(_features_fn, record, images, labels, centers=centers)
    (features, given, _), options = drawn[0]
    np.testing.assert_array_equal(features, _features_fn(images))
    np.testing.assert_array_equal(given, labels)
    np.testing.assert_array_equal(options["centers"], centers)
    broken = [2, 4, 6, 8, 10]
    ways = np.stack([_features_fn(images[broken]), _features_fn(adv_images[broken])], 1)
    np.testing.assert_array_equal(options["attack_paths"], ways)
    np.testing.assert_array_equal(options["attack_labels"], labels[broken])
    # Without images there are no lines, and in three dimensions no map.
    bare = dataclasses.replace(record, images=None)
    report.features_section(_features_fn, bare, images, labels)
    assert drawn[1][1]["attack_paths"] is None
    assert drawn[1][1]["attack_labels"] is None
    solid = report.features_section(lambda x: x[:, 0, :, 0], record, images, labels)
    assert not solid.blocks and len(drawn) == 2


def test_pictures_are_real_ones(examples):
    images, adv_images, labels, robust = examples
    record = _record(adv_images, robust)
    (section,) = report.picture_sections(record, images, labels, _logits_fn)
    assert section.blocks[0].content.startswith(b"\x89PNG")
    plane = report.features_section(jax.jit(_features_fn), record, images, labels)
    assert plane.blocks[0].content.startswith(b"\x89PNG")
    without = dataclasses.replace(record, images=None)
    assert report.picture_sections(without, images, labels, _logits_fn) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: report.minimum_norm_section({}), "records are empty"),
        (
            lambda: report.minimum_norm_section({"m": _battery()}),
            "'m' is not a minimum-norm record: it lacks accuracy_curve, attack,",
        ),
        (
            lambda: report.minimum_norm_section(
                {n: _minimum_norm([1.0], norm=n).to_dict() for n in ("l1", "l2")}
            ),
            r"cannot stand side by side: norm is \['l1', 'l2'\]",
        ),
        (lambda: report.battery_section({}), "records are empty"),
        (lambda: report.curve_of_records([]), "records are empty"),
        (
            lambda: report.curve_of_records([_evaluated(0.1, 1), _evaluated(0.1, 2)]),
            "two points of the curve at 0.1",
        ),
        (
            lambda: report.curve_of_records(
                [_evaluated(0.1, 1), _evaluated(0.2, 1, norm="l2")]
            ),
            "no one curve: norm is 'linf' and 'l2'",
        ),
        (
            lambda: report.battery_section({"m": {"norm": "linf"}}),
            "'m' is not a gradient-masking battery: it lacks",
        ),
        (
            lambda: report.battery_section(
                {"a": _battery(), "b": _battery(epsilon=0.2)}
            ),
            r"epsilon is \[0.1, 0.2\]",
        ),
        (lambda: report.transfer_section({"names": []}), "it lacks accuracy, attack,"),
        (
            lambda: report.triples_section(
                _record(None, np.ones(_NUM, bool)),
                np.zeros((_NUM, 2, 2, 1)),
                np.zeros(_NUM, int),
                _logits_fn,
            ),
            "the record kept no images",
        ),
        (
            lambda: report.triples_section(
                _record(np.zeros((_NUM, 2, 2, 1)), np.ones(_NUM, bool)),
                np.zeros((3, 2, 2, 1)),
                np.zeros(3, int),
                _logits_fn,
            ),
            r"images must be those of the record, \(12, 2, 2, 1\), got \(3, 2, 2, 1\)",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
