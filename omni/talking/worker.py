"""The one thread that does all model work of a process, shared fairly.

One, because a second thread that computes makes OpenMP's workers sleep instead of spin (`anticipation.py`). Work is done
in steps: a call is one step, a stream is a step for each piece, and streams take turns, so that all of them go on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from omni.errors import OmniError

T = TypeVar("T")
MOST_TASKS = 64


class BusyError(OmniError):
    """More work was asked for than may wait, or the worker is closed."""


def _always() -> bool:
    return True


@dataclass
class _Task:
    """`step` does some work and says whether there is more; it is given up once `wanted` is false."""

    step: Callable[[], bool]
    wanted: Callable[[], bool]
    done: Future[Any]


class Worker:
    """Does calls and streams in one thread, a step of each in turn. At most `most_tasks` are under way or waiting."""

    def __init__(self, most_tasks: int = MOST_TASKS) -> None:
        self.most_tasks = most_tasks
        self._tasks: deque[_Task] = deque()
        self._news = threading.Condition()
        self._busy, self._closed = 0, False
        self._thread = threading.Thread(target=self._work, name="omni-worker", daemon=True)
        self._thread.start()

    @property
    def tasks(self) -> int:
        """How many calls and streams are under way or waiting."""
        return len(self._tasks) + self._busy

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Have `fn(*args)` done. BusyError if too much is waiting."""
        done: Future[T] = Future()

        def step() -> bool:
            if done.set_running_or_notify_cancel():
                done.set_result(fn(*args))
            return False

        self._add(_Task(step, _always, done))
        return done

    def follow(
        self,
        make: Callable[[], Iterator[T]],
        wanted: Callable[[], bool] = _always,
        take: Callable[[T], Any] = lambda piece: None,
    ) -> Future[None]:
        """Make a generator and run it here, handing each piece to `take`, until it ends or is not `wanted` any more.

        The future ends with it: cancelled when it was given up, with the error that it raised. BusyError as above.
        """
        done: Future[None] = Future()
        pieces: list[Iterator[T]] = []

        def step() -> bool:
            if not pieces:
                if not done.set_running_or_notify_cancel():
                    return False
                pieces.append(make())
            try:
                piece = next(pieces[0])
            except StopIteration:
                done.set_result(None)
                return False
            take(piece)
            return True

        def gone() -> bool:
            stay = wanted()
            if not stay and pieces and hasattr(pieces[0], "close"):
                pieces[0].close()
            return stay

        self._add(_Task(step, gone, done))
        return done

    def stream(self, make: Callable[[], Iterator[T]], wanted: Callable[[], bool] = _always) -> Stream[T]:
        """The pieces of a generator that runs here, to be waited for elsewhere. See `follow`."""
        stream: Stream[T] = Stream()
        stream.done = self.follow(make, wanted, stream.pieces.put)
        stream.done.add_done_callback(lambda _: stream.pieces.put(stream.end))
        return stream

    def close(self, timeout_s: float | None = None) -> bool:
        """Take no more work, finish what there is; whether that was done in time. What is left over is cancelled."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join(timeout_s)
        with self._news:
            while self._tasks:
                _end(self._tasks.popleft().done)
        return not self._thread.is_alive()

    def _add(self, task: _Task) -> None:
        with self._news:
            if self._closed:
                raise BusyError("the server is shutting down and takes no more work; try again later")
            if self.tasks >= self.most_tasks:
                raise BusyError(f"{self.tasks} pieces of work are waiting, and no more may; try again in a few seconds")
            self._tasks.append(task)
            self._news.notify_all()

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._tasks or self._closed)
                if not self._tasks:
                    return
                task = self._tasks.popleft()
                self._busy = 1
            more = _stepped(task)
            with self._news:
                self._busy = 0
                if more:
                    self._tasks.append(task)


def _stepped(task: _Task) -> bool:
    """Do one step; whether there are more. What goes wrong belongs to who waits, not to the thread."""
    try:
        if task.wanted():
            return task.step()
        _end(task.done)
    except BaseException as error:
        if not task.done.done():
            task.done.set_exception(error)
    return False


def _end(done: Future[Any]) -> None:
    """End a future as cancelled, whether or not it runs already."""
    if not done.cancel() and not done.done():
        done.set_exception(CancelledError("it was not wanted any more"))


class Stream(Generic[T]):
    """Pieces as they come, for one reader; raises what their maker raised. `done` ends with the last."""

    end = object()

    def __init__(self) -> None:
        self.pieces: SimpleQueue[Any] = SimpleQueue()
        self.done: Future[None] = Future()

    def __iter__(self) -> Iterator[T]:
        while (piece := self.pieces.get()) is not self.end:
            yield piece
        try:
            self.done.result()
        except CancelledError:
            return
