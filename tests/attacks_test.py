"""What every attack promises, over the table of `attack_cases`."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

from mmc_jax import attacks
from tests.attack_cases import (
    BATCH,
    CASES,
    FIRST,
    NUM_CLASSES,
    ONCE,
    SHAPE,
    WITH_MODEL,
    WITH_STEPS,
    in_verify,
    rows,
)

_generator = np.random.default_rng(0)
IMAGES = jnp.asarray(_generator.uniform(size=(BATCH, *SHAPE)), jnp.float32)
KERNEL = jnp.asarray(_generator.normal(size=(16, NUM_CLASSES)), jnp.float32)
LABELS = jnp.argmax(IMAGES.reshape(BATCH, -1) @ KERNEL, axis=1).astype(jnp.int32)
# Every fourth label is wrong, so that successes at the start are covered too.
LABELS = jnp.where(jnp.arange(BATCH) % 4 == 3, (LABELS + 1) % NUM_CLASSES, LABELS)
TARGETS = (LABELS + 2) % NUM_CLASSES
_KEY_DATA = np.asarray(
    jax.random.key_data(jax.random.split(jax.random.key(7), BATCH + 1))
)

num_traces = 0


def linear_logits(weights, images):
    """A matrix; `shift` moves all logits of an example, `nan_above` breaks some."""
    global num_traces
    num_traces += 1
    logits = images.reshape(len(images), -1) @ weights["kernel"]
    shift = weights["shift"] * (1 + jnp.arange(len(images)) % 4)
    is_broken = images[:, 0, 0, 0] > weights["nan_above"]
    return jnp.where(is_broken[:, None], jnp.nan, logits + shift[:, None])


def keys(which=slice(BATCH)):
    return jax.random.wrap_key_data(_KEY_DATA[which])


def matrix(**changes):
    weights = dict(kernel=KERNEL, shift=jnp.float32(0), nan_above=jnp.float32(2))
    return Partial(linear_logits, weights | changes)


@pytest.fixture(params=in_verify(ONCE, {*ONCE} - {*FIRST}))
def case_first(request):
    return CASES[request.param]


@pytest.fixture(params=rows(*CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture(params=rows(*ONCE))
def case_once(request):
    return CASES[request.param]


@pytest.fixture(params=rows(*WITH_MODEL))
def model_case(request):
    return CASES[request.param]


@pytest.fixture(
    params=in_verify([name for name in ONCE if name in WITH_MODEL], {*ONCE} - {*FIRST})
)
def model_case_first(request):
    return CASES[request.param]


@pytest.fixture(params=rows(*(name for name in ONCE if name in WITH_MODEL)))
def model_case_once(request):
    return CASES[request.param]


def assert_in_ball_and_box(case, adv_images, images=IMAGES):
    adv_images = np.asarray(adv_images)
    assert adv_images.min() >= 0.0 and adv_images.max() <= 1.0
    if case.is_minimum_norm:
        return
    delta = adv_images.astype(np.float64) - np.asarray(images, np.float64)
    delta = delta.reshape(len(images), -1)
    size = {
        "linf": np.abs(delta).max(axis=1),
        "l2": np.sqrt((delta**2).sum(axis=1)),
        "l1": np.abs(delta).sum(axis=1),
        None: np.zeros(1),
    }[case.norm]
    epsilon = case.hyperparameters.get("epsilon", 0.0)
    assert size.max() <= epsilon * (1 + 1e-6) + 1e-7


def test_table_enrolls_every_attack():
    assert {case.name for case in CASES.values()} == set(attacks.ATTACKS)


def test_returns_changed_images_in_the_ball_and_the_box(case):
    adv_images = case(matrix(), keys(), IMAGES, LABELS)
    assert adv_images.shape == IMAGES.shape and adv_images.dtype == jnp.float32
    assert_in_ball_and_box(case, adv_images)
    moved = np.abs(adv_images - IMAGES).max(axis=(1, 2, 3))
    assert (moved[LABELS == jnp.argmax(matrix()(IMAGES), axis=1)] > 0.01).all()


@pytest.mark.parametrize(
    "name", rows(*(name for name in CASES if not CASES[name].is_minimum_norm))
)
def test_of_no_strength_is_the_identity(name):
    case = CASES[name]
    adv_images = case(matrix(), keys(), IMAGES, LABELS, **{case.strength: 0.0})
    np.testing.assert_allclose(adv_images, IMAGES, rtol=0, atol=1e-6)


def test_is_deterministic_in_the_key(case):
    first, again = (case(matrix(), keys(), IMAGES, LABELS) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = case(matrix(), keys(slice(1, None)), IMAGES, LABELS)
    assert bool(jnp.any(other != first)) == case.is_random


@pytest.mark.parametrize(
    "name", rows(*(name for name in ONCE if CASES[name].is_random))
)
def test_one_key_stands_for_a_key_folded_with_each_position(name):
    case, key = CASES[name], jax.random.key(3)
    folded = jnp.stack([jax.random.fold_in(key, position) for position in range(BATCH)])
    np.testing.assert_array_equal(
        case(matrix(), key, IMAGES, LABELS), case(matrix(), folded, IMAGES, LABELS)
    )


def test_order_does_not_matter(case):
    order = np.random.default_rng(1).permutation(BATCH)
    whole = case(matrix(), keys(), IMAGES, LABELS)
    shuffled = case(matrix(), keys(order), IMAGES[order], LABELS[order])
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=1e-6)


def test_composes_with_jit_and_vmap_over_strength_and_keys(case_once):
    case = case_once
    value = case.hyperparameters[case.strength]
    strengths = np.array([value, value / 2, np.nan, -1.0, np.inf], np.float32)
    parts = [slice(BATCH), slice(1, BATCH + 1)]

    @jax.jit
    def grid(strengths, many_keys):
        def attack(strength, keys):
            hyperparameters = {case.strength: strength}
            return case(matrix(), keys, IMAGES, LABELS, **hyperparameters)

        return jax.vmap(jax.vmap(attack, (None, 0)), (0, None))(strengths, many_keys)

    adv_images = grid(strengths, jnp.stack([keys(part) for part in parts]))
    assert adv_images.shape == (5, 2, BATCH, *SHAPE)
    # Traced values are not checked, but they do not leave the box either.
    assert bool(jnp.all((adv_images >= 0) & (adv_images <= 1)))
    for i in range(2):
        for j, part in enumerate(parts):
            more = {case.strength: strengths[i]}
            plain = case(matrix(), keys(part), IMAGES, LABELS, **more)
            np.testing.assert_allclose(adv_images[i, j], plain, rtol=0, atol=1e-6)


def split_batch(num_parts):
    return jax.tree.map(
        lambda leaf: leaf.reshape(num_parts, BATCH // num_parts, *leaf.shape[1:]),
        (keys(), IMAGES, LABELS),
    )


def test_composes_with_scan_and_a_batch_equals_its_halves(case_first):
    def one_half(weights, batch):
        return weights, case_first(Partial(linear_logits, weights), *batch)

    _, halves = jax.lax.scan(one_half, matrix().args[0], split_batch(2))
    whole = case_first(matrix(), keys(), IMAGES, LABELS)
    np.testing.assert_allclose(halves.reshape(IMAGES.shape), whole, rtol=0, atol=1e-6)


@pytest.mark.needs_eight_devices
def test_composes_with_pmap_where_every_device_has_a_batch_of_one(case_first):
    ones = jax.tree.map(lambda leaf: leaf[:, :1], split_batch(8))
    adv_images = jax.pmap(lambda *share: case_first(matrix(), *share))(*ones)
    assert len(adv_images.sharding.device_set) == 8
    whole = case_first(matrix(), keys(), IMAGES, LABELS)[:: BATCH // 8]
    np.testing.assert_allclose(adv_images[:, 0], whole, rtol=0, atol=1e-6)


BAD_INPUT = {
    "one class": (
        dict(logits_fn=lambda images: images[:, 0, 0]),
        r"at least 2 classes; got .* \(16, 1\)",
    ),
    "a label above the classes": (
        dict(labels=LABELS.at[1].set(NUM_CLASSES)),
        "labels must be below the number of classes, 5 .*got 5",
    ),
    "a negative label": (
        dict(labels=LABELS.at[1].set(-1)),
        "labels must be at least 0; got -1",
    ),
    "an image outside the box": (
        dict(images=IMAGES.at[2].set(1.5)),
        r"inside bounds \(0, 1\).* to 1\.5",
    ),
    "an image with NaN": (dict(images=IMAGES.at[2].set(jnp.nan)), "must be finite"),
    "a target that is the label": (
        dict(targets=TARGETS.at[1].set(LABELS[1])),
        "targets must differ from labels|chooses its own targets",
    ),
    "an empty batch": (
        dict(key=keys(slice(0)), images=IMAGES[:0], labels=LABELS[:0]),
        r"none of them 0; got shape \(0, 4, 4, 1\)",
    ),
}


@pytest.mark.parametrize("bad", [*BAD_INPUT, "a negative strength"])
def test_refuses(bad, model_case_once):
    case = model_case_once
    change, message = BAD_INPUT.get(
        bad, ({case.strength: -0.1}, f"{case.strength} must be at least 0.*-0.1")
    )
    given = dict(logits_fn=matrix(), key=keys(), images=IMAGES, labels=LABELS) | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: case(**given))  # what is concrete is still checked


def test_new_weights_and_numbers_compile_nothing(case, caplog):
    def run(scale, kernel):
        numbers = {
            name: scale * value
            for name, value in case.hyperparameters.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        case(matrix(kernel=kernel), keys(), IMAGES, LABELS, **numbers)

    other_kernel = KERNEL + 0.5
    run(1, KERNEL)
    before = num_traces
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(2, other_kernel)
        run(np.int64(3), KERNEL)
    assert num_traces == before
    assert "Compiling" not in caplog.text


class Dense(linen.Module):
    @linen.compact
    def __call__(self, images):
        dense = linen.Dense(NUM_CLASSES, use_bias=False)
        return dense(images.reshape(len(images), -1))


class NnxDense(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(16, NUM_CLASSES, use_bias=False, rngs=rngs)

    def __call__(self, images):
        return self.dense(images.reshape(len(images), -1))


def linen_logits(variables, images):
    return Dense().apply(variables, images)


def nnx_logits(graph, state, images):
    return nnx.merge(graph, state)(images)


def test_attacks_a_matrix_linen_and_nnx_alike(model_case_first):
    graph, state = nnx.split(NnxDense(nnx.Rngs(0)))
    state["dense"]["kernel"].set_value(KERNEL)
    variables = {"params": {"Dense_0": {"kernel": KERNEL}}}
    expected = model_case_first(matrix(), keys(), IMAGES, LABELS)
    for logits_fn in (
        Partial(linen_logits, variables),
        Partial(nnx_logits, graph, state),
    ):
        adv_images = model_case_first(logits_fn, keys(), IMAGES, LABELS)
        np.testing.assert_allclose(adv_images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [-64.0, 64.0])
def test_a_constant_added_to_the_logits_changes_nothing(model_case, shift):
    expected = model_case(matrix(), keys(), IMAGES, LABELS)
    shifted = matrix(shift=jnp.float32(shift))
    assert bool(jnp.all(shifted(IMAGES) * shift > 0))
    adv_images = model_case(shifted, keys(), IMAGES, LABELS)
    # Adam and bisection carry a rounding of the logits further than single steps do.
    by_adam = "learning_rate" in model_case.parameters
    tolerance = 1e-4 if by_adam or model_case.is_minimum_norm else 1e-5
    np.testing.assert_allclose(adv_images, expected, rtol=0, atol=tolerance)


def test_an_image_that_the_model_cannot_judge_comes_back_as_it_was(model_case):
    # The pixel that decides is too far from the threshold to cross it within epsilon.
    broken = jnp.arange(BATCH) % 2 == 0
    images = IMAGES.at[:, 0, 0, 0].set(jnp.where(broken, 1.0, 0.0))
    whole = model_case(matrix(), keys(), images, LABELS)
    logits_fn = matrix(nan_above=jnp.float32(0.5))
    adv_images = model_case(logits_fn, keys(), images, LABELS)
    expected = jnp.where(broken[:, None, None, None], images, whole)
    np.testing.assert_array_equal(adv_images, expected)


@pytest.mark.parametrize("name", [name for name in ONCE if CASES[name].norm])
def test_targets_are_approached(name):
    case = CASES[name]
    more = dict(targets=TARGETS)
    if "objective" in case.parameters:
        more["objective"] = "margin"
    if case.chooses_targets:
        with pytest.raises(ValueError, match="chooses its own targets"):
            case(matrix(), keys(), IMAGES, LABELS, **more)
        return
    adv_images = case(matrix(), keys(), IMAGES, LABELS, **more)
    assert_in_ball_and_box(case, adv_images)
    before, after = (
        attacks.objectives.margin(matrix()(images), LABELS, TARGETS)
        for images in (IMAGES, adv_images)
    )
    assert bool(jnp.all(after < before - 0.05))


@pytest.mark.parametrize("name", WITH_STEPS)
def test_more_steps_are_not_worse(name):
    case = CASES[name]
    # On a matrix both are linear in the image, and the ball and box are convex. Over
    # all targets, the lowest pairwise margin is the margin.
    objective = "pairwise_margin" if case.chooses_targets else "own_class"
    measured = "margin" if case.chooses_targets else "own_class"
    fixed = dict(objective=objective, stop_on_success=False)
    if case.adapts:
        fixed["keep"] = "best"
    for step in {"step_size", "learning_rate"} & case.parameters:
        fixed[step] = case.hyperparameters["epsilon"] / 4
    if "num_targets" in case.parameters:
        fixed["num_targets"] = NUM_CLASSES - 1
    reached = []
    for num_steps in (1, 2, 4, 16):
        more = dict(fixed, num_steps=num_steps)
        adv_images = case(matrix(), keys(), IMAGES, LABELS, **more)
        logits = matrix()(adv_images)
        reached.append(attacks.OBJECTIVES[measured](logits, LABELS))
    if case.adapts:
        reached = [reached[0], reached[-1]]
    for fewer, more in zip(reached[:-1], reached[1:], strict=True):
        assert bool(jnp.all(more <= fewer + 1e-5))
    if case.solves_at_once:
        np.testing.assert_allclose(reached[-1], reached[0], rtol=0, atol=1e-5)
    else:
        # A random start may happen to be the best point.
        least = 0.75 if case.adapts else 1.0
        assert float(jnp.mean(reached[-1] < reached[0])) >= least


def test_a_bfloat16_model_is_attacked_in_float32(model_case_first):
    model_case = model_case_first

    def logits_fn(images):
        kernel = KERNEL.astype(jnp.bfloat16)
        return images.astype(jnp.bfloat16).reshape(len(images), -1) @ kernel

    adv_images = model_case(logits_fn, keys(), IMAGES, LABELS)
    assert adv_images.dtype == jnp.float32
    assert_in_ball_and_box(model_case, adv_images)
    before, after = (
        attacks.objectives.margin(matrix()(images), LABELS)
        for images in (IMAGES, adv_images)
    )
    assert bool(jnp.all(after[before > 0] < before[before > 0]))
