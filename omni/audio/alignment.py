"""Where each phone of a transcript lies in its recording, by PocketSphinx (BSD), and a uniform stand-in.

PocketSphinx chooses among a word's pronunciations and puts silences between words where it hears them; frames are
10 ms. It knows no stress, which is put back from the dictionary entry whose plain phones it chose.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from omni.errors import DataError, ModelError
from omni.phones import normalise, pronounce, unstressed

log = logging.getLogger(__name__)
ALIGNMENT_MS = 10.0
SILENCE = "sil"


@dataclass(frozen=True)
class Segment:
    """One phone (with stress) or silence: `start` and `length` in frames of 10 ms; `word` is -1 in silence."""

    phone: str
    start: int
    length: int
    word: int


@lru_cache(maxsize=1)
def _aligner() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise ModelError("pocketsphinx is not installed: pip install 'omni-empathy[train]'") from error
    # wide beams let the state search underflow: the default ones lose a third of the clips, these none
    narrow = {"beam": 1e-20, "wbeam": 1e-15, "pbeam": 1e-20}
    return Decoder(lm=None, samprate=16000, loglevel="FATAL", **narrow)


def align(samples: np.ndarray, text: str) -> list[Segment]:
    """Phones of `text` in sound [N] at 16 kHz, in order, without gaps, from frame 0.

    DataError when PocketSphinx finds no path (the words are not what is said).
    """
    decoder, words = _aligner(), normalise(text).split()
    if not words:
        raise DataError("an empty transcript cannot be aligned; leave the clip out")
    for word in dict.fromkeys(words):
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, " ".join(unstressed(pronounce(word)[0])), True)
    decoder.set_align_text(" ".join(words))
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    _decode(decoder, pcm)
    if decoder.hyp() is None:
        raise DataError(f"no alignment of {text[:60]!r}: the recording says something else; leave the clip out")
    decoder.set_alignment()
    _decode(decoder, pcm)
    segments: list[Segment] = []
    index = -1
    for entry in decoder.get_alignment():
        phones = [(phone.name, phone.start, phone.duration) for phone in entry]
        if entry.name.startswith("<") or entry.name.startswith("["):
            segments.append(Segment(SILENCE, phones[0][1], sum(p[2] for p in phones), -1))
            continue
        index += 1
        stressed = _with_stress(words[index], tuple(p[0] for p in phones))
        segments.extend(Segment(name, start, length, index) for name, (_, start, length) in zip(stressed, phones))
    if index != len(words) - 1:
        raise DataError(f"{index + 1} of {len(words)} words of {text[:60]!r} were aligned; leave the clip out")
    return segments


def _decode(decoder: Any, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    try:
        decoder.end_utt()
    except RuntimeError as error:
        _aligner.cache_clear()
        raise DataError(f"PocketSphinx found no path through the clip ({error}); leave the clip out") from error


def _with_stress(word: str, plain: tuple[str, ...]) -> tuple[str, ...]:
    """The word's pronunciation whose plain phones are `plain`, else `plain` with the stresses of the usual one."""
    for phones in pronounce(word):
        if unstressed(phones) == plain:
            return phones
    stresses = [phone[-1] for phone in pronounce(word)[0] if phone[-1].isdigit()]
    found = []
    for phone in plain:
        vowel = f"{phone}1" in _stressed_vowels()
        found.append(f"{phone}{stresses.pop(0) if stresses else '0'}" if vowel else phone)
    return tuple(found)


@lru_cache(maxsize=1)
def _stressed_vowels() -> frozenset[str]:
    from omni.phones import VOICE_UNITS

    return frozenset(VOICE_UNITS)


def uniform(samples: np.ndarray, text: str) -> list[Segment]:
    """Phones spread evenly over the sound between two silences of 50 ms: for tests and machines without PocketSphinx."""
    frames = len(samples) // 160
    words = normalise(text).split()
    phones = [(phone, index) for index, word in enumerate(words) for phone in pronounce(word)[0]]
    if frames < len(phones) + 10:
        raise DataError(f"{frames} frames of sound are too few for the {len(phones)} phones of {text[:60]!r}")
    edges = np.linspace(5, frames - 5, len(phones) + 1).round().astype(int)
    middle = [Segment(p, int(a), int(b - a), w) for (p, w), a, b in zip(phones, edges[:-1], edges[1:])]
    return [Segment(SILENCE, 0, 5, -1), *middle, Segment(SILENCE, int(edges[-1]), frames - int(edges[-1]), -1)]
