"""Bugs to plant for `negative_controls.py`: its vocabulary, and those seen in the wild.

Here is what was found in libraries that people use. Bugs of our own riskiest lines
stand in `_negative_controls_attacks.py` and its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

ATTACKS = "mmc_jax/attacks/"


class Control(NamedTuple):
    """A bug, and the tests that must notice it."""

    name: str
    seen: str
    """Where it was seen; `ours` if nowhere yet."""
    path: str
    """Of the file that it is planted in, from the repository's root."""
    old: str
    """Occurs in that file exactly once."""
    new: str
    tests: tuple[str, ...]
    """What pytest is given; a short path stands for `tests/..._test.py`."""

    @property
    def selection(self) -> list[str]:
        """Return the tests as pytest wants them."""
        pairs = [test.partition("::")[::2] for test in self.tests]
        return [f"tests/{file}_test.py::{test}" for file, test in pairs]


PUBLISHED = (
    Control(
        "the projection is dropped",
        "Foolbox, L2FMN: its factor is norms / norms",
        ATTACKS + "projections.py",
        "jnp.where(too_long, radius / jnp.where(too_long, length, 1.0), 1.0)\n\n\ndef",
        "jnp.where(too_long, length / jnp.where(too_long, length, 1.0), 1.0)\n\n\ndef",
        (
            "projections::test_stays_in_the_ball_and_the_box[l2]",
            "attacks::test_returns_changed_images_in_the_ball_and_the_box[pgd_l2_last]",
        ),
    ),
    Control(
        "epsilon is ignored in l2",
        "CleverHans-JAX, fast_gradient_method",
        ATTACKS + "descent.py",
        "epsilon = jnp.minimum(epsilon, most)",
        "epsilon = jnp.where(plan.norm == 'l2', 1.0, jnp.minimum(epsilon, most))",
        (
            "gradient_sign::test_fgsm_is_exact_on_a_matrix[l2-2]",
            "attacks::test_of_no_strength_is_the_identity[pgd_l2_last]",
        ),
    ),
    Control(
        "SPSA estimates at 2x",
        "CleverHans-torch, spsa (#1249)",
        ATTACKS + "estimates.py",
        "samples = images[:, None, None] + jnp.stack",
        "samples = 2 * images[:, None, None] + jnp.stack",
        ("parity_search::test_spsa",),
    ),
    Control(
        "the label's logit is masked by 0, not by -inf",
        "torchattacks, CW (#184)",
        ATTACKS + "objectives.py",
        "jnp.where(_is_class(logits, classes), -jnp.inf, logits)",
        "jnp.where(_is_class(logits, classes), 0.0, logits)",
        (
            "objectives::test_a_shift_moves_values_by_a_constant_and_leaves_gradients",
            "attacks::test_a_constant_added_to_the_logits_changes_nothing"
            "[carlini_wagner--64.0]",
        ),
    ),
    Control(
        "a failure returns zeros",
        "Foolbox, L2CarliniWagner and EAD",
        ATTACKS + "const_search.py",
        "nothing = _Closest(images, jnp.full(batch, jnp.inf))",
        "nothing = _Closest(jnp.zeros_like(images), jnp.full(batch, jnp.inf))",
        ("const_search::test_a_failure_returns_the_clean_image",),
    ),
    Control(
        "the target is not used",
        "torchattacks, SPSA",
        ATTACKS + "estimates.py",
        "targets=jax.tree.map(repeat, problem.targets),",
        "targets=None,",
        ("attacks::test_targets_are_approached[spsa]",),
    ),
    Control(
        "SPSA's directions are shared by the batch",
        "torchattacks, SPSA",
        ATTACKS + "estimates.py",
        "    steps = delta * directions\n",
        "    directions = jnp.broadcast_to(directions[:1], directions.shape)\n"
        "    steps = delta * directions\n",
        (
            "spsa::test_directions_are_fair_signs_of_every_example_and_pixel_and_pair",
            "attacks::test_order_does_not_matter[spsa]",
        ),
    ),
    Control(
        "Square's windows are shared by the batch",
        "auto-attack, Square",
        ATTACKS + "random_search.py",
        "corners = (words[:, :4] % jnp.tile(places, 2)[None, :]).astype(jnp.int32)\n",
        "corners = (words[:1, :4] % jnp.tile(places, 2)[None, :]).astype(jnp.int32)\n"
        "        corners = jnp.broadcast_to(corners, (len(words), 4))\n",
        (
            "parity_search::test_square",
            "attacks::test_order_does_not_matter[square]",
        ),
    ),
    Control(
        "the batch's summed loss estimates every gradient",
        "Foolbox, GradientEstimator (ES)",
        ATTACKS + "estimates.py",
        "slopes = (ahead - behind) / (2 * delta)",
        "slopes = jnp.sum(ahead - behind, axis=0) / (2 * delta)\n"
        "    slopes = jnp.broadcast_to(slopes, (batch, num_pairs))",
        (
            "spsa::test_neither_the_chunks_nor_the_batch_change_the_estimate[7]",
            "attacks::test_order_does_not_matter[spsa]",
        ),
    ),
    Control(
        "8 bits by truncation",
        "torchattacks, to_type",
        "mmc_jax/evaluate/rounding.py",
        "index = np.rint((given - low)",
        "index = np.floor((given - low)",
        (
            "accounting::test_rounding_in_linf_is_exact_at_the_edge",
            "accounting::test_other_boxes_have_256_levels_too",
        ),
    ),
    Control(
        "integer labels are read as one-hot",
        "CleverHans-JAX, fast_gradient_method",
        ATTACKS + "objectives.py",
        "return jnp.sum(jnp.where(_is_class(values, classes), values, 0), axis=-1)",
        "return jnp.sum(classes[:, None] * values, axis=-1)",
        (
            "objectives::test_values_by_hand",
            "gradient_sign::test_fgsm_is_exact_on_a_matrix",
        ),
    ),
    Control(
        "epsilon is divided by the data's deviation",
        "users of Foolbox, torchattacks, robustness",
        ATTACKS + "descent.py",
        "epsilon = jnp.minimum(epsilon, most)",
        "epsilon = jnp.minimum(epsilon / 0.25, most)",
        (
            "gradient_sign::test_fgsm_is_exact_on_a_matrix",
            "attacks::test_returns_changed_images_in_the_ball_and_the_box[pgd]",
        ),
    ),
    Control(
        "epsilon is multiplied by the data's deviation",
        "users of Foolbox, torchattacks, robustness",
        "mmc_jax/evaluate/rows.py",
        'settings = {"norm": norm, "epsilon": epsilon, "bounds": bounds}',
        'settings = {"norm": norm, "epsilon": 0.25 * epsilon, "bounds": bounds}',
        ("evaluate::test_linear_model_meets_the_closed_form",),
    ),
    Control(
        "batch normalisation in train mode",
        "users of Foolbox, CleverHans, ART, auto-attack",
        "mmc_jax/models/__init__.py",
        "output = self.model.apply(variables, images, train=False)",
        "output, _ = self.model.apply(\n"
        '            variables, images, train=True, mutable=["batch_stats"]\n'
        "        )",
        ("models::test_logits_fn_is_in_inference_mode",),
    ),
    Control(
        "AutoAttack's APGD takes 10 steps",
        "torchattacks, AutoAttack",
        ATTACKS + "apgd.py",
        "num_steps: int | Array = 100,\n"
        "    num_restarts: int | Array = 1,\n"
        '    norm: str = "linf",\n'
        '    objective: str | Objective = "cross_entropy",',
        "num_steps: int | Array = 10,\n"
        "    num_restarts: int | Array = 1,\n"
        '    norm: str = "linf",\n'
        '    objective: str | Objective = "cross_entropy",',
        ("auto_attack::test_the_standard_version_spends_the_published_budgets",),
    ),
    Control(
        "AutoAttack's FAB takes 10 steps",
        "torchattacks, AutoAttack",
        ATTACKS + "fab.py",
        "num_steps: int | Array = 100,\n"
        "    num_restarts: int | Array = 1,\n"
        "    num_targets: int = 9,",
        "num_steps: int | Array = 10,\n"
        "    num_restarts: int | Array = 1,\n"
        "    num_targets: int = 9,",
        ("auto_attack::test_the_standard_version_spends_the_published_budgets",),
    ),
    Control(
        "AutoAttack's Square rescales its schedule",
        "torchattacks, AutoAttack",
        ATTACKS + "square.py",
        "rescale_schedule: bool = False,",
        "rescale_schedule: bool = True,",
        ("auto_attack::test_the_standard_version_spends_the_published_budgets",),
    ),
)
