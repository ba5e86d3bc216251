"""Bugs to plant in the evaluation, for `negative_controls`."""

from __future__ import annotations

from _negative_controls import Control

_EVALUATE = "mmc_jax/evaluate/"

IN_EVALUATION = (
    Control(
        "the last row decides: what an earlier one broke is robust again",
        "ours",
        _EVALUATE + "run.py",
        "self.robust[broken] = False",
        "self.robust[outcome.index] = outcome.correct",
        ("evaluate::test_cascade_is_the_union_of_individual_rows",),
    ),
    Control(
        "noise counts in the worst case",
        "ours",
        _EVALUATE + "batch.py",
        "broken = is_real & robust[index] & ~correct & row.in_worst_case",
        "broken = is_real & robust[index] & ~correct",
        ("evaluate::test_noise_and_rotation_stay_out_of_the_worst_case",),
    ),
    Control(
        "images outside the ball count",
        "ours",
        _EVALUATE + "batch.py",
        "holds = found.hold\n",
        "holds = found.finite & found.in_box\n",
        ("evaluate::test_lying_attacks_are_caught_and_do_not_count",),
    ),
    Control(
        "logits with NaN count as right",
        "ours",
        _EVALUATE + "batch.py",
        "correct = (predictions == labels) & ~invalid",
        "correct = (predictions == labels) | invalid",
        ("evaluate::test_nan_logits_are_invalid_and_never_robust",),
    ),
    Control(
        "an image's draws come from its place, not from its id",
        "auto-attack: other batches, other results",
        _EVALUATE + "batch.py",
        "fold_ids(jax.random.fold_in(setting.key, row.seed), examples.ids[index])",
        "fold_ids(jax.random.fold_in(setting.key, row.seed), np.uint32(index))",
        ("evaluate::test_keys_come_from_the_row_name_and_the_example_id",),
    ),
    Control(
        "a cascade's rows go on attacking what is broken",
        "ours",
        _EVALUATE + "run.py",
        "return np.flatnonzero((self.robust | everything) & ~ledger.attacked)",
        "return np.flatnonzero(~ledger.attacked)",
        ("evaluate::test_cascade_is_the_union_of_individual_rows",),
    ),
    Control(
        "Wilson's interval stays centered on the share",
        "ours",
        "mmc_jax/metrics.py",
        "middle = share + shrink / 2",
        "middle = share * (1 + shrink)",
        ("metrics::test_wilson_interval_is_scipys",),
    ),
    Control(
        "the journal keeps a line that was cut short",
        "ours",
        _EVALUATE + "journal.py",
        "yield from self._records()\n        self._file.truncate(self._end)",
        "yield from self._records()",
        ("journal::test_what_was_cut_short_is_gone_for_good",),
    ),
    Control(
        "the journal of another evaluation is taken over",
        "ours",
        _EVALUATE + "journal.py",
        "elif before != identity:",
        "elif before.keys() != identity.keys():",
        ("journal::test_another_evaluation_is_refused",),
    ),
    Control(
        "a resumed batch forgets its images",
        "auto-attack's state: no x_adv",
        _EVALUATE + "outcome.py",
        "return values.reshape(-1, *image_shape).astype(np.float32)",
        "return 0 * values.reshape(-1, *image_shape).astype(np.float32)",
        ("journal::test_a_journal_changes_nothing_and_is_done_once",),
    ),
    Control(
        "the verifier's ball is a hundredth too large",
        "ours",
        _EVALUATE + "verify.py",
        "in_ball = norm <= saved.epsilon * (1 + 1e-6) + 1e-7",
        "in_ball = norm <= saved.epsilon * (1 + 1e-2) + 1e-7",
        (
            "accounting::test_the_verifier_finds_images_that_do_not_count",
            "accounting::test_the_verifiers_ball_has_a_float_slack_and_no_more",
        ),
    ),
    Control(
        "the verifier calls an image robust that is wrong as it is",
        "ours",
        _EVALUATE + "verify.py",
        "robust=clean_correct & correct,",
        "robust=correct,",
        (
            "accounting::test_saved_images_hold_what_the_record_says",
            "accounting::test_what_is_wrong_clean_is_not_robust_to_the_verifier",
        ),
    ),
    Control(
        "a failure has distance 0",
        "the reference, Pang et al.",
        _EVALUATE + "minimum_norm.py",
        "lengths = np.where(broken, checked.norms, np.inf)",
        "lengths = np.where(broken, checked.norms, 0.0)",
        (
            "minimum_norm::"
            "test_distances_are_those_of_the_closed_form_and_failures_have_none",
        ),
    ),
    Control(
        "the median distance counts what is wrong as it is",
        "the reference, Pang et al.",
        _EVALUATE + "minimum_norm.py",
        "found = self.distances[self.success]\n        return float(np.median(found))",
        "found = self.distances[np.isfinite(self.distances)]\n"
        "        return float(np.median(found))",
        (
            "minimum_norm::"
            "test_distances_are_those_of_the_closed_form_and_failures_have_none",
        ),
    ),
    Control(
        "FAB is done with its first success where the smallest distance is asked for",
        "ours",
        _EVALUATE + "minimum_norm.py",
        "row = crafting.bind_attack(attack, norm=norm, epsilon=None, bounds=bounds)",
        "row = crafting.bind_attack(attack, norm=norm, epsilon=1e9, bounds=bounds)",
        ("minimum_norm::test_attacks_of_the_library_come_within_two_percent[fab]",),
    ),
    Control(
        "a jitted model's weights are not in its digest",
        "ours",
        _EVALUATE + "digests.py",
        "*_constants(program)",
        "*program.consts",
        ("accounting::test_a_model_is_digested_with_its_weights_and_its_program",),
    ),
)
