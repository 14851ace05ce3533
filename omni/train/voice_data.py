"""Recordings of a speaker as training material of the voice: alignment, WORLD frames, pauses, utterance prosody.

Every clip is analysed once and kept in a cache folder (safetensors), then cut at its pauses into spans of a few seconds.

Shapes: L units, T frames of 5 ms, C envelope, A aperiodicity.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyworld
import soundfile
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from omni.audio import world
from omni.audio.alignment import SILENCE, Segment, align, uniform
from omni.data.manifest import Clip
from omni.errors import DataError
from omni.phones import VOICE_ID, normalise
from omni.spoken import position_features

log = logging.getLogger(__name__)
FRAMES_PER_UNIT_STEP = 2  # frames of 5 ms in an alignment frame of 10 ms
SHORT_PAUSE, LONG_PAUSE = 6, 32  # 10 ms frames: below, no pause at all; from LONG_PAUSE on, a full stop's


@dataclass(frozen=True)
class Recording:
    """One analysed clip. `pitch_hz` [T] is 0 where unvoiced; lengths are in 10 ms steps and sum to T / 2."""

    units: np.ndarray  # int64 [L]
    words: np.ndarray  # int64 [L], -1 in pauses
    lengths: np.ndarray  # int64 [L]
    envelope: np.ndarray  # float32 [T, C]
    aperiodicity: np.ndarray  # float32 [T, A]
    pitch_hz: np.ndarray  # float32 [T]
    text: list[str]


def pauses(segments: list[Segment]) -> tuple[list[str], list[int], list[int]]:
    """(unit names, word numbers, lengths) of an alignment: silences become ',' or '.', those at the ends 'sil'.

    Silences shorter than SHORT_PAUSE steps belong to the phone before them.
    """
    names: list[str] = []
    words: list[int] = []
    lengths: list[int] = []
    for index, segment in enumerate(segments):
        if segment.phone != SILENCE:
            name = segment.phone
        elif index in (0, len(segments) - 1):
            name = "sil"
        elif segment.length < SHORT_PAUSE or words[-1] < 0:
            lengths[-1] += segment.length
            continue
        else:
            name = "," if segment.length < LONG_PAUSE else "."
        names.append(name)
        words.append(segment.word)
        lengths.append(segment.length)
    return names, words, lengths


def read_samples(path: Path) -> np.ndarray:
    """Float32 mono at 16 kHz."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate_hz != world.SAMPLE_RATE_HZ:
        import torch
        from torchaudio.functional import resample

        mono = resample(torch.from_numpy(mono), rate_hz, world.SAMPLE_RATE_HZ).numpy()
    return np.ascontiguousarray(mono)


def analyse_clip(clip: Clip, cache: Path, cepstrum: int, aligner: str, quick_pitch: bool) -> Recording:
    """A clip's analysis, from the cache when it is there. DataError when words and sound do not fit."""
    path = cache / f"{clip.id}.safetensors"
    text = normalise(clip.text or "").split()
    if not path.exists():
        samples = read_samples(clip.audio)
        segments = (uniform if aligner == "uniform" else align)(samples, clip.text or "")
        names, words, lengths = pauses(segments)
        pitch = _quick_pitch(samples) if quick_pitch else world.track_pitch(samples)
        frames = world.analyse(samples, cepstrum, pitch)
        total = len(frames) // FRAMES_PER_UNIT_STEP
        lengths[-1] += total - sum(lengths)
        if lengths[-1] < 1:
            raise DataError(f"{clip.id}: the alignment is longer than the sound; leave the clip out")
        kept = total * FRAMES_PER_UNIT_STEP
        tensors = {
            "units": np.array([VOICE_ID[n] for n in names], np.int64),
            "words": np.array(words, np.int64),
            "lengths": np.array(lengths, np.int64),
            "envelope": frames.envelope[:kept],
            "aperiodicity": frames.aperiodicity[:kept],
            "pitch_hz": np.where(frames.voiced, frames.pitch_hz, 0).astype(np.float32)[:kept],
        }
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial)
        partial.replace(path)
    return Recording(**load_file(path), text=text)


def _quick_pitch(samples: np.ndarray) -> np.ndarray:
    signal = samples.astype(np.float64)
    pitch, times = pyworld.dio(signal, world.SAMPLE_RATE_HZ, world.PITCH_FLOOR_HZ, world.PITCH_CEILING_HZ)
    return pyworld.stonemask(signal, pitch, times, world.SAMPLE_RATE_HZ)


def analyse_all(clips: list[Clip], cache: Path, cepstrum: int, aligner: str, quick: frozenset[str]) -> list[Recording]:
    """Analyses of all clips; those that fail are left out and reported. `quick`: speakers whose F0 is tracked by DIO."""
    done: list[Recording] = []
    refused: list[str] = []
    for clip in tqdm(clips, desc="analyse", unit="clip", mininterval=5):
        try:
            done.append(analyse_clip(clip, cache, cepstrum, aligner, clip.speaker in quick))
        except DataError as error:
            refused.append(f"{clip.id}: {error}")
    if refused:
        log.warning("%d of %d clips left out; the first: %s", len(refused), len(clips), refused[0])
    if not done:
        raise DataError(f"none of {len(clips)} clips could be analysed; the first: {refused[0] if refused else 'none'}")
    return done


@dataclass(frozen=True)
class Span:
    """A stretch of a recording between two pauses, with a share of them at its ends."""

    units: np.ndarray
    features: np.ndarray  # float32 [L, F] of `spoken.position_features`
    lengths: np.ndarray
    start: int  # first 10 ms step in the recording
    first_unit: int  # in the recording


def cut_spans(recording: Recording, draw: random.Random, room_steps: int, edge_steps: int = 12) -> Span:
    """A random span of whole pause-to-pause phrases, about `room_steps` long if it can, ends trimmed to `edge_steps`.

    The pauses at both ends become 'sil' or '.', as in a reply read alone.
    """
    stops = [i for i, unit in enumerate(recording.units) if unit in _PAUSE_IDS]
    starts = np.concatenate(([0], np.cumsum(recording.lengths)))
    if len(stops) < 2:
        stops = [0, len(recording.units) - 1]
    first = draw.choice([i for i in range(len(stops) - 1) if stops[i + 1] - stops[i] > 1])
    last = first + 1
    while last + 1 < len(stops) and starts[stops[last + 1]] - starts[stops[first]] < room_steps:
        last += 1
    low, high = stops[first], stops[last]
    units = recording.units[low : high + 1].copy()
    lengths = recording.lengths[low : high + 1].copy()
    units[0], units[-1] = VOICE_ID["sil"], VOICE_ID["."]
    start = int(starts[low] + max(0, lengths[0] - edge_steps))
    lengths[0], lengths[-1] = min(lengths[0], edge_steps), min(lengths[-1], edge_steps)
    features = position_features(units, recording.words[low : high + 1], recording.text)
    return Span(units, features, lengths, start, low)


_PAUSE_IDS = frozenset(VOICE_ID[p] for p in ("sil", ",", "."))
