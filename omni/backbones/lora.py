"""Low-rank adaptation of a language model (LoRA; Hu et al. 2021, arXiv 2106.09685) by the peft library.

What is written is peft's own layout (`adapter_config.json`, `adapter_model.safetensors`), so that other tools read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from omni.errors import ConfigError, ModelError

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale and dropout of Empathy Omni (arXiv 2508.18655); which linear layers by the ends of their names."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("LoRA needs peft; install it with: pip install 'omni-empathy[presets]'") from error
    return peft


def tuned(model: PreTrainedModel, settings: LoraSettings) -> Any:
    """Put trainable low-rank layers (float32) into a frozen model, in place. Returns peft's view of it, for `save`."""
    peft = _peft()
    chosen = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
        target_modules=list(settings.layers), task_type="CAUSAL_LM",
    )  # fmt: skip
    return peft.get_peft_model(model, chosen)


def save(view: Any, folder: Path) -> None:
    """Write the low-rank layers alone, apart from the model."""
    view.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form for a model card that nobody has filled in


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the low-rank layers of `folder` added to its weights. ModelError if they do not fit or are pickled."""
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"no {WEIGHTS} in {folder}; train it, or name another folder")
    try:
        return _peft().PeftModel.from_pretrained(model, str(folder), is_trainable=False).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise ModelError(f"the low-rank layers in {folder} do not fit this language model ({first})") from error
