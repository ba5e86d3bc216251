"""The journal: what a long evaluation has done so far, so that a kill loses a batch.

A text file: a first line that says what it is, then one line a record, `crc32 json`. A
record is on the disk before its batch counts as done. A last line that was cut short is
dropped, and its batch done again; damage anywhere else is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

_FIRST_LINE = b"mmc_jax evaluation journal 1\n"
_ANEW = "to begin anew remove that file, or name another"


def remove_journal(path: str | os.PathLike[str]) -> None:
    """Remove a journal, if it is there.

    Args:
      path: the file.

    Raises:
      ValueError: if the file is no journal, or in use; it is left as it is.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        _lock(file, path)
        if not _FIRST_LINE.startswith(file.readline()):
            raise ValueError(f"{path} is not the journal of an evaluation")
        path.unlink()


class Journal:
    """An open journal. Read all of `replay` before the first `append`."""

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]):
        """Open a journal, or begin one.

        Args:
          path: the file; missing directories are made.
          identity: plain data, all that the evaluation's outcomes depend on.

        Raises:
          ValueError: if the file is no journal, belongs to another evaluation (the
            message says what differs), is damaged or in use.
        """
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        self._end = 0
        try:
            self._begin(json.loads(_dump(identity)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _begin(self, identity: dict[str, Any]) -> None:
        _lock(self._file, self._path)
        self._file.seek(0)
        first = self._file.readline()
        if not _FIRST_LINE.startswith(first):
            raise ValueError(f"{self._path} is not the journal of an evaluation")
        before = next(self._records(), None) if first == _FIRST_LINE else None
        if before is None:
            self._file.truncate(0)
            self._write(_FIRST_LINE + _line(identity))
            self._end = self._file.tell()
            _sync_directory(self._path.parent)
        elif before != identity:
            raise ValueError(
                f"the journal {self._path} is of another evaluation"
                f" ({'; '.join(_differences(before, identity))}); {_ANEW}"
            )

    def replay(self) -> Iterator[dict[str, Any]]:
        """Yield every complete record in order, then drop what was cut short."""
        self._file.seek(self._end)
        yield from self._records()
        self._file.truncate(self._end)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, plain data; it is on the disk when this returns."""
        self._write(_line(record))

    def _records(self) -> Iterator[dict[str, Any]]:
        """Yield records from where the file stands, up to an incomplete last one."""
        while line := self._file.readline():
            record = _read(line)
            if record is None:
                if self._file.read(1):
                    raise ValueError(f"the journal {self._path} is damaged; {_ANEW}")
                return
            self._end = self._file.tell()
            yield record

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()
        os.fsync(self._file.fileno())


def _lock(file: IO[bytes], path: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"the journal {path} is in use by another process") from error


def _dump(content: Mapping[str, Any]) -> bytes:
    # Numbers of numpy are no plain data to json, but become so.
    return json.dumps(content, default=lambda number: number.item()).encode()


def _line(record: Mapping[str, Any]) -> bytes:
    content = _dump(record)
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _read(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if the line is not whole."""
    checksum, content = line[:8], line[9:-1]
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content):
        return None
    return json.loads(content)


def _differences(before: Any, now: Any, *, name: str = "") -> list[str]:
    """Say of two trees of plain data what differs, leaf by leaf."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        same = before == now
        return [] if same else [f"{name}: {_show(before)} there, {_show(now)} now"]
    names = sorted(before.keys() | now.keys())
    return sum(
        (
            _differences(
                before.get(key), now.get(key), name=f"{name}.{key}" if name else key
            )
            for key in names
        ),
        [],
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def _sync_directory(path: pathlib.Path) -> None:
    """Make sure that a new file is found again after a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
