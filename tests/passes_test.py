"""Passes through the model: gradients of their true length, and directions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax.attacks.objectives import OBJECTIVES, cross_entropy, margin
from mmc_jax.attacks.passes import Problem, direction_pass, gradient_pass
from mmc_jax.types import StochasticLogitsFn

BATCH, NUM_CLASSES = 5, 4


def network(weights, images):
    """Return logits whose scale is another for each example."""
    hidden, kernel, scales = weights
    flat = images.reshape(len(images), -1).astype(hidden.dtype)
    logits = jnp.tanh(flat @ hidden) @ kernel
    return logits * scales[:, None]


def problem_of(generator, objective, scales=(1.0,) * BATCH, dtype=np.float32):
    shapes = ((16, 8), (8, NUM_CLASSES))
    weights = [generator.normal(size=shape).astype(dtype) for shape in shapes]
    weights.append(np.asarray(scales, dtype))
    images = generator.uniform(size=(BATCH, 4, 4, 1)).astype(np.float32)
    labels = jnp.argmax(network(weights, images), axis=1)
    logits_fn = Partial(network, jax.tree.map(jnp.asarray, weights))
    targets = (labels + 1) % NUM_CLASSES
    return Problem(logits_fn, labels, targets, objective, 1), jnp.asarray(images)


def keys():
    return jax.random.split(jax.random.key(0), BATCH)


def lengths(gradient):
    return np.linalg.norm(np.asarray(gradient).reshape(BATCH, -1), axis=1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gradient_is_that_of_the_objective_and_a_direction_is_along_it(
    generator, name
):
    scales = [1e-6, 1e-2, 1.0, 30.0, 1e4]
    problem, images = problem_of(generator, OBJECTIVES[name], scales)

    def total(images):
        logits = problem.logits_fn(images)
        return problem.objective(logits, problem.labels, problem.targets).sum()

    expected = np.asarray(jax.grad(total)(images))
    judged, gradient = gradient_pass(problem, images, keys())
    same, direction = direction_pass(problem, images, keys())
    assert (lengths(expected) > 0).all()
    np.testing.assert_allclose(lengths(gradient), lengths(expected), rtol=1e-5)
    for found in (gradient, direction):
        cosine = (np.asarray(found) * expected).sum((1, 2, 3))
        np.testing.assert_allclose(cosine, lengths(found) * lengths(expected), 1e-5)
    for one, other in zip(judged, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_cross_entropy_has_a_direction_where_its_gradient_is_denormal(generator):
    problem, images = problem_of(generator, cross_entropy)
    problem = dataclasses.replace(problem, targets=None)
    hidden, kernel, scales = problem.logits_fn.args[0]
    lead = margin(problem.logits_fn(images), problem.labels)
    # Each label leads by 110: p_k = e^-110 is no normal number of float32.
    model = Partial(network, [hidden, kernel, scales * 110 / lead])
    problem = dataclasses.replace(problem, logits_fn=model)
    _, gradient = gradient_pass(problem, images, keys())
    assert (np.asarray(gradient) == 0).all()

    rows = np.arange(BATCH)
    jacobian = np.asarray(jax.jacrev(model)(images))[rows, :, rows]
    others = np.float64(model(images))
    others[rows, problem.labels] = -np.inf
    weights = np.exp(others - others.max(axis=1, keepdims=True))
    weights[rows, problem.labels] = -weights.sum(axis=1)
    expected = -np.einsum("bk,bkhwc->bhwc", weights, jacobian)
    _, direction = direction_pass(problem, images, keys())
    cosine = (np.asarray(direction) * expected).sum((1, 2, 3))
    np.testing.assert_allclose(cosine, lengths(direction) * lengths(expected), 1e-5)
    assert (lengths(direction) > 1e-3).all()


def test_a_model_in_float16_gets_finite_directions(generator):
    problem, images = problem_of(generator, margin, dtype=np.float16)
    reference, _ = problem_of(np.random.default_rng(0), margin)
    _, direction = direction_pass(problem, images, keys())
    _, expected = gradient_pass(reference, images, keys())
    cosine = (np.asarray(direction) * np.asarray(expected)).sum((1, 2, 3))
    assert (cosine > 0.99 * lengths(direction) * lengths(expected)).all()


def test_a_direction_over_samples_is_their_mean_gradient(generator):
    problem, images = problem_of(generator, margin)
    weights = problem.logits_fn.args[0]

    def noisy(weights, images, keys):
        factors = jax.vmap(lambda key: jax.random.uniform(key, (), minval=0.1))(keys)
        return network(weights, images) * factors[:, None]

    model = StochasticLogitsFn(Partial(noisy, weights))
    problem = dataclasses.replace(problem, logits_fn=model, num_eot_samples=3)
    _, gradient = gradient_pass(problem, images, keys())
    _, direction = direction_pass(problem, images, keys())
    np.testing.assert_allclose(direction, gradient, rtol=1e-5)
    assert (lengths(gradient) > 0).all()
