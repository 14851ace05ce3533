"""Adapters: how many slots states give, identity at the start, and the scatter of sound into a prompt."""

from __future__ import annotations

import pytest
import torch

from omni.models.adapter import EmotionAdapter, SpeechAdapter, masked_scatter
from omni.turns import EMOTIONS

SLOT = 3


@pytest.mark.parametrize("states", [1, 2, 3, 8, 9])
def test_slots_are_promised_and_given(states: int) -> None:
    adapter = SpeechAdapter(6, 10)
    assert adapter(torch.randn(2, states, 6)).shape == (2, adapter.slots(states), 10)
    assert adapter.slots(states) == -(-states // 2)


def test_each_slot_reads_its_own_two_states() -> None:
    adapter = SpeechAdapter(6, 10)
    states = torch.randn(1, 7, 6, requires_grad=True)
    adapter(states)[0, 1, 0].backward()
    assert states.grad is not None
    assert states.grad[0].abs().sum(-1).nonzero()[:, 0].tolist() == [2, 3]


def test_an_untrained_emotion_adapter_says_the_label_itself() -> None:
    adapter = EmotionAdapter(5, 10)
    labels = torch.randn(len(EMOTIONS), 10)
    sure = torch.eye(len(EMOTIONS))
    assert torch.equal(adapter(sure, torch.randn(8, 5), labels)[:, 0], labels)
    assert torch.equal(adapter(sure, None, labels)[:, 0], labels)


def test_a_doubtful_posterior_lies_between_the_labels() -> None:
    adapter = EmotionAdapter(5, 10)
    labels = torch.randn(len(EMOTIONS), 10)
    mixed = adapter(torch.tensor([[0.25, 0.75, 0, 0, 0, 0, 0, 0]]), None, labels)
    assert torch.allclose(mixed[0, 0], 0.25 * labels[0] + 0.75 * labels[1])


def test_the_emotion_loss_can_teach_the_offset() -> None:
    torch.manual_seed(0)
    adapter = EmotionAdapter(4, 10)
    labels, vectors = torch.randn(8, 10), torch.randn(8, 4)
    flat = torch.full((8, 8), 1 / 8)
    optimiser = torch.optim.Adam(adapter.parameters(), 0.05)
    for _ in range(150):
        logits = adapter.emotion_logits(adapter(flat, vectors, labels))
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(8))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert adapter.offset.weight.abs().sum() > 0


def by_loop(embeddings: torch.Tensor, ids: torch.Tensor, sound: list[torch.Tensor]) -> torch.Tensor:
    out = embeddings.clone()
    for row in range(len(ids)):
        taken = 0
        for place in range(ids.shape[1]):
            if ids[row, place] == SLOT:
                out[row, place] = sound[row][taken]
                taken += 1
    return out


def test_masked_scatter_equals_a_loop() -> None:
    ids = torch.tensor([[1, 3, 3, 2, 3], [3, 4, 3, 3, 5], [3, 3, 1, 1, 3]])
    embeddings, sound = torch.randn(3, 5, 4), torch.randn(3, 3, 4)
    scattered = masked_scatter(embeddings, ids, SLOT, sound)
    assert torch.equal(scattered, by_loop(embeddings, ids, list(sound)))


def test_masked_scatter_takes_rows_of_different_lengths() -> None:
    ids = torch.tensor([[1, 3, 1, 2], [3, 4, 3, 3], [1, 1, 1, 1]])
    embeddings = torch.randn(3, 4, 6)
    sound = [torch.randn(n, 6) for n in (1, 3, 0)]
    assert torch.equal(masked_scatter(embeddings, ids, SLOT, sound), by_loop(embeddings, ids, sound))


def test_masked_scatter_refuses_other_counts_by_row() -> None:
    ids = torch.tensor([[3, 3, 1], [3, 1, 1]])
    with pytest.raises(ValueError, match=r"\[2, 1\].*\[2, 2\]"):
        masked_scatter(torch.randn(2, 3, 4), ids, SLOT, torch.randn(2, 2, 4))
    with pytest.raises(ValueError, match="slots per row"):  # three in all, but not three as 2 + 1
        masked_scatter(torch.randn(2, 3, 4), ids, SLOT, [torch.randn(1, 4), torch.randn(2, 4)])


def test_gradients_reach_the_sound_and_leave_the_slots() -> None:
    ids = torch.tensor([[1, 3, 2]])
    embeddings = torch.randn(1, 3, 4, requires_grad=True)
    sound = torch.randn(1, 1, 4, requires_grad=True)
    masked_scatter(embeddings, ids, SLOT, sound).sum().backward()
    assert sound.grad is not None
    assert embeddings.grad is not None
    assert sound.grad.abs().min() > 0
    assert embeddings.grad[0, 1].abs().max() == 0
