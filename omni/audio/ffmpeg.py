"""The formats that libsndfile lacks (M4A, AAC, WebM, WMA, AMR), decoded by the ffmpeg program where it is installed.

The container is recognised by its first bytes and named to ffmpeg, so that a file cannot make it follow a playlist.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from omni.config import AudioConfig
from omni.errors import InputError

HEAD_BYTES = 32
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Container:
    """A kind of file. `demuxer` is ffmpeg's name; `knows_length` when its header says how long it lasts."""

    name: str
    demuxer: str
    knows_length: bool = True
    sndfile_reads_it: bool = False  # unless the file is damaged


def container(head: bytes) -> Container | None:
    """What the first `HEAD_BYTES` of a file announce, None for what only libsndfile is asked to read."""
    if head[4:8] == b"ftyp":
        return Container("M4A or MP4", "mov")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Container("AAC", "aac", knows_length=False)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return Container("WebM or Matroska", "matroska")
    if head[:4] == b"\x30\x26\xb2\x75":
        return Container("WMA", "asf")
    if head[:5] == b"#!AMR":
        return Container("AMR", "amr", knows_length=False)
    if head[:4] == b"OggS":
        return Container("OGG", "ogg", knows_length=False, sndfile_reads_it=True)
    if head[:4] == b"fLaC":
        return Container("FLAC", "flac", sndfile_reads_it=True)
    return None


def decode(source: int | io.BytesIO, kind: Container, name: str, config: AudioConfig) -> np.ndarray:
    """Mono float32 [N] at the configured rate from an open file descriptor or from bytes.

    At most a second more than `longest_query_s` is decoded. Raises InputError: ffmpeg is missing, the sound is longer
    than allowed by its header, or ffmpeg cannot make sense of it.
    """
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        damaged = "a damaged file of the kind " if kind.sndfile_reads_it else ""
        raise InputError(
            f"{name} is {damaged}{kind.name}, which needs ffmpeg: install it (apt-get install ffmpeg), "
            "or convert the recording to WAV, FLAC or MP3"
        )
    with _as_file(source) as url:
        arguments = ["-v", "error", "-protocol_whitelist", "file", "-f", kind.demuxer]
        if kind.knows_length:
            probe = ["ffprobe", *arguments, "-show_entries", "format=duration", "-of", "csv=p=0", "-i", url]
            _check_announced_length(_run(probe, source, name), name, config)
        limit = ["-t", f"{config.longest_query_s + 1:.3f}"]
        shape = ["-vn", "-sn", "-dn", "-ac", "1", "-ar", str(config.sample_rate_hz), "-f", "f32le", "pipe:1"]
        decoder = ["ffmpeg", "-nostdin", *arguments, "-i", url, *limit, *shape]
        decoder[decoder.index("-protocol_whitelist") + 1] = "file,pipe"
        done = _run(decoder, source, name)
    samples = np.frombuffer(done.stdout[: len(done.stdout) // 4 * 4], dtype="<f4").astype(np.float32)
    if len(samples) == 0:
        raise InputError(_unreadable(done, kind, name))
    return samples


@contextmanager
def _as_file(source: int | io.BytesIO) -> Iterator[str]:
    """A name under which ffmpeg can open and seek in the source."""
    if isinstance(source, int):
        os.lseek(source, 0, os.SEEK_SET)
        yield f"file:/dev/fd/{source}"
        return
    with tempfile.NamedTemporaryFile(prefix="omni-") as file:
        file.write(source.getbuffer())
        file.flush()
        yield f"file:{file.name}"


def _run(command: list[str], source: int | io.BytesIO, name: str) -> subprocess.CompletedProcess[bytes]:
    descriptors = (source,) if isinstance(source, int) else ()
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            pass_fds=descriptors,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{name} took more than {TIMEOUT_S:g} s to decode; convert it to WAV first") from error
    except OSError as error:
        raise InputError(f"{command[0]} could not be started ({error}); convert {name} to WAV first") from error


def _check_announced_length(done: subprocess.CompletedProcess[bytes], name: str, config: AudioConfig) -> None:
    try:
        duration_s = float(done.stdout.split()[0])
    except (IndexError, ValueError):
        return  # unknown: the decoder is stopped at the limit
    if duration_s > config.longest_query_s:
        raise InputError(
            f"{name} lasts {duration_s:.1f} s; at most {config.longest_query_s:g} s are heard "
            "(audio.longest_query_s in the config); cut it into shorter recordings"
        )


def _unreadable(done: subprocess.CompletedProcess[bytes], kind: Container, name: str) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    why = lines[-1].rpartition(": ")[2][-160:] if lines else "it holds no sound"
    return f"{name} is {kind.name} that ffmpeg cannot decode ({why}); record or export it again"
