"""Batches for long: twenty kills at random moments, and ten thousand files in the memory that a hundred take."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.tiny import REPOSITORY

Note = Callable[[str], None]


def begin(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "omni.cli", "batch", str(folder), str(out), "--workers", "2"]
    return subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def fill(folder: Path, queries: list[Path], count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"q{number:05}.wav").symlink_to(queries[number % len(queries)])
    return folder


def tree(out: Path) -> dict[str, bytes]:
    paths = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("timings.jsonl", ".lock"))
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in paths}


def test_twenty_kills_at_random_moments(queries: list[Path], tmp_path: Path, note: Note) -> None:
    folder = fill(tmp_path / "in", queries, 120)
    assert begin(folder, tmp_path / "whole").wait() == 0
    draw, out, kills = random.Random(0), tmp_path / "out", 0
    while kills < 20:
        process = begin(folder, out)
        time.sleep(draw.uniform(0.5, 14))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert begin(folder, out).wait() == 0
    assert tree(out) == tree(tmp_path / "whole")
    note(f"120 queries, {kills} kills: the bytes of a run without")


def peak_mb(out: Path) -> float:
    return max(json.loads(line)["peak_mb"] for line in (out / "timings.jsonl").open(encoding="utf-8"))


def test_ten_thousand_files(queries: list[Path], tmp_path: Path, note: Note) -> None:
    count = int(os.environ.get("OMNI_SOAK_FILES", "10000"))
    peaks = []
    for number in (100, count):
        began = time.monotonic()
        assert begin(fill(tmp_path / f"in{number}", queries, number), tmp_path / f"out{number}").wait() == 0
        peaks.append(peak_mb(tmp_path / f"out{number}"))
    minutes = (time.monotonic() - began) / 60
    rows = [json.loads(line)["id"] for line in (tmp_path / f"out{count}" / "manifest.jsonl").open(encoding="utf-8")]
    assert rows == [f"q{number:05}" for number in range(count)]
    note(
        f"{count:,} files in {minutes:.0f} minutes; a worker's peak memory {peaks[1]:.0f} MB, with 100 files {peaks[0]:.0f}"
    )
    assert peaks[1] <= 1.05 * peaks[0]
