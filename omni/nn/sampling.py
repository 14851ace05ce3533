"""Choosing the next token: nucleus sampling with an explicit generator, and n-gram blocking.

Shapes: R rows (candidates), V vocabulary.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

#: What begins a word's first piece, and what stands between words without being one.
_BEGINS, _MARKS = "\u2581", ("", ".", ",", "?", "!")
#: A nucleus is sought among this many likeliest tokens: sorting a whole vocabulary costs more than the model's layers.
WIDEST = 128


def nucleus(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Sample one token a row from the smallest set with mass `top_p` (Holtzman et al. 2020, arXiv 1904.09751).

    logits [R, V] -> ids [R]. `temperature` 0 is greedy. The generator makes the draw repeatable.
    """
    if temperature <= 0:
        return logits.argmax(-1)
    scaled = logits.float() / temperature
    likeliest, places = scaled.topk(min(WIDEST, scaled.shape[-1]))
    ordered = (likeliest - scaled.logsumexp(-1, keepdim=True)).exp()
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    drawn = torch.multinomial(kept, 1, generator=generator)
    return places.gather(-1, drawn)[:, 0]


class Blocker:
    """Remembers runs of words of known texts as hashes and tells which next tokens would complete one.

    Used so that a reply never repeats a training reply's run of words. `hashes` int64, sorted, of runs of `size` words;
    `pieces` the text of each token, in which U+2581 begins a word.
    """

    def __init__(self, hashes: Tensor, size: int, pieces: Sequence[str]) -> None:
        self.known = set(hashes.tolist())
        self.size, self.pieces = size, pieces

    @staticmethod
    def hash(words: Sequence[str], value: int = 1469598103934665603) -> int:
        """A 63-bit polynomial hash of a run of words; `value`: that of the words before, if it goes on from them."""
        for word in words:
            value = ((value ^ _number(word)) * 1099511628211) & 0x7FFFFFFFFFFFFFFF
        return value

    @classmethod
    def learn(cls, texts: Sequence[Sequence[str]], size: int) -> Tensor:
        """Hashes of every run of the texts, each a sequence of words without marks."""
        found = {cls.hash(t[i : i + size]) for t in texts for i in range(len(t) - size + 1)}
        return torch.tensor(sorted(found), dtype=torch.int64)

    def tail(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The last words of ids, `size` at most; the very last may not be whole yet."""
        words: list[str] = []
        ending = ""
        for token in reversed(ids):
            piece = self.pieces[token]
            if piece.strip(_BEGINS) in _MARKS:
                continue
            ending = piece + ending
            if piece.startswith(_BEGINS):
                words.append(ending[1:])
                ending = ""
                if len(words) == self.size:
                    break
        return tuple(reversed([*words, ending] if ending else words))

    def completing(self, tail: tuple[str, ...], candidates: Sequence[int]) -> list[int]:
        """Which of the `candidates` complete a known run after ids with this `tail`, their word taken as whole."""
        before = len(tail) + 1 - self.size
        if before < 0:
            return []
        new = self.hash(tail[before:])  # what comes before a piece that begins a word
        on = self.hash(tail[before - 1 : -1]) if before else None  # what comes before one that goes on
        found = []
        for token in candidates:
            piece = self.pieces[token]
            if piece.strip(_BEGINS) in _MARKS:
                continue
            begins = piece.startswith(_BEGINS)
            value, word = (new, piece[1:]) if begins else (on, tail[-1] + piece)
            if value is not None and self.hash([word], value) in self.known:
                found.append(token)
        return found


@lru_cache(maxsize=100_000)
def _number(word: str) -> int:
    return zlib.crc32(word.encode())
