"""What one checkpoint holds, and how it is checked.

A state (any pytree of arrays) is stored as its arrays by name, `{"params/dense/kernel":
array, ...}`, whole and without devices, beside a record with each array's dtype, shape
and sha256. In the directory of a checkpoint:

- `state/`: the arrays, a tree that plain Orbax reads too;
- `record/metadata`: JSON, the score and the hashes. Orbax restores a flipped byte
  without a word; the record is what finds it.

`mmc_jax.checkpoint` decides when to write and read one, and which to keep.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from flax import traverse_util

State = TypeVar("State")
Arrays = dict[str, np.ndarray]
Record = dict[str, Any]

_MAX_LISTED = 8


def host_arrays(state: Any) -> Arrays:
    """Copy every array of `state` to host memory that nothing else refers to.

    Args:
      state: pytree of arrays, or of numbers, which become arrays.

    Returns:
      Path in the tree, joined by "/" -> array.

    Raises:
      ValueError: a leaf is a typed PRNG key, or there is nothing to save.
    """
    names, abstract = _names_and_leaves(_abstract(state))
    if not any(leaf.size for leaf in abstract):
        raise ValueError("the state holds no numbers to save")
    leaves = jax.device_get(jax.tree.leaves(state))
    # device_get may return a view of the device's memory, which a donation reuses.
    return {
        name: np.array(leaf, dtype=expected.dtype, order="C", copy=True)
        for name, expected, leaf in zip(names, abstract, leaves, strict=True)
    }


def item_handlers() -> dict[str, ocp.CheckpointHandler]:
    """Return what writes the two parts of a checkpoint, in the layout read here.

    Returns:
      Name of the part -> Orbax handler.
    """
    return {
        "state": ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False),
        "record": ocp.JsonCheckpointHandler(),
    }


def save_args(arrays: Arrays, score: float | None) -> ocp.args.Composite:
    """Return what Orbax is to write for one checkpoint.

    Args:
      arrays: by name, as `host_arrays` returns them.
      score: validation score, or None.

    Returns:
      Orbax's arguments for the two parts.
    """
    # Orbax refuses arrays of size zero; the record alone describes them.
    stored = {name: array for name, array in arrays.items() if array.size}
    tree = traverse_util.unflatten_dict(stored, sep="/")
    described = {
        name: {"dtype": str(a.dtype), "shape": list(a.shape), "sha256": _sha256(a)}
        for name, a in arrays.items()
    }
    body = {"score": None if score is None else float(score), "arrays": described}
    record = body | {"sha256": _record_sha256(body)}
    return ocp.args.Composite(
        state=ocp.args.PyTreeSave(tree), record=ocp.args.JsonSave(record)
    )


def read_record(path: Path) -> Record:
    """Read the record of a checkpoint.

    Args:
      path: directory of the checkpoint.

    Returns:
      `score`, and under `arrays` each array's dtype, shape and sha256.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not what was written.
    """
    text = (path / "record" / "metadata").read_text(encoding="utf-8")
    record = json.loads(text)
    claimed = record.pop("sha256", None) if isinstance(record, dict) else None
    if claimed is None or claimed != _record_sha256(record):
        raise ValueError("the record of scores and hashes is damaged")
    return record


def read_arrays(path: Path) -> Arrays:
    """Read the arrays of a checkpoint, each checked against its sha256.

    Args:
      path: directory of the checkpoint.

    Returns:
      By name, as `host_arrays` returned them.

    Raises:
      OSError: the record cannot be read.
      ValueError: the record, or the named array, is not, bit for bit, what was saved.
    """
    described = read_record(path)["arrays"]
    stored = [name for name, array in described.items() if 0 not in array["shape"]]
    # Not through Orbax: it awaits all arrays at once, and when one of them is damaged,
    # the others' threads print pages of "Event loop is closed".
    context = tensorstore.Context()
    opened = {
        name: tensorstore.open(_spec(path, name), context=context) for name in stored
    }
    arrays = {}
    for name, expected in described.items():
        if name in opened:
            try:
                arrays[name] = opened[name].result().read().result()
            except (OSError, ValueError) as error:
                raise ValueError(f"array {name} cannot be read: {error}") from error
        else:
            arrays[name] = np.zeros(expected["shape"], np.dtype(expected["dtype"]))
        found = _sha256(arrays[name])
        if found != expected["sha256"]:
            raise ValueError(
                f"array {name} is damaged: its sha256 is {found}, "
                f"it was saved with {expected['sha256']}"
            )
    return arrays


def fill(template: State, arrays: Arrays, source: object) -> State:
    """Put `arrays` on the default device, in the structure of `template`.

    Args:
      template: a state, or its shapes and dtypes as `jax.eval_shape` returns them.
      arrays: by name, as `host_arrays` names them.
      source: where they come from, for the message.

    Returns:
      A pytree like `template`, with arrays on the default device.

    Raises:
      ValueError: names, shapes or dtypes differ; the first few are listed.
    """
    abstract = _abstract(template)
    names, leaves = _names_and_leaves(abstract)
    expected = {name: _describe(leaf) for name, leaf in zip(names, leaves, strict=True)}
    found = {name: _describe(array) for name, array in arrays.items()}
    differences = [
        f"{name}: checkpoint has {found.get(name, 'nothing')}, "
        f"the model expects {expected.get(name, 'nothing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differences:
        more = len(differences) - _MAX_LISTED
        tail = [f"and {more} more"] if more > 0 else []
        listing = "\n  ".join(differences[:_MAX_LISTED] + tail)
        raise ValueError(f"{source} holds another model or optimizer:\n  {listing}")
    return jax.tree.unflatten(
        jax.tree.structure(abstract), [jax.device_put(arrays[name]) for name in names]
    )


def _abstract(state: State) -> State:
    """Return the shapes and dtypes that JAX gives to the leaves of `state`."""
    return jax.eval_shape(lambda tree: tree, state)


def _names_and_leaves(abstract: Any) -> tuple[list[str], list[jax.ShapeDtypeStruct]]:
    pairs = jax.tree_util.tree_leaves_with_path(abstract)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs
    ]
    for name, (_, leaf) in zip(names, pairs, strict=True):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name} is a PRNG key: store jax.random.key_data of it")
    return names, [leaf for _, leaf in pairs]


def _spec(path: Path, name: str) -> dict[str, Any]:
    """Return where Orbax, with the options of `item_handlers`, puts an array."""
    return {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{path / 'state'}/"},
            "path": name.replace("/", ".") + "/",
        },
        "fill_missing_data_reads": False,
        "open": True,
    }


def _describe(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _sha256(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _record_sha256(body: Record) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
