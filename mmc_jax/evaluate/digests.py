"""Digests: by which images, labels and models are known again.

Images are digested one by one: sha256 over an image's float32 values, little-endian, in
the order row, column, channel. A set of images has the sha256 of its images' digests,
in order, so that the digest of the worst case needs no more than 32 bytes an image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from mmc_jax.types import LogitsFn, StochasticLogitsFn

_ADDRESS = re.compile(r"0x[0-9a-f]+")
_SIZE = 32


def digest_each(images: np.ndarray) -> np.ndarray:
    """Return the sha256 of every image.

    Args:
      images: float32 `[num, height, width, channels]`.

    Returns:
      uint8 `[num, 32]`.
    """
    rows = [hashlib.sha256(image.astype("<f4").tobytes()).digest() for image in images]
    return np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(-1, _SIZE)


def digest_all(digests: np.ndarray) -> str:
    """Return the sha256, in hex, of the digests of all images, `[num, 32]`."""
    return hashlib.sha256(digests.tobytes()).hexdigest()


def digest_integers(numbers: np.ndarray) -> str:
    """Return the sha256, in hex, of labels or ids as little-endian int64."""
    return hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()


def digest_model(
    logits_fn: LogitsFn | StochasticLogitsFn, image_shape: tuple[int, ...]
) -> str:
    """Return a digest of what a classifier computes: its program and its weights.

    Args:
      logits_fn: from `checks.as_pytree`; it is traced, not run.
      image_shape: height, width, channels.

    Returns:
      sha256, in hex. What a callback out of JAX computes is not in it.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    given: tuple[Any, ...] = (images,)
    if isinstance(logits_fn, StochasticLogitsFn):
        given += (jax.eval_shape(lambda: jax.random.key(0)[None]),)
    program = jax.make_jaxpr(lambda model, *given: model(*given))(logits_fn, *given)
    digest = hashlib.sha256(_ADDRESS.sub("", str(program.jaxpr)).encode())
    for leaf in (*jax.tree.leaves(logits_fn), *_constants(program)):
        array = jnp.asarray(leaf)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _constants(program: ClosedJaxpr | Jaxpr) -> Iterator[Any]:
    """Yield what a program closes over, and the programs in it: jit keeps its own."""
    if isinstance(program, ClosedJaxpr):
        yield from program.consts
        program = program.jaxpr
    for equation in program.eqns:
        for value in jax.tree.leaves([*equation.params.values()], is_leaf=_is_program):
            if _is_program(value):
                yield from _constants(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)
