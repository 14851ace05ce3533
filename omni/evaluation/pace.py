"""A query at the pace of speech, and what a listener would hear of the reply: when it starts, and whether it stops.

Shapes: N samples of the query or reply.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

BLOCK_MS = 20.0
#: The first reply sample louder than this ends the wait.
AUDIBLE_DBFS = -50.0


@dataclass
class Paced:
    """Blocks of a query [N], each handed out when its last sample would have been spoken. `ended_s` is that of the last.

    Times are those of `time.perf_counter`.
    """

    samples: np.ndarray
    sample_rate_hz: int = 16_000
    block_ms: float = BLOCK_MS
    ended_s: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        size = round(self.sample_rate_hz * self.block_ms / 1000)
        began = time.perf_counter()
        for start in range(0, len(self.samples), size):
            block = self.samples[start : start + size]
            due = began + (start + len(block)) / self.sample_rate_hz
            while (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            self.ended_s = due
            yield block


@dataclass(frozen=True)
class Playback:
    """`first_audible_s`: clock time at which the first audible sample is played; `gaps_s`: silence that the player had
    to put in because a piece came too late; `ready_s`: when the last piece came; `sound_s`: length of the reply."""

    first_audible_s: float
    gaps_s: float
    ready_s: float
    sound_s: float


def play(pieces: Iterator[np.ndarray], sample_rate_hz: int = 16_000) -> Playback:
    """Play pieces of a reply as they come, by the clock and without a loudspeaker.

    A piece starts when it has come and those before it have been played. `first_audible_s` is infinite for a reply in
    which nothing is louder than AUDIBLE_DBFS.
    """
    limit = 10 ** (AUDIBLE_DBFS / 20)
    first, gaps, total, ready = float("inf"), 0.0, 0.0, time.perf_counter()
    played_until: float | None = None
    for piece in pieces:
        ready = time.perf_counter()
        starts = ready if played_until is None else max(ready, played_until)
        gaps += 0.0 if played_until is None else starts - played_until
        loud = np.flatnonzero(np.abs(piece) > limit)
        if len(loud) and first == float("inf"):
            first = starts + int(loud[0]) / sample_rate_hz
        played_until = starts + len(piece) / sample_rate_hz
        total += len(piece) / sample_rate_hz
    return Playback(first, gaps, ready, total)
