"""Peak memory of SPSA with 8192 samples and of AutoAttack on 10,000 images.

    TFDS_DATA_DIR=... python benchmarks/memory.py

Each case runs in a process of its own, on the MNIST CNN trained with softmax. Its peak
is the most memory that the process ever had (`ru_maxrss`): Python, JAX, the compiler,
weights, images and the attack. The bar, 2 GiB, is for all of that; what was there
before the attack is told apart. The radius is next to nothing, so that every image that
is classified right stays to the last step, when an attack needs the most.

AutoAttack on 10,000 images takes hours, SPSA with 8192 samples on as many too. What a
step or a query needs is given back when it is over, so few of them do; this is measured
and not believed: pairs of cases that differ in that number alone stand together. For
AutoAttack as one function, the memory that XLA sets aside for the program with the
published budgets is there beside that of the short one.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import multiprocessing
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import _mnist_models
import _timing
import jax
import jax.numpy as jnp
import numpy as np

from mmc_jax import attacks
from mmc_jax.evaluate import robust_accuracy

_BAR = 2048.0
_MODEL = "softmax_0"
_NO_EPSILON = 1e-6
_SEED = 0
_MIB = 2.0**20


@dataclasses.dataclass(frozen=True)
class Case:
    """One attack on some images."""

    attack: str
    num_images: int
    effort: int
    """Samples of SPSA; steps of AutoAttack's parts and queries of Square."""
    through: str = "function"
    """`function`: one batch of all images; or `robust_accuracy`, batches of 256."""
    alone: bool = False
    """Whether memory may not grow with the effort from the case before this one."""

    def __str__(self) -> str:
        """Name its row of the table."""
        unit = "samples" if self.attack == "spsa" else "steps"
        how = "" if self.through == "function" else f", {self.through}"
        return f"{self.attack}, {self.num_images} images, {self.effort} {unit}{how}"


_CASES = (
    Case("spsa", 256, 512),
    Case("spsa", 256, 8192, alone=True),
    Case("spsa", 10_000, 4),
    Case("spsa", 10_000, 16, alone=True),
    Case("spsa", 10_000, 16, "robust_accuracy"),
    Case("auto_attack", 2_000, 2),
    Case("auto_attack", 2_000, 5, alone=True),
    Case("auto_attack", 10_000, 2),
    Case("auto_attack", 10_000, 2, "robust_accuracy"),
)
_WHOLE = Case("auto_attack", 10_000, 0)
"""Not run: the published budgets."""


def main() -> None:
    """Measure every case, print the table, write the record."""
    args = _timing.parse_args("memory", __doc__.splitlines()[0], has_pairs=False)
    rows: list[dict[str, Any]] = []
    print(f"{'MiB':<52}{'peak':>8}{'before':>8}{'above':>8}", flush=True)
    for case in _CASES:
        rows.append(_in_a_process(_measure, case))
        print(_format(case, rows), flush=True)
    short = dataclasses.replace(_WHOLE, effort=2)
    assigned = [_in_a_process(_assigned_mib, case) for case in (_WHOLE, short)]
    print(
        f"\nSet aside by XLA for {_WHOLE.num_images} images: {assigned[0]:.0f} MiB"
        f" with the published budgets, {assigned[1]:.0f} with 2 steps."
    )
    results = {
        "model": _MODEL,
        "epsilon": _NO_EPSILON,
        "bar_mib": _BAR,
        "bar_is_for": "peak resident memory of the whole process",
        "rows": rows,
        "xla_temporary_mib": {"published": assigned[0], "2 steps": assigned[1]},
        "met": all(row["met"] for row in rows),
    }
    _timing.write_record(args, "memory", results)


def _in_a_process(measure: Callable[[Case], Any], case: Case) -> Any:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, case).result()


def _format(case: Case, rows: list[dict[str, Any]]) -> str:
    row = rows[-1]
    numbers = [row[name] for name in ("peak_mib", "before_mib", "above_mib")]
    line = f"  {case!s:<50}" + "".join(f"{number:>8.0f}" for number in numbers)
    line += f"  bar {_BAR:.0f}: {'met' if row['met'] else 'MISSED'}"
    if case.alone:
        line += f" ({row['peak_mib'] / rows[-2]['peak_mib']:.3f} x the row above)"
    return line


def _measure(case: Case) -> dict[str, Any]:
    """Run a case, in a process that has done nothing else."""
    logits_fn, images, labels = _subject(case)
    jax.block_until_ready(jnp.zeros(()) + 1)
    before, started = _peak_mib(), time.perf_counter()
    if case.through == "function":
        attack = _attack(case)
        jax.block_until_ready(attack(logits_fn, images, labels))
    else:
        with tempfile.TemporaryDirectory() as folder:
            robust_accuracy(
                logits_fn,
                images,
                labels,
                _rows(case),
                jax.random.key(_SEED),
                norm="linf",
                epsilon=_NO_EPSILON,
                journal=pathlib.Path(folder) / "journal",
                keep_images=True,
            )
    peak = _peak_mib()
    return {
        **dataclasses.asdict(case),
        "peak_mib": peak,
        "before_mib": before,
        "above_mib": peak - before,
        "seconds": time.perf_counter() - started,
        "met": peak <= _BAR,
    }


def _assigned_mib(case: Case) -> float:
    """Compile a case as one program, and return what XLA sets aside for it."""
    program = jax.jit(_attack(case)).lower(*_subject(case)).compile()
    return program.memory_analysis().temp_size_in_bytes / _MIB


def _subject(case: Case) -> tuple[Any, np.ndarray, np.ndarray]:
    images, labels = _mnist_models.test_set()
    logits_fn = _mnist_models.load(_MODEL).logits_fn
    return logits_fn, images[: case.num_images], labels[: case.num_images]


def _attack(case: Case) -> Callable[..., jax.Array]:
    if case.attack == "auto_attack" and case.effort:
        # As one function it takes no budgets: they are changed where it reads them.
        module = importlib.import_module("mmc_jax.attacks.auto_attack")
        parts = _rows(case)
        module.auto_attack_parts = lambda *_, **__: parts
    more = _rows(case)["spsa"] if case.attack == "spsa" else {"name": case.attack}
    attack = attacks.make_attack(**more, epsilon=_NO_EPSILON)
    return lambda logits_fn, images, labels: attack(
        logits_fn, jax.random.key(_SEED), images, labels
    )


def _rows(case: Case) -> dict[str, dict[str, Any]]:
    if case.attack == "spsa":
        return {"spsa": dict(name="spsa", num_steps=1, num_samples=case.effort)}
    parts = attacks.auto_attack_parts("standard", norm="linf", num_classes=10)
    budgets = {"square": {"num_queries": case.effort}}
    return {
        name: row | budgets.get(name, {"num_steps": case.effort})
        for name, row in parts.items()
    }


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
