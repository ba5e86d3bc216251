"""No attack succeeds where interval arithmetic proves that none can."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from mmc_jax import attacks
from tests.attack_cases import CASES, FIRST, in_verify, rows

_generator = np.random.default_rng(1)
_SIZES = ((16, 24), (24, 5))
WEIGHTS = [_generator.normal(size=size) / np.sqrt(size[0]) for size in _SIZES]
BIASES = [_generator.normal(size=size[1]) / 10 for size in _SIZES]
IMAGES = _generator.uniform(0.2, 0.8, (16, 4, 4, 1)).astype(np.float32)


def logits_of(parameters, images):
    (first, second), (first_bias, second_bias) = parameters
    hidden = images.reshape(len(images), -1) @ first + first_bias[None]
    return jax.nn.relu(hidden) @ second + second_bias[None]


PARAMETERS = jax.tree.map(jnp.float32, (WEIGHTS, BIASES))
NETWORK = Partial(logits_of, PARAMETERS)
LABELS = np.asarray(NETWORK(IMAGES)).argmax(axis=1).astype(np.int32)


def is_certified(image, label, radius):
    """Interval bound propagation (Gowal et al. 2018), in float64."""
    flat = image.astype(np.float64).ravel()
    low, high = (np.clip(flat + sign * radius, 0.0, 1.0) for sign in (-1.0, 1.0))
    center, width = (low + high) / 2, (high - low) / 2
    center = center @ WEIGHTS[0] + BIASES[0]
    width = width @ np.abs(WEIGHTS[0])
    low, high = (np.maximum(center + sign * width, 0.0) for sign in (-1.0, 1.0))
    center, width = (low + high) / 2, (high - low) / 2
    # h_y - h_k as one linear function of the hidden layer, for every k.
    differences = WEIGHTS[1][:, [label]] - WEIGHTS[1]
    margins = center @ differences + BIASES[1][label] - BIASES[1]
    margins -= width @ np.abs(differences)
    return np.delete(margins, label).min() > 0


def certified_radius(image, label):
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if is_certified(image, label, middle):
            low = middle
        else:
            high = middle
    return low


RADII = np.array(
    [certified_radius(*pair) for pair in zip(IMAGES, LABELS, strict=True)], np.float32
)


def predictions(adv_images):
    return np.asarray(NETWORK(adv_images)).argmax(axis=1)


def attack(name, **more):
    hyperparameters = CASES[name].hyperparameters | more
    return attacks.ATTACKS[name](
        NETWORK, jax.random.key(0), IMAGES, LABELS, **hyperparameters
    )


def takes(name, parameter):
    return parameter in inspect.signature(attacks.ATTACKS[name]).parameters


IN_A_BALL = [name for name in attacks.ATTACKS if takes(name, "epsilon")]
CLOSEST = [
    name
    for name in attacks.ATTACKS
    if not takes(name, "epsilon") and CASES[name].norm is not None
]


def test_there_is_something_to_certify():
    assert (RADII > 0.001).all()
    assert len(IN_A_BALL) >= 4


@pytest.mark.parametrize("name", in_verify(IN_A_BALL, {*IN_A_BALL} - {*FIRST}))
def test_a_certified_ball_holds_and_a_large_one_does_not(name):
    adv_images = attack(name, epsilon=0.999 * RADII)
    assert (predictions(adv_images) == LABELS).all()
    assert (predictions(attack(name, epsilon=0.7)) != LABELS).mean() > 0.5


@pytest.mark.parametrize("name", rows(*CLOSEST))
def test_the_closest_image_lies_outside_the_certified_ball(name):
    adv_images = np.asarray(attack(name))
    broken = predictions(adv_images) != LABELS
    distances = np.abs(adv_images - IMAGES).max(axis=(1, 2, 3))
    assert broken.mean() > 0.5
    assert (distances[broken] > RADII[broken]).all()
