"""A style laid over speech changes pitch, range, pace and level by its factors, and nothing where it asks for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from omni.audio.restyling import restyle
from omni.audio.world import track_pitch
from omni.turns import Style
from tests.tiny import voiced_clip


def pitch_of(samples: np.ndarray) -> tuple[float, float]:
    """Median of log F0 and the distance of its quartiles, the clip's edges left out; neither minds octave errors."""
    pitch = track_pitch(samples)
    heard = np.log(pitch[pitch > 0])[10:-10]
    low, middle, high = np.quantile(heard, (0.25, 0.5, 0.75))
    return float(middle), float(high - low)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return voiced_clip(2.0, 150.0)


def test_a_neutral_style_leaves_every_sample(clip: np.ndarray) -> None:
    assert np.array_equal(restyle(clip, Style()), clip)


@pytest.mark.parametrize("factor", [0.9, 1.15])
def test_pitch(clip: np.ndarray, factor: float) -> None:
    found = restyle(clip, Style("x", pitch=factor))
    assert len(found) == len(clip)
    assert pitch_of(found)[0] - pitch_of(clip)[0] == pytest.approx(np.log(factor), abs=0.02)
    assert pitch_of(found)[1] == pytest.approx(pitch_of(clip)[1], rel=0.15)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_range(clip: np.ndarray, factor: float) -> None:
    found = restyle(clip, Style("x", pitch_range=factor))
    assert pitch_of(found)[1] / pitch_of(clip)[1] == pytest.approx(factor, rel=0.15)
    assert pitch_of(found)[0] == pytest.approx(pitch_of(clip)[0], abs=0.04)  # the median is not quite the mean


@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_pace(clip: np.ndarray, factor: float) -> None:
    found = restyle(clip, Style("x", rate=factor))
    assert len(found) == round(len(clip) / factor)
    assert pitch_of(found)[0] == pytest.approx(pitch_of(clip)[0], abs=0.02)


def test_level_and_no_clipping(clip: np.ndarray) -> None:
    quiet = 0.1 * clip
    assert np.allclose(restyle(quiet, Style("x", energy_db=-6.0)), quiet * 10 ** (-6 / 20))
    assert np.abs(restyle(clip, Style("x", energy_db=40.0))).max() <= 1.0


def test_silence_stays_silent() -> None:
    assert np.abs(restyle(np.zeros(8000, np.float32), Style("x", pitch=1.2))).max() < 1e-3
