"""Speech as slots in a language model's prompt: frozen encoders, trained adapters.

Shapes: N samples at 16 kHz, K slots, H language-model width, E emotions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omni.backbones.speech_states import WavlmStates, WhisperStates
from omni.errors import ModelError
from omni.models.stacking import DualAdapter, MultiScaleAdapter, SubSampler
from omni.turns import EMOTIONS

ADAPTERS = "adapters.safetensors"


@dataclass
class Slots:
    """`slots` [1, K, H] for the prompt; logits [1, E] of the emotion where the adapter has a head for it."""

    slots: Tensor
    emotion: Tensor | None = None


class SpeechHearing(nn.Module):
    """What every way of hearing has in common: frozen encoders are left out of files, adapters are all that is trained."""

    #: Names of the frozen encoders among the children.
    FROZEN: tuple[str, ...] = ()

    def forward(self, samples: np.ndarray) -> Slots:
        """A clip [N] as slots. InputError for a clip that the encoders do not take."""
        raise NotImplementedError

    def adapters(self) -> dict[str, nn.Module]:
        """The trained parts by name."""
        return {name: module for name, module in self.named_children() if name not in self.FROZEN}

    def save(self, folder: Path) -> None:
        """Write `adapters.safetensors` in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            f"{name}.{key}": value.half().contiguous()
            for name, module in self.adapters().items()
            for key, value in module.state_dict().items()
        }
        save_file(weights, folder / ADAPTERS)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote. ModelError if it does not fit these encoders and this language model."""
        path = folder / ADAPTERS
        try:
            found = load_file(path)
        except Exception as error:  # safetensors raises its own kinds
            raise ModelError(f"{path} cannot be read ({error}); train the adapters first") from error
        wanted = {f"{n}.{k}" for n, module in self.adapters().items() for k in module.state_dict()}
        if set(found) != wanted:
            raise ModelError(
                f"{path} holds {sorted(set(found) ^ wanted)[:3]} too many or too few; it is of another preset"
            )
        try:
            for name, module in self.adapters().items():
                prefix = f"{name}."
                module.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
        except RuntimeError as error:
            raise ModelError(
                f"{path} does not fit this language model: {str(error).splitlines()[-1].strip()}"
            ) from error


class LpeHearing(SpeechHearing):
    """WavLM alone (LPE, arXiv 2501.10937): its last layer sub-sampled for the words, all its layers for the tone, one slot."""

    FROZEN = ("wavlm",)

    def __init__(self, wavlm: WavlmStates, llm_width: int, inner: int = 512) -> None:
        super().__init__()
        self.wavlm = wavlm
        self.content = SubSampler(wavlm.width, llm_width, inner)
        self.tone = MultiScaleAdapter(wavlm.width, wavlm.layers, llm_width, len(EMOTIONS))

    def forward(self, samples: np.ndarray) -> Slots:
        """See `SpeechHearing`; the slot of the tone comes last."""
        states = self.wavlm(samples).float()
        felt, logits = self.tone(states)
        return Slots(torch.cat([self.content(states[-1]), felt], dim=1), logits)


class DualHearing(SpeechHearing):
    """Whisper for the words and WavLM for the tone, ten slots a second (Empathy Omni, arXiv 2508.18655).

    The paper's tone encoder is emotion2vec; WavLM with a learned sum of its layers stands in for it, since it is published with
    safetensors and transformers reads it.
    """

    FROZEN = ("whisper", "wavlm")

    def __init__(self, whisper: WhisperStates, wavlm: WavlmStates, llm_width: int, inner: int = 2048) -> None:
        super().__init__()
        self.whisper, self.wavlm = whisper, wavlm
        self.adapter = DualAdapter(whisper.width, wavlm.width, wavlm.layers, llm_width, inner)

    def forward(self, samples: np.ndarray) -> Slots:
        """See `SpeechHearing`."""
        return Slots(self.adapter(self.whisper(samples).float(), self.wavlm(samples).float()))
