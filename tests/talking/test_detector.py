"""Speech is found where it is, however the sound is cut; noise and tones are not speech."""

from __future__ import annotations

import numpy as np
import pytest

from omni.audio.io import read_audio
from omni.errors import UsageError
from omni.talking.detector import Detected, SpeechDetector
from tests.tiny import REPOSITORY

RATE_HZ = 16_000


def quiet(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)) * 1e-4).astype(np.float32)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(REPOSITORY / "examples" / "driving_test.wav").samples


def found(sound: np.ndarray, size: int, **options: int) -> list[Detected]:
    detector = SpeechDetector(**options)
    return [event for at in range(0, len(sound), size) for event in detector.push(sound[at : at + size])]


def test_a_turn_is_found_where_it_is(speech: np.ndarray) -> None:
    sound = np.concatenate([quiet(1), speech, quiet(1)])
    started, ended = found(sound, 320, prefix_ms=100)
    assert (started.kind, ended.kind) == ("started", "ended")
    assert RATE_HZ <= started.sample < RATE_HZ + 0.6 * RATE_HZ
    assert len(sound) - 1.7 * RATE_HZ < ended.sample < len(sound) - 0.9 * RATE_HZ
    assert started.known - started.sample <= 3 * 512 + 1600
    assert 0 <= ended.known - ended.sample - RATE_HZ // 2 < 512


@pytest.mark.parametrize("size", [1, 160, 511, 512, 4000, 1_000_000])
def test_the_cut_does_not_matter(speech: np.ndarray, size: int) -> None:
    sound = np.concatenate([quiet(0.5), speech[:24_000] if size == 1 else speech, quiet(0.8)])
    assert found(sound, size) == found(sound, 640)


def test_a_longer_silence_is_waited_for(speech: np.ndarray) -> None:
    sound = np.concatenate([speech, quiet(0.8), speech, quiet(2.5)])
    assert len(found(sound, 512, silence_ms=300)) >= 4
    assert len(found(sound, 512, silence_ms=2000)) == 2


def test_noise_and_tones_are_no_speech() -> None:
    time = np.arange(3 * RATE_HZ) / RATE_HZ
    for sound in (quiet(3) * 300, (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), np.zeros(48_000)):
        assert found(sound, 512) == []


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 1.5}, {"silence_ms": -1}, {"prefix_ms": 99_999}])
def test_options_that_cannot_be(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="allowed"):
        SpeechDetector(**options)
