"""Tells a person who speaks into a reply from the reply that leaks into the microphone.

A window of the microphone is compared with all that may leak into it: what was played up to a second before. The part
of it that is no shifted copy of the reply (by the normalised cross-correlation, c: 1 - c^2 of its power) must come
within `MARGIN_DB` of the reply's own level, or it is taken for a leak. So a quiet leak never passes, a loud one is
recognised by its shape, and a person is heard who is about as loud as the reply.

Shapes: n samples, 16 kHz.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from omni.talking.detector import RATE_HZ

#: Who is this much quieter than the reply is not heard over it; a leak at -20 dB stays below.
MARGIN_DB = -17.0
#: What plays at a moment comes back at most so much later, and a clock that is off lets it come sooner.
LATEST_SAMPLES, SOONEST_SAMPLES = RATE_HZ, RATE_HZ // 4
LEVEL_SAMPLES = 512
SILENCE_DB = -70.0


class EchoGuard:
    """Knows what is being played; `leaked` says whether a window of the microphone is nothing but that."""

    def __init__(self) -> None:
        self._played: deque[np.ndarray] = deque()
        self._first = self.samples = 0

    def play(self, samples: np.ndarray) -> None:
        """The next samples [n] that will be played."""
        self._played.append(np.asarray(samples, np.float32))
        self.samples += len(samples)

    def clear(self) -> None:
        """Nothing is played any more."""
        self._played.clear()
        self._first = self.samples = 0

    def leaked(self, window: np.ndarray, position: int) -> bool:
        """Whether a window [n] that ends when sample `position` of the reply is played holds no more than the reply."""
        around = self._around(position - LATEST_SAMPLES - len(window), position + SOONEST_SAMPLES)
        if len(around) < len(window):
            return False
        power, loudest_db = float(np.square(window, dtype=np.float64).mean()), _loudest_db(around)
        if loudest_db < SILENCE_DB or _db(power) < loudest_db + MARGIN_DB:
            return loudest_db >= SILENCE_DB
        return _db(power * (1.0 - _likeness(window, around) ** 2)) < loudest_db + MARGIN_DB

    def _around(self, start: int, stop: int) -> np.ndarray:
        """Samples start to stop of what is played, as far as they are there; earlier ones are forgotten."""
        while self._played and self._first + len(self._played[0]) <= start:
            self._first += len(self._played.popleft())
        sound = np.concatenate([*self._played, np.zeros(0, np.float32)])
        return sound[max(start - self._first, 0) : max(stop - self._first, 0)]


def _db(power: float) -> float:
    return 10 * np.log10(power + 1e-12)


def _loudest_db(sound: np.ndarray) -> float:
    """Level of the loudest 32 ms of samples [n]."""
    whole = sound[: len(sound) // LEVEL_SAMPLES * LEVEL_SAMPLES].reshape(-1, LEVEL_SAMPLES)
    return _db(float(np.square(whole, dtype=np.float64).mean(1).max(initial=0.0)))


def _likeness(window: np.ndarray, around: np.ndarray) -> float:
    """The largest normalised cross-correlation, in [0, 1], of a window [n] with any n samples in a row of `around`."""
    size = len(window)
    length = 1 << (len(around) + size).bit_length()
    product = np.fft.rfft(around, length) * np.conj(np.fft.rfft(window, length))
    correlation = np.abs(np.fft.irfft(product, length)[: len(around) - size + 1])
    sums = np.concatenate([[0.0], np.cumsum(np.square(around, dtype=np.float64))])
    energy = np.maximum(sums[size:] - sums[:-size], 0.0) * np.square(window, dtype=np.float64).sum()
    heard = energy > 1e-9
    return min(1.0, float((correlation[heard] / np.sqrt(energy[heard])).max(initial=0.0)))
