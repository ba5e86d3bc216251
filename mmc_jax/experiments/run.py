"""Train what is missing, measure what is missing; killed anywhere, go on from there."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

from mmc_jax import data
from mmc_jax.environment import describe_environment
from mmc_jax.experiments import store
from mmc_jax.experiments.kinds import KINDS
from mmc_jax.experiments.plan import Plan, Wanted
from mmc_jax.experiments.subject import Subject, Task
from mmc_jax.train import NonFiniteLossError


@dataclasses.dataclass(frozen=True)
class Work:
    """What is left of a plan: runs to train and cells to measure, in order."""

    plan: Plan
    out: pathlib.Path
    runs: pathlib.Path
    missing: tuple[Wanted, ...]
    untrained: tuple[Subject, ...]

    @property
    def folder(self) -> pathlib.Path:
        """Where cells and pages lie."""
        return self.plan.folder(self.out)


def find_work(
    plan: Plan, out: pathlib.Path, runs: pathlib.Path, splits: data.DataSplits
) -> Work:
    """Look for what an experiment lacks.

    Args:
      plan: the experiment.
      out: where results lie.
      runs: where models are trained.
      splits: the data at hand; a cell of others, such as a part of the data set, does
        not count.

    Returns:
      What is missing. A model is trained only if one of its cells is.

    Raises:
      ValueError: for a damaged cell or record, or a kind that is not known.
    """
    folder = plan.folder(out)
    for wanted in plan.wanted:
        if wanted.kind not in KINDS:
            raise ValueError(
                f"{plan.experiment} asks for cells of kind {wanted.kind!r}; known:"
                f" {', '.join(KINDS)}"
            )
    missing = [w for w in plan.wanted if not _is_stored(plan, w, folder, splits)]
    needed = {
        (wanted.seed, model): None
        for wanted in missing
        if KINDS[wanted.kind].trains
        for model in wanted.members
    }
    subjects = [_subject(plan, model, seed, runs) for seed, model in needed]
    untrained = tuple(one for one in subjects if not one.is_trained(splits))
    return Work(plan, out, runs, tuple(missing), untrained)


def _is_stored(
    plan: Plan, wanted: Wanted, folder: pathlib.Path, splits: data.DataSplits
) -> bool:
    cell = store.read(plan, wanted, folder)
    return cell is not None and not splits.differences(cell["data"])


def _subject(plan: Plan, model: str, seed: int, runs: pathlib.Path) -> Subject:
    workdir = plan.workdir(runs, model, seed)
    return Subject(model, plan.config(model, seed), workdir)


def do_work(
    work: Work,
    splits: data.DataSplits,
    *,
    batch_size: int,
    report: Callable[[str, str, float], None],
) -> None:
    """Train and measure; each cell is written as it is done.

    A cell that another process has stored meanwhile is left as it is.

    Args:
      work: what is missing.
      splits: the data.
      batch_size: images attacked at a time.
      report: told the run or the cell at work (see `names`), in words, and which
        fraction of it is done.

    Raises:
      ValueError: for a run or a journal that is of something else.
      NonFiniteLossError: at the end, if a training diverged: what does not need that
        model is measured all the same.
    """
    untrained = {(s.config.seed, s.name) for s in work.untrained}
    subjects: dict[tuple[int, str], Subject] = {}
    diverged: dict[tuple[int, str], str] = {}
    for wanted in work.missing:
        if _is_stored(work.plan, wanted, work.folder, splits):
            report(cell_name(wanted), "measure", 1.0)
            continue
        keys = [(wanted.seed, model) for model in wanted.members]
        for key in keys:
            subject = subjects.setdefault(
                key, _subject(work.plan, key[1], key[0], work.runs)
            )
            if key in untrained and KINDS[wanted.kind].trains:
                untrained.remove(key)
                try:
                    _train(subject, report)
                except NonFiniteLossError as error:
                    diverged[key] = f"{training_name(subject)}: {error}"
        if not diverged.keys() & {*keys}:
            chosen = {model: subjects[key] for key in keys for model in key[1:]}
            _measure(work, wanted, chosen, splits, batch_size, report)
    if diverged:
        raise NonFiniteLossError("; ".join(diverged.values()))


def _train(subject: Subject, report: Callable[[str, str, float], None]) -> None:
    name = training_name(subject)
    report(name, "train", 0.0)
    subject.train(functools.partial(report, name, "train"))
    report(name, "train", 1.0)


def training_name(subject: Subject) -> str:
    """Return what a progress report calls a training.

    Args:
      subject: the model.

    Returns:
      Its name and its seed.
    """
    return f"{subject.name}_{subject.config.seed}"


def cell_name(wanted: Wanted) -> str:
    """Return what a progress report calls a measurement.

    Args:
      wanted: the cell.

    Returns:
      Its models, their seed, and its name.
    """
    return f"{wanted.group}_{wanted.seed}/{wanted.cell}"


def _measure(
    work: Work,
    wanted: Wanted,
    subjects: dict[str, Subject],
    splits: data.DataSplits,
    batch_size: int,
    report: Callable[[str, str, float], None],
) -> None:
    kind = KINDS[wanted.kind]
    path, identity = wanted.path(work.folder), work.plan.identity(wanted)
    models = {n: s.sha256 for n, s in subjects.items()} if kind.trains else {}
    task = Task(
        subjects=subjects,
        splits=splits,
        seed=wanted.seed,
        batch_size=batch_size,
        journal=store.journal_path(path, identity, models, splits.sha256),
        progress=lambda done: report(cell_name(wanted), "measure", done),
    )
    task.progress(0.0)
    started = time.perf_counter()
    result = kind.measure(task, **wanted.settings)
    content: dict[str, Any] = {
        "identity": identity,
        "result": result,
        "models": models,
        "data": splits.describe(),
        "environment": describe_environment(),
        "trained_in": {
            name: subject.run["environment"] for name, subject in subjects.items()
        }
        if kind.trains
        else {},
        "command": work.plan.command_of(wanted),
        "seconds": time.perf_counter() - started,
    }
    store.write(content, path)
    task.progress(1.0)
