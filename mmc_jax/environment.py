"""What a number depends on besides its arguments: versions, source, device, key."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

from mmc_jax import __version__
from mmc_jax.types import Array


def describe_environment() -> dict[str, Any]:
    """Describe what a number depends on besides its arguments.

    Returns:
      Versions, device, git revision, digest of the source and time (UTC), as plain
      data.
    """
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "mmc_jax": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        "platform": device.platform,
        "device": f"{jax.local_device_count()} x {device.device_kind}",
        "git_revision": git_revision(),
        "source_sha256": source_sha256(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def git_revision() -> str | None:
    """Ask git for the revision of this source tree.

    Returns:
      The revision, with `+` if there are changes; None where there is no git, or where
      this package lies in no checkout of its own.
    """
    folder = pathlib.Path(__file__).parent
    # Fails where this file is installed inside somebody else's repository.
    is_ours = ["git", "ls-files", "--error-unmatch", pathlib.Path(__file__).name]
    revision = ["git", "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        for command in (is_ours, [*revision, "--dirty=+"]):
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@functools.cache
def source_sha256() -> str:
    """Digest this package's source as this process found it.

    Returns:
      sha256, in hex, over the names and contents of its Python files.
    """
    folder, digest = pathlib.Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


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
