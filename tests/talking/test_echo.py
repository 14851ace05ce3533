"""A reply that leaks into the microphone at -20 dB never stops itself; a person who speaks over it does, at once."""

from __future__ import annotations

import numpy as np
import pytest

from omni.audio.io import read_audio
from omni.talking.detector import RATE_HZ, WINDOW_SAMPLES, SpeechDetector
from omni.talking.echo import EchoGuard
from tests.tiny import REPOSITORY

SOUNDS = sorted((REPOSITORY / "examples").glob("*.wav"))

#: A person's level over the reply's.
LEVELS_DB = (-3.0, 0.0, 6.0)


def leak(reply: np.ndarray, seed: int, gain_db: float) -> np.ndarray:
    """The reply as a microphone gets it: late, with a few reflections, at `gain_db`, in a little noise."""
    draw = np.random.default_rng(seed)
    room = np.zeros(1600)
    room[0] = 1.0
    room[draw.integers(40, 1600, 6)] = draw.uniform(-0.3, 0.3, 6)
    late = np.concatenate([np.zeros(draw.integers(100, 6000)), np.convolve(reply, room)])[: len(reply)]
    scale = np.sqrt(np.mean(np.square(reply)) / np.mean(np.square(late))) * 10 ** (gain_db / 20)
    return (late * scale + draw.standard_normal(len(reply)) * 1e-4).astype(np.float32)


def first_start(microphone: np.ndarray, reply: np.ndarray) -> int | None:
    """The sample at which speech is found while the reply plays, as a session looks for it."""
    guard, detector = EchoGuard(), SpeechDetector(0.7)
    guard.play(reply)
    for at in range(WINDOW_SAMPLES, len(microphone), WINDOW_SAMPLES):
        window = microphone[at - WINDOW_SAMPLES : at]
        found = detector.push(np.zeros_like(window) if guard.leaked(window, at) else window)
        if found:
            return found[0].known
    return None


@pytest.fixture(scope="module")
def replies() -> list[np.ndarray]:
    return [read_audio(path).samples for path in SOUNDS]


@pytest.mark.parametrize("number", range(20))
def test_no_false_stop_at_20_db(replies: list[np.ndarray], number: int) -> None:
    reply = replies[number % len(replies)]
    assert first_start(leak(reply, number, -20), reply) is None


def test_without_the_guard_it_would_stop_itself(replies: list[np.ndarray]) -> None:
    reply = replies[0]
    detector = SpeechDetector(0.7)
    assert detector.push(leak(reply, 0, -20))


@pytest.mark.parametrize("number", range(20))
def test_a_person_is_found_within_200_ms(replies: list[np.ndarray], number: int) -> None:
    reply, person = replies[number % len(replies)], replies[(number + 1) % len(replies)]
    microphone = leak(reply, number, -20)
    begins = RATE_HZ // 2 + number * 400
    alone = SpeechDetector(0.5).push(person)[0]
    onset = alone.known - 2 * WINDOW_SAMPLES  # where the detector hears speech begin when nothing else sounds
    spoken = person[onset:][: len(microphone) - begins]
    spoken = (
        spoken * np.sqrt(np.mean(np.square(reply)) / np.mean(np.square(spoken))) * 10 ** (LEVELS_DB[number % 3] / 20)
    )
    microphone[begins : begins + len(spoken)] += spoken
    found = first_start(microphone, reply)
    assert found is not None
    assert 0 < found - begins <= 0.2 * RATE_HZ


def test_nothing_played_guards_nothing() -> None:
    guard = EchoGuard()
    assert not guard.leaked(np.ones(512, np.float32), 5000)
    guard.play(np.zeros(16_000, np.float32))
    assert not guard.leaked(np.full(512, 1e-3, np.float32), 5000)
