"""Linear layers in int8 compute nearly the same, and nothing else is touched."""

from __future__ import annotations

import copy

import torch
from torch import nn

from omni.nn.quantising import in_int8


def test_outputs_stay_close_and_other_layers_stay_as_they_are() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Embedding(20, 64), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32), nn.LayerNorm(32)
    ).eval()
    small = in_int8(copy.deepcopy(plain))
    ids = torch.randint(20, (4, 7))
    with torch.inference_mode():
        wanted, found = plain(ids), small(ids)
    assert not any(isinstance(layer, nn.Linear) for layer in small)
    assert torch.equal(small[0](ids), plain[0](ids))
    assert not torch.equal(found, wanted)
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=-1).min() > 0.999


def test_layers_can_be_left_out_by_name() -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}) for _ in range(2)])
    small = in_int8(blocks, but=("down",))
    assert all(isinstance(block["down"], nn.Linear) for block in small)
    assert not any(isinstance(block["up"], nn.Linear) for block in small)


def test_it_is_left_alone_where_it_cannot_be_done(monkeypatch) -> None:
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", [])
    plain = nn.Sequential(nn.Linear(8, 8))
    assert isinstance(in_int8(plain)[0], nn.Linear)
