"""The pronunciations of a vocabulary as a tree of phones that a beam search walks with whole arrays of hypotheses.

Shapes: V words, R pronunciations, N nodes, P CTC units.

Node ENTRY follows a finished word, BETWEEN follows the boundary unit; both lead to every first phone. Every other node
is a phone after a prefix; `ends` lists the words that finish there (homophones share a node).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from omni.errors import ModelError
from omni.phones import BOUNDARY, UNIT_ID, UNITS, pronounce, unstressed

ENTRY, BETWEEN = 0, 1
Pronunciations = list[tuple[int, tuple[int, ...]]]  # (word id, unit ids)


def pronunciations(words: Sequence[str], skip: int = 0, most: int = 4) -> Pronunciations:
    """Every variant of every word from id `skip` on, unit ids without stress, up to `most` a word."""
    found: Pronunciations = []
    for index, word in enumerate(words[skip:], skip):
        variants = dict.fromkeys(unstressed(phones) for phones in pronounce(word))
        found.extend((index, tuple(UNIT_ID[phone] for phone in phones)) for phones in list(variants)[:most])
    return found


class Lexicon:
    """A phone tree. `children` [N, P] holds the next node or -1; `unit` [N]; `word_start`, `word_count`, `words` the ends."""

    def __init__(self, entries: Iterable[tuple[int, Sequence[int]]]) -> None:
        rows = [(word, units) for word, units in entries if len(units)]
        if not rows:
            raise ModelError("the lexicon has no pronunciations; build it from a vocabulary of real words")
        lengths = np.array([len(units) for _, units in rows])
        table = np.full((len(rows), lengths.max()), -1, np.int64)
        for row, (_, units) in enumerate(rows):
            table[row, : len(units)] = units
        self.entry_words = np.array([word for word, _ in rows], np.int64)
        self.entry_units, self.entry_lengths = table, lengths
        self._grow()

    def _grow(self) -> None:
        """Level by level: each distinct (parent, unit) becomes a node."""
        at = np.full(len(self.entry_words), BETWEEN, np.int64)
        last = np.zeros_like(at)
        parents, units = [np.array([-1, ENTRY])], [np.array([-1, UNIT_ID[BOUNDARY]])]
        self.levels, size = [np.array([ENTRY, BETWEEN])], 2
        for depth in range(self.entry_units.shape[1]):
            inside = self.entry_lengths > depth
            key = at[inside] * len(UNITS) + self.entry_units[inside, depth]
            distinct, where = np.unique(key, return_inverse=True)
            at[inside] = size + where
            parents.append(distinct // len(UNITS))
            units.append(distinct % len(UNITS))
            self.levels.append(np.arange(size, size + len(distinct)))
            size += len(distinct)
            done = self.entry_lengths == depth + 1
            last[done] = at[done]
        self.parent, self.unit = np.concatenate(parents), np.concatenate(units)
        self.children = np.full((size, len(UNITS)), -1, np.int32)
        self.children[self.parent[1:], self.unit[1:]] = np.arange(1, size)
        self.children[ENTRY] = np.maximum(self.children[ENTRY], self.children[BETWEEN])
        order = np.argsort(last, kind="stable")
        ends, words = last[order], self.entry_words[order]
        keep = np.ones(len(ends), bool)
        keep[1:] = (ends[1:] != ends[:-1]) | (words[1:] != words[:-1])
        self.words = words[keep]
        self.word_count = np.bincount(ends[keep], minlength=size)
        self.word_start = np.cumsum(self.word_count) - self.word_count
        self.word_end = ends[keep]

    def __len__(self) -> int:
        return len(self.unit)

    def look_ahead(self, unigram: np.ndarray) -> np.ndarray:
        """[N]: the best log-probability of a word at or below each node, given those of the words [V].

        A beam search adds it early, and takes it back when the word and its history are known.
        """
        best = np.full(len(self), -np.inf, np.float64)
        np.maximum.at(best, self.word_end, unigram[self.words].astype(np.float64))
        for nodes in reversed(self.levels[1:]):
            np.maximum.at(best, self.parent[nodes], best[nodes])
        best[[ENTRY, BETWEEN]] = 0.0
        return best

    def tensors(self) -> dict[str, np.ndarray]:
        """What `from_tensors` reads, compact."""
        inside = np.arange(self.entry_units.shape[1]) < self.entry_lengths[:, None]
        return {
            "lexicon_words": self.entry_words.astype(np.uint16),
            "lexicon_lengths": self.entry_lengths.astype(np.uint8),
            "lexicon_units": self.entry_units[inside].astype(np.uint8),
        }

    @classmethod
    def from_tensors(cls, stored: dict[str, np.ndarray]) -> Lexicon:
        """The lexicon kept by `tensors`. ModelError when it is not one."""
        try:
            ends = np.cumsum(stored["lexicon_lengths"].astype(np.int64))
            pieces = np.split(stored["lexicon_units"].astype(np.int64), ends[:-1])
            words = stored["lexicon_words"].tolist()
        except (KeyError, ValueError) as error:
            raise ModelError(f"the word model has no lexicon ({error!r}); train it with the recipe 0_words") from error
        if len(pieces) != len(words) or any(p.max(initial=0) >= len(UNITS) for p in pieces):
            raise ModelError(f"the lexicon does not fit the {len(UNITS)} units of the listener; train the words again")
        return cls((word, piece.tolist()) for word, piece in zip(words, pieces))
