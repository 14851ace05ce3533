"""WORLD frames: round trips, pitch, cuts."""

import itertools

import numpy as np
import pytest

from omni.audio import world
from omni.audio.alignment import SILENCE, uniform
from omni.errors import DataError, InputError


def vowel(pitch_hz: float, seconds: float = 0.6) -> np.ndarray:
    """A buzz through two resonances."""
    from scipy.signal import lfilter

    count = int(16_000 * seconds)
    phase = np.cumsum(np.full(count, pitch_hz / 16_000))
    sound = np.diff(np.floor(phase), prepend=0.0)
    for centre, width in ((700, 90), (1200, 110)):
        radius = np.exp(-np.pi * width / 16_000)
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / 16_000), radius**2], sound)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture(scope="module")
def frames() -> world.Frames:
    return world.analyse(vowel(150.0), 40)


def test_pitch_of_a_buzz_is_found(frames: world.Frames) -> None:
    middle = slice(30, 90)
    assert frames.voiced[middle].mean() > 0.95
    assert np.median(frames.pitch_hz[middle]) == pytest.approx(150.0, rel=0.02)
    assert (frames.pitch_hz > 0).all()


def test_resynthesis_keeps_length_and_loudness(frames: world.Frames) -> None:
    made, sound = world.resynthesise(frames), vowel(150.0)
    assert len(made) == len(frames) * frames.hop_samples
    level = [20 * np.log10(np.sqrt(np.mean(x[2000:7000] ** 2))) for x in (made, sound)]
    assert level[0] == pytest.approx(level[1], abs=2.0)


def test_one_unit_of_the_first_coefficient_is_db_per_unit(frames: world.Frames) -> None:
    louder = world.Frames(
        frames.envelope + np.eye(1, frames.envelope.shape[1], dtype=np.float32),
        frames.aperiodicity, frames.pitch_hz, frames.voiced,
    )  # fmt: skip
    ratio = np.sqrt(np.mean(world.resynthesise(louder) ** 2) / np.mean(world.resynthesise(frames) ** 2))
    assert 20 * np.log10(ratio) == pytest.approx(world.DB_PER_UNIT, abs=0.4)


def test_cut_keeps_frames_and_moves_clause_ends(frames: world.Frames) -> None:
    marked = world.Frames(
        frames.envelope, frames.aperiodicity, frames.pitch_hz, frames.voiced, clause_ends=(40, 80, len(frames))
    )
    assert marked.clauses() == [(0, 40), (40, 80), (80, len(frames))]
    part = marked.cut(30, 90)
    assert len(part) == 60
    assert part.clause_ends == (10, 50)
    assert np.array_equal(part.pitch_hz, frames.pitch_hz[30:90])


def test_fill_pitch_draws_lines_in_log_f0() -> None:
    filled = world.fill_pitch(np.array([0.0, 100.0, 0.0, 400.0, 0.0]))
    assert filled == pytest.approx([100.0, 100.0, 200.0, 400.0, 400.0])
    assert world.fill_pitch(np.zeros(3)) == pytest.approx([world.UNVOICED_PITCH_HZ] * 3)


def test_too_short_a_sound_is_refused() -> None:
    with pytest.raises(InputError, match="at least 800"):
        world.analyse(np.zeros(100, np.float32), 40)


def test_uniform_alignment_covers_the_sound_without_gaps() -> None:
    segments = uniform(np.zeros(16_000, np.float32), "hello there")
    assert segments[0].phone == segments[-1].phone == SILENCE
    assert sum(s.length for s in segments) == 100
    assert all(a.start + a.length == b.start for a, b in itertools.pairwise(segments))
    assert {s.word for s in segments} == {-1, 0, 1}
    with pytest.raises(DataError, match="too few"):
        uniform(np.zeros(1600, np.float32), "hello there")
