"""Robust accuracy against closed forms, and against attacks and models that lie."""

from __future__ import annotations

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import attacks, evaluate
from mmc_jax.attacks import costs
from mmc_jax.types import StochasticLogitsFn

NUM = 23
BATCH = 8
EPSILON = 0.1
SHAPE = (2, 2, 1)


def _logits(images):
    """Two classes, a hyperplane: class 1 where the weighted sum is positive."""
    score = ((images - 0.5) * WEIGHTS).sum(axis=(1, 2, 3))
    return jnp.stack([-score, score], axis=-1)


WEIGHTS = np.array([1.0, -2.0, 0.5, 1.5], np.float32).reshape(1, *SHAPE)


def _data(num=NUM):
    """Images away from the box, labelled by the hyperplane but for every seventh."""
    generator = np.random.default_rng(3)
    images = generator.uniform(0.2, 0.8, size=(num, *SHAPE)).astype(np.float32)
    labels = np.asarray(_logits(images)).argmax(axis=1)
    labels[::7] = 1 - labels[::7]
    return images, labels.astype(np.int32)


def _robust_by_formula(images, labels, epsilon=EPSILON):
    """In linf, a hyperplane's margin falls by epsilon times the weights' l1 norm."""
    margins = ((images - 0.5) * WEIGHTS).sum(axis=(1, 2, 3)) * (2 * labels - 1)
    return margins > epsilon * np.abs(WEIGHTS).sum()


def _evaluate(rows, *, data=None, logits_fn=_logits, key=None, **options):
    images, labels = _data() if data is None else data
    settings = dict(norm="linf", epsilon=EPSILON, batch_size=BATCH) | options
    key = jax.random.key(0) if key is None else key
    return evaluate.robust_accuracy(logits_fn, images, labels, rows, key, **settings)


@pytest.fixture
def enroll(monkeypatch):
    """Add an attack to the library for one test."""

    def add(attack):
        monkeypatch.setitem(attacks.ATTACKS, attack.__name__, attack)
        no_model = costs.PASSES["rotation"]
        monkeypatch.setitem(costs.PASSES, attack.__name__, no_model)

    return add


def jump(logits_fn, key, images, labels, *, targets=None, epsilon):
    """Move every pixel by epsilon, up or down as each example's key falls."""
    signs = jax.vmap(lambda key: jax.random.rademacher(key, SHAPE, jnp.float32))(key)
    return jnp.clip(images + epsilon * signs, 0, 1)


FGSM = {"fgsm": dict(name="fgsm", objective="margin")}


@pytest.mark.parametrize("mode", ["cascade", "individual"])
def test_linear_model_meets_the_closed_form(mode):
    images, labels = _data()
    record = _evaluate(FGSM, mode=mode)
    expected = _robust_by_formula(images, labels)
    clean = np.arange(NUM) % 7 != 0
    assert 0 < expected.sum() < clean.sum()
    np.testing.assert_array_equal(record.clean_correct, clean)
    np.testing.assert_array_equal(record.robust, expected)
    row = record.row("fgsm")
    assert row.num_attacked == (NUM if mode == "individual" else clean.sum())
    assert row.num_correct == expected.sum() == row.running.count
    assert row.largest_norm == pytest.approx(EPSILON, abs=1e-6)


def test_of_no_radius_every_image_that_is_right_is_robust():
    rows = {**FGSM, "pgd": dict(name="pgd", objective="margin", num_steps=2)}
    record = _evaluate(rows, epsilon=0.0)
    assert 0 < record.clean.count < NUM
    np.testing.assert_array_equal(record.robust, record.clean_correct)
    assert not record.findings


def test_every_image_counts_once_in_padded_batches(enroll):
    def shift(logits_fn, key, images, labels, *, targets=None, epsilon):
        return images + 0.05

    enroll(shift)
    rows = {"shift": dict(name="shift")}
    for num in (1, BATCH - 1, BATCH, BATCH + 1, NUM):
        images, labels = (column[:num] for column in _data())
        record = _evaluate(rows, mode="individual", data=(images, labels))
        row = record.row("shift")
        assert row.accuracy.total == record.worst_case.total == num
        expected = np.asarray(_logits(images + 0.05)).argmax(axis=1) == labels
        np.testing.assert_array_equal(row.correct, expected)


def test_cascade_is_the_union_of_individual_rows(enroll):
    enroll(jump)
    rows = {name: dict(name="jump") for name in ("a", "b", "c")}
    one_by_one = _evaluate(rows, mode="individual")
    cascade = _evaluate(rows, mode="cascade")
    union = one_by_one.clean_correct.copy()
    for row in one_by_one.rows:
        np.testing.assert_array_equal(row.attacked, np.ones(NUM, bool))
        np.testing.assert_array_equal(cascade.row(row.name).attacked, union)
        union &= row.correct
        assert cascade.row(row.name).running.count == union.sum()
    np.testing.assert_array_equal(one_by_one.robust, union)
    np.testing.assert_array_equal(cascade.robust, union)
    assert one_by_one.rows[0].num_correct > union.sum()


def test_results_depend_on_neither_batch_size_nor_order(enroll):
    enroll(jump)
    images, labels = _data()
    rows = {"jump": dict(name="jump")}
    first = _evaluate(rows, keep_images=True)
    assert 0 < first.row("jump").num_broken
    order = np.random.default_rng(0).permutation(NUM)[:17]
    second = _evaluate(
        rows,
        data=(images[order], labels[order]),
        example_ids=order,
        batch_size=5,
        keep_images=True,
    )
    np.testing.assert_array_equal(second.robust, first.robust[order])
    np.testing.assert_array_equal(second.images, first.images[order])


def test_keys_come_from_the_row_name_and_the_example_id(enroll):
    seen = []

    def spy(logits_fn, key, images, labels, *, targets=None, epsilon):
        if not isinstance(images, jax.core.Tracer):
            seen.append(np.asarray(jax.random.key_data(key)))
        return images

    enroll(spy)
    ids = np.arange(NUM) + 1000
    _evaluate({"my row": dict(name="spy")}, mode="individual", example_ids=ids)
    row_key = jax.random.fold_in(jax.random.key(0), np.uint32(zlib.crc32(b"my row")))
    expected = jax.vmap(jax.random.fold_in, (None, 0))(row_key, jnp.asarray(ids))
    found = np.concatenate(seen)[:NUM]
    np.testing.assert_array_equal(found, np.asarray(jax.random.key_data(expected)))


def test_lying_attacks_are_caught_and_do_not_count(enroll):
    def lie(logits_fn, key, images, labels, *, targets=None, epsilon):
        flip = 1 - 2 * images  # mirrors the hyperplane: breaks everything
        lies = [images, images + flip, images + jnp.nan, images + 2]
        kind = jnp.arange(len(images)) % 4
        return jnp.select([kind[:, None, None, None] == k for k in range(4)], lies)

    enroll(lie)
    images, labels = _data()
    record = _evaluate({"lie": dict(name="lie")}, mode="individual")
    np.testing.assert_array_equal(record.robust, record.clean_correct)
    row = record.row("lie")
    assert row.violations == {"nonfinite": 6, "outside_box": 5, "outside_ball": 11}
    (finding,) = record.findings
    assert (finding.name, finding.row) == ("box_or_ball_violation", "lie")
    assert finding.numbers == {**row.violations, "num_attacked": NUM}


def test_the_ball_has_a_float_slack_and_no_more(enroll):
    def edge(logits_fn, key, images, labels, *, targets=None, epsilon, beyond=0.0):
        return images + jnp.float32(epsilon + beyond)

    enroll(edge)
    images = np.zeros((2, *SHAPE), np.float32)
    data = (images, np.asarray(_logits(images)).argmax(axis=1))
    for beyond, num_outside in ((1e-7, 0), (1e-6, 2)):
        rows = {"edge": dict(name="edge", beyond=beyond)}
        row = _evaluate(rows, data=data).row("edge")
        assert row.violations["outside_ball"] == num_outside


def test_a_smallest_distance_beyond_the_ball_survives_without_blame(enroll):
    def mirror(logits_fn, key, images, labels, *, targets=None):
        return 1 - images

    enroll(mirror)
    record = _evaluate({"mirror": dict(name="mirror")})
    distances = np.abs(1 - 2 * _data()[0]).max(axis=(1, 2, 3))
    broken = record.clean_correct & (distances <= EPSILON)
    np.testing.assert_array_equal(record.robust, record.clean_correct & ~broken)
    assert not record.findings


def test_nan_logits_are_invalid_and_never_robust(enroll):
    def blind(images):
        is_dark = images.mean(axis=(1, 2, 3)) < 0.5
        return jnp.where(is_dark[:, None], jnp.nan, _logits(images))

    def darken(logits_fn, key, images, labels, *, targets=None, epsilon):
        return images - epsilon

    enroll(darken)
    images, labels = _data()
    means = images.mean(axis=(1, 2, 3))
    record = _evaluate({"darken": dict(name="darken")}, logits_fn=blind)
    np.testing.assert_array_equal(record.clean_invalid, means < 0.5)
    np.testing.assert_array_equal(
        record.clean_correct, (means >= 0.5) & (np.arange(NUM) % 7 != 0)
    )
    row = record.row("darken")
    darkened = record.clean_correct & (means < 0.5 + EPSILON)
    assert darkened.any()
    np.testing.assert_array_equal(row.invalid, darkened)
    assert not (record.robust & darkened).any()


def _pixel_logits(images):
    """The four pixels are the four logits."""
    return images.reshape(len(images), 4)


def test_targeted_rows_count_the_true_label_and_the_target_apart(enroll):
    def hit(logits_fn, key, images, labels, *, targets=None, epsilon, offset=0):
        goal = targets if offset == 0 else (labels + offset) % 4
        return jax.nn.one_hot(goal, 4).reshape(images.shape)

    enroll(hit)
    labels = np.arange(NUM) % 4
    images = np.eye(4, dtype=np.float32)[labels].reshape(NUM, *SHAPE)
    rows = {
        "target": dict(name="hit", targeted=True),
        "next": dict(name="hit", targeted=True, offset=1),
        "own": dict(name="hit", targeted=True, offset=4),
    }
    record = _evaluate(
        rows,
        data=(images, labels),
        logits_fn=_pixel_logits,
        epsilon=1.0,
        mode="individual",
    )
    found = {
        row.name: (row.accuracy.count, row.target_reached.count) for row in record.rows
    }
    assert found["target"] == (0, NUM)
    assert found["own"] == (NUM, 0)
    assert found["next"][0] == 0
    assert 0 < found["next"][1] < NUM


def test_noise_and_rotation_stay_out_of_the_worst_case(monkeypatch):
    def gaussian_noise(logits_fn, key, images, labels, *, targets=None, sigma):
        return 1 - images

    monkeypatch.setitem(attacks.ATTACKS, "gaussian_noise", gaussian_noise)
    rows = {"noise": dict(name="gaussian_noise", sigma=9.0), **FGSM}
    record = _evaluate(rows)
    row = record.row("noise")
    assert (row.num_attacked, row.in_worst_case) == (NUM, False)
    assert row.num_correct == (NUM + 6) // 7  # mirrored: right where the label is wrong
    assert not any(row.violations.values())
    np.testing.assert_array_equal(record.robust, _robust_by_formula(*_data()))


def test_the_verdict_runs_at_the_highest_matmul_precision(enroll):
    enroll(jump)
    seen = []

    def spy(images):
        seen.append(jax.config.jax_default_matmul_precision)
        return _logits(images)

    _evaluate({"jump": dict(name="jump")}, logits_fn=spy)
    assert "highest" in seen


def test_survivors_are_compacted_without_tracing_again(enroll):
    traces = []

    def counted(images):
        if isinstance(images, jax.core.Tracer):
            traces.append(images.shape)
        return _logits(images)

    @jax.jit
    def step(logits_fn, images, epsilon):
        return images - 0 * logits_fn(images).sum() - epsilon * (images > 0.45)

    def ask(logits_fn, key, images, labels, *, targets=None, epsilon):
        return step(logits_fn, images, epsilon)

    enroll(ask)
    rows = {"a": dict(name="ask"), "b": dict(name="ask"), "c": dict(name="ask")}
    record = _evaluate(rows, logits_fn=counted)
    sizes = [row.num_attacked for row in record.rows]
    assert sizes[0] > BATCH and sizes[0] > sizes[1] > 0
    # Its shape and digest, attack, verdict: whatever survives, and in every row.
    assert len(traces) == 4


def test_the_record_is_plain_data_and_adds_up():
    images, labels = _data()
    record = _evaluate(FGSM)
    plain = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    robust = _robust_by_formula(images, labels)
    low, high = plain["worst_case"]["interval_95"]
    assert plain["worst_case"]["count"] == robust.sum()
    assert low < plain["worst_case"]["value"] < high
    bits = plain["per_example"]["worst_case"]
    assert bits == "".join(str(int(flag)) for flag in robust)
    row = plain["rows"]["fgsm"]
    assert row["num_attacked"] - row["num_broken"] == row["accuracy"]["count"]
    assert row["hyperparameters"]["epsilon"] == EPSILON
    assert row["hyperparameters"]["num_eot_samples"] == 1  # a default, written out
    assert plain["key"]["data"] == [0, 0]
    assert plain["environment"]["jax"] == jax.__version__
    assert "per_example" not in record.to_dict(per_example=False)


def test_kept_images_have_the_worst_case_accuracy():
    images, labels = _data()
    record = _evaluate(FGSM, keep_images=True)
    predictions = np.asarray(_logits(record.images)).argmax(axis=1)
    np.testing.assert_array_equal(predictions == labels, record.robust)
    assert np.abs(record.images - images).max() == pytest.approx(EPSILON, abs=1e-6)


def test_kept_images_are_the_first_that_broke_each_example(enroll):
    enroll(jump)
    rows = {name: dict(name="jump") for name in ("a", "b")}
    options = dict(mode="individual", keep_images=True, epsilon=0.2)
    both = _evaluate(rows, **options)
    alone = {name: _evaluate({name: rows[name]}, **options) for name in rows}
    by_a = both.clean_correct & ~alone["a"].robust
    by_b = alone["a"].robust & ~alone["b"].robust
    assert by_a.any() and by_b.any() and not both.clean_correct.all()
    expected = np.where(by_a[:, None, None, None], alone["a"].images, _data()[0])
    expected[by_b] = alone["b"].images[by_b]
    np.testing.assert_array_equal(both.images, expected)


def test_an_interruption_hands_over_what_was_done(enroll):
    calls = []

    def tired(logits_fn, key, images, labels, *, targets=None, epsilon):
        if not isinstance(images, jax.core.Tracer):
            calls.append(len(images))
            if len(calls) == 2:
                raise KeyboardInterrupt
        return images

    enroll(tired)
    with pytest.raises(evaluate.EvaluationInterrupted) as caught:
        _evaluate({**FGSM, "tired": dict(name="tired")}, mode="individual")
    record = caught.value.record
    assert not record.complete
    assert [row.complete for row in record.rows] == [True, False]
    assert record.row("tired").num_attacked == BATCH
    np.testing.assert_array_equal(record.robust, _robust_by_formula(*_data()))


def test_progress_ends_at_the_last_image(enroll):
    enroll(jump)
    rows = {"a": dict(name="jump"), "b": dict(name="jump")}
    states = []
    record = _evaluate(rows, progress=states.append)
    assert states[-1].done == states[-1].total
    assert states[-1].done == sum(row.num_attacked for row in record.rows)
    assert states[-1].surviving == record.worst_case.count
    totals = [state.total for state in states]
    assert totals == sorted(totals, reverse=True)


def test_bad_rows_are_refused_before_the_first_attack(enroll):
    calls = []

    def spy(logits_fn, key, images, labels, *, targets=None, epsilon):
        if not isinstance(images, jax.core.Tracer):
            calls.append(len(images))
        return images

    def shrink(logits_fn, key, images, labels, *, targets=None, epsilon):
        return images[:, :1]

    enroll(spy)
    enroll(shrink)
    good = {"good": dict(name="spy")}
    for row, message in (
        (dict(name="shrink"), r"row 'bad': shrink returns float32 \[8, 1, 2, 1\]"),
        (dict(name="fgsm", objective="pairwise_margin"), r"row 'bad'.*targets"),
        (dict(name="fgsm", objective="dlr"), r"row 'bad': dlr needs at least 3"),
    ):
        with pytest.raises(ValueError, match=message):
            _evaluate({**good, "bad": row})
    assert calls == []


def test_rows_that_would_share_their_randomness_are_refused(enroll):
    enroll(jump)
    names = ("plumless", "buckeroo")  # a known collision of crc32
    assert zlib.crc32(names[0].encode()) == zlib.crc32(names[1].encode())
    with pytest.raises(ValueError, match="'plumless' and 'buckeroo'.*rename one"):
        _evaluate({name: dict(name="jump") for name in names})


def test_probabilities_are_noticed(enroll):
    enroll(jump)
    rows = {"jump": dict(name="jump")}
    record = _evaluate(rows, logits_fn=lambda images: jax.nn.softmax(_logits(images)))
    (finding,) = record.findings
    assert (finding.name, finding.row) == ("probabilities_as_logits", None)
    assert 0 <= finding.numbers["smallest"] < finding.numbers["largest"] <= 1
    assert not _evaluate(rows).findings


def test_normalised_images_are_refused():
    images, labels = _data()
    with pytest.raises(ValueError, match="outside the box.*look normalised"):
        _evaluate(FGSM, data=((images - 0.5) / 0.25, labels))


def test_a_randomised_model_is_judged_with_keys_of_its_own(enroll):
    def identity(logits_fn, key, images, labels, *, targets=None, epsilon):
        return images

    enroll(identity)

    def fn(images, keys):
        noise = jax.vmap(jax.random.normal)(keys)
        return _logits(images) + noise[:, None] * jnp.array([[0.5, -0.5]])

    rows = {name: dict(name="identity") for name in ("a", "b")}
    results = [
        _evaluate(
            rows,
            logits_fn=StochasticLogitsFn(fn),
            batch_size=batch_size,
            mode="individual",
        )
        for batch_size in (5, NUM)
    ]
    first, second = results[0].rows
    assert (first.correct != second.correct).any()  # another draw in every row
    for ours, theirs in zip(results[0].rows, results[1].rows, strict=True):
        np.testing.assert_array_equal(ours.correct, theirs.correct)


def test_cost_counts_the_passes_of_every_batch(enroll):
    enroll(jump)
    rows = {
        "pgd": dict(name="pgd", num_steps=5, num_restarts=3, objective="margin"),
        "noise": dict(name="gaussian_noise"),
    }
    images, labels = _data()
    cost = evaluate.estimate_cost(
        _logits, images, labels, rows, norm="linf", epsilon=0.1, batch_size=BATCH
    )
    # Five gradients a walk, and where it ends; clean, verdicts, that on 8 bits.
    assert cost.backward_passes == 3 * (5 * 3)
    assert cost.forward_passes == 3 * (6 * 3 + 1 + 2 + 1)
    assert cost.seconds > 0 and cost.compile_seconds > 0
    assert "66 forward and 45 backward passes" in str(cost)
