"""The clock of the bench: blocks come when they would be spoken, and the wait is counted to the first audible sample."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from omni.evaluation import memory, pace
from omni.evaluation.pace import Paced, play


class Clock:
    """Time that passes only while somebody sleeps or works."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_blocks_come_at_the_pace_of_speech_and_lose_nothing(clock):
    samples = np.arange(16_000 // 5 + 77, dtype=np.float32)
    query = Paced(samples)
    blocks, times = [], []
    for block in query:
        blocks.append(block)
        times.append(clock.now_s - 100.0)
    assert np.array_equal(np.concatenate(blocks), samples)
    assert {len(b) for b in blocks[:-1]} == {320}
    assert times == pytest.approx([*(0.02 * (i + 1) for i in range(10)), len(samples) / 16_000])
    assert query.ended_s - 100.0 == pytest.approx(len(samples) / 16_000)


def test_a_slow_listener_does_not_move_the_end_of_the_query(clock):
    query = Paced(np.zeros(3200, np.float32))
    for _ in query:
        clock.sleep(0.05)
    assert clock.now_s - 100.0 > 0.45
    assert query.ended_s - 100.0 == pytest.approx(0.2)


def pieces(clock: Clock, *steps: tuple[float, float, float]) -> Iterator[np.ndarray]:
    """Pieces of (seconds of work, seconds of sound, level)."""
    for work_s, sound_s, level in steps:
        clock.sleep(work_s)
        yield np.full(round(sound_s * 16_000), level, np.float32)


def test_silence_at_the_start_of_the_reply_is_waiting(clock):
    played = play(pieces(clock, (0.02, 0.3, 0.001), (0.0, 0.1, 0.5)))
    assert played.first_audible_s - 100.0 == pytest.approx(0.32)
    assert played.sound_s == pytest.approx(0.4)
    assert played.gaps_s == 0.0
    assert played.ready_s - 100.0 == pytest.approx(0.02)


def test_a_late_piece_is_a_gap(clock):
    assert play(pieces(clock, (0.0, 0.05, 0.5), (0.2, 0.05, 0.5))).gaps_s == pytest.approx(0.15)
    assert play(pieces(clock, (0.0, 0.5, 0.5), (0.2, 0.05, 0.5))).gaps_s == 0.0


def test_a_reply_without_sound_is_never_heard(clock):
    assert play(pieces(clock, (0.0, 0.1, 0.001))).first_audible_s == float("inf")
    assert play(iter(())).first_audible_s == float("inf")


def test_memory_is_that_of_the_program_not_of_its_parent():
    ballast = np.ones(60_000_000 // 8)
    code = "from omni.evaluation.memory import peak_mb; print(peak_mb())"
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert memory.peak_mb() > 60
    assert 5 < child < memory.peak_mb()
    assert ballast.sum() > 0
