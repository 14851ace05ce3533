"""A reply begun in a pause is the reply to the whole, comes sooner, and is thrown away when the talker goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from omni.anticipation import answered
from omni.audio.pauses import without_silence_after
from tests.audio.test_pauses import query


def blocks(sound: np.ndarray, size: int = 320) -> list[np.ndarray]:
    return [sound[i : i + size] for i in range(0, len(sound), size)]


def pieces_of(samples: np.ndarray) -> Iterator[np.ndarray]:
    yield samples[:100]
    yield samples[100:]


@pytest.mark.parametrize("after_s", [0.0, 0.15, 0.5])
def test_the_pieces_are_those_of_the_whole(after_s: float) -> None:
    sound = query(after_s=after_s)
    found = np.concatenate(list(answered(blocks(sound), pieces_of)))
    np.testing.assert_array_equal(found, without_silence_after(sound))


def test_it_is_begun_in_each_pause_and_before_the_last_block() -> None:
    sound, begun, done = query(), [], threading.Event()

    def answering(samples: np.ndarray) -> Iterator[np.ndarray]:
        begun.append(len(samples))
        if len(begun) == 2:
            done.set()
        yield samples

    def fed() -> Iterator[np.ndarray]:
        yield from blocks(sound)
        assert done.wait(5)  # the second attempt was made while blocks were still coming

    found = np.concatenate(list(answered(fed(), answering)))
    assert len(begun) == 2
    assert begun[0] < begun[1] == len(found)


def test_an_attempt_in_vain_stops_at_its_next_piece() -> None:
    sound, made, go = query(), [], threading.Event()

    def answering(samples: np.ndarray) -> Iterator[np.ndarray]:
        for number in range(50):
            made.append(len(samples))
            if number == 1:
                go.wait(5)
            yield samples[:number]

    def fed() -> Iterator[np.ndarray]:
        yield from blocks(sound)
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
