"""Other libraries' attacks, by the names of the rows of `strength.py`.

Called through their public interface and with the budget of the row. Where a peer has
no such attack, there is no entry; where it is not installed, it has none at all.
Foolbox and torchattacks draw from torch's global generator, ART from numpy's too:
`run` seeds both first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import _peers
import numpy as np

SHIFT = 1000.0
"""Added to every logit for attacks that take a negative logit for no logit."""
_NORMS = {"linf": "Linf", "l2": "L2"}
_STEPS = dict(steps=40)
_STEP_SIZE = 0.01
_SEARCH = dict(binary_search_steps=9, initial_const=0.01)
_NUM_STEPS = 1000
_BETA = 0.01


@dataclasses.dataclass(frozen=True)
class PeerAttack:
    """A peer's attack: its class, and its arguments in the peer's own names."""

    implementation: str
    attack: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    shift: float = 0.0
    num_images: int | None = None
    """At most so many images, where it is slow."""

    def run(
        self, twin: Any, images: Any, labels: Any, norm: str, epsilon: float, seed: int
    ) -> Any:
        """Attack NCHW images; return them NCHW.

        Args:
          twin: from `_peers.make_twin`, with this attack's shift.
          images: torch tensor in [0, 1].
          labels: torch tensor of int64.
          norm: `linf` or `l2`.
          epsilon: the radius; of no meaning to attacks without one.
          seed: of every generator that the peer may draw from.
        """
        import torch

        torch.manual_seed(seed)
        np.random.seed(seed)
        runner = _RUNNERS[self.implementation]
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return runner(self, twin, images, labels, norm, epsilon, seed).detach()


def installed() -> list[str]:
    """Return the peers that are installed."""
    modules = {"torchattacks": "torchattacks", "foolbox": "foolbox", "art": "art"}
    return [name for name, module in modules.items() if _has(module) and _has("torch")]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _run_torchattacks(spec, twin, images, labels, norm, epsilon, seed):
    import torchattacks

    given = dict(spec.settings)
    if spec.attack in ("APGD", "APGDT", "FAB", "Square"):
        given = dict(norm=_NORMS[norm], eps=epsilon, seed=seed) | given
    elif spec.attack in ("FGSM", "BIM", "MIFGSM", "PGD", "SPSA"):
        given = dict(eps=epsilon) | given
    return getattr(torchattacks, spec.attack)(twin, **given)(images, labels)


def _run_foolbox(spec, twin, images, labels, norm, epsilon, seed):
    del norm, seed
    foolbox = _peers.import_foolbox()
    attack = getattr(foolbox.attacks, spec.attack)(**spec.settings)
    model = foolbox.PyTorchModel(twin, bounds=(0, 1))
    bounded = isinstance(attack, foolbox.attacks.base.FixedEpsilonAttack)
    given = dict(epsilon=epsilon) if bounded else {}
    found = attack.run(model, images, labels, **given)
    # It returns a black image where it has failed.
    failed = found.flatten(1).amax(1) == 0
    return images.where(failed[:, None, None, None], found)


def _run_art(spec, twin, images, labels, norm, epsilon, seed):
    del seed
    import torch
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    logging.getLogger("art").setLevel(logging.ERROR)
    classifier = PyTorchClassifier(
        twin,
        torch.nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    given = dict(batch_size=len(images), verbose=False) | spec.settings
    if spec.attack in ("AutoProjectedGradientDescent", "SquareAttack"):
        given |= dict(norm={"linf": np.inf, "l2": 2}[norm], eps=epsilon)
    if spec.attack == "AutoProjectedGradientDescent":
        given |= dict(eps_step=2 * epsilon)
    attack = getattr(evasion, spec.attack)(classifier, **given)
    one_hot = np.eye(10, dtype=np.float32)[labels.numpy()]
    return torch.from_numpy(attack.generate(images.numpy(), one_hot))


_RUNNERS: dict[str, Callable[..., Any]] = {
    "torchattacks": _run_torchattacks,
    "foolbox": _run_foolbox,
    "art": _run_art,
}


def _torchattacks(attack, **settings):
    shift = SHIFT if attack in ("CW", "EADEN", "EADL1") else 0.0
    # It goes through the images one by one.
    num_images = 200 if attack == "DeepFool" else None
    return PeerAttack("torchattacks", attack, settings, shift, num_images)


def _foolbox(attack, **settings):
    return PeerAttack("foolbox", attack, settings)


def _art(attack, **settings):
    return PeerAttack("art", attack, settings, num_images=50)


def _art_apgd(loss_type):
    return _art(
        "AutoProjectedGradientDescent",
        max_iter=100,
        nb_random_init=1,
        loss_type=loss_type,
    )


_ELASTIC = dict(_SEARCH, lr=0.01, max_iterations=_NUM_STEPS, beta=_BETA)
_FOOLBOX_ELASTIC = dict(
    _SEARCH, initial_stepsize=0.01, steps=_NUM_STEPS, regularization=_BETA
)
# Its C&W searches along a line in each step: a hundred steps take as long as a
# thousand of the others.
_ART_STEPS = 100
_ART_ELASTIC = dict(_SEARCH, learning_rate=0.01, max_iter=_ART_STEPS, beta=_BETA)
_DEEP_FOOL = dict(steps=50, overshoot=0.02)
# At the radius of the row: the targeted form goes on to the next target only for images
# that no earlier one broke within it, and its distances are therefore not compared.
_FAB = dict(steps=100)
_SQUARE = dict(n_queries=5000, resc_schedule=False)

PEER_ATTACKS: dict[str, tuple[PeerAttack, ...]] = {
    "fgsm": (_torchattacks("FGSM"), _foolbox("LinfFastGradientAttack")),
    "bim": (
        _torchattacks("BIM", alpha=_STEP_SIZE, **_STEPS),
        _foolbox("LinfBasicIterativeAttack", abs_stepsize=_STEP_SIZE, **_STEPS),
    ),
    "mim": (
        _torchattacks("MIFGSM", alpha=_STEP_SIZE, **_STEPS),
        _foolbox("MIFGSM", abs_stepsize=_STEP_SIZE, **_STEPS),
    ),
    "pgd": (
        _torchattacks("PGD", alpha=_STEP_SIZE, **_STEPS),
        _foolbox("LinfPGD", abs_stepsize=_STEP_SIZE, **_STEPS),
    ),
    "apgd-cross_entropy": (
        _torchattacks("APGD", steps=100, loss="ce"),
        _art_apgd("cross_entropy"),
    ),
    "apgd-dlr": (
        _torchattacks("APGD", steps=100, loss="dlr"),
        _art_apgd("difference_logits_ratio"),
    ),
    "apgd_targeted": (_torchattacks("APGDT", steps=100, n_classes=10),),
    "fab": (_torchattacks("FAB", **_FAB),),
    "fab_targeted": (_torchattacks("FAB", multi_targeted=True, n_classes=10, **_FAB),),
    "square": (
        _torchattacks("Square", **_SQUARE),
        _art("SquareAttack", max_iter=5000),
    ),
    "spsa": (_torchattacks("SPSA", nb_iter=20, nb_sample=64, max_batch_size=64),),
    "carlini_wagner": (
        _torchattacks("CW", c=1, steps=9 * _NUM_STEPS, lr=0.01),
        _foolbox("L2CarliniWagnerAttack", stepsize=0.01, steps=_NUM_STEPS, **_SEARCH),
        _art("CarliniL2Method", learning_rate=0.01, max_iter=_ART_STEPS, **_SEARCH),
    ),
    "elastic_net-en": (
        _torchattacks("EADEN", **_ELASTIC),
        _foolbox("EADAttack", decision_rule="EN", **_FOOLBOX_ELASTIC),
        _art("ElasticNet", decision_rule="EN", **_ART_ELASTIC),
    ),
    "elastic_net-l1": (
        _torchattacks("EADL1", **_ELASTIC),
        _foolbox("EADAttack", decision_rule="L1", **_FOOLBOX_ELASTIC),
        _art("ElasticNet", decision_rule="L1", **_ART_ELASTIC),
    ),
    "deep_fool-linf": (_foolbox("LinfDeepFoolAttack", **_DEEP_FOOL),),
    "deep_fool-l2": (
        _torchattacks("DeepFool", **_DEEP_FOOL),
        _foolbox("L2DeepFoolAttack", **_DEEP_FOOL),
        _art("DeepFool", max_iter=100, nb_grads=10),
    ),
}
"""Row -> the peers' attacks of that row."""

# torchattacks' own `AutoAttack("standard")` takes 10 steps for 100, and rescales the
# schedule of Square: these are the published parameters.
AUTO_ATTACK: dict[str, PeerAttack] = {
    "apgd-cross_entropy": _torchattacks("APGD", steps=100, loss="ce"),
    "apgd_targeted": _torchattacks("APGDT", steps=100, n_classes=10),
    "fab_targeted": _torchattacks("FAB", steps=100, multi_targeted=True, n_classes=10),
    "square": _torchattacks("Square", **_SQUARE),
}
"""Part -> what it is made of, in the order of the cascade; 9 targets each."""
