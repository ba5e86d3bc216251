from __future__ import annotations

import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from mmc_jax import centers, spherical_codes

from .reference import centers as reference

# The first 10x10 block of the authors' file for 10 classes (unit norm), where a column
# repeats one value below its diagonal.
_DIAGONAL = [1, 0.993808, 0.986013, 0.9759, 0.96225, 0.942809, 0.912871, 0.860663]
_BELOW = [0.111111, 0.124226, 0.140859, 0.16265, 0.19245, 0.235702, 0.30429, 0.430331]


@pytest.mark.parametrize("module", [centers, spherical_codes])
def test_examples_in_docstrings_hold(module):
    results = doctest.testmod(module, extraglobs={"np": np, "jnp": jnp})
    assert results.attempted > 0
    assert results.failed == 0


def test_simplex_equals_the_authors_file():
    expected = np.diag([*_DIAGONAL, 0.745356, 0.0])
    for column, below in enumerate(_BELOW):
        expected[column + 1 :, column] = -below
    expected[9, 8] = -0.745356
    actual = centers.max_mahalanobis_centers(10, 256, center_norm=1.0)
    np.testing.assert_allclose(actual[:, :10], expected, atol=1e-6)
    assert not np.any(actual[:, 10:])


@pytest.mark.parametrize(
    ("num_classes", "feature_dim", "center_norm"),
    [(2, 1, 3.0), (2, 5, 10.0), (10, 9, 10.0), (10, 64, 100.0), (100, 256, 10.0)],
)
def test_simplex(num_classes, feature_dim, center_norm):
    actual = centers.max_mahalanobis_centers(
        num_classes, feature_dim, center_norm=center_norm
    )
    chex.assert_shape(actual, (num_classes, feature_dim))
    chex.assert_type(actual, jnp.float32)
    expected = reference.simplex_centers(num_classes, feature_dim, center_norm)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * center_norm)
    unit = np.asarray(actual, np.float64) / center_norm
    products = np.full((num_classes, num_classes), -1 / (num_classes - 1))
    np.fill_diagonal(products, 1.0)
    np.testing.assert_allclose(unit @ unit.T, products, atol=1e-6)
    np.testing.assert_allclose(unit.sum(axis=0), 0.0, atol=1e-5)


@pytest.mark.parametrize("num_classes", [4, 5, 10, 101])
def test_polygon_in_two_dimensions(num_classes):
    actual = centers.max_mahalanobis_centers(num_classes, 2)
    angle = reference.minimum_angle(np.asarray(actual, np.float64))
    assert angle == pytest.approx(360 / num_classes, abs=1e-4)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 10.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_classes", "feature_dim"),
    [(5, 3), (6, 3), (7, 4), (8, 4), (10, 5), (100, 64), (66, 64), (128, 64)],
)
def test_right_angle_up_to_twice_as_many_classes_as_dimensions(
    num_classes, feature_dim
):
    actual = np.asarray(centers.max_mahalanobis_centers(num_classes, feature_dim))
    assert reference.minimum_angle(actual) == pytest.approx(90.0, abs=1e-4)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 10.0, rtol=1e-6)
    np.testing.assert_allclose(actual.sum(axis=0), 0.0, atol=1e-4)


# Smallest angles of the best codes known, Sloane's tables of spherical codes.
@pytest.mark.parametrize(
    ("num_classes", "feature_dim", "degrees"),
    [
        (7, 3, 77.87),
        (8, 3, 74.86),
        (9, 3, 70.53),
        (10, 3, 66.15),
        (12, 3, 63.43),
        (10, 4, 80.41),
        (16, 4, 67.19),
        (24, 4, 60.0),
    ],
)
def test_search_reaches_the_best_known_codes(num_classes, feature_dim, degrees):
    actual = centers.max_mahalanobis_centers(num_classes, feature_dim, seed=1)
    unit = np.asarray(actual, np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(num_classes)
    assert np.degrees(np.arccos(cosines.max())) >= degrees - 0.2
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 10.0, rtol=1e-6)


def test_search_depends_on_its_seed_alone():
    first = centers.max_mahalanobis_centers(7, 3, seed=3)
    other = centers.max_mahalanobis_centers(7, 3, seed=4)
    spherical_codes._searched_code.cache_clear()
    np.random.seed(5)
    again = centers.max_mahalanobis_centers(7, 3, seed=3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_search_result_is_the_callers_own():
    spherical_codes.spherical_code(7, 3)[:] = 0.0
    assert np.linalg.norm(spherical_codes.spherical_code(7, 3)[0]) > 0.99


def test_soft_maximum_bounds_the_cosine_and_has_the_right_gradient(generator):
    points = generator.normal(size=(6, 3))
    value, gradient = spherical_codes._soft_max_cosine(points.ravel(), (6, 3), 20.0)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    largest = (directions @ directions.T - 2 * np.eye(6)).max()
    assert largest <= value <= largest + np.log(36) / 20.0
    for index in (0, 7, 17):
        shift = np.zeros(18)
        shift[index] = 1e-6
        ahead, behind = (
            spherical_codes._soft_max_cosine(flat, (6, 3), 20.0)[0]
            for flat in (points.ravel() + shift, points.ravel() - shift)
        )
        slope = (ahead - behind) / 2e-6
        assert gradient[index] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("sizes", [(4, 7), (12, 3)])
def test_centers_are_the_same_while_tracing(sizes):
    traced = jax.jit(lambda: centers.max_mahalanobis_centers(*sizes))()
    np.testing.assert_array_equal(traced, centers.max_mahalanobis_centers(*sizes))


def test_random_centers_are_uniform_on_the_sphere(key):
    actual = centers.random_centers(key, 4000, 3, center_norm=5.0)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 5.0, rtol=1e-5)
    # A uniform direction in three dimensions has mean 0 and covariance I / 3; four
    # standard errors.
    np.testing.assert_allclose(np.mean(actual, axis=0) / 5, 0.0, atol=0.037)
    np.testing.assert_allclose(np.cov(actual.T) / 25, np.eye(3) / 3, atol=0.02)
    repeated = centers.random_centers(jax.random.key(0), 4000, 3, center_norm=5.0)
    np.testing.assert_array_equal(actual, repeated)


@pytest.mark.parametrize("name", ["max_mahalanobis_centers", "random_centers"])
@pytest.mark.parametrize(
    ("num_classes", "feature_dim", "center_norm", "message"),
    [
        (1, 4, 10.0, r"num_classes must be an integer >= 2, got 1"),
        (True, 4, 10.0, r"num_classes must be an integer >= 2, got True"),
        (3.0, 4, 10.0, r"num_classes must be an integer >= 2, got 3\.0"),
        (3, 0, 10.0, r"feature_dim must be an integer >= 1, got 0"),
        (3, "2", 10.0, r"feature_dim must be an integer >= 1, got '2'"),
        (3, 1, 10.0, r"feature_dim=1 .*num_classes=3"),
        (3, 4, 0.0, r"center_norm must be finite and > 0, got 0\.0"),
        (3, 4, float("inf"), r"center_norm must be finite and > 0, got inf"),
        (3, 4, float("nan"), r"center_norm must be finite and > 0, got nan"),
        (3, 4, True, r"center_norm must be a number > 0, got True"),
    ],
)
def test_impossible_centers_are_refused(
    name, num_classes, feature_dim, center_norm, message
):
    make = getattr(centers, name)
    key = (jax.random.key(0),) if name == "random_centers" else ()
    with pytest.raises(ValueError, match=message):
        make(*key, num_classes, feature_dim, center_norm=center_norm)


def test_numpy_sizes_are_accepted():
    actual = centers.max_mahalanobis_centers(
        np.int64(3), np.int32(2), center_norm=np.float32(1.0)
    )
    np.testing.assert_allclose(actual[1], [-0.5, np.sqrt(0.75)], rtol=1e-6)


class MahalanobisLogitsTest(chex.TestCase):
    @chex.all_variants()
    @parameterized.parameters(1.0, 10.0, 100.0)
    def test_equals_minus_the_squared_distances(self, center_norm):
        generator = np.random.default_rng(0)
        means = np.asarray(
            centers.max_mahalanobis_centers(10, 16, center_norm=center_norm)
        )
        near = means + generator.normal(size=(10, 16))
        far = center_norm * generator.normal(size=(10, 16))
        features = np.concatenate([near, far]).astype(np.float32)
        actual = self.variant(centers.mahalanobis_logits)(features, means)
        expected = [
            reference.mahalanobis_logits(row, means)
            for row in features.astype(np.float64)
        ]
        largest = np.max(np.abs(expected))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=4e-7 * largest)

    @chex.variants(with_jit=True, without_jit=True)
    def test_gradient_is_as_exact_as_the_features(self):
        generator = np.random.default_rng(0)
        means = np.asarray(centers.max_mahalanobis_centers(10, 16, center_norm=100.0))
        features = (means[3:4] + generator.normal(size=(1, 16))).astype(np.float32)

        def own_class(features):
            return centers.mahalanobis_logits(features, means)[0, 3]

        actual = self.variant(jax.grad(own_class))(features)
        expected = -2.0 * (features.astype(np.float64) - means[3:4])
        np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5)


def test_logits_do_not_round_their_product_on_accelerators():
    jaxpr = jax.make_jaxpr(centers.mahalanobis_logits)(
        jnp.zeros((4, 3)), jnp.zeros((2, 3))
    )
    assert str(jaxpr).count("HIGHEST") >= 1


def test_hierarchical_centers_are_sums_over_the_tree():
    parents = np.array([1, 0, 1, 2, 0, 1])
    found = centers.hierarchical_centers(parents, 8, center_norms=(10.0, 1.0))
    coarse = np.asarray(centers.max_mahalanobis_centers(3, 8, center_norm=10.0))
    offsets = np.asarray(found) - coarse[parents]
    np.testing.assert_allclose(
        np.linalg.norm(offsets, axis=1), [1, 1, 1, 0, 1, 1], atol=1e-5
    )
    # Siblings lie on a simplex of their own: three at cosine -1/2, two opposite.
    np.testing.assert_allclose(offsets[[0, 2, 5]].sum(0), 0, atol=1e-5)
    np.testing.assert_allclose(offsets[0] @ offsets[2], -0.5, atol=1e-5)
    np.testing.assert_allclose(offsets[1], -offsets[4], atol=1e-5)


@pytest.mark.parametrize(
    "parents, norms, message",
    [
        ([0.0, 1.0], (10.0, 1.0), "parents must be integers .*float64"),
        ([0, 2, 2], (10.0, 1.0), r"parents must be 0 to .* got \[0 2\]"),
        ([0, 1], (10.0,), r"two norms, got \(10.0,\)"),
        ([0, 0, 1], (10.0, -1.0), "center_norm .*-1"),
    ],
)
def test_hierarchical_centers_refuse_bad_trees(parents, norms, message):
    with pytest.raises(ValueError, match=message):
        centers.hierarchical_centers(np.array(parents), 4, center_norms=norms)
