"""Gradient masking: each sign is found where it is planted, and only there."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import attacks, diagnostics, evaluate
from mmc_jax.attacks import costs
from mmc_jax.types import StochasticLogitsFn

SHAPE = (2, 2, 1)
NUM = 50


def _curve(*accuracies, positions=None):
    positions = positions or (1, 2, 5, 10, 20, 40)[: len(accuracies)]
    counts = tuple(round(100 * accuracy) for accuracy in accuracies)
    return diagnostics.AccuracyCurve(tuple(positions), counts, 100)


def _names(findings):
    return [finding.name for finding in findings]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.9, 0.5, 0.40, 0.35), []),  # falls by 5 points, no more
        ((0.9, 0.5, 0.41, 0.35), ["more_steps_help"]),
        ((0.9, 0.5, 0.55, 0.50), []),
        ((0.9, 0.5, 0.56, 0.55), ["more_steps_hurt"]),
        ((0.9, 0.5, 0.7, 0.4), ["more_steps_hurt", "more_steps_help"]),
        ((0.9,), []),
    ],
)
def test_steps_must_settle(accuracies, expected):
    assert _names(diagnostics.find_unsettled_steps(_curve(*accuracies))) == expected


def test_a_rise_is_told_from_the_lowest_before_it():
    (finding,) = diagnostics.find_unsettled_steps(_curve(0.8, 0.3, 0.35, 0.4, 0.4))
    assert finding.numbers == {"rise": pytest.approx(0.1), "num_steps": 10}
    assert "40.0% accurate after 10 steps, where 2 leave 30.0%" in finding.message


def test_the_largest_radius_must_reach_chance():
    curve = _curve(0.9, 0.25, positions=(0.0, 1.0))
    assert diagnostics.find_large_epsilon(curve, num_classes=4) == []
    (finding,) = diagnostics.find_large_epsilon(curve, num_classes=5)
    assert finding.numbers == {"accuracy": 0.25, "epsilon": 1.0, "chance": 0.2}
    # What a smaller radius reached is no excuse.
    (finding,) = diagnostics.find_large_epsilon(_curve(0.9, 0.1, 0.3), num_classes=5)
    assert finding.numbers["accuracy"] == 0.3


@pytest.mark.parametrize(
    ("num_flat", "fall", "is_found"),
    [(11, 1e-4, True), (10, 1e-4, False), (11, 2e-3, False), (11, 0.0, True)],
)
@pytest.mark.parametrize("level", [50.0, -50.0])
def test_a_flat_loss_falls_on_few_images(num_flat, fall, is_found, level):
    before = np.full(110, level)
    after = before - 25
    after[:num_flat] = before[:num_flat] - fall * 50
    after[100:] = before[100:]  # wrong as they are: nobody attacked them
    found = diagnostics.find_flat_loss(
        before,
        after,
        was_right=np.arange(110) < 100,
        objective="margin",
        num_steps=40,
    )
    assert _names(found) == ["flat_loss"] * is_found


def test_a_black_box_is_stronger_by_what_every_white_box_leaves():
    first, second, broken = np.zeros((3, 1000), bool)
    first[:500], second[400:] = True, True  # both leave 400 to 499
    broken[:402] = True
    left = {"pgd": first, "fab": second}
    assert diagnostics.find_stronger_black_box(left, {"square": broken}) == []
    broken[402] = True
    (finding,) = diagnostics.find_stronger_black_box(left, {"square": broken})
    assert (finding.name, finding.row) == ("black_box_stronger", "square")
    assert finding.numbers == {"count": 3, "total": 1000, "left_by": ["pgd", "fab"]}
    assert diagnostics.find_stronger_black_box({}, {"square": broken}) == []


@pytest.mark.parametrize(
    ("num_broken", "num_by_noise", "is_found"),
    [(5, 5, True), (6, 5, False), (0, 1, False), (0, 2, True), (90, 90, False)],
)
def test_noise_must_be_weaker_unless_all_is_broken(num_broken, num_by_noise, is_found):
    order = np.arange(100)
    found = diagnostics.find_strong_noise(
        {"pgd": order < num_broken}, order < num_by_noise, clean_correct=order < 90
    )
    assert _names(found) == ["noise_as_strong"] * is_found


@dataclasses.dataclass
class FakeRow:
    attack: str
    correct: np.ndarray
    objective: str = "margin"
    num_eot_samples: int = 1
    version: str | None = None
    norm: str = "linf"
    in_worst_case: bool = True
    largest_norm: float = 0.1
    attacked: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(100, bool))

    @property
    def name(self):
        return f"the {self.attack}"

    @property
    def hyperparameters(self):
        names = ("objective", "num_eot_samples", "version", "norm")
        return {name: getattr(self, name) for name in names}


def _rivals(*rows):
    found = diagnostics.find_stronger_rivals(
        rows, clean_correct=np.arange(100) < 90, epsilon=0.1
    )
    return [(finding.name, finding.row) for finding in found]


def test_rows_are_compared_with_their_black_box_and_noise_rows():
    order = np.arange(100)
    pgd = FakeRow("pgd", order < 80)
    square = FakeRow("square", order < 79)
    assert _rivals(pgd, square) == [("black_box_stronger", "the square")]
    assert _rivals(pgd, dataclasses.replace(square, attack="mim")) == []
    # In a cascade: a row after it saw nothing of what it broke, and excuses nothing.
    late = FakeRow("mim", order < 79, attacked=order < 79)
    assert _rivals(pgd, square, late) == [("black_box_stronger", "the square")]
    assert _rivals(square, late) == []
    early = FakeRow("mim", order < 79)
    assert _rivals(early, pgd, square) == []
    # Nor has a row broken what it never saw.
    idle = dataclasses.replace(square, correct=order < 0, attacked=order >= 80)
    assert _rivals(pgd, idle) == []
    noise = FakeRow("gaussian_noise", order < 80, in_worst_case=False)
    assert _rivals(pgd, noise) == [("noise_as_strong", "the pgd")]
    assert _rivals(pgd, dataclasses.replace(noise, largest_norm=0.2)) == []
    assert _rivals(pgd, dataclasses.replace(noise, correct=order < 81)) == []


@pytest.mark.parametrize(
    ("version", "num_classes", "stand_ins"),
    [
        ("standard", 4, []),
        ("standard", 3, ["pairwise_margin in apgd-t"]),
        ("plus", 2, ["margin in apgd-dlr and pairwise_margin in apgd-t"]),
        ("rand", 3, []),
        ("rand", 2, ["margin in apgd-dlr"]),
    ],
)
def test_auto_attack_without_dlr_is_marked(version, num_classes, stand_ins):
    rows = [
        FakeRow("apgd_targeted", np.ones(100, bool), objective="pairwise_margin"),
        FakeRow("auto_attack", np.ones(100, bool), version=version),
    ]
    found = diagnostics.find_too_few_classes(rows, num_classes=num_classes)
    assert [finding.row for finding in found] == ["the auto_attack"] * len(stand_ins)
    for finding, stand_in in zip(found, stand_ins, strict=True):
        assert finding.message.endswith(f"stands in, {stand_in}")


def _linear(images):
    score = 8 * (images - 0.5).sum(axis=(1, 2, 3))
    return jnp.stack([-score, score], axis=-1)


def _data():
    images = np.random.default_rng(0).uniform(0.3, 0.7, (NUM, *SHAPE))
    images = images.astype(np.float32)
    return images, np.asarray(_linear(images)).argmax(axis=1).astype(np.int32)


def test_randomness_is_measured_and_told_apart_from_its_declaration():
    images, labels = _data()
    generator = np.random.default_rng(0)

    def hidden(images):
        return _linear(images) + generator.normal(0, 1e-2, (len(images), 2))

    def declared(images, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        return _linear(images) + 1e-2 * noise

    rows = [
        FakeRow("pgd", np.ones(100, bool)),
        FakeRow("mim", np.ones(100, bool), num_eot_samples=8),
        FakeRow("auto_attack", np.ones(100, bool), version="rand"),
    ]
    found = {}
    for name, logits_fn in (
        ("steady", lambda images: _linear(images) + 1000),
        ("hidden", hidden),
        ("declared", StochasticLogitsFn(declared)),
    ):
        measured = diagnostics.measure_randomness(
            logits_fn, images, labels, jax.random.key(0)
        )
        marked = diagnostics.find_randomness(rows, measured)
        assert set(_names(marked)) <= {"randomised"}
        found[name] = [finding.row for finding in marked]
    assert found == {"steady": [], "hidden": [None], "declared": ["the pgd"]}


def test_an_evaluation_notices_randomness_and_few_classes():
    images, labels = _data()
    generator = np.random.default_rng(0)

    def two_classes(images):
        return _linear(images) + generator.normal(0, 0.1, (len(images), 2))

    record = evaluate.robust_accuracy(
        two_classes,
        images,
        labels,
        {"rand": dict(name="auto_attack", version="rand")},
        jax.random.key(0),
        norm="linf",
        epsilon=0.05,
    )
    found = {(finding.name, finding.row) for finding in record.findings}
    assert found == {("too_few_classes", "rand"), ("randomised", None)}


def test_attacks_that_choose_their_targets_are_judged_by_the_targeted_objective():
    images, labels = _data()
    steep = jax.tree_util.Partial(lambda images: 500 * _linear(images))
    record = evaluate.robust_accuracy(
        steep,
        images,
        labels,
        {
            "pairwise": dict(
                name="multi_targeted", objective="pairwise_margin", num_steps=2
            ),
            "entropy": dict(
                name="apgd_targeted", objective="cross_entropy", num_steps=2
            ),
        },
        jax.random.key(0),
        norm="linf",
        epsilon=0.02,
    )
    assert record.zero_gradient_fractions == {
        "pairwise_margin (targeted)": 0.0,
        "cross_entropy (targeted)": 0.0,
    }
    assert record.findings == ()
    assert diagnostics.zero_gradient_fraction(
        steep, images, labels, objective="cross_entropy"
    )


def _battery(logits_fn, *, images_and_labels=None, **options):
    images, labels = images_and_labels or _data()
    settings = dict(norm="linf", epsilon=0.02, step_counts=(1, 2, 4), num_draws=5)
    return diagnostics.gradient_masking_battery(
        logits_fn, images, labels, jax.random.key(0), **(settings | options)
    )


def test_a_plain_model_passes_the_battery_with_the_curves_of_the_closed_form():
    images, labels = _data()
    battery = _battery(_linear, batch_size=20)
    assert battery.findings == ()
    margins = np.abs((images - 0.5).sum(axis=(1, 2, 3)))
    expected = [int((margins > 4 * e).sum()) for e in battery.epsilon_curve.positions]
    assert list(battery.epsilon_curve.counts) == expected
    assert 0 < expected[1] < NUM and expected[-1] == 0
    assert battery.epsilon_curve.positions[::6] == (0.0, 1.0)
    assert battery.step_curve.counts[-1] == expected[1]
    assert battery.loss_curve[0] == pytest.approx(16 * margins.mean(), rel=1e-4)
    assert battery.loss_curve[0] - battery.loss_curve[-1] == pytest.approx(
        16 * 4 * 0.02, rel=1e-3
    )
    json.dumps(battery.to_dict(), allow_nan=False)


def test_a_loss_that_is_no_number_is_written_as_none():
    def breaks(images):
        at_border = (images >= 1).any(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0]
        return jnp.where(at_border, jnp.nan, _linear(images))

    battery = _battery(breaks, epsilon=0.5)
    assert np.isnan(battery.loss_curve[-1])
    plain = json.loads(json.dumps(battery.to_dict(), allow_nan=False))
    assert plain["loss_curve"][-1] is None and plain["loss_curve"][0] > 0


def test_the_battery_in_l2_ends_where_the_ball_holds_the_box():
    images, _ = _data()
    battery = _battery(_linear, norm="l2", epsilon=0.1, step_counts=(16,))
    assert battery.epsilon_curve.positions[-1] == pytest.approx(2.0)
    margins = np.abs((images - 0.5).sum(axis=(1, 2, 3)))
    assert battery.step_curve.counts == (int((margins > 0.2).sum()),)


def test_the_worst_of_all_draws_counts():
    battery = _battery(_linear, epsilon=0.1, num_draws=20)
    counts = battery.noise_curve.counts
    assert list(counts) == sorted(counts, reverse=True)
    # The first draw breaks some images, the others more of them.
    assert NUM > counts[0] > counts[-1] > battery.step_curve.counts[-1]


def _rounded(images):
    """The plain model behind sixteen grey levels: no gradient anywhere."""
    return _linear(jnp.round(images * 15) / 15)


def test_the_battery_notices_probabilities_and_randomness():
    generator = np.random.default_rng(0)

    def hidden(images):
        noise = generator.normal(0, 0.1, (len(images), 2))
        return jax.nn.softmax(_linear(images) + noise)

    found = _battery(hidden, step_counts=(1,)).findings
    assert {"probabilities_as_logits", "randomised"} <= set(_names(found))


def test_the_battery_notices_an_attack_that_needs_more_steps():
    def narrow(images):
        """Another class only within a tenth of epsilon of the cell's middle."""
        middle = (jnp.floor(images * 10) + 0.5) / 10
        away = jnp.abs(images - jax.lax.stop_gradient(middle)).mean(axis=(1, 2, 3))
        return jnp.stack([away, jnp.full_like(away, 0.005)], axis=-1)

    images = np.full((NUM, *SHAPE), 0.51, np.float32)
    labels = np.zeros(NUM, np.int32)
    settings = dict(epsilon=0.05, step_counts=(1, 2, 40), num_draws=2)
    battery = _battery(narrow, images_and_labels=(images, labels), **settings)
    assert "more_steps_help" in _names(battery.findings)


def test_an_evaluation_notices_rivals_without_a_gradient(monkeypatch):
    def push(logits_fn, key, images, labels, *, targets=None):
        """Go down without a gradient, as a black box or as noise."""
        step = jnp.where(labels == 1, -0.15, 0.15)
        return images + step[:, None, None, None]

    for name in ("square", "gaussian_noise"):
        monkeypatch.setitem(attacks.ATTACKS, name, push)
        monkeypatch.setitem(costs.PASSES, name, costs.PASSES["rotation"])
    images, _ = _data()
    labels = np.asarray(_rounded(images)).argmax(axis=1)
    record = evaluate.robust_accuracy(
        _rounded,
        images,
        labels,
        {
            "noise": dict(name="gaussian_noise"),
            "fgsm": dict(name="fgsm", objective="margin"),
            "queries": dict(name="square"),
        },
        jax.random.key(0),
        norm="linf",
        epsilon=0.16,
    )
    found = {(finding.name, finding.row) for finding in record.findings}
    assert found == {
        ("zero_gradient", "fgsm"),
        ("black_box_stronger", "queries"),
        ("noise_as_strong", "fgsm"),
    }


def test_a_model_that_rounds_its_images_fails_the_battery():
    def query(logits_fn, key, images, labels, *, targets=None):
        """Find the way down without a gradient, and go too far."""
        step = jnp.where(labels == 1, -0.5, 0.5)
        return images + step[:, None, None, None]

    images, _ = _data()
    labels = np.asarray(_rounded(images)).argmax(axis=1).astype(np.int32)
    battery = _battery(
        _rounded,
        images_and_labels=(images, labels),
        black_box=query,
        epsilon=0.06,
        epsilons=[0.1, 1.0],
    )
    assert battery.zero_gradient_fractions["margin"] == 1.0
    assert battery.black_box_accuracy < battery.step_curve.accuracies[-1]
    assert {
        "zero_gradient",
        "flat_loss",
        "black_box_stronger",
        "noise_as_strong",
    } == set(_names(battery.findings))
    assert {finding.row for finding in battery.findings} == {None}
    # The black box went outside the ball, and was brought back before it was judged.
    margins = np.abs((np.round(images * 15) / 15 - 0.5).sum(axis=(1, 2, 3)))
    assert battery.black_box_accuracy >= (margins > 4 * (0.06 + 1 / 15)).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(epsilon=0.0), "epsilon must be positive, got 0.0"),
        (dict(objective="pairwise_margin"), "objective must be one of .*'pairwise_ma"),
        (dict(step_counts=(4, 2)), r"step_counts must be positive and ascend.*\[4, 2"),
        (dict(epsilons=[0.01]), r"epsilons must be positive and ascend, got \[0.02, 0"),
        (dict(epsilons=[]), r"spans the box, 1, .* got \[\]"),
        (dict(epsilons=[0.1, 0.9]), r"spans the box, 1, .* got \[0.1, 0.9"),
        (dict(norm="l7"), "norm must be one of linf, l2, got 'l7'"),
        (dict(images_and_labels=([], [])), "got 0 and 0"),
    ],
)
def test_the_battery_names_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        _battery(_linear, **changes)


def _saturated(scale, images):
    """The plain model, larger: the softmax of float32 is exactly 0 and 1."""
    kernel = scale * jnp.tile(jnp.array([[-8.0, 8.0]]), (4, 1))
    return (images - 0.5).reshape(len(images), 4) @ kernel


def test_rescaled_logits_decide_alike_and_bring_the_gradient_back():
    images, labels = _data()
    model = jax.tree_util.Partial(_saturated, jnp.float32(1000.0))

    def zero(logits_fn):
        return diagnostics.zero_gradient_fraction(
            logits_fn, images, labels, objective="cross_entropy"
        )

    tempered = attacks.make_tempered_logits_fn(model, 500.0)
    centered = attacks.make_centered_logits_fn(lambda images: model(images) - 7)
    assert zero(model) > 0.5 and zero(tempered) == 0
    np.testing.assert_allclose(tempered(images), model(images) / 500, rtol=1e-6)
    np.testing.assert_allclose(centered(images), model(images), rtol=1e-4, atol=1e-3)
    found = {}
    for name, logits_fn in (("plain", model), ("tempered", tempered)):
        adv_images = attacks.pgd(
            logits_fn, jax.random.key(0), images, labels, epsilon=0.05, num_steps=5
        )
        found[name] = (np.asarray(model(adv_images)).argmax(axis=1) == labels).mean()
    assert found["tempered"] < found["plain"] - 0.3


def test_rescaling_takes_new_weights_and_temperatures_without_compiling_again():
    images, _ = _data()
    traces = []

    @jax.jit
    def run(logits_fn):
        traces.append(1)
        return logits_fn(images)

    for weight, temperature in ((1.0, 2.0), (3.0, jnp.float32(4.0)), (1.0, 5)):
        model = jax.tree_util.Partial(_saturated, jnp.float32(weight))
        inner = attacks.make_centered_logits_fn(model)
        result = run(attacks.make_tempered_logits_fn(inner, temperature))
        expected = weight * _linear(images) / temperature
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert len(traces) == 1
    for bad in (0.0, -1.0, np.nan, np.inf, "hot", jnp.float32(-1), jnp.array(np.nan)):
        with pytest.raises(ValueError, match="temperature must be"):
            attacks.make_tempered_logits_fn(model, bad)


def test_rescaling_keeps_a_randomised_model_randomised():
    images, _ = _data()
    model = StochasticLogitsFn(
        lambda images, keys: (
            _linear(images) + jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        )
    )
    keys = jax.random.split(jax.random.key(0), NUM)
    tempered = attacks.make_tempered_logits_fn(model, 4.0)
    assert isinstance(tempered, StochasticLogitsFn)
    again = jax.random.split(jax.random.key(0), NUM)
    expected = model(images, again) / 4
    np.testing.assert_allclose(tempered(images, keys), expected, rtol=1e-6)
