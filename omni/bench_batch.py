"""`omni bench --batch`: queries a minute of `omni batch`, beside one warm process in a loop and PocketSphinx with flite."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni.assistant import Assistant
from omni.audio.io import read_audio
from omni.batch.job import Job
from omni.batch.run import Options, run
from omni.bench import example_queries
from omni.errors import UsageError
from omni.evaluation.memory import peak_mb
from omni.evaluation.peers import READERS, read_all, sphinx_all
from omni.evaluation.report import OF_BATCH, render, save
from omni.evaluation.settings import Result, Row
from omni.turns import Audio

TIMES_THE_LOOP = 2.0


def run_bench(
    where: str | None = None, out: Path = Path("docs"), queries: Sequence[Path] | None = None, copies: int = 20
) -> dict[str, Any]:
    """Answer each of `queries` (default: the recordings in examples/) `copies` times in each way; write
    OUT/results/bench-batch.json and OUT/results.md. Returns the numbers. UsageError for less than one copy."""
    if copies < 1:
        raise UsageError(f"{copies} copies are too few; give 1 or more")
    paths = list(queries or example_queries()) * copies
    cores = os.cpu_count() or 1
    result = Result(counts={"queries": len(paths), "workers": cores})
    with tempfile.TemporaryDirectory() as folder:
        batch_s, answered_s, rows, peaks = _batch(paths, Path(folder), where, cores)
    loop_s, sounds = _loop(paths, where)
    spoken_s = sum(row.get("reply_s") or 0.0 for row in rows)
    minute = {"batch": 60 * len(paths) / batch_s, "loop": 60 * len(paths) / loop_s}
    if shutil.which("flite"):
        began = time.perf_counter()
        sphinx_all([sound.samples for sound in sounds], cores)
        read_all([row.get("reply") or "" for row in rows], [READERS["flite slt"]] * len(rows), cores)
        minute["pocketsphinx_flite"] = 60 * len(paths) / (time.perf_counter() - began)
    times = minute["batch"] / minute["loop"]
    peer = minute.get("pocketsphinx_flite")
    beside = f"one warm process in a loop: {minute['loop']:.1f}" + (
        f"; PocketSphinx and flite in {cores} processes (nothing perceived or thought): {peer:.1f}" if peer else ""
    )
    result.rows.append(
        Row(
            f"queries a minute of omni batch, loading included, {cores} workers",
            f"{minute['batch']:.1f} ({times:.2f} times the loop)",
            beside,
            aim=f"{TIMES_THE_LOOP:g} times the loop",
            aim_met=times >= TIMES_THE_LOOP,
        )
    )
    result.numbers = {
        "queries_a_minute": minute,
        "times_the_loop": times,
        "loading_s": batch_s - answered_s,
        "real_time_factor": batch_s / max(spoken_s, 1e-9),
        "peak_mb": peaks,
    }
    save(out, OF_BATCH, result, {"command": f"omni bench --batch --copies {copies}"}, where)
    render(out)
    return result.numbers


def _batch(
    paths: Sequence[Path], folder: Path, where: str | None, workers: int
) -> tuple[float, float, list[dict[str, Any]], dict[str, float]]:
    """(seconds of the whole run, of it from the end of loading, rows of the manifest, peak memory by process)."""
    listed = folder / "list.jsonl"
    rows = ({"audio": str(path.resolve()), "id": f"q{number:06}"} for number, path in enumerate(paths))
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    began = time.perf_counter()
    run(str(listed), folder / "out", Job(where), Options(workers))
    spent_s = time.perf_counter() - began
    manifest = [json.loads(line) for line in (folder / "out" / "manifest.jsonl").open(encoding="utf-8")]
    timed = [json.loads(line) for line in (folder / "out" / "timings.jsonl").open(encoding="utf-8")]
    busy_s = sum(row["ms"]["total"] for row in timed) / 1000 / workers
    return (
        spent_s,
        min(spent_s, busy_s),
        manifest,
        {"worker": max(row["peak_mb"] for row in timed), "parent": peak_mb()},
    )


def _loop(paths: Sequence[Path], where: str | None) -> tuple[float, list[Audio]]:
    assistant = Assistant.load(where)
    assistant.warm_up()
    sounds = []
    began = time.perf_counter()
    for path in paths:
        sounds.append(read_audio(path, assistant.config.audio))
        assistant.reply(sounds[-1])
    return time.perf_counter() - began, sounds
