"""Answering before the turn is known to be over: a pause may be its end, so the reply is begun in it.

If more speech comes, what was begun is thrown away; if not, it is what would have been made of the whole query, because
the silence after a query's last sound is not heard anyway (`audio/pauses.py`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from omni.audio.pauses import KEPT_SAMPLES, PauseFollower

#: Makes the reply's pieces from the query's samples [N].
Answering = Callable[[np.ndarray], Iterator[np.ndarray]]
SHORTEST_SAMPLES = 6400


class Attempt:
    """One reply that is being made in the background. `pieces` hands it over, and raises what went wrong."""

    def __init__(self, answering: Answering, samples: np.ndarray, turn: threading.Lock) -> None:
        self._ready: queue.SimpleQueue[np.ndarray | BaseException | None] = queue.SimpleQueue()
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(answering, samples, turn), daemon=True)
        self._thread.start()

    def _work(self, answering: Answering, samples: np.ndarray, turn: threading.Lock) -> None:
        with turn:  # one at a time: an attempt that was given up ends at its next piece
            try:
                if not self._unwanted.is_set():
                    for piece in answering(samples):
                        if self._unwanted.is_set():
                            return
                        self._ready.put(piece)
            except BaseException as error:  # handed to whoever takes the pieces
                self._ready.put(error)
                return
            self._ready.put(None)

    def give_up(self) -> None:
        self._unwanted.set()

    def pieces(self) -> Iterator[np.ndarray]:
        while (piece := self._ready.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


def answered(blocks: Iterable[np.ndarray], answering: Answering) -> Iterator[np.ndarray]:
    """The reply to a query that comes in blocks [n]: the same pieces as `answering` makes of the whole, only sooner."""
    follower, parts, turn = PauseFollower(), list[np.ndarray](), threading.Lock()
    attempt: tuple[int, Attempt] | None = None
    try:
        for block in blocks:
            parts.append(np.asarray(block, np.float32))
            follower.push(parts[-1])
            end = follower.end
            if attempt and attempt[0] != end:
                attempt[1].give_up()
                attempt = None
            if attempt is None and end >= SHORTEST_SAMPLES and follower.heard >= end + KEPT_SAMPLES:
                attempt = end, Attempt(answering, np.concatenate(parts)[: follower.cut(end)], turn)
        if attempt is None:
            whole = np.concatenate([*parts, np.zeros(0, np.float32)])
            attempt = follower.end, Attempt(answering, whole[: follower.cut(follower.end)], turn)
        yield from attempt[1].pieces()
    finally:
        if attempt:
            attempt[1].give_up()
