r"""Reproduce an experiment of the paper: train, measure, and write one page.

    python launch/reproduce.py --list
    python launch/reproduce.py --experiment=table1 --dataset=mnist --scale=smoke
    python launch/reproduce.py --experiment=table1 --dataset=cifar10 --scale=full \
        --seeds=0 --models=softmax,mmc

It trains the models and takes the measurements that are missing. Killed or interrupted,
the same command goes on where it was, and ends with the same page:
`<out>/<dataset>/<scale>/<experiment>.html`, and .md for where HTML is not shown. Each
measurement is a JSON file below `cells/`, which other experiments of the same data and
scale use too; one whose settings have changed is taken anew.
"""

import os
import pathlib
import sys

import jax
import tqdm
from absl import app, flags, logging

from mmc_jax import data, experiments
from mmc_jax.checkpoint import CheckpointError
from mmc_jax.command_line import in_one_line, parse_flags, refuse_arguments
from mmc_jax.train import NonFiniteLossError

_LIST = flags.DEFINE_bool("list", False, "List the experiments, and end.")
_EXPERIMENT = flags.DEFINE_string("experiment", None, "Its name; see --list.")
_DATASET = flags.DEFINE_string("dataset", "mnist", "mnist, cifar10, cifar100, digits.")
_SCALE = flags.DEFINE_string(
    "scale",
    "smoke",
    "smoke, laptop or full; configs/measurements.py says what each is.",
)
_SEEDS = flags.DEFINE_list("seeds", None, "Only these. Default: all of the scale.")
_MODELS = flags.DEFINE_list("models", None, "Only these. Default: all.")
_OUT = flags.DEFINE_string("out", "results/reproduce", "Where pages and cells lie.")
_RUNS = flags.DEFINE_string("runs", "runs/reproduce", "Where models are trained.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Images attacked at a time.", lower_bound=1
)
_PAGE_ONLY = flags.DEFINE_bool(
    "page_only", False, "Write the page from what is stored, and end."
)
_ESTIMATE = flags.DEFINE_bool(
    "estimate", True, "Time a step and a pass of each architecture before starting."
)
_PROGRESS = flags.DEFINE_bool("progress", True, "Whether to show a progress bar.")


def main(argv: list[str]) -> None:
    """Reproduce, and say in one line what went wrong where something did."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.ERROR)
    with in_one_line(NonFiniteLossError, CheckpointError):
        _list() if _LIST.value else _reproduce()


def _list() -> None:
    from configs.experiments import EXPERIMENTS

    width = max(map(len, EXPERIMENTS))
    for name, spec in EXPERIMENTS.items():
        print(f"{name:{width}}  {spec['title']} (of the paper: {spec['paper']})")


def _reproduce() -> None:
    from configs.experiments import EXPERIMENTS, expand

    if _EXPERIMENT.value is None:
        raise ValueError(f"--experiment is missing; accepted: {', '.join(EXPERIMENTS)}")
    names = (_EXPERIMENT.value, _DATASET.value, _SCALE.value)
    part = experiments.Plan(**expand(*names, seeds=_seeds(), models=_models()))
    whole = experiments.Plan(**expand(*names))
    out, runs = pathlib.Path(_OUT.value), pathlib.Path(_RUNS.value)
    diverged = None
    try:
        if not _PAGE_ONLY.value:
            _work(part, out, runs)
    except NonFiniteLossError as error:  # the others have their cells
        diverged = error
    for path in experiments.write_pages(whole, out):
        print(f"The page is {path}.")
    if diverged is not None:
        raise diverged


def _work(plan: experiments.Plan, out: pathlib.Path, runs: pathlib.Path) -> None:
    """Train and measure what is missing."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # Most of a trial goes into compiling, and all of it again after a kill.
        jax.config.update("jax_compilation_cache_dir", str(runs.resolve() / "programs"))
    config = next(iter(plan.configs.values()), None)
    splits = data.load(
        plan.dataset,
        data_dir=config and (config.data_dir or None),
        validation_size=config and config.validation_size,
    )
    work = experiments.find_work(plan, out, runs, splits)
    print(
        f"{plan.experiment} on {splits.source}: {len(work.untrained)} models to train,"
        f" {len(work.missing)} of {len(plan.wanted)} measurements to take."
    )
    if not work.missing:
        return
    for subject in work.untrained:
        print(f"  train {experiments.training_name(subject)}")
    for wanted in work.missing:
        print(f"  measure {experiments.cell_name(wanted)}")
    weights: dict[str, float] = {}
    if _ESTIMATE.value:
        estimate = experiments.estimate_work(work, splits, batch_size=_BATCH_SIZE.value)
        print(estimate, flush=True)
        weights = {**estimate.training, **estimate.measuring}
    with _Bar(work, weights) as bar:
        experiments.do_work(
            work,
            splits,
            batch_size=_BATCH_SIZE.value,
            report=bar.report,
        )


class _Bar:
    """One bar over all that is left, each item as long as it was estimated."""

    def __init__(self, work: experiments.Work, weights: dict[str, float]):
        names = [experiments.training_name(subject) for subject in work.untrained]
        names += [experiments.cell_name(wanted) for wanted in work.missing]
        self._weights = {name: max(weights.get(name, 0.0), 1.0) for name in names}
        self._done: dict[str, float] = {}
        self._bar = tqdm.tqdm(
            total=round(sum(self._weights.values())),
            disable=not _PROGRESS.value,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}",
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def report(self, name: str, what: str, done: float) -> None:
        """Move the bar to where `name` stands, a fraction of it done."""
        self._done[name] = done
        at = sum(self._weights[n] * part for n, part in self._done.items())
        self._bar.n = round(at)
        self._bar.set_postfix_str(f" {what} {name}")


def _seeds() -> tuple[int, ...] | None:
    if _SEEDS.value is None:
        return None
    try:
        return tuple(int(text) for text in _SEEDS.value)
    except ValueError as error:
        raise ValueError(
            f"--seeds={','.join(_SEEDS.value)} must be whole numbers, such as 0,1"
        ) from error


def _models() -> tuple[str, ...] | None:
    return None if _MODELS.value is None else tuple(_MODELS.value)


if __name__ == "__main__":
    # configs/ is imported as a package, from wherever this script is started.
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    app.run(main, flags_parser=parse_flags)
