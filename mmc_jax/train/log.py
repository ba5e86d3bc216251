"""What a run writes as it goes: metrics.jsonl and TensorBoard files."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator

import tensorboardX


class Log:
    """One line a log step, on a clock that counts training time only.

    A resumed run goes on where its checkpoint is: lines beyond that step, which a
    killed run left, are dropped, and the clock goes on from the last line kept.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int):
        """Open the files of `workdir` at `step`."""
        path = workdir / "metrics.jsonl"
        kept = [line for line in _read_lines(path) if line["step"] <= step]
        # Whole or not at all: a kill here must not lose what was kept.
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)
        self._earlier = kept[-1]["time"] if kept else 0.0
        self._since: float | None = None
        self._file = path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1
        )
        self._last_write = 0.0

    def __enter__(self) -> Log:
        """Return the log itself."""
        return self

    def __exit__(self, *exc_info) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()

    @property
    def seconds(self) -> float:
        """Training time so far, of earlier runs in the same directory too."""
        if self._since is None:
            return self._earlier
        return self._earlier + time.perf_counter() - self._since

    def start_clock(self) -> None:
        """Begin to count."""
        self._since = time.perf_counter()
        self._last_write = self.seconds

    @contextlib.contextmanager
    def stopped_clock(self) -> Iterator[None]:
        """Do not count what happens inside, such as validation."""
        self._earlier, self._since = self.seconds, None
        yield
        self._since = time.perf_counter()

    def write(
        self,
        step: int,
        epoch: int,
        metrics: dict[str, float],
        *,
        num_examples: int = 0,
    ) -> None:
        """Write one line.

        Args:
          step: steps taken so far.
          epoch: the epoch that it belongs to, from 1.
          metrics: name to number.
          num_examples: examples trained on since the last line, for the throughput.
        """
        now = self.seconds
        if num_examples and now > self._last_write:
            rate = num_examples / (now - self._last_write)
            metrics = {**metrics, "examples_per_second": rate}
        self._last_write = now
        line = {"step": step, "epoch": epoch, "time": round(now, 4), **metrics}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)


def _read_lines(path: pathlib.Path) -> list[dict]:
    """Read the lines of a file that a kill may have cut in the middle of one."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def read_metrics(workdir: str | pathlib.Path) -> list[dict]:
    """Read what a run wrote.

    Args:
      workdir: its work directory.

    Returns:
      One dictionary a log step, in order: `step`, `epoch`, `time` in seconds of
      training, and the metrics of that moment.
    """
    return _read_lines(pathlib.Path(workdir) / "metrics.jsonl")
