"""The signs of false robustness: found where they are, and only there."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmc_jax import diagnostics, evaluate
from mmc_jax.centers import mahalanobis_logits, max_mahalanobis_centers
from mmc_jax.types import StochasticLogitsFn

SHAPE = (2, 1, 1)


def _dead_below_half(images):
    """Logits that ignore an image whose first pixel is below a half."""
    live = jax.nn.relu(images[:, 0, 0, 0] - 0.5)
    return jnp.stack([live, 2 * live], axis=-1)


def _images(num=11):
    images = np.full((num, *SHAPE), 0.25, np.float32)
    images[: num // 3] = 0.75
    return images, np.zeros(num, np.int32)


@pytest.mark.parametrize("batch_size", [4, 11, 50])
def test_zero_gradients_are_counted_once_each(batch_size):
    fraction = diagnostics.zero_gradient_fraction(
        _dead_below_half, *_images(), objective="margin", batch_size=batch_size
    )
    assert fraction == pytest.approx(8 / 11)


def test_zero_gradients_of_the_objective_that_was_asked_for():
    def constant_margin(images):
        """Both logits move together: a margin is blind to that, a logit is not."""
        return images[:, :, 0, 0].sum(axis=1)[:, None] + jnp.zeros((1, 2))

    images, labels = _images()
    fractions = {
        objective: diagnostics.zero_gradient_fraction(
            constant_margin, images, labels, objective=objective, targets=targets
        )
        for objective, targets in (
            ("margin", None),
            ("own_class", None),
            ("pairwise_margin", 1 - labels),
            (lambda logits, labels, targets: logits[:, 0], None),
        )
    }
    assert list(fractions.values()) == [1.0, 0.0, 1.0, 0.0]


def test_zero_gradients_of_a_randomised_model_are_those_of_its_draws():
    def fn(images, keys):
        is_awake = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5))(keys)
        return images[:, :, 0, 0] * is_awake[:, None]

    images, labels = _images(200)
    model = StochasticLogitsFn(fn)
    fraction = diagnostics.zero_gradient_fraction(
        model, images, labels, objective="own_class", key=jax.random.key(1)
    )
    assert 0.3 < fraction < 0.7
    with pytest.raises(ValueError, match="needs a key"):
        diagnostics.zero_gradient_fraction(model, images, labels, objective="margin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(images=np.zeros((0, *SHAPE)), labels=[]), "got 0 and 0"),
        (dict(labels=np.zeros(3, np.int32)), "got 11 and 3"),
        (dict(objective="hinge"), "objective must be one of .*'hinge'"),
    ],
)
def test_bad_input_is_named(changes, message):
    images, labels = _images()
    arguments = dict(images=images, labels=labels, objective="margin") | changes
    with pytest.raises(ValueError, match=message):
        diagnostics.zero_gradient_fraction(_dead_below_half, **arguments)


def test_cross_entropy_on_plain_mmc_is_marked_and_its_rivals_are_not():
    """The trap: features at their centers give a softmax that rounds to 0 and 1."""
    centers = max_mahalanobis_centers(2, 2, center_norm=10.0)

    def logits_fn(images):
        features = 20 * (images[:, :, 0, 0] - 0.5)  # the identity, scaled
        return mahalanobis_logits(features, centers)

    generator = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 2
    features = np.asarray(centers)[labels] + generator.normal(0, 1, (40, 2))
    images = np.clip(features / 20 + 0.5, 0, 1).astype(np.float32).reshape(-1, *SHAPE)
    rows = {
        name: dict(name="fgsm", objective=objective)
        for name, objective in (("ce", "cross_entropy"), ("margin", "margin"))
    }
    for mode in ("individual", "cascade"):
        record = evaluate.robust_accuracy(
            logits_fn,
            images,
            labels,
            rows,
            jax.random.key(0),
            norm="linf",
            epsilon=0.6,
            mode=mode,
        )
        assert record.row("ce").accuracy.value > 0.9
        assert record.worst_case.value < 0.1
        assert record.zero_gradient_fractions["cross_entropy"] > 0.9
        assert record.zero_gradient_fractions["margin"] == 0
        found = {(finding.name, finding.row) for finding in record.findings}
        assert found == {("zero_gradient", "ce"), ("objective_disagreement", "ce")}


@dataclasses.dataclass
class FakeRow:
    name: str
    objective: str
    num_broken: int
    attack: str = "pgd"
    num_steps: int = 10
    targeted: bool = False
    num_attacked: int = 100
    violations: dict = dataclasses.field(default_factory=dict)

    @property
    def hyperparameters(self):
        return {"objective": self.objective, "num_steps": self.num_steps}


def _disagreement(*rows, cascade=False):
    findings = diagnostics.find_objective_disagreement(
        rows, num_examples=100, num_clean_correct=100, cascade=cascade
    )
    return [(finding.row, finding.numbers["other_row"]) for finding in findings]


def test_disagreement_needs_more_than_ten_points():
    strong = FakeRow("strong", "margin", num_broken=60)
    assert _disagreement(FakeRow("ce", "cross_entropy", num_broken=50), strong) == []
    weak = FakeRow("ce", "cross_entropy", num_broken=49)
    assert _disagreement(weak, strong) == [("ce", "strong")]


@pytest.mark.parametrize(
    "changes",
    [dict(num_steps=40), dict(attack="mim"), dict(targeted=True), dict(objective="ce")],
)
def test_disagreement_is_among_rows_of_one_kind(changes):
    weak = FakeRow("weak", "ce", num_broken=0)
    strong = dataclasses.replace(FakeRow("strong", "margin", num_broken=90), **changes)
    assert _disagreement(weak, strong) == []


def test_disagreement_in_a_cascade_rests_on_bounds():
    first = FakeRow("first", "ce", num_broken=30)
    rest = dict(num_attacked=70)
    # The second leaves at most 100 - 25 of all images, the first at least 70.
    second = FakeRow("second", "margin", num_broken=25, **rest)
    assert _disagreement(first, second, cascade=True) == []
    second = FakeRow("second", "margin", num_broken=45, **rest)
    assert _disagreement(first, second, cascade=True) == [("first", "second")]
    # What a later row left says nothing of how weak it is.
    strong = FakeRow("strong", "margin", num_broken=90)
    late = FakeRow("late", "ce", num_broken=0, num_attacked=10)
    assert _disagreement(strong, late, cascade=True) == []


def test_zero_gradients_above_five_percent_mark_rows_of_that_objective_and_goal():
    rows = [
        FakeRow("ce", "cross_entropy", num_broken=0),
        FakeRow("ce-tar", "cross_entropy", num_broken=0, targeted=True),
        FakeRow("margin", "margin", num_broken=0),
    ]
    fractions = {"cross_entropy": 0.06, "cross_entropy (targeted)": 0.05, "margin": 0}
    (finding,) = diagnostics.find_zero_gradients(rows, fractions)
    assert (finding.name, finding.row) == ("zero_gradient", "ce")
    assert finding.numbers["zero_gradient_fraction"] == 0.06
    assert "6.0%" in finding.message


def test_violations_are_counted_by_kind():
    rows = [
        FakeRow("good", "margin", 0, violations={"outside_box": 0}),
        FakeRow("bad", "margin", 0, violations={"outside_box": 2, "nonfinite": 0}),
    ]
    (finding,) = diagnostics.find_violations(rows)
    assert finding.row == "bad"
    assert finding.to_dict()["numbers"] == {"outside_box": 2, "num_attacked": 100}


@pytest.mark.parametrize(
    ("logits", "is_found"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], True),
        ([[0.25, 0.75], [1.5, -0.5]], False),  # sums to 1, is no probability
        ([[0.25, 0.75], [0.3, 0.3]], False),
        ([[0.25, 0.75], [np.nan, 0.5]], False),
    ],
)
def test_probabilities_need_every_row_in_range_and_of_sum_one(logits, is_found):
    assert bool(diagnostics.find_probabilities(np.array(logits))) == is_found
