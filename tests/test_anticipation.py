"""A reply begun in a pause is the reply to the whole, comes sooner, and is thrown away when the talker goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from omni.anticipation import SHORTEST_SAMPLES, answered
from omni.audio.pauses import KEPT_SAMPLES, PauseFollower, without_silence_after
from tests.audio.test_pauses import query


def blocks(sound: np.ndarray, size: int = 320) -> list[np.ndarray]:
    return [sound[i : i + size] for i in range(0, len(sound), size)]


def after_pauses(sound: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks, with an empty one where a pause has become long enough to begin a reply in it."""
    follower, before = PauseFollower(), 0
    for block in sound:
        follower.push(block)
        yield block
        if (
            follower.end != before
            and follower.heard >= follower.end + KEPT_SAMPLES
            and follower.end >= SHORTEST_SAMPLES
        ):
            before = follower.end
            yield block[:0]


def pieces_of(samples: np.ndarray) -> Iterator[np.ndarray]:
    yield samples[:100]
    yield samples[100:]


@pytest.mark.parametrize("after_s", [0.0, 0.15, 0.5])
def test_the_pieces_are_those_of_the_whole(after_s: float) -> None:
    sound = query(after_s=after_s)
    found = np.concatenate(list(answered(blocks(sound), pieces_of)))
    np.testing.assert_array_equal(found, without_silence_after(sound))


def test_it_is_begun_in_each_pause_and_before_the_last_block() -> None:
    sound, begun, made = query(), [], threading.Semaphore(0)

    def answering(samples: np.ndarray) -> Iterator[np.ndarray]:
        begun.append(len(samples))
        made.release()
        yield samples

    def fed() -> Iterator[np.ndarray]:
        for block in after_pauses(blocks(sound)):
            yield block
            if len(block) == 0:
                assert made.acquire(timeout=5)  # an attempt is made in each pause, while blocks are still to come

    found = np.concatenate(list(answered(fed(), answering)))
    assert len(begun) == 2
    assert begun[0] < begun[1] == len(found)


def test_an_attempt_in_vain_stops_at_its_next_piece() -> None:
    sound, made, begun, go = query(), [], threading.Event(), threading.Event()

    def answering(samples: np.ndarray) -> Iterator[np.ndarray]:
        for number in range(50):
            made.append(len(samples))
            if number == 1:
                begun.set()
                go.wait(5)
            yield samples[:number]

    def fed() -> Iterator[np.ndarray]:
        for block in after_pauses(blocks(sound)):
            yield block
            if len(block) == 0:
                assert begun.wait(5)
        go.set()

    list(answered(fed(), answering))
    first = made.count(made[0])
    assert first <= 3
    assert len(made) - first == 50


def test_errors_reach_the_one_who_listens() -> None:
    def failing(samples: np.ndarray) -> Iterator[np.ndarray]:
        yield samples[:1]
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        list(answered(blocks(query()), failing))
    with pytest.raises(ValueError, match="no such thing"):
        list(answered([], failing))


def test_an_error_of_the_query_itself_reaches_the_one_who_listens() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros(320, np.float32)
        raise OSError("the microphone was unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(answered(broken(), pieces_of))


def test_an_interrupt_stops_answering_at_once_and_the_intake_with_it() -> None:
    stopped = threading.Event()

    def endless() -> Iterator[np.ndarray]:
        try:
            yield from blocks(query())
            while True:
                yield np.zeros(320, np.float32)
                time.sleep(0.001)
        finally:
            stopped.set()

    def answering(samples: np.ndarray) -> Iterator[np.ndarray]:
        yield samples[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(answered(endless(), answering))
    assert stopped.wait(5)
