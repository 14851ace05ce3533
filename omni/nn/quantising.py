"""Linear layers in 8-bit integers: half the time a token, since a small batch waits for the weights to be read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def in_int8(module: M, but: Sequence[str] = ()) -> M:
    """The module with every `nn.Linear` in it replaced, in place, by one with int8 weights (a scale per output) and inputs
    quantised as they come; layers whose own name is in `but` stay. For inference on a processor; unchanged where this
    build of torch cannot do it."""
    if not set(torch.backends.quantized.supported_engines) & {"x86", "fbgemm", "qnnpack", "onednn"}:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interface moves to another package in torch 2.12; ours is pinned to 2.11
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        linear = [n for n, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        chosen = {n: per_channel_dynamic_qconfig for n in linear if n.rpartition(".")[2] not in but}
        return quantize_dynamic(module, chosen, inplace=True)
