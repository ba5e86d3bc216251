"""Suites of attacks for `launch/evaluate.py --suite=...`: plain data, one row each.

A row is `dict(name=..., **hyperparameters)` as `mmc_jax.evaluate.robust_accuracy` takes
it; the radius and the norm are the evaluation's. Rows that compare accuracies by
objective share everything else, so that a difference is the objective's.
"""

_TRANSFORMATIONS = {
    "gaussian-noise": dict(name="gaussian_noise", sigma=0.05),
    "rotation": dict(name="rotation", max_angle=30.0),
}

# Minutes: one attack of every kind, and PGD under every objective. No objective is best
# on every model: cross-entropy is blind on plain MMC, the own class on softmax.
_QUICK = {
    "fgsm-ce": dict(name="fgsm", objective="cross_entropy"),
    "bim-10-margin": dict(name="bim", objective="margin", num_steps=10),
    "mim-10-margin": dict(name="mim", objective="margin", num_steps=10),
    "pgd-40-ce": dict(name="pgd", objective="cross_entropy", num_steps=40),
    "pgd-40-margin": dict(name="pgd", objective="margin", num_steps=40),
    "pgd-40-own-class": dict(name="pgd", objective="own_class", num_steps=40),
    "pgd-40-dlr": dict(name="pgd", objective="dlr", num_steps=40),
    "pgd-40-pairwise-tar": dict(
        name="pgd", objective="pairwise_margin", num_steps=40, targeted=True
    ),
    **_TRANSFORMATIONS,
}

# Pang et al., ICLR 2020, Section 4, CIFAR: steps of 2/255 at every radius, all of them
# taken, the last iterate judged. `adaptive` is their first type: the distance to a
# center, which on a softmax model is a logit. `ce` is what it replaces there, and the
# objective of their softmax rows.
_FIXED = dict(keep="last", stop_on_success=False)
_STEPS = dict(step_size=2 / 255, **_FIXED)
_PAPER_ATTACKS = {
    "fgsm": dict(name="fgsm"),
    "bim-10": dict(name="bim", num_steps=10, **_STEPS),
    "mim-10": dict(name="mim", num_steps=10, **_STEPS),
    "pgd-10": dict(name="pgd", num_steps=10, **_STEPS),
    "pgd-50": dict(name="pgd", num_steps=50, **_STEPS),
}
_PAPER = {
    f"{name}-{label}{suffix}": dict(**row, objective=objective, **goal)
    for suffix, goal in (("", {}), ("-tar", {"targeted": True}))
    for label, objective in (("ce", "cross_entropy"), ("adaptive", "own_class"))
    for name, row in _PAPER_ATTACKS.items()
} | _TRANSFORMATIONS

# Croce and Hein, ICML 2020: the standard version, in its order, with the published
# budgets, which are the attacks' defaults.
_AUTOATTACK = {
    "apgd-ce": dict(name="apgd", objective="cross_entropy"),
    "apgd-t": dict(name="apgd_targeted"),
    "fab-t": dict(name="fab_targeted"),
    "square": dict(name="square"),
}
# For Mahalanobis heads, whose logits AutoAttack's losses are weak on. These come last,
# so that the record shows AutoAttack's number, and by how much they go below. The last
# alone breaks much of MMC trained by TRADES (results/reproduce).
_AUTOATTACK_MMC = _AUTOATTACK | {
    "multi-targeted": dict(name="multi_targeted"),
    "multi-targeted-own": dict(name="multi_targeted", objective="own_class"),
}

SUITES = {
    "quick": _QUICK,
    "paper": _PAPER,
    "autoattack": _AUTOATTACK,
    "autoattack-mmc": _AUTOATTACK_MMC,
}
"""Suite -> row name -> attack."""

_NEAREST = {
    "deep-fool": dict(name="deep_fool"),
    "fab-t": dict(name="fab_targeted"),
}
_SEARCH = dict(num_binary_search_steps=9, num_steps=200, learning_rate=0.03)
DISTANCES = {
    "linf": _NEAREST,
    "l2": _NEAREST | {"cw": dict(name="carlini_wagner", **_SEARCH)},
    "l1": {
        "fab-t": dict(name="fab_targeted"),
        "ead": dict(name="elastic_net", decision_rule="l1", **_SEARCH),
    },
}
"""Norm -> row name -> attack, for `--distances`, that looks for the smallest one."""
