"""Answering before the turn is known to be over: a pause may be its end, so the reply is begun in it.

If more speech comes, what was begun is thrown away; if not, it is what would have been made of the whole query, because
the silence after a query's last sound is not heard anyway (`audio/pauses.py`).

The query is taken in by a thread of its own and the reply is made in the caller's. Not the other way round: a thread
that first computes gets a second team of OpenMP workers, and GNU's runtime lets all teams sleep instead of spin once there
are more threads than cores, which makes a model of many small steps nearly twice as slow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from omni.audio.pauses import KEPT_SAMPLES, PauseFollower

#: Makes the reply's pieces from the query's samples [N].
Answering = Callable[[np.ndarray], Iterator[np.ndarray]]
SHORTEST_SAMPLES = 6400


class Intake:
    """Takes in a query's blocks [n] as they come, in the background. `end`: see `PauseFollower`."""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._parts, self._follower = list[np.ndarray](), PauseFollower()
        self._news, self._over, self._unwanted = threading.Condition(), False, False
        self._error: BaseException | None = None
        threading.Thread(target=self._work, args=(blocks,), daemon=True).start()

    def _work(self, blocks: Iterable[np.ndarray]) -> None:
        try:
            for block in blocks:
                with self._news:
                    if self._unwanted:
                        return
                    self._parts.append(np.asarray(block, np.float32))
                    self._follower.push(self._parts[-1])
                    self._news.notify()
        except BaseException as error:  # handed to whoever waits
            self._error = error
        finally:
            with self._news:
                self._over = True
                self._news.notify()

    @property
    def over(self) -> bool:
        return self._over

    def goes_on_after(self, end: int) -> bool:
        """Whether there is sound after the sample `end`."""
        return self._follower.end != end

    def wait(self, past: int | None = None) -> tuple[int, np.ndarray]:
        """Wait for a pause in which a reply is worth beginning, after sound that ends elsewhere than at `past`, or for
        the query's end. Returns where the sound ends and what to hear of it [N]; raises what the blocks raised."""
        with self._news:
            self._news.wait_for(lambda: self._over or self._pauses(past))
            if self._error:
                raise self._error
            end = self._follower.end
            return end, np.concatenate([*self._parts, np.zeros(0, np.float32)])[: self._follower.cut(end)]

    def _pauses(self, past: int | None) -> bool:
        end = self._follower.end
        return end != past and end >= SHORTEST_SAMPLES and self._follower.heard >= end + KEPT_SAMPLES

    def give_up(self) -> None:
        self._unwanted = True


def answered(blocks: Iterable[np.ndarray], answering: Answering) -> Iterator[np.ndarray]:
    """The reply to a query that comes in blocks [n]: the same pieces as `answering` makes of the whole, only sooner."""
    query = Intake(blocks)
    try:
        end: int | None = None
        while True:
            end, samples = query.wait(end)
            pieces = answering(samples)
            begun, error = _begun(pieces, query, end)
            if query.wait(end)[0] == end:
                yield from begun
                if error:
                    raise error
                yield from pieces
                return
    finally:
        query.give_up()


def _begun(pieces: Iterator[np.ndarray], query: Intake, end: int) -> tuple[list[np.ndarray], Exception | None]:
    """Pieces made until the query is over or goes on after `end`, and what went wrong: of interest only if it is over."""
    begun: list[np.ndarray] = []
    try:
        while not query.over and not query.goes_on_after(end):
            begun.append(next(pieces))
    except StopIteration:
        pass
    except Exception as error:
        return begun, error
    return begun, None
