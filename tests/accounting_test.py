"""What stands behind the numbers: digests, 8 bits, the verifier, the leaderboard."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import attacks, diagnostics, evaluate
from mmc_jax.attacks import costs
from mmc_jax.evaluate import robustbench, verify
from mmc_jax.evaluate.digests import digest_model
from mmc_jax.types import StochasticLogitsFn

NUM = 20
SHAPE = (3, 3, 2)
SIZE = 18
WEIGHTS = np.random.default_rng(1).normal(size=(SIZE, 4)).astype(np.float32)
NORMS = {
    "linf": lambda delta: np.abs(delta).max(axis=1),
    "l2": lambda delta: np.sqrt((delta**2).sum(axis=1)),
    "l1": lambda delta: np.abs(delta).sum(axis=1),
}


def _logits(images):
    return images.reshape(len(images), SIZE) @ WEIGHTS


def _data(num=NUM):
    """Images on levels, as every real data set's are."""
    levels = np.random.default_rng(2).integers(0, 256, size=(num, *SHAPE))
    images = levels.astype(np.float32) / np.float32(255)
    labels = np.asarray(_logits(images)).argmax(axis=1)
    labels[::9] = (labels[::9] + 1) % 4
    return images, labels


def _evaluate(rows=None, *, norm="linf", epsilon=0.1, **options):
    rows = rows or {"fgsm": dict(name="fgsm", objective="margin")}
    key = options.pop("key", jax.random.key(0))
    settings = dict(norm=norm, epsilon=epsilon, batch_size=6, keep_images=True)
    data = options.pop("data", None) or _data()
    return evaluate.robust_accuracy(_logits, *data, rows, key, **settings | options)


def _sha256(images):
    each = [hashlib.sha256(np.ascontiguousarray(image)).digest() for image in images]
    return hashlib.sha256(b"".join(each)).hexdigest()


def _in_ball(norm, epsilon, *, off_levels=False):
    """Return clean images and others on the ball's surface and in the box."""
    generator = np.random.default_rng(7)
    images = generator.integers(30, 220, size=(200, *SHAPE)) / 255
    if off_levels:
        images += generator.uniform(-0.4, 0.4, size=images.shape) / 255
    images = images.astype(np.float32)
    delta = generator.normal(size=(200, SIZE))
    delta *= epsilon / NORMS[norm](delta)[:, None]
    adv_images = np.clip(images + delta.reshape(images.shape), 0, 1)
    return adv_images.astype(np.float32), images


@pytest.mark.parametrize("off_levels", [False, True])
@pytest.mark.parametrize(
    ("norm", "epsilon"),
    [("linf", 8 / 255), ("linf", 0.0101), ("linf", 0.001), ("l2", 0.05), ("l1", 0.2)],
)
def test_rounded_images_stay_inside_and_near(norm, epsilon, off_levels):
    adv_images, images = _in_ball(norm, epsilon, off_levels=off_levels)
    rounded = evaluate.round_to_8_bits(
        adv_images, images, norm=norm, epsilon=epsilon, bounds=(0.0, 1.0)
    )
    delta = rounded.astype(np.float64) - images
    assert (NORMS[norm](delta.reshape(200, SIZE)) <= epsilon * (1 + 1e-6) + 1e-7).all()
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    on_level = np.isin(rounded, levels)
    assert (on_level | (rounded == images)).all()
    assert off_levels or on_level.all()
    moved = np.abs(rounded - adv_images)
    assert off_levels or moved.max() <= 1 / 255 + 1e-6
    if norm != "linf":
        # As few pixels as needed step back: with one fewer, the image is outside.
        stepped = moved > 0.5 / 255 + 1e-6
        assert stepped.any() and stepped.mean() < 0.3
    elif epsilon == 8 / 255:
        inside = np.abs(adv_images - images) < epsilon - 0.5 / 255
        assert moved[inside].max() <= 0.5 / 255 + 1e-6


def test_rounding_in_linf_is_exact_at_the_edge():
    images = np.full((1, 1, 2, 2), 100, np.float32) / np.float32(255)
    adv_images = images + np.float32([[[[3.6, -3.6], [2.4, -0.2]]]]) / 255
    cases = ((4 / 255, [104, 96, 102, 100]), (0.0145, [103, 97, 102, 100]))
    for epsilon, levels in cases:
        rounded = evaluate.round_to_8_bits(
            adv_images, images, norm="linf", epsilon=epsilon, bounds=(0.0, 1.0)
        )
        np.testing.assert_array_equal((rounded * 255).ravel().round(), levels)


def test_other_boxes_have_256_levels_too():
    images = np.full((1, 1, 1, 3), 0.0, np.float32)
    adv_images = np.float32([0.013, -0.003, 0.9]).reshape(1, 1, 1, 3)
    rounded = evaluate.round_to_8_bits(
        adv_images, images, norm="linf", epsilon=1.0, bounds=(-1.0, 1.0)
    )
    expected = [-1 + 2 * k / 255 for k in (129, 127, 242)]
    np.testing.assert_allclose(rounded.ravel(), expected, atol=1e-6)


def test_the_record_judges_the_rounded_images():
    # So small a ball that rounding undoes some attacks.
    images, labels = _data(500)
    record = _evaluate(epsilon=0.006, data=(images, labels), batch_size=100)
    rounded = evaluate.round_to_8_bits(
        record.images, images, norm="linf", epsilon=0.006, bounds=(0.0, 1.0)
    )
    correct = np.asarray(_logits(rounded)).argmax(axis=1) == labels
    np.testing.assert_array_equal(record.robust_8_bits, correct & record.clean_correct)
    assert record.worst_case.count < record.worst_case_8_bits.count < record.clean.count
    plain = record.to_dict()
    assert plain["worst_case_8_bits"]["count"] == record.robust_8_bits.sum()
    assert plain["per_example"]["worst_case_8_bits"].count("1") == correct.sum()


def test_a_record_of_numbers_of_numpy_is_plain():
    row = dict(name="pgd", step_size=np.float32(0.05), num_steps=np.int64(2))
    plain = _evaluate({"pgd": row}).to_dict()
    found = json.loads(json.dumps(plain))["rows"]["pgd"]["hyperparameters"]
    assert found["step_size"] == np.float32(0.05) and found["num_steps"] == 2


def test_digests_are_of_the_images_kept_or_not():
    images, labels = _data()
    record = _evaluate()
    assert record.sha256["adv_images"] == _sha256(record.images)
    assert record.sha256["images"] == _sha256(images) != record.sha256["adv_images"]
    expected = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    assert record.sha256["labels"] == expected
    assert _evaluate(keep_images=False).sha256 == record.sha256


def test_a_model_is_digested_with_its_weights_and_its_program():
    def linear(weights, images):
        return images.reshape(len(images), SIZE) @ weights

    def scaled(weights, images):
        return 2 * linear(weights, images)

    def make(fn, weights):
        return jax.tree_util.Partial(fn, jnp.asarray(weights))

    baked = [
        jax.tree_util.Partial(lambda images, w=w: linear(w, images))
        for w in (WEIGHTS, WEIGHTS.copy(), WEIGHTS + 1e-6)
    ]
    jitted = [
        jax.tree_util.Partial(jax.jit(lambda images, w=w: linear(w, images)))
        for w in (WEIGHTS * 3, WEIGHTS * 3 + 1e-6)
    ]
    through = jax.tree_util.Partial(lambda images: jitted[0](images) + 1)
    other = jax.tree_util.Partial(lambda images: jitted[1](images) + 1)
    chosen = jax.tree_util.Partial(
        lambda images: jax.lax.cond(images.sum() > 0, jitted[0], jitted[1], images)
    )
    noisy = StochasticLogitsFn(
        lambda images, keys: linear(WEIGHTS, images) + jax.random.normal(keys[0])
    )
    models = [
        make(linear, WEIGHTS),
        make(linear, WEIGHTS + 1e-6),
        make(scaled, WEIGHTS),
        baked[0],
        baked[2],
        *jitted,
        through,
        other,
        chosen,
        noisy,
    ]
    found = [digest_model(model, SHAPE) for model in models]
    assert len(set(found)) == len(models)
    assert digest_model(make(linear, WEIGHTS.copy()), SHAPE) == found[0]
    assert digest_model(baked[1], SHAPE) == found[3]


def test_the_record_states_passes_with_and_without_gradient():
    rows = {
        "pgd": dict(name="pgd", num_steps=3, num_restarts=2),
        "noise": dict(name="gaussian_noise"),
    }
    plain = _evaluate(rows).to_dict()["rows"]
    assert plain["pgd"]["passes_per_survivor"] == {"forward": 8, "backward": 6}
    assert plain["noise"]["passes_per_survivor"] == {"forward": 0, "backward": 0}


@pytest.mark.needs_eight_devices
def test_devices_share_a_batch_and_change_nothing():
    row = dict(name="pgd", objective="margin", num_steps=3, targeted=True)
    one, eight = (
        _evaluate({"pgd": row}, num_devices=number, batch_size=12) for number in (1, 8)
    )
    assert (one.num_devices, one.batch_size) == (1, 12)
    assert (eight.num_devices, eight.batch_size) == (8, 16)  # a multiple of eight
    assert 0 < one.worst_case.count < one.clean.count
    np.testing.assert_array_equal(one.images, eight.images)
    np.testing.assert_array_equal(one.robust, eight.robust)
    assert one.sha256 == eight.sha256


@pytest.mark.needs_eight_devices
def test_every_device_is_given_its_share(monkeypatch):
    seen = []

    def spy(logits_fn, key, images, labels, *, targets=None, epsilon):
        seen.append(images.shape)
        jax.debug.callback(lambda _: None, images)
        return images

    monkeypatch.setitem(attacks.ATTACKS, "spy", spy)
    monkeypatch.setitem(costs.PASSES, "spy", costs.PASSES["fgsm"])
    _evaluate({"spy": dict(name="spy")}, num_devices=4, batch_size=8)
    assert set(seen) == {(2, *SHAPE)}


def test_more_devices_than_there_are_are_refused():
    for number in (0, 9, 1.5, True):
        with pytest.raises(ValueError, match="num_devices must be 1 to"):
            _evaluate(num_devices=number)


@pytest.fixture
def saved(tmp_path):
    """Return a record, and its images as they are read back."""
    record = _evaluate()
    path = tmp_path / "some" / "adv.npz"
    evaluate.save_images(record, _data()[1], path)
    return record, evaluate.read_images(path)


def test_saved_images_hold_what_the_record_says(saved):
    record, content = saved
    images, labels = _data()
    np.testing.assert_array_equal(content.adv_images, record.images)
    found = evaluate.verify_images(
        _logits, content, images, labels, record=record.to_dict()
    )
    assert found.holds and not found.disagreements
    np.testing.assert_array_equal(found.robust, record.robust)
    np.testing.assert_array_equal(found.clean_correct, record.clean_correct)
    assert np.nanmax(found.norms) == record.row("fgsm").largest_norm
    assert found.sha256 == record.sha256["adv_images"]
    assert f"{record.worst_case.count} of {NUM}" in str(found)


@pytest.mark.parametrize("norm", NORMS)
def test_the_verifier_finds_images_that_do_not_count(norm, saved):
    record, content = saved
    images, labels = _data()
    adv_images = images.copy()
    adv_images[0] += np.float32(0.5)
    adv_images[1] = np.nan
    adv_images[2, 0, 0, 0] = 1.0 + 1e-4
    content = dataclasses.replace(content, adv_images=adv_images, norm=norm)
    found = evaluate.verify_images(_logits, content, images, labels)
    norms = NORMS[norm]((adv_images.astype(np.float64) - images).reshape(NUM, -1))
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    assert found.num_nonfinite == 1
    outside = (adv_images.reshape(NUM, -1) > 1).any(axis=1)
    assert found.num_outside_box == outside.sum() >= 2
    far = norms > 0.1
    assert found.num_outside_ball == far.sum() >= 1
    assert not found.holds
    # What does not count is judged as the clean image.
    np.testing.assert_array_equal(found.robust, found.clean_correct)


def test_the_verifiers_ball_has_a_float_slack_and_no_more(saved):
    _, content = saved
    images = np.zeros_like(content.adv_images)
    for beyond, num_outside in ((1e-7, 0), (1e-6, NUM)):
        content = dataclasses.replace(
            content, adv_images=images + np.float32(0.1 + beyond)
        )
        found = evaluate.verify_images(_logits, content, images, content.labels)
        assert found.num_outside_ball == num_outside


def test_what_is_wrong_clean_is_not_robust_to_the_verifier(saved):
    _, content = saved
    images, _ = _data()
    labels = np.asarray(_logits(images)).argmax(axis=1)
    other = np.flatnonzero(labels != labels[0])[0]
    adv_images = images.copy()
    # The first image is not given its label; what the attack returned for it is.
    labels[0], adv_images[0] = labels[other], images[other]
    content = dataclasses.replace(
        content, adv_images=adv_images, labels=labels, epsilon=1.0
    )
    found = evaluate.verify_images(_logits, content, images, labels)
    assert found.num_outside_ball == 0 and found.margins[0] > 0
    assert not found.clean_correct[0] and not found.robust[0]


def test_the_verifier_sees_where_the_record_differs(saved):
    record, content = saved
    images, labels = _data()
    plain = record.to_dict()
    bits = plain["per_example"]["worst_case"]
    place = bits.index("0")
    plain["per_example"]["worst_case"] = bits[:place] + "1" + bits[place + 1 :]
    plain["epsilon"] = 0.2
    plain["sha256"]["adv_images"] = "0" * 64
    found = evaluate.verify_images(_logits, content, images, labels, record=plain)
    assert not found.holds
    epsilon, digest, verdict = found.disagreements
    assert "epsilon is 0.2 in the record, 0.1 in the file" in epsilon
    assert "sha256" in digest
    assert f"image {place} is broken, in the record robust" in verdict
    with pytest.raises(ValueError, match="record lacks epsilon, norm, per_example"):
        evaluate.verify_images(_logits, content, images, labels, record={"sha256": {}})


def test_the_verifier_refuses_what_it_cannot_judge(saved, tmp_path):
    _, content = saved
    images, labels = _data()
    with pytest.raises(ValueError, match="no verdict twice"):
        noisy = StochasticLogitsFn(lambda images, keys: _logits(images))
        evaluate.verify_images(noisy, content, images, labels)
    with pytest.raises(ValueError, match=r"\[19, 3, 3, 2\].*\[20, 3, 3, 2\]"):
        evaluate.verify_images(_logits, content, images[1:], labels[1:])
    with pytest.raises(ValueError, match="labels of the file are not those"):
        evaluate.verify_images(_logits, content, images, labels + 1)
    path = tmp_path / "some.npz"
    np.savez(path, adv_images=images)
    with pytest.raises(ValueError, match="lacks labels, example_ids, norm"):
        evaluate.read_images(path)
    path.write_text("nothing")
    with pytest.raises(ValueError, match="is no .npz of adversarial images"):
        evaluate.read_images(path)
    np.save(tmp_path / "array.npy", images)
    with pytest.raises(ValueError, match="is no .npz of adversarial images"):
        evaluate.read_images(tmp_path / "array.npy")
    with pytest.raises(ValueError, match="kept no images"):
        evaluate.save_images(_evaluate(keep_images=False), labels, path)


def test_the_verifier_shares_no_code():
    """Nothing of ours but types, which hold no logic that a verdict rests on."""
    tree = ast.parse(pathlib.Path(verify.__file__).read_text())
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    ours = {name for name in imported if name.startswith("mmc_jax")}
    assert ours == {"mmc_jax.types"}


PAPER = dict(
    name="A Paper",
    link="https://example.org",
    authors="A. Author",
    venue="ICLR 2020",
    architecture="ResNet-32",
    dataset="cifar10",
    additional_data=False,
)
PARTS = {
    "apgd-ce": ("apgd", dict(objective="cross_entropy", num_steps=100, keep="best")),
    "apgd-t": ("apgd_targeted", dict(num_steps=100, keep="best", num_targets=9)),
    "fab-t": ("fab_targeted", dict(num_steps=100, num_targets=9)),
    "square": ("square", dict(num_queries=5000)),
}


def _cascade(*names, findings=(), budget=()):
    """Return a record whose rows break one image each, in a cascade."""
    record = _evaluate(epsilon=0.0)
    robust = record.clean_correct.copy()
    rows = []
    for name in names:
        attack, hyperparameters = PARTS.get(name, ("pgd", {}))
        attacked, correct = robust.copy(), robust.copy()
        correct[np.argmax(robust)] = False
        robust = robust & correct
        row = dataclasses.replace(
            record.rows[0],
            name=name,
            attack=attack,
            hyperparameters=hyperparameters | dict(budget),
            attacked=attacked,
            correct=correct,
        )
        rows.append(row)
    return dataclasses.replace(
        record, robust=robust, rows=tuple(rows), findings=tuple(findings)
    )


def test_an_entry_holds_what_the_leaderboard_asks_for():
    record = dataclasses.replace(_cascade(*PARTS, "more"), epsilon=8 / 255)
    entry = evaluate.robustbench_entry(record, **PAPER, reported="70.00")
    clean = record.clean.count
    assert entry == {
        **PAPER,
        "number_forward_passes": 1,
        "eps": "8/255",
        "clean_acc": f"{100 * clean / NUM:.2f}",
        "reported": "70.00",
        "autoattack_acc": f"{100 * (clean - 4) / NUM:.2f}",
        "external": f"{100 * (clean - 5) / NUM:.2f}",
        "unreliable": False,
        "footnote": None,
    }


def test_auto_attack_is_not_claimed_without_all_its_parts():
    def entry(record):
        found = evaluate.robustbench_entry(record, **PAPER)
        return found["autoattack_acc"], found["external"]

    whole = _cascade(*PARTS)
    accuracy = f"{100 * whole.worst_case.value:.2f}"
    assert entry(whole) == (accuracy, None)
    assert entry(_cascade(*list(PARTS)[:3]))[0] is None
    assert entry(_cascade("more", *PARTS))[0] is None  # it broke one before
    for weaker in (dict(num_steps=10), dict(num_targets=1), dict(keep="last")):
        assert entry(_cascade(*PARTS, budget=weaker))[0] is None
    assert entry(_cascade(*PARTS, budget=dict(num_targets=None)))[0] == accuracy
    finding = diagnostics.Finding("zero_gradient", "square", "None to follow.", {})
    record = _cascade(*PARTS, findings=[finding])
    assert evaluate.robustbench_entry(record, **PAPER)["unreliable"]
    with pytest.raises(ValueError, match="interrupted"):
        entry(dataclasses.replace(whole, complete=False))


def test_radii_are_written_as_the_leaderboard_does():
    texts = {8 / 255: "8/255", 0.5: "0.5", 0.031: "0.031", 4 / 255: "4/255", 2.0: "2"}
    for epsilon, text in texts.items():
        assert robustbench.format_epsilon(epsilon) == text
