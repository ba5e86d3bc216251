"""AutoAttack beside its peer, and its parts beside their floors and peers: speed.

    TFDS_DATA_DIR=... python benchmarks/auto_attack.py

Whole: AutoAttack standard at linf 0.1 on the trained MNIST models, 200 test images, by
`robust_accuracy` (its checks and verdicts included) and by torchattacks, built from its
parts with the published parameters, over survivors on both sides. A fifth of the pairs,
at least 3. What our first call takes beyond a median one is compilation.

Parts: on 128 images that no part can break, since the radius is next to nothing (C&W
and EAD do break them, and go on: `abort_early=False`), so that every image survives to
the last step. The floor is as many calls of one jitted `value_and_grad` and of one
jitted forward pass as the attack was counted to make, on the same batch, outside any
loop, each waited for. Peers do as many steps; they may make more passes for them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import _mnist_models
import _passes
import _peer_attacks
import _peers
import _strength_cells as cells
import _timing
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmc_jax import attacks, timing
from mmc_jax.evaluate import robust_accuracy

_OURS, _FLOOR, _PEER = "mmc_jax", "floor", "torchattacks"
_MODELS = ("softmax_0", "mmc_0")
_NUM_WHOLE, _NUM_PART = 200, 128
_EPSILON = 0.1
_NO_EPSILON = 1e-6
_WHOLE_BAR = 0.5
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Part:
    """One attack with few enough steps to be timed often."""

    ours: dict[str, Any]
    bar: float
    peers: tuple[tuple[str, dict[str, Any]], ...] = ()
    """(name of the peer's row, its arguments here), in order of `PEER_ATTACKS`."""


_SEARCH = dict(num_binary_search_steps=3, num_steps=20, abort_early=False)
_PEER_SEARCH = dict(binary_search_steps=3, abort_early=False)
_PARTS: dict[str, Part] = {
    "apgd": Part(
        dict(
            epsilon=_NO_EPSILON,
            objective="cross_entropy",
            num_steps=40,
            keep="last",
            stop_on_success=False,
        ),
        1.05,
        (("apgd-cross_entropy", dict(steps=40)),),
    ),
    "fab_targeted": Part(
        dict(epsilon=_NO_EPSILON, num_steps=10, num_targets=3),
        1.10,
        (("fab_targeted", dict(steps=10, n_classes=4, eps=_NO_EPSILON)),),
    ),
    "square": Part(
        dict(epsilon=_NO_EPSILON, num_queries=300),
        1.10,
        (("square", dict(n_queries=300)),),
    ),
    "spsa": Part(
        dict(epsilon=_NO_EPSILON, num_steps=2, num_samples=128),
        1.10,
        (("spsa", dict(nb_iter=2)),),
    ),
    "carlini_wagner": Part(
        _SEARCH,
        1.10,
        (
            ("carlini_wagner", dict(steps=60)),
            ("carlini_wagner", dict(_PEER_SEARCH, steps=20)),
        ),
    ),
    "elastic_net": Part(
        _SEARCH,
        1.10,
        (
            ("elastic_net-en", dict(_PEER_SEARCH, max_iterations=20)),
            ("elastic_net-en", dict(_PEER_SEARCH, steps=20)),
        ),
    ),
}


def main() -> None:
    """Time the whole and the parts, print the tables, write the record."""
    args = _timing.parse_args("auto_attack", __doc__.splitlines()[0])
    _timing.warn_if_busy()
    if _peers.missing():
        print(_peers.describe_missing())
    needed = {spec["name"] for spec in cells.AUTO_ATTACK_ROWS.values()} | {*_PARTS}
    absent = needed - set(attacks.ATTACKS)
    if absent:
        print(f"Not in mmc_jax, so left out: {', '.join(sorted(absent))}")
    victims = [_mnist_models.load(model) for model in _MODELS]
    whole, parts = [], []
    for victim in victims:
        if not absent & {spec["name"] for spec in cells.AUTO_ATTACK_ROWS.values()}:
            whole.append(_time_whole(victim, max(3, args.pairs // 5)))
        for name in _PARTS:
            if name not in absent:
                parts.append(_time_part(victim, name, args.pairs))
    versions = _timing.installed_versions("torch", "torchattacks", "foolbox")
    results = {"seed": _SEED, "peers": versions, "whole": whole, "parts": parts}
    _timing.write_record(args, "auto_attack", results)


def _time_whole(victim: _mnist_models.Victim, pairs: int) -> dict[str, Any]:
    images, labels = (array[:_NUM_WHOLE] for array in _mnist_models.test_set())
    left: dict[str, int] = {}
    contenders = _whole_contenders(victim, images, labels, left)
    start = time.perf_counter()
    contenders[_OURS]()
    first = time.perf_counter() - start
    seconds = timing.interleaved(contenders, pairs=pairs)
    compiling = first - float(np.median(seconds[_OURS]))
    title = f"AutoAttack standard, {victim.model}, linf {_EPSILON}, {_NUM_WHOLE} images"
    print(f"\n{title}; left: {left}; compilation {compiling:.1f} s\n{_timing.HEADER}")
    rows = []
    if _PEER in seconds:
        rows = [_timing.compare(seconds, _OURS, _PEER, bar=_WHOLE_BAR)]
        print(_timing.format_row(rows[0]))
    return {
        "case": title,
        "left": left,
        "compilation_seconds": compiling,
        "pairs": pairs,
        "rows": rows,
        "seconds": seconds,
    }


def _whole_contenders(
    victim: _mnist_models.Victim,
    images: np.ndarray,
    labels: np.ndarray,
    left: dict[str, int],
) -> dict[str, Callable[[], None]]:
    """Return what is timed; each puts into `left` how many images it leaves."""

    def ours() -> None:
        record = robust_accuracy(
            victim.logits_fn,
            images,
            labels,
            cells.AUTO_ATTACK_ROWS,
            jax.random.key(_SEED),
            norm="linf",
            epsilon=_EPSILON,
            batch_size=_NUM_WHOLE,
        )
        left[_OURS] = record.worst_case.count

    if _PEER not in _peer_attacks.installed():
        return {_OURS: ours}
    twin = _peers.make_twin(victim)

    def theirs() -> None:
        left[_PEER] = _peer_cascade(twin, images, labels)

    return {_OURS: ours, _PEER: theirs}


def _peer_cascade(twin: Any, images: np.ndarray, labels: np.ndarray) -> int:
    """Return how many images the peer's AutoAttack leaves."""
    import torch

    given = _peers.to_nchw(images), torch.from_numpy(labels.astype(np.int64))

    def right(attacked: Any, true: Any) -> Any:
        with torch.no_grad():
            return twin(attacked).argmax(1) == true

    left = right(*given)
    for part in _peer_attacks.AUTO_ATTACK.values():
        chosen = left.nonzero()[:, 0]
        if len(chosen):
            some = given[0][chosen], given[1][chosen]
            attacked = part.run(twin, *some, "linf", _EPSILON, _SEED)
            left[chosen] = right(attacked, some[1])
    return int(left.sum())


def _time_part(victim: _mnist_models.Victim, name: str, pairs: int) -> dict[str, Any]:
    part = _PARTS[name]
    images = jnp.asarray(victim.images[:_NUM_PART])
    # As the model sees them: none is wrong from the start.
    labels = jnp.argmax(jax.jit(victim.logits_fn)(images), axis=1)

    def attack(logits_fn: Any) -> Any:
        attacked = getattr(attacks, name)
        key = jax.random.key(_SEED)
        return attacked(logits_fn, key, images, labels, **part.ours)

    passes = _passes.count_passes(attack, victim.logits_fn)
    contenders: dict[str, Callable[[], Any]] = {
        _FLOOR: _make_floor(victim, images, labels, passes),
        _OURS: lambda: attack(victim.logits_fn),
        **_peer_contenders(victim, part, images, labels),
    }
    seconds = timing.interleaved(contenders, pairs=pairs)
    rows = [_timing.compare(seconds, _OURS, _FLOOR, bar=part.bar)]
    others = [peer for peer in seconds if peer not in (_OURS, _FLOOR)]
    rows += [_timing.compare(seconds, peer, _OURS) for peer in others]
    an_image = [count / len(images) for count in passes]
    title = f"{name}, {victim.model}, {len(images)} images"
    print(
        f"\n{title}: {an_image[0]:g} forward, {an_image[1]:g} backward passes an image"
    )
    print(_timing.HEADER)
    for row in rows:
        faster = row["name"] != _OURS and row["interval"][1] < 1
        print(_timing.format_row(row) + ("  FASTER" if faster else ""))
    return {
        "case": title,
        "settings": part.ours,
        "passes_an_image": {"forward": an_image[0], "backward": an_image[1]},
        "rows": rows,
        "seconds": seconds,
    }


def _make_floor(
    victim: _mnist_models.Victim, images: Any, labels: Any, passes: tuple[int, int]
) -> Callable[[], None]:
    logits_fn = victim.logits_fn

    @jax.jit
    def forward(variables: Any, images: Any) -> Any:
        return logits_fn.func(variables, images)

    @jax.jit
    def gradient(variables: Any, images: Any) -> Any:
        def loss(images: Any) -> Any:
            logits = logits_fn.func(variables, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(losses), (losses, logits)

        return jax.value_and_grad(loss, has_aux=True)(images)

    num_gradients = round(passes[1] / len(images))
    num_forwards = round((passes[0] - passes[1]) / len(images))

    def run() -> None:
        for _ in range(num_gradients):
            jax.block_until_ready(gradient(victim.variables, images))
        for _ in range(num_forwards):
            jax.block_until_ready(forward(victim.variables, images))

    return run


def _peer_contenders(
    victim: _mnist_models.Victim, part: Part, images: Any, labels: Any
) -> dict[str, Callable[[], Any]]:
    contenders = {}
    installed = _peer_attacks.installed()
    for index, (row, settings) in enumerate(part.peers):
        peer = _peer_attacks.PEER_ATTACKS[row][index]
        if peer.implementation in installed:
            contenders[peer.implementation] = _make_peer(
                victim, peer, settings, images, labels
            )
    return contenders


def _make_peer(victim, peer, settings, images, labels) -> Callable[[], Any]:
    import torch

    peer = dataclasses.replace(peer, settings=peer.settings | settings)
    twin = _peers.make_twin(victim, shift=peer.shift)
    given = _peers.to_nchw(images), torch.from_numpy(np.array(labels, np.int64))
    return lambda: _peers.to_nhwc(peer.run(twin, *given, "linf", _NO_EPSILON, _SEED))


if __name__ == "__main__":
    main()
