"""The same groups on Ray Data, here or on a cluster whose machines share the output folder (and the recordings).

Workers write groups as local processes do; only numbers come back. A worker that is killed is started again and its group
is done anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omni.batch import groups, worker
from omni.batch.job import Job
from omni.batch.queries import Query
from omni.batch.run import Engine, Todo
from omni.errors import ModelError, OmniError, UsageError

#: Groups handed to Ray at once, so that its own memory does not grow with the list.
WAVE = 10_000
#: Enough for lists of queries: sound does not pass through Ray.
_STORE_BYTES = 200_000_000
_ADDRESS = re.compile(r"auto|(ray://)?[A-Za-z0-9.\[\]:-]+:\d+")


class Groups:
    """What Ray starts once for each worker."""

    def __init__(self, out: str, job: dict[str, Any], folder: str) -> None:
        """`folder`: where the driver works, from which names in the list may be relative."""
        os.chdir(folder)
        worker.one_thread()
        self.out, self.job = Path(out), Job(**job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Do the groups of a batch of rows {number, queries (JSON), again}; gives back {number, problem (JSON)}."""
        done: dict[str, list[Any]] = {"number": [], "problem": []}
        for number, queries, again in zip(batch["number"], batch["queries"], batch["again"], strict=True):
            problem = ""
            try:
                group = [Query.of_plain(values) for values in json.loads(queries)]
                worker.do_group(self.out, int(number), group, self.job, bool(again))
            except OmniError as error:  # told in the driver as it is, not tried again
                problem = json.dumps([type(error).__name__, str(error)])
            done["number"].append(int(number))
            done["problem"].append(problem)
        return done


def engine(address: str | None = None) -> Engine:
    """The engine of `omni batch --engine ray`. `address` of a cluster (`HOST:PORT`, `ray://HOST:PORT`, `auto`); None starts
    Ray on this machine. UsageError for another address; ModelError where Ray is not installed or not reached."""
    if address is not None and not _ADDRESS.fullmatch(address):
        raise UsageError(f"--address {address!r} is no address of a cluster; give HOST:PORT, ray://HOST:PORT or auto")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ModelError("Ray is not installed: pip install 'omni-empathy[scale]'") from error

    def groups_on_ray(todo: Todo, workers: int) -> Iterator[int]:
        import ray

        if not todo.numbers:
            return
        _start(address, workers)
        try:
            for start in range(0, len(todo.numbers), WAVE):
                yield from _wave(todo, todo.numbers[start : start + WAVE], workers)
        finally:
            ray.shutdown()

    return groups_on_ray


def _start(address: str | None, workers: int) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            here: dict[str, Any] = {
                "num_cpus": workers,
                "object_store_memory": _STORE_BYTES,
                "include_dashboard": False,
            }
            ray.init("local", **here, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ModelError(f"Ray cannot be reached at {address or 'this machine'} ({error}); see `ray status`") from error


def _wave(todo: Todo, numbers: Sequence[int], workers: int) -> Iterator[int]:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    rows = [_row(todo, number) for number in numbers]
    size = min(workers, len(rows))
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Groups,
        fn_constructor_args=(str(todo.out.absolute()), asdict(todo.job), str(Path.cwd())),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    try:
        for row in dataset.iter_rows():
            if row["problem"]:
                raise _error(*json.loads(row["problem"]))
            yield int(row["number"])
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise ModelError(f"Ray gave up ({' '.join(str(error).split())[-300:]}); run again to go on") from error


def _row(todo: Todo, number: int) -> dict[str, Any]:
    queries = [query.plain() for query in groups.of(todo.queries, number)]
    return {"number": number, "queries": json.dumps(queries), "again": number in todo.again}


def _error(kind: str, message: str) -> OmniError:
    from omni import errors

    return getattr(errors, kind, OmniError)(message)
