"""What our parts are measured beside: PocketSphinx hears, flite, espeak-ng and festival read aloud.

Shapes: N samples.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from tqdm import tqdm

from omni.data.voices import Voice, speak
from omni.errors import ModelError

log = logging.getLogger(__name__)
SAMPLE_RATE_HZ = 16_000
#: Synthetic voices whose replies are scored beside ours, best known first.
READERS: dict[str, Voice] = {
    "flite slt": Voice("flite", "slt"),
    "espeak-ng": Voice("espeak-ng", "en-us"),
    "festival HTS": Voice("festival", "cmu_us_slt_arctic_hts"),
}


@lru_cache(maxsize=1)
def sphinx_decoder() -> Any:
    """PocketSphinx 5 with the English model that its package ships and its own default settings."""
    if importlib.util.find_spec("pocketsphinx") is None:
        raise ModelError("pocketsphinx is not installed: pip install 'omni-empathy[eval]'")
    from pocketsphinx import Decoder

    return Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")


def pcm(samples: np.ndarray) -> bytes:
    """Sound [N] in [-1, 1] as 16-bit little-endian bytes."""
    return (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def sphinx(samples: np.ndarray) -> str:
    """What PocketSphinx hears in sound [N] at 16 kHz; an empty string when it hears nothing."""
    decoder = sphinx_decoder()
    decoder.start_utt()
    decoder.process_raw(pcm(samples), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


def sphinx_all(clips: Sequence[np.ndarray], workers: int = 2, what: str = "PocketSphinx") -> list[str]:
    """`sphinx` of every clip, in order, in `workers` processes of their own."""
    if workers <= 1 or len(clips) < 4:
        return [sphinx(clip) for clip in tqdm(clips, desc=what, unit="clip", disable=len(clips) < 4)]
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(tqdm(pool.map(sphinx, clips), total=len(clips), desc=what, unit="clip"))


def read_all(texts: Sequence[str], voices: Iterable[Voice], workers: int = 2) -> list[np.ndarray]:
    """Each text read aloud by its voice, float32 [N] at 16 kHz, in order. DataError if an engine is missing."""
    with ThreadPoolExecutor(workers) as pool:  # each engine is a program of its own
        made: Iterator[np.ndarray] = pool.map(speak, texts, voices)
        return list(tqdm(made, total=len(texts), desc="reading", unit="clip", disable=len(texts) < 4))
