"""Checkpoints that notice their own damage: the only file that knows of disks.

A training state is any pytree of arrays. `Checkpointer.save` copies it to the host and
returns while Orbax writes it in the background; `Checkpointer.restore` gives back the
newest (or best) checkpoint whose every array has the sha256 that it had when it was
saved. Arrays are stored whole and without devices, so that the number of devices may
change between the two.

    with Checkpointer(workdir / "checkpoints", keep=3) as checkpointer:
        restored = checkpointer.restore(state)
        ...
        checkpointer.save(step, state, score=validation_accuracy)

One process writes to a directory at a time. Reading changes nothing on the disk.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers

from mmc_jax import checkpoint_format
from mmc_jax.checkpoint_format import Arrays, State

_log = logging.getLogger(__name__)


class CheckpointError(OSError):
    """A checkpoint could not be written, or none could be read."""


class Checkpointer:
    """Saves states in the background and restores the newest or best sound one.

    Keeps the `keep` newest checkpoints and, of those saved with a score, the best.
    Close it (or use it as a context manager): only then is the last save known to have
    arrived.
    """

    def __init__(self, directory: str | Path, *, keep: int = 3):
        """Name the directory and how much to keep; touch nothing yet.

        Args:
          directory: where checkpoints live; made by the first save.
          keep: how many of the newest checkpoints to keep, at least 1.

        Raises:
          ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None
        # Orbax's own asynchronous save would first block for its set-up.
        self._writer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._writing: concurrent.futures.Future[None] | None = None
        self._scores: dict[int, float | None] = {}
        self._unusable: set[int] = set()
        absl_logging.get_absl_logger().addFilter(_not_from_orbax)

    def all_steps(self) -> list[int]:
        """Return the steps of the finished checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(ocp.utils.checkpoint_steps(self.directory))

    def save(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Copy `state` to the host, start writing it, and return.

        The state may be donated or changed as soon as this returns. Waits for the
        previous save, if that is still under way, and raises its error if it failed.
        Checkpoints that `restore` found damaged are first renamed to
        `<step>.unusable`; what an interrupted save left is removed.

        Args:
          step: number of the checkpoint, greater than that of every sound one.
          state: pytree of arrays (Python numbers are stored as arrays).
          score: validation score, finite, higher is better; the best is kept.

        Raises:
          ValueError: `step` is not new, or `score` is not finite.
          CheckpointError: this or the previous save could not be written.
        """
        if score is not None and not math.isfinite(score):
            raise ValueError(f"score must be finite, got {score} at step {step}")
        self.wait()
        self._set_unusable_aside()
        step, newest = int(step), max(self.all_steps(), default=-1)
        if step <= newest:
            raise ValueError(
                f"cannot save step {step} in {self.directory}: steps start at 0 and "
                f"grow, and the newest there is {newest if newest >= 0 else 'none'}"
            )
        arrays = checkpoint_format.host_arrays(state)
        self._writing = self._writer.submit(self._write, step, arrays, score)

    def restore(
        self, template: State, *, step: int | None = None, best: bool = False
    ) -> tuple[int, State] | None:
        """Return step and state of the newest sound checkpoint, if there is one.

        A damaged checkpoint is reported as a log warning and the one before is tried.

        Args:
          template: what the state looks like: a state, or its `jax.eval_shape`.
          step: restore this one, and no other.
          best: begin with the highest score (of equals, the newer one).

        Returns:
          The step, and a pytree like `template` with arrays on the default device; None
          when the directory holds no checkpoint.

        Raises:
          ValueError: no such `step`, `step` together with `best`, or a checkpoint whose
            arrays are not those of `template` (their paths and shapes are listed).
          CheckpointError: the checkpoints that there are are all damaged.
        """
        self.wait()
        damaged = []
        for candidate in self._candidates(step, best):
            path = self.directory / str(candidate)
            try:
                arrays = checkpoint_format.read_arrays(path)
            except (OSError, ValueError) as error:
                damaged.append(f"step {candidate} in {path}: {_reason(error)}")
                _log.warning("unusable checkpoint, %s", damaged[-1])
                if step is None:
                    self._unusable.add(candidate)
                continue
            if damaged:
                _log.warning("using the checkpoint of step %d instead", candidate)
            return candidate, checkpoint_format.fill(template, arrays, path)
        if damaged:
            raise CheckpointError(f"no usable checkpoint: {'; '.join(damaged)}")
        return None

    def wait(self) -> None:
        """Block until the save under way is on the disk.

        Raises:
          CheckpointError: it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Wait for the save under way and end the background threads.

        Raises:
          CheckpointError: the save could not be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._close_manager()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, step: int, arrays: Arrays, score: float | None) -> None:
        """Write a checkpoint and drop those no longer kept, in the writer's thread."""
        try:
            if self._manager is None:
                self._manager = self._open_manager()
            self._scores[step] = score
            self._manager.save(step, args=checkpoint_format.save_args(arrays, score))
        except Exception as error:  # Orbax has no narrower type for a full disk.
            raise self._clean_up_failure(step, error) from error

    def _open_manager(self) -> ocp.CheckpointManager:
        self._remove_interrupted()
        steps = self.all_steps()
        self._scores = {step: self._score(step, if_damaged=None) for step in steps}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(self._keep, self._scores),
            enable_async_checkpointing=False,
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers=checkpoint_format.item_handlers(),
        )

    def _close_manager(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.close()

    def _clean_up_failure(self, step: int, error: Exception) -> CheckpointError:
        """Clean up after a save that failed, and describe it."""
        self._close_manager()  # What it believes to be on the disk may be wrong now.
        self._remove_interrupted()
        there = (self.directory, *self.directory.parents)
        free = shutil.disk_usage(next(path for path in there if path.exists())).free
        return CheckpointError(
            f"could not write the checkpoint of step {step} to {self.directory}: "
            f"{_reason(error)}; {free:,} bytes are free there; "
            f"kept: the checkpoints of steps {self.all_steps()}"
        )

    def _remove_interrupted(self) -> None:
        for path in self.directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
            _log.info("removing what an interrupted save left: %s", path)
            shutil.rmtree(path, ignore_errors=True)

    def _set_unusable_aside(self) -> None:
        """Rename damaged checkpoints, so that their steps can be saved again."""
        if not self._unusable:
            return
        self._close_manager()
        for step in self._unusable:
            aside = self.directory / f"{step}.unusable"
            shutil.rmtree(aside, ignore_errors=True)
            (self.directory / str(step)).rename(aside)
            _log.warning("moved the unusable checkpoint of step %d to %s", step, aside)
        self._unusable.clear()

    def _score(self, step: int, *, if_damaged: float | None) -> float | None:
        try:
            return checkpoint_format.read_record(self.directory / str(step))["score"]
        except (OSError, ValueError):
            return if_damaged

    def _candidates(self, step: int | None, best: bool) -> list[int]:
        """Return the steps to try, in order."""
        steps = self.all_steps()
        if step is not None:
            if best:
                raise ValueError(f"give step or best, not both: step={step}, best=True")
            if step not in steps:
                raise ValueError(
                    f"no checkpoint of step {step} in {self.directory}, only {steps}"
                )
            return [step]
        if best:
            # A record that cannot be read may be the best one's: try it, and report it.
            scores = {s: self._score(s, if_damaged=math.inf) for s in steps}
            steps.sort(key=lambda s: _rank(scores[s], s))
        return steps[::-1]


@dataclasses.dataclass
class _NewestAndBest(checkpoint_managers.PreservationPolicy):
    """Keep the `keep` newest checkpoints and the one with the highest score.

    Orbax's `BestN` reads scores from a file whose damage would stop the manager.
    """

    keep: int
    scores: Mapping[int, float | None]

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Return one verdict for each of `checkpoints`, which are oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max(steps, key=lambda step: _rank(self.scores.get(step), step))
        return [step == best or step in steps[-self.keep :] for step in steps]


def _rank(score: float | None, step: int) -> tuple[float, int]:
    return (-math.inf if score is None else score, step)


def _reason(error: Exception) -> str:
    """Return the part of a message that a person can use."""
    text = str(error) or type(error).__name__
    return text.split(" [tensorstore_spec")[0].splitlines()[0]


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Keep Orbax's own log lines out: what matters in them is raised or logged here."""
    return "/orbax/checkpoint/" not in Path(record.pathname).as_posix()
