"""`omni bench`: how long until the reply is heard, how much of its length it takes to make, and how much memory."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from omni.assistant import Assistant
from omni.audio.io import read_audio
from omni.data.voices import speak
from omni.errors import DataError, ModelError
from omni.evaluation import memory
from omni.evaluation.pace import AUDIBLE_DBFS, BLOCK_MS, Paced, Playback, play
from omni.evaluation.peers import READERS, pcm, sphinx_decoder
from omni.evaluation.report import render, save
from omni.evaluation.settings import Result, Row, Table
from omni.turns import Audio

log = logging.getLogger(__name__)
LATENCY_FLOOR_MS, LATENCY_AIM_MS = 800.0, 200.0
FACTOR_FLOOR, FACTOR_AIM = 0.5, 0.1
MEMORY_FLOOR_MB, MEMORY_AIM_MB = 2000.0, 800.0
EXAMPLES = Path(__file__).parents[1] / "examples"


def run(
    where: str | None = None, out: Path = Path("docs"), queries: Sequence[Path] | None = None, rounds: int = 3
) -> dict[str, Any]:
    """Measure on `queries` (default: the recordings in examples/), each `rounds` times; write OUT/results/bench.json
    and OUT/results.md. Returns the numbers."""
    paths = list(queries or example_queries())
    assistant = Assistant.load(where)
    assistant.warm_up()
    result = Result(counts={"queries": len(paths), "rounds": rounds})
    sounds = [read_audio(path, assistant.config.audio) for path in paths]
    result.counts["query_seconds"] = round(sum(s.duration_s for s in sounds))
    _latency(result, assistant, sounds, rounds)
    _whole(result, assistant, sounds, rounds)
    longest = max(range(len(sounds)), key=lambda i: sounds[i].duration_s)
    _memory(result, memory.measure(paths[longest], where))
    result.notes.append(
        f"Queries fed in blocks of {BLOCK_MS:g} ms at the pace of speech, model warm, {torch.get_num_threads()} threads, "
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. The wait runs from the query's last sample to "
        f"the first reply sample above {AUDIBLE_DBFS:g} dBFS as a player would play it, silence at the reply's start "
        "included; deciding that the turn has ended is not part of it."
    )
    save(out, "bench", result, {"model": assistant.config.name}, where)
    render(out)
    return result.numbers


def example_queries() -> list[Path]:
    """The recordings that ship with the repository. DataError if there are none."""
    found = sorted(p for p in EXAMPLES.glob("*") if p.suffix in (".wav", ".flac", ".ogg", ".opus"))
    if not found:
        raise DataError(f"no recordings in {EXAMPLES}; name some: omni bench QUERY.wav ...")
    return found


def latency_ms(assistant: Assistant, sound: Audio, seed: int = 0) -> tuple[float, Playback]:
    """(milliseconds from the query's last sample to the first audible reply sample, how the reply played)."""
    query = Paced(sound.samples, sound.sample_rate_hz)
    played = play(assistant.stream(query, seed=seed))
    return 1000 * (played.first_audible_s - query.ended_s), played


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "percentile_90": float(np.percentile(values, 90)),
        "longest": float(np.max(values)),
    }


def _latency(result: Result, assistant: Assistant, sounds: Sequence[Audio], rounds: int) -> None:
    """Wait for the first sound, ours and that of PocketSphinx with flite."""
    waits, gaps = [], []
    for seed in range(rounds):
        for sound in tqdm(sounds, desc="latency", unit="query"):
            wait, played = latency_ms(assistant, sound, seed)
            waits.append(wait)
            gaps.append(1000 * played.gaps_s)
    spread = _spread(waits)
    peer = _peer(assistant, sounds)
    beside = "PocketSphinx or flite is not installed"
    if peer:
        lead = _spread(peer)
        result.numbers["latency_pocketsphinx_flite_ms"] = lead
        beside = (
            f"PocketSphinx fed the same way, then flite slt reading our reply (nothing perceived or thought): "
            f"{lead['median']:.0f} ms, 90th percentile {lead['percentile_90']:.0f} ms"
        )
    result.rows.append(
        Row(
            "from the query's last sample to the first audible reply sample: median",
            f"{spread['median']:.0f} ms (90th percentile {spread['percentile_90']:.0f}, longest {spread['longest']:.0f})",
            beside,
            f"{LATENCY_FLOOR_MS:.0f} ms",
            f"{LATENCY_AIM_MS:.0f} ms",
            spread["median"] <= LATENCY_FLOOR_MS,
            spread["median"] <= LATENCY_AIM_MS,
        )
    )
    result.numbers |= {"latency_ms": spread, "gaps_ms": _spread(gaps)}
    result.notes.append(f"Gaps while the reply plays: longest {max(gaps):.0f} ms in all.")


def _peer(assistant: Assistant, sounds: Sequence[Audio]) -> list[float]:
    """The same wait for a cascade that needs no training: a lower bound, since it neither perceives nor thinks."""
    if shutil.which("flite") is None:
        return []
    try:
        decoder = sphinx_decoder()
    except ModelError:
        return []
    waits = []
    for sound in tqdm(sounds, desc="PocketSphinx and flite", unit="query"):
        text = assistant.respond(*assistant.hear(sound)).text
        query = Paced(sound.samples, sound.sample_rate_hz)

        def answer(query: Paced = query, text: str = text) -> Iterator[np.ndarray]:
            decoder.start_utt()
            for block in query:
                decoder.process_raw(pcm(block), full_utt=False)
            decoder.end_utt()
            decoder.hyp()
            yield speak(text, READERS["flite slt"])

        waits.append(1000 * (play(answer()).first_audible_s - query.ended_s))
    return waits


def _whole(result: Result, assistant: Assistant, sounds: Sequence[Audio], rounds: int) -> None:
    """Whole replies: time over length, and the time of each part."""
    factors, parts = [], []
    for seed in range(rounds):
        for sound in tqdm(sounds, desc="whole replies", unit="query"):
            began = time.perf_counter()
            turn = assistant.reply(sound, seed=seed)
            spent_s = time.perf_counter() - began
            assert turn.reply.audio is not None
            factors.append(spent_s / turn.reply.audio.duration_s)
            parts.append(turn.timings_ms)
    spread = _spread(factors)
    result.rows.append(
        Row(
            "making a whole reply over the reply's length: median",
            f"{spread['median']:.3f} (90th percentile {spread['percentile_90']:.3f})",
            "1 is as long as the reply lasts",
            f"{FACTOR_FLOOR}",
            f"{FACTOR_AIM}",
            spread["median"] <= FACTOR_FLOOR,
            spread["median"] <= FACTOR_AIM,
        )
    )
    names = list(dict.fromkeys(name for part in parts for name in part))
    spent = {name: _spread([part.get(name, 0.0) for part in parts]) for name in names}
    rows = [(n.replace("_", " "), f"{s['median']:.0f}", f"{s['percentile_90']:.0f}") for n, s in spent.items()]
    note = "A query given whole; `first sound` and `total` count from its start."
    result.tables.append(Table("Time of each part, ms", ("part", "median", "90th percentile"), rows, note))
    result.numbers |= {"real_time_factor": spread, "parts_ms": spent}


def _memory(result: Result, measured: dict[str, float]) -> None:
    peak = measured["peak_mb"]
    result.rows.append(
        Row(
            "peak memory of a process that loads the model and answers the longest query",
            f"{peak:.0f} MB",
            f"{measured['loaded_mb']:.0f} MB once loaded",
            f"{MEMORY_FLOOR_MB / 1000:.0f} GB",
            f"{MEMORY_AIM_MB:.0f} MB",
            peak <= MEMORY_FLOOR_MB,
            peak <= MEMORY_AIM_MB,
        )
    )
    result.numbers["memory_mb"] = measured
