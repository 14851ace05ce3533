"""Is a phrase said anywhere in an utterance? The best CTC alignment of its phones, against the best path of all.

Shapes: S states (25 Hz), P CTC units, F readings of phrases, L places of a reading (phones and the gaps between them).

The language model has no say here: a phrase that is heard badly, or that is rare, still scores by its sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product

import numpy as np
from torch import Tensor

from omni.nn.posteriors import as_scores
from omni.phones import BOUNDARY, UNIT_ID, normalise, pronounce, unstressed

_NONE = -1e30
_READINGS = 8  # of a phrase whose words have several pronunciations


def _readings(phrase: str) -> list[tuple[list[int], list[bool]]]:
    """Unit ids of each reading of a phrase, and for each unit whether a new word starts with it."""
    variants = [list(dict.fromkeys(unstressed(p) for p in pronounce(word))) for word in normalise(phrase).split()]
    found = []
    for choice in islice(product(*variants), _READINGS):
        units = [UNIT_ID[phone] for word in choice for phone in word]
        fresh = [index == 0 for word in choice for index in range(len(word))]
        found.append((units, fresh))
    return found if variants else []


def keyword_scores(log_probs: np.ndarray | Tensor, phrases: Sequence[str]) -> np.ndarray:
    """How well each phrase fits somewhere in the log-posteriors [S, P]: [len(phrases)] in [0, 1].

    The geometric mean over the phrase's phones of (probability of its best alignment / that of the best free path over
    the same states): near 1 when the greedy path says the phrase, near 0 when it is not there. 0 for an empty phrase
    and for one with more phones than there are states.
    """
    scores = as_scores(log_probs).astype(np.float64)
    ratio = scores - scores.max(axis=1, keepdims=True)
    rows = [(index, *reading) for index, phrase in enumerate(phrases) for reading in _readings(phrase)]
    found = np.zeros(len(phrases))
    if rows:
        best = _align(ratio, [units for _, units, _ in rows], [fresh for *_, fresh in rows])
        lengths = np.array([len(units) for _, units, _ in rows])
        np.maximum.at(found, [index for index, *_ in rows], np.exp(best / lengths))
    return found


def _align(ratio: np.ndarray, units: list[list[int]], fresh: list[list[bool]]) -> np.ndarray:
    """Best log-ratio [F] of each reading over all starts and ends (Viterbi). Gaps may be empty, blank or, between
    words, the boundary unit; between two equal units a gap must be there."""
    places = 2 * max(len(u) for u in units) - 1
    emitted = np.zeros((len(units), places), np.int64)
    leap = np.zeros((len(units), places), bool)  # may follow the unit before without a gap
    between = np.zeros((len(units), places), bool)
    for row, (ids, starts) in enumerate(zip(units, fresh)):
        last = 2 * len(ids) - 1
        emitted[row, :last:2] = ids
        leap[row, 2:last:2] = np.diff(ids) != 0
        between[row, 1:last:2] = starts[1:]
    ends = np.array([2 * len(ids) - 2 for ids in units])
    best = np.full(len(units), _NONE)
    now = np.full((len(units), places + 2), _NONE)
    for row_scores in ratio:
        step = now[:, 1:-1].copy()  # from the place before
        np.maximum(step, now[:, 2:], out=step)
        np.maximum(step, np.where(leap, now[:, :-2], _NONE), out=step)
        step[:, 0] = 0.0
        said = row_scores[emitted]
        said = np.where(between, np.maximum(said, row_scores[UNIT_ID[BOUNDARY]]), said)
        now = np.concatenate([np.full((len(units), 2), _NONE), step + said], axis=1)
        best = np.maximum(best, now[np.arange(len(units)), ends + 2])
    return best
