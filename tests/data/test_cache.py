"""The feature cache: what it holds equals the front end, it is built once, and a broken build leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from omni.audio.features import log_mel
from omni.data.cache import FeatureCache
from omni.data.manifest import Clip
from tests.tiny import SAMPLE_RATE_HZ, voiced_clip


@pytest.fixture
def recorded(tmp_path: Path) -> list[Clip]:
    found = []
    for number, seconds in enumerate((0.31, 0.5, 0.123)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, voiced_clip(seconds, 120 + 40 * number, number), SAMPLE_RATE_HZ, subtype="FLOAT")
        found.append(Clip(f"clip-{number}", path, "someone", "yes"))
    return found


def mel_of(clip: Clip) -> np.ndarray:
    samples, _ = soundfile.read(clip.audio, dtype="float32")
    return log_mel(torch.from_numpy(samples)).numpy()


def test_features_equal_the_front_end(recorded: list[Clip], tmp_path: Path) -> None:
    cache = FeatureCache(recorded, tmp_path / "features", "train")
    assert len(cache) == 3
    for index, clip in enumerate(recorded):
        assert cache[index].dtype == np.float16
        assert cache.frames(index) == len(cache[index])
        np.testing.assert_allclose(cache[index].astype(np.float32), mel_of(clip), atol=0.01)


def test_it_is_built_once(recorded: list[Clip], tmp_path: Path) -> None:
    calls: list[int] = []

    def louder(samples: np.ndarray, index: int) -> np.ndarray:
        calls.append(index)
        return samples * 2

    first = FeatureCache(recorded, tmp_path / "f", "loud", louder)
    again = FeatureCache(recorded, tmp_path / "f", "loud", louder)
    assert sorted(calls) == [0, 1, 2]
    np.testing.assert_array_equal(first[1], again[1])
    plain = FeatureCache(recorded, tmp_path / "f", "plain")
    assert float((first[1].astype(np.float32) - plain[1].astype(np.float32)).mean()) > 1.0


def test_other_clips_are_another_file(recorded: list[Clip], tmp_path: Path) -> None:
    both = FeatureCache(recorded[:2], tmp_path / "f", "train")
    other = FeatureCache(recorded[1:], tmp_path / "f", "train")
    assert both.path != other.path
    np.testing.assert_array_equal(both[1], other[0])


def test_a_build_that_fails_leaves_no_file_that_looks_whole(recorded: list[Clip], tmp_path: Path) -> None:
    def broken(samples: np.ndarray, index: int) -> np.ndarray:
        if index == 2:
            raise RuntimeError("interrupted")
        return samples

    with pytest.raises(RuntimeError, match="interrupted"):
        FeatureCache(recorded, tmp_path / "f", "train", broken)
    assert len(FeatureCache(recorded, tmp_path / "f", "train")) == 3
    assert not list((tmp_path / "f").glob("*.partial"))


def test_stereo_and_other_rates_become_the_front_ends(recorded: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)
    soundfile.write(path, np.stack([tone, tone], 1), 48_000, subtype="FLOAT")
    plain = tmp_path / "plain.wav"
    soundfile.write(plain, tone[::3], SAMPLE_RATE_HZ, subtype="FLOAT")
    cache = FeatureCache([Clip("s", path, "a"), Clip("p", plain, "a")], tmp_path / "f", "mixed")
    assert cache.frames(0) == cache.frames(1)
    middle = slice(10, 40)
    assert cache[0][middle].argmax(1).tolist() == cache[1][middle].argmax(1).tolist()
