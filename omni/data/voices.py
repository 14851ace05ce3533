"""Synthetic readers for training and testing: espeak-ng, flite and festival (Debian packages) speak text into clips.

Training hears only `TRAIN_VOICES`; `HELD_OUT_VOICES` (another engine, two speakers that appear nowhere else) are kept
for `omni eval`.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from omni.errors import DataError

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker. `engine` is espeak-ng, flite or festival; `name` is the engine's own name for it."""

    engine: str
    name: str

    @property
    def speaker(self) -> str:
        return f"{self.engine}:{self.name}"


_VARIANTS = (
    "",
    "+f1",
    "+f2",
    "+f3",
    "+f4",
    "+m1",
    "+m2",
    "+m3",
    "+m4",
    "+m5",
    "+m6",
    "+m7",
    "+anika",
    "+klatt",
    "+Lee",
)
TRAIN_VOICES: tuple[Voice, ...] = (
    *(Voice("flite", name) for name in ("awb", "rms", "kal16")),
    *(Voice("espeak-ng", accent + v) for accent in ("en-us", "en-gb", "en-gb-scotland", "en-029") for v in _VARIANTS),
)
HELD_OUT_VOICES: tuple[Voice, ...] = (Voice("festival", "ked_diphone"), Voice("festival", "cmu_us_slt_arctic_hts"))
_PROGRAMS = {"espeak-ng": "espeak-ng", "flite": "flite", "festival": "text2wave"}


def _command(voice: Voice, text: str, wav: Path, rate: float, pitch: float) -> list[str]:
    if voice.engine == "espeak-ng":
        speed, height = round(165 * rate), round(min(max(50 * pitch, 0), 99))
        return ["espeak-ng", "-v", voice.name, "-s", str(speed), "-p", str(height), "-w", str(wav), "--", text]
    if voice.engine == "flite":
        options = ["--setf", f"duration_stretch={1 / rate:.3f}"]
        return ["flite", "-voice", voice.name, *options, "-t", text, "-o", str(wav)]
    return ["text2wave", "-eval", f"(voice_{voice.name})", "-o", str(wav)]


def speak(text: str, voice: Voice, rate: float = 1.0, pitch: float = 1.0) -> np.ndarray:
    """Read `text` aloud. Returns float32 [N] at 16 kHz. DataError if the engine is missing or fails.

    `rate` stretches time (1.2 is quicker), `pitch` moves the pitch (espeak-ng only; relative to its default).
    """
    program = _PROGRAMS[voice.engine]
    if shutil.which(program) is None:
        raise DataError(f"{program} is not installed: `apt-get install {voice.engine}` (see packages.txt)")
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "clip.wav"
        command = _command(voice, text, wav, rate, pitch)
        feed = text.encode() if voice.engine == "festival" else None
        done = subprocess.run(command, input=feed, capture_output=True, timeout=120, check=False)
        if done.returncode != 0 or not wav.exists():
            raise DataError(f"{voice.speaker} could not read {text[:60]!r}: {done.stderr.decode()[-200:]}")
        samples, rate_hz = soundfile.read(wav, dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ:
        samples = torchaudio.functional.resample(torch.from_numpy(samples), rate_hz, SAMPLE_RATE_HZ).numpy()
    return np.ascontiguousarray(samples)


def random_reading(text: str, seed: int) -> tuple[np.ndarray, str]:
    """Read `text` in a training voice drawn by `seed`, rate and pitch varied. Returns samples [N] and speaker name.

    Half of the readings are flite's: its three voices come from recordings; espeak-ng adds many, less natural ones.
    """
    draw = random.Random(seed)
    engine = "flite" if draw.random() < 0.5 else "espeak-ng"
    pool = [v for v in TRAIN_VOICES if v.engine == engine]
    voice = draw.choice(pool)
    return speak(text, voice, draw.uniform(0.8, 1.3), draw.uniform(0.6, 1.5)), voice.speaker
