"""`omni batch`: list, answer, keep account. One machine's processes are here; several machines: `ray_engine.py`."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from omni.batch import groups, store, worker
from omni.batch.job import Job
from omni.batch.ledger import Ledger
from omni.batch.queries import Query, digest, read_queries
from omni.errors import ModelError, UsageError

FORMATS = ("wav", "flac", "mp3", "opus")
MOST_WORKERS = 1024


@dataclass(frozen=True)
class Summary:
    """How a batch stands at its end: queries in all, and those that failed."""

    queries: int
    failed: int


@dataclass(frozen=True)
class Options:
    """`workers` None: as many as there are cores. `engine` local or ray; `address` of a Ray cluster, None: start one here."""

    workers: int | None = None
    retry_failed: bool = False
    report: bool = False
    engine: str = "local"
    address: str | None = None


DEFAULTS = Options()


@dataclass(frozen=True)
class Todo:
    """Work for an engine: groups by number, and which of them are done again for what failed."""

    out: Path
    queries: Sequence[Query]
    job: Job
    numbers: Sequence[int]
    again: frozenset[int]


#: Answers the groups of a Todo; yields a number whenever one is finished, in any order.
Engine = Callable[[Todo, int], Iterator[int]]


def run(given: str, out: Path, job: Job, options: Options = DEFAULTS) -> Summary:
    """Answer every query of `given` (see `read_queries`) into the folder `out`; goes on where an earlier run was stopped.

    UsageError, DataError: the input or the options; OutputError: the folder, or its disk is full; ModelError: the assistant,
    or a process that was killed. What is finished stays, and the same command goes on with the rest.
    """
    workers = options.workers if options.workers is not None else os.cpu_count() or 1
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"--workers {workers}: give 1 to {MOST_WORKERS}")
    engine = _engine(options)
    if Path(given).is_dir() and out.resolve().is_relative_to(Path(given).resolve()):
        raise UsageError(f"{out} lies in {given}, where its replies would be taken for queries; give another folder")
    queries = read_queries(given)
    with store.opened(out, describe(queries, job)):
        ledger = Ledger(out, [query.id for query in queries])
        ledger.catch_up()
        again = ledger.failed_groups() if options.retry_failed else []
        if again:
            ledger.cut(again[0])
        todo = _todo(out, queries, job, ledger.done, frozenset(again))
        _account(ledger, engine(todo, workers), todo, len(queries))
        if options.report:
            from omni.batch.report import write_report

            write_report(out, ledger)
        return Summary(len(queries), ledger.failed)


def describe(queries: Sequence[Query], job: Job) -> dict[str, Any]:
    """What an output folder belongs to: nothing in it may change between two runs. ModelError without weights."""
    return {
        "input": digest(queries),
        "queries": len(queries),
        "group size": groups.SIZE,
        "model": _weights(job),
        "--format": job.suffix.lstrip("."),
        "--text-only": job.text_only,
    }


def _weights(job: Job) -> str:
    if job.preset is not None:
        return f"{job.preset} on {job.device}"
    from omni.checkpoint import open_checkpoint

    files = open_checkpoint(job.model).index["files"].items()
    return hashlib.sha256(repr(sorted((name, entry["sha256"]) for name, entry in files)).encode()).hexdigest()


def _engine(options: Options) -> Engine:
    if options.engine == "local":
        if options.address is not None:
            raise UsageError("--address goes with --engine ray")
        return local
    if options.engine != "ray":
        raise UsageError(f"no engine {options.engine!r}; choose local or ray")
    from omni.batch.ray_engine import engine

    return engine(options.address)


def _todo(out: Path, queries: Sequence[Query], job: Job, done: int, again: frozenset[int]) -> Todo:
    numbers = [n for n in range(done, groups.count(len(queries))) if n in again or not store.finished(out, n)]
    return Todo(out, queries, job, numbers, again)


def _account(ledger: Ledger, finished: Iterator[int], todo: Todo, total: int) -> None:
    """Enter groups into the ledger in order, each as soon as it and all before it are finished."""
    waiting = set(todo.numbers)
    groups_in_all = groups.count(total)
    with tqdm(total=total, initial=ledger.queries, desc="replies", unit="query", smoothing=0.05) as bar:

        def enter() -> None:
            while ledger.done < groups_in_all and ledger.done not in waiting:
                ledger.add()
                bar.update(ledger.queries - bar.n)

        enter()
        for number in finished:
            waiting.discard(number)
            enter()
            bar.set_postfix_str(f"{ledger.failed} failed" if ledger.failed else "", refresh=False)


def local(todo: Todo, workers: int) -> Iterator[int]:
    """Processes of one thread each on this machine; with one worker, this process."""
    if workers == 1:
        worker.one_thread()
        for number in todo.numbers:
            yield worker.do_group(*_task(todo, number))
        return
    if not todo.numbers:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch in each process
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    pool = ProcessPoolExecutor(min(workers, len(todo.numbers)), context, worker.begin)
    try:
        yield from _in_order(pool, todo, 2 * workers)
    except BrokenProcessPool as error:
        raise ModelError(
            "a process was killed, perhaps for want of memory; run the same command again to go on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, todo: Todo, ahead: int) -> Iterator[int]:
    """Never more than `ahead` groups are handed out."""
    numbers = iter(todo.numbers)
    futures: list[Future[int]] = []
    for number in islice(numbers, ahead):
        futures.append(pool.submit(worker.do_group, *_task(todo, number)))
    while futures:
        yield futures.pop(0).result()
        for number in islice(numbers, 1):
            futures.append(pool.submit(worker.do_group, *_task(todo, number)))


def _task(todo: Todo, number: int) -> tuple[Path, int, Sequence[Query], Job, bool]:
    return todo.out, number, groups.of(todo.queries, number), todo.job, number in todo.again
