"""Rewritten convolutions: the same results everywhere, another layout on CPU alone."""

from __future__ import annotations

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.experimental import io_callback
from jax.sharding import NamedSharding, PartitionSpec

from mmc_jax.lowering import canonical_convolutions, count_convolutions

_NHWC = ("NHWC", "HWIO", "NHWC")
_NCHW = ("NCHW", "OIHW", "NCHW")
_LENGTH = 2

_on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="runs the programs that CPU alone gets"
)


def _normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def _convolve(images, kernel, *, strides=(1, 1), padding="SAME", layout=_NHWC, **rest):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=layout, **rest
    )


def _loss(images, kernel):
    return jnp.square(jnp.sin(_convolve(images, kernel))).sum()


_gradients = jax.value_and_grad(_loss, argnums=(0, 1))


def _operands():
    return _normal(0, 4, 6, 6, 3), _normal(1, 3, 3, 3, 5)


def _stacked():
    """Operands with one more leading axis, of the size of the device count."""
    count = jax.device_count()
    return _normal(2, count, 2, 6, 6, 3), _normal(3, count, 3, 3, 3, 5)


def _alone(fn, *args):
    """Run `fn` outside any loop on each slice of `args`."""
    slices = [jax.tree.map(lambda a, i=i: a[i], args) for i in range(_LENGTH)]
    results = [jax.jit(fn)(*one) for one in slices]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


def _in_scan(fn, *args):
    """Run the rewritten `fn` as a loop's body on each slice of `args`."""
    rewritten = canonical_convolutions(fn)

    @jax.jit
    def loop(*args):
        return lax.scan(lambda carry, one: (carry, rewritten(*one)), None, args)[1]

    assert count_convolutions(loop, *args)[1] == 0
    return loop(*args)


def _assert_same(actual, expected, *, rtol=0.0):
    for one, other in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == other.dtype
        one, other = (np.asarray(x, np.float64) for x in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * np.abs(other).max())


_CASES = {
    "same": ((8, 8, 3), (3, 3, 3, 4), {}),
    "valid": ((8, 8, 3), (3, 3, 3, 4), {"padding": "VALID"}),
    "strides": ((9, 8, 3), (5, 3, 3, 4), {"strides": (2, 3)}),
    "padding": ((8, 8, 3), (3, 3, 3, 4), {"padding": ((0, 2), (3, 1))}),
    "kernel dilation": ((9, 9, 3), (3, 3, 3, 4), {"rhs_dilation": (2, 1)}),
    "image dilation": (
        (4, 4, 3),
        (4, 4, 3, 4),
        {"lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))},
    ),
    "1x1": ((6, 6, 5), (1, 1, 5, 4), {}),
    "1x1 strides": ((6, 6, 5), (1, 1, 5, 4), {"strides": (2, 2)}),
    "one channel": ((8, 8, 1), (5, 5, 1, 4), {"strides": (2, 2)}),
    "channels first": ((3, 8, 8), (4, 3, 3, 3), {"layout": _NCHW}),
}
_GROUPED = {
    "groups": ((6, 6, 16), (3, 3, 8, 16), {"feature_group_count": 2}),
    "groups, channels first": (
        (16, 6, 6),
        (16, 8, 3, 3),
        {"feature_group_count": 2, "layout": _NCHW},
    ),
    "batch groups": ((6, 6, 8), (3, 3, 8, 16), {"batch_group_count": 2}),
}
_DEPTHWISE = {
    "depthwise": ((6, 6, 4), (3, 3, 1, 4), {"feature_group_count": 4}),
    "depthwise, two each": ((6, 6, 4), (3, 3, 1, 8), {"feature_group_count": 4}),
}


def _case(image_shape, kernel_shape, options):
    """A function of a convolution's result and both gradients, and its arguments."""

    def all_three(images, kernel):
        out, vjp = jax.vjp(functools.partial(_convolve, **options), images, kernel)
        return out, vjp(jnp.sin(out))

    images = _normal(0, _LENGTH, 4, *image_shape)
    return all_three, (images, _normal(1, _LENGTH, *kernel_shape))


@_on_cpu
@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_a_loop_gives_the_bits_of_the_step_outside_it(case):
    fn, args = _case(*case)
    assert count_convolutions(fn, *(a[0] for a in args))[1] > 0
    _assert_same(_in_scan(fn, *args), _alone(fn, *args))


@_on_cpu
@pytest.mark.parametrize("case", _GROUPED.values(), ids=_GROUPED)
def test_grouped_convolutions_agree(case):
    fn, args = _case(*case)
    _assert_same(_in_scan(fn, *args), _alone(fn, *args), rtol=1e-5)


@_on_cpu
@pytest.mark.parametrize("case", _DEPTHWISE.values(), ids=_DEPTHWISE)
def test_depthwise_convolutions_keep_the_layouts_that_suit_them(case):
    fn, args = _case(*case)
    rewritten = canonical_convolutions(fn)
    scan = jax.jit(lambda *args: lax.map(lambda one: rewritten(*one), args))
    _assert_same(scan(*args), _alone(fn, *args), rtol=1e-5)
    # Only the image gradient, with few weights a group, is left as it was.
    assert count_convolutions(rewritten, *(a[0] for a in args)) == (2, 1)


def test_weight_gradients_of_groups_become_feature_groups():
    fn, args = _case(*_GROUPED["groups"])
    args = [a[0] for a in args]
    text = jax.jit(canonical_convolutions(fn)).trace(*args)
    text = text.lower(lowering_platforms=("cpu",)).as_text()
    assert "batch_group_count = 2" in jax.jit(fn).lower(*args).as_text()
    assert "batch_group_count = 2" not in text


@_on_cpu
def test_bfloat16_accumulates_where_it_did():
    accumulate = functools.partial(_convolve, preferred_element_type=jnp.float32)
    channels_first = functools.partial(accumulate, layout=_NCHW)
    images = _normal(0, _LENGTH, 4, 3, 6, 6, dtype=jnp.bfloat16)
    kernel = _normal(1, _LENGTH, 4, 3, 3, 3, dtype=jnp.bfloat16)
    result = _in_scan(channels_first, images, kernel)
    assert result.dtype == jnp.float32
    _assert_same(result, _alone(channels_first, images, kernel))


# Convolutions inside a function's own control flow and nested functions.


def _nested_jit(images, kernel):
    return jax.jit(_gradients)(images, kernel)


def _remat(images, kernel):
    return jax.grad(jax.checkpoint(_loss))(images, kernel)


def _own_scan(images, kernel):
    def loss(images):
        def layer(hidden, kernel):
            return jnp.tanh(_convolve(hidden, kernel)), None

        kernels = jnp.stack([kernel[..., :3], 2 * kernel[..., :3]])
        return jnp.square(lax.scan(layer, images, kernels)[0]).sum()

    return jax.grad(loss)(images)


def _own_while(images, kernel):
    def body(carry):
        step, images = carry
        return step + 1, images - 0.1 * _gradients(images, kernel)[1][0]

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, images))


def _own_cond(images, kernel):
    def flip(images):
        return jax.grad(_loss)(images[:, ::-1], kernel)

    def keep(images):
        return jax.grad(_loss)(images, kernel)

    return lax.cond(images.sum() > 0, flip, keep, images)


def _own_switch(images, kernel):
    branches = [lambda x, s=s: jax.grad(_loss)(s * x, kernel) for s in (1.0, 2.0, 3.0)]
    return lax.switch(jnp.int32(images[0, 0, 0, 0] > 0), branches, images)


def _own_fori_in_jit_in_scan(images, kernel):
    @jax.jit
    def attack(images):
        return lax.fori_loop(
            0, 2, lambda _, x: x - 0.1 * _gradients(x, kernel)[1][0], images
        )

    return lax.scan(lambda x, _: (attack(x), x.sum()), images, None, length=2)


def _custom_vjp_kept(images, kernel):
    # Not differentiated: the call itself, with its rule, is in the program.
    return _channels_first_with_own_vjp(jnp.moveaxis(images, -1, 1), kernel)


def _custom_jvp_kept(images, kernel):
    return _channels_first_with_own_jvp(jnp.moveaxis(images, -1, 1), kernel)


def _linear_solve(images, kernel):
    # Its jaxprs sit in a named tuple.
    def matvec(x):
        return x + 1e-3 * jax.grad(_loss)(x, kernel)

    return lax.custom_linear_solve(matvec, images, lambda f, b: 2 * b - f(b))


def _channels_first(images, kernel):
    return _convolve(images, kernel, layout=("NCHW", "HWIO", "NHWC"))


@jax.custom_vjp
def _channels_first_with_own_vjp(images, kernel):
    return _channels_first(images, kernel)


_channels_first_with_own_vjp.defvjp(
    lambda images, kernel: (_channels_first(images, kernel), (images, kernel)),
    lambda saved, cotangent: (7.0 * saved[0], 9.0 * saved[1] * cotangent.sum()),
)


@jax.custom_jvp
def _channels_first_with_own_jvp(images, kernel):
    return _channels_first(images, kernel)


@_channels_first_with_own_jvp.defjvp
def _(primals, tangents):
    out = _channels_first_with_own_jvp(*primals)
    return out, 5.0 * tangents[0].sum() * jnp.ones_like(out)


_NESTS = (
    _nested_jit,
    _remat,
    _own_scan,
    _own_while,
    _own_cond,
    _own_switch,
    _own_fori_in_jit_in_scan,
    _custom_vjp_kept,
    _custom_jvp_kept,
    _linear_solve,
)


@_on_cpu
@pytest.mark.parametrize("fn", _NESTS, ids=lambda fn: fn.__name__.strip("_"))
def test_bodies_are_rewritten_too(fn):
    args = _operands()
    rewritten = canonical_convolutions(fn)
    before, after = count_convolutions(fn, *args), count_convolutions(rewritten, *args)
    assert before[1] > 0
    assert after[1] == 0
    assert after[0] > before[0]
    # Where the original has a loop, XLA computes it otherwise: not the same bits.
    _assert_same(jax.jit(rewritten)(*args), jax.jit(fn)(*args), rtol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms_get_the_original_program(platform):
    args = _operands()
    rewritten = canonical_convolutions(_gradients)
    before = count_convolutions(_gradients, *args, platform=platform)
    assert count_convolutions(rewritten, *args, platform=platform) == before
    lowered = jax.jit(rewritten).trace(*args).lower(lowering_platforms=(platform,))
    assert "optimization_barrier" not in lowered.as_text()


def test_one_export_serves_cpu_and_gpu():
    args = _operands()
    rewritten = jax.jit(canonical_convolutions(_gradients))
    exported = jax.export.export(rewritten, platforms=("cpu", "cuda"))(*args)
    _assert_same(exported.call(*args), jax.jit(_gradients)(*args), rtol=1e-6)


@_on_cpu
def test_only_the_chosen_branch_is_compiled():
    rewritten = canonical_convolutions(_gradients)
    images, kernel = _operands()
    before = count_convolutions(_gradients, images, kernel)
    assert sum(count_convolutions(rewritten, images, kernel)) == sum(before)

    @jax.jit
    def loop(images, num_steps):
        def body(_, images):
            return images - rewritten(images, kernel)[1][0]

        return lax.fori_loop(0, num_steps, body, images)

    lowered = loop.lower(images, 3)
    assert "optimization_barrier" in lowered.as_text()
    text = lowered.compile().as_text()
    assert "while(" in text
    assert "conditional(" not in text
    # Nor has XLA folded the transposes back into the convolutions.
    assert set(re.findall(r"dim_labels=([^, ]+)", text)) == {"b01f_01io->b01f"}


# Transformations of the wrapped function.


@_on_cpu
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_over_images_and_weights(axes):
    pairs = zip(axes, _stacked(), _operands(), strict=True)
    args = [stack if axis == 0 else one for axis, stack, one in pairs]
    plain = jax.vmap(_gradients, axes)
    rewritten = jax.vmap(canonical_convolutions(_gradients), axes)
    rtol = 1e-5 if axes == (0, 0) else 0.0
    assert count_convolutions(rewritten, *args)[1] == 0
    _assert_same(jax.jit(rewritten)(*args), jax.jit(plain)(*args), rtol=rtol)


@_on_cpu
def test_weight_gradients_per_example():
    by_kernel = jax.vmap(jax.grad(_loss, argnums=1), (0, None))
    images, kernel = _normal(0, 4, 1, 8, 8, 3), _operands()[1]
    rewritten = canonical_convolutions(by_kernel)
    assert count_convolutions(by_kernel, images, kernel)[1] > 0
    assert count_convolutions(rewritten, images, kernel)[1] == 0
    expected = jax.jit(by_kernel)(images, kernel)
    _assert_same(jax.jit(rewritten)(images, kernel), expected, rtol=1e-5)


def _mean_gradients(images, kernel):
    return lax.pmean(_gradients(images, kernel), "devices")


@pytest.mark.parametrize("order", ["pmap outside", "pmap inside"])
def test_pmap(order):
    plain = jax.pmap(_mean_gradients, axis_name="devices")
    if order == "pmap outside":
        rewritten = canonical_convolutions(_mean_gradients)
        rewritten = jax.pmap(rewritten, axis_name="devices")
    else:
        rewritten = canonical_convolutions(plain)
    args = _stacked()
    assert count_convolutions(rewritten, *args)[1] == 0
    _assert_same(rewritten(*args), plain(*args))


def test_shard_map_around_a_scan():
    mesh = jax.make_mesh(
        (jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    split, whole = PartitionSpec("d"), PartitionSpec()

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(split, whole), out_specs=(split, whole)
    )
    def attack(images, kernel):
        def body(images, _):
            loss, (gradient, _) = _gradients(images, kernel)
            return images - 0.1 * gradient, lax.psum(loss, "d")

        return lax.scan(body, images, None, length=2)

    args = _stacked()[0][:, 0], _operands()[1]
    rewritten = canonical_convolutions(attack)
    assert count_convolutions(rewritten, *args)[1] == 0
    _assert_same(jax.jit(rewritten)(*args), jax.jit(attack)(*args), rtol=1e-5)


def test_jit_with_sharding():
    mesh = jax.make_mesh(
        (jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    split = NamedSharding(mesh, PartitionSpec("d"))
    images, kernel = _stacked()[0][:, 0], _operands()[1]
    rewritten = jax.jit(canonical_convolutions(_gradients))
    result = rewritten(jax.device_put(images, split), kernel)
    assert result[1][0].sharding.is_equivalent_to(split, 4)
    _assert_same(result, jax.jit(_gradients)(images, kernel), rtol=1e-5)


def _both_directions(fn, *args):
    forward = jax.jit(lambda *args: jax.jvp(fn, args, args))(*args)

    def total(*args):
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(fn(*args)))

    return forward, jax.jit(jax.grad(total, argnums=(0, 1)))(*args)


@_on_cpu
def test_derivatives_of_the_wrapped_function():
    args = _operands()
    plain = _both_directions(_gradients, *args)
    rewritten = _both_directions(canonical_convolutions(_gradients), *args)
    _assert_same(rewritten, plain, rtol=1e-5)


def test_gradients_through_it_can_be_rewritten_in_their_turn():
    inner = canonical_convolutions(_loss)
    outer = canonical_convolutions(jax.grad(inner, argnums=(0, 1)))
    args = _operands()
    assert count_convolutions(outer, *args)[1] == 0
    _assert_same(jax.jit(outer)(*args), jax.jit(_gradients)(*args)[1])


@pytest.mark.parametrize("nest", [lambda f: f, jax.jit, jax.checkpoint])
def test_custom_derivatives_survive(nest):
    kept = nest(canonical_convolutions(nest(_custom_vjp_kept)))
    images, kernel = _operands()
    gradients = jax.grad(lambda *args: kept(*args).sum(), argnums=(0, 1))
    by_images, by_kernel = gradients(images, kernel)
    np.testing.assert_allclose(by_images, 7.0 * images, rtol=1e-6)
    out = _custom_vjp_kept(images, kernel)
    np.testing.assert_allclose(by_kernel, 9.0 * kernel * out.size, rtol=1e-6)

    kept = nest(canonical_convolutions(nest(_custom_jvp_kept)))
    tangents = jnp.ones_like(images), jnp.zeros_like(kernel)
    _, tangent = jax.jvp(kept, (images, kernel), tangents)
    np.testing.assert_allclose(tangent, 5.0 * images.size, rtol=1e-6)


def test_relu_keeps_its_gradient_of_zero_at_zero():
    gradient = jax.grad(lambda x: canonical_convolutions(jax.nn.relu)(x).sum())
    np.testing.assert_array_equal(gradient(jnp.zeros(3)), jnp.zeros(3))


# What a function may be, take and do.


class _Block(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.Conv(4, (3, 3), strides=2)(images)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        hidden = hidden + nn.Conv(4, (1, 1))(hidden)
        return nn.Dense(3)(hidden.mean((1, 2)))


def _train_step(state, batch):
    variables, opt_state = state

    def loss(params):
        logits, updates = _Block().apply(
            {**variables, "params": params},
            batch["images"],
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits, batch["labels"]
        )
        return losses.mean(), updates

    (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(
        variables["params"]
    )
    change, opt_state = optax.sgd(0.1, momentum=0.9).update(gradients, opt_state)
    params = optax.apply_updates(variables["params"], change)
    return ({**updates, "params": params}, opt_state), {"loss": value}


@_on_cpu
def test_a_train_step_with_batch_norm_in_a_scan():
    images = _normal(0, 3, 8, 8, 8, 1)
    batches = {"images": images, "labels": np.arange(24).reshape(3, 8) % 3}
    init = jax.jit(functools.partial(_Block().init, train=False))
    variables = init(jax.random.key(0), images[0])
    opt_state = optax.sgd(0.1, momentum=0.9).init(variables["params"])
    state = expected = dict(variables), opt_state
    losses = []
    for i in range(3):
        batch = jax.tree.map(lambda a, i=i: a[i], batches)
        expected, metrics = jax.jit(_train_step)(expected, batch)
        losses.append(metrics["loss"])
    rewritten = canonical_convolutions(_train_step)
    loop = jax.jit(lambda *args: lax.scan(rewritten, *args))
    assert count_convolutions(
        lambda *args: lax.scan(_train_step, *args), state, batches
    )[1]
    assert count_convolutions(loop, state, batches)[1] == 0
    result, metrics = loop(state, batches)
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    _assert_same(result, expected)
    _assert_same(metrics["loss"], jnp.stack(losses))


def test_eager_calls_trace_once():
    traces = []

    def traced(images, *, kernel):
        traces.append(images)
        return {"loss": _loss(images, kernel), "none": None, "two": (images, 2.0)}

    rewritten = canonical_convolutions(traced)
    images, kernel = _operands()
    for _ in range(3):
        result = rewritten(np.asarray(images), kernel=kernel)
    assert len(traces) == 1
    assert jax.tree.structure(result) == jax.tree.structure(
        traced(images, kernel=kernel)
    )
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(result))
    _assert_same(result["loss"], _loss(images, kernel), rtol=1e-6)


def test_eager_calls_compile_once(caplog):
    rewritten = canonical_convolutions(jax.jit(_gradients))
    rewritten(*_operands())
    with jax.log_compiles(), caplog.at_level("WARNING"):
        rewritten(*_operands())
    assert "Compiling" not in caplog.text


def test_constants_and_the_tracers_of_an_outer_function():
    images, kernel = _operands()
    constant = 2 * kernel

    def attack(images, kernel, gradient_of):
        gradient = gradient_of(lambda x: _loss(x, kernel) + _loss(x, constant))
        return lax.fori_loop(0, 2, lambda i, x: x - 0.01 * gradient(x), images)

    rewritten = jax.jit(
        lambda *args: attack(*args, lambda f: canonical_convolutions(jax.grad(f)))
    )
    with jax.checking_leaks():
        result = rewritten(images, kernel)
    assert count_convolutions(rewritten, images, kernel)[1] == 0
    plain = jax.jit(lambda *args: attack(*args, jax.grad))
    _assert_same(result, plain(images, kernel), rtol=1e-5)


def test_without_jit():
    with jax.disable_jit():
        result = canonical_convolutions(_gradients)(*_operands())
    _assert_same(result, jax.jit(_gradients)(*_operands()), rtol=1e-5)


@_on_cpu
def test_ordered_effects_happen_in_order():
    seen = []

    def attack(images, kernel):
        def body(i, images):
            io_callback(lambda i: seen.append(int(i)), None, i, ordered=True)
            return images - 0.1 * _gradients(images, kernel)[1][0]

        io_callback(lambda: seen.append("start"), None, ordered=True)
        images = lax.fori_loop(0, 3, body, images)
        io_callback(lambda: seen.append("end"), None, ordered=True)
        return images

    rewritten = canonical_convolutions(attack)
    assert count_convolutions(rewritten, *_operands())[1] == 0
    jax.block_until_ready(jax.jit(rewritten)(*_operands()))
    jax.effects_barrier()
    assert seen == ["start", 0, 1, 2, "end"]


@pytest.mark.parametrize("order", ["donated inside", "donated outside"])
def test_donation(order):
    def step(images, kernel):
        return images - _gradients(images, kernel)[1][0]

    if order == "donated inside":
        rewritten = canonical_convolutions(jax.jit(step, donate_argnums=0))
    else:
        rewritten = jax.jit(canonical_convolutions(step), donate_argnums=0)
    images, kernel = map(jnp.asarray, _operands())
    expected = jax.jit(step)(images, kernel)
    _assert_same(rewritten(images, kernel), expected, rtol=1e-6)
    assert images.is_deleted()
    assert not kernel.is_deleted()


@pytest.mark.parametrize("num_dimensions", [1, 3])
def test_other_dimensions_are_left_alone(num_dimensions):
    spatial = "XYZ"[:num_dimensions]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")

    def loss(images, kernel):
        strides = (1,) * num_dimensions
        out = _convolve(images, kernel, strides=strides, layout=layout)
        return jnp.square(out).sum()

    gradient = jax.grad(loss)
    images = _normal(0, 2, *(6,) * num_dimensions, 3)
    kernel = _normal(1, *(3,) * num_dimensions, 3, 4)
    rewritten = canonical_convolutions(gradient)

    def program(fn):
        return str(jax.make_jaxpr(fn)(images, kernel))

    assert "conv_general_dilated" in program(gradient)
    assert program(rewritten) == program(gradient)
    assert count_convolutions(gradient, images, kernel) == (0, 0)


def test_twice_is_once():
    once = canonical_convolutions(_own_while)
    twice = canonical_convolutions(once)
    args = _operands()
    assert str(jax.make_jaxpr(twice)(*args)) == str(jax.make_jaxpr(once)(*args))


def test_what_is_no_function_is_refused():
    with pytest.raises(ValueError, match="fn must be a function of arrays, got 3"):
        canonical_convolutions(3)
