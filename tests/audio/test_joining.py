"""Sentences joined to a reply: no silence before it, set pauses inside it, the same however it is cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest

from omni.audio.joining import LEAD_IN_SAMPLES, PAUSE_SAMPLES, TAIL_SAMPLES, from_onset, join, sentence


def spoken(before: int = 2500, loud: int = 4000, gap: int = 900, after: int = 5000) -> np.ndarray:
    tone = (0.1 * np.sign(np.sin(np.arange(loud)) + 1e-9)).astype(np.float32)
    silence = [np.zeros(n, np.float32) for n in (before, gap, after)]
    return np.concatenate([silence[0], tone, silence[1], tone, silence[2]])


def test_a_reply_starts_shortly_before_its_first_audible_sample() -> None:
    piece = np.zeros(4000, np.float32)
    piece[2500:] = 0.1
    assert len(from_onset(piece)) == 1500 + LEAD_IN_SAMPLES
    assert len(from_onset(piece[2400:])) == 1600
    assert len(from_onset(np.zeros(100, np.float32))) == 0


def test_edges_are_cut_and_the_inside_is_kept() -> None:
    found = np.concatenate(list(sentence([spoken()])))
    assert len(found) == LEAD_IN_SAMPLES + 4000 + 900 + 4000 + TAIL_SAMPLES
    np.testing.assert_array_equal(found[:-TAIL_SAMPLES], spoken()[2500 - LEAD_IN_SAMPLES : 2500 + 8900])


@pytest.mark.parametrize("pieces", [2, 5, 23])
def test_pieces_do_not_change_the_reply(pieces: int) -> None:
    whole = np.concatenate(list(join([[spoken()], [spoken(before=10, after=30)]])))
    first, second = spoken(), spoken(before=10, after=30)
    # the lead-in can only reach back into the piece in which the sound begins
    cut = [np.concatenate([first[:2600]]), *np.array_split(first[2600:], pieces)]
    again = np.concatenate(list(join([cut, [second]])))
    np.testing.assert_array_equal(whole, again)
    assert len(whole) == LEAD_IN_SAMPLES + 8900 + TAIL_SAMPLES + PAUSE_SAMPLES + 10 + 8900 + 30


def test_silent_sentences_add_nothing() -> None:
    quiet = [np.zeros(900, np.float32)]
    alone = np.concatenate(list(join([[spoken()]])))
    np.testing.assert_array_equal(np.concatenate(list(join([quiet, [spoken()], quiet]))), alone)
    assert list(join([])) == []
