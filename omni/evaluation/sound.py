"""Measures of sound alone: pitch, spread, speaking time, level, contours, and NISQA's guess of a listener's score.

Shapes: N samples, T frames of 10 ms, K points of a contour.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyworld
import torch
from tqdm import tqdm

from omni.audio.prosody import at_level
from omni.errors import DataError, ModelError

log = logging.getLogger(__name__)
SAMPLE_RATE_HZ, FRAME_MS = 16_000, 10.0
LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
CONTOUR_POINTS = 100
#: Frames this far below the loudest are silence: what is spoken lies between the first and the last louder one.
SILENCE_DB = 40.0
#: Level at which NISQA hears every clip, so that no voice wins by being louder.
SCORED_LEVEL_DB = -26.0
NISQA_FILE = Path("~/.torchmetrics/NISQA/nisqa.tar")


@dataclass(frozen=True)
class SoundMeasures:
    """`pitch_hz` geometric mean; `spread_semitones` standard deviation about it; `range_semitones` 5th to 95th
    percentile; `spoken_s` from the first to the last sound; `level_db` mean power of what is not silence."""

    pitch_hz: float
    spread_semitones: float
    range_semitones: float
    spoken_s: float
    level_db: float


def pitch_track(samples: np.ndarray) -> np.ndarray:
    """F0 in Hz, 0 where unvoiced: [T]. WORLD's DIO with StoneMask (Morise et al. 2009; 2016); octave slips taken out."""
    sound = np.ascontiguousarray(samples, np.float64)
    rough, times = pyworld.dio(sound, SAMPLE_RATE_HZ, f0_floor=LOWEST_HZ, f0_ceil=HIGHEST_HZ, frame_period=FRAME_MS)
    hz = pyworld.stonemask(sound, rough, times, SAMPLE_RATE_HZ)
    voiced = hz > 0
    if voiced.any():
        away = np.abs(12 * np.log2(np.where(voiced, hz, 1.0) / np.median(hz[voiced])))
        hz[voiced & (away > 11.0)] = 0.0
    return hz


def levels_db(samples: np.ndarray) -> np.ndarray:
    """Level of each whole 10 ms of sound [N], dB full scale: [T]."""
    hop = int(SAMPLE_RATE_HZ * FRAME_MS / 1000)
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    return 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)


def spoken_span(samples: np.ndarray) -> tuple[int, int]:
    """First and one past the last frame that is not silence. DataError for digital silence."""
    level = levels_db(samples)
    loud = np.flatnonzero(level > max(level.max(initial=-120.0) - SILENCE_DB, -75.0))
    if len(loud) == 0:
        raise DataError("the clip is silent; nothing can be measured on it")
    return int(loud[0]), int(loud[-1]) + 1


def measure(samples: np.ndarray) -> SoundMeasures:
    """All measures of one clip [N]. DataError when it is silent or nothing in it is voiced."""
    first, last = spoken_span(samples)
    level = levels_db(samples)
    hz = pitch_track(samples)
    hz = hz[hz > 0]
    if len(hz) < 3:
        raise DataError("nothing in the clip is voiced; its pitch cannot be measured")
    semitones = 12 * np.log2(hz)
    low, high = np.percentile(semitones, [5, 95])
    loud = level[level > level.max() - SILENCE_DB]
    return SoundMeasures(
        pitch_hz=float(2 ** (semitones.mean() / 12)),
        spread_semitones=float(semitones.std()),
        range_semitones=float(high - low),
        spoken_s=(last - first) * FRAME_MS / 1000,
        level_db=float(10 * np.log10((10 ** (loud / 10)).mean())),
    )


def contour(samples: np.ndarray) -> np.ndarray:
    """Log-pitch over the spoken span at K even points, straight across unvoiced stretches, mean 0 and variance 1."""
    first, last = spoken_span(samples)
    hz = pitch_track(samples)
    voiced = np.flatnonzero(hz > 0)
    if len(voiced) < 3:
        raise DataError("nothing in the clip is voiced; it has no contour")
    places = np.linspace(first, last - 1, CONTOUR_POINTS)
    drawn = np.interp(places, voiced, np.log2(hz[voiced]))
    return (drawn - drawn.mean()) / max(float(drawn.std()), 1e-9)


def contour_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson correlation of two normalised contours [K]."""
    return float((one * other).mean())


def nisqa_file(path: Path | None = None) -> Path:
    """The weights of NISQA v2.0 (Mittag et al. 2021). ModelError when they are not there: nothing is downloaded."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise ModelError("torchmetrics is not installed: pip install 'omni-empathy[eval]'")
    found = (path or NISQA_FILE).expanduser()
    if not found.is_file():
        raise ModelError(f"no NISQA weights at {found}; give their place with --nisqa PATH/nisqa.tar")
    if found.name != "nisqa.tar":
        raise ModelError(f"{found}: torchmetrics reads weights named nisqa.tar only; rename the file")
    return found


def nisqa(clips: Sequence[np.ndarray], path: Path | None = None, what: str = "NISQA") -> np.ndarray:
    """Predicted mean opinion score 1 to 5 of each clip, all at one level: [clips]. ModelError as in `nisqa_file`."""
    from torchmetrics.functional.audio import nisqa as module

    folder = str(nisqa_file(path).parent)
    if folder != module.NISQA_DIR:
        module.NISQA_DIR = folder
        module._load_nisqa_model.cache_clear()
    scores = []
    for clip in tqdm(clips, desc=what, unit="clip", disable=len(clips) < 4):
        sound = at_level(torch.from_numpy(np.ascontiguousarray(clip, np.float32)), SCORED_LEVEL_DB)
        scores.append(float(module.non_intrusive_speech_quality_assessment(sound, SAMPLE_RATE_HZ)[0]))
    return np.array(scores)
