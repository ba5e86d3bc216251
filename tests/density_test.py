from __future__ import annotations

import doctest
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from mmc_jax import contours, density, sample_density
from mmc_jax.centers import max_mahalanobis_centers
from mmc_jax.losses import mmc_loss

from .reference import contours as reference

# Three classes in four dimensions, every pair of another scale.
_MEANS = np.array([[1.0, 0, 2, -1], [0, 1, -1, 0], [2, 2, 0, 1]])
_SCALES = np.array([0.5, 1.25, 2.0])
_BIASES = np.array([0.3, -0.4, 1.0])
_CLASS_PAIRS = [(k, rival) for k in range(3) for rival in range(3) if k != rival]
_LABELS, _RIVALS = np.array(_CLASS_PAIRS).T


def _pairs(scales=_SCALES, labels=_LABELS, rivals=_RIVALS):
    return contours.class_pairs(labels, rivals, _MEANS, scales, _BIASES)


def _directions(generator, batch: int, feature_dim: int) -> np.ndarray:
    normal = generator.normal(size=(batch, feature_dim))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _coverage(covered) -> float:
    return float(np.mean(covered))


@pytest.mark.parametrize("module", [contours, density, sample_density])
def test_examples_in_docstrings_hold(module):
    results = doctest.testmod(module, extraglobs={"np": np})
    assert results.failed == 0
    assert results.attempted > 0


def test_pair_losses_equal_the_reference(generator):
    features = generator.normal(size=(6, 4))
    expected = [
        reference.pair_loss(z, k, rival, _MEANS, _SCALES, _BIASES)
        for z, (k, rival) in zip(features, _CLASS_PAIRS, strict=True)
    ]
    np.testing.assert_allclose(contours.pair_losses(features, _pairs()), expected)


def test_the_whole_loss_exceeds_the_pairs_by_the_log_of_the_rivals_at_most(generator):
    features, labels = 3 * generator.normal(size=(200, 4)), np.arange(200) % 3
    logits = [reference.quadratic_logits(z, _MEANS, _SCALES, _BIASES) for z in features]
    rivals = contours.rival_classes(logits, labels)
    excess = np.array(
        [
            reference.gsce(z, k, _MEANS, _SCALES, _BIASES)
            for z, k in zip(features, labels, strict=True)
        ]
    ) - contours.pair_losses(features, _pairs(labels=labels, rivals=rivals))
    assert np.all(excess >= -1e-12)
    assert np.all(excess <= math.log(2) + 1e-12)


def test_rival_is_never_the_label():
    logits = np.array([[1.0, 5, 3], [1, 5, 3], [5, 5, 1], [-np.inf, 2, -np.inf]])
    rivals = contours.rival_classes(jnp.asarray(logits), jnp.array([1, 0, 0, 1]))
    assert rivals.tolist() == [2, 1, 1, 0]


@pytest.mark.parametrize("factor", [1.0, 1.0001, 1.5, 4.0])
def test_points_on_a_sphere_have_its_loss(generator, factor):
    pairs = _pairs()
    is_least = pairs.own_scales > pairs.rival_scales
    losses = contours.critical_losses(pairs) * np.where(is_least, factor, 1 / factor)
    middles, squares = contours.contour_spheres(losses, pairs)
    for _ in range(5):
        around = _directions(generator, 6, 4) * np.sqrt(squares)[:, None]
        found = [
            reference.pair_loss(z, k, rival, _MEANS, _SCALES, _BIASES)
            for z, (k, rival) in zip(middles + around, _CLASS_PAIRS, strict=True)
        ]
        np.testing.assert_allclose(found, losses, rtol=1e-11)
    if factor == 1.0:
        np.testing.assert_allclose(squares, 0, atol=1e-12)


def test_a_sphere_by_hand():
    # On a line: -2 z^2 against -(z - 3)^2 is -(z + 3)^2 + 18; at C = log 2 it is 0.
    pairs = contours.class_pairs([0], [1], [[0.0], [3.0]], [2.0, 1.0], [0.0, 0.0])
    middles, squares = contours.contour_spheres([math.log(2)], pairs)
    np.testing.assert_allclose(middles, [[-3.0]])
    np.testing.assert_allclose(squares, [18.0])
    # At -3: log(1 + e^-18).
    critical = math.log1p(math.exp(-18))
    np.testing.assert_allclose(contours.critical_losses(pairs), [critical])


def test_no_feature_passes_the_critical_loss(generator):
    for k, rival in _CLASS_PAIRS:
        pairs = _pairs(labels=[k], rivals=[rival])
        critical = contours.critical_losses(pairs)[0]
        features = 3 * generator.normal(size=(500, 4))
        found = [
            reference.pair_loss(z, k, rival, _MEANS, _SCALES, _BIASES) for z in features
        ]
        is_least = _SCALES[k] > _SCALES[rival]
        assert (min(found) >= critical) if is_least else (max(found) <= critical)
        assert np.ptp(found) > 0.1 * critical


def test_radius_grows_as_the_root_of_log_loss_towards_loss_zero():
    pairs = _pairs(labels=[0, 0], rivals=[2, 2])
    _, squares = contours.contour_spheres([1e-200, 1e-100], pairs)
    np.testing.assert_allclose(squares[0] - squares[1], 100 * math.log(10) / 1.5)


@pytest.mark.parametrize("loss", [1e-6, math.log(2), 3.0, 800.0])
def test_points_on_a_plane_have_its_loss(generator, loss):
    scales = np.full(3, 0.7)
    normals, offsets = contours.contour_planes(np.full(6, loss), _pairs(scales))
    points = generator.normal(size=(6, 4))
    lengths = np.linalg.norm(normals, axis=1)
    steps = (offsets - np.sum(points * normals, axis=1)) / lengths**2
    on_plane = points + steps[:, None] * normals
    for features, sign in ((on_plane, 0), (on_plane + 0.01 * normals, -1)):
        found = [
            reference.pair_loss(z, k, rival, _MEANS, scales, _BIASES)
            for z, (k, rival) in zip(features, _CLASS_PAIRS, strict=True)
        ]
        if sign:
            assert np.all(np.array(found) < loss)
        else:
            np.testing.assert_allclose(found, loss, rtol=1e-8)


def test_linear_logits_are_quadratic_ones(generator):
    kernel, bias = generator.normal(size=(4, 3)), generator.normal(size=3)
    means, scales, biases = contours.linear_as_quadratic(kernel, bias)
    features = generator.normal(size=4)
    linear = features @ kernel + bias
    quadratic = reference.quadratic_logits(features, means, scales, biases)
    np.testing.assert_allclose(linear - quadratic, features @ features)


@pytest.mark.parametrize("feature_dim", [1, 2, 3, 5])
@pytest.mark.parametrize("radii", [(0.0, 0.8), (0.6, 0.95)])
def test_shell_volumes_by_monte_carlo(generator, feature_dim, radii):
    points = generator.uniform(-1, 1, size=(200_000, feature_dim))
    lengths = np.linalg.norm(points, axis=1)
    share = np.mean((lengths > radii[0]) & (lengths < radii[1]))
    error = 4 * math.sqrt(share * (1 - share) / len(points))
    volume = math.exp(density.log_shell_volume(*radii, feature_dim))
    assert volume == pytest.approx(share * 2**feature_dim, abs=error * 2**feature_dim)


def test_shell_volumes_that_no_float_holds():
    # log V_256 from pi^128 / 128!.
    unit = 128 * math.log(math.pi) - sum(math.log(n) for n in range(1, 129))
    found = density.log_shell_volume([0.0, 0.0, 9.0], [1e-3, 100.0, 10.0], 256)
    hollow = math.log(1 - 0.9**256)
    expected = unit + np.array([-768, 512, 256]) * math.log(10) + [0, 0, hollow]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_thin_shells_keep_their_digits():
    # S r^(d - 1) dr, where r^d of both edges agree in twelve digits.
    step = 2.0**-40
    found = density.log_shell_volume(3.0, 3.0 + step, 3)
    np.testing.assert_allclose(found, math.log(4 * math.pi * 9 * step), atol=1e-11)


@pytest.mark.parametrize("feature_dim", [1, 2, 3, 9, 256])
def test_theorem_2_is_the_density_of_gaussian_features(feature_dim):
    # z - mu ~ N(0, I): C = r^2 / 2 is Gamma(d / 2), and the density is known.
    losses = feature_dim / 2 * np.array([0.5, 1.0, 2.0])
    rates = 100 * stats.gamma.pdf(losses, feature_dim / 2)
    found = density.mmc_log_density(losses, rates, feature_dim)
    truth = math.log(100) - losses - feature_dim / 2 * math.log(2 * math.pi)
    np.testing.assert_allclose(found, truth, rtol=1e-12)
    printed = density.mmc_log_density(losses, rates, feature_dim, volume="printed")
    # Its surface alone leaves half a log C, beyond a constant.
    np.testing.assert_allclose(np.diff(printed - truth), np.diff(-np.log(losses) / 2))


def test_theorem_2_holds_for_sampled_features(generator):
    centers = np.asarray(max_mahalanobis_centers(3, 4))
    labels = np.arange(30_000) % 3
    features = centers[labels] + 0.5 * generator.normal(size=(30_000, 4))
    losses = np.asarray(mmc_loss(jnp.float32(features), labels, centers))
    edges = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
    counts, total = np.histogram(losses, edges)[0], len(losses)
    measured = sample_density.shell_log_density(
        np.sqrt(2 * losses), np.sqrt(2 * edges), 4, confidence=0.999
    )
    for index, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        # Mean of the theorem over the shell, with the rates of the true distribution.
        expected = total * np.diff(stats.gamma.cdf([first, last], 2, scale=0.25))[0]

        def number(loss):
            rate = total * stats.gamma.pdf(loss, 2, scale=0.25)
            log_density = density.mmc_log_density(loss, rate, 4)
            return np.exp(log_density) * 2 * math.pi**2 * (2 * loss)

        assert integrate.quad(number, first, last)[0] == pytest.approx(expected)
        volume = math.exp(
            density.log_shell_volume(*np.sqrt([2 * first, 2 * last]), feature_dim=4)
        )
        truth = math.log(expected / volume)
        assert measured.low[index] < truth < measured.high[index]
        assert measured.value[index] == pytest.approx(math.log(counts[index] / volume))


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("feature_dim", [2, 4, 5])
def test_theorem_1_is_the_density_of_features_around_the_contours(feature_dim, label):
    # Even in a ball around M: N / Vol at every loss, if the rate is that of the count.
    means = np.eye(3, feature_dim)
    pairs = contours.class_pairs([label] * 3, [1] * 3, means, _SCALES, _BIASES)
    radius, total = 3.0, 50.0
    truth = math.log(total) - float(density.log_shell_volume(0, radius, feature_dim))

    def inside(losses):
        squares = contours.contour_spheres(losses, pairs)[1]
        return total * (squares / radius**2) ** (feature_dim / 2)

    middles, _ = contours.contour_spheres(contours.critical_losses(pairs), pairs)
    steps = np.array([0.5, 1.0, 2.0])[:, None] * np.eye(1, feature_dim)
    losses = contours.pair_losses(middles + steps, pairs)
    step = 1e-5 * losses
    rates = np.abs(inside(losses + step) - inside(losses - step)) / (2 * step)
    found = density.gsce_log_density(losses, rates, pairs)
    np.testing.assert_allclose(found, truth, rtol=1e-7)
    printed = density.gsce_log_density(losses, rates, pairs, volume="printed")
    squares = contours.contour_spheres(losses, pairs)[1]
    by_hand = np.log(rates) - (feature_dim - 1) / 2 * np.log(squares)
    np.testing.assert_allclose(printed, by_hand)


def test_theorem_1_holds_for_sampled_features(generator):
    # Gaussian around M, so that losses are a function of a chi-square.
    pairs = _pairs(labels=[2], rivals=[0])
    losses, step = np.linspace(0.002, 0.02, 4), 0.0005
    many = contours.class_pairs([2] * 4, [0] * 4, _MEANS, _SCALES, _BIASES)
    middle = contours.contour_spheres([losses[0]], pairs)[0]
    features = middle + generator.normal(size=(200_000, 4)) * 2.0
    wide = contours.class_pairs(
        [2] * len(features), [0] * len(features), _MEANS, _SCALES, _BIASES
    )
    found = contours.pair_losses(features, wide)
    counts = [np.sum(np.abs(found - loss) < step / 2) for loss in losses]
    predicted = density.gsce_log_density(losses, np.array(counts) / step, many)
    squares = contours.contour_spheres(losses, many)[1]
    truth = math.log(2e5) - squares / 8 - 2 * math.log(2 * math.pi * 4)
    np.testing.assert_allclose(predicted, truth, atol=4 / math.sqrt(min(counts)))


def test_density_at_the_ends():
    pairs = _pairs(labels=[2], rivals=[0])
    critical = contours.critical_losses(pairs)
    # At C* the contour is a point; rounding must not put it on the wrong side.
    assert density.gsce_log_density(critical * (1 + 1e-12), [1.0], pairs)[0] > 10
    assert density.gsce_log_density(critical * 2, [0.0], pairs)[0] == -np.inf
    assert density.mmc_log_density(1.0, 0.0, 4) == -np.inf


@pytest.mark.parametrize(("rate", "total"), [(0.004, 60), (0.05, 40), (0.5, 30)])
def test_shell_intervals_cover(generator, rate, total):
    # Uniform on [0, 1] in one dimension, as distances; a shell holds rate of them.
    edges = np.array([0.2, 0.2 + rate])
    truth = math.log(total * rate) - math.log(2 * rate)
    covered = []
    for _ in range(600):
        distances = generator.uniform(size=total)
        found = sample_density.shell_log_density(distances, edges, 1, confidence=0.9)
        covered.append(found.low[0] <= truth <= found.high[0])
    assert 0.9 - 0.03 < _coverage(covered)
    if rate == 0.5:
        assert _coverage(covered) < 0.97


def test_shells_with_nothing_and_with_everything():
    found = sample_density.shell_log_density([0.5] * 20, [0, 1, 2], 1)
    # 1 - tail^(1 / n) and tail^(1 / n), Clopper and Pearson's closed forms.
    tail = 0.025 ** (1 / 20)
    np.testing.assert_allclose(found.value, [math.log(10), -np.inf])
    np.testing.assert_allclose(found.low, [math.log(10 * tail), -np.inf])
    np.testing.assert_allclose(found.high, [math.log(10), math.log(10 * (1 - tail))])


def test_shell_intervals_are_those_of_clopper_and_pearson():
    found = sample_density.shell_log_density([0.5] * 7 + [1.5] * 13, [0, 1], 1)
    # At its ends, as few or as many as were found are just not too improbable.
    low, high = (math.exp(bound[0]) * 2 / 20 for bound in found[1:])
    assert stats.binom.sf(6, 20, low) == pytest.approx(0.025)
    assert stats.binom.cdf(7, 20, high) == pytest.approx(0.025)


def test_shells_own_their_lower_edges():
    found = sample_density.shell_log_density([1.0, 2.0], [0.0, 1.0, 2.0], 1)
    np.testing.assert_allclose(found.value, [-np.inf, 0.0], atol=1e-15)


@pytest.mark.parametrize(("share", "total"), [(0.5, 41), (0.9, 60), (0.1, 100)])
def test_ball_intervals_cover(generator, share, total):
    feature_dim = 3
    # An even ball of radius 1: the share within r is r^3.
    radius = share ** (1 / feature_dim)
    truth = math.log(total) - math.log(4 * math.pi / 3)
    covered, balls = [], []
    for _ in range(600):
        distances = generator.uniform(size=total) ** (1 / feature_dim)
        found = sample_density.ball_radius(distances, share=share, confidence=0.9)
        covered.append(found.low <= radius <= found.high)
        ball = sample_density.ball_log_density(
            distances, feature_dim, share=share, confidence=0.9
        )
        balls.append(ball.low <= truth <= ball.high)
        assert found.low <= found.value <= found.high
        volume = 4 * math.pi / 3 * found.value**3
        assert ball.value == pytest.approx(math.log(share * total / volume))
    assert 0.9 - 0.03 < _coverage(covered) < 0.97
    assert balls == covered


def test_balls_of_too_few_samples():
    assert sample_density.ball_radius([2.0], share=0.5) == (2.0, 0.0, np.inf)
    value, low, high = sample_density.ball_log_density([2.0], 1, share=0.5)
    assert (value, low, high) == (pytest.approx(math.log(0.125)), -np.inf, np.inf)
    assert sample_density.ball_log_density([0.0], 1).value == np.inf


@pytest.mark.parametrize("num_neighbours", [1, 5])
def test_neighbours_find_an_even_density(generator, num_neighbours):
    # Around the middle of an even cube the border is far.
    values, misses = [], []
    for _ in range(40):
        features = generator.uniform(-1, 1, size=(500, 2))
        found = sample_density.neighbour_log_density(
            features, num_neighbours=num_neighbours, confidence=0.9
        )
        middle = np.max(np.abs(features), axis=1) < 0.6
        truth = math.log(500 / 4)
        values.append(np.mean(found.value[middle]) - truth)
        missed = found.high < truth, truth < found.low
        misses.append([np.mean(miss[middle]) for miss in missed])
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert error < 0.02
    np.testing.assert_allclose(np.mean(misses, axis=0), 0.05, atol=0.01)


def test_neighbours_by_hand():
    features = [[0.0], [1.0], [3.0], [3.0]]
    found = sample_density.neighbour_log_density(features, num_neighbours=2)
    # psi(2) - psi(4) = -(1/2 + 1/3); the second neighbours are 3, 2, 2 and 2 away.
    expected = math.log(4) - 5 / 6 - np.log([6.0, 4.0, 4.0, 4.0])
    np.testing.assert_allclose(found.value, expected)
    nearest = sample_density.neighbour_log_density(features, num_neighbours=1)
    assert nearest.value[2] == np.inf


def test_a_length_of_another_unit_moves_densities_by_its_log(generator):
    features = generator.normal(size=(50, 6))
    lengths = np.linalg.norm(features, axis=1)
    shift = 6 * math.log(2)
    for measure in (
        lambda unit: sample_density.ball_log_density(lengths / unit, 6)[0],
        lambda unit: sample_density.neighbour_log_density(features / unit).value,
        lambda unit: (
            sample_density.shell_log_density(
                lengths / unit, np.array([1.0, 3.0]) / unit, 6
            ).value
        ),
    ):
        np.testing.assert_allclose(measure(2.0) - measure(1.0), shift)


def _planes_of(*scales):
    pairs = contours.class_pairs([0], [1], [[0.0], [0.0]], scales, [0.0, 0.0])
    return contours.contour_planes([1.0], pairs)


_REFUSED = {
    "rank of logits": (
        lambda: contours.rival_classes([1.0, 2.0], [0]),
        r"logits must be .*got \[2\]",
    ),
    "one class": (
        lambda: contours.rival_classes([[1.0]], [0]),
        r"num_classes >= 2.*got \[1, 1\]",
    ),
    "nan logits": (
        lambda: contours.rival_classes([[1.0, np.nan]], [0]),
        r"without NaN, got \[1, 2\] with 1 NaN",
    ),
    "number of labels": (
        lambda: contours.rival_classes([[1.0, 2.0]], [0, 1]),
        "logits are of 1 examples, labels of 2",
    ),
    "type of labels": (
        lambda: contours.rival_classes([[1.0, 2.0]], [0.0]),
        r"labels must be integers \[batch\], got float64 \[1\]",
    ),
    "kernel": (
        lambda: contours.linear_as_quadratic(np.ones((4, 3)), np.ones(4)),
        r"kernel must be .*got \[4, 3\] and \[4\]",
    ),
    "shape of scales": (
        lambda: _pairs(np.ones(4)),
        r"scales and biases \[num_classes\], got \[3, 4\], \[4\] and \[3\]",
    ),
    "scale of zero": (
        lambda: _pairs(np.array([1.0, 0.0, 2.0])),
        "scales must be finite and > 0, got 0.0",
    ),
    "class out of range": (
        lambda: _pairs(labels=[3], rivals=[0]),
        r"labels must be in \[0, 3\), got 3",
    ),
    "negative rival": (
        lambda: _pairs(labels=[1], rivals=[-1]),
        r"rivals must be in \[0, 3\), got -1",
    ),
    "number of rivals": (
        lambda: _pairs(labels=[1, 2], rivals=[0]),
        "2 labels, but 1 rivals",
    ),
    "rival is the label": (
        lambda: _pairs(labels=[0, 2], rivals=[1, 2]),
        "a rival must not be the label, got 2 as both",
    ),
    "shape of features": (
        lambda: contours.pair_losses(np.ones((5, 4)), _pairs()),
        r"features must be \[6, 4\], got \[5, 4\]",
    ),
    "number of losses": (
        lambda: contours.contour_spheres([1.0], _pairs()),
        r"losses must be \[6\], got \[1\]",
    ),
    "loss of zero": (
        lambda: contours.contour_planes(np.zeros(6), _pairs(np.ones(3))),
        "losses must be finite and > 0, got 0.0",
    ),
    "loss below the least": (
        lambda: contours.contour_spheres([1e-9], _pairs(labels=[2], rivals=[0])),
        r"no feature has the loss 1e-09 at example 0.*at least 8\.55\d+e-05",
    ),
    "loss above the most": (
        lambda: contours.contour_spheres([1e9], _pairs(labels=[0], rivals=[2])),
        r"no feature has the loss 1000000000\.0 at example 0.*at most \d",
    ),
    "sphere of equal scales": (
        lambda: contours.contour_spheres(np.ones(6), _pairs(np.full(3, 0.5))),
        "both scales of example 0 are 0.5.*see contour_planes",
    ),
    "critical loss of equal scales": (
        lambda: contours.critical_losses(_pairs(np.array([1.0, 2.0, 2.0]))),
        "both scales of example 3 are 2.0.*see contour_planes",
    ),
    "plane of unequal scales": (
        lambda: _planes_of(1.0, 2.0),
        "scales of example 0 are 1.0 and 2.0.*see contour_spheres",
    ),
    "plane of equal means": (
        lambda: _planes_of(1.0, 1.0),
        "both means of example 0 are equal",
    ),
    "radii in reverse": (
        lambda: density.log_shell_volume([0.0, 2.0], [1.0, 1.0], 2),
        "0 <= inner < outer < inf, got 2.0 and 1.0",
    ),
    "negative radius": (
        lambda: density.log_shell_volume(-1.0, 1.0, 2),
        "got -1.0 and 1.0",
    ),
    "infinite radius": (
        lambda: density.log_shell_volume(1.0, np.inf, 2),
        "got 1.0 and inf",
    ),
    "dimension of zero": (
        lambda: density.log_shell_volume(0.0, 1.0, 0),
        "feature_dim must be an integer >= 1, got 0",
    ),
    "dimension that is none": (
        lambda: density.mmc_log_density(1.0, 1.0, 2.5),
        "feature_dim must be an integer >= 1, got 2.5",
    ),
    "volume": (
        lambda: density.mmc_log_density(1.0, 1.0, 2, volume="thin"),
        "volume must be 'exact' or 'printed', got 'thin'",
    ),
    "mmc loss of zero": (
        lambda: density.mmc_log_density([1.0, 0.0], 1.0, 2),
        "losses must be finite and > 0, got 0.0",
    ),
    "rate": (
        lambda: density.mmc_log_density(1.0, -2.0, 2),
        "rates must be finite and >= 0, got -2.0",
    ),
    "number of rates": (
        lambda: density.gsce_log_density(
            [1.0], [1.0, 1.0], _pairs(labels=[2], rivals=[0])
        ),
        r"rates must be \[1\], got \[2\]",
    ),
    "theorem 1 for softmax": (
        lambda: density.gsce_log_density(np.ones(6), np.ones(6), _pairs(np.ones(3))),
        "see contour_planes",
    ),
    "volume of theorem 1": (
        lambda: density.gsce_log_density(np.ones(6), np.ones(6), _pairs(), volume=1),
        "volume must be 'exact' or 'printed', got 1",
    ),
    "confidence": (
        lambda: sample_density.ball_radius([1.0], confidence=1.0),
        r"confidence must be in \(0, 1\), got 1.0",
    ),
    "confidence of shells": (
        lambda: sample_density.shell_log_density([1.0], [0, 1], 2, confidence=95),
        r"confidence must be in \(0, 1\), got 95",
    ),
    "share": (
        lambda: sample_density.ball_log_density([1.0], 2, share=0.0),
        r"share must be in \(0, 1\), got 0.0",
    ),
    "no distances": (
        lambda: sample_density.ball_radius([]),
        r"distances must be \[batch >= 1\], got \[0\]",
    ),
    "negative distance": (
        lambda: sample_density.shell_log_density([1.0, -2.0], [0, 1], 2),
        "distances must be finite and >= 0, got -2.0",
    ),
    "one edge": (
        lambda: sample_density.shell_log_density([1.0], [0.0], 2),
        r"edges must be two or more, got \[0.0\]",
    ),
    "edges in reverse": (
        lambda: sample_density.shell_log_density([1.0], [0.0, 2.0, 1.0], 2),
        "got 2.0 and 1.0",
    ),
    "too few features": (
        lambda: sample_density.neighbour_log_density(np.ones((5, 2))),
        r"features must be \[batch > 5, feature_dim\], got \[5, 2\]",
    ),
    "features that are none": (
        lambda: sample_density.neighbour_log_density([[1.0], [np.nan]] * 5),
        "features must be finite, got nan",
    ),
    "neighbours": (
        lambda: sample_density.neighbour_log_density(
            np.ones((5, 2)), num_neighbours=True
        ),
        "num_neighbours must be an integer >= 1, got True",
    ),
    "confidence of neighbours": (
        lambda: sample_density.neighbour_log_density(np.ones((9, 2)), confidence=0),
        r"confidence must be in \(0, 1\), got 0",
    ),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_bad_input_is_refused(name):
    call, message = _REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
