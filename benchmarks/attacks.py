"""PGD against its own floor and against other libraries, on the same weights.

    python benchmarks/attacks.py

The floor of an attack of n steps is n calls of one jitted
`value_and_grad(has_aux=True)` of the loss on the same batch, outside any loop, each
waited for, as the next step of an attack has to wait for it. It leaves out the random
start, the sign and the projection; PGD has them all, in one jitted call with fixed
steps (`keep="last"`, `stop_on_success=False`).

Weights and images are random: with fixed steps time does not depend on them. Labels are
the model's predictions, and the mean cross-entropy that each attack reaches shows that
it did attack. The ResNet takes 10 steps instead of 40, for time; so does its floor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import _peers
import _timing
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmc_jax import attacks, models, timing
from mmc_jax.types import Array

_BAR = 1.05
_SEED = 0
_OURS, _FLOOR = "mmc_jax", "floor"
_MNIST = dict(epsilon=0.3, step_size=0.01, num_steps=40)
_CIFAR = dict(epsilon=8 / 255, step_size=2 / 255, num_steps=10)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, a batch and an attack's settings."""

    name: str
    logits_fn: Callable[[Array], Array]
    variables: Any
    images: Array
    labels: Array
    settings: dict[str, Any]


class _PlainConv(nn.Module):
    """Somebody's model, written without a thought for us."""

    @nn.compact
    def __call__(self, images: Array) -> Array:
        hidden = images
        for width in (32, 64):
            hidden = nn.relu(nn.Conv(width, (3, 3))(hidden))
            hidden = nn.avg_pool(hidden, (2, 2), strides=(2, 2))
        return nn.Dense(10)(hidden.reshape(len(hidden), -1))


def main() -> None:
    """Time every case, print the tables, write the record."""
    args = _timing.parse_args("attacks", __doc__.splitlines()[0])
    _timing.warn_if_busy()
    if _peers.missing():
        print(_peers.describe_missing())
    tables = [_measure(make_case(), args.pairs) for make_case in _CASES]
    peers = ("foolbox", "eagerpy", "torch", "torchattacks")
    results = {
        "seed": _SEED,
        "peers": _timing.installed_versions(*peers),
        "tables": tables,
    }
    _timing.write_record(args, "attacks", results)


def _make_ours(
    name: str, image_shape: tuple[int, ...], batch: int, settings: dict[str, Any]
) -> Case:
    model = models.create(name, num_classes=10)
    images, variables = _initialise(model, image_shape, batch)
    logits_fn = models.make_logits_fn(model, variables)
    return _make_case(name, logits_fn, variables, images, settings)


def _make_plain() -> Case:
    model = _PlainConv()
    images, variables = _initialise(model, (28, 28, 1), 64)
    return _make_case(
        "plain nn.Conv",
        lambda images: model.apply(variables, images),
        variables,
        images,
        _MNIST,
    )


def _initialise(model, image_shape, batch):
    images_key, model_key = jax.random.split(jax.random.key(_SEED))
    images = jax.random.uniform(images_key, (batch, *image_shape))
    return images, jax.jit(model.init)(model_key, images)


def _make_case(name, logits_fn, variables, images, settings):
    labels = jnp.argmax(jax.jit(logits_fn)(images), axis=1)
    return Case(name, logits_fn, variables, images, labels, settings)


_CASES: tuple[Callable[[], Case], ...] = (
    lambda: _make_ours("cnn", (28, 28, 1), 128, _MNIST),
    lambda: _make_ours("resnet20_v1", (32, 32, 3), 64, _CIFAR),
    _make_plain,
)


def _measure(case: Case, pairs: int) -> dict[str, Any]:
    batch, *shape = case.images.shape
    num_steps = case.settings["num_steps"]
    clean = _cross_entropy(case, case.images)
    size = "x".join(map(str, shape))
    title = f"{case.name}, {batch} images {size}, PGD-{num_steps}"
    print(f"\n{title} (loss before: {clean:.2f})")
    attackers = {_OURS: _ours(case)}
    attackers |= _peers.jax_contenders(case) | _peers.torch_contenders(case)
    seconds = timing.interleaved({_FLOOR: _floor(case), **attackers}, pairs=pairs)
    rows = [_timing.compare(seconds, _OURS, _FLOOR, bar=_BAR)]
    rows += [
        _timing.compare(seconds, name, _OURS)
        for name in seconds
        if name not in (_OURS, _FLOOR)
    ]
    print(_timing.HEADER)
    for row in rows:
        row["cross_entropy_reached"] = _cross_entropy(case, attackers[row["name"]]())
        loss = f"  loss {row['cross_entropy_reached']:.2f}"
        faster = "  FASTER" if row["name"] != _OURS and row["interval"][1] < 1 else ""
        print(_timing.format_row(row) + loss + faster)
    return {
        "case": title,
        "settings": case.settings,
        "cross_entropy_before": clean,
        "rows": rows,
        "floor_seconds": float(np.median(seconds[_FLOOR])),
        "seconds": seconds,
    }


def _ours(case: Case) -> Callable[[], Array]:
    return lambda: attacks.pgd(
        case.logits_fn,
        jax.random.key(_SEED),
        case.images,
        case.labels,
        keep="last",
        stop_on_success=False,
        **case.settings,
    )


def _floor(case: Case) -> Callable[[], None]:
    @jax.jit
    def gradient(variables: Any, images: Array, labels: Array) -> Any:
        def loss(images: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = logits_of(variables, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(losses), (losses, logits)

        return jax.value_and_grad(loss, has_aux=True)(images)

    # The weights are an argument where they are one for us, a constant otherwise.
    is_partial = isinstance(case.logits_fn, jax.tree_util.Partial)
    logits_of = (
        case.logits_fn.func if is_partial else lambda _, images: case.logits_fn(images)
    )

    def run() -> None:
        for _ in range(case.settings["num_steps"]):
            jax.block_until_ready(gradient(case.variables, case.images, case.labels))

    return run


def _cross_entropy(case: Case, adv_images: Any) -> float:
    logits = jax.jit(case.logits_fn)(jnp.asarray(adv_images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, case.labels)
    return float(jnp.mean(losses))


if __name__ == "__main__":
    main()
