"""Objectives against their formulas, written out."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch.nn import functional as F

from omni.train.losses import ctc, emotion_vector, listen_perceive, masked_l1, next_token


def collapse(path: tuple[int, ...]) -> list[int]:
    merged = [path[0], *(b for a, b in pairwise(path) if a != b)]
    return [u for u in merged if u]


def test_ctc_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 3)
    target = [1, 2]
    probabilities = logits[0].softmax(-1)
    total = sum(
        torch.stack([probabilities[t, u] for t, u in enumerate(path)]).prod()
        for path in product(range(3), repeat=4)
        if collapse(path) == target
    )
    found = ctc(logits, torch.tensor([4]), torch.tensor([target]), torch.tensor([2]))
    assert found.item() == pytest.approx(-torch.as_tensor(total).log().item() / 2, rel=1e-5)


def test_ctc_ignores_padding_and_impossible_items() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 5, requires_grad=True)
    targets = torch.tensor([[1, 2, 0, 0], [1, 1, 1, 1]])  # four equal units need seven states
    both = ctc(logits, torch.tensor([4, 6]), targets, torch.tensor([2, 4]))
    alone = ctc(logits[:1, :4], torch.tensor([4]), targets[:1], torch.tensor([2]))
    assert both.item() == pytest.approx(alone.item() / 2, rel=1e-5)
    both.backward()
    assert logits.grad is not None
    assert logits.grad[0, 4:].abs().max() == 0
    assert bool(torch.isfinite(logits.grad).all())


def test_next_token_scores_only_what_is_asked() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7)
    targets = torch.tensor([[1, -100, 4], [-100, -100, 6]])
    log_probabilities = logits.log_softmax(-1)
    expected = -(log_probabilities[0, 0, 1] + log_probabilities[0, 2, 4] + log_probabilities[1, 2, 6]) / 3
    assert next_token(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_emotion_vector_is_zero_when_equal_and_weighs_its_halves() -> None:
    vector = torch.randn(4, 6)
    assert emotion_vector(vector, vector).item() == pytest.approx(0, abs=1e-6)
    opposite = emotion_vector(vector, -vector)
    expected = 0.6 * (2 * vector).square().mean() + 0.4 * 2
    assert opposite.item() == pytest.approx(expected.item(), rel=1e-5)
    longer = emotion_vector(2 * vector, vector, mse=0.0, cosine=1.0)
    assert longer.item() == pytest.approx(0, abs=1e-6)  # the cosine does not see length


def test_listen_perceive_adds_a_tenth() -> None:
    assert listen_perceive(torch.tensor(2.0), torch.tensor(3.0)).item() == pytest.approx(2.3)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3)])
def test_masked_l1_is_the_mean_over_kept_frames(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(shape), torch.randn(shape)
    keep = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    expected = torch.cat([(predicted - target).abs()[0, :3].flatten(), (predicted - target).abs()[1].flatten()]).mean()
    assert masked_l1(predicted, target, keep).item() == pytest.approx(expected.item(), rel=1e-5)
    assert masked_l1(predicted, target, torch.zeros(2, 5, dtype=torch.bool)).item() == 0
    changed = predicted.clone()
    changed[0, 3:] += 100
    assert torch.equal(masked_l1(changed, target, keep), masked_l1(predicted, target, keep))


def test_losses_are_computed_in_full_precision() -> None:
    logits = torch.randn(1, 4, 9)
    half = next_token(logits.bfloat16(), torch.tensor([[1, 2, 3, 4]]))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(F.cross_entropy(logits[0], torch.tensor([1, 2, 3, 4])).item(), rel=0.02)
