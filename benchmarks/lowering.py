"""Steps inside jitted loops against the same steps outside them, on CPU.

    python benchmarks/lowering.py

First two plain Flax models that know nothing of us, each with an attack's step (the
gradient of the loss by the images, in a `fori_loop`) and a training step (in a `scan`):
rewritten by `canonical_convolutions`, and as XLA runs it by itself. The latter is slow,
so it is timed in a fifth of the rounds.

Then single operations and their gradients, in three columns of milliseconds: outside a
loop, inside it, inside it and rewritten. They show what else would need a cure (nothing
did), and the convolutions that `canonical_convolutions` leaves alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import _timing
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mmc_jax import timing
from mmc_jax.lowering import canonical_convolutions, count_convolutions
from mmc_jax.types import Array

_BAR = 1.05
_NUM_STEPS = 4
_OUTSIDE, _LOOP, _REWRITTEN = "outside a loop", "in a loop", "in a loop, rewritten"
Step = Callable[[Any], Any]


def main() -> None:
    """Time every case, print the tables, write the record."""
    args = _timing.parse_args("lowering", __doc__.splitlines()[0])
    _timing.warn_if_busy()
    models = {
        "plain CNN, 128 images (28, 28, 1)": (_CNN(), (128, 28, 28, 1)),
        "ResNet-20 with BatchNorm, 64 images (32, 32, 3)": (_ResNet(), (64, 32, 32, 3)),
    }
    steps = []
    for title, (model, shape) in models.items():
        images = jax.random.uniform(jax.random.key(0), shape)
        labels = jnp.arange(len(images)) % 10
        variables = jax.jit(model.init)(jax.random.key(1), images)
        for name, make in (("input gradient", _attack), ("training", _training)):
            print(f"\n{title}: {name}")
            step, state = make(model, variables, images, labels)
            steps.append({"case": f"{title}: {name}"} | _measure(step, state, args))
    print("\nSingle operations, milliseconds")
    operations = [_operation(name, args.pairs) for name in _operations()]
    results = {"num_steps": _NUM_STEPS, "steps": steps, "operations": operations}
    _timing.write_record(args, "lowering", results)


class _CNN(nn.Module):
    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        hidden = images
        for width in (32, 64):
            hidden = nn.relu(nn.Conv(width, (5, 5), strides=2)(hidden))
        hidden = nn.relu(nn.Dense(256)(hidden.reshape(len(hidden), -1)))
        return nn.Dense(10)(hidden)


class _ResNet(nn.Module):
    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        conv = functools.partial(nn.Conv, use_bias=False)
        hidden = nn.relu(norm()(conv(16, (3, 3))(images)))
        for width in (16, 32, 64):
            for index in range(3):
                strides = 2 if width > 16 and index == 0 else 1
                block = nn.relu(norm()(conv(width, (3, 3), strides)(hidden)))
                block = norm()(conv(width, (3, 3))(block))
                if strides == 2:
                    hidden = conv(width, (1, 1), strides)(hidden)
                hidden = nn.relu(hidden + block)
        return nn.Dense(10)(hidden.mean((1, 2)))


def _attack(model: nn.Module, variables: Any, images: Array, labels: Array):
    """Return a step of an attack, and the images it starts from."""

    @jax.value_and_grad
    def loss(images: Array) -> Array:
        logits = model.apply(variables, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    return lambda images: images + 1e-3 * jnp.sign(loss(images)[1]), images


def _training(model: nn.Module, variables: Any, images: Array, labels: Array):
    """Return a step of training by momentum, and the state it starts from."""
    optimizer = optax.sgd(0.01, momentum=0.9)

    def loss(params: Any, statistics: Any) -> tuple[Array, Any]:
        logits, statistics = model.apply(
            {"params": params} | statistics, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), statistics

    def step(state: Any) -> Any:
        params, statistics, opt_state = state
        gradients, statistics = jax.grad(loss, has_aux=True)(params, statistics)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), statistics, opt_state

    statistics = {k: v for k, v in variables.items() if k != "params"}
    params = variables["params"]
    return step, (params, statistics, optimizer.init(params))


def _measure(step: Step, state: Any, args: Any) -> dict[str, Any]:
    outside, outside_compile = _compile(jax.jit(step), state)
    loops = {_LOOP: _in_loop(step), _REWRITTEN: _in_loop(canonical_convolutions(step))}
    compiled = {name: _compile(loop, state) for name, loop in loops.items()}

    def step_by_step() -> Any:
        result = state
        for _ in range(_NUM_STEPS):
            result = jax.block_until_ready(outside(result))
        return result

    fns = {_OUTSIDE: step_by_step}
    fns |= {name: functools.partial(fn, state) for name, (fn, _) in compiled.items()}
    rewritten = {name: fns[name] for name in (_OUTSIDE, _REWRITTEN)}
    by_itself = {name: fns[name] for name in (_OUTSIDE, _LOOP)}
    seconds = timing.interleaved(rewritten, pairs=args.pairs)
    slow = timing.interleaved(by_itself, pairs=max(1, args.pairs // 5))
    rows = [
        _timing.compare(seconds, _REWRITTEN, _OUTSIDE, bar=_BAR),
        _timing.compare(slow, _LOOP, _OUTSIDE),
    ]
    print(_timing.HEADER)
    for row in rows:
        row["compile_seconds"] = compiled[row["name"]][1]
        row["convolutions"] = count_convolutions(loops[row["name"]], state)
        note = "compile {compile_seconds:.1f} s, (canonical, other) {convolutions}"
        print(_timing.format_row(row), note.format_map(row))
    difference = _largest_difference(fns[_REWRITTEN](), fns[_OUTSIDE]())
    print(f"  largest difference of the results: {difference}")
    return {
        "rows": rows,
        "outside_compile_seconds": outside_compile,
        "largest_difference": difference,
    }


def _compile(fn: Any, *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    compiled = fn.lower(*args).compile()
    return compiled, time.perf_counter() - start


def _in_loop(step: Step) -> Step:
    def loop(state: Any) -> Any:
        return lax.scan(lambda state, _: (step(state), None), state, None, _NUM_STEPS)[
            0
        ]

    return jax.jit(loop)


def _largest_difference(one: Any, other: Any) -> float:
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), one, other)
    return float(max(jax.tree.leaves(difference)))


def _convolution(layout: str, **options: Any) -> Callable[[Array, Array], Array]:
    spatial = layout[1:-1]
    numbers = (layout, f"{spatial}IO", layout)
    options = {"window_strides": (1,) * len(spatial), "padding": "SAME"} | options
    return functools.partial(
        lax.conv_general_dilated, dimension_numbers=numbers, **options
    )


def _normalise(x: Array) -> Array:
    centred = x - x.mean((0, 1, 2), keepdims=True)
    return centred * lax.rsqrt(
        jnp.square(centred).mean((0, 1, 2), keepdims=True) + 1e-5
    )


def _operations() -> dict[
    str, tuple[Callable[..., Array], tuple[tuple[int, ...], ...]]
]:
    """Return name -> (operation, shapes of its arguments)."""
    image, depthwise = (16, 16, 16, 64), _convolution("NHWC", feature_group_count=64)
    halve = {"window_shape": (2, 2), "strides": (2, 2)}
    return {
        "convolution": (_convolution("NHWC"), (image, (3, 3, 64, 64))),
        "convolution, 4 groups": (
            _convolution("NHWC", feature_group_count=4),
            (image, (3, 3, 16, 64)),
        ),
        "convolution, depthwise": (depthwise, (image, (3, 3, 1, 64))),
        "convolution, 1-D": (_convolution("NWC"), ((16, 256, 64), (3, 64, 64))),
        "convolution, 3-D": (
            _convolution("NDHWC"),
            ((2, 8, 8, 8, 32), (3, 3, 3, 32, 32)),
        ),
        "max pool": (lambda x: nn.max_pool(x, **halve), (image,)),
        "average pool": (lambda x: nn.avg_pool(x, **halve), (image,)),
        "average pool, 8x8": (
            lambda x: nn.avg_pool(x, (8, 8), (8, 8)),
            (image,),
        ),
        "mean over height and width": (lambda x: x.mean((1, 2)), (image,)),
        "batch normalisation": (_normalise, (image,)),
        "matrix product": (jnp.matmul, ((512, 512), (512, 512))),
        "batched matrix product": (jnp.matmul, ((16, 128, 128), (16, 128, 128))),
        "softmax": (jax.nn.softmax, ((2048, 256),)),
        "resize": (
            lambda x: jax.image.resize(x, (16, 24, 24, 64), "bilinear"),
            (image,),
        ),
    }


def _operation(name: str, pairs: int) -> dict[str, Any]:
    """Time one operation and its gradients by each argument."""
    fn, shapes = _operations()[name]
    operands = tuple(
        jax.random.normal(jax.random.key(i), shape) / 8
        for i, shape in enumerate(shapes)
    )
    cotangent = jax.jit(fn)(*operands)
    parts: dict[str, Callable[..., Any]] = {"forward": lambda _, *args: fn(*args)}
    for index in range(len(shapes)):

        def gradient(cotangent: Array, *args: Array, index: int = index) -> Array:
            def along(x: Array) -> Array:
                return fn(*args[:index], x, *args[index + 1 :])

            return jax.vjp(along, args[index])[1](cotangent)[0]

        parts[f"gradient {index}"] = gradient
    milliseconds = {}
    for part, run in parts.items():
        row = _milliseconds(run, (cotangent, *operands), max(1, pairs // 3))
        milliseconds[part] = row
        text = "  ".join(f"{column} {value:8.2f}" for column, value in row.items())
        print(f"  {name + ', ' + part:<40} {text}")
    return {"name": name, "milliseconds": milliseconds}


def _milliseconds(run: Callable[..., Any], args: Any, pairs: int) -> dict[str, float]:
    def depend(fn: Callable[..., Any]) -> Step:
        # Each step's arguments depend on the last one's result: nothing can be hoisted.
        def step(args: Any) -> Any:
            nudge = 1e-9 * fn(*args).mean()
            return tuple(x + nudge for x in args)

        return step

    step = jax.jit(depend(run))
    loop = _in_loop(depend(run))
    rewritten = _in_loop(depend(canonical_convolutions(run)))
    fns = {_OUTSIDE: step, _LOOP: loop, _REWRITTEN: rewritten}
    seconds = timing.interleaved(
        {name: functools.partial(fn, args) for name, fn in fns.items()}, pairs=pairs
    )
    steps = {_OUTSIDE: 1, _LOOP: _NUM_STEPS, _REWRITTEN: _NUM_STEPS}
    return {
        name: 1e3 * sorted(times)[len(times) // 2] / steps[name]
        for name, times in seconds.items()
    }


if __name__ == "__main__":
    main()
