"""The copy head: a proper mixture, causal, and it learns to repeat what it read."""

from __future__ import annotations

import pytest
import torch

from omni.nn.copying import CopyHead

WIDTH, FIRST, VOCABULARY = 16, 3, 20


@pytest.fixture
def head() -> CopyHead:
    torch.manual_seed(0)
    made = CopyHead(WIDTH, 2, FIRST, size=8)
    made.gate.bias.data.zero_()
    return made


def inputs(seed: int = 0, length: int = 9) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST, VOCABULARY, (2, length), generator=generator)
    embeddings, before, states = torch.randn(3, 2, length, WIDTH, generator=generator)
    return ids, embeddings, before, states, torch.randn(2, length, VOCABULARY, generator=generator)


def test_the_mixture_is_a_distribution(head: CopyHead) -> None:
    ids, embeddings, before, states, logits = inputs()
    mixed = head.mixture(logits, states, ids, head.keys(embeddings, before, states))
    assert torch.allclose(mixed.exp().sum(-1), torch.ones(2, 9), atol=1e-5)
    assert not torch.allclose(mixed, logits.log_softmax(-1), atol=0.01)


def test_the_likelihood_of_targets_is_the_mixtures(head: CopyHead) -> None:
    ids, embeddings, before, states, logits = inputs()
    keys, targets = head.keys(embeddings, before, states), ids.roll(1, 1)
    mixed = head.mixture(logits, states, ids, keys).gather(-1, targets[..., None])[..., 0]
    assert torch.allclose(head.log_likelihood(logits, states, ids, keys, targets), mixed, atol=1e-4)


def test_nothing_later_and_no_special_token_is_copied(head: CopyHead) -> None:
    ids, embeddings, before, states, logits = inputs()
    ids[:, 2], ids[:, 5] = 1, 2
    keys = head.keys(embeddings, before, states)
    certain = torch.full_like(logits, -50.0)
    certain[..., 4] = 0.0  # the softmax writes only token 4
    mixed = head.mixture(certain, states, ids, keys).exp()
    for row in range(2):
        for place in range(9):
            may = {4} | {t for t in ids[row, : place + 1].tolist() if t >= FIRST}
            assert {t for t in range(VOCABULARY) if mixed[row, place, t] > 1e-6} <= may
    later = head.mixture(logits[:, -2:], states[:, -2:], ids, keys)
    assert torch.allclose(later, head.mixture(logits, states, ids, keys)[:, -2:], atol=1e-5)


def test_it_learns_to_repeat(head: CopyHead) -> None:
    """With states that only know the last token, a repeated random line is learned by pointing."""
    table = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(head.parameters(), 0.01)
    generator = torch.Generator().manual_seed(2)
    nats = []
    for _ in range(150):
        line = torch.stack([torch.randperm(VOCABULARY - FIRST, generator=generator)[:8] + FIRST for _ in range(8)])
        ids = torch.cat([line, line], 1)
        embeddings = table[ids]
        before = torch.nn.functional.pad(embeddings, (0, 0, 1, 0))[:, :-1]
        flat = torch.zeros(8, 16, VOCABULARY)
        found = head.log_likelihood(flat, embeddings, ids, head.keys(embeddings, before, embeddings), ids.roll(-1, 1))
        loss = -found[:, 8:15].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        nats.append(float(loss.detach()))
    assert nats[0] > 2.0
    assert nats[-1] < 0.5
