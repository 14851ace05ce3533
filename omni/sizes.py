"""How large a preset's published models are: parameters counted on the `meta` device from their real configurations.

The configurations are kept in `omni/assets/models/`, each with the place where it was published; nothing is fetched and nothing
allocated.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
import transformers

from omni.errors import ModelError
from omni.preset import OWN, PartSpec, Preset

#: Bytes of a parameter where a preset runs: float32 on a processor, bfloat16 on a GPU.
BYTES = {"cpu": 4, "cuda": 2}


@dataclass(frozen=True)
class ModelSize:
    """Parameters of one published model, None where its configuration is not kept here."""

    part: str
    model: str
    licence: str
    parameters: int | None


@dataclass(frozen=True)
class PresetSize:
    """What `omni info --presets` tells of one preset."""

    name: str
    about: str
    models: tuple[ModelSize, ...]

    @property
    def parameters(self) -> int | None:
        """All of them, or None where one is not known."""
        counts = [m.parameters for m in self.models]
        return None if None in counts else sum(c for c in counts if c)

    def memory_bytes(self, device: str) -> int | None:
        """Bytes of the weights alone on `cpu` or `cuda`."""
        return None if self.parameters is None else self.parameters * BYTES[device]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        memory = {device: self.memory_bytes(device) for device in BYTES}
        return {**asdict(self), "parameters": self.parameters, "weights_bytes": memory}

    def text(self) -> str:
        """A few lines for people."""
        lines = [f"{self.name}: {self.about}"]
        for m in self.models:
            size = "size not known" if m.parameters is None else f"{m.parameters / 1e6:,.0f} M parameters"
            lines.append(f"  {m.part:10} {m.model:42} {size:22} {m.licence}")
        if self.models and self.parameters is not None:
            cpu, gpu = (self.memory_bytes(d) or 0 for d in ("cpu", "cuda"))
            lines.append(
                f"  weights in memory: {cpu / 1e9:.1f} GB on a processor, {gpu / 1e9:.1f} GB on a GPU (bfloat16)"
            )
        lines.append("  nothing is fetched" if not self.models else f"  omni download {self.name}")
        return "\n".join(lines)


@lru_cache
def published(model: str) -> dict[str, Any] | None:
    """What is kept of a model: `class`, `config`, `source`, `licence`, `parameters_stated`; None if nothing is."""
    path = resources.files("omni") / "assets" / "models" / f"{model.replace('/', '--')}.json"
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def licence(spec: PartSpec) -> str:
    """What the preset says of a model's licence, else what was published with it."""
    return spec.licence or (published(spec.model) or {}).get("licence", "see its page")


@lru_cache
def parameters(model: str) -> int | None:
    """Parameters of a published model, codebooks included, shared ones once; None where its configuration is not kept."""
    found = published(model)
    if found is None:
        return None
    cls = getattr(transformers, found["class"])
    try:
        config = cls.config_class(**found["config"])
        with torch.device("meta"):
            made = cls(config)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the configuration kept for {model} does not make a {found['class']}: {error}") from error
    made.tie_weights()
    return sum(p.numel() for p in made.parameters()) + sum(b.numel() for b in made.buffers() if b.ndim > 1)


def of_preset(preset: Preset) -> PresetSize:
    """The sizes of a preset's published models."""
    models = tuple(
        ModelSize(part, s.model, licence(s), parameters(s.model)) for part, s in preset.models() if s.kind != OWN
    )
    return PresetSize(preset.name, preset.about, models)
