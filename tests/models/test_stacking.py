"""Adapters of the full-size presets against plain loops: stacking, layer sums, slots, lengths."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from omni.models.stacking import DualAdapter, LayerSum, MultiScaleAdapter, StackingAdapter, SubSampler


@pytest.mark.parametrize("frames", [1, 4, 5, 6, 23])
def test_a_slot_is_its_five_frames(frames: int) -> None:
    adapter = StackingAdapter(3, 8, inner=7)
    x = torch.randn(2, frames, 3)
    out = adapter(x)
    assert out.shape == (2, adapter.slots(frames), 8)
    for row in range(2):
        for slot in range(adapter.slots(frames)):
            part = x[row, 5 * slot : 5 * slot + 5].flatten()
            part = F.pad(part, (0, 15 - len(part)))
            assert torch.allclose(out[row, slot], adapter.project(F.relu(adapter.expand(part))), atol=1e-5)


def test_the_layer_sum_is_even_at_first_and_learns() -> None:
    total = LayerSum(3)
    states = torch.randn(3, 1, 4, 2)
    assert torch.allclose(total(states), states.mean(0), atol=1e-6)
    with torch.no_grad():
        total.weights[1] += 50.0
    assert torch.allclose(total(states), states[1], atol=1e-5)


@pytest.mark.parametrize(("content", "tone"), [(23, 23), (23, 21), (11, 30)])
def test_both_branches_make_one_row_of_slots(content: int, tone: int) -> None:
    adapter = DualAdapter(4, 3, 2, 8, inner=6)
    heard, felt = torch.randn(1, content, 4), torch.randn(2, 1, tone, 3)
    out = adapter(heard, felt)
    assert out.shape == (1, -(-content // 5), 8)
    assert not torch.allclose(out, adapter(heard, felt + 1.0))
    assert not torch.allclose(out, adapter(heard + 1.0, felt))


def test_the_tone_of_a_query_is_one_slot() -> None:
    adapter = MultiScaleAdapter(3, 2, 8, 5)
    states = torch.randn(2, 4, 9, 3)
    slot, logits = adapter(states)
    assert slot.shape == (4, 1, 8)
    assert logits.shape == (4, 5)
    plain = adapter.project(states.mean(0)[1]).mean(0)
    assert torch.allclose(slot[1, 0], plain, atol=1e-5)
    assert torch.allclose(logits[1], adapter.classify(plain), atol=1e-5)


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 50])
def test_the_sub_sampler_gives_as_many_slots_as_it_says(frames: int) -> None:
    adapter = SubSampler(4, 8, inner=6)
    out = adapter(torch.randn(2, frames, 4))
    assert out.shape == (2, adapter.slots(frames), 8)
    assert torch.allclose(out.mean(-1), torch.zeros(2, adapter.slots(frames)), atol=1e-5)
