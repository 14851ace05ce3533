"""Linear layers in 8-bit integers: half the time a token, since a small batch waits for the weights to be read."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def in_int8(module: M) -> M:
    """The module with every `nn.Linear` in it replaced, in place, by one with int8 weights (a scale per output) and inputs
    quantised as they come. For inference on a processor; unchanged where this build of torch cannot do it."""
    if not set(torch.backends.quantized.supported_engines) & {"x86", "fbgemm", "qnnpack", "onednn"}:
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interface moves to another package in torch 2.12; ours is pinned to 2.11
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        return quantize_dynamic(module, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True)
