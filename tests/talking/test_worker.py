"""One thread, fair turns, nothing that goes wrong stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from omni.talking.worker import BusyError, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(most_tasks=4)
    yield made
    assert made.close(5)


def test_all_work_is_done_in_one_other_thread(worker: Worker) -> None:
    names = {worker.submit(threading.get_ident).result(5) for _ in range(3)}
    names |= set(worker.stream(lambda: (threading.get_ident() for _ in range(3))))
    assert len(names) == 1
    assert threading.get_ident() not in names


def test_streams_take_turns(worker: Worker) -> None:
    order: list[str] = []
    gate = threading.Event()
    worker.submit(gate.wait, 5)

    def pieces(name: str) -> Iterator[str]:
        for _ in range(3):
            order.append(name)
            yield name

    streams = [worker.stream(partial(pieces, name)) for name in "ab"]
    gate.set()
    assert [list(s) for s in streams] == [["a"] * 3, ["b"] * 3]
    assert order == ["a", "b"] * 3


def test_what_is_not_wanted_stops_at_the_next_piece_and_is_closed(worker: Worker) -> None:
    wanted, closed = [True], []

    def pieces() -> Iterator[int]:
        try:
            for number in range(100):
                wanted[0] = number < 2
                yield number
        finally:
            closed.append(True)

    assert list(worker.stream(pieces, lambda: wanted[0])) == [0, 1, 2]
    assert closed == [True]


def test_an_error_goes_to_who_waits_and_the_worker_goes_on(worker: Worker) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    pieces = iter(worker.stream(broken))
    assert next(pieces) == 1
    with pytest.raises(KeyError):
        next(pieces)
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 / 0).result(5)
    assert worker.submit(lambda: 7).result(5) == 7


def test_a_full_queue_is_refused_in_words(worker: Worker) -> None:
    gate = threading.Event()
    kept = [worker.submit(gate.wait, 5) for _ in range(4)]
    with pytest.raises(BusyError, match="try again"):
        worker.submit(time.time)
    gate.set()
    assert all(k.result(5) for k in kept)
    assert worker.submit(lambda: 1).result(5) == 1


def test_closing_finishes_what_there_is() -> None:
    worker, done = Worker(), []

    def slow() -> Iterator[int]:
        for number in range(5):
            time.sleep(0.01)
            done.append(number)
            yield number

    stream = worker.stream(slow)
    assert worker.close(5)
    assert done == [0, 1, 2, 3, 4]
    assert list(stream) == done
    with pytest.raises(BusyError, match="shutting down"):
        worker.submit(time.time)
