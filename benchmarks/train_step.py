"""What a training step costs: MMC against softmax, and inside the loop against outside.

    python benchmarks/train_step.py

- MMC against softmax: the same CNN and batch, one jitted `train_step` after the other.
- Inside against outside: `make_multi_step` runs n steps in one call; outside, the same
  body is jitted by itself and called n times. Both gather their batch from the data set
  on the device, turn uint8 into float32 and fold the step into the key. The row
  "no gathering" is the bare `train_step` on a batch that lies ready: the loop is
  compared with that too.
- Traces: how often the model is traced while weights and numbers change.

Steps follow each other through the donated state and only the last one is waited for,
on either side. Weights and images are random.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import _timing
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmc_jax import attacks, losses, models, timing
from mmc_jax.data import DeviceDataset, to_batch
from mmc_jax.experiments.extra_cost import measure_extra_cost
from mmc_jax.train import create_train_state, make_multi_step, train_step

_LOSS_BAR, _LOOP_BAR = 1.02, 1.05
_SEED = 0
_DATASET_SIZE = 4096
# One object: a state with another optimiser, however equal, is another program.
_OPTIMIZER = optax.sgd(1e-3, momentum=0.9)


def main() -> None:
    """Measure all three, print the tables, write the record."""
    args = _timing.parse_args("train_step", __doc__.splitlines()[0])
    _timing.warn_if_busy()
    tables = [
        _compare_losses(args.pairs, batch=128, num_steps=40),
        _compare_loop("cnn", (28, 28, 1), args.pairs, batch=128, num_steps=40),
        _compare_loop("resnet20_v1", (32, 32, 3), args.pairs, batch=64, num_steps=5),
    ]
    traces = {"pgd": _count_attack_traces(), "train loop": _count_loop_traces()}
    print("\nTraces of the model over new weights and numbers (1 is one compilation)")
    for name, count in traces.items():
        print(f"  {name:<36} {count}")
    results = {"seed": _SEED, "tables": tables, "traces": traces}
    _timing.write_record(args, "train_step", results)


def _compare_losses(pairs: int, *, batch: int, num_steps: int) -> dict[str, Any]:
    found = measure_extra_cost(
        jax.random.key(_SEED),
        architecture="cnn",
        image_shape=(28, 28, 1),
        num_classes=10,
        batch_size=batch,
        num_steps=num_steps,
        num_rounds=pairs,
    )
    seconds = found["seconds"]
    rows = [_timing.compare(seconds, "mmc", "softmax", bar=_LOSS_BAR)]
    title = f"cnn, MMC against softmax: {num_steps} steps of batch {batch}"
    return _report(title, rows, seconds)


def _compare_loop(
    name: str, shape: tuple[int, ...], pairs: int, *, batch: int, num_steps: int
) -> dict[str, Any]:
    dataset, indices = _data(shape, batch, num_steps)
    fns = {}
    for where, make in {
        "outside": functools.partial(_steps_outside, gather=True),
        "inside": _steps_inside,
        "outside, no gathering": functools.partial(_steps_outside, gather=False),
    }.items():
        fns[where] = make(*_prepare(name, "mmc", shape), dataset, indices)
    seconds = timing.interleaved(fns, pairs=pairs)
    rows = [
        _timing.compare(seconds, "inside", "outside", bar=_LOOP_BAR),
        _timing.compare(seconds, "inside", "outside, no gathering"),
    ]
    title = f"{name}, steps inside the loop: {num_steps} steps of batch {batch}"
    return _report(title, rows, seconds)


def _report(title, rows, seconds) -> dict[str, Any]:
    print(f"\n{title}\n{_timing.HEADER}")
    for row in rows:
        print(_timing.format_row(row))
    return {"case": title, "rows": rows, "seconds": seconds}


def _data(shape, batch, num_steps):
    """Return a data set on the device, and which of it each step takes."""
    generator = np.random.default_rng(_SEED)
    images = generator.integers(0, 256, (_DATASET_SIZE, *shape), np.uint8)
    labels = generator.integers(0, 10, _DATASET_SIZE, np.int32)
    indices = generator.integers(0, _DATASET_SIZE, (num_steps, batch), np.int32)
    dataset = DeviceDataset(jnp.asarray(images), jnp.asarray(labels))
    return dataset, jnp.asarray(indices)


def _prepare(name, loss, shape, *, seed=_SEED):
    model = models.create(name, num_classes=10, head=losses.head_of(loss))
    state = create_train_state(model, _OPTIMIZER, jax.random.key(seed), shape)
    return state, functools.partial(train_step, loss_fn=losses.make_loss(loss))


def _steps_outside(state, step_fn, dataset, indices, *, gather) -> Callable[[], Any]:
    key, positions = jax.random.key(_SEED), jnp.arange(indices.shape[1])
    if gather:

        @functools.partial(jax.jit, donate_argnums=0)
        def step(state, dataset, indices, positions, key):
            batch = to_batch(dataset, indices, positions)
            return step_fn(state, batch, jax.random.fold_in(key, state.step))

        inputs = [(dataset, rows, positions, key) for rows in indices]
    else:
        step = jax.jit(step_fn, donate_argnums=0)
        inputs = [(to_batch(dataset, rows, positions), key) for rows in indices]

    def run():
        nonlocal state
        for arguments in inputs:
            state, metrics = step(state, *arguments)
        return state, metrics

    return run


def _steps_inside(state, step_fn, dataset, indices) -> Callable[[], Any]:
    multi_step = jax.jit(make_multi_step(step_fn), donate_argnums=0)
    num_steps, batch = indices.shape
    inputs = (dataset, indices, jnp.arange(batch), jnp.int32(num_steps))

    def run():
        nonlocal state
        state, metrics = multi_step(state, *inputs, jax.random.key(_SEED))
        return state, metrics

    return run


def _count_attack_traces() -> int:
    model = models.create("cnn", num_classes=10, head="mahalanobis")
    images = jnp.full((4, 28, 28, 1), 0.5)
    count = 0

    def logits_of(variables, images):
        nonlocal count
        count += 1
        return model.apply(variables, images).logits

    settings = dict(epsilon=0.3, step_size=0.01, num_steps=2)
    changes = ({}, dict(epsilon=0.1), dict(step_size=0.02), dict(num_steps=3))
    for seed, change in enumerate(changes):
        variables = model.init(jax.random.key(seed), images)
        logits_fn = jax.tree_util.Partial(logits_of, variables)
        if seed == 0:
            count = 0
        attacks.pgd(
            logits_fn,
            jax.random.key(seed),
            images,
            jnp.arange(4),
            **settings | change,
        )
    return count


def _count_loop_traces() -> int:
    dataset, indices = _data((28, 28, 1), 4, 2)
    count = 0

    def counted(*args):
        nonlocal count
        count += 1
        return step_fn(*args)

    multi_step = jax.jit(make_multi_step(counted), donate_argnums=0)
    for seed in range(3):
        state, step_fn = _prepare("cnn", "mmc", (28, 28, 1), seed=seed)
        key, num_steps = jax.random.key(seed), jnp.int32(seed % 2 + 1)
        multi_step(state, dataset, indices, jnp.arange(4), num_steps, key)
    return count


if __name__ == "__main__":
    main()
