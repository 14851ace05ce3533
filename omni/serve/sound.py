"""Sound of requests and replies: bytes only, never a path or an address. Shapes: n samples of a piece, N of the whole.

Raw sound is 16-bit little-endian mono at 24 kHz, as the Realtime API has it.
"""

from __future__ import annotations

import base64
import binascii
from math import gcd

import numpy as np
import torch
import torchaudio

from omni.audio import io
from omni.config import AudioConfig
from omni.serve.limits import Refusal
from omni.turns import Audio

RAW_HZ = 24_000
#: Names of formats in requests: suffix of `io.WRITE_FORMATS`, media type.
FORMATS: dict[str, tuple[str, str]] = {
    "wav": (".wav", "audio/wav"),
    "mp3": (".mp3", "audio/mpeg"),
    "flac": (".flac", "audio/flac"),
    "opus": (".opus", "audio/ogg"),
    "pcm16": ("", "audio/pcm"),
    "pcm": ("", "audio/pcm"),
}
#: Widths of torchaudio's filter kernel are below this many of its output steps.
CONTEXT_STEPS = 16


def from_base64(text: str, param: str) -> bytes:
    """The bytes. Refusal unless it is base64: a path, an address or a data URL is not."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            400,
            "invalid_audio",
            "the sound must be the base64 of a file's bytes; paths and addresses are not read",
            param,
        ) from None


def decode(data: bytes, form: str | None, config: AudioConfig) -> Audio:
    """A query from the bytes of a sound file, or raw where `form` is "pcm16". InputError: see `io.read_bytes`."""
    if form in ("pcm16", "pcm"):
        return io.from_samples(pcm_samples(data), RAW_HZ, config)
    return io.read_bytes(data, config)


def encode(audio: Audio, form: str) -> bytes:
    """The bytes of a reply in a format of FORMATS."""
    if form in ("pcm16", "pcm"):
        resampler = Resampler(audio.sample_rate_hz, RAW_HZ)
        return pcm_bytes(np.concatenate([resampler.push(audio.samples), resampler.flush()]))
    return io.encode(audio, FORMATS[form][0])


def pcm_samples(data: bytes) -> np.ndarray:
    """Raw sound as float32 [N]. Refusal for half a sample."""
    if len(data) % 2:
        raise Refusal(
            400, "invalid_audio", f"{len(data)} bytes are no whole number of 16-bit samples; send an even number"
        )
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768.0


def pcm_bytes(samples: np.ndarray) -> bytes:
    """Samples [N] as raw sound."""
    return np.rint(np.clip(samples, -1.0, 32767 / 32768) * 32768.0).astype("<i2").tobytes()


class Resampler:
    """torchaudio's windowed-sinc resampling of a stream: the pieces together are what it makes of the whole."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        step = gcd(from_hz, to_hz)
        self._from, self._to = from_hz // step, to_hz // step
        self._edge = CONTEXT_STEPS * max(1, -(-self._from // self._to)) * self._from
        self._sound = np.zeros(0, np.float32)
        self._before = 0  # samples at the start of what is kept that were resampled already

    def push(self, piece: np.ndarray) -> np.ndarray:
        """The next samples [n] resampled, as far as what comes after them is known."""
        if self._from == self._to:
            return np.asarray(piece, np.float32)
        self._sound = np.concatenate([self._sound, np.asarray(piece, np.float32)])
        ready = (len(self._sound) - self._before - self._edge) // self._from * self._from
        if ready <= 0:
            return np.zeros(0, np.float32)
        out = self._resampled()[self._out(self._before) : self._out(self._before + ready)]
        start = max(self._before + ready - self._edge, 0)
        self._sound, self._before = self._sound[start:], self._before + ready - start
        return out

    def flush(self) -> np.ndarray:
        """What is left at the end of the stream."""
        out = self._resampled()[self._out(self._before) :] if len(self._sound) else self._sound
        self._sound, self._before = np.zeros(0, np.float32), 0
        return out

    def _out(self, samples: int) -> int:
        return samples // self._from * self._to

    def _resampled(self) -> np.ndarray:
        return torchaudio.functional.resample(torch.from_numpy(self._sound), self._from, self._to).numpy()
