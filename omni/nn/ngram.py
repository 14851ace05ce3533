"""A back-off trigram language model over words, small enough to ship: quantised to 8 bits on disk, arrays in memory.

Shapes: V words, G bigrams, H trigrams, K hypotheses scored at once. Log-probabilities are natural.

A state is what the next word depends on: `w` in [0, V) after a word that starts no known trigram, `V + g` after bigram
g. States that predict alike are thus one state, and a search can merge hypotheses that share it. Estimation is in
`train/ngrams.py` (modified Kneser-Ney, Chen and Goodman 1999).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from omni.errors import ModelError

SPECIAL = ("<s>", "</s>", "<unk>")
START, END, UNKNOWN = range(3)
#: Log-probabilities on disk: 256 steps of an eighth of a nat's fraction, from 0 down to this floor.
FLOOR = -18.0
Ints = np.ndarray


def find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index, found) of `wanted` in the sorted `keys`; the index is 0 where it is not found."""
    if not len(keys):
        return np.zeros(wanted.shape, np.int64), np.zeros(wanted.shape, bool)
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[index] == wanted
    return np.where(found, index, 0), found


class NgramModel:
    """`score(state, word)` is all that a decoder needs; `start` is the state before the first word."""

    def __init__(
        self,
        words: Sequence[str],
        unigrams: tuple[np.ndarray, np.ndarray],
        bigrams: tuple[np.ndarray, np.ndarray, np.ndarray],
        trigrams: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Words begin with SPECIAL. Unigrams: log-probability and back-off [V]; bigrams: sorted keys u * V + w, the
        same [G]; trigrams: sorted keys g * V + w and log-probability [H]."""
        if tuple(words[:3]) != SPECIAL:
            raise ModelError(f"a vocabulary starts with {SPECIAL}, this one with {tuple(words[:3])}; train it again")
        self.words, self.ids = tuple(words), {word: index for index, word in enumerate(words)}
        self.unigram, self.unigram_backoff = (a.astype(np.float32) for a in unigrams)
        self.bigram_keys = bigrams[0].astype(np.int64)
        self.bigram, self.bigram_backoff = (a.astype(np.float32) for a in bigrams[1:])
        self.trigram_keys, self.trigram = trigrams[0].astype(np.int64), trigrams[1].astype(np.float32)
        self.continued = np.zeros(len(self.bigram_keys), bool)  # bigrams that are the context of a trigram
        self.continued[self.trigram_keys // len(words)] = True

    @property
    def start(self) -> int:
        """The state before the first word."""
        return START

    def context(self, before: Ints, last: Ints) -> Ints:
        """The state after the words `before`, `last` (ids, any shape)."""
        size = len(self.words)
        index, found = find(self.bigram_keys, np.asarray(before, np.int64) * size + last)
        return np.where(found & self._continued(index), size + index, last)

    def _continued(self, index: Ints) -> np.ndarray:
        return self.continued[index] if len(self.continued) else np.zeros(np.shape(index), bool)

    @overload
    def score(self, state: int, word: int) -> tuple[float, int]: ...
    @overload
    def score(self, state: Ints, word: Ints) -> tuple[np.ndarray, Ints]: ...
    def score(self, state: int | Ints, word: int | Ints) -> tuple[float | np.ndarray, int | Ints]:
        """Log-probability of a word (id) in a state, and the state after it; for integers, or for arrays [K] at once."""
        if isinstance(state, int | np.integer):
            one, after = self._score(np.array([state]), np.array([word]))
            return float(one[0]), int(after[0])
        return self._score(np.asarray(state), np.asarray(word))

    def _score(self, state: Ints, word: Ints) -> tuple[np.ndarray, Ints]:
        size = len(self.words)
        inside = state >= size
        context = np.where(inside, state - size, 0)
        last = np.where(inside, self.bigram_keys[context] % size, state) if len(self.bigram_keys) else state
        pair, paired = find(self.bigram_keys, last * size + word)
        if len(self.bigram_keys):
            short = np.where(paired, self.bigram[pair], self.unigram_backoff[last] + self.unigram[word])
            triple, tripled = find(self.trigram_keys, context * size + word)
            tripled &= inside
            long = self.trigram[triple] if len(self.trigram) else short
            backed = short + np.where(inside, self.bigram_backoff[context], 0.0)
            score = np.where(tripled, long, backed)
        else:
            score = self.unigram_backoff[last] + self.unigram[word]
        return score, np.where(paired & self._continued(pair), size + pair, word)

    def sentence(self, words: Iterable[str]) -> np.ndarray:
        """Log-probability of each word and of the end, in turn; unknown words count as `<unk>`."""
        state, found = self.start, []
        for word in [*words, SPECIAL[END]]:
            score, state = self.score(state, self.ids.get(word, UNKNOWN))
            found.append(score)
        return np.array(found)

    def save(self, path: Path, extra: dict[str, np.ndarray] | None = None) -> None:
        """Write a compact safetensors file; `extra` tensors (a lexicon) travel along."""
        size = len(self.words)
        followers = np.bincount(self.bigram_keys // size, minlength=size)
        contexts = np.bincount(self.trigram_keys // size, minlength=len(self.bigram_keys))
        tensors: dict[str, np.ndarray] = {
            "words": np.frombuffer("\n".join(self.words).encode(), np.uint8),
            "unigram": self.unigram.astype(np.float16),
            "unigram_backoff": self.unigram_backoff.astype(np.float16),
            "bigram_words": (self.bigram_keys % size).astype(np.uint16),
            "bigram_counts": followers.astype(np.uint16),
            "bigram": _pack(self.bigram),
            "bigram_backoff": _pack(self.bigram_backoff[self.continued]),
            "continued": np.packbits(self.continued),
            "trigram_words": (self.trigram_keys % size).astype(np.uint16),
            "trigram_counts": contexts[self.continued].astype(np.uint16),
            "trigram": _pack(self.trigram),
        }
        save_file({**tensors, **(extra or {})}, path)

    @classmethod
    def load(cls, path: Path) -> NgramModel:
        """Read what `save` wrote. ModelError when it is missing, corrupt or of another shape."""
        return cls.from_tensors(read_tensors(path), path)

    @classmethod
    def from_tensors(cls, stored: dict[str, np.ndarray], path: Path) -> NgramModel:
        """The same from tensors that are already read; `path` is for messages."""
        try:
            words = stored["words"].tobytes().decode().split("\n")
            size, count = len(words), len(stored["bigram_words"])
            heads = np.repeat(np.arange(size, dtype=np.int64), stored["bigram_counts"])
            continued = np.unpackbits(stored["continued"], count=count).astype(bool)
            backoff = np.zeros(count, np.float32)
            backoff[continued] = _unpack(stored["bigram_backoff"])
            contexts = np.repeat(np.flatnonzero(continued), stored["trigram_counts"])
            return cls(
                words,
                (stored["unigram"], stored["unigram_backoff"]),
                (heads * size + stored["bigram_words"], _unpack(stored["bigram"]), backoff),
                (contexts * size + stored["trigram_words"], _unpack(stored["trigram"])),
            )
        except (KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} is not a word model ({error!r}); train it again or install it again") from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file. ModelError names the file."""
    if not Path(path).is_file():
        raise ModelError(f"no word model at {path}; train it with the recipe 0_words, or install the weights again")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); it may be cut short: install the weights again") from error


def _pack(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values / FLOOR, 0.0, 1.0) * 255).astype(np.uint8)


def _unpack(packed: np.ndarray) -> np.ndarray:
    return packed.astype(np.float32) * np.float32(FLOOR / 255)
