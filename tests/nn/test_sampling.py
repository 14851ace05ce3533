"""Nucleus sampling and the blocking of known runs of words."""

from __future__ import annotations

import pytest
import torch

from omni.nn.sampling import Blocker, nucleus


def test_temperature_zero_is_greedy() -> None:
    logits = torch.randn(5, 30)
    assert torch.equal(nucleus(logits, 0.0, 0.9, None), logits.argmax(-1))


def test_only_the_smallest_set_with_the_mass_is_drawn_in_proportion() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log().expand(4000, -1)
    drawn = nucleus(logits, 1.0, 0.75, torch.Generator().manual_seed(1))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares[2:].tolist() == [0.0, 0.0]  # 0.5 + 0.3 is the first sum over 0.75
    assert shares[0].item() == pytest.approx(0.5 / 0.8, abs=0.03)


def test_the_best_token_is_always_kept_however_small_the_mass() -> None:
    logits = torch.randn(50, 20)
    assert torch.equal(nucleus(logits, 1.0, 1e-6, torch.Generator().manual_seed(0)), logits.argmax(-1))


def test_a_low_temperature_sharpens() -> None:
    logits = torch.tensor([[1.0, 0.0]]).expand(2000, -1)
    cold, warm = (nucleus(logits, t, 1.0, torch.Generator().manual_seed(0)).float().mean() for t in (0.3, 3.0))
    assert cold < 0.1 < 0.3 < warm


def test_the_generator_alone_decides() -> None:
    logits = torch.randn(64, 100)
    first, again, other = (nucleus(logits, 1.0, 0.9, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.randn(500, 10)
    logits[:, ::2] = float("-inf")
    assert bool((nucleus(logits, 2.0, 1.0, torch.Generator().manual_seed(0)) % 2 == 1).all())


PIECES = [
    piece.replace("_", "\u2581")
    for piece in ("_my", "_dog", "_ran", "_a", "way", ".", ",", "_?", "_ra", "n", "_to", "day", "_", "x")
]
TEXTS = (["my", "dog", "ran", "away", "today"], ["ran", "today"])


def ids_of(text: str) -> list[int]:
    """Ids of pieces given with spaces between, `_` for what begins a word."""
    return [PIECES.index(piece.replace("_", "\u2581")) for piece in text.split()]


@pytest.fixture
def blocker() -> Blocker:
    return Blocker(Blocker.learn(TEXTS, 4), 4, PIECES)


def completes(blocker: Blocker, said: str, piece: str) -> bool:
    candidate = ids_of(piece)[0]
    return blocker.completing(blocker.tail(ids_of(said)), [candidate]) == [candidate]


def test_a_run_of_words_is_blocked_at_the_piece_that_completes_it(blocker: Blocker) -> None:
    assert not completes(blocker, "_my _dog _ran", "_a")
    assert completes(blocker, "_my _dog _ran _a", "way")
    assert completes(blocker, "_dog _ran _a way _to", "day")
    assert not completes(blocker, "_dog _ran _a way", "_to")
    assert not completes(blocker, "_ran _to", "day")  # shorter than a run
    assert not completes(blocker, "_dog _my _ran _a", "way")  # order matters


def test_marks_and_the_cutting_into_pieces_do_not_hide_a_run(blocker: Blocker) -> None:
    assert completes(blocker, "_my _dog , _ra n . _a", "way")
    assert completes(blocker, "_to day _my _dog _? _ran _a", "way")  # what came before does not matter
    assert not completes(blocker, "_my _dog _ran _a", ".")
    assert blocker.tail(ids_of("_to day , _my _dog _ra n . _a")) == ("my", "dog", "ran", "a")
    assert blocker.tail([]) == ()


def test_learned_hashes_are_sorted_unique_and_fit_a_file() -> None:
    hashes = Blocker.learn([["a", "b", "c", "a", "b", "c"]], 3)
    assert hashes.dtype == torch.int64
    assert len(hashes) == 3
    assert bool((hashes.diff() > 0).all())
    assert bool((hashes >= 0).all())


def test_hash_depends_on_order_and_has_no_collisions_among_small_runs() -> None:
    words = [f"w{n}" for n in range(20)]
    runs = [(a, b, c) for a in words for b in words for c in words]
    assert len({Blocker.hash(r) for r in runs}) == len(runs)
