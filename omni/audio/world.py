"""WORLD acoustic frames: analysis of recordings and the record that flows from the decoder to a vocoder.

Source: Morise, Yokomori and Ozawa (2016), "WORLD: a vocoder-based high-quality speech synthesis system"; F0 by Harvest
(Morise 2017), envelope by CheapTrick (Morise 2015), aperiodicity by D4C (Morise 2016), through pyworld.

Shapes: N samples, T frames, C coded envelope coefficients, A coded aperiodicity bands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyworld

from omni.errors import InputError

SAMPLE_RATE_HZ = 16_000
FRAME_MS = 5.0
FFT_SAMPLES = 1024
#: Lowest F0 that CheapTrick can resolve with FFT_SAMPLES; a higher floor leaves the FFT size as it is.
PITCH_FLOOR_HZ, PITCH_CEILING_HZ = 71.0, 500.0
UNVOICED_PITCH_HZ = 160.0  # stands in where a whole clip has no pitch
#: The envelope is coded as a DCT of log power in nats whose first coefficient is the mean: dB that one unit of it is.
DB_PER_UNIT = 10.0 / np.log(10.0)


@dataclass(frozen=True)
class Frames:
    """Acoustic frames of one utterance, `frame_ms` apart.

    `envelope` float32 [T, C] coded log spectral envelope; `aperiodicity` float32 [T, A] coded, in dB (0 is all noise);
    `pitch_hz` float32 [T], interpolated where unvoiced, so never zero; `voiced` bool [T]. `clause_ends`: frame numbers
    (exclusive) at which a clause and its pause are over, ascending, the last one T; a vocoder that works a clause at a
    time cuts there.
    """

    envelope: np.ndarray
    aperiodicity: np.ndarray
    pitch_hz: np.ndarray
    voiced: np.ndarray
    frame_ms: float = FRAME_MS
    sample_rate_hz: int = SAMPLE_RATE_HZ
    clause_ends: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.pitch_hz)

    @property
    def duration_s(self) -> float:
        return len(self) * self.frame_ms / 1000

    @property
    def hop_samples(self) -> int:
        """Samples between two frames."""
        return round(self.sample_rate_hz * self.frame_ms / 1000)

    def cut(self, start: int, end: int) -> Frames:
        """Frames `start` to `end` (exclusive) as an utterance of their own."""
        return replace(
            self,
            envelope=self.envelope[start:end],
            aperiodicity=self.aperiodicity[start:end],
            pitch_hz=self.pitch_hz[start:end],
            voiced=self.voiced[start:end],
            clause_ends=tuple(e - start for e in self.clause_ends if start < e <= end),
        )

    def clauses(self) -> list[tuple[int, int]]:
        """(start, end) of each clause; one pair for the whole when nothing was marked."""
        ends = [e for e in self.clause_ends if 0 < e < len(self)]
        return list(zip([0, *ends], [*ends, len(self)]))


def track_pitch(
    samples: np.ndarray, floor_hz: float = PITCH_FLOOR_HZ, ceiling_hz: float = PITCH_CEILING_HZ
) -> np.ndarray:
    """F0 in Hz, 0 where unvoiced, of sound [N]: float64 [N // hop + 1].

    Harvest twice: the first pass finds the speaker's range, the second looks only there, which removes most octave
    errors (the two-pass rule of De Looze and Hirst 2008: 0.75 x lower and 1.5 x upper quartile, here wider).
    """
    signal = samples.astype(np.float64)
    first, _ = pyworld.harvest(signal, SAMPLE_RATE_HZ, floor_hz, ceiling_hz, FRAME_MS)
    heard = first[first > 0]
    if len(heard) < 20:
        return first
    low, high = np.quantile(heard, (0.25, 0.75))
    floor, ceiling = max(floor_hz, 0.6 * low), min(ceiling_hz, 1.9 * high)
    return np.where((first >= floor) & (first <= ceiling), first, 0.0)


def fill_pitch(pitch_hz: np.ndarray) -> np.ndarray:
    """F0 with its unvoiced zeros replaced by straight lines in log F0 between their voiced neighbours. [T] -> [T]."""
    voiced = np.flatnonzero(pitch_hz > 0)
    if len(voiced) == 0:
        return np.full(len(pitch_hz), UNVOICED_PITCH_HZ)
    return np.exp(np.interp(np.arange(len(pitch_hz)), voiced, np.log(pitch_hz[voiced])))


def analyse(samples: np.ndarray, cepstrum: int, pitch_hz: np.ndarray | None = None) -> Frames:
    """Frames of sound [N] at 16 kHz. `pitch_hz` [T] replaces Harvest's F0. InputError on sound shorter than 50 ms."""
    if len(samples) < SAMPLE_RATE_HZ // 20:
        raise InputError(f"{len(samples)} samples are too few for WORLD; give at least {SAMPLE_RATE_HZ // 20}")
    signal = np.ascontiguousarray(samples, dtype=np.float64)
    pitch = track_pitch(signal) if pitch_hz is None else np.ascontiguousarray(pitch_hz, dtype=np.float64)
    times = np.arange(len(pitch)) * FRAME_MS / 1000
    spectrum = pyworld.cheaptrick(signal, pitch, times, SAMPLE_RATE_HZ, fft_size=FFT_SAMPLES)
    noise = pyworld.d4c(signal, pitch, times, SAMPLE_RATE_HZ, fft_size=FFT_SAMPLES)
    return Frames(
        envelope=pyworld.code_spectral_envelope(spectrum, SAMPLE_RATE_HZ, cepstrum).astype(np.float32),
        aperiodicity=pyworld.code_aperiodicity(noise, SAMPLE_RATE_HZ).astype(np.float32),
        pitch_hz=fill_pitch(pitch).astype(np.float32),
        voiced=pitch > 0,
        clause_ends=(len(pitch),),
    )


def resynthesise(frames: Frames) -> np.ndarray:
    """Sound of frames by WORLD: float32 [T * hop]."""
    if len(frames) == 0:
        return np.zeros(0, np.float32)
    envelope = np.ascontiguousarray(frames.envelope, dtype=np.float64)
    coded = np.minimum(np.ascontiguousarray(frames.aperiodicity, dtype=np.float64), 0.0)
    spectrum = pyworld.decode_spectral_envelope(envelope, frames.sample_rate_hz, FFT_SAMPLES)
    noise = pyworld.decode_aperiodicity(coded, frames.sample_rate_hz, FFT_SAMPLES)
    pitch = np.where(frames.voiced, frames.pitch_hz, 0.0).astype(np.float64)
    noise = np.where(frames.voiced[:, None], noise, 1.0)
    samples = pyworld.synthesize(pitch, spectrum, noise, frames.sample_rate_hz, frames.frame_ms)
    wanted = len(frames) * frames.hop_samples
    out = np.zeros(wanted, np.float32)
    out[: min(wanted, len(samples))] = samples[:wanted]
    return out
