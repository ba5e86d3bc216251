"""Convolution gradients at full speed inside jitted loops on CPU.

XLA:CPU has fast kernels for 2-D convolutions in one layout only: NHWC images, HWIO
kernels, NHWC results. It brings other layouts into it, but only outside `fori_loop`,
`scan`, `while_loop` and `cond` (https://github.com/jax-ml/jax/issues/12868). The
gradients of a convolution have other layouts, so inside a loop an attack's step runs
up to 5 times slower than outside it, and a training step up to 25 times.

`canonical_convolutions` does in JAX what XLA leaves undone. It knows nothing of models:
differentiate first, wrap the result, then loop::

    step = canonical_convolutions(jax.value_and_grad(loss))
    jax.lax.fori_loop(0, 40, lambda i, images: images - step(images)[1], images)

It acts when a program is lowered for CPU and leaves other platforms' programs as they
were. `count_convolutions` shows what a program really contains.

Wrap after differentiation: gradients taken *through* a wrapped function are right, but
their convolutions are new ones and need wrapping in their turn.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import primitives

from mmc_jax.types import Array

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

# Of each operand, the axes of (batch or output feature, input feature, height, width).
_NHWC, _HWIO = (0, 3, 1, 2), (3, 2, 0, 1)
_CANONICAL = lax.ConvDimensionNumbers(_NHWC, _HWIO, _NHWC)
_CANONICAL_TEXT = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"

# With so few weights a group, XLA's plain loops beat its fast kernels, which take the
# groups one by one (3x3 depthwise, 64 channels: 0.8 ms against 13 ms).
_FEW_WEIGHTS = 256

# Jaxpr -> its rewritten form, or None for one that stays as it is. The same input gives
# the same object, which JAX's caches need to compile shared sub-programs once.
_rewritten: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def canonical_convolutions(
    fn: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """Return `fn` with its 2-D convolutions in the layout that is fast on CPU.

    Every other layout becomes: transpose the operands, convolve as NHWC/HWIO/NHWC,
    transpose the result; also in the bodies of `jit`, `scan`, `while_loop`, `cond`,
    `checkpoint` and the like. Custom derivative rules, effects, donation and dtypes
    stay. Left alone are 1-D and 3-D convolutions, and grouped ones with few weights a
    group (depthwise ones), which are faster as they are.

    The results are those of `fn` outside a loop: bit for bit for ungrouped
    convolutions; to about 1e-6 for grouped ones, whose weight gradients are also
    regrouped (batch groups turned into feature groups, many times faster on CPU).

    Args:
      fn: any JAX function of pytrees of arrays, differentiated already. Like under
        `jax.jit`, it is traced once per structure, shapes and dtypes of its arguments.

    Returns:
      A function with `fn`'s signature, to be called directly or under any JAX
      transformation.

    Raises:
      ValueError: if `fn` is not callable.
    """
    if not callable(fn):
        raise ValueError(f"fn must be a function of arrays, got {fn!r}")

    def trace(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        return fn(*args, **kwargs)

    @functools.wraps(fn)
    def canonical(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        jaxpr, shapes = jax.make_jaxpr(trace, return_shape=True)(*args, **kwargs)
        leaves = core.jaxpr_as_fun(_rewrite(jaxpr))(*jax.tree.leaves((args, kwargs)))
        # A result that is a Python or NumPy number comes back as an array, as from jit.
        arrays = [x if isinstance(x, Array) else jnp.asarray(x) for x in leaves]
        return jax.tree.unflatten(jax.tree.structure(shapes), arrays)

    return canonical


def count_convolutions(
    fn: Callable[..., Any], *args: Any, platform: str = "cpu"
) -> tuple[int, int]:
    """Count the 2-D convolutions in the program that `fn(*args)` is lowered to.

    Loop bodies, branches and nested functions count. What JAX shares between several
    callers (a nested `jit` with the same shapes) is there once, and counts once.

    Args:
      fn: a JAX function, jitted or not. It is lowered, neither compiled nor run.
      *args: its arguments, or `jax.ShapeDtypeStruct`s in their place.
      platform: what to lower for: 'cpu', 'cuda', 'rocm' or 'tpu'; needs no such device.

    Returns:
      (number laid out as NHWC/HWIO/NHWC, number of all others).
    """
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    canonical = other = 0
    for operation in _operations(lowered.compiler_ir("stablehlo").operation):
        if operation.name == "stablehlo.convolution":
            layout = str(operation.attributes["dimension_numbers"])
            if _CANONICAL_TEXT in layout:
                canonical += 1
            elif layout.split("]")[0].count(",") == 3:
                other += 1
    return canonical, other


def _operations(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _operations(inner.operation)


def _rewrite(jaxpr: Any) -> Any:
    """Return the Jaxpr or ClosedJaxpr `jaxpr` with canonical convolutions."""
    if jaxpr not in _rewritten:
        equations = [_rewrite_equation(equation) for equation in jaxpr.eqns]
        if all(new is old for new, old in zip(equations, jaxpr.eqns, strict=True)):
            _rewritten[jaxpr] = None
        elif isinstance(jaxpr, core.Jaxpr):
            _rewritten[jaxpr] = jaxpr.replace(eqns=equations)
        else:
            open_jaxpr = jaxpr.jaxpr.replace(eqns=equations)
            _rewritten[jaxpr] = jaxpr.replace(jaxpr=open_jaxpr)
    new = _rewritten[jaxpr]
    return jaxpr if new is None else new


def _rewrite_equation(equation: core.JaxprEqn) -> core.JaxprEqn:
    # One equation becomes one equation with the same inputs and outputs, so that
    # everything that refers to them (effects, donation, derivative rules) stays valid.
    params = equation.params
    if equation.primitive is primitives.conv_general_dilated_p:
        images: Any = equation.invars[0].aval
        kernel: Any = equation.invars[1].aval
        if not _wants_rewriting(kernel.shape, params):
            return equation
        call = _canonical_equation(images, kernel, tuple(sorted(params.items())))
        return equation.replace(primitive=call.primitive, params=call.params)
    leaves, treedef = jax.tree.flatten(params)
    is_jaxpr = [isinstance(leaf, core.Jaxpr | core.ClosedJaxpr) for leaf in leaves]
    new = [
        _rewrite(v) if is_one else v for v, is_one in zip(leaves, is_jaxpr, strict=True)
    ]
    if all(a is b for a, b in zip(new, leaves, strict=True)):
        return equation
    return equation.replace(params=jax.tree.unflatten(treedef, new))


def _wants_rewriting(kernel_shape: Sequence[int], params: dict[str, Any]) -> bool:
    layout = params["dimension_numbers"]
    if len(kernel_shape) != 4:
        return False
    if params["batch_group_count"] > 1:
        return True
    groups = params["feature_group_count"]
    if groups > 1 and math.prod(kernel_shape) <= _FEW_WEIGHTS * groups:
        return False
    return layout != _CANONICAL


@functools.lru_cache(maxsize=4096)
def _canonical_equation(
    lhs: Any, rhs: Any, items: tuple[tuple[str, Any], ...]
) -> core.JaxprEqn:
    """Return the one equation that stands for a convolution with parameters `items`."""
    params = dict(items)

    @jax.jit
    def canonical_convolution(lhs: Array, rhs: Array) -> Array:
        return lax.platform_dependent(
            lhs,
            rhs,
            cpu=functools.partial(_convolve_canonically, params=params),
            default=functools.partial(primitives.conv_general_dilated_p.bind, **params),
        )

    mesh = lhs.sharding.mesh
    with jax.disable_jit(False), jax.sharding.use_abstract_mesh(mesh):
        (equation,) = jax.make_jaxpr(canonical_convolution)(lhs, rhs).eqns
    # Its branch for other platforms keeps the original layout: leave it so.
    _rewritten[equation.params["jaxpr"]] = None
    return equation


def _convolve_canonically(lhs: Array, rhs: Array, *, params: dict[str, Any]) -> Array:
    layout = params["dimension_numbers"]
    groups = params["batch_group_count"]
    # From "axes of (batch, feature, height, width)" to "order of axes in the result".
    lhs = lax.transpose(lhs, [layout.lhs_spec[i] for i in (0, 2, 3, 1)])
    rhs = lax.transpose(rhs, [layout.rhs_spec[i] for i in (2, 3, 1, 0)])
    if groups > 1:
        batch, height, width, features = lhs.shape
        lhs = lhs.reshape(groups, batch // groups, height, width, features)
        lhs = lax.transpose(lhs, (1, 2, 3, 0, 4))
        lhs = lhs.reshape(batch // groups, height, width, groups * features)
        params = params | {"batch_group_count": 1, "feature_group_count": groups}
    # XLA may fold transposes back into a convolution's layout, but not past a barrier.
    lhs, rhs = lax.optimization_barrier((lhs, rhs))
    params = params | {"dimension_numbers": _CANONICAL}
    out = primitives.conv_general_dilated_p.bind(lhs, rhs, **params)
    return lax.transpose(out, [_NHWC[layout.out_spec.index(i)] for i in range(4)])
