"""Where the sound of a query ended, known as it comes in: what follows is silence, and need not be waited for.

Shapes: N samples.
"""

from __future__ import annotations

from collections import deque

import numpy as np

FRAME_SAMPLES = 160
#: A frame sounds when it is within 35 dB of the loudest so far and 10 dB over the quietest of the last 2.5 s, or within
#: 15 dB of the loudest: the last holds for steady noise, in which no pause is found.
BELOW_PEAK_DB, OVER_FLOOR_DB, SURELY_DB, FLOOR_FRAMES = 35.0, 10.0, 15.0, 250
SMOOTHED_FRAMES = 5
#: So much of the silence after the last sound is kept: soft ends of words, and room for the listener's filters.
KEPT_SAMPLES = 3200


class PauseFollower:
    """Follows a query block by block. What it says does not depend on how the sound is cut into blocks."""

    def __init__(self) -> None:
        self.heard = 0
        self.end = 0  # the sample after the last frame that sounds; 0 while nothing does
        self._before = np.zeros(1, np.float32)
        self._rest = np.zeros(0, np.float32)
        self._frames, self._peak_db = 0, -np.inf
        self._last: deque[float] = deque(maxlen=SMOOTHED_FRAMES)
        self._lowest: deque[tuple[int, float]] = deque()  # (frame, smoothed level): each lower than all that came after

    def push(self, block: np.ndarray) -> None:
        """Hear the next samples [N]."""
        block = np.asarray(block, np.float32)
        self.heard += len(block)
        steps = np.diff(np.concatenate([self._before, block]))  # without rumble and direct current
        self._before = np.concatenate([self._before, block])[-1:]
        sound = np.concatenate([self._rest, steps])
        whole = len(sound) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = sound[whole:]
        power = np.square(sound[:whole].astype(np.float64)).reshape(-1, FRAME_SAMPLES).mean(1)
        for level_db in (10 * np.log10(np.nan_to_num(power, nan=1e30, posinf=1e30) + 1e-10)).tolist():
            self._follow(level_db)  # what is no number counts as loud; it is refused later on

    def _follow(self, level_db: float) -> None:
        self._last.extend([level_db] * (1 if self._last else SMOOTHED_FRAMES))
        smooth_db = sum(self._last) / SMOOTHED_FRAMES
        self._peak_db = max(self._peak_db, smooth_db)
        while self._lowest and self._lowest[-1][1] >= smooth_db:
            self._lowest.pop()
        self._lowest.append((self._frames, smooth_db))
        if self._lowest[0][0] <= self._frames - FLOOR_FRAMES:
            self._lowest.popleft()
        over_floor_db = min(self._lowest[0][1] + OVER_FLOOR_DB, self._peak_db - SURELY_DB)
        self._frames += 1
        if level_db > max(self._peak_db - BELOW_PEAK_DB, over_floor_db):
            self.end = self._frames * FRAME_SAMPLES

    def cut(self, end: int) -> int:
        """How many samples of the query to hear: up to a fifth of a second of silence after `end`."""
        return min(self.heard, end + KEPT_SAMPLES) if end else self.heard


def without_silence_after(samples: np.ndarray) -> np.ndarray:
    """Samples [N] of a query, less the silence after its last sound but a fifth of a second."""
    follower = PauseFollower()
    follower.push(samples)
    return samples[: follower.cut(follower.end)]
