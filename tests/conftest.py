"""The house that every test runs in: strict, seeded, on eight CPU devices.

`MMC_TEST_PLATFORM=gpu` runs the tests on the GPUs at hand instead; those marked
`needs_eight_devices` are then skipped.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NUM_DEVICES = 8
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}
_PLATFORM = os.environ.get("MMC_TEST_PLATFORM", "cpu")
if _PLATFORM not in _PLATFORMS:
    raise ValueError(f"MMC_TEST_PLATFORM={_PLATFORM!r}: accepted are {[*_PLATFORMS]}")

# In the environment too, so that the programs that tests start see no GPU either.
os.environ["JAX_PLATFORMS"] = _PLATFORMS[_PLATFORM]
jax.config.update("jax_platforms", _PLATFORMS[_PLATFORM])
jax.config.update("jax_num_cpu_devices", _NUM_DEVICES)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Most of the time goes into compiling small programs, which this halves. It is read
# when the devices are first named, and is not for the programs that tests start. Where
# XLA_FLAGS is set, if only to nothing, it stands: `make verify` compiles as users do.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    jax.devices()
    del os.environ["XLA_FLAGS"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name, on a GPU, what needs more devices than a machine may have."""
    if _PLATFORM == "gpu":
        reason = "needs eight devices; MMC_TEST_PLATFORM=gpu runs on those at hand"
        for item in items:
            if "needs_eight_devices" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def _devices() -> None:
    # Without this, eight devices that failed to appear would turn every test of many
    # devices into one of a single device, in silence (chex skips its pmap variant).
    platforms = {device.platform for device in jax.devices()}
    assert platforms == {_PLATFORM}, f"running on {platforms}, not on {_PLATFORM}"
    if _PLATFORM == "cpu":
        assert jax.device_count() == _NUM_DEVICES, jax.devices()


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    # Every compiled program holds memory maps, and a process may have some 65,000.
    yield
    jax.clear_caches()


@pytest.fixture
def highest_precision() -> Iterator[None]:
    """Multiply matrices in full float32, as tests of equality need on a GPU or TPU."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def key() -> jax.Array:
    """Return a key, the same in every test."""
    return jax.random.key(0)


@pytest.fixture
def generator() -> np.random.Generator:
    """Return a numpy generator, the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tfds_dir() -> pathlib.Path:
    """Return a TFDS data directory with real data, or skip the test."""
    named = os.environ.get("TFDS_DATA_DIR")
    path = pathlib.Path(named) if named else _ROOT.parent / "shared" / "data" / "tfds"
    if not path.is_dir():
        pytest.skip(
            f"no TFDS data in {path}: name a directory that holds mnist, cifar10 and "
            "cifar100 in TFDS_DATA_DIR"
        )
    return path
