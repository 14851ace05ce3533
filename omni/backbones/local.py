"""Published models read from this machine: the one place that says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from omni.errors import ConfigError

#: Bits a weight that language models may be read in (0: as the preset's dtype says).
BITS = (0, 8, 4)


def pretrained(cls: Any, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", bits: int = 0) -> Any:
    """A model of the transformers class `cls` from what `save_pretrained` wrote: safetensors only, no code, no network.

    `bits` 8 or 4 reads its linear layers in LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339) or NF4 (2023, arXiv 2305.14314)
    by the bitsandbytes library. ConfigError for other numbers, or without that library.
    """
    if bits not in BITS:
        raise ConfigError(f"bits: {bits} is not possible; choose from {', '.join(map(str, BITS))}")
    given: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": dtype}
    if not bits:
        return cls.from_pretrained(folder, **given).to(device)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError("bits needs bitsandbytes; install it with: pip install 'omni-empathy[quantised]'") from error
    from transformers import BitsAndBytesConfig

    chosen = BitsAndBytesConfig(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return cls.from_pretrained(folder, quantization_config=chosen, device_map={"": device}, **given)
