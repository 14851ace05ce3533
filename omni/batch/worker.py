"""What a process does: it loads an assistant once and answers group after group."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni.batch import groups, store
from omni.batch.job import Job
from omni.batch.queries import Query

if TYPE_CHECKING:
    from omni.assistant import Assistant

_assistant: dict[Any, Assistant] = {}


def begin() -> None:
    """Prepare a process of its own: one thread, no interrupts from the keyboard, an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the run
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    one_thread()


def one_thread() -> None:
    """Let torch use one thread, so that processes do not wait for each other's; it also makes them agree to the bit."""
    import torch

    torch.set_num_threads(1)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def do_group(out: Path, number: int, queries: Sequence[Query], job: Job, again: bool = False) -> int:
    """Answer a group and write its results; with `again` only what failed before is answered anew. Returns `number`.

    OutputError where the disk refuses, ModelError where the assistant cannot be loaded.
    """
    from omni.batch.work import load

    if again or not store.finished(out, number):
        if job not in _assistant:
            _assistant[job] = load(job)
        results = _results(out, number, queries, job, again)
        store.write_group(out, number, results, job.suffix, again)
    return number


def _results(out: Path, number: int, queries: Sequence[Query], job: Job, again: bool) -> Iterator[store.Kept]:
    from omni.audio import io
    from omni.batch import work
    from omni.evaluation.memory import peak_mb

    before: list[Any] = [None] * len(queries)
    if again:
        ids = [query.id for query in queries]
        before = list(zip(store.records(out, number, ids), store.timings(out, number), strict=True))
    for query, kept in zip(queries, before, strict=True):
        if kept is not None and kept[0]["status"] == "ok":
            sound = out / groups.folder(number) / f"{query.id}{job.suffix}"
            yield store.Kept(kept[0], kept[1], sound if kept[0]["file"] else None)
            continue
        answered = work.answer(_assistant[job], query, job)
        data = None if answered.sound is None else io.encode(answered.sound, job.suffix)
        spent = {part: round(ms, 1) for part, ms in answered.timings_ms.items()}
        yield store.Kept(answered.record, {"ms": spent, "peak_mb": round(peak_mb(), 1)}, data)
