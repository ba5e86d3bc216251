"""Tables say what the records say; figures draw the numbers that they were given."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mmc_jax import diagnostics, evaluate
from mmc_jax.attacks.costs import Passes
from mmc_jax.report import figures, tables
from tests.report_cases import evaluation_record

NUM = 20


def _row(name, num_attacked, num_correct, running, **changes):
    attacked = np.arange(NUM) < num_attacked
    fields = dict(
        name=name,
        attack="pgd",
        hyperparameters={"objective": "margin"},
        targeted=False,
        in_worst_case=True,
        passes=Passes(11, 10),
        attacked=attacked,
        correct=np.arange(NUM) < num_correct,
        invalid=np.zeros(NUM, bool),
        reached=None,
        violations={},
        largest_norm=0.1,
        running=evaluate.Share(running, NUM),
        seconds=1.0,
        first_batch_seconds=1.0,
        complete=True,
    )
    return evaluate.RowRecord(**fields | changes)


def _record(rows, num_robust, **changes):
    known = dict(
        num_classes=3,
        clean_correct=np.arange(NUM) < 19,
        robust=np.arange(NUM) < num_robust,
        rows=tuple(rows),
    )
    return evaluation_record(**{**known, **changes})


def _cells(text, start, style="text"):
    (line,) = [
        line for line in text.splitlines() if line.lstrip("| ").startswith(start)
    ]
    if style == "markdown":
        return [cell.strip() for cell in line.strip("|").split("|")]
    return [cell.strip() for cell in line.split("  ") if cell]


def _two_models():
    finding = diagnostics.Finding("zero_gradient", "ce", "no gradient at all", {})
    mmc = _record(
        [_row("ce", NUM, 18, 17), _row("margin", NUM, 2, 2)],
        num_robust=1,
        findings=(finding,),
        zero_gradient_fractions={"cross_entropy": 0.985, "margin": 0.0},
    )
    softmax = _record(
        [
            _row("ce", NUM, 4, 4),
            _row("noise", NUM, 15, 4, in_worst_case=False),
        ],
        num_robust=4,
        zero_gradient_fractions={"cross_entropy": 0.0},
    )
    return {"softmax": softmax, "mmc": mmc}


@pytest.mark.parametrize("style", tables.STYLES)
def test_table_has_a_row_an_attack_and_ends_in_the_worst_case(style):
    text = tables.render(_two_models(), style=style)

    def numbers(start):
        return [cell.split()[0] for cell in _cells(text, start, style)[1:]]

    assert numbers("accuracy in %") == ["softmax", "mmc"]
    assert numbers("clean") == ["95.0", "95.0"]
    assert numbers("ce") == ["20.0", "90.0"]
    assert numbers("margin") == ["-", "10.0"]
    assert numbers("worst case") == ["20.0", "5.0"]
    assert numbers("noise (no ball)") == ["75.0", "-"]
    assert _cells(text, "strongest attack", style)[1:] == [
        "20.0 by ce",
        "10.0 by margin",
    ]
    assert numbers("zero gradient, cross_entropy") == ["0.0", "98.5"]
    assert "zero gradient, margin" not in text
    order = [text.index(name) for name in ("margin", "worst case", "noise")]
    assert order == sorted(order)


def test_table_marks_what_has_a_finding_and_explains_it_below():
    text = tables.render(_two_models())
    softmax, mmc = _cells(text, "ce ")[1:]
    assert tables.MARK not in softmax and mmc.endswith(" !1")
    assert tables.MARK not in "".join(_cells(text, "margin"))
    assert text.splitlines()[-1] == "!1 zero_gradient: mmc, ce: no gradient at all"
    assert "Findings" not in tables.render({"softmax": _two_models()["softmax"]})


def test_findings_on_the_whole_record_mark_the_worst_case():
    finding = diagnostics.Finding("probabilities_as_logits", None, "a softmax", {})
    record = _record([_row("ce", NUM, 4, 4)], 4, findings=(finding,))
    text = tables.render({"model": record})
    assert _cells(text, "worst case")[1].endswith("!1")
    assert tables.MARK not in _cells(text, "ce ")[1]


def test_a_cascade_of_one_row_has_no_strongest_attack_of_its_own():
    # Its accuracy is over the images that are right clean, the others' over all.
    text = tables.render({"m": _record([_row("ce", 19, 10, 10)], 10, mode="cascade")})
    assert "strongest attack" not in text
    assert _cells(text, "worst case")[1].startswith("50.0 [")


def test_a_cascade_shows_what_each_row_broke_and_what_is_left():
    rows = [
        _row("ce", 19, 18, 18),
        _row("margin", 18, 5, 5, targeted=True, reached=np.arange(NUM) < 9),
    ]
    text = tables.render({"m": _record(rows, 5, mode="cascade")})
    assert _cells(text, "ce ")[1].startswith("90.0 [")
    assert _cells(text, "ce ")[1].endswith("] -1/19")
    assert _cells(text, "margin")[1].endswith("] -13/18 (target 50.0)")
    assert "strongest" not in text  # the rows saw different images


def test_an_interrupted_record_is_an_upper_bound():
    rows = [_row("ce", 8, 4, 15, complete=False)]
    text = tables.render({"m": _record(rows, 15, complete=False)})
    assert _cells(text, "worst case")[1].startswith("at most 75.0")
    assert "(unfinished)" in _cells(text, "ce ")[1]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "records are empty"),
        (
            {"a": _record([], 4), "b": _record([], 4, epsilon=0.2)},
            "'a' and 'b'.*epsilon is 0.1 and 0.2",
        ),
    ],
)
def test_records_that_cannot_stand_side_by_side_are_refused(records, message):
    with pytest.raises(ValueError, match=message):
        tables.render(records)
    with pytest.raises(ValueError, match="unknown style 'html'; accepted: text"):
        tables.render({"a": _record([], 4)}, style="html")


def test_shares_out_of_nothing_are_not_a_number():
    share = evaluate.Share(0, 0)
    assert np.isnan(share.value)
    assert share.interval == (0.0, 1.0)
    assert share.to_dict()["value"] is None


@pytest.fixture
def drawn(monkeypatch):
    """Return the list of figures as they are written."""
    written = []
    save = Figure.savefig

    def spy(figure, *args, **options):
        written.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return written


def _lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def _read_png(path):
    return matplotlib.image.imread(path)


def test_training_curves_are_over_minutes_when_long(drawn, tmp_path):
    history = [
        {"step": 1, "time": 60.0, "loss": 4.0},
        {"step": 2, "time": 90.0, "validation_accuracy": 0.5},
        {"step": 3, "time": 300.0, "loss": 2.0, "validation_accuracy": 0.75},
        {"step": 4, "time": 300.0, "validation_adversarial_accuracy": 0.25},
    ]
    path = figures.training_curves({"mmc": history}, tmp_path / "new" / "curves.png")
    losses, accuracies = drawn[0].axes
    np.testing.assert_allclose(_lines(losses)["mmc"], [[1, 4], [5, 2]])
    np.testing.assert_allclose(_lines(accuracies)["mmc"], [[1.5, 50], [5, 75]])
    np.testing.assert_allclose(_lines(accuracies)["mmc, attacked"], [[5, 25]])
    assert losses.get_xlabel() == "training time (min)"
    assert accuracies.get_ylabel() == "accuracy (%)"
    assert _read_png(path).std() > 0


def test_accuracy_vs_epsilon_draws_curve_band_and_chance(drawn, tmp_path):
    curve = ([0.0, 0.1], [0.9, 0.5], [(0.8, 0.95), (0.4, 0.6)])
    figures.accuracy_vs_epsilon(
        {"mmc, PGD": curve}, tmp_path / "a.png", norm="l2", chance=0.1
    )
    (axes,) = drawn[0].axes
    np.testing.assert_allclose(_lines(axes)["mmc, PGD"], [[0, 90], [0.1, 50]])
    np.testing.assert_allclose(np.array(_lines(axes)["chance"])[:, 1], 10)
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((40, 95))
    assert r"\ell_2" in axes.get_xlabel()


def test_lines_differ_in_colour_and_dashes(drawn, tmp_path):
    curve = ([0.0, 0.1], [0.9, 0.5], [(0.8, 0.95), (0.4, 0.6)])
    names = ("a", "b", "c")
    figures.accuracy_vs_epsilon({name: curve for name in names}, tmp_path / "a.png")
    lines = drawn[0].axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == len(names)
    assert len({line.get_linestyle() for line in lines}) == len(names)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_triples_amplify_the_largest_change_to_black_or_white(
    channels, drawn, tmp_path
):
    images = np.full((2, 4, 4, channels), 0.5, np.float32)
    adv_images = images.copy()
    adv_images[0, 0, 0] += 0.1
    adv_images[1, 0, 0] -= 0.05
    figures.image_triples(
        images,
        jnp.asarray(adv_images),
        np.array([0, 1]),
        np.array([1, 1]),
        tmp_path / "a.png",
        label_names=["cat", "dog"],
    )
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in drawn[0].axes]
    assert len(shown) == 6
    np.testing.assert_allclose(shown[2].squeeze(), adv_images[0].squeeze())
    np.testing.assert_allclose(np.ravel(shown[4][0, 0]), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.ravel(shown[5][0, 0]), 0.25, atol=1e-6)
    np.testing.assert_allclose(shown[4][1:], 0.5, atol=1e-6)
    titles = [axes.get_title(loc="center") for axes in drawn[0].axes]
    assert titles[:4] == ["cat", "dog", "read as dog", "still dog"]


def test_feature_map_marks_centers_and_ends_of_paths(drawn, tmp_path):
    features = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    labels = np.array([0, 1, 1])
    paths = np.array([[[1.0, 2.0], [2.0, 2.0], [4.0, 2.0]]])
    figures.feature_map(
        features,
        labels,
        tmp_path / "a.png",
        centers=np.array([[0.0, 0.0], [9.0, 9.0]]),
        attack_paths=paths,
        attack_labels=np.array([1]),
    )
    (axes,) = drawn[0].axes
    (points,) = axes.collections
    np.testing.assert_array_equal(points.get_offsets(), features)
    colors = [to_hex(color) for color in points.get_facecolors()]
    assert colors[0] != colors[1] == colors[2]
    notes = {note.get_text(): note.xy for note in axes.texts}
    assert notes == {"0": (0.0, 0.0), "1": (9.0, 9.0)}
    drawn_lines = [line.get_xydata().tolist() for line in axes.get_lines()]
    assert paths[0].tolist() in drawn_lines and [[4.0, 2.0]] in drawn_lines


def test_feature_map_of_a_softmax_head_marks_class_means(drawn, tmp_path):
    features = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    figures.feature_map(features, np.array([0, 4, 4]), tmp_path / "a.png")
    notes = {note.get_text(): note.xy for note in drawn[0].axes[0].texts}
    assert notes == {"0": (1.0, 2.0), "4": (4.0, 5.0)}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: figures.training_curves({}, path), "histories are empty"),
        (
            lambda path: figures.training_curves({"a": [{"time": 1.0}]}, path),
            "'a' has no line with a loss",
        ),
        (
            lambda path: figures.accuracy_vs_epsilon(
                {"a": ([0], [1, 1], [(0, 1)])}, path
            ),
            r"'a' must have as many.*\[1, 2, 1\]",
        ),
        (
            lambda path: figures.image_triples(
                np.zeros((1, 2, 2, 1)), np.zeros((2, 2, 2, 1)), [0], [0], path
            ),
            r"one shape.*\(1, 2, 2, 1\) and \(2, 2, 2, 1\)",
        ),
        (
            lambda path: figures.feature_map(np.zeros((3, 4)), np.zeros(3), path),
            r"features must be \[num, 2\], got \(3, 4\)",
        ),
        (
            lambda path: figures.feature_map(np.zeros((3, 2)), np.zeros(2), path),
            r"labels must be \[3\], got \(2,\)",
        ),
    ],
)
def test_nothing_to_draw_is_an_error_and_no_file(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_matplotlib_waits_for_the_first_figure_and_keeps_its_state(tmp_path):
    program = f"""
import sys
from mmc_jax.attacks.costs import Passes
from mmc_jax.report import figures, tables
assert "matplotlib" not in sys.modules
import matplotlib
names = ("font.size", "axes.grid", "axes.spines.top", "legend.frameon", "savefig.bbox")
before = [matplotlib.rcParams[name] for name in names]
figures.feature_map([[0.0, 1.0]], [0], {str(tmp_path / "a.png")!r})
assert [matplotlib.rcParams[name] for name in names] == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert (tmp_path / "a.png").stat().st_size > 1000
