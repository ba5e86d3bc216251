"""What a number depends on besides its arguments: versions, device, key, time."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from typing import Any

import jax

from mmc_jax import __version__
from mmc_jax.types import Array


def describe_environment() -> dict[str, Any]:
    """Describe what a number depends on besides its arguments.

    Returns:
      Versions, device and time (UTC), as plain data.
    """
    names = ("jax", "jaxlib", "numpy", "flax")
    device = jax.devices()[0]
    return {
        "mmc_jax": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        "platform": device.platform,
        "device": device.device_kind,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe_key(key: Array) -> dict[str, Any]:
    """Describe a typed key, from which `jax.random.wrap_key_data` makes it again.

    Args:
      key: not consumed.

    Returns:
      Its implementation and its data, as plain data.
    """
    return {
        "implementation": str(jax.random.key_impl(key)),
        "data": jax.random.key_data(jax.random.clone(key)).tolist(),
    }
