"""Where the sound of a query ended, known as it comes in: what follows is silence, and need not be waited for.

Shapes: N samples, F frames of 10 ms.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import minimum_filter1d

FRAME_SAMPLES = 160
#: A frame sounds when it is within 35 dB of the loudest so far and 10 dB over the quietest of the last 2.5 s, or within
#: 15 dB of the loudest: the last holds for steady noise, in which no pause is found.
BELOW_PEAK_DB, OVER_FLOOR_DB, SURELY_DB, FLOOR_FRAMES = 35.0, 10.0, 15.0, 250
#: So much of the silence after the last sound is kept: soft ends of words, and room for the listener's filters.
KEPT_SAMPLES = 3200


class PauseFollower:
    """Follows a query block by block. What it says does not depend on how the sound is cut into blocks."""

    def __init__(self) -> None:
        self.heard = 0
        self._before = np.zeros(1, np.float32)
        self._rest = np.zeros(0, np.float32)
        self._levels: list[np.ndarray] = []

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
        self._levels.append(10 * np.log10(np.nan_to_num(power, nan=1e30, posinf=1e30) + 1e-10))  # refused later on

    @property
    def end(self) -> int:
        """The sample after the last frame that sounds; 0 while nothing does."""
        levels = np.concatenate([*self._levels, np.zeros(0)])
        if len(levels) == 0:
            return 0
        smooth = np.convolve(np.pad(levels, (4, 0), mode="edge"), np.full(5, 0.2), mode="valid")
        peak = np.maximum.accumulate(smooth)
        floor = minimum_filter1d(smooth, FLOOR_FRAMES, origin=(FLOOR_FRAMES - 1) // 2, mode="nearest")
        limit = np.maximum(peak - BELOW_PEAK_DB, np.minimum(floor + OVER_FLOOR_DB, peak - SURELY_DB))
        sounding = np.flatnonzero(levels > limit)
        return (int(sounding[-1]) + 1) * FRAME_SAMPLES if len(sounding) else 0

    def cut(self, end: int) -> int:
        """How many samples of the query to hear: up to a fifth of a second of silence after `end`."""
        return min(self.heard, end + KEPT_SAMPLES) if end else self.heard


def without_silence_after(samples: np.ndarray) -> np.ndarray:
    """Samples [N] of a query, less the silence after its last sound but a fifth of a second."""
    follower = PauseFollower()
    follower.push(samples)
    return samples[: follower.cut(follower.end)]
