"""Choosing the next token: nucleus sampling with an explicit generator, and n-gram blocking.

Shapes: R rows (candidates), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    """Remembers n-grams of known texts as hashes and tells which next tokens would complete one.

    Used so that a reply never repeats a training reply's run of words. `hashes` int64, sorted, of n-grams of ids.
    """

    def __init__(self, hashes: Tensor, size: int) -> None:
        self.known = set(hashes.tolist())
        self.size = size

    @staticmethod
    def hash(ids: tuple[int, ...]) -> int:
        """A 63-bit polynomial hash of token ids."""
        value = 1469598103934665603
        for token in ids:
            value = ((value ^ token) * 1099511628211) & 0x7FFFFFFFFFFFFFFF
        return value

    @classmethod
    def learn(cls, texts: list[list[int]], size: int) -> Tensor:
        """Hashes of every n-gram of the texts."""
        found = {cls.hash(tuple(t[i : i + size])) for t in texts for i in range(len(t) - size + 1)}
        return torch.tensor(sorted(found), dtype=torch.int64)

    def completes(self, ids: list[int], candidate: int) -> bool:
        """Whether adding `candidate` to `ids` completes a known n-gram."""
        if len(ids) + 1 < self.size:
            return False
        return self.hash((*ids[len(ids) + 1 - self.size :], candidate)) in self.known
