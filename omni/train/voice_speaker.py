"""Statistics of one speaker's recordings, and the prosody of units and utterances measured against them.

Shapes: L units, T frames of 5 ms, C envelope, A aperiodicity, K knots per unit (3), S axes of `style.AXES`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from omni.audio.world import fill_pitch
from omni.models.prosody import KNOT_PLACES
from omni.phones import PAUSES, VOICE_ID
from omni.train.voice_data import FRAMES_PER_UNIT_STEP, Recording, cut_spans

PAUSE_IDS = np.array([VOICE_ID[p] for p in PAUSES])


@dataclass(frozen=True)
class Speaker:
    """A speaker's recordings and their means and spreads; pitch in nats of log F0."""

    name: str
    recordings: list[Recording]
    envelope_mean: np.ndarray
    envelope_scale: np.ndarray
    noise_mean: np.ndarray
    noise_scale: np.ndarray
    pitch_mean: float
    pitch_scale: float
    pitch_limits: tuple[float, float]  # Hz; what lies outside is an error of tracking
    prosody_mean: np.ndarray  # [S]
    prosody_scale: np.ndarray  # [S]

    pauses = PAUSE_IDS

    @classmethod
    def of(cls, name: str, recordings: list[Recording]) -> Speaker:
        """Measure a speaker."""
        envelope = np.concatenate([r.envelope for r in recordings])
        noise = np.concatenate([r.aperiodicity[r.pitch_hz > 0] for r in recordings])
        noise = noise if len(noise) else np.zeros((1, recordings[0].aperiodicity.shape[1]), np.float32)
        heard = np.concatenate([r.pitch_hz[r.pitch_hz > 0] for r in recordings])
        heard = heard if len(heard) else np.full(1, 160.0)
        low, high = np.quantile(heard, (0.25, 0.75))
        limits = (float(0.6 * low), float(1.9 * high))
        logs = np.log(heard[(heard >= limits[0]) & (heard <= limits[1])])
        axes = np.zeros(7)
        rough = cls(
            name, recordings, envelope.mean(axis=0), envelope.std(axis=0) + 1e-3, noise.mean(axis=0),
            noise.std(axis=0) + 1e-2, float(logs.mean()), float(max(logs.std(), 0.05)), limits, axes, axes + 1,
        )  # fmt: skip
        draw, rows = random.Random(1), []
        for _ in range(min(200, 10 * len(recordings))):
            recording = draw.choice(recordings)
            span = cut_spans(recording, draw, draw.randrange(150, 600))
            cut = slice(
                span.start * FRAMES_PER_UNIT_STEP, (span.start + int(span.lengths.sum())) * FRAMES_PER_UNIT_STEP
            )
            pitch, voiced = rough.pitch(recording, cut)
            frames = (recording.envelope[cut] - rough.envelope_mean) / rough.envelope_scale
            rows.append(utterance_prosody(pitch, voiced, frames, span.lengths, np.isin(span.units, PAUSE_IDS)))
        found = np.stack(rows)
        return cls(**{**rough.__dict__, "prosody_mean": found.mean(axis=0), "prosody_scale": found.std(axis=0) + 1e-3})

    def pitch(self, recording: Recording, cut: slice) -> tuple[np.ndarray, np.ndarray]:
        """(normalised log F0 without gaps, voiced) of a stretch of frames, both float32."""
        raw = recording.pitch_hz
        voiced = (raw >= self.pitch_limits[0]) & (raw <= self.pitch_limits[1])
        filled = fill_pitch(np.where(voiced, raw, 0.0)) if voiced.any() else np.full(len(raw), np.exp(self.pitch_mean))
        normalised = (np.log(filled) - self.pitch_mean) / self.pitch_scale
        return normalised[cut].astype(np.float32), voiced[cut].astype(np.float32)

    def z_score(self, prosody: np.ndarray) -> np.ndarray:
        """Utterance prosody [S] against the speaker's own spread, within 2.5."""
        return np.clip((prosody - self.prosody_mean) / self.prosody_scale, -2.5, 2.5)


def unit_means(values: np.ndarray, lengths: np.ndarray, ratio: int) -> np.ndarray:
    """Mean of frame values [T] in each unit: [L]."""
    edges = np.concatenate(([0], np.cumsum(lengths * ratio)))[:-1]
    return (np.add.reduceat(values, edges) / (lengths * ratio)).astype(np.float32)


def knots_of(pitch: np.ndarray, lengths: np.ndarray, ratio: int) -> np.ndarray:
    """Pitch around 1/6, 1/2 and 5/6 of each unit (means over 30 ms): [L, K]."""
    smooth = np.convolve(np.pad(pitch, 3, mode="edge"), np.ones(7) / 7, mode="valid")
    ends = np.cumsum(lengths) * ratio
    places = (ends - lengths * ratio)[:, None] + lengths[:, None] * ratio * np.array(KNOT_PLACES) - 0.5
    return np.interp(places, np.arange(len(smooth)), smooth).astype(np.float32)


def utterance_prosody(
    pitch: np.ndarray, voiced: np.ndarray, envelope: np.ndarray, lengths: np.ndarray, pause: np.ndarray
) -> np.ndarray:
    """The seven measures of `style.AXES` of one span, not yet z-scores: [S]."""
    heard = voiced > 0
    if heard.sum() < 10:
        return np.zeros(7)
    times = np.flatnonzero(heard) / len(heard)
    values = pitch[heard]
    rate = np.log((~pause).sum() / max(lengths[~pause].sum(), 1))
    slope = np.polyfit(times, values, 1)[0] if len(heard) > 100 else 0.0
    tilt = envelope[heard, 1].mean() if envelope.shape[1] > 1 else 0.0
    final = values[-60:].mean() - values.mean()
    return np.array([values.mean(), np.log(values.std() + 0.05), rate, envelope[heard, 0].mean(), tilt, slope, final])
