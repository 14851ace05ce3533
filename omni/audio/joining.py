"""Sentences made one after the other, joined to one reply: silence at their edges cut, a pause between them.

Shapes: n samples of a piece; a sentence is a sequence of pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

#: What is below this is silence; a person who waits for an answer need not hear the breath before it.
ONSET_DBFS = -50.0
LEAD_IN_SAMPLES, TAIL_SAMPLES, PAUSE_SAMPLES = 320, 1600, 3200  # 20, 100 and 200 ms


def loud_samples(piece: np.ndarray) -> np.ndarray:
    """Places of the samples [n] above -50 dBFS."""
    return np.flatnonzero(np.abs(piece) > 10 ** (ONSET_DBFS / 20))


def from_onset(piece: np.ndarray) -> np.ndarray:
    """A piece of sound [n] from 20 ms before its first sample above -50 dBFS; empty if there is none."""
    loud = loud_samples(piece)
    return piece[max(0, loud[0] - LEAD_IN_SAMPLES) :] if len(loud) else piece[:0]


def sentence(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """A sentence's pieces without the silence before it, and with at most 100 ms of what comes after it."""
    held = np.zeros(0, np.float32)
    begun = False
    for piece in pieces:
        piece = piece if begun else from_onset(piece)
        begun = begun or len(piece) > 0
        loud = loud_samples(piece)
        end = int(loud[-1]) + 1 if len(loud) else 0
        if end:
            yield np.concatenate([held, piece[:end]])
            held = piece[end:]
        else:
            held = np.concatenate([held, piece])
    if begun:
        yield held[:TAIL_SAMPLES] * np.linspace(1, 0, len(held[:TAIL_SAMPLES]), dtype=np.float32)


def join(sentences: Iterable[Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    """Pieces of a whole reply; each is handed out as soon as it is known to be followed by sound, or ended."""
    begun = False
    for pieces in sentences:
        for number, piece in enumerate(sentence(pieces)):
            if begun and number == 0:
                yield np.zeros(PAUSE_SAMPLES, np.float32)
            begun = True
            yield piece
