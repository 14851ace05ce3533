"""Which implementation a preset's `kind` means, and loading it."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from omni.errors import ConfigError, ModelError, OmniError
from omni.hub import folder_of
from omni.preset import OWN, Preset

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Kind:
    """The part that an implementation can stand for, and its class, whose `load` takes a folder, dtype and device."""

    part: str
    module: str
    name: str

    def implementation(self) -> Any:
        """The class itself; its module is imported now."""
        return getattr(importlib.import_module(self.module), self.name)


KINDS: dict[str, Kind] = {
    "codes": Kind("voice", "omni.backbones.code_voice", "CodeVoice"),
    "empathy-listener": Kind("listener", "omni.backbones.empathy", "EmpathyListener"),
    "empathy-perceiver": Kind("perceiver", "omni.backbones.empathy", "EmpathyPerceiver"),
    "empathy-responder": Kind("responder", "omni.backbones.empathy", "EmpathyResponder"),
    "lpe-listener": Kind("listener", "omni.backbones.lpe", "LpeListener"),
    "lpe-perceiver": Kind("perceiver", "omni.backbones.lpe", "LpePerceiver"),
    "lpe-responder": Kind("responder", "omni.backbones.lpe", "LpeResponder"),
    "whisper": Kind("listener", "omni.backbones.whisper", "WhisperListener"),
    "emotion": Kind("perceiver", "omni.backbones.emotion", "EmotionClassifier"),
    "chat": Kind("responder", "omni.backbones.chat", "ChatResponder"),
    "higgs": Kind("voice", "omni.backbones.higgs", "HiggsVoice"),
    "vits": Kind("voice", "omni.backbones.vits", "VitsVoice"),
}


def check(preset: Preset) -> None:
    """ConfigError unless every part has a kind that can stand for it, and options that this kind takes."""
    for part, spec in preset.parts.items():
        if spec.kind == OWN:
            continue
        fitting = sorted([name for name, kind in KINDS.items() if kind.part == part] + [OWN])
        if spec.kind not in fitting:
            raise ConfigError(f"preset {preset.name}: {part} cannot be {spec.kind!r}; choose from {', '.join(fitting)}")
        allowed = list(inspect.signature(KINDS[spec.kind].implementation().load).parameters)[
            3:
        ]  # after folder, dtype, device
        unknown = sorted(set(spec.options) - set(allowed) | set(spec.also) - set(allowed))
        if unknown:
            known = ", ".join(allowed) or "none"
            raise ConfigError(f"preset {preset.name}: {part} takes no option {unknown[0]!r}; its options are {known}")
    chosen_dtype(preset.dtype, "cpu")


def chosen_device(device: str = "auto") -> str:
    """`auto` is a GPU where there is one. ConfigError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: not on this machine; choose auto or cpu") from error
    return device


def chosen_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r}; choose from auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def load_part(preset: Preset, part: str, device: str = "auto") -> Any:
    """Load one part over its published model. ModelError names preset, part, model, why, and how to fetch it."""
    spec, device = preset.parts[part], chosen_device(device)
    try:
        folder = folder_of(spec.model, spec.revision)
        others = {name: folder_of(model) for name, model in spec.also.items()}
    except ModelError as error:
        raise ModelError(
            f"preset {preset.name}, {part}: {error}; fetch it with: omni download {preset.name}"
        ) from error
    load = KINDS[spec.kind].implementation().load
    disable_progress_bar()  # of reading weights that are here already
    try:
        return load(folder, chosen_dtype(preset.dtype, device), device, **others, **spec.options)
    except OmniError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        raise ModelError(
            f"preset {preset.name}, {part}: {spec.model} in {folder} is no {spec.kind} model that can be read ({why}); "
            f"fetch it again with: omni download {preset.name}, or name another model"
        ) from error
