"""Measures of sound against tones whose pitch, range, level and length are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omni.errors import DataError, ModelError
from omni.evaluation import sound

RATE = sound.SAMPLE_RATE_HZ


def glide(
    low_hz: float, high_hz: float, seconds: float = 1.5, level: float = 0.3, silence_s: float = 0.25
) -> np.ndarray:
    """A harmonic tone whose pitch rises evenly (in semitones), between two silences."""
    hz = np.geomspace(low_hz, high_hz, round(seconds * RATE))
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    quiet = np.zeros(round(silence_s * RATE))
    return np.concatenate([quiet, level * tone / np.abs(tone).max(), quiet]).astype(np.float32)


def test_pitch_range_and_length():
    found = sound.measure(glide(150, 300))
    assert found.pitch_hz == pytest.approx(150 * 2**0.5, rel=0.02)
    assert found.range_semitones == pytest.approx(0.9 * 12, rel=0.06)
    assert found.spread_semitones == pytest.approx(12 / 12**0.5, rel=0.06)
    assert found.spoken_s == pytest.approx(1.5, abs=0.03)


def test_level_does_not_depend_on_the_silence_around():
    loud, soft = sound.measure(glide(150, 300)), sound.measure(glide(150, 300, level=0.15, silence_s=1.0))
    assert loud.level_db - soft.level_db == pytest.approx(6.02, abs=0.2)
    assert loud.spoken_s == pytest.approx(soft.spoken_s, abs=0.03)


def test_contours_forget_height_spread_and_tempo():
    rising, falling = sound.contour(glide(120, 200)), sound.contour(glide(200, 120))
    higher = sound.contour(glide(200, 420, seconds=2.2))
    assert sound.contour_correlation(rising, higher) > 0.99
    assert sound.contour_correlation(rising, falling) < -0.99
    assert sound.contour_correlation(rising, rising) == pytest.approx(1.0)


def test_silence_and_whisper_are_refused():
    with pytest.raises(DataError, match="silent"):
        sound.measure(np.zeros(RATE, np.float32))
    hiss = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.05
    with pytest.raises(DataError, match="voiced"):
        sound.measure(np.concatenate([hiss * 0, hiss]) * (np.arange(2 * RATE) % 2 * 2 - 1).astype(np.float32))


def test_missing_nisqa_weights_are_named_and_never_fetched(tmp_path: Path):
    with pytest.raises(ModelError, match="--nisqa"):
        sound.nisqa_file(tmp_path / "nisqa.tar")
    (tmp_path / "other.tar").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"nisqa\.tar"):
        sound.nisqa_file(tmp_path / "other.tar")
