"""Write a corpus of synthetic readings: `omni synth OUT --text self_dialogue.jsonl.gz --clips 5000`."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from tqdm import tqdm

from omni.data.manifest import Clip, lines, write
from omni.data.voices import SAMPLE_RATE_HZ, random_reading
from omni.errors import DataError
from omni.phones import normalise


def sentences(path: Path, minimum_words: int = 3, maximum_words: int = 28) -> list[str]:
    """Spoken-length turns of a dialogue corpus or plain text file, each once, in order."""
    turns: list[str] = []
    if path.suffix in (".txt", ".tsv"):
        turns = path.read_text(encoding="utf-8").splitlines()
    else:
        for row in lines(path):
            for turn in row.get("turns", [row.get("text", "")]):
                turns.append(turn["text"] if isinstance(turn, dict) else turn)
    kept = dict.fromkeys(t.strip() for t in turns if not re.search(r"\d|http|[^\x00-\x7f]", t))
    return [t for t in kept if minimum_words <= len(normalise(t).split()) <= maximum_words]


def synthesise(texts: list[str], out: Path, count: int, seed: int = 0, workers: int = 2) -> Path:
    """Read `count` of the texts in training voices into OUT/audio; returns OUT/manifest.jsonl. Failures are counted."""
    chosen = random.Random(seed).sample(texts, min(count, len(texts)))
    (out / "audio").mkdir(parents=True, exist_ok=True)

    def one(item: tuple[int, str]) -> Clip | None:
        index, text = item
        path = out / "audio" / f"{index:06d}.flac"
        try:
            samples, speaker = random_reading(text, seed * 1_000_003 + index)
        except (DataError, OSError):
            return None
        if not 0.5 * SAMPLE_RATE_HZ <= len(samples) <= 16 * SAMPLE_RATE_HZ:
            return None
        soundfile.write(path, samples, SAMPLE_RATE_HZ)
        return Clip(
            f"synth-{seed}-{index:06d}", path, speaker, normalise(text), duration_s=len(samples) / SAMPLE_RATE_HZ
        )

    with ThreadPoolExecutor(workers) as pool:
        done = list(tqdm(pool.map(one, enumerate(chosen)), total=len(chosen), unit="clip", desc="reading"))
    clips = [clip for clip in done if clip is not None]
    if not clips:
        raise DataError("no text could be read aloud: are espeak-ng and flite installed? (see packages.txt)")
    write(out / "manifest.jsonl", clips)
    return out / "manifest.jsonl"
