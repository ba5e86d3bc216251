"""What stands behind the paper's figures, on stand-ins whose numbers are known."""

from __future__ import annotations

import doctest
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from mmc_jax import report, timing
from mmc_jax.experiments import toy
from mmc_jax.experiments.convergence import convergence_section, measure_convergence
from mmc_jax.experiments.detection import (
    ATTACKS,
    SCORES,
    detection_section,
    measure_detection,
)
from mmc_jax.experiments.extra_cost import extra_cost_section, measure_extra_cost
from mmc_jax.experiments.feature_paths import (
    feature_paths_section,
    measure_feature_paths,
)
from mmc_jax.experiments.figure_cells import short
from mmc_jax.experiments.toy import measure_toy, path_ratios, toy_section
from mmc_jax.experiments.walks import image_keys, pgd_iterate
from tests import chromium


def _is_plain(cell):
    return json.loads(json.dumps(cell, allow_nan=False)) == cell


def _texts(section, key=lambda row: row[0].text):
    """Return name of a row -> heading -> text, of the section's last table."""
    table = section.blocks[-1]
    return {
        key(row): dict(zip(table.header, map(str, row), strict=True))
        for row in table.rows
    }


def _pictures(section):
    return [block for block in section.blocks if block.kind == "picture"]


# A model in the plane: the features are 40 times the pixels less a half, and a center
# is so far from the others that cross-entropy has no gradient.
_CENTERS = np.array([[10.0, 10.0], [-10.0, -10.0], [10.0, -10.0]], np.float32)
_SETTINGS = dict(epsilon=0.1, step_size=0.03, num_steps=8)
_ADAPTIVE, _OTHER, _START = "PGD, adaptive", "PGD, not adaptive", "random start alone"


def _features_fn(images):
    return 40.0 * (images.reshape(len(images), 2) - 0.5)


def _logits_fn(images):
    offsets = _features_fn(images)[:, None] - _CENTERS[None]
    return -jnp.sum(offsets**2, axis=-1)


def _plane_images():
    # Near their centers, at (3/4, 3/4) and the like, and one of the second class more.
    points = np.array([[0.80, 0.72], [0.22, 0.28], [0.71, 0.22], [0.24, 0.21]])
    return np.float32(points).reshape(4, 1, 1, 2), np.array([0, 1, 2, 1])


@pytest.fixture(scope="module")
def plane():
    return measure_feature_paths(
        _logits_fn,
        _features_fn,
        jax.random.key(1),
        *_plane_images(),
        centers=_CENTERS,
        num_paths=3,
        num_points=2,
        **_SETTINGS,
    )


def test_adaptive_paths_are_those_computed_by_hand(plane):
    images, labels = _plane_images()
    paths = np.array(plane["paths"][_ADAPTIVE])
    assert paths.shape == (3, 10, 2) and plane["path_labels"] == [0, 1, 2]
    for path, image, label in zip(paths, images, labels, strict=False):
        clean = image.ravel()
        np.testing.assert_allclose(path[0] / 40 + 0.5, clean, atol=1e-5)
        point = path[1] / 40 + 0.5
        assert np.all(np.abs(point - clean) <= 0.1 + 1e-5)
        for found in path[2:]:
            away = np.sign(40 * (point - 0.5) - _CENTERS[label])
            point = np.clip(point + 0.03 * away, clean - 0.1, clean + 0.1)
            np.testing.assert_allclose(found / 40 + 0.5, point, atol=1e-5)


def test_iterates_are_the_last_ones_whatever_they_gain():
    # A valley at 1/2, which a step of 0.15 crosses to and fro; always read right.
    def logits_fn(images):
        height = (images.reshape(len(images)) - 0.5) ** 2
        return jnp.stack([height, height - 1], axis=1)

    images = np.full((1, 1, 1, 1), 0.5, np.float32)
    keys, label = image_keys(jax.random.key(2), 1), np.zeros(1, np.int32)
    settings = dict(objective="own_class", epsilon=0.2, step_size=0.15)
    found = [
        pgd_iterate(logits_fn, keys, images, label, num_steps=num, **settings).item()
        for num in range(5)
    ]
    point = found[0]
    assert 0.3 <= point <= 0.7 and abs(point - 0.5) > 0.01
    for after in found[1:]:
        point = np.clip(point - 0.15 * np.sign(point - 0.5), 0.3, 0.7)
        assert after == pytest.approx(point, abs=1e-6)


def test_features_move_by_what_the_adaptive_attack_gains(plane):
    # Eight steps of 0.03 cross the ball from wherever they start: to a corner of it.
    moved = plane["moved"]
    ends = np.array(plane["paths"][_ADAPTIVE])
    corner = 40 * 0.1 * np.sqrt(2)
    np.testing.assert_allclose(
        np.linalg.norm(ends[:, -1] - ends[:, 0], axis=1), corner, rtol=1e-4
    )
    assert moved[_ADAPTIVE]["mean"] == pytest.approx(corner, rel=1e-5)
    # Without a gradient nothing leaves the random start.
    stays = np.array(plane["paths"][_OTHER])
    assert np.ptp(stays[:, 1:], axis=1).max() == 0
    assert moved[_OTHER] == moved[_START]
    assert 0 < moved[_START]["mean"] < moved[_ADAPTIVE]["mean"]
    assert plane["unit"] == 10.0
    assert plane["accuracy"][_ADAPTIVE]["count"] == 4


def test_the_interval_of_a_mean_is_that_of_its_images(plane):
    images, labels = _plane_images()
    starts = pgd_iterate(
        _logits_fn,
        image_keys(jax.random.key(1), 4),
        images,
        labels,
        objective="own_class",
        **_SETTINGS | dict(num_steps=0),
    )
    distances = 40 * np.linalg.norm((starts - images).reshape(4, 2), axis=1)
    low, high = plane["moved"][_START]["interval_95"]
    margin = 1.96 * distances.std(ddof=1) / 2
    assert plane["moved"][_START]["mean"] == pytest.approx(distances.mean(), rel=1e-4)
    assert high - low == pytest.approx(2 * margin, rel=1e-3)


def test_the_section_of_paths_says_what_its_cells_say(plane):
    assert _is_plain(plane)
    section = feature_paths_section({"MMC": [plane], "none": []})
    found = _texts(section, key=lambda row: row[1].text)
    mean = plane["moved"][_ADAPTIVE]["mean"]
    assert found[_ADAPTIVE]["distance moved"].startswith(f"{mean:.3g} [")
    assert found[_ADAPTIVE]["in units"] == f"{mean / 10:.3g}"
    assert found[_ADAPTIVE]["accuracy left, %"].startswith("100.0 [")
    assert len(_pictures(section)) == 1 and _pictures(section)[0].content
    two = feature_paths_section({"MMC": [plane, plane]})
    cell = _texts(two, key=lambda row: row[1].text)[_ADAPTIVE]
    assert cell["distance moved"] == f"{mean:.3g} ± 0 2 seeds"


def test_the_scatter_is_thinned_and_a_model_that_errs_has_no_path():
    images, labels = _plane_images()
    cell = measure_feature_paths(
        _logits_fn,
        _features_fn,
        jax.random.key(1),
        images,
        np.array([1, 0, 0, 2]),
        num_points=2,
        **_SETTINGS,
    )
    np.testing.assert_allclose(
        cell["scatter"]["features"], _features_fn(images[::2]), atol=1e-4
    )
    assert cell["scatter"]["labels"] == [1, 0]
    assert cell["paths"] == {} and cell["centers"] is None
    z = _features_fn(images)
    means = [z[0], z[1:3].mean(axis=0), z[3]]
    apart = [np.linalg.norm(means[i] - means[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert cell["unit"] == pytest.approx(min(apart) / 2)
    assert _pictures(feature_paths_section({"m": [cell]}))[0].content


def _line(step, accuracy, **changes):
    line = {"step": step, "epoch": step // 10, "time": step / 5, "loss": 1.0}
    return line | {"validation_accuracy": accuracy} | changes


_ACCURACIES = [0.5, 0.9, 0.7, 0.895, 0.91, 0.90]


def _history(accuracies=_ACCURACIES, slow=1):
    lines = [_line(10 * n, a) for n, a in enumerate(accuracies, start=1)]
    for line in lines:
        line["time"] *= slow
    # Lines between two validations.
    return [{"step": 5, "epoch": 1, "time": 0.5, "loss": 2.0}, *lines]


def test_convergence_counts_only_errors_that_last():
    cell = measure_convergence(_history())
    # The dip to 0.10 at the second line did not last; 0.105 <= 1.1 x 0.10 did.
    assert cell["final_error"] == pytest.approx(0.10)
    assert (cell["epochs_to_reach"], cell["seconds_to_reach"]) == (4, 8.0)
    assert cell["seconds"] == 12.0 and len(cell["error"]) == 6
    assert measure_convergence(_history(), tolerance=0.0)["epochs_to_reach"] == 5
    assert measure_convergence(_history([1.0, 1.0]))["epochs_to_reach"] == 1


def test_the_section_of_convergence_has_one_error_for_all():
    fast, slow = (measure_convergence(_history(slow=slow)) for slow in (1, 3))
    bad = measure_convergence(_history([0.2, 0.5, 0.5]))
    assert _is_plain(fast)
    section = convergence_section({"MMC": [fast, slow], "bad": [bad]})
    found = _texts(section)
    heads = section.blocks[-1].header
    # The bad model's 0.5, and a tenth of it: MMC is there for good at the first line.
    assert heads[4] == "seconds to an error of 55.00 %"
    assert found["MMC"][heads[4]] == "4 ± 2.83 2 seeds"
    assert found["bad"][heads[4]] == "4 1 seed"
    assert found["MMC"]["final error, %"] == "10.00 ± 0.00 2 seeds"
    assert found["MMC"][heads[2]] == "16 ± 11.3 2 seeds"
    assert found["MMC"]["seconds in all"] == "24 ± 17 2 seeds"
    assert _pictures(section)[0].content.startswith(b"<?xml")


def test_a_seed_that_never_arrives_is_not_left_out_of_a_mean():
    # On average they end at 0.3; one of them at 0.5.
    ends = [measure_convergence(_history([a])) for a in (0.9, 0.5)]
    section = convergence_section({"m": ends})
    assert section.blocks[-1].rows[0][4].details == ("1 of 2 seeds never",)


def test_rounds_alternate_and_a_slow_one_moves_no_median():
    order = []
    fns = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.interleaved(fns, pairs=3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert [len(column) for column in seconds.values()] == [3, 3]
    reference = np.array([1.0, 2, 3, 4, 100])
    assert timing.ratio_interval(1.5 * reference, reference) == (1.5, 1.5, 1.5)
    ratio, low, high = timing.ratio_interval([1.0, 1, 2, 1, 3], np.ones(5))
    assert (ratio, low, high) == (1.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        timing.interleaved(fns, pairs=0)


@pytest.fixture(scope="module")
def cost():
    seen = {}

    def interleaved(steps, *, pairs):
        for name, run in steps.items():
            state, metrics = run()
            seen[name] = int(state.step), float(metrics["loss"])
        return {
            "softmax": [1.0, 2.0, 4.0, 8.0][:pairs],
            "mmc": [1.1, 2.1, 4.4, 16.0][:pairs],
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "interleaved", interleaved)
        cell = measure_extra_cost(
            jax.random.key(0),
            architecture="cnn",
            image_shape=(8, 8, 1),
            num_classes=3,
            batch_size=2,
            num_steps=2,
            num_rounds=4,
        )
    return cell, seen


def test_extra_cost_is_the_median_ratio_of_whole_steps(cost):
    cell, seen = cost
    assert _is_plain(cell)
    assert {name: steps for name, (steps, _) in seen.items()} == {
        "softmax": 2,
        "mmc": 2,
    }
    # Half a squared distance to a center of norm 10, against a logarithm.
    assert seen["mmc"][1] > 20 > 5 > seen["softmax"][1]
    assert cell["ratios"]["mmc"]["median"] == pytest.approx(1.1)
    assert cell["ratios"]["mmc"]["interval_95"] == pytest.approx([1.05, 2.0])
    section = extra_cost_section({"cnn": [cell]})
    found = _texts(section)["cnn"]
    assert found["ratio"] == "1.100 1 seed"
    assert found["95 % interval"] == "[1.050, 2.000]"
    assert found["ms a step"] == "1625.00 1 seed"
    assert _pictures(section)[0].content


# Two classes on a line: logits +-10 (x - 1/2).
def _line_logits(images):
    certainty = 10.0 * (images.reshape(len(images)) - 0.5)
    return jnp.stack([certainty, -certainty], axis=1)


def _on_line(*points):
    return np.float32(points).reshape(-1, 1, 1, 1), np.zeros(len(points), np.int32)


def _detect(epsilon, logits_fn=_line_logits, data=None):
    data = data or _on_line(0.8, 0.9, 0.95)
    return measure_detection(
        logits_fn, jax.random.key(0), *data, epsilon=epsilon, step_size=0.4, num_steps=4
    )


def _areas(cell, whom):
    return [
        attack["scores"][score][whom]
        for attack in cell["attacks"].values()
        for score in SCORES
    ]


def test_equal_scores_are_a_guess_and_separate_ones_are_told_apart():
    same = _detect(0.0)
    # However images are drawn, an image ties with itself.
    for area in _areas(same, "all"):
        assert area == {"auc": 0.5, "interval_95": [0.5, 0.5], "n": 3}
    assert _areas(same, "broken") == [None] * 6
    # From 0.8 and above to 0.65 and below, still right: all less certain.
    weaker = _detect(0.3)
    for area in _areas(weaker, "all"):
        assert area == {"auc": 1.0, "interval_95": [1.0, 1.0], "n": 3}
    # To 0, the other class, and surer of it than of any clean image.
    wrong = _detect(1.0)
    for area in _areas(wrong, "all") + _areas(wrong, "broken"):
        assert area["auc"] == 0.0
    assert [found["accuracy"]["count"] for found in wrong["attacks"].values()] == [
        0
    ] * 3
    assert _is_plain(wrong) and _is_plain(same)


def test_probabilities_that_round_to_one_are_still_ranked(generator):
    rank = SCORES["largest probability"]
    sure = np.array([[0.0, -200.0, -300.0], [0.0, -100.0, -300.0], [50.0, 0.0, -9.0]])
    assert np.all(special.softmax(sure, axis=1).max(axis=1) == 1.0)
    assert np.all(np.diff(rank(sure)) < 0)
    logits = generator.normal(size=(50, 4))
    largest = special.softmax(logits, axis=1).max(axis=1)
    np.testing.assert_allclose(rank(logits), special.logit(largest), rtol=1e-9)


@pytest.fixture(scope="module")
def random_model():
    generator = np.random.default_rng(3)
    matrix = np.float32(4 * generator.normal(size=(4, 3)))

    def logits_fn(images):
        return (images.reshape(len(images), 4) - 0.5) @ matrix

    images = np.float32(generator.uniform(size=(60, 1, 1, 4)))
    labels = np.where(
        np.arange(60) % 5 == 0, 0, np.argmax(logits_fn(images), axis=1)
    ).astype(np.int32)
    cell = _detect(0.2, logits_fn, (images, labels))
    return logits_fn, images, labels, cell


@pytest.mark.parametrize("attack", [*ATTACKS])
@pytest.mark.parametrize("score", [*SCORES])
def test_areas_are_counts_of_pairs(random_model, attack, score):
    logits_fn, images, labels, cell = random_model
    adv_images = pgd_iterate(
        logits_fn,
        image_keys(jax.random.key(0), 60),
        images,
        labels,
        objective=ATTACKS[attack],
        epsilon=0.2,
        step_size=0.4,
        num_steps=4,
    )
    logits = [
        np.asarray(logits_fn(given), np.float64) for given in (images, adv_images)
    ]
    right, still = (found.argmax(axis=1) == labels for found in logits)
    read = {
        "largest logit": lambda h: h.max(axis=1),
        "largest probability": lambda h: special.softmax(h, axis=1).max(axis=1),
    }[score]
    clean, attacked = map(read, logits)
    found = cell["attacks"][attack]
    assert found["accuracy"]["count"] == int(np.sum(right & still))
    for whom, kept in (("all", np.full(60, True)), ("broken", right & ~still)):
        area = found["scores"][score][whom]
        assert area["n"] == kept.sum() > 5
        wins = clean[kept][:, None] - attacked[kept][None]
        assert area["auc"] == pytest.approx(np.mean((np.sign(wins) + 1) / 2), abs=1e-9)


def test_the_interval_of_an_area_is_that_of_resampled_images(random_model, generator):
    logits_fn, images, labels, cell = random_model
    attack = "PGD, cross-entropy"
    adv_images = pgd_iterate(
        logits_fn,
        image_keys(jax.random.key(0), 60),
        images,
        labels,
        objective="cross_entropy",
        epsilon=0.2,
        step_size=0.4,
        num_steps=4,
    )
    clean, attacked = (
        np.asarray(logits_fn(given)).max(axis=1) for given in (images, adv_images)
    )
    wins = (np.sign(clean[:, None] - attacked[None]) + 1) / 2
    drawn = generator.integers(60, size=(2000, 60))
    resampled = [wins[np.ix_(rows, rows)].mean() for rows in drawn]
    low, high = cell["attacks"][attack]["scores"]["largest logit"]["all"]["interval_95"]
    expected = 2 * stats.norm.ppf(0.975) * np.std(resampled)
    assert high - low == pytest.approx(expected, rel=0.1)


def test_the_attack_that_knows_the_detector_raises_its_score(random_model):
    *_, cell = random_model
    plain, *_, knowing = (
        found["scores"]["largest logit"]["all"]["auc"]
        for found in cell["attacks"].values()
    )
    assert knowing < plain


def test_the_section_of_detection_says_what_its_cells_say(random_model):
    *_, cell = random_model
    section = detection_section({"m": [cell], "same": [_detect(0.0)]})
    rows = _texts(section, key=lambda row: (row[0].text, row[1].text))
    attack = "PGD, own class"
    area = cell["attacks"][attack]["scores"]["largest logit"]["broken"]
    low, high = (100 * end for end in area["interval_95"])
    text = f"{100 * area['auc']:.1f} [{low:.1f}, {high:.1f}] n {area['n']}"
    assert rows["m", attack]["largest logit, broken"] == text
    assert rows["same", attack]["largest logit, broken"] == "-"
    assert rows["same", attack]["largest logit, all"].startswith("50.0 [")
    assert rows["same", attack]["accuracy left, %"].startswith("100.0 [")
    seeds = _texts(detection_section({"m": [cell] * 2}), key=lambda row: row[1].text)
    assert seeds[attack]["largest logit, broken"] == (
        f"{100 * area['auc']:.1f} ± 0.0 2 seeds"
    )
    assert _pictures(section)[0].content


def test_path_ratios_by_hand():
    assert doctest.testmod(toy, extraglobs={"np": np}).attempted > 0
    straight = np.linspace([[0.0, 1.0]], [[8.0, -3.0]], 9)
    np.testing.assert_allclose(path_ratios(straight), [1.0])
    # There and half of the way back: three over one.
    back = np.array([[[0.0]], [[2.0]], [[1.0]]])
    np.testing.assert_allclose(path_ratios(back), [3.0])
    assert path_ratios(np.array([[[0.0]], [[2.0]], [[0.0]]])) == [np.inf]


_TOY = dict(num_points=6, num_classes=2, num_epochs=3, rate=0.25, center_norm=2.0)


@pytest.fixture(scope="module")
def small_toy():
    return measure_toy(jax.random.key(5), batch_sizes=(6, 3), **_TOY)


def _ways(cell, name, batch_size):
    return np.array(toy._find(cell, name, batch_size)["paths"])


def test_mmc_means_go_straight_to_their_centers(small_toy):
    ways = _ways(small_toy, "MMC, class mean", 6)
    assert ways.shape == (2, 4, 2)
    centers = np.array([[2.0, 0.0], [-2.0, 0.0]])
    for way, center in zip(ways, centers, strict=True):
        expected = center + 0.75 ** np.arange(4)[:, None] * (way[0] - center)
        np.testing.assert_allclose(way, expected, atol=2e-3)
    ratios = toy._find(small_toy, "MMC, class mean", 6)["ratios"]
    np.testing.assert_allclose(ratios, 1.0, atol=1e-5)
    # A part of the class at a time: all its points head there, not in one line.
    assert 1.0 < toy._find(small_toy, "MMC, class mean", 3)["ratio"] < 1.5


def test_the_center_losss_ways_equal_a_numpy_reference(small_toy):
    feature_key, layer_key, order_key = jax.random.split(jax.random.key(5), 3)
    z = np.array(jax.random.normal(feature_key, (6, 2)), np.float64)
    kernel = np.array(jax.random.normal(layer_key, (2, 2)), np.float64)
    bias, centers, labels = np.zeros(2), np.zeros((2, 2)), np.arange(6) % 2
    means, learned = [z[labels == 0].mean(axis=0)], [centers[0].copy()]
    for epoch in range(3):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), 6)
        for batch in np.asarray(order).reshape(2, 3):
            own, classes = z[batch].copy(), labels[batch]
            excess = special.softmax(own @ kernel + bias, axis=1)
            excess[np.arange(3), classes] -= 1
            z[batch] -= 0.25 * (excess @ kernel.T + 0.1 * (own - centers[classes]))
            # A class has three points: a third of the rate.
            kernel = kernel - 0.25 / 3 * own.T @ excess
            bias = bias - 0.25 / 3 * excess.sum(axis=0)
            for k in range(2):
                rows = own[classes == k]
                centers[k] -= 0.5 * np.sum(centers[k] - rows, axis=0) / (1 + len(rows))
            means.append(z[labels == 0].mean(axis=0))
            learned.append(centers[0].copy())
    for name, way in (("class mean", means), ("center", learned)):
        found = _ways(small_toy, f"center loss, {name}", 3)[0]
        np.testing.assert_allclose(found, way, atol=2e-3)


def test_the_section_of_the_toy_says_what_its_cells_say(small_toy):
    assert _is_plain(small_toy)
    section = toy_section({"toy": [small_toy, small_toy]})
    found = _texts(section)
    for track in small_toy["tracks"]:
        text = found[track["name"]][f"batch {track['batch_size']}"]
        assert text == f"{track['ratio']:.2f} ± 0.00 2 seeds"
    assert _pictures(section)[0].content


@pytest.mark.verify
@chromium.NEEDED
def test_a_page_of_all_fits_a_phone_and_complains_of_nothing(
    plane, cost, random_model, small_toy, tmp_path
):
    path = report.write_page(
        tmp_path / "page.html",
        title="Measurements",
        sections=[
            feature_paths_section({"MMC": [plane]}),
            toy_section({"toy": [small_toy]}),
            convergence_section({"MMC": [measure_convergence(_history())]}),
            extra_cost_section({"cnn": [cost[0]]}),
            detection_section({"MMC": [random_model[-1]]}),
        ],
    )
    with chromium.tab(tmp_path / "profile") as tab:
        tab.resize(390, 844)
        tab.open(path)
        assert tab.run("document.documentElement.scrollWidth") == 390
        assert (
            tab.run("[...document.images].map(i => i.naturalWidth > 0)") == [True] * 5
        )
        methods = {event.get("method") for event in tab.events}
        assert not methods & {"Runtime.exceptionThrown", "Log.entryAdded"}


@pytest.mark.parametrize(
    ("section", "what"),
    [
        (feature_paths_section, "feature paths"),
        (convergence_section, "convergence"),
        (extra_cost_section, "extra cost"),
        (detection_section, "detection"),
        (toy_section, "the toy of class centers"),
    ],
)
def test_a_section_refuses_what_is_no_cell_of_its_own(section, what):
    with pytest.raises(ValueError, match=f"cells are empty: no measurement of {what}"):
        section({"MMC": []})
    message = f"cell 0 of 'MMC' is no measurement of {what}: it lacks"
    with pytest.raises(ValueError, match=message):
        section({"MMC": [{"value": 1.0}]})


def _paths(**changes):
    given = dict(_SETTINGS, features_fn=_features_fn) | changes
    features_fn = given.pop("features_fn")
    images, labels = _plane_images()
    key = jax.random.key(0)
    return measure_feature_paths(_logits_fn, features_fn, key, images, labels, **given)


def _cost(**changes):
    given = dict(architecture="cnn", image_shape=(8, 8, 1), num_classes=3) | changes
    return measure_extra_cost(jax.random.key(0), **given)


def _toy(**changes):
    return measure_toy(jax.random.key(0), **_TOY | dict(batch_sizes=(6,)) | changes)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (
            lambda: _paths(num_images=1),
            "num_images must be an int of at least 2, got 1",
        ),
        (lambda: _paths(num_steps=0), "num_steps must be an int of at least 1, got 0"),
        (lambda: _paths(num_paths=True), "num_paths must be an int of at least 1"),
        (lambda: _paths(features_fn=_logits_fn), r"must be \[num, 2\], got \(4, 3\)"),
        (lambda: measure_convergence([]), "no line with 'validation_accuracy'"),
        (lambda: measure_convergence([_line(1, 97.0)]), "must be fractions, got"),
        (lambda: measure_convergence([_line(1, float("nan"))]), "must be fractions"),
        (
            lambda: measure_convergence([_line(2, 0.5), _line(1, 0.5)]),
            "not in the order",
        ),
        (
            lambda: measure_convergence(_history(), tolerance=-1.0),
            "tolerance must be at",
        ),
        (
            lambda: convergence_section(
                {
                    "m": [
                        measure_convergence(_history(), tolerance=t) for t in (0.1, 0.2)
                    ]
                }
            ),
            "cells measure different things",
        ),
        (lambda: _cost(num_rounds=0), "num_rounds must be an int of at least 1, got 0"),
        (lambda: _cost(compared=("softmax",)), "name losses other than 'softmax'"),
        (lambda: _cost(architecture="vgg"), "unknown model 'vgg'"),
        (lambda: _detect(0.1, data=_on_line(0.9)), "number of images must be an int"),
        (lambda: _detect(0.1, lambda images: jnp.nan * _line_logits(images)), "finite"),
        (lambda: _toy(batch_sizes=(4,)), "batch_sizes must divide 6, got 4"),
        (lambda: _toy(rate=1.5), r"rate must be in \(0, 1\], got 1.5"),
        (lambda: _toy(num_points=1), "num_points must be an int of at least 2, got 1"),
    ],
)
def test_bad_input_is_named(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()


def test_a_large_number_is_written_out():
    numbers = (0.12345, 123.45, 999.4, 1234.6)
    assert [*map(short, numbers)] == ["0.123", "123", "999", "1,235"]
