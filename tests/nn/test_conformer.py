"""Conformer layers: padding never matters, positions are relative, and each part does what its name says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omni.nn.conformer import ConformerLayer, Convolution, SelfAttention, rotary, rotate

WIDTH, HEADS, KERNEL = 16, 2, 5


def layer(dropout: float = 0.0) -> ConformerLayer:
    torch.manual_seed(0)
    return ConformerLayer(WIDTH, 32, HEADS, KERNEL, dropout).eval()


@pytest.mark.parametrize("garbage", [0.0, 1e3])
def test_batch_equals_singles(garbage: float) -> None:
    lengths = [1, 7, 12]
    x = torch.randn(3, 12, WIDTH)
    keep = torch.arange(12) < torch.tensor(lengths)[:, None]
    x = torch.where(keep[..., None], x, torch.full_like(x, garbage))
    together = layer()(x, keep)
    for row, length in enumerate(lengths):
        alone = layer()(x[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        assert torch.allclose(together[row, :length], alone[0], atol=1e-5)


def test_attention_sees_only_what_is_kept() -> None:
    attention = SelfAttention(WIDTH, HEADS)
    x = torch.randn(1, 9, WIDTH, requires_grad=True)
    keep = torch.arange(9)[None] < 6
    attention(x, keep)[0, 2].sum().backward()
    assert x.grad is not None
    assert bool((x.grad[0, :6].abs().sum(-1) > 0).all())
    assert x.grad[0, 6:].abs().max() == 0


def test_convolution_reaches_half_a_kernel_each_way() -> None:
    convolution = Convolution(WIDTH, KERNEL)
    x = torch.randn(1, 15, WIDTH, requires_grad=True)
    convolution(x, torch.ones(1, 15, dtype=torch.bool))[0, 7].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum(-1).nonzero()[:, 0].tolist() == [5, 6, 7, 8, 9]


def test_rotation_keeps_lengths_and_makes_products_relative() -> None:
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    code = rotary(20, 8)
    turned_q, turned_k = (rotate(v.expand(1, 1, 20, 8), *code) for v in (query, key))
    assert torch.allclose(turned_q.norm(dim=-1), query.norm().expand(1, 1, 20), atol=1e-5)
    products = (turned_q @ turned_k.transpose(-1, -2))[0, 0]
    for distance in (-3, 0, 5):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
    assert torch.equal(rotate(query, *rotary(1, 8)), query)


def test_attention_can_tell_where_a_frame_is() -> None:
    torch.manual_seed(1)
    attention = SelfAttention(WIDTH, HEADS)
    x = torch.randn(1, 6, WIDTH)
    keep = torch.ones(1, 6, dtype=torch.bool)
    mixed = [5, 4, 3, 2, 1, 0]
    assert not torch.allclose(attention(x, keep)[:, mixed], attention(x[:, mixed], keep), atol=1e-4)


def test_dropout_acts_on_what_the_layer_adds_and_only_in_training() -> None:
    dropping = layer(dropout=1.0)
    x, keep = torch.randn(2, 5, WIDTH), torch.ones(2, 5, dtype=torch.bool)
    assert not torch.allclose(dropping(x, keep), dropping.norm(x))
    dropping.train()
    assert torch.allclose(dropping(x, keep), dropping.norm(x))


def test_every_weight_gets_a_gradient() -> None:
    made = layer()
    made(torch.randn(2, 9, WIDTH), torch.ones(2, 9, dtype=torch.bool)).square().sum().backward()
    idle = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert isinstance(made.norm, nn.LayerNorm)
