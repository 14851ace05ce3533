"""Thousands of damaged files, and processes that are stopped at the worst moment."""

from __future__ import annotations

import io as files
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni.audio.io import read_audio
from omni.errors import OmniError
from tests.soak.conftest import REPOSITORY

Note = Callable[[str], None]


def encoded(kind: str, samples: np.ndarray) -> bytes:
    out = files.BytesIO()
    soundfile.write(out, samples, 16_000, format=kind)
    return out.getvalue()


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Cut, flipped, doubled, shuffled, or with a header that lies."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 60))):
        way = draw.randrange(5)
        at = draw.randrange(len(changed)) if draw.random() < 0.5 else draw.randrange(min(64, len(changed)))
        if way == 0:
            changed = changed[: max(at, 1)]
        elif way == 1:
            changed[at] ^= 1 << draw.randrange(8)
        elif way == 2:
            changed[at : at + 4] = draw.randbytes(4)
        elif way == 3:
            changed[at:at] = draw.randbytes(draw.randrange(1, 40))
        else:
            changed[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(changed)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_damaged_files_are_heard_or_refused(kind: str, queries: list[Path], tmp_path: Path, note: Note) -> None:
    whole, draw = encoded(kind, read_audio(queries[0]).samples[:16_000]), random.Random(kind)
    refused, shortest, path = 0, 99, tmp_path / "damaged.wav"
    for _ in range(1500):
        path.write_bytes(damaged(whole, draw))
        try:
            audio = read_audio(path)
        except OmniError as error:
            refused += 1
            shortest = min(shortest, len(str(error)))
        else:
            assert np.isfinite(audio.samples).all()
            assert audio.duration_s <= 120.0
    note(f"1,500 damaged files: {refused} refused, the others read")
    assert refused > 0
    assert shortest > 10


def test_a_thousand_files_in_one_go(queries: list[Path], tmp_path: Path, note: Note) -> None:
    names = []
    for number in range(1000):
        path = tmp_path / f"{number:04d}.wav"
        if number % 50 == 7:
            path.write_bytes(b"no sound at all")
        else:
            path.symlink_to(queries[number % len(queries)])
        names.append(str(path))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "omni.cli", "hear", *names], capture_output=True, text=True, cwd=REPOSITORY
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["file"] for r in rows] == names
    assert sum("error" in r for r in rows) == 20
    assert done.returncode == 3
    spent = time.monotonic() - began
    note(f"1,000 files, 20 of them broken, in order; {spent / 1000 * 1000:.0f} ms a file, loading included")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_reply_leaves_nothing_half_written(
    how: signal.Signals, queries: list[Path], tmp_path: Path, note: Note
) -> None:
    draw, whole = random.Random(int(how)), 0
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-m", "omni.cli", "reply", str(queries[0]), "-o", str(folder / "reply.wav")]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
        )
        time.sleep(draw.uniform(0.5, 9.0))
        process.send_signal(how)
        process.wait(60)
        left = sorted(p.name for p in folder.iterdir())
        if how is not signal.SIGKILL:
            assert left in ([], ["reply.wav"])
        if "reply.wav" in left:
            whole += 1
            assert len(soundfile.read(folder / "reply.wav")[0]) > 8000
    note(f"12 times {how.name}: {whole} whole replies, none in part")


def test_half_an_hour_is_refused_at_once(tmp_path: Path, note: Note) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(30):
            file.write(np.random.default_rng(0).standard_normal(16_000 * 60).astype(np.float32) * 0.1)
    began = time.monotonic()
    with pytest.raises(OmniError, match="120"):
        read_audio(path)
    note(f"refused in {1000 * (time.monotonic() - began):.0f} ms")
