"""Published models read from this machine: the one place that says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def pretrained(cls: Any, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A model of the transformers class `cls` from what `save_pretrained` wrote: safetensors only, no code, no network."""
    return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=dtype).to(device)
