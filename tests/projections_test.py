"""Balls and boxes, as float64 sees them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from mmc_jax.attacks import projections

BATCH, SHAPE = 6, (32, 32, 3)
EPSILON = jnp.array([0.0, 1e-4, 8 / 255, 0.2, 0.6, 30.0])


def _norms(candidates, images, norm):
    delta = np.asarray(candidates, np.float64) - np.asarray(images, np.float64)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(delta.reshape(len(delta), -1), ord=order, axis=1)


def _images():
    """Noise, and plain backgrounds, where rounding errors add up."""
    plain = jnp.full((BATCH, *SHAPE), 0.7, jnp.float32)
    noise = np.random.default_rng(0).uniform(size=(BATCH, *SHAPE))
    return [jnp.asarray(noise, jnp.float32), plain, plain / 7, jnp.zeros_like(plain)]


@pytest.mark.parametrize("norm", projections.NORMS)
def test_stays_in_the_ball_and_the_box(norm):
    project = jax.jit(projections.project, static_argnames="norm")
    moves = np.random.default_rng(1).normal(size=(BATCH, *SHAPE))
    for images in _images():
        for move in (
            moves,
            0.1 * np.ones_like(moves),
            -np.ones_like(moves),
            1e30 * moves,
        ):
            candidates = images + jnp.asarray(move, jnp.float32)
            projected = project(candidates, images, epsilon=EPSILON, norm=norm)
            assert projected.min() >= 0.0 and projected.max() <= 1.0
            allowed = np.asarray(EPSILON, np.float64) * (1 + 1e-6) + 1e-7
            assert (_norms(projected, images, norm) <= allowed).all()


@pytest.mark.parametrize("norm", projections.NORMS)
def test_moves_what_is_outside_to_the_sphere_and_nothing_else(norm):
    images = jnp.full((BATCH, *SHAPE), 0.5, jnp.float32)
    moves = jnp.asarray(np.random.default_rng(1).normal(size=images.shape), jnp.float32)
    moves = 0.01 * moves
    epsilon = 0.1
    projected = projections.project(images + moves, images, epsilon=epsilon, norm=norm)
    if norm == "linf":
        np.testing.assert_allclose(projected, images + moves, rtol=0, atol=1e-6)
    if norm == "l1":
        # Every pixel that moves is rounded inward, by an ulp of the image.
        np.testing.assert_allclose(_norms(projected, images, norm), epsilon, rtol=1e-4)
    if norm == "l2":
        np.testing.assert_allclose(_norms(projected, images, norm), epsilon, rtol=1e-5)
        cosine = jnp.sum((projected - images) * moves, axis=(1, 2, 3)) / (
            _norms(projected, images, norm) * _norms(moves, 0 * moves, norm)
        )
        np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)
    again = projections.project(projected, images, epsilon=epsilon * 1.01, norm=norm)
    np.testing.assert_allclose(again, projected, rtol=0, atol=1e-7)


def test_linf_is_the_exact_projection_on_ball_and_box():
    images = jnp.array([0.05, 0.5, 0.95]).reshape(1, 1, 3, 1)
    candidates = jnp.array([-3.0, 0.45, 3.0]).reshape(1, 1, 3, 1)
    projected = projections.project(candidates, images, epsilon=0.1, norm="linf")
    np.testing.assert_allclose(projected.ravel(), [0.0, 0.45, 1.0], atol=1e-7)


def _nearest_in_l1_ball_and_box(candidate, image, epsilon):
    """The same point by sorting all breakpoints of the piecewise linear length."""
    delta = candidate - image
    sizes, room = np.abs(delta), np.where(delta > 0, 1.0 - image, image)

    def length(shift):
        return np.clip(sizes - shift, 0.0, room).sum()

    if length(0.0) <= epsilon:
        return np.clip(candidate, 0.0, 1.0)
    ends = np.unique(np.concatenate([[0.0], sizes, np.maximum(sizes - room, 0.0)]))
    right = next(i for i, end in enumerate(ends) if length(end) <= epsilon)
    left, right = ends[right - 1], ends[right]
    part = (length(left) - epsilon) / (length(left) - length(right))
    shift = left + part * (right - left)
    return image + np.sign(delta) * np.clip(sizes - shift, 0.0, room)


# Candidates are rounded in float32 too: the farther, the coarser.
@pytest.mark.parametrize(("scale", "atol"), [(0.01, 1e-6), (1.0, 1e-5), (100.0, 3e-4)])
def test_l1_is_the_exact_projection_on_ball_and_box(scale, atol):
    generator = np.random.default_rng(2)
    images = generator.uniform(size=(64, 6, 6, 1)).astype(np.float32)
    # Pixels at the box's edge, too: black backgrounds.
    images = np.where(
        generator.uniform(size=images.shape) < 0.5, np.round(images), images
    )
    moves = scale * generator.normal(size=images.shape)
    candidates = (images + moves).astype(np.float32)
    epsilon = generator.uniform(0, 6, size=64).astype(np.float32)
    project = jax.jit(functools.partial(projections.project, norm="l1"))
    projected = project(candidates, images, epsilon=epsilon)
    expected = [
        _nearest_in_l1_ball_and_box(
            candidate.ravel().astype(np.float64), image.ravel(), radius
        )
        for candidate, image, radius in zip(candidates, images, epsilon, strict=True)
    ]
    np.testing.assert_allclose(projected.reshape(64, -1), expected, rtol=0, atol=atol)


def test_the_oracle_of_the_l1_projection_is_optimal():
    generator = np.random.default_rng(3)
    image = generator.uniform(size=12)
    candidate = image + generator.normal(size=12)
    nearest = _nearest_in_l1_ball_and_box(candidate, image, 1.0)
    # Variables: the parts up and down of the perturbation.
    solved = scipy.optimize.minimize(
        lambda parts: np.sum((image + parts[:12] - parts[12:] - candidate) ** 2),
        np.zeros(24),
        bounds=[(0, room) for room in np.concatenate([1 - image, image])],
        constraints={"type": "ineq", "fun": lambda parts: 1.0 - parts.sum()},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    found = image + solved.x[:12] - solved.x[12:]
    np.testing.assert_allclose(found, nearest, atol=1e-4)


def test_what_is_no_number_stays_clean():
    images = jnp.full((1, 2, 2, 1), 0.5)
    candidates = images.at[0, 0, 0, 0].set(jnp.nan).at[0, 1, 1, 0].set(jnp.inf)
    for norm in projections.NORMS:
        projected = projections.project(candidates, images, epsilon=0.1, norm=norm)
        assert float(projected[0, 0, 0, 0]) == 0.5
        assert bool(jnp.all(jnp.isfinite(projected)))


@pytest.mark.parametrize("norm", projections.NORMS)
def test_starts_are_uniform_in_the_ball(norm):
    # In 4 dimensions the radius of a uniform point has the distribution r^4.
    images = jnp.full((4096, 2, 2, 1), 0.5)
    keys = jax.random.split(jax.random.key(0), 4096)
    starts = projections.random_start(keys, images, epsilon=0.2, norm=norm)
    radii = np.sort(_norms(starts, images, norm) / 0.2)
    ranks = (np.arange(4096) + 0.5) / 4096
    # Kolmogorov-Smirnov at a level of about 0.1 %.
    assert np.abs(radii**4 - ranks).max() < 1.95 / np.sqrt(4096)
    mean = np.asarray(starts - images).mean(axis=0)
    assert np.abs(mean).max() < 4 * 0.2 / np.sqrt(4096)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e38])
def test_unit_vectors_neither_overflow_nor_underflow(order, scale):
    values = jnp.array([[1.0, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]) * scale
    unit = projections.unit_vector(values.reshape(2, 2, 2, 1), order=order)
    length = np.linalg.norm(unit.reshape(2, -1), ord=order, axis=1)
    np.testing.assert_allclose(length, [1.0, 0.0], rtol=1e-6)
    if order == 2 and scale < 1e38:
        expected = [1.5 * scale, 0.0]
        found = projections.l2_norm(values.reshape(2, 2, 2, 1)).ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-6)
