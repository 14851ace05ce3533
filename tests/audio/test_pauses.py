"""The end of the sound is found as it comes in, and cutting there loses nothing that was said."""

from __future__ import annotations

import numpy as np
import pytest

from omni.audio.pauses import KEPT_SAMPLES, PauseFollower, without_silence_after

RATE = 16_000


def talk(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    count = int(RATE * seconds)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE)
    return (level * syllables * generator.standard_normal(count)).astype(np.float32)


def query(noise: float = 0.0, pause_s: float = 0.4, after_s: float = 1.0) -> np.ndarray:
    quiet = [np.zeros(int(RATE * s), np.float32) for s in (0.3, pause_s, after_s)]
    sound = np.concatenate([quiet[0], talk(0.9, 0.1), quiet[1], talk(0.7, 0.05, 1), quiet[2]])
    return sound + noise * np.random.default_rng(2).standard_normal(len(sound)).astype(np.float32)


def end_of(sound: np.ndarray) -> int:
    follower = PauseFollower()
    follower.push(sound)
    return follower.end


def test_the_end_of_the_sound() -> None:
    true = int(RATE * (0.3 + 0.9 + 0.4 + 0.7))
    assert abs(end_of(query()) - true) <= 480
    assert abs(end_of(query(noise=0.001)) - true) <= 800
    assert len(without_silence_after(query())) == end_of(query()) + KEPT_SAMPLES


@pytest.mark.parametrize("size", [1, 7, 160, 320, 1000, 8000])
def test_blocks_do_not_matter(size: int) -> None:
    sound = query(noise=0.0005)[: 2 * RATE]
    follower = PauseFollower()
    for start in range(0, len(sound), size):
        follower.push(sound[start : start + size])
    assert follower.end == end_of(sound)
    assert follower.heard == len(sound)


def test_what_was_an_end_stays_one_until_more_is_said() -> None:
    """Causal: looking at more silence finds the same end; at more speech a later one."""
    sound = query()
    first_end = end_of(sound[: int(RATE * 1.5)])
    assert abs(first_end - int(RATE * 1.2)) <= 480
    for seconds in (1.45, 1.5, 1.55):
        assert end_of(sound[: int(RATE * seconds)]) == first_end
    assert end_of(sound[: int(RATE * 2.0)]) > first_end


def test_steady_noise_silence_and_nothing_are_kept_whole() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.05
    assert len(without_silence_after(noise)) == RATE
    assert len(without_silence_after(np.zeros(RATE, np.float32))) == RATE
    assert len(without_silence_after(np.zeros(0, np.float32))) == 0
    assert len(without_silence_after(np.zeros(50, np.float32))) == 50


def test_what_is_no_number_is_not_cut_away() -> None:
    sound = query()
    sound[-2000] = np.nan
    assert np.isnan(without_silence_after(sound)).any()
