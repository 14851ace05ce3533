"""Exchanges like the one at hand, looked up among the project's own and shown to the language model before it answers.

A small model knows few ways to answer; a written exchange about nearly the same thing shows it one (exemplars in dialogue
generation: Weston et al. 2018, arXiv 1808.04776). It is read, never recited: a run of words of a written reply is blocked
while sampling (`nn/sampling.py`).
Shapes: N exchanges, E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from omni.errors import ModelError
from omni.text import Vocabulary
from omni.turns import INTENSITIES

#: What the same tone of voice counts beside the cosine of the words.
TONE_WEIGHT = 0.1
#: Cosines from which a query counts as moderately and strongly like another.
LIKENESS_LIMITS = (0.45, 0.65)


class Exemplars:
    """Token ids of queries and replies with an inverted index of TF-IDF weights over the queries' tokens."""

    def __init__(
        self, queries: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], tones: Sequence[int]
    ) -> None:
        """`tones`: index into EMOTIONS of each exchange's voice. ValueError unless all three have one length."""
        if not len(queries) == len(replies) == len(tones) or not len(queries):
            raise ValueError(
                f"{len(queries)} queries, {len(replies)} replies, {len(tones)} tones: give as many of each"
            )
        self.queries = [tuple(q) for q in queries]
        self.replies = [tuple(r) for r in replies]
        self.tones = np.asarray(tones, np.int64)
        self._index()

    def __len__(self) -> int:
        return len(self.queries)

    def _index(self) -> None:
        tokens = np.array([token for query in self.queries for token in query], np.int64)
        places = np.repeat(np.arange(len(self)), [len(query) for query in self.queries])
        # a pair of numbers as one, which sorts and drops repetitions at once
        tokens, places = np.divmod(np.unique(tokens * len(self) + places), len(self))
        self._vocabulary = int(tokens.max(initial=0)) + 1
        self._begins = np.searchsorted(tokens, np.arange(self._vocabulary + 1))
        self._places = places
        counts = np.diff(self._begins)
        self._idf = np.log((len(self) + 1) / (counts + 1)) + 1
        squares = np.bincount(places, self._idf[tokens] ** 2, minlength=len(self))
        self._norms = np.sqrt(np.maximum(squares, 1e-9))

    def similarity(self, query: Sequence[int], posterior: Sequence[float]) -> np.ndarray:
        """Cosine [N] of the TF-IDF vectors plus TONE_WEIGHT times the chance [E] of each exchange's tone."""
        scores = np.zeros(len(self))
        known = [t for t in set(query) if t < self._vocabulary]
        for token in known:
            scores[self._places[self._begins[token] : self._begins[token + 1]]] += self._idf[token] ** 2
        norm = np.sqrt(max(float((self._idf[known] ** 2).sum()), 1e-9))
        return scores / (norm * self._norms) + TONE_WEIGHT * np.asarray(posterior)[self.tones]

    def nearest(
        self, query: Sequence[int], posterior: Sequence[float], count: int = 1, without: Sequence[int] = ()
    ) -> list[int]:
        """The `count` exchanges most like a query, best first; `without` leaves some out."""
        scores = self.similarity(query, posterior)
        scores[list(without)] = -np.inf
        count = min(count, len(self))
        likely = np.argpartition(-scores, count - 1)[:count]
        return [int(i) for i in likely[np.lexsort((likely, -scores[likely]))] if np.isfinite(scores[i])]

    def likeness(self, query: Sequence[int], other: Sequence[int]) -> str:
        """How like two queries are, one of INTENSITIES: the language model learns how far to follow an exemplar."""

        def weight(tokens: set[int]) -> float:
            return float(sum(self._idf[t] ** 2 for t in tokens if t < self._vocabulary))

        one, two = set(query), set(other)
        cosine = weight(one & two) / max((weight(one) * weight(two)) ** 0.5, 1e-9)
        return INTENSITIES[sum(cosine >= limit for limit in LIKENESS_LIMITS)]

    def shown(self, query: Sequence[int], places: Sequence[int], vocabulary: Vocabulary) -> list[int]:
        """Ids of the exchanges at `places` as the language model reads them before a query, the best one last."""
        found: list[int] = []
        for place in reversed(places):
            like = self.likeness(query, self.queries[place])
            found += vocabulary.example(self.queries[place], self.replies[place], like)
        return found

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write ids, lengths and tones as safetensors."""

        def flat(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
            ids = torch.tensor([i for row in rows for i in row], dtype=torch.int16)
            return ids, torch.tensor([len(row) for row in rows], dtype=torch.int16)

        (queries, query_sizes), (replies, reply_sizes) = flat(self.queries), flat(self.replies)
        tones = torch.tensor(self.tones, dtype=torch.int16)
        tensors = {"queries": queries, "query_sizes": query_sizes, "replies": replies, "reply_sizes": reply_sizes}
        save_file({**tensors, "tones": tones}, path)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Exemplars:
        """From what `save` wrote. ModelError if a tensor is missing or the sizes do not fit."""
        try:
            queries = _cut(tensors["queries"].tolist(), tensors["query_sizes"].tolist())
            replies = _cut(tensors["replies"].tolist(), tensors["reply_sizes"].tolist())
            return cls(queries, replies, tensors["tones"].tolist())
        except (KeyError, ValueError) as error:
            raise ModelError(f"exemplars.safetensors is damaged ({error}); fetch the checkpoint again") from error


def _cut(flat: list[int], sizes: list[int]) -> list[list[int]]:
    """A list cut into pieces. ValueError unless the sizes fill it."""
    ends = list(accumulate(sizes, initial=0))
    if ends[-1] != len(flat) or min(sizes, default=0) < 0:
        raise ValueError(f"{len(flat)} tokens do not fill {ends[-1]}")
    return [flat[a:b] for a, b in pairwise(ends)]
