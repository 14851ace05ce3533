"""Sound files in and out: the only place that opens them. Every query is checked, and refused in words that help.

Shapes: N samples, C channels. Reading gives float32 [N] in [-1, 1] at `AudioConfig.sample_rate_hz`, mono, without DC.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio

from omni.audio import ffmpeg
from omni.config import AudioConfig
from omni.errors import DataError, InputError, OutputError, UsageError
from omni.files import atomic_write, check_writable
from omni.turns import Audio

log = logging.getLogger(__name__)

LOWEST_RATE_HZ, HIGHEST_RATE_HZ, MOST_CHANNELS = 8_000, 192_000, 16
#: Peak below which a recording counts as digital silence: -80 dBFS, a few steps of 16-bit sound.
SILENCE_PEAK = 1e-4
#: Share of samples lying in flat tops at the loudest level from which a recording is called clipped.
CLIPPED_SHARE = 0.005
#: Containers that are read; libsndfile knows rarer ones that text or noise can be mistaken for.
READ_FORMATS = frozenset(["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"])
#: What `write_audio` can write, by suffix: libsndfile format and subtype.
WRITE_FORMATS: dict[str, tuple[str, str]] = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_BLOCK_FRAMES = 8192
#: Their decoders lose their state when soundfile seeks after every partial read, so they are read in one go.
_READ_WHOLE = frozenset({"MP3", "OGG"})
_KINDS = "use WAV, FLAC, OGG, Opus or MP3 (with ffmpeg also M4A, AAC, WebM, WMA and AMR)"


def read_audio(path: Path | str, config: AudioConfig | None = None) -> Audio:
    """Read a recording of any supported kind. Sizes are checked before anything is decoded.

    Raises InputError (missing, a folder or device, empty, too large, not sound, damaged, not finite, silent, too
    short, too long), each saying what is allowed and how to mend it. Truncated or clipped sound is logged as a warning.
    """
    config = config or AudioConfig()
    descriptor = _open(path)
    try:
        _check_bytes(os.fstat(descriptor).st_size, str(path), config)
        head = os.pread(descriptor, ffmpeg.HEAD_BYTES, 0)
        return _decode(descriptor, head, str(path), config)
    finally:
        os.close(descriptor)


def read_bytes(data: bytes, config: AudioConfig | None = None, name: str = "the sound") -> Audio:
    """The same for the bytes of a sound file, such as an upload; `name` stands for it in messages."""
    config = config or AudioConfig()
    _check_bytes(len(data), name, config)
    return _decode(io.BytesIO(data), data[: ffmpeg.HEAD_BYTES], name, config)


def read_stream(file: BinaryIO, config: AudioConfig | None = None, name: str = "the sound") -> Audio:
    """The same for an open binary file or pipe, of which at most `largest_file_mb` are read."""
    config = config or AudioConfig()
    return read_bytes(file.read(int(config.largest_file_mb * 1e6) + 1), config, name)


def from_samples(
    samples: np.ndarray, rate_hz: int, config: AudioConfig | None = None, name: str = "the sound"
) -> Audio:
    """The same checks for samples [N] or [N, C] that are already in memory (a microphone, a web demo).

    Integers are scaled by their type's range.
    """
    config = config or AudioConfig()
    if samples.ndim not in (1, 2) or not (samples.ndim == 1 or 1 <= samples.shape[1] <= MOST_CHANNELS):
        raise InputError(
            f"{name} has shape {samples.shape}; allowed: [N] or [N, C] with up to {MOST_CHANNELS} channels"
        )
    _check_header(rate_hz, 1, len(samples), name, config)
    if samples.dtype.kind in "iu":
        scale = float(np.iinfo(samples.dtype).max) + 1.0
        centre = scale / 2 if samples.dtype.kind == "u" else 0.0
        samples = (samples.astype(np.float64) - centre) / (scale - centre)
    samples = samples.astype(np.float32).reshape(len(samples), -1)
    _check_finite(samples, name)
    mono = samples.mean(axis=1)
    if np.abs(mono).max(initial=0.0) < SILENCE_PEAK:
        mono = samples[:, np.abs(samples).max(axis=0, initial=0.0).argmax()]
    return _finish(mono, rate_hz, name, config)


def load_clip(source: Path | bytes, rate_hz: int = 16_000, name: str | None = None) -> np.ndarray:
    """A whole recording of a corpus as mono float32 [N] at `rate_hz`, with its level and DC as they are; any length.

    `source` is the file or, from a shard, its bytes, for which `name` stands in messages. For trusted data; a query goes
    through `read_audio`. DataError names a clip that is missing or cannot be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        samples, from_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        what = name or ("the sound" if isinstance(source, bytes) else source)
        raise DataError(f"{what} cannot be read ({error}); mend the file or take it out of the manifest") from error
    return _resample(samples.mean(axis=1), from_hz, rate_hz)


def _open(path: Path | str) -> int:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {str(path)!r}; check the name") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read; change its permissions: chmod u+r") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be opened ({error}); check the name") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; give the name of one recording in it")
    raise InputError(f"{path} is a device, pipe or socket; only regular files are read, so save the sound to one first")


def _check_bytes(size: int, name: str, config: AudioConfig) -> None:
    if size == 0:
        raise InputError(f"{name} is empty (0 bytes); record it again")
    if size > config.largest_file_mb * 1e6:
        raise InputError(
            f"{name} has {size / 1e6:.1f} MB or more; at most {config.largest_file_mb:g} MB are read "
            "(audio.largest_file_mb in the config); cut or compress it"
        )


def _decode(source: int | io.BytesIO, head: bytes, name: str, config: AudioConfig) -> Audio:
    kind = ffmpeg.container(head)
    if kind is None or kind.sndfile_reads_it:
        try:
            return _finish(*_read_soundfile(source, name, config), name, config)
        except soundfile.LibsndfileError as error:
            if kind is None:
                raise InputError(f"{name} is damaged ({error}); record or export it again") from error
            log.debug("libsndfile cannot read %s (%s); trying ffmpeg", name, error)
    samples = ffmpeg.decode(source, kind, name, config)
    if kind.sndfile_reads_it:
        log.warning("%s is damaged or cut short; what is left of it (%d samples) is used", name, len(samples))
    return _finish(samples, config.sample_rate_hz, name, config)


def _read_soundfile(source: int | io.BytesIO, name: str, config: AudioConfig) -> tuple[np.ndarray, int]:
    """Mono samples and their rate by libsndfile. A LibsndfileError is left to `_decode` where ffmpeg may do better."""
    head_only = isinstance(source, int)
    try:
        file = soundfile.SoundFile(source, closefd=not head_only)
    except soundfile.LibsndfileError as error:
        if "malformed" in str(error):
            raise
        raise InputError(
            f"{name} is not sound in a format that can be read ({error.error_string}); {_KINDS}"
        ) from error
    with file:
        if file.format not in READ_FORMATS:
            raise InputError(f"{name} looks like {file.format}, which is not supported; {_KINDS}")
        _check_header(file.samplerate, file.channels, file.frames, name, config)
        longest_frames = int(config.longest_query_s * file.samplerate) + 1
        mono, peaks = _mix(file, longest_frames, name)
        if file.channels > 1 and np.abs(mono).max(initial=0.0) < SILENCE_PEAK <= peaks.max():
            file.seek(0)  # the channels cancel each other: keep the loudest
            mono, _ = _mix(file, longest_frames, name, int(peaks.argmax()))
        _warn_if_truncated(file, name)
        return mono, file.samplerate


def _check_header(rate_hz: int, channels: int, frames: int, name: str, config: AudioConfig) -> None:
    """Refuse by the header alone. Some files do not know their length (`frames` is huge): reading is capped."""
    if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
        raise InputError(
            f"{name} has a sample rate of {rate_hz} Hz; allowed: {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz; resample it"
        )
    if not 1 <= channels <= MOST_CHANNELS:
        raise InputError(f"{name} has {channels} channels; allowed: 1 to {MOST_CHANNELS}; mix it down first")
    if frames < 2**62:
        _check_length(frames / rate_hz, name, config)


def _check_length(duration_s: float, name: str, config: AudioConfig) -> None:
    if duration_s > config.longest_query_s:
        raise InputError(
            f"{name} lasts {duration_s:.1f} s; at most {config.longest_query_s:g} s are heard "
            "(audio.longest_query_s in the config); cut it into shorter recordings"
        )
    if duration_s < config.shortest_query_s:
        raise InputError(
            f"{name} lasts {duration_s * 1000:.0f} ms; at least {config.shortest_query_s * 1000:.0f} ms are needed "
            "(audio.shortest_query_s in the config); record a whole sentence"
        )


def _mix(
    file: soundfile.SoundFile, longest_frames: int, name: str, channel: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(mean of the channels, or one of them, [N]; peak of each channel [C]), in blocks so that only mono is kept."""
    blocks: list[np.ndarray] = []
    peaks, read = np.zeros(file.channels), 0
    size = longest_frames if file.format in _READ_WHOLE else _BLOCK_FRAMES
    while read < longest_frames:
        try:
            block = file.read(min(size, longest_frames - read), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            if read == 0:
                raise
            log.warning("%s is damaged after %.2f s (%s); the rest is left out", name, read / file.samplerate, error)
            break
        if len(block) == 0:
            break
        _check_finite(block, name)
        peaks = np.maximum(peaks, np.abs(block).max(axis=0))
        blocks.append(block.mean(axis=1) if channel is None else block[:, channel])
        read += len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32), peaks


def _check_finite(samples: np.ndarray, name: str) -> None:
    bad = samples.size - int(np.isfinite(samples).sum())
    if bad:
        raise InputError(f"{name} holds {bad} samples or more that are not numbers (NaN or infinite); export it again")


def _warn_if_truncated(file: soundfile.SoundFile, name: str) -> None:
    """libsndfile reads what is there of a WAV whose header promises more, and says so only in its log."""
    found = re.search(r"^data\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if found is None:
        return
    promised, there = int(found[1]), int(found[2])
    if there < promised < 0x7FFF0000:  # beyond that the length was never known: a stream written to a pipe
        log.warning("%s is truncated: %d of %d bytes of sound are there and used", name, there, promised)


def _finish(samples: np.ndarray, rate_hz: int, name: str, config: AudioConfig) -> Audio:
    """Check length, level and clipping; take out DC; resample."""
    _check_length(len(samples) / rate_hz, name, config)
    _check_finite(samples, name)
    if clipped_share(samples) > CLIPPED_SHARE:
        log.warning("%s is heavily clipped; record it at a lower level for a better answer", name)
    samples = samples - samples.mean(dtype=np.float64)
    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        raise InputError(f"{name} is silent (peak {peak:.1e} of 1.0); check the microphone and record it again")
    samples = _resample(samples.astype(np.float32), rate_hz, config.sample_rate_hz)
    peak = float(np.abs(samples).max())
    if peak > 1.0:
        samples /= peak
    return Audio(np.ascontiguousarray(samples, dtype=np.float32), config.sample_rate_hz)


def _resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Windowed-sinc resampling. Odd ratios are rounded (by less than 0.01 %): the exact kernel can take gigabytes."""
    if from_hz == to_hz:
        return samples
    ratio = Fraction(from_hz, to_hz).limit_denominator(640)  # exact for 44.1 kHz and its halves
    resampled = torchaudio.functional.resample(torch.from_numpy(samples), ratio.numerator, ratio.denominator)
    return resampled.numpy()


def clipped_share(samples: np.ndarray) -> float:
    """Share of samples [N] piled up at the loudest level; 0 when no pile stands out, as in sound that is not clipped.

    Speech has ever fewer samples towards its peak. Clipping at least halves the fall: the last 0.5 % of the range then
    holds more than half as many as the 30 % below it.
    """
    level = np.abs(samples)
    peak = level.max(initial=0.0)
    top, below = float((level >= 0.995 * peak).mean()), float(((level >= 0.7 * peak) & (level < 0.995 * peak)).mean())
    return top if top > 0.5 * below else 0.0


def check_output(path: Path | str, force: bool = False) -> None:
    """Raise, before any work is done, what `write_audio` would raise for this name."""
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_FORMATS:
        raise UsageError(
            f"{path}: cannot write {suffix or 'a file without suffix'!r}; allowed: {', '.join(WRITE_FORMATS)}"
        )
    check_writable(path, force)


def write_audio(path: Path | str, audio: Audio, force: bool = False) -> None:
    """Write 16-bit WAV, or FLAC, OGG, Opus or MP3 by the suffix; a whole file or none. Loud samples are limited to 1.

    Raises UsageError for another suffix; OutputError for a taken name without `force`, a folder that is missing or
    read-only, a full disk, and samples that are not finite.
    """
    check_output(path, force)
    if not np.isfinite(audio.samples).all():
        raise OutputError(f"the sound for {path} holds samples that are not numbers; nothing was written")
    data = encode(audio, Path(path).suffix.lower())
    with atomic_write(path, force) as temporary:
        temporary.write_bytes(data)


def encode(audio: Audio, suffix: str = ".wav") -> bytes:
    """The bytes of a sound file of the kind that `suffix` (a key of WRITE_FORMATS) names."""
    container, subtype = WRITE_FORMATS[suffix]
    samples = np.clip(audio.samples, -1.0, 1.0)
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", audio.sample_rate_hz, 1, subtype=subtype, format=container) as file:
            for start in range(0, len(samples), _BLOCK_FRAMES):  # long writes overflow the Vorbis encoder's stack
                file.write(samples[start : start + _BLOCK_FRAMES])
    except soundfile.LibsndfileError as error:
        raise UsageError(f"cannot write {suffix} at {audio.sample_rate_hz} Hz ({error}); write .wav instead") from error
    return buffer.getvalue()
