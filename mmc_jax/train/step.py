"""The train state and the one train step.

One body serves one device, `pmap` and `jit` with shardings; adversarial training is
the same step with an attack, and a recipe says what is trained on. `make_multi_step`
runs many of them in one call on the device, drawing its batches there.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from mmc_jax.data import DeviceDataset, to_batch
from mmc_jax.losses import BoundLoss
from mmc_jax.lowering import canonical_convolutions
from mmc_jax.models.heads import Classifier
from mmc_jax.train.crafting import SOUND, Crafting, craft
from mmc_jax.train.gradients import make_differentiate
from mmc_jax.train.recipes import STANDARD, Recipe
from mmc_jax.train.weight_perturbation import perturb
from mmc_jax.types import Array, Attack, Batch, LossFn, Metrics, Variables

Augment = Callable[[Array, Array], Array]


class TrainState(struct.PyTreeNode):
    """Everything that a step reads and returns, whole and replicated."""

    step: Array
    """int32 scalar: the number of steps taken."""
    params: Any
    model_state: Any
    """The model's other collections: `batch_stats`, `centers`, `preprocessing`."""
    opt_state: optax.OptState
    average: Any
    """Exponential moving averages of what the optimiser changes and of `batch_stats`,
    or None."""
    model: nn.Module = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    ema_decay: float = struct.field(pytree_node=False, default=0.0)

    @property
    def trained(self) -> dict[str, Any]:
        """The collections that the optimiser changes.

        `params`, and `centers` where the model trains them.
        """
        if isinstance(self.model, Classifier) and self.model.trains_centers:
            return {"params": self.params, "centers": self.model_state["centers"]}
        return {"params": self.params}

    @property
    def variables(self) -> Variables:
        """The variables that are trained."""
        return {"params": self.params, **self.model_state}

    @property
    def eval_variables(self) -> Variables:
        """The variables to judge: the averages where they are kept."""
        return {**self.variables, **(self.average or {})}


def create_train_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: Array,
    image_shape: tuple[int, ...],
    *,
    mean_image: Array | np.ndarray | None = None,
    ema_decay: float = 0.0,
) -> TrainState:
    """Initialise the model and its optimiser.

    Args:
      model: from `models.create`.
      optimizer: from optax.
      key: typed key, consumed.
      image_shape: (height, width, channels).
      mean_image: what the model's first line subtracts, shaped `image_shape`, in
        [0, 1]; default zero.
      ema_decay: decay of the moving average of the weights, in [0, 1); 0 keeps none.

    Returns:
      A state at step 0.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    variables = jax.jit(functools.partial(model.init, train=False))(key, images)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    if mean_image is not None:
        model_state["preprocessing"] = {"mean": jnp.asarray(mean_image, jnp.float32)}
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        model_state=model_state,
        opt_state=None,
        average=None,
        model=model,
        optimizer=optimizer,
        ema_decay=ema_decay,
    )
    average = None
    if ema_decay:
        stats = {k: v for k, v in model_state.items() if k == "batch_stats"}
        # Copies, since a step's state is donated and no buffer may be in it twice.
        average = jax.tree.map(jnp.copy, {**state.trained, **stats})
    opt_state = optimizer.init(_as_optimized(state.trained))
    return state.replace(opt_state=opt_state, average=average)


def _as_optimized(trained: dict[str, Any]) -> Any:
    """Return the tree that the optimiser sees: `params` alone, or both collections."""
    return trained if len(trained) > 1 else trained["params"]


def example_keys(key: Array, purpose: str, positions: Array) -> Array:
    """Derive one key an example for one purpose.

    fold_in(fold_in(key, crc32(purpose)), position): the draws depend on the example's
    place in the whole batch and on nothing else, so they are the same on any number
    of devices.

    Args:
      key: typed key of the step; not consumed.
      purpose: what the draws are for.
      positions: int32 `[batch]`.

    Returns:
      keys `[batch]`.
    """
    base = jax.random.fold_in(key, zlib.crc32(purpose.encode()))
    return jax.vmap(jax.random.fold_in, (None, 0))(base, positions)


def train_step(
    state: TrainState,
    batch: Batch,
    key: Array,
    *,
    loss_fn: LossFn,
    attack: Attack | None = None,
    attack_scale: optax.Schedule | None = None,
    crafting: Crafting = SOUND,
    recipe: Recipe = STANDARD,
    weight_perturbation: optax.Schedule | None = None,
    augment: Augment | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Take one step on the mean loss of a batch.

    The batch is augmented and attacked; the recipe makes one loss of both images of an
    example; its gradient is taken in training mode, at perturbed weights if asked; and
    the optimiser steps from the weights as they were. Running statistics, and centers
    that a loss moves by a rule of its own, follow the images that the recipe names.

    Args:
      state: the state before.
      batch: one device's share of the step's batch.
      key: typed key of this step, the same on every device; not consumed.
      loss_fn: (output, labels, variables) -> `[batch]`.
      attack: bound attack for adversarial training; None trains on clean images.
      attack_scale: step -> factor in [0, 1] on the perturbation, to bring the attack in
        slowly; None leaves it whole.
      crafting: how the attack sees the model.
      recipe: what is trained on; by default the loss of the attacked images.
      weight_perturbation: step -> gamma >= 0 of `perturbed_weights`, which costs a
        second gradient where it is not 0; None never perturbs.
      augment: (keys `[batch]`, images) -> images; None leaves them as they are.
      axis_name: the mapped axis to average over; None outside `pmap`.

    Returns:
      The state after, and `loss`, `accuracy` (on the attacked images, where there is an
      attack) and `gradient_norm`, averaged over the whole batch.
    """
    images = batch.images
    if augment is not None:
        images = augment(example_keys(key, "augment", batch.positions), images)
    adv_images = images
    if attack is not None:
        adv_images = craft(
            attack,
            crafting,
            state.model,
            state.variables,
            example_keys(key, "attack", batch.positions),
            images,
            batch.labels,
            axis_name=axis_name,
        )
        if attack_scale is not None:
            # Between two points of a ball and a box: in both.
            adv_images = images + attack_scale(state.step) * (adv_images - images)
    differentiate = make_differentiate(
        state.model,
        state.variables,
        {"clean": images, "adversarial": adv_images},
        batch.labels,
        loss_fn=loss_fn,
        recipe=recipe,
        axis_name=axis_name,
    )
    trained = state.trained
    if weight_perturbation is not None:
        trained = perturb(trained, differentiate, weight_perturbation(state.step))
    gradients, (outputs, updates, metrics) = differentiate(trained)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    if isinstance(loss_fn, BoundLoss) and loss_fn.update_centers is not None:
        centers = loss_fn.update_centers(
            outputs[recipe.centers_from], batch.labels, state.variables, axis_name
        )
        updates = {**updates, "centers": centers}
    return _apply_gradients(state, gradients, updates), metrics


def _apply_gradients(state: TrainState, gradients, updates) -> TrainState:
    changes, opt_state = state.optimizer.update(
        _as_optimized(gradients), state.opt_state, _as_optimized(state.trained)
    )
    if len(state.trained) == 1:
        changes = {"params": changes}
    new = {**updates, **optax.apply_updates(state.trained, changes)}
    average = state.average
    if average is not None:
        followed = {name: new[name] for name in average}
        average = optax.incremental_update(followed, average, 1.0 - state.ema_decay)
    params = new.pop("params")
    return state.replace(
        step=state.step + 1,
        params=params,
        model_state={**state.model_state, **new},
        opt_state=opt_state,
        average=average,
    )


def make_multi_step(
    step_fn: Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Run many steps in one call, drawing the batches on the device.

    Args:
      step_fn: `train_step` with its keyword arguments bound.

    Returns:
      (state, dataset, indices int32 `[max_steps, batch]`, positions int32 `[batch]`,
      num_steps, key) -> (state, the mean of each metric over the first `num_steps`
      rows of `indices`). `num_steps` is dynamic; `key` is folded with the state's
      step, so results do not depend on how steps are grouped into calls.
    """
    fast_step = canonical_convolutions(step_fn)

    def multi_step(
        state: TrainState,
        dataset: DeviceDataset,
        indices: Array,
        positions: Array,
        num_steps: Array,
        key: Array,
    ) -> tuple[TrainState, Metrics]:
        def body(index, carry):
            state, sums = carry
            batch = to_batch(dataset, indices[index], positions)
            step_key = jax.random.fold_in(key, state.step)
            state, metrics = fast_step(state, batch, step_key)
            return state, jax.tree.map(jnp.add, sums, metrics)

        names = ("loss", "accuracy", "gradient_norm")
        sums = {name: jnp.zeros((), jnp.float32) for name in names}
        state, sums = lax.fori_loop(0, num_steps, body, (state, sums))
        return state, jax.tree.map(
            lambda total: total / jnp.maximum(num_steps, 1), sums
        )

    return multi_step
