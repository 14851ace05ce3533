"""Where somebody speaks: the end of a turn as it streams in, trimming, cutting long sound, speech against noise.

Energy in the band of speech over a floor that follows the noise (a low percentile of the last seconds, as minimum
statistics do; Martin 2001), and how
periodic the sound is (autocorrelation divided by that of the window; Boersma 1993). 16 kHz.
Shapes: N samples, T frames of 32 ms every 10 ms, F frequency bins.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

SAMPLE_RATE_HZ, WINDOW_SAMPLES, HOP_SAMPLES = 16_000, 512, 160
FRAMES_PER_S = SAMPLE_RATE_HZ / HOP_SAMPLES
#: Pitch periods looked for: 80 to 400 Hz (a window holds two and a half of the longest).
SHORTEST_LAG, LONGEST_LAG = SAMPLE_RATE_HZ // 400, SAMPLE_RATE_HZ // 80
_BIN_HZ = SAMPLE_RATE_HZ / WINDOW_SAMPLES
_SPEECH_BINS = slice(round(2 * 150 / _BIN_HZ), round(2 * 6000 / _BIN_HZ))  # twice: frames are padded to double length
_PITCH_BINS = slice(round(2 * 90 / _BIN_HZ), round(2 * 4000 / _BIN_HZ))


@lru_cache(maxsize=1)
def _window() -> tuple[np.ndarray, np.ndarray]:
    """(Hann window, its normalised autocorrelation up to the longest lag)."""
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]
    spectrum = np.abs(np.fft.rfft(window, 2 * WINDOW_SAMPLES)) ** 2
    correlation = np.fft.irfft(spectrum)[: LONGEST_LAG + 1]
    return window, correlation / correlation[0]


def power_spectra(samples: np.ndarray) -> np.ndarray:
    """Power [T, F] of every whole frame of samples [N]; T = (N - 512) // 160 + 1, 0 for less sound than a frame."""
    if len(samples) < WINDOW_SAMPLES:
        return np.zeros((0, WINDOW_SAMPLES + 1))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    return np.abs(np.fft.rfft(frames * _window()[0], 2 * WINDOW_SAMPLES, axis=-1)) ** 2


def energy_db(power: np.ndarray) -> np.ndarray:
    """Level [T] of 150 to 6000 Hz in dB below a full-scale sine, from `power_spectra`."""
    full_scale = WINDOW_SAMPLES * 0.5 * np.square(_window()[0]).sum()  # by Parseval, of the padded half spectrum
    return 10 * np.log10(power[:, _SPEECH_BINS].sum(axis=-1) / full_scale + 1e-10)


def periodicity(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(height of the best pitch peak [T], about 0 for noise and 1 for a steady voice; its lag in samples [T])."""
    band = np.zeros_like(power)
    band[:, _PITCH_BINS] = power[:, _PITCH_BINS]  # rumble would look like a deep voice
    correlation = np.fft.irfft(band, axis=-1)[:, : LONGEST_LAG + 1]
    correlation = correlation / (correlation[:, :1] + 1e-9) / _window()[1]
    searched = correlation[:, SHORTEST_LAG:]
    return searched.max(axis=-1, initial=0.0).clip(0.0, 1.0), searched.argmax(axis=-1) + SHORTEST_LAG


@dataclass(frozen=True)
class TurnEvent:
    """`kind` "start" or "end" of speech; `at_sample` where it was, `known_at_sample` how much was heard by then."""

    kind: str
    at_sample: int
    known_at_sample: int


@dataclass(frozen=True)
class TurnSettings:
    """When speech starts and when a turn is over. Levels in dB."""

    end_silence_s: float = 0.6
    start_frames: int = 6  # active frames out of ten that begin speech
    over_floor_db: float = 10.0
    voiced_over_floor_db: float = 5.0
    held_over_floor_db: float = 6.5  # the same while somebody speaks: weak sounds do not end a turn
    held_voiced_over_floor_db: float = 3.5
    voiced: float = 0.6
    over_floor_share: float = 0.4  # of the way from the floor to the talker's loudest
    below_peak_db: float = 36.0  # what is this much quieter than the talker's loudest is not speech
    lowest_db: float = -62.0
    floor_window_s: float = 2.5
    first_floor_db: float = -48.0  # until the window has seen half a second, the floor is not above this


class TurnDetector:
    """Follows one talker, block by block, and says when speech starts and ends.

    `push` takes blocks of any length; the events do not depend on how the sound is cut into blocks.
    """

    def __init__(self, settings: TurnSettings | None = None) -> None:
        self.settings = settings or TurnSettings()
        self._rest = np.zeros(0, dtype=np.float32)
        self._frame = 0
        self._smooth_db: float | None = None
        self._lows: deque[float] = deque(maxlen=round(self.settings.floor_window_s * FRAMES_PER_S))
        self._recent: deque[bool] = deque(maxlen=10)
        self._peak_db = -120.0
        self._last_active = 0
        self.speaking = False

    def push(self, block: np.ndarray) -> list[TurnEvent]:
        """Hear the next samples [N] and return what they settled, oldest first."""
        sound = np.concatenate([self._rest, np.asarray(block, dtype=np.float32)])
        power = power_spectra(sound)
        self._rest = sound[len(power) * HOP_SAMPLES :]
        events = []
        for level_db, voiced in zip(energy_db(power), periodicity(power)[0]):
            event = self._step(float(level_db), float(voiced))
            if event is not None:
                events.append(event)
            self._frame += 1
        return events

    def _step(self, level_db: float, voiced: float) -> TurnEvent | None:
        active = self._is_active(level_db, voiced)
        self._recent.append(active)
        known = self._frame * HOP_SAMPLES + WINDOW_SAMPLES
        if active:
            self._last_active = self._frame
        if not self.speaking and sum(self._recent) >= self.settings.start_frames:
            self.speaking = True
            first = self._frame - len(self._recent) + 1 + list(self._recent).index(True)
            return TurnEvent("start", first * HOP_SAMPLES, known)
        silent_s = (self._frame - self._last_active) / FRAMES_PER_S
        if self.speaking and silent_s >= self.settings.end_silence_s:
            self.speaking = False
            return TurnEvent("end", self._last_active * HOP_SAMPLES + WINDOW_SAMPLES, known)
        return None

    def _is_active(self, level_db: float, voiced: float) -> bool:
        limits = self.settings
        previous = level_db if self._smooth_db is None else self._smooth_db
        self._smooth_db = 0.7 * previous + 0.3 * level_db
        self._lows.append(self._smooth_db)
        floor_db = sorted(self._lows)[len(self._lows) // 10]  # the minimum itself is too low for uneven noise
        if len(self._lows) < FRAMES_PER_S / 2:
            floor_db = min(floor_db, limits.first_floor_db)
        if self.speaking:
            over_db = limits.held_voiced_over_floor_db if voiced > limits.voiced else limits.held_over_floor_db
        else:
            over_db = limits.voiced_over_floor_db if voiced > limits.voiced else limits.over_floor_db
        self._peak_db = max(self._peak_db - 0.02, self._smooth_db)  # forgets 2 dB a second
        over_db = max(over_db, limits.over_floor_share * (self._peak_db - floor_db))
        return level_db > max(floor_db + over_db, self._peak_db - limits.below_peak_db, limits.lowest_db)


def activity(samples: np.ndarray) -> np.ndarray:
    """Whether each frame [T] of a recording [N] holds speech, judged by the recording's own quiet and loud parts."""
    power = power_spectra(samples)
    if len(power) == 0:
        return np.zeros(0, dtype=bool)
    level_db, voiced = energy_db(power), periodicity(power)[0]
    smooth_db = np.convolve(np.pad(level_db, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    loud_db = np.percentile(smooth_db, 95)
    floor_db = min(np.percentile(smooth_db, 5), loud_db - 15)
    over_db = np.where(voiced > 0.6, 5.0, 9.0)
    active = level_db > np.maximum(np.maximum(floor_db + over_db, loud_db - 36), -65)
    return active & (np.convolve(np.pad(active, 4), np.ones(9), mode="valid") >= 5)  # single frames are clicks


def trim(samples: np.ndarray, margin_s: float = 0.2) -> np.ndarray:
    """Samples [N] without the silence before and after speech, less `margin_s` of it; unchanged where none is found."""
    found = np.flatnonzero(activity(samples))
    if len(found) == 0:
        return samples
    margin = round(margin_s * SAMPLE_RATE_HZ)
    start = max(int(found[0]) * HOP_SAMPLES - margin, 0)
    return samples[start : int(found[-1]) * HOP_SAMPLES + WINDOW_SAMPLES + margin]


def segments(samples: np.ndarray, longest_s: float) -> list[tuple[int, int]]:
    """Cut sound [N] into pieces of at most `longest_s` at its quietest points: (start, stop) samples, without gaps.

    No piece is shorter than a quarter of the limit, unless the whole is. ValueError for a limit
    under a second.
    """
    if longest_s < 1.0:
        raise ValueError(f"longest_s is {longest_s}; pieces of at least 1 s can be cut at quiet points")
    longest = int(longest_s * SAMPLE_RATE_HZ)
    if len(samples) <= longest:
        return [(0, len(samples))]
    level_db = energy_db(power_spectra(samples))
    width = 15  # a pause between words, not the closure of a stop
    quiet = np.convolve(np.pad(level_db, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    cuts = [0]
    while len(samples) - cuts[-1] > longest:
        left = len(samples) - cuts[-1]
        low = max(min(left - longest, longest // 2), longest // 4)  # one cut is enough where it can be
        high = min(longest, left - longest // 4)
        first, last = ((cuts[-1] + at - WINDOW_SAMPLES // 2) // HOP_SAMPLES for at in (low, high))
        quietest = first + int(quiet[first:last].argmin())
        cuts.append(min(quietest * HOP_SAMPLES + WINDOW_SAMPLES // 2, cuts[-1] + longest))
    return list(pairwise([*cuts, len(samples)]))


#: Edges in Hz of the bands whose envelopes are looked at.
_BAND_EDGES_HZ = (100, 300, 600, 1200, 2400, 4800)
#: Logistic regression over `speech_features`: mean, scale and weight of each. Fitted on crops of LibriSpeech training
#: speakers (clean, noisy, reverberant, telephone band), SpeechBrain's noise samples and generated tones and noises.
_MEAN = np.array([0.378, 0.202, -0.783, 0.603, 0.624, 0.244, -1.153, 0.979, 1.105])
_SCALE = np.array([0.221, 0.262, 1.933, 0.343, 0.349, 0.291, 0.736, 0.587, 0.904])
_WEIGHT = np.array([0.536, -1.849, -0.095, -0.084, 2.313, -1.817, 1.721, 1.701, 0.766])
_BIAS = -1.627
#: Likelihood under which a recording is better answered with "I did not understand".
SPEECH_THRESHOLD = 0.3


def speech_features(samples: np.ndarray) -> np.ndarray:
    """Nine numbers [9] that tell speech from noise and tones; none depends on the level. Short sound is repeated to 1 s.

    Share of envelope modulation at syllable rate, 2 to 8 Hz, and above 16 Hz (after Scheirer and Slaney 1997), its
    depth; share of voiced frames, pitch that glides, pitch that stands still; spectral flatness; how much the
    spectrum's shape changes; range of the level.
    """
    sound = np.asarray(samples, dtype=np.float64)
    if 0 < len(sound) < SAMPLE_RATE_HZ:
        sound = np.tile(sound, -(-SAMPLE_RATE_HZ // len(sound)))
    power = power_spectra(sound)
    power = power + 1e-9 * power.max() + 1e-20
    hz = np.arange(power.shape[1]) * _BIN_HZ / 2
    level_db = energy_db(power)
    loud = level_db > np.percentile(level_db, 95) - 20
    bands = np.stack([power[:, (hz >= a) & (hz < b)].sum(1) for a, b in pairwise(_BAND_EDGES_HZ)], axis=1)
    middle = power[:, (hz >= 100) & (hz < 5000)]
    flatness = np.log(middle).mean(1) - np.log(middle.mean(1))
    shape = np.log(bands / bands.sum(1, keepdims=True) + 1e-3)
    level_range = np.percentile(level_db, 90) - np.percentile(level_db, 10)
    last = (flatness[loud].mean() / 5, shape[loud].std(0).mean(), level_range / 20)
    return np.array([*_modulation(np.sqrt(bands)), *_pitch_features(power, loud), *last])


def _modulation(envelopes: np.ndarray) -> tuple[float, float, float]:
    """(share at 2 to 8 Hz, share above 16 Hz, log depth) of band envelopes [T, bands], weighted by their loudness."""
    mean = envelopes.mean(0)
    weight = mean / mean.sum()
    spectrum = np.abs(np.fft.rfft((envelopes - mean) * np.hanning(len(envelopes))[:, None], axis=0)) ** 2
    hz = np.fft.rfftfreq(len(envelopes), 1 / FRAMES_PER_S)
    total = spectrum[(hz > 0.5) & (hz < 50)].sum(0) + 1e-12
    slow, fast = spectrum[(hz >= 2) & (hz <= 8)].sum(0) / total, spectrum[(hz >= 16) & (hz < 50)].sum(0) / total
    return float(slow @ weight), float(fast @ weight), float(np.log(envelopes.std(0) / mean + 1e-3) @ weight)


def _pitch_features(power: np.ndarray, loud: np.ndarray) -> tuple[float, float, float]:
    """(share of loud frames that are voiced, of their pitch steps that glide, that stand still)."""
    height, lag = periodicity(power)
    voiced = (height > 0.7) & loud
    both = voiced[1:] & voiced[:-1]
    step_octaves = np.abs(np.diff(np.log2(lag)))[both]
    if len(step_octaves) <= 5:
        return float(voiced.sum() / loud.sum()), 0.0, 0.0
    return float(voiced.sum() / loud.sum()), float((step_octaves < 0.08).mean()), float((step_octaves < 0.002).mean())


def speech_likelihood(samples: np.ndarray) -> float:
    """How likely samples [N] hold speech rather than noise, tones or clicks, in [0, 1]; see SPEECH_THRESHOLD.

    It knows nothing of words: babble, singing and foreign speech pass. 0 for digital silence and for nothing.
    """
    if len(samples) == 0 or not np.any(samples):
        return 0.0
    scaled = ((speech_features(samples) - _MEAN) / _SCALE).clip(-2.5, 2.5)
    return float(1 / (1 + np.exp(-(scaled @ _WEIGHT + _BIAS))))
