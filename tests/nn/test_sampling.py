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


def test_blocker_knows_every_run_of_its_texts_and_no_other() -> None:
    texts = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [4, 4, 4, 4]]
    blocker = Blocker(Blocker.learn(texts, 4), 4)
    for text in texts:
        for end in range(3, len(text)):
            assert blocker.completes(text[:end], text[end])
    assert not blocker.completes([1, 2, 3], 5)
    assert not blocker.completes([2, 1, 3], 4)  # order matters
    assert not blocker.completes([9, 8], 7)  # shorter than a run
    assert blocker.completes([50, 60, 4, 5, 6], 7)  # what came before does not matter


def test_learned_hashes_are_sorted_unique_and_fit_a_file() -> None:
    hashes = Blocker.learn([[1, 2, 3, 1, 2, 3]], 3)
    assert hashes.dtype == torch.int64
    assert len(hashes) == 3
    assert bool((hashes.diff() > 0).all())
    assert bool((hashes >= 0).all())


def test_hash_depends_on_order_and_has_no_collisions_among_small_runs() -> None:
    runs = [(a, b, c) for a in range(20) for b in range(20) for c in range(20)]
    assert len({Blocker.hash(r) for r in runs}) == len(runs)
