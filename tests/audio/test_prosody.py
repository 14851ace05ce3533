"""Prosody: the tracker finds the pitch that was put in, gain changes nothing, and the clock is the log-mels'."""

import math

import numpy as np
import pytest
import torch

from omni.audio import prosody
from omni.audio.features import log_mel
from omni.errors import InputError

RATE = 16_000


def voice(hz: float | torch.Tensor, seconds: float = 1.0) -> torch.Tensor:
    """A buzz of ten falling harmonics."""
    count = round(seconds * RATE)
    phase = 2 * math.pi * torch.cumsum(torch.as_tensor(hz, dtype=torch.float64).expand(count) / RATE, 0)
    return sum(torch.sin(k * phase) / k for k in range(1, 11)).float() * 0.1


@pytest.mark.parametrize("hz", [80.0, 120.0, 217.0, 350.0, 560.0])
def test_pitch_of_a_steady_voice(hz):
    found = prosody.pitch(voice(hz))
    assert found.voiced[5:-5].all()
    assert np.allclose(found.hz[5:-5], hz, rtol=0.01)


def test_pitch_follows_a_glide():
    wanted = torch.linspace(110, 260, RATE)
    found = prosody.pitch(voice(wanted))
    middle = slice(8, 92)
    assert np.abs(found.hz[middle] / wanted[::160].numpy()[middle] - 1).max() < 0.03


def test_noise_and_silence_are_unvoiced():
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(1))
    assert prosody.pitch(noise).voiced.mean() < 0.1
    assert not prosody.pitch(torch.zeros(RATE)).voiced.any()


def test_silence_inside_a_clip_is_unvoiced():
    clip = torch.cat([voice(150), torch.zeros(RATE // 2), voice(150)])
    voiced = prosody.pitch(clip).voiced
    assert voiced[10:90].all()
    assert not voiced[106:144].any()


@pytest.mark.parametrize("count", [400, 401, 1599, 16_000, 16_161])
def test_same_clock_as_log_mels(count):
    clip = voice(200, 2.0)[:count]
    assert prosody.frames(clip).shape == (len(log_mel(clip)), len(prosody.CHANNELS))


def test_gain_changes_nothing():
    clip = voice(torch.linspace(110, 260, RATE)) + 0.001 * torch.randn(RATE, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(prosody.frames(clip), prosody.frames(0.01 * clip), atol=2e-2)


def test_rising_pitch_has_a_positive_slope_of_the_right_size():
    octave_a_second = 120 * 2 ** torch.linspace(0, 1, RATE)
    slope = prosody.frames(voice(octave_a_second))[15:85, prosody.CHANNELS.index("pitch_slope")]
    assert slope.mean() == pytest.approx(0.1, abs=0.02)


def test_at_level_and_silence():
    assert prosody.active_level_db(prosody.at_level(voice(100), -31.0)) == pytest.approx(-31.0, abs=0.1)
    assert torch.equal(prosody.at_level(torch.zeros(1000)), torch.zeros(1000))
    assert bool(prosody.frames(torch.zeros(1000)).isfinite().all())


def test_bridged_draws_lines_across_gaps():
    assert np.allclose(prosody.bridged(np.array([0, 180, 0, 0, 360, 0.0])), [0, 0, 1 / 3, 2 / 3, 1, 1])
    assert not prosody.bridged(np.zeros(4)).any()


def test_too_short_is_refused_with_the_legal_length():
    with pytest.raises(InputError, match="400 samples"):
        prosody.frames(torch.zeros(399))
