"""manifest.jsonl and timings.jsonl: a line a query, in the order of the input, a group at a time as groups are finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni.batch import groups, store
from omni.files import disk_errors

MANIFEST = "manifest.jsonl"


def append(path: Path, data: bytes) -> None:
    """Add whole lines to a file, down to the disk."""
    with path.open("ab", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


class Ledger:
    """Both files of one output folder. `done` counts the groups that they tell of; `failed` the queries among them."""

    def __init__(self, out: Path, ids: list[str]) -> None:
        """Finds out how far the files go and cuts off what a kill left of a group. OutputError for a full disk."""
        self.out, self.ids = out, ids
        with disk_errors(out):
            rows = min(_complete_lines(out / name) for name in (MANIFEST, store.TIMINGS))
        self.done = groups.count(len(ids)) if rows >= len(ids) else rows // groups.SIZE
        while self.done and not store.finished(out, self.done - 1):
            self.done -= 1
        self.failed = 0
        self.cut(self.done)

    @property
    def queries(self) -> int:
        """How many queries the files tell of."""
        return min(self.done * groups.SIZE, len(self.ids))

    def cut(self, done: int) -> None:
        """Keep the lines of the first `done` groups only."""
        self.done = done
        with disk_errors(self.out):
            for name in (MANIFEST, store.TIMINGS):
                _keep(self.out / name, self.queries)
        self.failed = sum(row["status"] != "ok" for row in self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the manifest, one after another."""
        path = self.out / MANIFEST
        if path.is_file():
            with path.open("rb") as file:
                yield from map(json.loads, file)

    def failed_groups(self) -> list[int]:
        """Groups with a query that failed, in order."""
        wrong = (place // groups.SIZE for place, row in enumerate(self.rows()) if row["status"] != "ok")
        return sorted(set(wrong))

    def add(self) -> None:
        """Append the next group, which must be finished. OutputError for a full disk."""
        ids = groups.of(self.ids, self.done)
        rows, times = store.records(self.out, self.done, ids), store.timings(self.out, self.done)
        with disk_errors(self.out):
            append(self.out / store.TIMINGS, _lines(times))
            append(self.out / MANIFEST, _lines(rows))
        self.done += 1
        self.failed += sum(row["status"] != "ok" for row in rows)

    def catch_up(self) -> None:
        """Append the groups that come next, as long as they are finished."""
        while self.queries < len(self.ids) and store.finished(self.out, self.done):
            self.add()


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _complete_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _keep(path: Path, lines: int) -> None:
    if not path.is_file():
        append(path, b"")
    with path.open("r+b") as file:
        for _ in range(lines):
            file.readline()
        if file.tell() != os.fstat(file.fileno()).st_size:
            file.truncate(file.tell())
            os.fsync(file.fileno())
