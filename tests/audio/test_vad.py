"""Voice activity: streaming equals whole, turns end where speech ends, cuts are gapless, noise is not speech."""

from itertools import pairwise

import numpy as np
import pytest

from omni.audio.vad import (
    SPEECH_THRESHOLD,
    TurnDetector,
    TurnSettings,
    activity,
    energy_db,
    periodicity,
    power_spectra,
    segments,
    speech_features,
    speech_likelihood,
    trim,
)

RATE = 16_000


def babble(seconds, seed=0):
    """A stand-in for speech: syllables of a gliding voice through two moving resonances, hisses between them."""
    draw = np.random.default_rng(seed)
    sound = np.zeros(int(seconds * RATE))
    start = 0
    while start < len(sound):
        count = min(int(draw.uniform(0.08, 0.25) * RATE), len(sound) - start)
        if draw.random() < 0.25:
            piece = np.diff(draw.standard_normal(count + 1)) * 0.05
        else:
            pitch = draw.uniform(100, 160) * 2 ** (np.linspace(0, draw.uniform(-0.3, 0.3), count))
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            first, second = draw.uniform(300, 800), draw.uniform(900, 2500)
            piece = np.zeros(count)
            for k in range(1, 30):
                hz = k * pitch.mean()
                height = np.exp(-(((hz - first) / 150) ** 2)) + 0.5 * np.exp(-(((hz - second) / 250) ** 2)) + 0.01
                piece += height * np.sin(k * phase)
            piece *= 0.3 / np.abs(piece).max() * draw.uniform(0.4, 1.0)
        sound[start : start + count] += piece * np.hanning(count)
        start += count
    return sound.astype(np.float32)


def noise(seconds, level=1e-3, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def spoken(before=1.0, middle=3.0, after=1.5, level=1e-3):
    sound = np.concatenate([np.zeros(int(before * RATE)), babble(middle), np.zeros(int(after * RATE))])
    return (sound + noise(before + middle + after, level)[: len(sound)]).astype(np.float32)


def events(sound, block, settings=None):
    detector = TurnDetector(settings)
    return [event for i in range(0, len(sound), block) for event in detector.push(sound[i : i + block])]


@pytest.mark.parametrize("block", [37, 320, 777, 4000])
def test_streaming_equals_whole(block):
    sound = spoken(0.3, 0.8, 0.8)
    assert events(sound, block) == events(sound, len(sound))
    assert len(events(sound, block)) == 2


@pytest.mark.parametrize("level", [0.0, 1e-4, 1e-3, 5e-3])
def test_a_turn_starts_and_ends_where_speech_does(level):
    start, end = events(spoken(level=level), 320)
    assert (start.kind, end.kind) == ("start", "end")
    assert abs(start.at_sample / RATE - 1.0) < 0.15
    assert abs(end.at_sample / RATE - 4.0) < 0.15
    assert 0.55 < (end.known_at_sample - end.at_sample) / RATE < 0.7


def test_a_short_pause_does_not_end_the_turn_and_a_long_one_does():
    for pause_s, count in ((0.4, 2), (1.0, 4)):
        sound = np.concatenate([babble(1.5), np.zeros(int(pause_s * RATE)), babble(1.5, 1), np.zeros(RATE)])
        assert len(events(sound.astype(np.float32), 320)) == count
    patient = TurnSettings(end_silence_s=1.5)
    sound = np.concatenate([babble(1.5), np.zeros(RATE), babble(1.5, 1), np.zeros(2 * RATE)]).astype(np.float32)
    assert len(events(sound, 320, patient)) == 2


@pytest.mark.parametrize("sound", [np.zeros(3 * RATE, dtype=np.float32), noise(3.0, 1e-3), noise(3.0, 3e-5)])
def test_silence_and_quiet_noise_start_nothing(sound):
    assert events(sound, 320) == []


def test_loud_noise_ends_by_itself():
    """Noise from the first sample may pass for speech until the floor has followed it."""
    detector, sound = TurnDetector(), noise(6.0, 0.1)
    for i in range(0, len(sound), 320):
        detector.push(sound[i : i + 320])
    assert not detector.speaking


def test_level_does_not_matter_to_trimming():
    sound = spoken()
    for gain in (0.1, 1.0, 3.0):
        trimmed = trim(sound * gain)
        assert abs(len(trimmed) / RATE - 3.4) < 0.25
    assert len(trim(sound, margin_s=0.0)) < len(trim(sound)) < len(sound)


def test_trimming_keeps_what_it_cannot_judge():
    for sound in (np.zeros(RATE, dtype=np.float32), np.zeros(100, dtype=np.float32), np.zeros(0, dtype=np.float32)):
        assert np.array_equal(trim(sound), sound)
    assert len(activity(np.zeros(511))) == 0
    assert len(activity(np.zeros(512))) == 1


@pytest.mark.parametrize("seconds", [0.0, 3.0, 10.0, 10.5, 14.0, 20.1, 47.3])
def test_segments_have_no_gaps_and_no_crumbs(seconds):
    sound = noise(seconds, 0.1)
    pieces = segments(sound, 10.0)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(sound)
    assert all(a[1] == b[0] for a, b in pairwise(pieces))
    lengths = [stop - start for start, stop in pieces]
    assert max(lengths) <= 10 * RATE
    if len(pieces) > 1:
        assert min(lengths) >= 2.4 * RATE


def test_cuts_fall_into_pauses():
    parts, pauses = [], []
    for seed in range(8):
        parts += [babble(3.0, seed), np.zeros(RATE // 2, dtype=np.float32)]
        pauses.append((3.5 * seed + 3.0, 3.5 * seed + 3.5))
    for _, stop in segments(np.concatenate(parts), 10.0)[:-1]:
        assert any(a <= stop / RATE <= b for a, b in pauses), stop / RATE


def test_a_limit_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"longest_s is 0\.5"):
        segments(noise(3.0), 0.5)


def seconds(count=3.0):
    return np.arange(int(count * RATE)) / RATE


def pink(count=3.0):
    spectrum = np.fft.rfft(noise(count, 0.1))
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)))


NOT_SPEECH = {
    "white noise": noise(3.0, 0.1),
    "pink noise": pink(),
    "brown noise": np.cumsum(noise(3.0, 0.01)),
    "tone": 0.3 * np.sin(2 * np.pi * 440 * seconds()),
    "harmonic tone": sum(0.1 / k * np.sin(2 * np.pi * 150 * k * seconds()) for k in range(1, 10)),
    "chord": sum(0.1 * np.sin(2 * np.pi * hz * seconds()) for hz in (262, 330, 392)),
    "mains hum": sum(0.1 / k * np.sin(2 * np.pi * 50 * k * seconds()) for k in (1, 2, 3)) + noise(3.0),
    "beeps": 0.3 * np.sin(2 * np.pi * 1000 * seconds()) * (seconds() % 0.5 < 0.25),
    "chirp": 0.3 * np.sin(2 * np.pi * (100 * seconds() + 200 * seconds() ** 2)),
    "silence": np.zeros(3 * RATE),
    "nothing": np.zeros(0),
}


@pytest.mark.parametrize("name", list(NOT_SPEECH))
def test_noise_and_tones_are_not_speech(name):
    assert speech_likelihood(NOT_SPEECH[name]) < SPEECH_THRESHOLD


@pytest.mark.parametrize("length_s", [1.0, 3.0, 8.0])
def test_what_moves_like_speech_is(length_s):
    for seed in range(3):
        sound = babble(length_s, seed)
        assert speech_likelihood(sound) > 0.5
        assert abs(speech_likelihood(sound) - speech_likelihood(0.01 * sound)) < 0.02  # whatever the level


@pytest.mark.parametrize("count", [1, 100, 511, 1600, 15_999])
def test_features_are_finite_for_any_length(count):
    assert np.isfinite(speech_features(noise(2.0, 0.1)[:count])).all()
    assert 0.0 <= speech_likelihood(np.ones(count)) <= 1.0


def test_levels_and_periodicity():
    sine = np.sin(2 * np.pi * 200 * seconds(1.0))
    power = power_spectra(sine)
    assert len(power) == (RATE - 512) // 160 + 1
    assert np.allclose(energy_db(power), 0.0, atol=0.1)
    height, lag = periodicity(power)
    assert height.min() > 0.95
    assert np.abs(lag - 80).max() <= 1
    assert np.median(periodicity(power_spectra(noise(1.0, 0.1)))[0]) < 0.4
