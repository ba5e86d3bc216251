"""Bugs to plant in training and its losses, for `negative_controls`."""

from __future__ import annotations

from _negative_controls import Control

_TRAIN = "mmc_jax/train/"
_LOSSES = "mmc_jax/losses/"

_GRADIENTS = "adversarial_losses::test_a_loss_and_its_gradients_are_the_papers[0.0-{}]"
_NUMBERS = "recipes::test_the_numbers_of_a_config_reach_its_recipe"
_AWP = "recipes::test_awp_step_by_hand[mmc-0.1-error2]"
_VALIDATION = "validation::"

IN_TRAINING = (
    Control(
        "adversarial training trains on clean images",
        "ours",
        _TRAIN + "step.py",
        '{"clean": images, "adversarial": adv_images}',
        '{"clean": images, "adversarial": images}',
        (
            "recipes::test_the_loss_of_a_recipe_is_the_paper_s"
            "[standard-0.0-hyperparameters0]",
        ),
    ),
    Control(
        "the share of clean images is that of attacked ones",
        "ours",
        _TRAIN + "recipes.py",
        "clean_weight * clean_losses + (1 - clean_weight) * adv_losses",
        "clean_weight * adv_losses + (1 - clean_weight) * clean_losses",
        (
            "recipes::test_the_loss_of_a_recipe_is_the_paper_s"
            "[standard-0.25-hyperparameters1]",
        ),
    ),
    Control(
        "training attacks see the model in training mode",
        "ours",
        _TRAIN + "crafting.py",
        'if crafting.statistics == "batch":',
        "if crafting.statistics in STATISTICS:",
        (
            "recipes::"
            "test_logits_of_the_attack_follow_the_statistics_and_the_temperature",
        ),
    ),
    Control(
        "training attacks go by predicted labels where true ones are asked",
        "ours",
        _TRAIN + "crafting.py",
        'if crafting.labels == "predicted":',
        "if crafting.labels in LABELS:",
        ("recipes::test_labels_of_the_attack_are_the_data_s_or_the_model_s_own",),
    ),
    Control(
        "running statistics follow the first images that take a pass",
        "ours",
        _TRAIN + "gradients.py",
        "updates[recipe.statistics_from]",
        "updates[recipe.passes[0]]",
        (
            "recipes::test_running_statistics_follow_the_images_that_are_named"
            "[trades-adversarial]",
        ),
    ),
    Control(
        "augmentation is keyed by the place in a device's share",
        "ours",
        _TRAIN + "step.py",
        'example_keys(key, "augment", batch.positions)',
        'example_keys(key, "augment", jnp.arange(len(images)))',
        ("train::test_any_number_of_devices_takes_the_same_steps[pmap]",),
    ),
    Control(
        "TRADES' divergence is the wrong way round",
        "ours",
        _LOSSES + "adversarial.py",
        "jax.nn.log_softmax(adv_logits / temperature),\n"
        "        jax.nn.log_softmax(clean_logits / temperature),",
        "jax.nn.log_softmax(clean_logits / temperature),\n"
        "        jax.nn.log_softmax(adv_logits / temperature),",
        (_GRADIENTS.format("trades"),),
    ),
    Control(
        "TRADES' loss is that of the adversarial image",
        "ours",
        _TRAIN + "recipes.py",
        'loss_fn(outputs["clean"], labels, variables),\n            outputs',
        'loss_fn(outputs["adversarial"], labels, variables),\n            outputs',
        (
            "recipes::test_the_loss_of_a_recipe_is_the_paper_s"
            "[trades-6.0-hyperparameters2]",
        ),
    ),
    Control(
        "TRADES' gradient stops at the clean prediction",
        "ours",
        _LOSSES + "adversarial.py",
        "kl_divergence(clean_logits, adv_logits, temperature=temperature)\n"
        "    chex.assert_equal_shape([clean_losses, divergence])",
        "kl_divergence(\n"
        "        jax.lax.stop_gradient(clean_logits), adv_logits,\n"
        "        temperature=temperature)\n"
        "    chex.assert_equal_shape([clean_losses, divergence])",
        (_GRADIENTS.format("trades"),),
    ),
    Control(
        "TRADES' weight is ignored",
        "ours",
        _TRAIN + "recipes.py",
        'outputs["adversarial"].logits,\n            weight=weight,',
        'outputs["adversarial"].logits,',
        (f"{_NUMBERS}[trades]",),
    ),
    Control(
        "TRADES' temperature is ignored in the loss",
        "ours",
        _TRAIN + "recipes.py",
        'outputs["adversarial"].logits,\n            weight=weight,\n'
        "            temperature=temperature,",
        'outputs["adversarial"].logits,\n            weight=weight,',
        (f"{_NUMBERS}[trades]",),
    ),
    Control(
        "MART's temperature is ignored in the loss",
        "ours",
        _TRAIN + "recipes.py",
        "labels,\n            weight=weight,\n            temperature=temperature,",
        "labels,\n            weight=weight,",
        (f"{_NUMBERS}[mart]",),
    ),
    Control(
        "the temperature is ignored in the attack",
        "ours",
        _TRAIN + "crafting.py",
        "if crafting.temperature != 1:",
        "if crafting.temperature < 0:",
        (
            "recipes::"
            "test_logits_of_the_attack_follow_the_statistics_and_the_temperature",
        ),
    ),
    Control(
        "the attack's temperature does not fit the logits",
        "ours",
        _TRAIN + "build_recipe.py",
        "temperature=_temperature(config),",
        'temperature=config.recipe.get("temperature", 1.0) or 1.0,',
        ("train::test_the_loop_trains_by_the_config_s_recipe",),
    ),
    Control(
        "MART has no margin term",
        "ours",
        _LOSSES + "adversarial.py",
        "        + _margin_term(adv_logits / temperature, is_own)\n",
        "",
        ("adversarial_losses::test_the_margin_of_mart_by_hand",),
    ),
    Control(
        "MART weighs by the adversarial prediction",
        "ours",
        _LOSSES + "adversarial.py",
        "jax.nn.softmax(clean_logits / temperature)",
        "jax.nn.softmax(adv_logits / temperature)",
        (_GRADIENTS.format("mart"),),
    ),
    Control(
        "AWP steps from the perturbed weights",
        "ours",
        _TRAIN + "step.py",
        "return _apply_gradients(state, gradients, updates), metrics",
        'state = state.replace(params=trained["params"])\n'
        "    return _apply_gradients(state, gradients, updates), metrics",
        (_AWP,),
    ),
    Control(
        "AWP goes down the loss",
        "ours",
        _TRAIN + "weight_perturbation.py",
        "return weight + gamma",
        "return weight - gamma",
        (_AWP,),
    ),
    Control(
        "AWP perturbs biases and scales",
        "ours",
        _TRAIN + "weight_perturbation.py",
        "if weight.ndim < 2:",
        "if weight.ndim < 1:",
        ("recipes::test_weights_are_perturbed_by_hand",),
    ),
    Control(
        "AWP's perturbation is as long, however small the weights",
        "ours",
        _TRAIN + "weight_perturbation.py",
        "gamma * optax.tree.norm(weight) * unit",
        "gamma * unit",
        (_AWP,),
    ),
    Control(
        "smoothed labels leave out the own class",
        "ours",
        _LOSSES + "rows.py",
        "optax.smooth_labels(one_hot, label_smoothing)",
        "jnp.where(one_hot > 0, (1 - label_smoothing) * one_hot,"
        " label_smoothing / (logits.shape[-1] - 1) + one_hot)",
        ("adversarial_losses::test_smoothed_labels[0.2-softmax]",),
    ),
    Control(
        "Center loss: centers flee the features",
        "ours",
        _LOSSES + "softmax.py",
        "return centers - center_rate * sums",
        "return centers + center_rate * sums",
        ("losses::test_updated_centers_by_hand",),
    ),
    Control(
        "Center loss: centers move by the plain mean, without the 1",
        "ours",
        _LOSSES + "softmax.py",
        "/ (1.0 + counts)[:, None]",
        "/ jnp.maximum(counts, 1.0)[:, None]",
        ("losses::test_updated_centers_by_hand",),
    ),
    Control(
        "elastic MMC has no prior on its centers",
        "ours",
        _LOSSES + "mahalanobis.py",
        " + 0.5 / elasticity * pull",
        "",
        ("center_training::test_elastic_steps_by_hand",),
    ),
    Control(
        "validation counts clean images as attacked ones",
        "ours",
        _TRAIN + "validate.py",
        "metrics.accuracy_sums(logits_fn(adv_images), labels, mask)",
        "metrics.accuracy_sums(logits_fn(images), labels, mask)",
        (_VALIDATION + "test_clean_and_attacked_images_are_counted_apart[jit-1]",),
    ),
    Control(
        "adversarial training keeps the best by clean accuracy",
        "ours",
        _TRAIN + "loop.py",
        'kind = "adversarial_accuracy" if self.config.attack else "accuracy"',
        'kind = "accuracy"',
        (_VALIDATION + "test_the_best_checkpoint_is_chosen_by_validation[adv=pgd-1]",),
    ),
    Control(
        "the test images choose the checkpoint",
        "ours",
        _TRAIN + "loop.py",
        "splits.validation,\n            model,",
        "splits.test,\n            model,",
        (_VALIDATION + "test_the_best_checkpoint_is_chosen_by_validation[adv=none-2]",),
    ),
    Control(
        "a run that goes on repeats an epoch's order",
        "ours",
        _TRAIN + "loop.py",
        "data.epoch_permutation(order_key, epoch, size)",
        "data.epoch_permutation(\n"
        "                order_key, epoch - start // run.steps_per_epoch, size)",
        ("train::test_interrupted_run_ends_with_the_same_bits",),
    ),
    Control(
        "a longer run passes for a shorter one",
        "ours",
        _TRAIN + "workdir.py",
        "    if step > wanted:\n",
        "    if step < 0:\n",
        ("train::test_work_directory_refuses_to_pass_a_longer_run_for_a_shorter",),
    ),
    Control(
        "other data of the same size pass for those of the run",
        "ours",
        "mmc_jax/data/arrays.py",
        "name for name in digests if digests[name] !=",
        "name for name in digests if digests[name] == name !=",
        ("train::test_work_directory_refuses_other_data",),
    ),
    Control(
        "in training mode each example's gradient has a scale of its own",
        "ours",
        "mmc_jax/attacks/passes.py",
        "if isinstance(problem.logits_fn, CoupledLogitsFn):",
        "if problem.logits_fn is CoupledLogitsFn:",
        (
            "recipes::test_an_attack_in_training_mode_follows_the_gradient_of_the_sum"
            "[0.1]",
        ),
    ),
)
